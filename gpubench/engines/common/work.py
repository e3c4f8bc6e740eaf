"""How much arithmetic and traffic with the memory the operations of an engine take: what a profile divides by the time.

Arithmetic is counted as it is done, a multiplication and an addition as two; of symmetric distances each is computed
once. Traffic is the least there can be: every array that is read or written counts once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gpubench.core.types import Knn
    from gpubench.engines.common.segments import Segments


class Work(NamedTuple):
    """Of one operation: floating-point operations, and bytes read and written."""

    flop: int
    moved_bytes: int


def search(n_queries: int, n: int, d: int, k: int, *, symmetric: bool) -> Work:
    """Comparing queries with all n cells; `symmetric`: the cells with each other, every pair once."""
    pairs = n * (n - 1) // 2 if symmetric else n_queries * n
    rows = n if symmetric else n_queries + n
    return Work(2 * pairs * d, 4 * rows * d + 8 * n_queries * k)


def silhouettes(segments: Segments, d: int) -> Work:
    """Distances of every two cells of a group, and two means for each cell."""
    of_groups = [segments.starts[last] - segments.starts[first] for first, last in segments.group_spans()]
    n = int(segments.starts[-1])
    return Work(sum(int(size) * (int(size) - 1) * d for size in of_groups), 4 * n * d + 16 * n)


def sampled(pieces: Iterable[tuple[int, int]], n: int, d: int) -> Work:
    """Distances of some of the n cells to others; a piece is how many cells are compared with how many."""
    return Work(2 * d * sum(m * others for m, others in pieces), 4 * n * d)


def closed_silhouettes(segments: Segments, d: int) -> Work:
    """Products of every cell with the sum of each cluster of its group, which is cosine distance in a closed form."""
    starts = segments.starts
    products = sum(int(starts[last] - starts[first]) * (last - first) for first, last in segments.group_spans())
    n = int(starts[-1])
    return Work(2 * products * d, 8 * n * d + 16 * n)


def look_up(knn: Knn, value_bytes: int) -> Work:
    """Reading `value_bytes` for each neighbour of each cell, and its index, and writing a float64 for each cell."""
    n, k = knn.indices.shape
    return Work(0, n * k * (4 + value_bytes) + 8 * n)


def assign(n: int, d: int, n_centres: int) -> Work:
    """Comparing n cells with some centres, and writing a code for each cell."""
    return Work(2 * n * d * n_centres, 4 * n * d + 4 * n)


def gradients(n: int, d: int, n_classes: int, n_evaluations: int) -> Work:
    """Evaluating the loss of logistic regression and its gradient: two products over the cells, which are read once."""
    return Work(4 * n * d * n_classes * n_evaluations, 4 * n * d * n_evaluations)


def leaves(sizes: list[int], d: int) -> Work:
    """Comparing every two cells of each leaf."""
    of_leaves = np.asarray(sizes, np.int64)
    return Work(int((of_leaves * (of_leaves - 1)).sum()) * d, 4 * int(of_leaves.sum()) * d)

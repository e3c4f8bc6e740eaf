"""Counted work of the operations: what a plan divides by measured rates, and a profile by measured time.

Arithmetic counts as it is done, a multiplication and an addition as two operations; of symmetric distances each is
computed once. Memory traffic is the least possible: every array that is read or written counts once.
"""

from __future__ import annotations

from collections.abc import Iterable

from gpubench.core.timeline import Work


def put(n: int, d: int, itemsize: int, *, copied: bool) -> Work:
    """Count the check of n rows for finite values, and their copy to float32."""
    return Work(0, n * d * (itemsize + (4 if copied else 0)), n * d)


def search(n_queries: int, n: int, d: int, k: int, *, symmetric: bool) -> Work:
    """Count a comparison of queries with n cells; `symmetric`: of the n cells with each other, each pair once."""
    pairs = n * (n - 1) // 2 if symmetric else n_queries * n
    rows = n if symmetric else n_queries + n
    return Work(2 * pairs * d, 4 * rows * d + 8 * n_queries * k, pairs)


def leaves(sizes: Iterable[int], d: int) -> Work:
    """Count a comparison of every two cells of each leaf."""
    sizes = [int(size) for size in sizes]
    pairs = sum(size * (size - 1) for size in sizes) // 2
    return Work(2 * pairs * d, 4 * sum(sizes) * d, pairs)


def silhouettes(groups: Iterable[tuple[int, int]], d: int) -> Work:
    """Count the distances of every two cells of each group (its cells and clusters), and two means for each cell."""
    sizes = [size for size, _ in groups]
    pairs, n = sum(size * (size - 1) for size in sizes) // 2, sum(sizes)
    return Work(2 * pairs * d, 4 * n * d + 16 * n, pairs)


def sampled(pieces: Iterable[tuple[float, int]], n: int, d: int) -> Work:
    """Count the distances of a sample of n cells; a piece is a number of cells and of those they are compared with."""
    pairs = sum(m * others for m, others in pieces)
    return Work(2 * pairs * d, 4 * n * d, pairs)


def closed_silhouettes(groups: Iterable[tuple[int, int]], d: int) -> Work:
    """Count products of each cell with the sum of each cluster of its group, for cosine distances in a closed form."""
    groups = list(groups)
    pairs, n = sum(size * n_clusters for size, n_clusters in groups), sum(size for size, _ in groups)
    return Work(2 * pairs * d, 8 * n * d + 16 * n, pairs)


def look_up(shape: tuple[int, ...], value_bytes: int) -> Work:
    """Count the reading of index and value of neighbours, `shape` (n, k), and the writing of a float64 per cell."""
    n, k = shape
    return Work(0, n * k * (4 + value_bytes) + 8 * n, n * k)


def rank_sums(n_stored: int, itemsize: int, n_groups: int, n_genes: int) -> Work:
    """Count the ranking of stored values, and the sums of all groups in all genes."""
    return Work(0, n_stored * (itemsize + 4) + 16 * n_groups * n_genes, n_stored)


def assign(n: int, d: int, n_centres: int) -> Work:
    """Count comparing n cells with some centres, and writing a code for each cell."""
    return Work(2 * n * d * n_centres, 4 * n * d + 4 * n, n * n_centres)


def gradients(n: int, d: int, n_classes: int, n_evaluations: int) -> Work:
    """Count evaluations of the loss of logistic regression and its gradient: two products that read the cells once."""
    return Work(4 * n * d * n_classes * n_evaluations, 4 * n * d * n_evaluations, n * n_classes * n_evaluations)

"""Mean cosine distances to clusters on the CPU, in a closed form.

The sum of 1 - u.v over a cluster is its size minus u . (sum of v), so no pair of cells is ever formed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.cpu_parallel import Workers
    from gpubench.engines.segments import Segments


def cosine_means(
    x: NDArray[np.float32],
    segments: Segments,
    own: NDArray[np.float64],
    nearest: NDArray[np.float64],
    workers: Workers,
) -> None:
    """Write a, the mean distance to the own cluster, and b, the smallest to another, in sorted order."""

    def make_worker() -> Callable[[tuple[int, int]], None]:
        return lambda span: _of_group(x, segments, span, own, nearest)

    workers.run(list(segments.of_groups()), make_worker)


def _of_group(
    x: NDArray[np.float32],
    segments: Segments,
    span: tuple[int, int],
    own: NDArray[np.float64],
    nearest: NDArray[np.float64],
) -> None:
    first, last = span
    starts = segments.starts[first : last + 1]
    sizes = np.diff(starts)
    sums = np.stack(
        [
            sum(_unit_rows(x, segments.order[a:b]).sum(axis=0) for a, b in _pieces(start, stop))
            for start, stop in pairwise(starts.tolist())
        ]
    )
    for segment, size in enumerate(sizes):
        for begin, end in _pieces(starts[segment], starts[segment + 1]):
            unit = _unit_rows(x, segments.order[begin:end])
            distance = sizes - unit @ sums.T
            itself = 1.0 - np.einsum("ij,ij->i", unit, unit)  # 0, or 1 for a zero vector
            own[begin:end] = np.maximum(distance[:, segment] - itself, 0.0) / max(size - 1, 1)
            distance /= sizes
            distance[:, segment] = np.inf
            nearest[begin:end] = np.maximum(distance.min(axis=1), 0.0)


def _pieces(start: int, stop: int, rows: int = 4096) -> Iterator[tuple[int, int]]:
    for begin in range(int(start), int(stop), rows):
        yield begin, min(begin + rows, int(stop))


def _unit_rows(x: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    block: NDArray[np.float64] = x[rows].astype(np.float64)
    norms = np.linalg.norm(block, axis=1, keepdims=True)
    np.divide(block, norms, out=block, where=norms > 0)
    return block

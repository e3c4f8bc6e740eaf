"""Exact nearest neighbours on the CPU: float32 tiles propose, float64 distances decide, and every row is checked.

Squared distances of a block of cells to all others come from matrix products, and each row keeps its best few more than
k. Exact distances of those candidates give the order. Rounding in the tiles is bounded, so for each row it is known
whether a cell that was not a candidate could still be nearer; the few rows where it could are searched again in
float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.types import Knn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.cpu_parallel import Workers

BLOCK_ROWS = 256
BLOCK_COLUMNS = 2048


def knn_between(queries: NDArray[np.float32], x: NDArray[np.float32], k: int, workers: Workers) -> Knn:
    """Exact neighbours of each query; where `queries` is `x` itself, a cell is not its own neighbour."""
    m, n = len(queries), len(x)
    same_cells = queries is x
    indices = np.empty((m, k), np.int32)
    distances = np.empty((m, k), np.float32)
    uncertain = np.zeros(m, np.bool_)
    operands = _Operands(queries, x)
    n_candidates = min(k + max(8, k // 6), n - 1 if same_cells else n)

    def make_worker() -> Callable[[int], None]:
        return _BlockWorker(operands, n_candidates, indices, distances, uncertain)

    workers.run(range(0, m, BLOCK_ROWS), make_worker)
    search_rows(queries, x, np.flatnonzero(uncertain), indices, distances, workers)
    return Knn(indices, distances)


def search_rows(
    queries: NDArray[np.float32],
    x: NDArray[np.float32],
    rows: NDArray[np.int64],
    indices: NDArray[np.int32],
    distances: NDArray[np.float32],
    workers: Workers,
) -> None:
    """Search some rows again by comparing them with every cell in float64; their results are overwritten."""
    from gpubench.engines import cpu_kernels

    same_cells = queries is x

    def make_worker() -> Callable[[NDArray[np.int64]], None]:
        return lambda part: cpu_kernels.search_exactly(queries, x, part, same_cells, indices, distances)

    workers.run([rows[i : i + 16] for i in range(0, len(rows), 16)], make_worker)


class _Operands:
    """Both sides of the tiles: centred, scaled, and widened so that one matrix product gives squared distances.

    Attributes
    ----------
    queries, x : as given
    left, right : (m, d + 2) and (n, d + 2) float32; left . right = |q|^2 + |x|^2 - 2 q.x
    slack : (m,) how much a tile's squared distance may differ from the exact one, in units of the tile
    scale : multiplies differences of cells into units of the tile
    """

    def __init__(self, queries: NDArray[np.float32], x: NDArray[np.float32]) -> None:
        self.queries, self.x = queries, x
        center = x.mean(axis=0, dtype=np.float64).astype(np.float32)
        extent = max(float(np.abs(part - center).max()) for part in ((x,) if queries is x else (x, queries)))
        # a power of two rounds nothing, and squares of values up to 1 cannot overflow
        self.scale = 2.0 ** -np.ceil(np.log2(extent)) if extent > 0 else 1.0
        centred = (x - center) * np.float32(self.scale)
        squares = np.einsum("ij,ij->i", centred, centred)
        ones = np.ones_like(squares)
        self.left = np.column_stack([centred, squares, ones])
        self.right = self.left.copy()
        d = x.shape[1]
        self.right[:, :d] *= -2
        self.right[:, d], self.right[:, d + 1] = ones, squares
        if queries is not x:
            centred = (queries - center) * np.float32(self.scale)
            squares_q = np.einsum("ij,ij->i", centred, centred)
            self.left = np.column_stack([centred, squares_q, np.ones_like(squares_q)])
        # gamma_K of a sum of K products, for the product itself, the norms, and the rounding of the centred rows
        unit = np.finfo(np.float32).eps / 2
        self.slack = 3.0 * (d + 8) * unit * (np.sqrt(self.left[:, d].astype(np.float64)) + np.sqrt(squares.max())) ** 2


class _BlockWorker:
    """Finds the neighbours of one block of queries, in buffers of its own."""

    def __init__(
        self,
        operands: _Operands,
        n_candidates: int,
        indices: NDArray[np.int32],
        distances: NDArray[np.float32],
        uncertain: NDArray[np.bool_],
    ) -> None:
        self._operands = operands
        self._keep = n_candidates
        self._same_cells = operands.queries is operands.x
        self._out = indices, distances, uncertain
        self._tile = np.empty((BLOCK_ROWS, BLOCK_COLUMNS), np.float32)
        capacity = n_candidates + max(n_candidates, 64)
        self._keys = np.empty((BLOCK_ROWS, capacity), np.float32)
        self._ids = np.empty((BLOCK_ROWS, capacity), np.int32)
        self._squared = np.empty((BLOCK_ROWS, n_candidates))

    def __call__(self, start: int) -> None:
        from gpubench.engines import cpu_kernels

        operands, keep = self._operands, self._keep
        left = operands.left[start : start + BLOCK_ROWS]
        m = len(left)
        keys, ids = self._keys[:m], self._ids[:m]
        counts, worst = np.zeros(m, np.int64), np.full(m, np.inf, np.float32)
        for first in range(0, len(operands.right), BLOCK_COLUMNS):
            right = operands.right[first : first + BLOCK_COLUMNS]
            tile = np.matmul(left, right.T, out=self._tile[:m, : len(right)])
            first_row = start if self._same_cells else -1
            cpu_kernels.topk_update(tile, first, first_row, keep, keys, ids, counts, worst)
        rows = slice(start, start + m)
        unseen_slack = operands.slack[rows] if keep < len(operands.right) - self._same_cells else None
        out = tuple(part[rows] for part in self._out)
        rerank(operands, rows, keep, (keys, ids, counts, worst), unseen_slack, self._squared[:m], out)


def rerank(
    operands: _Operands,
    rows: slice,
    keep: int,
    candidates: tuple[NDArray[Any], ...],
    slack: NDArray[np.float64] | None,
    squared: NDArray[np.float64],
    out: tuple[NDArray[Any], ...],
) -> None:
    """Order the candidates of some queries by exact distance, and mark the rows where a nearer cell may be missing.

    Parameters
    ----------
    rows : which queries
    keep, candidates : (keys, ids, counts, worst) as `topk_update` leaves them
    slack : how far a key can be from the exact squared distance; None where every cell is a candidate
    squared : (m, keep) float64, a buffer
    out : indices, distances and uncertain of these rows, written
    """
    from gpubench.engines import cpu_kernels

    keys, ids, counts, worst = candidates
    cpu_kernels.candidate_distances(operands.queries[rows], operands.x, keep, keys, ids, counts, worst, squared)
    unseen = np.full(len(squared), np.inf) if slack is None else (worst - slack) / operands.scale**2
    cpu_kernels.take_nearest(squared, np.argsort(squared, axis=1), ids, unseen, *out)

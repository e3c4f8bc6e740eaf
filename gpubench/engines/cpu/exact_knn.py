"""Exact nearest neighbours on the CPU: candidates from float32 tiles, ordered by float64 distances and verified.

Squared distances of a block of cells to all others come from matrix products, and each row keeps a few more than k
candidates. Their exact distances give the order. Rounding errors of the tiles are bounded, so it is known for which
rows a cell that is no candidate could be nearer. These few rows are searched again with float64 tiles, and rows that
still tie at the last neighbour are compared with every cell.

The float32 tiles are those of `top_k` if they are compiled, else matrix products of NumPy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpubench.core.types import Knn
from gpubench.engines.common import flop_counts
from gpubench.engines.common.knn_search import Floats, Neighbors, Rounding, Scaling
from gpubench.engines.cpu import top_k
from gpubench.engines.cpu.kernels import Candidates, exact_distances, search_exactly

if TYPE_CHECKING:
    from gpubench.core.types import F32, F64, I64
    from gpubench.engines.cpu.compiled import Tiles
    from gpubench.engines.cpu.threads import WorkerThreads

BLOCK_ROWS = 256
BLOCK_COLUMNS = 2048


@dataclass(frozen=True, slots=True)
class ExactSearch:
    """Search for exact nearest neighbours, with the threads, compiled functions and memory that it may use."""

    workers: WorkerThreads
    tiles: Tiles | None  # the compiled tiles; None: products of NumPy
    memory_bytes: int  # free memory, a share of which candidates may take

    def knn_between(self, queries: F32, x: F32, k: int) -> Knn:
        """Find the k nearest cells in x to each query; if `queries` is `x` itself, a cell is not its own neighbour."""
        own = np.arange(len(x)) if queries is x else None
        out = Neighbors.empty(len(queries), k)
        symmetric = queries is x and self.tiles is not None
        self.workers.timeline.count(flop_counts.search(len(queries), len(x), x.shape[1], k, symmetric=symmetric))
        if self.tiles is None:
            operands = _Operands(queries, x, own, np.float32, self.workers.tuning.operand_bytes)
            _search(operands, out, np.arange(len(queries)), self.workers)
        else:
            top_k.search(self.tiles, queries, x, out, self.workers, self.memory_bytes)
        search_rows(queries, x, own, np.flatnonzero(out.uncertain), out, self.workers)
        return Knn(out.indices, out.distances)


def search_rows(queries: F32, x: F32, own: I64 | None, rows: I64, out: Neighbors, workers: WorkerThreads) -> None:
    """Search the queries `rows` again in float64 and overwrite their results in `out`.

    If queries are cells of x, `own` has the index of each query in x, so that it is not its own neighbour.
    """
    if not len(rows):
        return
    own_rows = None if own is None else own[rows]
    operands = _Operands(queries[rows], x, own_rows, np.float64, workers.tuning.operand_bytes)
    _search(operands, out, rows, workers)
    tied = rows[out.uncertain[rows]]

    def search(row: int) -> None:
        own_cell = -1 if own is None else int(own[row])
        out.indices[row], out.distances[row] = search_exactly(queries[row], x, own_cell, out.indices.shape[1])
        out.uncertain[row] = False

    workers.run(tied.tolist(), lambda: search)


class _Operands:
    """Queries and cells as operands of tiles: centred, scaled and widened so that products are squared distances."""

    def __init__(self, queries: F32, x: F32, own: I64 | None, dtype: type, max_bytes: int) -> None:
        self.queries, self.x = queries, x
        # the cell at each position of the right side, in random order, so that any tile is a sample
        self.order = np.random.default_rng(len(x)).permutation(len(x))
        self.own = None  # (m,) the position of each query's own cell on the right side
        if own is not None:
            position = np.empty_like(self.order)
            position[self.order] = np.arange(len(x))
            self.own = position[own]
        self._scaling, self._dtype = Scaling(x, queries), dtype
        self.left = _widen(queries, self._scaling, dtype)  # left . right = |q|^2 + |x|^2 - 2 q.x
        d = x.shape[1]
        firsts = range(0, len(x), BLOCK_COLUMNS)
        self._kept: list[Floats] = []
        if len(x) * (d + 2) * self.left.itemsize <= max_bytes:
            self._kept = [self._widened(first) for first in firsts]
        largest = max(float(self.right(first)[:, d + 1].max()) for first in firsts)
        self.rounding = Rounding.of(self.left[:, d], largest, d, self._scaling.scale)

    def right(self, first: int) -> Floats:
        """Return the right operand (columns, d + 2) of the tile whose first column is `first`."""
        return self._kept[first // BLOCK_COLUMNS] if self._kept else self._widened(first)

    def _widened(self, first: int) -> Floats:
        d = self.x.shape[1]
        right = _widen(self.x[self.order[first : first + BLOCK_COLUMNS]], self._scaling, self._dtype)
        right[:, :d] *= -2
        right[:, [d, d + 1]] = right[:, [d + 1, d]]
        return right


def _widen(x: F32, scaling: Scaling, dtype: type) -> Floats:
    """Return centred and scaled rows with two more columns, their squared norms and ones: (n, d + 2)."""
    d = x.shape[1]
    wide = np.empty((len(x), d + 2), dtype)
    scaling.rows(x, dtype, out=wide[:, :d])
    np.einsum("ij,ij->i", wide[:, :d], wide[:, :d], out=wide[:, d])
    wide[:, d + 1] = 1
    return wide


def _search(operands: _Operands, out: Neighbors, rows: I64, workers: WorkerThreads) -> None:
    """Find the neighbours of every query; write the neighbours of query i to row `rows[i]` of `out`."""
    others = len(operands.x) - (operands.own is not None)
    k = out.indices.shape[1]
    keep = min(k + max(8, k // 6), others)

    def make_worker() -> Callable[[int], None]:
        tile = np.empty((BLOCK_ROWS, BLOCK_COLUMNS), operands.left.dtype)
        return lambda start: _search_block(operands, slice(start, start + BLOCK_ROWS), keep, tile, out, rows)

    workers.run(range(0, len(rows), BLOCK_ROWS), make_worker)


def _search_block(operands: _Operands, block: slice, keep: int, buffer: Floats, out: Neighbors, rows: I64) -> None:
    left = operands.left[block]
    own = None if operands.own is None else operands.own[block]
    candidates = Candidates(len(left), keep, len(operands.x), buffer.dtype)
    for first in range(0, len(operands.x), BLOCK_COLUMNS):
        right = operands.right(first)
        tile = buffer.ravel()[: len(left) * len(right)].reshape(len(left), len(right))
        np.matmul(left, right.T, out=tile)
        if own is not None:
            inside = np.flatnonzero((own >= first) & (own < first + len(right)))
            tile[inside, own[inside] - first] = np.inf
        candidates.topk_update(tile, first)
    limits, positions = candidates.finish()
    ids = np.where(positions < 0, -1, operands.order[positions])
    all_seen = keep == len(operands.x) - (own is not None)
    rounding = operands.rounding.select(block)
    bounds = None if all_seen else lambda kth: rounding.lower_bounds(limits, kth)
    rerank(operands.queries[block], operands.x, ids, bounds, out, rows[block])


def rerank(
    queries: F32, x: F32, ids: I64, lower_bounds: Callable[[F64], F64] | None, out: Neighbors, rows: I64
) -> None:
    """Write the nearest candidates of m queries to `rows` of `out` by (exact distance, id); mark uncertain queries.

    `ids` (m, c) has the candidates, padded with -1. A query is uncertain if a cell that is no candidate may be nearer.
    `lower_bounds` returns lower bounds of the squared distances to such cells, given the squared distances of the k-th
    candidates. If None, no query is uncertain.
    """
    k = out.indices.shape[1]
    squared = exact_distances(queries, x, ids)
    order = np.argsort(squared, axis=1)
    ordered = np.take_along_axis(squared, order, axis=1)
    ties = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))
    if len(ties):
        order[ties] = np.lexsort((ids[ties], squared[ties]), axis=1)
    out.indices[rows] = np.take_along_axis(ids, order[:, :k], axis=1)
    out.distances[rows] = np.sqrt(ordered[:, :k])
    kth = ordered[:, k - 1]
    certain = kth < np.inf
    if lower_bounds is not None:
        certain &= kth < lower_bounds(kth)
    out.uncertain[rows] = ~certain

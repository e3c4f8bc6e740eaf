"""Exact nearest neighbours on the CPU: float32 tiles propose, float64 distances decide, and every row is checked.

Squared distances of a block of cells to all others come from products, and each row keeps its best few more than k.
Exact distances of those candidates give the order. Rounding in the tiles is bounded, so for each row it is known
whether a cell that was not a candidate could still be nearer. The few rows where it could are searched again with
float64 tiles, and those that still tie at the last neighbour are compared with every cell.

The float32 tiles are those of `cpu_topk` where they are compiled, else matrix products of NumPy.
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
    from numpy.typing import NDArray

    from gpubench.engines.cpu.compiled import Tiles
    from gpubench.engines.cpu.threads import WorkerThreads

BLOCK_ROWS = 256
BLOCK_COLUMNS = 2048

KEPT_BYTES = 1 << 28
"""The right side of all tiles is kept where it takes no more; else a tile's is made for each block of queries, which
costs little beside its product."""


@dataclass(frozen=True, slots=True)
class ExactSearch:
    """Finds exact neighbours.

    Attributes
    ----------
    tiles : the compiled tiles; None: NumPy's products
    memory_bytes : a part of it may be taken for candidates
    """

    workers: WorkerThreads
    tiles: Tiles | None
    memory_bytes: int

    def knn_between(self, queries: NDArray[np.float32], x: NDArray[np.float32], k: int) -> Knn:
        """Find the neighbours of each query; where `queries` is `x` itself, a cell is not its own neighbour."""
        own = np.arange(len(x)) if queries is x else None
        out = Neighbors.empty(len(queries), k)
        symmetric = queries is x and self.tiles is not None
        self.workers.count(flop_counts.search(len(queries), len(x), x.shape[1], k, symmetric=symmetric))
        if self.tiles is None:
            _search(_Operands(queries, x, own, np.float32), out, np.arange(len(queries)), self.workers)
        else:
            top_k.search(self.tiles, queries, x, out, self.workers, self.memory_bytes)
        search_rows(queries, x, own, np.flatnonzero(out.uncertain), out, self.workers)
        return Knn(out.indices, out.distances)


def search_rows(
    queries: NDArray[np.float32],
    x: NDArray[np.float32],
    own: NDArray[np.int64] | None,
    rows: NDArray[np.int64],
    out: Neighbors,
    workers: WorkerThreads,
) -> None:
    """Search some rows again with all the digits there are; their results are overwritten.

    Parameters
    ----------
    own : the cell that each query is and that is not its own neighbour; None: none
    """
    if not len(rows):
        return
    operands = _Operands(queries[rows], x, None if own is None else own[rows], np.float64)
    _search(operands, out, rows, workers)
    tied = rows[out.uncertain[rows]]

    def search(row: int) -> None:
        own_cell = -1 if own is None else int(own[row])
        out.indices[row], out.distances[row] = search_exactly(queries[row], x, own_cell, out.indices.shape[1])
        out.uncertain[row] = False

    workers.run(tied.tolist(), lambda: search)


class _Operands:
    """Both sides of the tiles: centred, scaled, and widened so that one matrix product gives squared distances.

    Attributes
    ----------
    queries, x : as given
    order : (n,) the cell at each position of the right side: all of them in random order, so that any tile is a sample
    own : (m,) the position of each query's own cell on the right side, or None
    left : (m, d + 2); left . right = |q|^2 + |x|^2 - 2 q.x
    rounding : how far a tile's squared distances may be from the exact ones
    """

    def __init__(
        self, queries: NDArray[np.float32], x: NDArray[np.float32], own: NDArray[np.int64] | None, dtype: type
    ) -> None:
        self.queries, self.x = queries, x
        self.order = np.random.default_rng(len(x)).permutation(len(x))
        self.own = None
        if own is not None:
            position = np.empty_like(self.order)
            position[self.order] = np.arange(len(x))
            self.own = position[own]
        self._scaling, self._dtype = Scaling(x, queries), dtype
        self.left = _widen(queries, self._scaling, dtype)
        d = x.shape[1]
        firsts = range(0, len(x), BLOCK_COLUMNS)
        self._kept: list[Floats] = []
        if len(x) * (d + 2) * self.left.itemsize <= KEPT_BYTES:
            self._kept = [self._widened(first) for first in firsts]
        largest = max(float(self.right(first)[:, d + 1].max()) for first in firsts)
        self.rounding = Rounding.of(self.left[:, d], largest, d, self._scaling.scale)

    def right(self, first: int) -> Floats:
        """(columns, d + 2): the right side of the tile that begins at this position."""
        return self._kept[first // BLOCK_COLUMNS] if self._kept else self._widened(first)

    def _widened(self, first: int) -> Floats:
        d = self.x.shape[1]
        right = _widen(self.x[self.order[first : first + BLOCK_COLUMNS]], self._scaling, self._dtype)
        right[:, :d] *= -2
        right[:, [d, d + 1]] = right[:, [d + 1, d]]
        return right


def _widen(x: NDArray[np.float32], scaling: Scaling, dtype: type) -> Floats:
    """(n, d + 2): the centred and scaled rows, their squared norms, and ones."""
    d = x.shape[1]
    wide = np.empty((len(x), d + 2), dtype)
    scaling.rows(x, dtype, out=wide[:, :d])
    np.einsum("ij,ij->i", wide[:, :d], wide[:, :d], out=wide[:, d])
    wide[:, d + 1] = 1
    return wide


def _search(operands: _Operands, out: Neighbors, rows: NDArray[np.int64], workers: WorkerThreads) -> None:
    """Find the neighbours of every query; query i is row `rows[i]` of `out`."""
    others = len(operands.x) - (operands.own is not None)
    k = out.indices.shape[1]
    keep = min(k + max(8, k // 6), others)

    def make_worker() -> Callable[[int], None]:
        tile = np.empty((BLOCK_ROWS, BLOCK_COLUMNS), operands.left.dtype)
        return lambda start: _search_block(operands, slice(start, start + BLOCK_ROWS), keep, tile, out, rows)

    workers.run(range(0, len(rows), BLOCK_ROWS), make_worker)


def _search_block(
    operands: _Operands, block: slice, keep: int, buffer: Floats, out: Neighbors, rows: NDArray[np.int64]
) -> None:
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
    rounding = operands.rounding.of_rows(block)
    unseen = None if all_seen else lambda kth: rounding.unseen(limits, kth)
    rerank(operands.queries[block], operands.x, ids, unseen, out, rows[block])


def rerank(
    queries: NDArray[np.float32],
    x: NDArray[np.float32],
    ids: NDArray[np.int64],
    unseen: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None,
    out: Neighbors,
    rows: NDArray[np.int64],
) -> None:
    """Order candidates by (exact distance, id), keep the nearest, and mark the rows where a nearer cell may be missing.

    Parameters
    ----------
    queries, x : (m, d) and (n, d) float32, as the user gave them
    ids : (m, c) candidates, -1 where there is none
    unseen : bounds from below, given the k-th squared distances, how far (squared) cells are that are no candidates;
        None: there are none that matter
    out : written in `rows`
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
    if unseen is not None:
        certain &= kth < unseen(kth)
    out.uncertain[rows] = ~certain

"""Exact nearest neighbours with compiled functions that compare each pair of cells once, as a candidate for both.

Cells are ordered so that close cells follow one another, and cut into blocks. Each block is first compared with itself,
which limits how far the neighbours of its cells can be, and then with later blocks, few of whose cells are near enough
to become candidates. Finally the candidates are ordered by exact distance.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.engines.common.knn_search import Neighbors, Rounding, Scaling, locality_order

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.core.types import F32, F64, I32, I64, Bools
    from gpubench.engines.cpu.compiled import Tiles
    from gpubench.engines.cpu.threads import WorkerThreads


class CandidateStore:
    """Candidate neighbours of each row, in arrays that the compiled functions write to."""

    def __init__(self, tiles: Tiles, part: range, k: int, n_others: int) -> None:
        self.first = part.start
        self.keep, self.space = self.sizes(k, n_others)
        limits = np.full(len(part) + tiles.columns, -1, np.float32)  # rows after the last accept no candidates
        limits[: len(part)] = np.inf
        # candidates, their counts, and limits
        self.arrays = np.empty((len(part), self.space), np.uint64), np.zeros(len(part), np.int32), limits
        self.locks = np.zeros(len(part), np.uint8)

    @staticmethod
    def sizes(k: int, n_others: int) -> tuple[int, int]:
        """Return how many of a row's candidates are kept, and how many it can hold before it is reduced to these."""
        keep = min(k + max(4, k // 16), n_others)
        return keep, keep + max(16, keep // 4)

    def candidates(self, rows: slice) -> tuple[I32, I64]:
        """Return two arrays: the number of candidates of each row, and the indices of these cells, row after row."""
        candidates, counts = self.arrays[0][rows], self.arrays[1][rows]
        filled = np.arange(self.space) < counts[:, None]
        return counts, (candidates[filled] & np.uint64(0xFFFFFFFF)).astype(np.int64)

    def replace(self, row: int, positions: I64) -> None:
        """Replace the candidate neighbours of a row, once it was compared with all cells, by those at `positions`."""
        self.arrays[0][row, : len(positions)] = positions
        self.arrays[1][row] = len(positions)

    @classmethod
    def bytes_per_row(cls, k: int, n_others: int) -> int:
        """Return the memory in bytes of the candidates of one row."""
        return 8 * cls.sizes(k, n_others)[1] + 9


BLOCK = 960
"""Cells of a block, a multiple of the columns that any processor packs together; their rows stay in a core's cache."""

LEAF = 240
"""Close cells of a block that are compared first, so that few of the others become candidates."""

WIDE = 2048
"""Number of dimensions from which blocks are leaves: the rows of a larger block would not fit the caches."""

SEED = 0  # of the order, on which no result depends

Call = tuple[range, range, bool]  # rows, columns, whether rows are also offered to the columns


def search(
    tiles: Tiles,
    queries: F32,
    x: F32,
    out: Neighbors,
    workers: WorkerThreads,
    memory_bytes: int,
    order: I64 | None = None,
) -> None:
    """Find the nearest cells in x to every query; if `queries` is `x` itself, a cell is not its own neighbour."""
    sides = _Sides(tiles, queries, x, workers, order)
    k = out.indices.shape[1]
    row_bytes = CandidateStore.bytes_per_row(k, sides.n_others)
    rows_per_pass = max(1, int(workers.tuning.candidate_share * memory_bytes) // row_bytes // BLOCK) * BLOCK
    for first in range(0, len(queries), rows_per_pass):
        part = range(first, min(first + rows_per_pass, len(queries)))
        _search_part(sides, part, CandidateStore(tiles, part, k, sides.n_others), out, workers)


def search_pair(
    tiles: Tiles, x: F32, sides: tuple[I64, I64], farthest: F32, k: int, workers: WorkerThreads, scaling: Scaling
) -> tuple[CandidateStore, I64]:
    """Find for each cell of two disjoint sets, the sides, its nearest cells on the other side within a distance.

    Parameters
    ----------
    sides : indices in x of the cells of both sides, each in the order of `locality_order`
    farthest : largest distance of a neighbour of each cell, for all cells of the first side, then of the second

    Returns
    -------
    store : candidates of each cell as positions in the concatenated sides: all cells within the distance, or, if there
        are many, the nearest k and a few more
    uncertain : positions of the cells for which a nearer cell may be missing from the candidates
    """
    order = np.concatenate(sides)
    both = _Sides(tiles, x, x, workers, order, scaling)
    m, n_first = len(order), len(sides[0])
    store = CandidateStore(tiles, range(m), k, both.n_others)
    limits = both.limits(farthest)
    store.arrays[2][:m] = limits
    size = _block(both.d)
    step = max(1, workers.tuning.products_per_call // (size * size * both.d)) * size
    assert n_first % tiles.columns == 0, "columns are packed in panels, and the other side begins with one"
    calls = [(part, where, True) for where in _cut(range(n_first, m), step) for part in _cut(range(n_first), size)]
    workers.run(calls, lambda: lambda call: both.offer(store, call))
    # a cell that could hold all candidates has missed none
    crowded = np.flatnonzero(store.arrays[2][:m] != limits)
    return store, crowded[both.may_have_missed(store, crowded, k)]


def exact_squared(tiles: Tiles, queries: F32, x: F32, rows: NDArray[Any], cells: NDArray[Any]) -> F64:
    """Compute squared distances of queries `rows[i]` to cells `cells[i]`, (m,), with the same bits as in `search`."""
    squared = np.empty(len(rows))
    tiles.exact_squared(queries, x, x.shape[1], rows.astype(np.int64), cells.astype(np.int64), len(rows), squared)
    return squared


def order_exactly(tiles: Tiles, queries: F32, x: F32, ids: I32, out: Neighbors) -> None:
    """Write the nearest candidates of each query to `out`, by (exact distance, id); `ids` (m, c) is padded with -1."""
    m, c = ids.shape
    no_norms = np.zeros(m)
    tiles.topk_finish(
        *(queries, x, x.shape[1], np.arange(m), ids.ravel().astype(np.int64), m, c, c),
        *(np.arange(m * c, dtype=np.uint64), (ids >= 0).sum(axis=1, dtype=np.int32), np.zeros(m, np.float32)),
        *(no_norms, 0.0, 0.0, 1.0, True, False, out.indices.shape[1], out.indices, out.distances, out.uncertain),
    )


def _search_part(
    sides: _Sides, part: range, candidates: CandidateStore, out: Neighbors, workers: WorkerThreads
) -> None:
    if sides.same:
        workers.run(_cut(part, LEAF), lambda: lambda rows: sides.start(candidates, rows))
    products = workers.tuning.products_per_call
    for calls in _calls(part, sides.n_columns, sides.d, products, symmetric=sides.same):
        workers.run(calls, lambda: lambda call: sides.offer(candidates, call))
    workers.run(_cut(part, _block(sides.d)), lambda: lambda rows: sides.finish(candidates, rows, out))


def _calls(part: range, n: int, d: int, products: int, *, symmetric: bool) -> Iterator[list[Call]]:
    """Yield lists of calls that compare the rows of `part` with all n columns; run each list before the next.

    If `symmetric`, rows and columns are the same cells, and leaves must have been compared with themselves before.
    """
    size = _block(d)
    step = max(1, products // (size * size * d)) * size

    def with_columns(rows: range, start: int, stop: int, *, both: bool) -> list[Call]:
        return [(rows, range(first, min(first + step, stop)), both) for first in range(start, stop, step)]

    blocks = _cut(part, size)
    if not symmetric:
        yield [call for rows in blocks for call in with_columns(rows, 0, n, both=False)]
        return
    yield [
        (leaf, range(leaf.stop, block.stop), True)
        for block in blocks
        for leaf in _cut(block, LEAF)
        if leaf.stop < block.stop
    ]
    yield [
        call
        for rows in blocks
        for call in (
            *with_columns(rows, rows.stop, part.stop, both=True),
            *with_columns(rows, part.stop, n, both=False),
            *with_columns(rows, 0, part.start, both=False),
        )
    ]


def _block(d: int) -> int:
    return BLOCK if d < WIDE else LEAF


def _cut(rows: range, size: int) -> list[range]:
    return [range(start, min(start + size, rows.stop)) for start in range(rows.start, rows.stop, size)]


class _Sides:
    """Queries (rows) and cells (columns) of a search, in the form that the compiled functions take."""

    def __init__(
        self,
        tiles: Tiles,
        queries: F32,
        x: F32,
        workers: WorkerThreads,
        order: I64 | None = None,
        scaling: Scaling | None = None,
    ) -> None:
        """Prepare rows and columns; `order` has the cells to compare with each other. If None, see `locality_order`."""
        self._tiles, self._queries, self._x = tiles, queries, x
        self.same = queries is x  # whether the queries are the cells themselves
        self.d = x.shape[1]
        self._scaling = scaling or Scaling(x, queries)
        if self.same:
            self._column_ids = self._row_ids = locality_order(x, self._scaling, LEAF, SEED) if order is None else order
        else:
            # in a random order a row rarely finds a nearer cell than before
            self._column_ids, self._row_ids = np.random.default_rng(SEED).permutation(len(x)), np.arange(len(queries))
        self.n_columns = len(self._column_ids)
        self.n_others = self.n_columns - self.same  # cells that can be neighbours of a query
        padded = -(-self.n_columns // tiles.columns) * tiles.columns
        self._panels = np.empty(padded * self.d, np.float32)
        self._squares = np.full(padded, np.inf, np.float32)
        workers.run(_cut(range(self.n_columns), _block(self.d)), lambda: self._pack)
        self._largest = float(self._squares[: self.n_columns].max())

    def start(self, to: CandidateStore, where: range) -> None:
        """Compare the cells of a leaf, the rows `where`, with each other; they must not have candidates yet."""
        rows, squares = self._rows(where)
        self._tiles.topk_start(
            *(rows, squares, where.start, len(rows), self._panels, self._squares, self.d),
            *(to.keep, to.space, *to.arrays, to.first),
        )

    def offer(self, to: CandidateStore, call: Call) -> None:
        """Compare the rows of a call with its columns and add candidates to the store `to`."""
        where, columns, both = call
        rows, squares = self._rows(where)
        self._tiles.topk_tiles(
            *(rows, squares, where.start, len(rows), self._panels, self._squares, columns.start, columns.stop),
            *(self.d, self.same, both, to.keep, to.space, *to.arrays, to.locks, to.first),
        )

    def limits(self, farthest: F32) -> F32:
        """Return limits of rounded squared distances such that no cell within `farthest` of its row is missed."""
        rounding = Rounding.of(self._squares[: self.n_columns], self._largest, self.d, self._scaling.scale)
        limits = rounding.upper_bounds(np.nextafter(farthest, np.float32(np.inf)).astype(np.float64))
        return np.nextafter(limits.astype(np.float32), np.float32(np.inf))

    def finish(self, candidates: CandidateStore, where: range, out: Neighbors) -> None:
        """Order the candidates of the rows `where` by exact distance and write the nearest to `out`."""
        rows, squares = self._rows(where)
        block = slice(where.start - candidates.first, where.stop - candidates.first)
        rounding = Rounding.of(squares, self._largest, rows.shape[1], self._scaling.scale)
        self._tiles.topk_finish(
            *(self._queries, self._x, rows.shape[1], self._row_ids[where.start : where.stop], self._column_ids),
            *(len(rows), candidates.keep, candidates.space, *(array[block] for array in candidates.arrays)),
            *(rounding.norms, rounding.largest, rounding.factor, rounding.scale),
            *(candidates.keep == self.n_others, False, out.indices.shape[1], out.indices, out.distances, out.uncertain),
        )

    def may_have_missed(self, candidates: CandidateStore, positions: I64, k: int) -> Bools:
        """Return for cells at these positions whether one of their k nearest cells may be missing among candidates."""
        queries = self._x[self._row_ids[positions]]
        rows = self._scaling.rows(queries)
        rounding = Rounding.of(np.einsum("ij,ij->i", rows, rows), self._largest, self.d, self._scaling.scale)
        out = Neighbors.empty(len(queries), k)
        self._tiles.topk_finish(
            *(queries, self._x, self.d, np.arange(len(queries)), self._column_ids, len(queries)),
            *(candidates.keep, candidates.space, *(array[positions] for array in candidates.arrays)),
            *(rounding.norms, rounding.largest, rounding.factor, rounding.scale, False, False),
            *(k, out.indices, out.distances, out.uncertain),
        )
        return out.uncertain

    def _rows(self, where: range) -> tuple[Any, Any]:
        rows = self._scaling.rows(self._queries[self._row_ids[where.start : where.stop]])
        return rows, np.einsum("ij,ij->i", rows, rows)

    def _pack(self, where: range) -> None:
        start = where.start
        rows = self._scaling.rows(self._x[self._column_ids[start : where.stop]])
        np.einsum("ij,ij->i", rows, rows, out=self._squares[start : where.stop])
        d = rows.shape[1]
        width = -(-len(rows) // self._tiles.columns) * self._tiles.columns
        self._tiles.pack_columns(rows, len(rows), d, self._panels[start * d : (start + width) * d])

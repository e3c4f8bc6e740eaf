"""Exact nearest neighbours on the GPU: candidates from tiles of products, ordered by float64 distances and verified.

As on the CPU, matrix products give approximate squared distances between queries and cells. Each query keeps somewhat
more than k candidates, which are ordered by exact distance. A bound of the rounding errors shows for which queries a
cell that is no candidate could be nearer; these are uncertain. With precision "fast" the first products are computed in
TF32, and uncertain queries are searched again with accurate products. Queries that are still uncertain are compared
with every cell in float64. So neighbours are exact with either precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from gpubench.core.errors import InputError
from gpubench.core.types import Array, Knn
from gpubench.engines import planner
from gpubench.engines.common import flop_counts
from gpubench.engines.common.knn_search import REACH_MARGIN, Neighbors, draw_sample, measure_recall
from gpubench.engines.cuda.arithmetic import TF32, Arithmetic, cascade
from gpubench.engines.cuda.kernels import MAX_SHARED_BYTES
from gpubench.engines.cuda.signatures import KERNELS, MAX_TOGETHER, NO_CANDIDATE, WARP
from gpubench.engines.cuda.tiles import CellScaling, Operand, Operands, tile_rows
from gpubench.engines.cuda.workspace import Workspace, row_blocks

MAX_SORTED = 4096
"""Largest number of candidates that a block of threads can sort in its shared memory."""

SEARCH_THREADS = KERNELS["search_exactly"].block_threads
MAX_K = MAX_SORTED // 2 - SEARCH_THREADS
"""Largest k: `search_exactly` sorts at least k + SEARCH_THREADS, a power of two, and needs memory for a counter too."""

SPARE_CANDIDATES = 512
"""Room in a row beyond twice the candidates that it keeps: the more, the less often it is cut back to the best."""


def knn_between(workspace: Workspace, queries: Array, x: Array, k: int) -> Knn:
    """Return the exact k nearest cells in x to each query; if `queries` is `x` itself, no cell is its own neighbour.

    Raises
    ------
    InputError
        k is larger than `MAX_K`, or the neighbours do not fit in memory.
    """
    check_k(k)
    graph_bytes = 8 * len(queries) * k
    what = f"the graph of {k} neighbours of {len(queries):,} cells"
    planner.require(graph_bytes, workspace.room_bytes, what, "use fewer neighbours")
    search = KnnSearch(replace(workspace, room_bytes=workspace.room_bytes - graph_bytes), queries, x, k)
    uncertain: Array | None = None
    for arithmetic in cascade(workspace.device, x.shape[1], workspace.precision):
        uncertain = search.search_tiles(uncertain, arithmetic)
        if not len(uncertain):
            break
    else:
        search.search_exactly(uncertain)
    workspace.device.synchronize()
    return Knn(search.indices, search.distances)


def sampled_recall(workspace: Workspace, x: Array, indices: Array, seed: int) -> float:
    """Return the recall of the neighbours `indices` (n, k), measured by an exact search for a sample of the cells x."""
    xp, (n, k) = workspace.device.xp, indices.shape
    sample = draw_sample(n, seed)
    rows = xp.asarray(sample)
    exact = knn_between(workspace, x[rows], x, min(k + 1, n))
    return measure_recall(sample, xp.asnumpy(exact.indices), xp.asnumpy(indices[rows]))


def check_k(k: int) -> None:
    """Check that k is small enough for one block of GPU threads to sort the candidates.

    Raises
    ------
    InputError
        k is larger than `MAX_K`.
    """
    if k > MAX_K:
        raise InputError(f"k={k}: the CUDA engine finds at most {MAX_K:,} neighbours; use the engine 'cpu' for more")


class CandidateTable(NamedTuple):
    """Candidate neighbours of m queries; see kernels/topk_update.cu.

    Attributes
    ----------
    entries : (m, capacity) uint64, candidates of each query, as keys that sort by distance
    counts : (m,) int32, number of used entries of each query
    limits : (m,) uint64; cells that are no candidates have at least this key
    max_count : upper bound of `counts`
    """

    entries: Array
    counts: Array
    limits: Array
    max_count: int


class KnnSearch:
    """Search for the k nearest neighbours of each of m queries, and its results.

    Attributes
    ----------
    indices, distances : (m, k) neighbours and distances, written by the search methods
    edge : largest number of rows and columns of a tile
    """

    def __init__(self, workspace: Workspace, queries: Array, x: Array, k: int, *, ids: Array | None = None) -> None:
        """Prepare the search.

        Parameters
        ----------
        queries : (m, d) float32; `x` itself to search neighbours of the cells among each other
        x : (n, d) float32, cells to search
        ids : (n,) int32, indices to use for the cells in the results, if `queries` is `x`. If None, 0 ... n - 1
        """
        xp = workspace.device.xp
        self._workspace, self._device = workspace, workspace.device
        self._queries, self._x, self._k = queries, x, k
        self._same_cells = queries is x
        self._ids = ids
        self.edge = tile_rows(workspace)
        self._tile = xp.empty(self.edge * self.edge, np.float32)
        self.indices = xp.empty((len(queries), k), np.int32)
        self.distances = xp.empty((len(queries), k), np.float32)
        self._scaling = CellScaling.of(workspace, x, None if self._same_cells else queries)

    def search_tiles(self, rows: Array | None, arithmetic: Arithmetic) -> Array:
        """Search neighbours of the queries `rows` (u,) int32 (if None, all) in all cells; return uncertain rows."""
        n_rows = len(self._queries) if rows is None else len(rows)
        columns = self._operands(list(row_blocks(len(self._x), self.edge)), arithmetic)
        uncertain = []
        for block in row_blocks(n_rows, self.edge):
            chosen = block if rows is None else rows[block]
            uncertain.append(self._search_block(chosen, columns, range(len(columns.spans))))
            self._workspace.timeline.advance(block.stop, n_rows)
        return self._device.xp.concatenate(uncertain)

    def search_spans(self, spans: list[slice], probed: list[list[int]], arithmetic: Arithmetic) -> None:
        """Search neighbours of the cells of each span only among the cells of its probed spans, which is approximate.

        Parameters
        ----------
        spans : ranges of at most `edge` cells
        probed : indices of the spans to search for each span; similar for consecutive spans, so that operands are
            reused
        arithmetic : arithmetic of the products
        """
        columns = self._operands(spans, arithmetic, recent=True)
        for rows, chosen in zip(spans, probed, strict=True):
            self._search_block(rows, columns, chosen)
            self._workspace.timeline.advance(rows.stop, len(self._queries))

    def _operands(self, spans: list[slice], arithmetic: Arithmetic, *, recent: bool = False) -> Operands:
        scalings = [self._scaling] * len(spans)
        return Operands(self._workspace, self._x, spans, scalings, arithmetic, recent=recent)

    def _search_block(self, rows: slice | Array, columns: Operands, chosen: Sequence[int]) -> Array:
        """Search neighbours of the queries `rows` in the blocks `chosen` of cells; return uncertain rows (u,) int32."""
        cells = self._queries[rows]
        operand = Operand.of(self._device, self._scaling.rows(self._device.xp, cells), columns.arithmetic)
        candidates, reach = self._collect_candidates(rows, operand, columns, chosen)
        found = self._select_neighbors(cells, operand, candidates, reach)
        target, indices = rows, found.indices
        if self._ids is not None:
            target, indices = self._ids[rows], self._ids[indices]
        self.indices[target], self.distances[target] = indices, found.distances
        uncertain = self._device.xp.flatnonzero(found.uncertain).astype(np.int32)
        return uncertain + np.int32(rows.start) if isinstance(rows, slice) else rows[uncertain]

    def _collect_candidates(
        self, rows: slice | Array, operand: Operand, columns: Operands, chosen: Sequence[int]
    ) -> tuple[CandidateTable, Array]:
        """Return the candidates of each query in the chosen blocks, and the largest norm of the blocks' cells."""
        xp, device, m = self._device.xp, self._device, operand.n
        n_columns = sum(columns.spans[b].stop - columns.spans[b].start for b in chosen)
        self._workspace.timeline.count(flop_counts.search(m, n_columns, self._x.shape[1], self._k, symmetric=False))
        keep = self._n_candidates(columns.arithmetic)
        capacity = 2 * keep + SPARE_CANDIDATES
        table = xp.empty((m, capacity), np.uint64), xp.zeros(m, np.int32), xp.full(m, NO_CANDIDATE, np.uint64)
        left, farthest = operand.left(device), xp.zeros((), np.float64)
        first_row = rows.start if self._same_cells and isinstance(rows, slice) else -1
        for b in chosen:
            column, first, last = columns[b], columns.spans[b].start, columns.spans[b].stop
            tile = column.products(device, left, self._tile)
            if self._same_cells and not isinstance(rows, slice):
                # the product of a cell with itself becomes NaN, which is never a candidate
                here = xp.flatnonzero((rows >= first) & (rows < last))
                tile[here, rows[here] - np.int32(first)] = np.float32(np.nan)
            sizes = m, last - first, first_row, first, keep, capacity, int(b == chosen[-1])
            terms = column.squares.astype(np.float32)
            device.launch("topk_update", WARP * m, tile, tile.shape[1], terms, *sizes, *table)
            farthest = xp.maximum(farthest, column.squares.max())
        return CandidateTable(*table, keep), xp.sqrt(farthest)

    def _n_candidates(self, arithmetic: Arithmetic) -> int:
        """Return the number of candidates to keep per query, more for less accurate products."""
        more = max(32, self._k // 2) if arithmetic is TF32 else max(8, self._k // 6)
        return min(self._k + more, len(self._x) - self._same_cells, MAX_SORTED)

    def _select_neighbors(self, cells: Array, operand: Operand, candidates: CandidateTable, reach: Array) -> Neighbors:
        """Return the nearest of the candidates of each query, and which queries are uncertain.

        The key of a query x and a cell y is |x - y|^2 - |x|^2, with an error of at most a share of (|x| + |y|)^2. The
        norm |y| is at most `reach`. As only cells nearer than the k-th neighbour matter, it is also at most |x| plus
        the distance of that neighbour; this second bound is only used for queries that are uncertain by the first.
        """
        xp, squares, norms = self._device.xp, operand.squares, self._device.xp.sqrt(operand.squares)
        slack = operand.arithmetic.slack(self._x.shape[1])
        found = self._rerank(cells, candidates, squares - slack * (norms + reach) ** 2)
        rows = xp.flatnonzero(found.uncertain)
        if len(rows):
            near = (norms + found.distances[:, self._k - 1] * self._scaling.scale) * REACH_MARGIN
            offsets = squares - slack * (norms + xp.minimum(near, reach)) ** 2
            entries, counts, limits, max_count = candidates
            again = CandidateTable(entries[rows], counts[rows], limits[rows], max_count)
            found.uncertain[rows] = self._rerank(cells[rows], again, offsets[rows]).uncertain
        return found

    def scaled(self, rows: slice | Array) -> Array:
        """Return rows of x, centred and scaled, for faiss and cuVS: (m, padded d) float32, C-contiguous."""
        return self._scaling.rows(self._device.xp, self._x[rows])

    def order_proposed(self, rows: slice, proposed: Array) -> Array:
        """Write the nearest k of the cells that were proposed as neighbours of the cells `rows`, by exact distance.

        Parameters
        ----------
        proposed : (m, c) integers, indices of cells in any order. The cell itself, repeated indices and those of no
            cell are left out

        Returns
        -------
        (u,) int32, the rows for which fewer than k cells were proposed
        """
        xp, (m, width) = self._device.xp, proposed.shape
        ids = xp.sort(proposed.astype(np.int64), axis=1)
        own = xp.arange(rows.start, rows.stop, dtype=np.int64)[:, None]
        is_cell = (ids >= 0) & (ids < len(self._x)) & (ids != own)
        is_cell[:, 1:] &= ids[:, 1:] != ids[:, :-1]
        entries = xp.where(is_cell, ids.astype(np.uint64), NO_CANDIDATE)
        every = xp.full(m, width, np.int32), xp.full(m, NO_CANDIDATE, np.uint64)
        found = self._rerank(self._queries[rows], CandidateTable(entries, *every, width), xp.zeros(m))
        self.indices[rows], self.distances[rows] = found.indices, found.distances
        return xp.flatnonzero(found.uncertain).astype(np.int32) + np.int32(rows.start)

    def _rerank(self, queries: Array, candidates: CandidateTable, offsets: Array) -> Neighbors:
        """Sort the candidates by exact distance; see kernels/rerank.cu."""
        xp, m = self._device.xp, len(queries)
        found = xp.empty((m, self._k), np.int32), xp.empty((m, self._k), np.float32), xp.empty(m, np.uint8)
        table = candidates.entries, candidates.entries.shape[1], candidates.counts, candidates.limits
        sizes = 1 / self._scaling.scale**2, self._k, _power_of_two(candidates.max_count)
        n_threads = KERNELS["rerank"].block_threads * m
        self._device.launch("rerank", n_threads, queries, self._x, queries.shape[1], m, *table, offsets, *sizes, *found)
        return Neighbors(*found)

    def search_exactly(self, rows: Array) -> None:
        """Search neighbours of the queries `rows` (u,) int32 by comparing them with every cell in float64."""
        xp, k, n = self._device.xp, self._k, len(self._x)
        for block in row_blocks(len(rows), self._workspace.tuning.rows_per_search):
            part = xp.ascontiguousarray(rows[block])
            m, size = len(part), _power_of_two(k + SEARCH_THREADS)
            together = rows_together(size, m)
            n_tasks = -(-m // together)
            wanted = -(-4 * self._device.n_multiprocessors // n_tasks)  # pieces that fill the GPU
            n_pieces = max(1, min(wanted, MAX_SORTED // k, -(-n // SEARCH_THREADS)))
            entries = xp.empty((m, n_pieces, k), np.uint64)
            sizes = n, part, m, int(self._same_cells), together, n_pieces, k, size
            n_threads = SEARCH_THREADS * n_tasks * n_pieces
            self._device.launch("search_exactly", n_threads, self._queries, self._x, self._x.shape[1], *sizes, entries)
            everything = xp.full(m, n_pieces * k, np.int32), xp.full(m, NO_CANDIDATE, np.uint64)
            candidates = CandidateTable(entries.reshape(m, n_pieces * k), *everything, n_pieces * k)
            found = self._rerank(self._queries[part], candidates, xp.zeros(m))
            self.indices[part], self.distances[part] = found.indices, found.distances
            self._workspace.timeline.advance(block.stop, len(rows))


def rows_together(size: int, n_rows: int) -> int:
    """Return the rows of a block of `search_exactly`, such that `size` neighbours of each fit its shared memory."""
    per_row = KERNELS["search_exactly"].shared_bytes({"size": size, "together": 1})
    return max(1, min(MAX_TOGETHER, n_rows, MAX_SHARED_BYTES // int(per_row)))


def _power_of_two(minimum: int) -> int:
    return 1 << (minimum - 1).bit_length()

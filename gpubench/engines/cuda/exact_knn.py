"""Exact nearest neighbours on the GPU: tiles propose, float64 distances decide, and every row is checked.

The same idea as on the CPU: matrix products give squared distances of a block of cells to all others, each row keeps
its best few more than k, exact distances of those give the order, and the bound on rounding tells for which rows a cell
that was no candidate could still be nearer. With precision "fast" the first tiles are TF32; the rows that are not
certain are searched again with accurate tiles, and those that are still not certain by comparing them with every cell.
So neighbours are exact in either precision, and precision only decides how fast they are found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gpubench.core.errors import InputError
from gpubench.core.types import Array, Knn
from gpubench.engines import planner
from gpubench.engines.common import work
from gpubench.engines.common.knn_search import REACH_MARGIN
from gpubench.engines.cuda.signatures import HISTOGRAM_BYTES, NO_CANDIDATE
from gpubench.engines.cuda.tiles import (
    MAX_TILE_ROWS,
    TF32,
    Arithmetic,
    Operands,
    cascade,
    make_operand,
    power_of_two_scale,
    tile_rows,
)

if TYPE_CHECKING:
    from gpubench.core.timeline import Timeline
    from gpubench.engines.cuda.device import Device

MAX_SORTED = 4096
"""Candidates of a row that a block can sort in its shared memory."""

SEARCH_SORTED = 2048
"""The same beside the counter of `search_exactly`."""

WARP = 32
TOPK_WARPS = 8
RERANK_THREADS = 64
SEARCH_THREADS = 256
MAX_K = SEARCH_SORTED - SEARCH_THREADS

SPARE_CANDIDATES = 512
"""Room of a row for candidates beyond twice those it keeps: the more, the less often it is cut back to the best."""

ROWS_PER_SEARCH = 1024
"""Uncertain rows that are searched together."""


def knn_between(
    device: Device, queries: Array, x: Array, k: int, *, precision: str, room_bytes: int, timeline: Timeline
) -> Knn:
    """Exact neighbours of each query; where `queries` is `x` itself, a cell is not its own neighbour.

    Raises
    ------
    InputError
        More neighbours than a block of the GPU can sort, or a graph that does not fit.
    """
    check_k(k)
    m, d = queries.shape
    planner.require(8 * m * k, room_bytes, f"the graph of {k} neighbours of {m:,} cells", "use fewer neighbours")
    search = Search(device, queries, x, k, room_bytes - 8 * m * k, timeline)
    uncertain: Array | None = None
    for arithmetic in cascade(device, d, precision):
        uncertain = search.with_tiles(uncertain, arithmetic)
        if not len(uncertain):
            break
    else:
        search.exactly(uncertain)
    device.synchronize()
    return Knn(search.indices, search.distances)


def check_k(k: int) -> None:
    """Refuse more neighbours than a block of the GPU can sort.

    Raises
    ------
    InputError
        k is more than `MAX_K`.
    """
    if k > MAX_K:
        raise InputError(f"k={k}: the CUDA engine finds at most {MAX_K:,} neighbours; use engine='cpu' for more")


class Search:
    """The search of one graph.

    Attributes
    ----------
    indices, distances : (m, k), written as rows are found
    edge : rows and columns of a tile at most
    centre, scale : what tiles are made of is x less the centre, (d,), times the scale
    """

    def __init__(
        self,
        device: Device,
        queries: Array,
        x: Array,
        k: int,
        room_bytes: int,
        timeline: Timeline,
        *,
        ids: Array | None = None,
    ) -> None:
        """Describe the search; `ids` (n,) int32 are what cells that search each other are called, None: 0, 1, 2 ..."""
        xp = device.xp
        self._device = device
        self._queries, self._x, self._k = queries, x, k
        self._same_cells = queries is x
        self._timeline = timeline
        self._room_bytes = room_bytes
        self._ids = ids
        self.edge = tile_rows(room_bytes)
        self._tile = xp.empty(self.edge * self.edge, np.float32)
        self.indices = xp.empty((len(queries), k), np.int32)
        self.distances = xp.empty((len(queries), k), np.float32)
        self.centre = mean_of(device, x)
        self.scale = scale_of(device, [x] if self._same_cells else [x, queries], self.centre)

    def with_tiles(self, rows: Array | None, arithmetic: Arithmetic) -> Array:
        """Search rows (u,) int32 of the queries (None: all) by tiles; those that are not certain are returned."""
        n_rows = len(self._queries) if rows is None else len(rows)
        n = len(self._x)
        spans = [(start, min(start + self.edge, n)) for start in range(0, n, self.edge)]
        columns = self._operands(spans, arithmetic)
        uncertain = []
        for start in range(0, n_rows, self.edge):
            stop = min(start + self.edge, n_rows)
            uncertain.append(self._search_block(rows, start, stop, columns, range(len(spans))))
            self._timeline.advance(stop, n_rows)
        return self._device.xp.concatenate(uncertain)

    def within(self, spans: list[tuple[int, int]], probed: list[list[int]], arithmetic: Arithmetic) -> None:
        """Search each span of cells among the cells of some spans; spans are of at most `edge` cells."""
        columns = self._operands(spans, arithmetic)
        for (start, stop), chosen in zip(spans, probed, strict=True):
            self._search_block(None, start, stop, columns, chosen)
            self._timeline.advance(stop, len(self._queries))

    def _operands(self, spans: list[tuple[int, int]], arithmetic: Arithmetic) -> Operands:
        return Operands(
            self._device,
            self._x,
            spans,
            self.centre[None],
            [0] * len(spans),
            self.scale,
            arithmetic,
            keep_bytes=self._room_bytes // 4,
        )

    def _search_block(
        self, rows: Array | None, start: int, stop: int, columns: Operands, chosen: Sequence[int]
    ) -> Array:
        xp, device, k = self._device.xp, self._device, self._k
        own = None if rows is None else rows[start:stop]
        queries = self._queries[start:stop] if own is None else self._queries[own]
        centred = queries - self.centre
        centred *= np.float32(self.scale)
        block = make_operand(device, centred, columns.arithmetic)
        left = block.left(device)
        n_others = len(self._x) - self._same_cells
        keep = min(k + (max(32, k // 2) if columns.arithmetic is TF32 else max(8, k // 6)), n_others, MAX_SORTED)
        candidates = xp.empty((stop - start, 2 * keep + SPARE_CANDIDATES), np.uint64)
        counts = xp.zeros(stop - start, np.int32)
        limits = xp.full(stop - start, NO_CANDIDATE, np.uint64)
        farthest = xp.zeros((), np.float64)
        n_columns = sum(columns.spans[b][1] - columns.spans[b][0] for b in chosen)
        self._timeline.work(*work.search(stop - start, n_columns, self._x.shape[1], k, symmetric=False))
        for b in chosen:
            column, (first, last) = columns[b], columns.spans[b]
            width = column.right.shape[0]
            tile = self._tile[: (stop - start) * width].reshape(stop - start, width)
            device.product(left, column.right, tile, tensor_cores=columns.arithmetic.tensor_cores)
            if own is not None and self._same_cells:
                self._blank_own(tile, own, first, last)
            first_row = start if own is None and self._same_cells else -1
            sizes = stop - start, last - first, first_row, first, keep, candidates.shape[1], int(b == chosen[-1])
            terms = column.squares.astype(np.float32)
            device.launch(
                "topk_update",
                WARP * (stop - start),
                *(tile, width, terms, *sizes, candidates, counts, limits),
                block=WARP * TOPK_WARPS,
                shared=HISTOGRAM_BYTES * TOPK_WARPS,
            )
            farthest = xp.maximum(farthest, column.squares.max())
        # a key lacks |x|^2, and is off by no more than a share of (|x| + |y|)^2
        share, norms, reach = columns.arithmetic.slack(self._x.shape[1]), xp.sqrt(block.squares), xp.sqrt(farthest)
        size = _power_of_two(keep)
        offsets = block.squares - share * (norms + reach) ** 2
        indices, distances, uncertain = self._rerank(queries, candidates, counts, limits, offsets, size)
        rows_in_doubt = xp.flatnonzero(uncertain)
        if len(rows_in_doubt):
            # no cell beyond the k-th neighbour's distance counts, however far from all others it may be
            near = (norms + distances[:, k - 1] * self.scale) * REACH_MARGIN
            offsets = block.squares - share * (norms + xp.minimum(near, reach)) ** 2
            again = candidates[rows_in_doubt], counts[rows_in_doubt], limits[rows_in_doubt], offsets[rows_in_doubt]
            uncertain[rows_in_doubt] = self._rerank(queries[rows_in_doubt], *again, size)[2]
        target = slice(start, stop) if own is None else own
        if self._ids is not None:
            target, indices = self._ids[target], self._ids[indices]
        self.indices[target], self.distances[target] = indices, distances
        doubtful = xp.flatnonzero(uncertain).astype(np.int32)
        return doubtful + np.int32(start) if own is None else own[doubtful]

    def _blank_own(self, tile: Array, own: Array, first: int, last: int) -> None:
        """Make the product of a cell with itself NaN, which is never a candidate."""
        here = self._device.xp.flatnonzero((own >= first) & (own < last))
        tile[here, own[here] - np.int32(first)] = np.float32(np.nan)

    def _rerank(
        self, queries: Array, candidates: Array, counts: Array, limits: Array, offsets: Array, size: int
    ) -> tuple[Array, Array, Array]:
        xp, m = self._device.xp, len(queries)
        indices, distances = xp.empty((m, self._k), np.int32), xp.empty((m, self._k), np.float32)
        uncertain = xp.empty(m, np.uint8)
        given = candidates, candidates.shape[1], counts, limits, offsets, 1 / self.scale**2, self._k, size
        out = indices, distances, uncertain
        self._device.launch(
            "rerank",
            RERANK_THREADS * m,
            *(queries, self._x, queries.shape[1], m, *given, *out),
            block=RERANK_THREADS,
            shared=12 * size,
        )
        return out

    def exactly(self, rows: Array) -> None:
        """Search rows (u,) int32 of the queries by comparing them with every cell in float64."""
        xp, k, n = self._device.xp, self._k, len(self._x)
        size = _power_of_two(k + SEARCH_THREADS)
        for start in range(0, len(rows), ROWS_PER_SEARCH):
            part = xp.ascontiguousarray(rows[start : start + ROWS_PER_SEARCH])
            wanted = -(-4 * self._device.n_multiprocessors // len(part))
            n_pieces = max(1, min(wanted, MAX_SORTED // k, -(-n // SEARCH_THREADS)))
            candidates = xp.empty((len(part), n_pieces, k), np.uint64)
            sizes = n, part, len(part), int(self._same_cells), n_pieces, k, size
            self._device.launch(
                "search_exactly",
                SEARCH_THREADS * len(part) * n_pieces,
                *(self._queries, self._x, self._x.shape[1], *sizes, candidates),
                block=SEARCH_THREADS,
                shared=12 * size + 4,
            )
            everybody = xp.full(len(part), n_pieces * k, np.int32), xp.full(len(part), NO_CANDIDATE, np.uint64)
            merged = candidates.reshape(len(part), n_pieces * k)
            found = self._rerank(
                self._queries[part], merged, *everybody, xp.zeros(len(part)), _power_of_two(n_pieces * k)
            )
            self.indices[part], self.distances[part] = found[:2]
            self._timeline.advance(min(start + ROWS_PER_SEARCH, len(rows)), len(rows))


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


def mean_of(device: Device, x: Array) -> Array:
    """(d,) float32 mean of the cells, summed in float64 block by block."""
    total = device.xp.zeros(x.shape[1])
    for start in range(0, len(x), MAX_TILE_ROWS):
        total += x[start : start + MAX_TILE_ROWS].sum(axis=0, dtype=np.float64)
    return (total / len(x)).astype(np.float32)


def scale_of(device: Device, parts: Sequence[Array], centre: Array) -> float:
    """The power of two that brings all cells less the centre to at most about 1."""
    xp = device.xp
    edges = [edge for cells in parts for edge in (cells.max(axis=0), cells.min(axis=0))]
    return power_of_two_scale(max(float(xp.abs(edge - centre).max()) for edge in edges))

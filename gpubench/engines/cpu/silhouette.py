"""Mean distances to clusters on the CPU, by symmetric distance tiles over cells sorted by (group, cluster).

`segments` sorts the cells, cuts them into blocks and adds up distances; `tiles` computes the distances of a tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from gpubench.engines.common import flop_counts
from gpubench.engines.common.segments import (
    Block,
    DistanceSums,
    Segments,
    cut,
    fixed_point_unit,
    in_cell_order,
    passes,
    sort_cells,
)
from gpubench.engines.cpu.tiles import BLOCK_ROWS, CentredRows, Summer, sums_in_float64

if TYPE_CHECKING:
    from gpubench.core.types import F32, F64, I32, I64
    from gpubench.engines.cpu.compiled import Tiles
    from gpubench.engines.cpu.threads import WorkerThreads

COSINE_ROWS = 4096
"""Number of rows whose cosine distances are computed at a time."""

CELLS_PER_PIECE = 128
"""Number of sampled cells that a thread compares with their group at a time."""


def cluster_distances(
    x: F32,
    clusters: I32,
    groups: I32 | None,
    metric: str,
    workers: WorkerThreads,
    memory_bytes: int,
    tiles: Tiles | None,
) -> tuple[F64, F64]:
    """Compute the mean distances of all cells to clusters, with NumPy if `tiles` is None.

    See `Engine.cluster_distances`.
    """
    segments = sort_cells(clusters, groups)
    own, nearest = np.zeros(len(x)), np.full(len(x), np.inf)  # in sorted order
    if metric == "cosine":
        workers.timeline.count(flop_counts.closed_silhouettes(segments.group_sizes, x.shape[1]))
        spans = list(segments.group_spans())
        workers.run(spans, lambda: lambda span: _write_cosine_means(x, segments, span, own, nearest))
    else:
        workers.timeline.count(flop_counts.silhouettes(segments.group_sizes, x.shape[1]))
        _write_euclidean_means(x, segments, own, nearest, workers, memory_bytes, tiles)
    return in_cell_order(own, nearest, segments)


def _write_cosine_means(x: F32, segments: Segments, span: tuple[int, int], own: F64, nearest: F64) -> None:
    """Write the mean cosine distances of the cells of a group, computed from each cluster's sum of unit vectors."""
    first, last = span
    starts = segments.starts[first : last + 1]
    sizes = np.diff(starts)
    sums = np.stack(
        [
            sum(_unit_rows(x, segments.order[a:b]).sum(axis=0) for a, b in _row_spans(start, stop))
            for start, stop in pairwise(starts.tolist())
        ]
    )
    for segment, size in enumerate(sizes):
        for begin, end in _row_spans(starts[segment], starts[segment + 1]):
            unit = _unit_rows(x, segments.order[begin:end])
            distance = sizes - unit @ sums.T
            itself = 1.0 - np.einsum("ij,ij->i", unit, unit)  # 0, or 1 for a zero vector
            own[begin:end] = np.maximum(distance[:, segment] - itself, 0.0) / max(size - 1, 1)
            distance /= sizes
            distance[:, segment] = np.inf
            nearest[begin:end] = np.maximum(distance.min(axis=1), 0.0)


def _row_spans(start: int, stop: int) -> Iterator[tuple[int, int]]:
    for begin in range(int(start), int(stop), COSINE_ROWS):
        yield begin, min(begin + COSINE_ROWS, int(stop))


def _unit_rows(x: F32, rows: I64) -> F64:
    block: F64 = x[rows].astype(np.float64)
    norms = np.linalg.norm(block, axis=1, keepdims=True)
    np.divide(block, norms, out=block, where=norms > 0)
    return block


def _write_euclidean_means(
    x: F32,
    segments: Segments,
    own: F64,
    nearest: F64,
    workers: WorkerThreads,
    memory_bytes: int,
    compiled: Tiles | None,
) -> None:
    blocks = cut(segments, BLOCK_ROWS)
    rows = CentredRows.sort(x, segments, blocks)
    for part in passes(segments, blocks, memory_bytes // 4):
        sums = DistanceSums(np, segments, blocks, part, rows.reach)
        tiles = [(blocks[i], blocks[j]) for i in range(part.first, part.last) for j in range(i, part.group_last)]
        lock = Lock()

        def make_worker(sums: DistanceSums = sums, lock: Lock = lock) -> Callable[[tuple[Block, Block]], None]:
            summer = Summer(compiled, x.shape[1])
            return lambda tile: silhouette_tile(rows, summer, *tile, sums, lock)

        workers.run(tiles, make_worker)
        sums.write_means(own, nearest)
    own /= rows.scale
    nearest /= rows.scale


def silhouette_tile(rows: CentredRows, summer: Summer, i: Block, j: Block, sums: DistanceSums, lock: Lock) -> None:
    """Compute the distances between blocks i and j and add them to the sums of the rows of both."""
    left_sums, right_sums = fixed_tile_sums(rows, summer, i, j, sums.unit)
    with lock:
        sums.between(i, j)[...] += left_sums
        if i is not j:
            sums.between(j, i)[...] += right_sums


def fixed_tile_sums(rows: CentredRows, summer: Summer, i: Block, j: Block, unit: float) -> tuple[I64, I64]:
    """Sum the distances between blocks i and j in fixed point.

    Returns the sums from the rows of i to the segments of j, and from the rows of j to the segments of i.
    """
    left, right, same = rows.side(i), rows.side_for(j, i), i is j
    sums = summer.sums(left, right, same=same)
    if sums is None:
        sums = sums_in_float64(left.in_float64(), rows.side_for(j, i, np.float64), same=same)
    left_sums, right_sums = (np.rint(side * np.float64(unit)).astype(np.int64) for side in sums)
    return left_sums, right_sums


Piece = tuple["I64", list[Block]]
"""Cells (positions in the sample) of one group, and the blocks of their group."""


def sampled_distances(
    cells: I64, x: F32, clusters: I32, groups: I32 | None, workers: WorkerThreads, tiles: Tiles | None
) -> tuple[F64, F64]:
    """Compute the mean Euclidean distances of the given cells to clusters; see `Engine.cluster_distances`."""
    segments = sort_cells(clusters, groups)
    blocks = cut(segments, BLOCK_ROWS)
    sample = Sample(segment_codes(cells, segments), segments, blocks)
    rows = CentredRows.sort(x, segments, blocks)
    sizes = ((len(which), others[-1].stop - others[0].start) for which, others in sample.pieces)
    workers.timeline.count(flop_counts.sampled(sizes, len(x), x.shape[1]))
    distances = np.empty((2, len(cells)))

    def make_worker() -> Callable[[Piece], None]:
        summer = Summer(tiles, rows.d)

        def compare(piece: Piece) -> None:
            which, others = piece
            distances[:, which] = sample.distances(x[cells[which]], which, others, rows, summer)

        return compare

    workers.run(sample.pieces, make_worker)
    return distances[0], distances[1]


def segment_codes(cells: I64, segments: Segments) -> I64:
    """Return the segment index of each of the given cells."""
    segment_of_cell = np.empty(len(segments.order), np.int64)
    segment_of_cell[segments.order] = np.repeat(np.arange(len(segments.sizes)), segments.sizes)
    codes: I64 = segment_of_cell[cells]
    return codes


def sums_to_segments(blocks: list[Block], cells: F32, rows: CentredRows, summer: Summer, unit: float) -> I64:
    """Sum the distances from cells to each segment of consecutive blocks, in fixed point: (segments, cells)."""
    first = blocks[0].first
    sums = np.zeros((blocks[-1].last - first, len(cells)), np.int64)
    for block in blocks:
        left, right = rows.cells_side(cells, block), rows.side(block)
        tile = summer.sums(left, right) or sums_in_float64(left.in_float64(), right.in_float64())
        sums[block.first - first : block.last - first] += np.rint(tile[0] * np.float64(unit)).astype(np.int64)
    return sums


class Sample:
    """A sample of cells, each of which is compared with all cells of its group."""

    def __init__(self, segment: I64, segments: Segments, blocks: list[Block]) -> None:
        self.segment, self._sizes = segment, segments.sizes  # segment: (m,) that of each cell
        self.pieces: list[Piece] = []  # cells that are compared at a time
        order = np.argsort(segment, kind="stable")
        first_block = 0
        for first, last in segments.group_spans():
            last_block = first_block
            while last_block < len(blocks) and blocks[last_block].first < last:
                last_block += 1
            begin, end = np.searchsorted(segment[order], [first, last])
            self.pieces += [
                (order[start : min(start + CELLS_PER_PIECE, end)], blocks[first_block:last_block])
                for start in range(begin, end, CELLS_PER_PIECE)
            ]
            first_block = last_block

    def distances(self, cells: F32, which: I64, others: list[Block], rows: CentredRows, summer: Summer) -> F64:
        """Return mean distances of m cells of one group to their own and to the nearest other cluster, (2, m).

        Parameters
        ----------
        cells : (m, d) the cells
        which : (m,) their positions in the sample
        others : blocks of the group
        rows : centred rows of all cells
        summer : computes the sums of distances
        """
        unit = fixed_point_unit(rows.reach, others[-1].stop - others[0].start)
        sums = sums_to_segments(others, cells, rows, summer, unit)
        first, last = others[0].first, others[-1].last
        sizes, own = self._sizes[first:last], self.segment[which] - first
        column = np.arange(sums.shape[1])
        a = np.where(sizes[own] == 1, np.nan, sums[own, column] / np.maximum(sizes[own] - 1, 1))
        means = sums / sizes[:, None]
        means[own, column] = np.inf
        distances: F64 = np.stack([a, means.min(axis=0)]) / (unit * rows.scale)
        return distances

"""Mean distances to clusters on the CPU: symmetric distance tiles over cells sorted by (group, cluster).

How cells are sorted, cut into blocks and summed up is in `segments`, how the distances of a tile are in `cpu_tiles`.
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
from gpubench.engines.cpu.tiles import BLOCK_ROWS, CentredRows, Summer, make_summer, sums_in_float64

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.cpu.compiled import Tiles
    from gpubench.engines.cpu.threads import WorkerThreads


def cosine_means(
    x: NDArray[np.float32],
    segments: Segments,
    own: NDArray[np.float64],
    nearest: NDArray[np.float64],
    workers: WorkerThreads,
) -> None:
    """Write a, the mean distance to the own cluster, and b, the smallest to another, in sorted order."""

    def make_worker() -> Callable[[tuple[int, int]], None]:
        return lambda span: _of_group(x, segments, span, own, nearest)

    workers.run(list(segments.group_spans()), make_worker)


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


CELLS_PER_PIECE = 128
"""Cells that a worker compares with their group at a time."""


Piece = tuple["NDArray[np.int64]", list[Block]]
"""Cells (positions in the sample) of one group, and the blocks of their group."""


def cluster_distances_of_cells(
    cells: NDArray[np.int64],
    x: NDArray[np.float32],
    clusters: NDArray[np.int32],
    groups: NDArray[np.int32] | None,
    workers: WorkerThreads,
    tiles: Tiles | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the Euclidean distances of some cells; see `Engine.cluster_distances`."""
    segments = sort_cells(clusters, groups)
    blocks = cut(segments, BLOCK_ROWS)
    sample = Sample(segment_codes(cells, segments), segments, blocks)
    rows = CentredRows.of_all(x, segments, blocks)
    sizes = ((len(which), others[-1].stop - others[0].start) for which, others in sample.pieces)
    workers.count(flop_counts.sampled(sizes, len(x), x.shape[1]))
    distances = np.empty((2, len(cells)))

    def make_worker() -> Callable[[Piece], None]:
        summer = make_summer(tiles, rows.d)

        def compare(piece: Piece) -> None:
            which, others = piece
            distances[:, which] = sample.distances(x[cells[which]], which, others, rows, summer)

        return compare

    workers.run(sample.pieces, make_worker)
    return distances[0], distances[1]


def segment_codes(cells: NDArray[np.int64], segments: Segments) -> NDArray[np.int64]:
    """The segment that each of some cells is in."""
    segment_of_cell = np.empty(len(segments.order), np.int64)
    segment_of_cell[segments.order] = np.repeat(np.arange(len(segments.sizes)), segments.sizes)
    found: NDArray[np.int64] = segment_of_cell[cells]
    return found


def sums_to_segments(
    blocks: list[Block], cells: NDArray[np.float32], rows: CentredRows, summer: Summer, unit: float
) -> NDArray[np.int64]:
    """Sums of the distances of some cells to the segments in consecutive blocks, in fixed point: (segments, cells)."""
    first = blocks[0].first
    sums = np.zeros((blocks[-1].last - first, len(cells)), np.int64)
    for block in blocks:
        left, right = rows.of_cells(cells, block), rows.side(block)
        found = summer.sums(left, right) or sums_in_float64(left.in_float64(), right.in_float64())
        sums[block.first - first : block.last - first] += np.rint(found[0] * np.float64(unit)).astype(np.int64)
    return sums


class Sample:
    """Some cells among all of their groups.

    Attributes
    ----------
    segment : (m,) the segment of each cell
    pieces : what is compared at a time
    """

    def __init__(self, segment: NDArray[np.int64], segments: Segments, blocks: list[Block]) -> None:
        self.segment, self._sizes = segment, segments.sizes
        self.pieces = _sampled_pieces(segment, segments, blocks)

    def distances(
        self,
        cells: NDArray[np.float32],
        which: NDArray[np.int64],
        others: list[Block],
        rows: CentredRows,
        summer: Summer,
    ) -> NDArray[np.float64]:
        """Compare the cells of a piece with their group; (2, m) mean distances to the own and the nearest cluster."""
        unit = fixed_point_unit(rows.reach, others[-1].stop - others[0].start)
        sums = sums_to_segments(others, cells, rows, summer, unit)
        first, last = others[0].first, others[-1].last
        sizes, own = self._sizes[first:last], self.segment[which] - first
        column = np.arange(sums.shape[1])
        a = np.where(sizes[own] == 1, np.nan, sums[own, column] / np.maximum(sizes[own] - 1, 1))
        means = sums / sizes[:, None]
        means[own, column] = np.inf
        distances: NDArray[np.float64] = np.stack([a, means.min(axis=0)]) / (unit * rows.scale)
        return distances


def _sampled_pieces(segment: NDArray[np.int64], segments: Segments, blocks: list[Block]) -> list[Piece]:
    pieces = []
    order = np.argsort(segment, kind="stable")
    first_block = 0
    for first, last in segments.group_spans():
        last_block = first_block
        while last_block < len(blocks) and blocks[last_block].first < last:
            last_block += 1
        begin, end = np.searchsorted(segment[order], [first, last])
        pieces += [
            (order[start : min(start + CELLS_PER_PIECE, end)], blocks[first_block:last_block])
            for start in range(begin, end, CELLS_PER_PIECE)
        ]
        first_block = last_block
    return pieces


def cluster_distances(
    x: NDArray[np.float32],
    clusters: NDArray[np.int32],
    groups: NDArray[np.int32] | None,
    metric: str,
    workers: WorkerThreads,
    memory_bytes: int,
    tiles: Tiles | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the distances of all cells; see `Engine.cluster_distances`. Without compiled tiles NumPy is used."""
    segments = sort_cells(clusters, groups)
    own, nearest = _means(x, segments, metric, workers, memory_bytes, tiles)
    return in_cell_order(own, nearest, segments)


def _means(
    x: NDArray[np.float32],
    segments: Segments,
    metric: str,
    workers: WorkerThreads,
    memory_bytes: int,
    tiles: Tiles | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean distance to the own and to the nearest other cluster; (n,) each, in sorted order."""
    own = np.zeros(len(x))  # sum of distances to the cell's own cluster, then their mean
    nearest = np.full(len(x), np.inf)
    if metric == "cosine":
        workers.count(flop_counts.closed_silhouettes(segments.group_sizes, x.shape[1]))
        cosine_means(x, segments, own, nearest, workers)
    else:
        workers.count(flop_counts.silhouettes(segments.group_sizes, x.shape[1]))
        _euclidean_means(x, segments, own, nearest, workers, memory_bytes, tiles)
    return own, nearest


def _euclidean_means(
    x: NDArray[np.float32],
    segments: Segments,
    own: NDArray[np.float64],
    nearest: NDArray[np.float64],
    workers: WorkerThreads,
    memory_bytes: int,
    compiled: Tiles | None,
) -> None:
    blocks = cut(segments, BLOCK_ROWS)
    rows = CentredRows.of_all(x, segments, blocks)
    for part in passes(segments, blocks, memory_bytes // 4):
        sums = DistanceSums(np, segments, blocks, part, rows.reach)
        tiles = [(blocks[i], blocks[j]) for i in range(part.first, part.last) for j in range(i, part.group_last)]
        lock = Lock()

        def make_worker(sums: DistanceSums = sums, lock: Lock = lock) -> _TileWorker:
            return _TileWorker(rows, sums, lock, make_summer(compiled, x.shape[1]))

        workers.run(tiles, make_worker)
        sums.write_means(own, nearest)
    own /= rows.scale
    nearest /= rows.scale


class _TileWorker:
    """Computes tiles and adds up their distances."""

    def __init__(self, rows: CentredRows, sums: DistanceSums, lock: Lock, summer: Summer) -> None:
        self._rows = rows
        self._sums = sums
        self._lock = lock
        self._summer = summer

    def __call__(self, blocks: tuple[Block, Block]) -> None:
        self.silhouette_tile(*blocks)

    def silhouette_tile(self, i: Block, j: Block) -> None:
        """Add the distances of one tile to the sums of both sides."""
        of_left, of_right = fixed_tile_sums(self._rows, self._summer, i, j, self._sums.unit)
        with self._lock:
            self._sums.between(i, j)[...] += of_left
            if i is not j:
                self._sums.between(j, i)[...] += of_right


def fixed_tile_sums(
    rows: CentredRows, summer: Summer, i: Block, j: Block, unit: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sums of the distances of a tile in fixed point, to the segments of the other block: (segments, rows) for both."""
    left, right, same = rows.side(i), rows.beside(j, i), i is j
    sums = summer.sums(left, right, same=same)
    if sums is None:
        sums = sums_in_float64(left.in_float64(), rows.beside(j, i, np.float64), same=same)
    of_left, of_right = (np.rint(side * np.float64(unit)).astype(np.int64) for side in sums)
    return of_left, of_right

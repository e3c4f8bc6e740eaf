"""Silhouette widths of some cells, each compared with all cells of its group.

Where there are too many cells to compare all with all, the widths of a sample estimate the mean. Sums are in fixed
point, so that they can be added in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from gpubench.engines import work
from gpubench.engines.cpu_tiles import BLOCK_ROWS, CentredRows, Summer, make_summer, sums_in_float64
from gpubench.engines.segments import Block, Segments, cut, sort_cells, unit_of, widths_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.cpu_native import Tiles
    from gpubench.engines.cpu_parallel import Workers

CELLS_A_PIECE = 128
"""Cells that a worker compares with their group at a time."""


Piece = tuple["NDArray[np.int64]", list[Block]]
"""Cells (positions in the sample) of one group, and the blocks of their group."""


def widths_of_cells(
    cells: NDArray[np.int64],
    x: NDArray[np.float32],
    clusters: NDArray[np.int32],
    groups: NDArray[np.int32] | None,
    workers: Workers,
    tiles: Tiles | None,
) -> NDArray[np.float64]:
    """Euclidean silhouette widths of `cells`, (m,); see `Engine.silhouette_widths`."""
    segments = sort_cells(clusters, groups)
    blocks = cut(segments, BLOCK_ROWS)
    sample = Sample(segments_of(cells, segments), segments, blocks)
    rows = CentredRows.of_all(x, segments, blocks)
    sizes = ((len(which), others[-1].stop - others[0].start) for which, others in sample.pieces)
    workers.count(work.sampled(sizes, len(x), x.shape[1]))
    widths = np.empty(len(cells))

    def make_worker() -> Callable[[Piece], None]:
        summer = make_summer(tiles, rows.d)

        def compare(piece: Piece) -> None:
            which, others = piece
            sums = sums_to(others, x[cells[which]], rows, summer, sample.unit(others, rows.reach))
            widths[which] = sample.widths(which, others, sums)

        return compare

    workers.run(sample.pieces, make_worker)
    return widths


def segments_of(cells: NDArray[np.int64], segments: Segments) -> NDArray[np.int64]:
    """The segment that each of some cells is in."""
    segment_of_cell = np.empty(len(segments.order), np.int64)
    segment_of_cell[segments.order] = np.repeat(np.arange(len(segments.sizes)), segments.sizes)
    found: NDArray[np.int64] = segment_of_cell[cells]
    return found


def sums_to(
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
        self.pieces = _pieces(segment, segments, blocks)

    def unit(self, others: list[Block], reach: float) -> float:
        """What distances of a piece to its group are multiplied by."""
        return unit_of(reach, others[-1].stop - others[0].start)

    def widths(self, which: NDArray[np.int64], others: list[Block], sums: NDArray[np.int64]) -> NDArray[np.float64]:
        """(b - a) / max(a, b) of a piece from its sums to all segments of the group, (segments, cells), in any unit."""
        first, last = others[0].first, others[-1].last
        return _widths(sums, self._sizes[first:last], self.segment[which] - first)


def _pieces(segment: NDArray[np.int64], segments: Segments, blocks: list[Block]) -> list[Piece]:
    pieces = []
    order = np.argsort(segment, kind="stable")
    first_block = 0
    for first, last in segments.of_groups():
        last_block = first_block
        while last_block < len(blocks) and blocks[last_block].first < last:
            last_block += 1
        begin, end = np.searchsorted(segment[order], [first, last])
        pieces += [
            (order[start : min(start + CELLS_A_PIECE, end)], blocks[first_block:last_block])
            for start in range(begin, end, CELLS_A_PIECE)
        ]
        first_block = last_block
    return pieces


def _widths(sums: NDArray[np.int64], sizes: NDArray[np.int64], own: NDArray[np.int64]) -> NDArray[np.float64]:
    """(b - a) / max(a, b) from sums of distances (segments, cells); 0 for singletons and where both are 0."""
    column = np.arange(sums.shape[1])
    a = sums[own, column] / np.maximum(sizes[own] - 1, 1)
    means = sums / sizes[:, None]
    means[own, column] = np.inf
    return widths_of(a, means.min(axis=0), sizes[own] == 1)

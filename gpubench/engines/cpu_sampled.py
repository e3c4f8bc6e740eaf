"""Silhouette widths of some cells, each compared with all cells of its group.

Where there are too many cells to compare all with all, the widths of a sample estimate the mean.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from gpubench.engines import work
from gpubench.engines.cpu_tiles import BLOCK_ROWS, CentredRows, make_summer, sums_in_float64
from gpubench.engines.segments import Block, Segments, cut, sort_cells

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.cpu_native import Tiles
    from gpubench.engines.cpu_parallel import Workers

CELLS_A_PIECE = 128
"""Cells that a worker compares with their group at a time."""


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
    sample = Sample(cells, x, segments, blocks, CentredRows(x, segments, blocks))
    sizes = ((len(which), others[-1].stop - others[0].start) for which, others in sample.pieces)
    workers.count(work.sampled(sizes, len(x), x.shape[1]))
    widths = np.empty(len(cells))
    workers.run(sample.pieces, lambda: sample.comparer(tiles, widths))
    return widths


class Sample:
    """Some cells among all of their groups.

    Attributes
    ----------
    pieces : cells (positions in the sample) of one group, and the blocks of their group
    """

    def __init__(
        self,
        cells: NDArray[np.int64],
        x: NDArray[np.float32],
        segments: Segments,
        blocks: list[Block],
        rows: CentredRows,
    ) -> None:
        self._cells, self._x, self._sizes, self._rows = cells, x, segments.sizes, rows
        segment_of_cell = np.empty(len(x), np.int64)
        segment_of_cell[segments.order] = np.repeat(np.arange(len(segments.sizes)), segments.sizes)
        self._segment = segment_of_cell[cells]
        self.pieces = _pieces(self._segment, segments, blocks)

    def comparer(
        self, tiles: Tiles | None, widths: NDArray[np.float64]
    ) -> Callable[[tuple[NDArray[np.int64], list[Block]]], None]:
        """Make a worker, which writes the widths of the pieces that it is given."""
        summer = make_summer(tiles, self._x.shape[1])

        def compare(piece: tuple[NDArray[np.int64], list[Block]]) -> None:
            which, others = piece
            first, last = others[0].first, others[-1].last
            sums = np.zeros((last - first, len(which)))
            for block in others:
                left, right = self._rows.of_cells(self._x[self._cells[which]], block), self._rows.side(block)
                found = summer.sums(left, right) or sums_in_float64(left.in_float64(), right.in_float64())
                sums[block.first - first : block.last - first] += found[0]
            widths[which] = _widths(sums, self._sizes[first:last], self._segment[which] - first)

        return compare


def _pieces(
    segment: NDArray[np.int64], segments: Segments, blocks: list[Block]
) -> list[tuple[NDArray[np.int64], list[Block]]]:
    """Cells (positions in `segment`) of one group, and the blocks of their group."""
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


def _widths(sums: NDArray[np.float64], sizes: NDArray[np.int64], own: NDArray[np.int64]) -> NDArray[np.float64]:
    """(b - a) / max(a, b) from sums of distances (segments, cells); 0 for singletons and where both are 0."""
    column = np.arange(sums.shape[1])
    a = sums[own, column] / np.maximum(sizes[own] - 1, 1)
    means = sums / sizes[:, None]
    means[own, column] = np.inf
    b = means.min(axis=0)
    largest = np.maximum(a, b)
    widths: NDArray[np.float64] = np.zeros(len(a))
    np.divide(b - a, largest, out=widths, where=(largest > 0) & np.isfinite(b))
    widths[sizes[own] == 1] = 0.0
    widths[np.isinf(b)] = np.nan
    return widths

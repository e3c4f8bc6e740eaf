"""Sums of distances from every cell to every cluster of its group, computed in tiles.

Cells are sorted by (group, cluster), so the cells of one cluster of a group are consecutive rows, called a segment.
Groups are cut into blocks of rows, and a tile holds the distances between the rows of two blocks I and J. As distances
are symmetric, only tiles with J >= I are computed, and each is summed along both rows and columns. A panel is a run of
blocks with the same segments: one large segment, or several small ones. Its rows are centred on one mean. A pass is a
set of panels whose sums are in memory at the same time.

Sums over tiles are int64 in fixed point: integer addition does not depend on the order, so results have the same bits
for any number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from gpubench.core.types import Array

if TYPE_CHECKING:
    from gpubench.core.types import F64, I32, I64, Bools

MEANS_PER_STEP = 1 << 24
"""Number of sums that are turned into means at a time."""


@dataclass(frozen=True, slots=True)
class Segments:
    """Cells sorted by (group, cluster); a segment is one cluster of one group.

    Attributes
    ----------
    order : (n,) index of the cell at each sorted position
    starts : (n_segments + 1,) first sorted position of each segment, and n as the last entry
    group : (n_segments,) ascending number of the group that each segment belongs to
    """

    order: I64
    starts: I64
    group: I64

    @property
    def sizes(self) -> I64:
        """Number of cells of each segment, (n_segments,)."""
        return np.diff(self.starts)

    @property
    def group_sizes(self) -> list[tuple[int, int]]:
        """Number of cells and number of clusters of each group."""
        return [(int(self.starts[last] - self.starts[first]), last - first) for first, last in self.group_spans()]

    def group_spans(self) -> Iterator[tuple[int, int]]:
        """Yield the range of segments of each group as (start, stop)."""
        edges = np.flatnonzero(np.diff(self.group, prepend=-1, append=-1))
        yield from zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)


@dataclass(frozen=True, slots=True)
class Block:
    """Sorted rows [start, stop), which one side of a tile consists of.

    Attributes
    ----------
    start, stop : range of sorted rows
    first, last : range [first, last) of the segments to which the rows belong
    cuts : first row of each of these segments, relative to `start`
    panel : index of the panel, a run of blocks that have the same segments and are centred on the same mean
    """

    start: int
    stop: int
    first: int
    last: int
    cuts: I64
    panel: int


@dataclass(frozen=True, slots=True)
class Pass:
    """Blocks of a group whose sums are in memory at the same time.

    Attributes
    ----------
    first, last : range [first, last) of block indices of the pass
    group_first, group_last : range of block indices of the whole group
    """

    first: int
    last: int
    group_first: int
    group_last: int


def sort_cells(clusters: I32, groups: I32 | None) -> Segments:
    """Sort cells by group, then cluster."""
    key = clusters.astype(np.int64)
    n_clusters = int(key.max()) + 1
    if groups is not None:
        key += groups.astype(np.int64) * n_clusters
    order = np.argsort(key, kind="stable")
    key = key[order]
    starts = np.flatnonzero(np.diff(key, prepend=-1))
    group = key[starts] // n_clusters
    return Segments(order, np.append(starts, len(key)), group)


def cut(segments: Segments, block_rows: int) -> list[Block]:
    """Cut each group into blocks of at most `block_rows` rows: parts of a large segment, or several small segments."""
    blocks: list[Block] = []
    panel = 0
    for group_first, group_last in segments.group_spans():
        first = group_first
        while first < group_last:
            last = first + 1
            start = int(segments.starts[first])
            while last < group_last and segments.starts[last + 1] - start <= block_rows:
                last += 1
            stop = int(segments.starts[last])
            cuts = segments.starts[first:last] - start
            blocks.extend(
                Block(begin, min(begin + block_rows, stop), first, last, cuts, panel)
                for begin in range(start, stop, block_rows)
            )
            panel += 1
            first = last
    return blocks


def panels(blocks: list[Block]) -> list[tuple[int, int]]:
    """Return the range of rows of each panel as (start, stop)."""
    runs = [list(run) for _, run in groupby(blocks, key=lambda block: block.panel)]
    return [(run[0].start, run[-1].stop) for run in runs]


def isolate(segments: Segments, blocks: list[Block], marked: Bools) -> list[Block]:
    """Cut blocks further, so that no block holds both marked and unmarked cells.

    Parameters
    ----------
    marked : (n,) True for marked cells, in sorted order
    """
    cut_blocks = []
    for block in blocks:
        edges = block.start + 1 + np.flatnonzero(np.diff(marked[block.start : block.stop]))
        for start, stop in pairwise([block.start, *edges.tolist(), block.stop]):
            first = int(np.searchsorted(segments.starts, start, "right")) - 1
            last = int(np.searchsorted(segments.starts, stop, "left"))
            cuts = np.maximum(segments.starts[first:last] - start, 0)
            cut_blocks.append(Block(start, stop, first, last, cuts, block.panel))
    return cut_blocks


def marked_last(segments: Segments, marked: Bools) -> I64:
    """Return an order (n,) of the sorted positions in which the marked cells of each segment come last.

    In this order `isolate` cuts each segment at most once.
    """
    segment = np.repeat(np.arange(len(segments.sizes)), segments.sizes)
    return np.argsort(2 * segment + marked, kind="stable")


def passes(segments: Segments, blocks: list[Block], memory_bytes: int) -> Iterator[Pass]:
    """Yield passes over each group whose sums fit in `memory_bytes`; a pass has one panel at least."""
    group_first = 0
    for _, run in groupby(blocks, key=lambda block: int(segments.group[block.first])):
        group = list(run)
        group_last = group_first + len(group)
        sizes = (len(list(panel)) for _, panel in groupby(group, key=lambda block: block.panel))
        panel_ends = list(accumulate(sizes, initial=group_first))[1:]
        first, last = group_first, panel_ends[0]
        for end in panel_ends[1:]:
            if DistanceSums.n_bytes(blocks, Pass(first, end, group_first, group_last)) > memory_bytes:
                yield Pass(first, last, group_first, group_last)
                first = last
            last = end
        yield Pass(first, last, group_first, group_last)
        group_first = group_last


def in_cell_order(own: F64, nearest: F64, segments: Segments) -> tuple[F64, F64]:
    """Reorder mean distances from sorted order to the order of the cells.

    Parameters
    ----------
    own : (n,) mean distance to the own cluster, in sorted order; becomes NaN for the only cell of a segment
    nearest : (n,) mean distance to the nearest other cluster, in sorted order
    """
    a, b = np.empty(len(own)), np.empty(len(own))
    a[segments.order] = np.where(np.repeat(segments.sizes == 1, segments.sizes), np.nan, own)
    b[segments.order] = nearest
    return a, b


def fixed_point_unit(reach: float, n_cells: int, bits: int = 62) -> float:
    """Return the factor, a power of two, that converts distances within a group to fixed-point integers.

    Parameters
    ----------
    reach : largest possible distance
    n_cells : number of cells in the group
    bits : number of bits that the largest possible sum of distances may use
    """
    return float(2.0 ** np.floor(bits - np.log2(max(reach, 1.0) * (n_cells + 1))))


class DistanceSums:
    """Sums of distances from rows to segments in fixed point, for one pass over a group.

    The rows of a group, from left to right, and its segments, from top to bottom::

                     earlier passes |   this pass    |  later passes
                                    |                |
        earlier segments            |                |
        -----------------------------+----------------+--------------
        segments of this pass       |                |    after
                                    |     inside     +--------------
        later segments              |                |

    A pass computes the tiles between its own rows and these and all later rows. `inside` has the sums from the rows of
    the pass to its own and all later segments, `after` those from all later rows to the segments of the pass. The empty
    areas belong to other passes. A pass never cuts a segment: it has all rows of its segments.

    Attributes
    ----------
    unit : factor, a power of two, that converts distances to fixed-point integers
    """

    def __init__(
        self, xp: ModuleType, segments: Segments, blocks: list[Block], part: Pass, reach: float, bits: int = 62
    ) -> None:
        """Allocate sums of 0, scaled so that the largest possible sum of distances up to `reach` uses `bits` bits."""
        inside, after = self._shapes(blocks, part)
        self._xp = xp
        self._inside = xp.zeros(inside, np.int64)
        self._after = xp.zeros(after, np.int64)
        self._start, self._stop = blocks[part.first].start, blocks[part.last - 1].stop
        self._end = blocks[part.group_last - 1].stop
        self._first = blocks[part.first].first
        self._segments = segments
        self.unit = fixed_point_unit(reach, self._end - blocks[part.group_first].start, bits)

    @staticmethod
    def _shapes(blocks: list[Block], part: Pass) -> tuple[tuple[int, int], tuple[int, int]]:
        start, stop = blocks[part.first].start, blocks[part.last - 1].stop
        end = blocks[part.group_last - 1].stop
        first, last = blocks[part.first].first, blocks[part.last - 1].last
        return (blocks[part.group_last - 1].last - first, stop - start), (last - first, end - stop)

    @classmethod
    def n_bytes(cls, blocks: list[Block], part: Pass) -> int:
        """Return the memory of the sums of a pass in bytes."""
        return sum(8 * rows * columns for rows, columns in cls._shapes(blocks, part))

    @property
    def tables(self) -> tuple[Array, Array]:
        """The sums `inside` and `after` so far, (segments, rows) int64 each."""
        return self._inside, self._after

    def add(self, tables: tuple[Array, Array]) -> None:
        """Add the `tables` of another process that has summed other tiles of the same pass."""
        self._inside += tables[0]
        self._after += tables[1]

    def between(self, block: Block, to: Block) -> Array:
        """Return a view of the sums from the rows of `block` to the segments of `to`: (segments, rows) int64."""
        segments = slice(to.first - self._first, to.last - self._first)
        if block.start < self._stop:
            return self._inside[segments, block.start - self._start : block.stop - self._start]
        return self._after[segments, block.start - self._stop : block.stop - self._stop]

    def write_means(self, own: Array, nearest: Array) -> None:
        """Turn the sums into mean distances and write these into the results of all passes.

        Parameters
        ----------
        own : (n,) float64 in sorted order, mean distance to the own segment; written for the rows of the pass
        nearest : (n,) float64 in sorted order, smallest mean distance to another segment so far, infinite before the
            first pass; lowered for the rows of the pass and all later rows
        """
        xp, n_own_segments = self._xp, len(self._after)
        pass_rows = nearest[self._start : self._stop]
        for first, last in self._steps(self._inside):
            means = self._means(self._inside, first, last)
            last_own = min(last, n_own_segments)
            if first < last_own:
                sizes = self._sizes(first, last_own)
                segment = np.repeat(np.arange(len(sizes)), sizes)  # of each row of these segments
                begin = int(self._segments.starts[self._first + first])
                rows = slice(begin, begin + len(segment))
                at = xp.asarray(segment), xp.arange(begin - self._start, begin - self._start + len(segment))
                n_others = xp.asarray(np.repeat(np.maximum(sizes - 1, 1), sizes))
                own[rows] = self._inside[first:last][at] / (self.unit * n_others)
                means[at] = np.inf
            xp.minimum(pass_rows, means.min(axis=0), out=pass_rows)
        later_rows = nearest[self._stop : self._end]
        for first, last in self._steps(self._after):
            xp.minimum(later_rows, self._means(self._after, first, last).min(axis=0), out=later_rows)

    def _sizes(self, first: int, last: int) -> I64:
        return self._segments.sizes[self._first + first : self._first + last]

    def _means(self, sums: Array, first: int, last: int) -> Array:
        return sums[first:last] / (self.unit * self._xp.asarray(self._sizes(first, last))[:, None])

    @staticmethod
    def _steps(sums: Array) -> Iterator[tuple[int, int]]:
        """Yield ranges of segments small enough that their means fit in a temporary array."""
        n_segments, n_rows = sums.shape
        step = max(1, MEANS_PER_STEP // max(1, n_rows))
        for first in range(0, n_segments if n_rows else 0, step):
            yield first, min(first + step, n_segments)

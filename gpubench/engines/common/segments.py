"""Cells sorted into segments, blocks, and sums of distances to segments: what silhouette widths share on any device.

Cells are sorted once so that every (group, cluster) is one contiguous *segment*. Rows are cut into blocks that hold
a part of one segment, or several whole small ones, so a tile of distances between two blocks needs only a few row
sums and column sums. Distances are symmetric, so only tiles J >= I of the same group are computed, and each serves
both sides.

Sums over tiles are kept as int64 fixed point: integer addition does not depend on order, so the result has the same
bits for any number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from gpubench.core.types import Array

if TYPE_CHECKING:
    from numpy.typing import NDArray

FOLD_VALUES = 1 << 24
"""Sums that are turned into means at a time."""


@dataclass(frozen=True, slots=True)
class Segments:
    """Cells sorted by (group, cluster); a segment is one cluster of one group."""

    order: NDArray[np.int64]
    starts: NDArray[np.int64]  # (n_segments + 1,)
    group: NDArray[np.int64]  # (n_segments,) which group a segment is in, 0, 1, ... in order

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(n_segments,) cells of each segment."""
        return np.diff(self.starts)

    @property
    def group_sizes(self) -> list[tuple[int, int]]:
        """Cells and clusters of each group."""
        return [(int(self.starts[last] - self.starts[first]), last - first) for first, last in self.group_spans()]

    def group_spans(self) -> Iterator[tuple[int, int]]:
        """(first, last + 1) segment of each group."""
        edges = np.flatnonzero(np.diff(self.group, prepend=-1, append=-1))
        yield from zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive rows; segments [first, last) lie in them, cut where `cuts` says (relative to `start`)."""

    start: int
    stop: int
    first: int
    last: int
    cuts: NDArray[np.int64]
    panel: int  # blocks of one panel are centred on the same mean


@dataclass(frozen=True, slots=True)
class Pass:
    """Blocks [first, last) of a group, [group_first, group_last), whose sums are held at the same time."""

    first: int
    last: int
    group_first: int
    group_last: int


def sort_cells(clusters: NDArray[np.int32], groups: NDArray[np.int32] | None) -> Segments:
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
    """Cut each group into blocks: parts of one large segment, or runs of small whole ones."""
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
    """(first, last + 1) row of each panel."""
    spans: dict[int, tuple[int, int]] = {}
    for block in blocks:
        spans[block.panel] = (spans.get(block.panel, (block.start, 0))[0], block.stop)
    return list(spans.values())


def isolate(segments: Segments, blocks: list[Block], apart: NDArray[np.bool_]) -> list[Block]:
    """Cut blocks further, so that no block holds both cells that are marked and cells that are not.

    Parameters
    ----------
    apart : (n,) in sorted order
    """
    cut_blocks = []
    for block in blocks:
        edges = block.start + 1 + np.flatnonzero(np.diff(apart[block.start : block.stop]))
        for start, stop in pairwise([block.start, *edges.tolist(), block.stop]):
            first = int(np.searchsorted(segments.starts, start, "right")) - 1
            last = int(np.searchsorted(segments.starts, stop, "left"))
            cuts = np.maximum(segments.starts[first:last] - start, 0)
            cut_blocks.append(Block(start, stop, first, last, cuts, block.panel))
    return cut_blocks


def passes(segments: Segments, blocks: list[Block], memory_bytes: int) -> Iterator[Pass]:
    """Split the work so that the sums of one pass fit the memory; whole panels only, at least one."""
    group_of = [int(segments.group[block.first]) for block in blocks]
    first = group_first = 0
    while first < len(blocks):
        if group_of[first] != group_of[group_first]:
            group_first = first
        group_last = first
        while group_last < len(blocks) and group_of[group_last] == group_of[first]:
            group_last += 1
        last = first
        while last < group_last:
            panel_last = last
            while panel_last < group_last and blocks[panel_last].panel == blocks[last].panel:
                panel_last += 1
            part = Pass(first, panel_last, group_first, group_last)
            if last > first and DistanceSums.n_bytes(blocks, part) > memory_bytes:
                break
            last = panel_last
        yield Pass(first, last, group_first, group_last)
        first = last


def in_cell_order(
    own: NDArray[np.float64], nearest: NDArray[np.float64], segments: Segments
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean distances in the cells' own order; the one to the own cluster is NaN for a cell alone in it.

    Parameters
    ----------
    own, nearest : (n,) in sorted order
    """
    a, b = np.empty(len(own)), np.empty(len(own))
    a[segments.order] = np.where(np.repeat(segments.sizes == 1, segments.sizes), np.nan, own)
    b[segments.order] = nearest
    return a, b


def fixed_point_unit(reach: float, n_cells: int, bits: int = 62) -> float:
    """What a distance is multiplied by in fixed point, a power of two; the same however the group is cut.

    Parameters
    ----------
    reach : the largest possible distance
    n_cells : of the group
    bits : that the largest possible sum uses
    """
    return float(2.0 ** np.floor(bits - np.log2(max(reach, 1.0) * (n_cells + 1))))


class DistanceSums:
    """Sums of distances from cells to segments in fixed point, for one pass.

    `_inside[s, r]` is the sum from the pass's row r to segment s of the pass or after it; `_after[s, r]` from the later
    row r to segment s of the pass.

    Attributes
    ----------
    unit : what a distance is multiplied by, a power of two
    """

    def __init__(
        self, xp: ModuleType, segments: Segments, blocks: list[Block], part: Pass, reach: float, bits: int = 62
    ) -> None:
        """Make empty sums; the largest possible one, of distances up to `reach`, uses `bits` bits."""
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
        """What the sums of this pass take."""
        return sum(8 * rows * columns for rows, columns in cls._shapes(blocks, part))

    @property
    def tables(self) -> tuple[Array, Array]:
        """All that was added up so far, as integers."""
        return self._inside, self._after

    def add(self, tables: tuple[Array, Array]) -> None:
        """Add what was added up elsewhere for the same pass."""
        self._inside += tables[0]
        self._after += tables[1]

    def between(self, block: Block, to: Block) -> Array:
        """(segments of `to`, rows of `block`) int64, a view to add the sums of a tile to."""
        segments = slice(to.first - self._first, to.last - self._first)
        if block.start < self._stop:
            return self._inside[segments, block.start - self._start : block.stop - self._start]
        return self._after[segments, block.start - self._stop : block.stop - self._stop]

    def write_means(self, own: Array, nearest: Array) -> None:
        """Turn the finished sums into means: a of the pass's cells, and the smallest b seen so far.

        Parameters
        ----------
        own, nearest : (n,) float64 in sorted order, written
        """
        xp, start = self._xp, self._start
        for first, last in self._pieces(self._inside):
            sums, means = self._inside[first:last], self._means(self._inside, first, last)
            # a pass holds whole segments, so the rows of its own ones are consecutive and all here
            sizes = self._sizes(first, min(last, len(self._after)))
            if len(sizes):
                code = xp.asarray(np.repeat(np.arange(len(sizes)), sizes))
                begin = int(self._segments.starts[self._first + first])
                row = xp.arange(begin - start, begin - start + len(code))
                others = xp.asarray(np.repeat(np.maximum(sizes - 1, 1), sizes))
                own[begin : begin + len(code)] = sums[code, row] / (self.unit * others)
                means[code, row] = np.inf
            rows = nearest[start : self._stop]
            xp.minimum(rows, means.min(axis=0), out=rows)
        for first, last in self._pieces(self._after):
            rows = nearest[self._stop : self._end]
            xp.minimum(rows, self._means(self._after, first, last).min(axis=0), out=rows)

    def _sizes(self, first: int, last: int) -> NDArray[np.int64]:
        return self._segments.sizes[self._first + first : self._first + max(first, last)]

    def _means(self, sums: Array, first: int, last: int) -> Array:
        return sums[first:last] / (self.unit * self._xp.asarray(self._sizes(first, last))[:, None])

    @staticmethod
    def _pieces(sums: Array) -> Iterator[tuple[int, int]]:
        """Runs of segments whose sums are folded together."""
        n_segments, n_rows = sums.shape
        step = max(1, FOLD_VALUES // max(1, n_rows))
        for first in range(0, n_segments if n_rows else 0, step):
            yield first, min(first + step, n_segments)

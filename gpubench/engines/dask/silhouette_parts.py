"""The tasks of silhouettes: runs of blocks of sorted cells are parts, and a task compares two of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

import numpy as np

from gpubench.engines.common.segments import Block, Segments, cut, fixed_point_unit
from gpubench.engines.cpu.silhouette import fixed_tile_sums
from gpubench.engines.cpu.tiles import BLOCK_ROWS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from gpubench.engines.cpu.tiles import CentredRows, Summer


FOLD_ROWS = 4096
"""Rows whose means are formed at a time."""


@dataclass(slots=True)
class PartialDistances:
    """Mean distances of consecutive rows to the clusters of some of the parts of their group.

    Attributes
    ----------
    own : (m,) mean distances to the own cluster; NaN where not known yet; None: not known for any row
    nearest : (m,) the smallest mean distance to another cluster so far; None: no cluster so far
    cut : segment -> how many of its cells were compared, and (m,) sums of distances to them in fixed point; for
        clusters that several parts share
    """

    own: NDArray[np.float64] | None = None
    nearest: NDArray[np.float64] | None = None
    cut: dict[int, tuple[int, NDArray[np.int64]]] = field(default_factory=dict)

    def add(self, other: PartialDistances) -> None:
        """Merge the distances of the same rows to other parts."""
        if other.own is not None:
            self.own = other.own if self.own is None else np.where(np.isnan(other.own), self.own, other.own)
        self._add_nearest(other.nearest)
        for segment, (count, sums) in other.cut.items():
            known, before = self.cut.get(segment, (0, None))
            self.cut[segment] = known + count, sums if before is None else before + sums

    def _add_nearest(self, nearest: NDArray[np.float64] | None) -> None:
        if nearest is not None:
            self.nearest = nearest if self.nearest is None else np.minimum(self.nearest, nearest)

    def finish(self, layout: Layout, segment: NDArray[np.int64], unit: float) -> None:
        """Turn sums to segments into means, where all cells of the segment were compared.

        Parameters
        ----------
        segment : (m,) of each row
        """
        sizes = layout.segments.sizes
        for number in [number for number, (count, _) in self.cut.items() if count == sizes[number]]:
            _, sums = self.cut.pop(number)
            inside = segment == number
            if inside.any():
                own = np.full(len(segment), np.nan)
                own[inside] = sums[inside] / (unit * max(int(sizes[number]) - 1, 1))
                self.add(PartialDistances(own))
            self._add_nearest(np.where(inside, np.inf, sums / (unit * sizes[number])))


def sum_pair(
    layout: Layout, rows: CentredRows, summer: Summer, first: Span, second: Span, unit: float
) -> tuple[PartialDistances, ...]:
    """Compare the cells of two parts of a group; return the distances of the rows of each, or once of the same part."""
    blocks, same = layout.blocks, first == second
    sums = [_empty_sums(layout, first, second)]
    sums.append(sums[0] if same else _empty_sums(layout, second, first))
    for i in range(*first):
        for j in range(i if same else second[0], second[1]):
            left_sums, right_sums = fixed_tile_sums(rows, summer, blocks[i], blocks[j], unit)
            _sums_view(layout, sums[0], first, second, blocks[i], blocks[j])[...] += left_sums
            if i != j:
                _sums_view(layout, sums[1], second, first, blocks[j], blocks[i])[...] += right_sums
    found = [partial_distances(layout, sums[0], layout.own_segment(first), second, unit)]
    if not same:
        found.append(partial_distances(layout, sums[1], layout.own_segment(second), first, unit))
    return tuple(found)


def _empty_sums(layout: Layout, rows: Span, to: Span) -> NDArray[np.int64]:
    """Return zeros, (segments of one part, rows of another)."""
    (start, stop), (first, last) = layout.row_range(rows), layout.segment_range(to)
    return np.zeros((last - first, stop - start), np.int64)


def _sums_view(
    layout: Layout, sums: NDArray[np.int64], rows: Span, to: Span, block: Block, other: Block
) -> NDArray[np.int64]:
    start, first = layout.row_range(rows)[0], layout.segment_range(to)[0]
    return sums[other.first - first : other.last - first, block.start - start : block.stop - start]


def partial_distances(
    layout: Layout, sums: NDArray[np.int64], segment: NDArray[np.int64], to: Span, unit: float
) -> PartialDistances:
    """Reduce sums to mean distances of each row to clusters wholly in the part; keep sums for clusters cut by its edge.

    Parameters
    ----------
    sums : (segments of the part, m) sums of distances of some rows
    segment : (m,) of each row
    to : the part
    """
    first, last = layout.segment_range(to)
    start, stop = layout.row_range(to)
    starts, sizes = layout.segments.starts[first : last + 1], layout.segments.sizes[first:last]
    whole = (starts[:-1] >= start) & (starts[1:] <= stop)
    counts = np.minimum(starts[1:], stop) - np.maximum(starts[:-1], start)
    found = PartialDistances(cut={int(first + i): (int(counts[i]), sums[i].copy()) for i in np.flatnonzero(~whole)})
    if not whole.any():
        return found
    whole_sums, whole_sizes = sums[whole], sizes[whole]
    number = np.full(last - first, -1)
    number[whole] = np.arange(len(whole_sizes))
    own, nearest = np.full(len(segment), np.nan), np.full(len(segment), np.inf)
    for begin in range(0, len(segment), FOLD_ROWS):
        part = slice(begin, begin + FOLD_ROWS)
        means = whole_sums[:, part] / (unit * whole_sizes[:, None])
        inside = np.flatnonzero((segment[part] >= first) & (segment[part] < last))
        code = number[segment[part][inside] - first]
        inside, code = inside[code >= 0], code[code >= 0]
        own[begin + inside] = whole_sums[code, begin + inside] / (unit * np.maximum(whole_sizes[code] - 1, 1))
        means[code, inside] = np.inf
        nearest[part] = means.min(axis=0)
    found.own = None if np.isnan(own).all() else own
    found.nearest = nearest
    return found


def merge(found: list[tuple[tuple[PartialDistances, ...], int]]) -> PartialDistances:
    """Merge the answers of several tasks about the same rows."""
    merged = PartialDistances()
    for answer, side in found:
        merged.add(answer[side])
    return merged


def final_means(merged: PartialDistances, m: int, scale: float) -> Means:
    """Return the mean distances of m rows, of which all is known, to the own and to the nearest other cluster."""
    assert merged.own is not None, "a cell is compared with its own cluster"
    nearest = np.full(m, np.inf) if merged.nearest is None else merged.nearest
    return merged.own / scale, nearest / scale


Means = tuple["NDArray[np.float64]", "NDArray[np.float64]"]
"""Mean distances of consecutive rows to the own cluster, and to the nearest other."""

TASK_PRODUCTS = 1.2e11
"""Differences of two values of one task, a few seconds on one core."""

TASKS_PER_SLOT = 6
"""Tasks for each that runs at a time, at least, so that all end at about the same time."""

MAX_PARTS = 400
"""Parts that the cells are cut into at most: 80,000 pairs."""

SUM_BYTES = 1 << 28
"""Memory of the sums of one task."""

Span = tuple[int, int]


class Layout:
    """The segments and blocks of sorted cells: which rows a part has is known without the cells.

    Attributes
    ----------
    segments : their order may be left out
    """

    def __init__(self, segments: Segments) -> None:
        self.segments = segments
        self.blocks: list[Block] = cut(segments, BLOCK_ROWS)

    @cached_property
    def groups(self) -> list[Span]:
        """(first, last + 1) block of each group."""
        return list(_groups(self.segments, self.blocks))

    @property
    def n(self) -> int:
        """All cells."""
        return self.blocks[-1].stop

    def row_range(self, span: Span) -> Span:
        """First row, and the one after the last, of a run of blocks."""
        return self.blocks[span[0]].start, self.blocks[span[1] - 1].stop

    def segment_range(self, span: Span) -> Span:
        """First segment, and the one after the last, of a run of blocks."""
        return self.blocks[span[0]].first, self.blocks[span[1] - 1].last

    def unit(self, group: Span, reach: float) -> float:
        """The factor of distances inside a group in fixed point."""
        start, stop = self.row_range(group)
        return fixed_point_unit(reach, stop - start)

    def own_segment(self, span: Span) -> NDArray[np.int64]:
        """The segment of each row of a run of blocks."""
        found: NDArray[np.int64] = np.searchsorted(self.segments.starts, np.arange(*self.row_range(span)), "right") - 1
        return found


@dataclass(frozen=True, slots=True)
class BlockRun:
    """A run of blocks of a large group; or of whole small groups, where `group` is None."""

    span: Span
    group: Span | None


def pairs(parts: list[BlockRun]) -> Iterator[tuple[int, int]]:
    """Yield the numbers of the parts to compare: each part of a large group with itself and with all others.

    A part with itself, which is half the work, comes last, so that all workers end at about the same time.
    """
    first = 0
    while first < len(parts):
        last = first + 1
        while parts[first].group is not None and last < len(parts) and parts[last].group == parts[first].group:
            last += 1
        yield from combinations(range(first, last), 2)
        yield from ((i, i) for i in range(first, last))
        first = last


def cut_parts(
    layout: Layout, d: int, n_slots: int, *, max_parts: int = MAX_PARTS, max_rows: int | None = None
) -> list[BlockRun]:
    """Cut the cells into parts, in order.

    Parameters
    ----------
    n_slots : tasks that run at a time
    max_parts : parts that large groups are cut into, unless these have too many rows
    max_rows : rows of a part, where a group or its blocks have more; None: no limit
    """
    segments, blocks = layout.segments, layout.blocks
    parts: list[BlockRun] = []
    products = sum((blocks[last - 1].stop - blocks[first].start) ** 2 / 2 for first, last in layout.groups)
    task_products = min(TASK_PRODUCTS / d, products / (TASKS_PER_SLOT * n_slots))
    small: Span | None = None
    waiting = 0.0
    for first, last in layout.groups:
        rows = blocks[last - 1].stop - blocks[first].start
        n_segments = blocks[last - 1].last - blocks[first].first
        part_size = max(task_products**0.5, layout.n / max_parts)
        part_size = min(part_size, (SUM_BYTES / 16 * rows / n_segments) ** 0.5, max_rows or np.inf)
        is_small = rows <= max(part_size, BLOCK_ROWS)
        if small and (not is_small or blocks[last - 1].stop - blocks[small[0]].start > (max_rows or np.inf)):
            parts.append(BlockRun(small, None))
            small, waiting = None, 0.0
        if not is_small:
            parts += [BlockRun(span, (first, last)) for span in _runs(blocks, (first, last), part_size)]
            continue
        small = (small[0] if small else first), last
        waiting += rows**2 / 2
        if waiting >= task_products:
            parts.append(BlockRun(small, None))
            small, waiting = None, 0.0
    if small:
        parts.append(BlockRun(small, None))
    assert segments.starts[-1] == layout.n
    return parts


def _runs(blocks: list[Block], group: Span, max_rows: float) -> Iterator[Span]:
    """Cut the blocks of a group into consecutive runs of about equal numbers of rows, at most about `max_rows`."""
    start, stop = blocks[group[0]].start, blocks[group[1] - 1].stop
    n_parts = -(-(stop - start) // max(int(max_rows), 1))
    part = [(block.start - start) * n_parts // (stop - start) for block in blocks[slice(*group)]]
    edges = [i for i in range(1, len(part)) if part[i] != part[i - 1]]
    yield from ((group[0] + a, group[0] + b) for a, b in pairwise([0, *edges, len(part)]))


def _groups(segments: Segments, blocks: list[Block]) -> Iterator[Span]:
    first = 0
    for _, last_segment in segments.group_spans():
        last = first
        while last < len(blocks) and blocks[last].first < last_segment:
            last += 1
        yield first, last
        first = last


def compared_counts(segment: NDArray[np.int64], segments: Segments) -> Iterator[tuple[int, int]]:
    """Yield how many cells of a sample each group has, and how many cells in total.

    Parameters
    ----------
    segment : (m,) of each cell of the sample
    """
    n_groups = int(segments.group[-1]) + 1
    drawn = np.bincount(segments.group[segment], minlength=n_groups)
    sizes = np.bincount(segments.group, weights=segments.sizes, minlength=n_groups)
    yield from zip(drawn.tolist(), sizes.astype(np.int64).tolist(), strict=True)

"""How silhouettes are cut into tasks: runs of blocks of sorted cells are parts, and a task compares two of them."""

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
class Found:
    """What is known of consecutive rows from some of the parts of their group.

    Attributes
    ----------
    own : (m,) mean distances to the own cluster; NaN where not known yet; None: of no row
    nearest : (m,) the smallest mean distance to another cluster so far; None: to none
    cut : segment -> how many of its cells were compared, and (m,) sums of distances to them in fixed point; of clusters
        that several parts share
    """

    own: NDArray[np.float64] | None = None
    nearest: NDArray[np.float64] | None = None
    cut: dict[int, tuple[int, NDArray[np.int64]]] = field(default_factory=dict)

    def add(self, other: Found) -> None:
        """Take what was found elsewhere of the same rows."""
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
        """Turn sums to segments, all of whose cells were compared, into means.

        Parameters
        ----------
        segment : (m,) that each row is in
        """
        sizes = layout.segments.sizes
        for number in [number for number, (count, _) in self.cut.items() if count == sizes[number]]:
            _, sums = self.cut.pop(number)
            inside = segment == number
            if inside.any():
                own = np.full(len(segment), np.nan)
                own[inside] = sums[inside] / (unit * max(int(sizes[number]) - 1, 1))
                self.add(Found(own))
            self._add_nearest(np.where(inside, np.inf, sums / (unit * sizes[number])))


def sum_pair(
    layout: Layout, rows: CentredRows, summer: Summer, first: Span, second: Span, unit: float
) -> tuple[Found, ...]:
    """Distances between the cells of two parts of a group: what is found of the rows of each.

    Where both are the same part it is found once.
    """
    blocks, same = layout.blocks, first == second
    sums = [_empty_sums(layout, first, second)]
    sums.append(sums[0] if same else _empty_sums(layout, second, first))
    for i in range(*first):
        for j in range(i if same else second[0], second[1]):
            of_left, of_right = fixed_tile_sums(rows, summer, blocks[i], blocks[j], unit)
            _part_of_sums(layout, sums[0], first, second, blocks[i], blocks[j])[...] += of_left
            if i != j:
                _part_of_sums(layout, sums[1], second, first, blocks[j], blocks[i])[...] += of_right
    found = [found_in(layout, sums[0], layout.own_segment(first), second, unit)]
    if not same:
        found.append(found_in(layout, sums[1], layout.own_segment(second), first, unit))
    return tuple(found)


def _empty_sums(layout: Layout, rows: Span, to: Span) -> NDArray[np.int64]:
    """(segments of one part, rows of another)."""
    (start, stop), (first, last) = layout.rows_of(rows), layout.segments_of(to)
    return np.zeros((last - first, stop - start), np.int64)


def _part_of_sums(
    layout: Layout, sums: NDArray[np.int64], rows: Span, to: Span, block: Block, other: Block
) -> NDArray[np.int64]:
    start, first = layout.rows_of(rows)[0], layout.segments_of(to)[0]
    return sums[other.first - first : other.last - first, block.start - start : block.stop - start]


def found_in(layout: Layout, sums: NDArray[np.int64], segment: NDArray[np.int64], to: Span, unit: float) -> Found:
    """Means of the clusters that lie in one part, and sums of those that are cut.

    Parameters
    ----------
    sums : (segments of the part, m) of some rows
    segment : (m,) that each row is in
    to : the part
    """
    first, last = layout.segments_of(to)
    start, stop = layout.rows_of(to)
    starts, sizes = layout.segments.starts[first : last + 1], layout.segments.sizes[first:last]
    whole = (starts[:-1] >= start) & (starts[1:] <= stop)
    counts = np.minimum(starts[1:], stop) - np.maximum(starts[:-1], start)
    found = Found(cut={int(first + i): (int(counts[i]), sums[i].copy()) for i in np.flatnonzero(~whole)})
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


def together(found: list[tuple[tuple[Found, ...], int]]) -> Found:
    """Put together what several tasks have found of the same rows."""
    merged = Found()
    for of_task, side in found:
        merged.add(of_task[side])
    return merged


def means(merged: Found, m: int, scale: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means of m rows of which everything is found: to the own cluster, to the nearest other."""
    assert merged.own is not None, "a cell is compared with its own cluster"
    nearest = np.full(m, np.inf) if merged.nearest is None else merged.nearest
    return merged.own / scale, nearest / scale


TASK_PRODUCTS = 1.2e11
"""Differences of two values of one task, a few seconds on one core."""

TASKS_PER_SLOT = 6
"""Tasks that there are for each that runs at a time, at least, so that all end at about the same time."""

MAX_PARTS = 400
"""Parts that the cells are cut into at most: 80,000 pairs."""

SUM_BYTES = 1 << 28
"""Memory of the sums of one task."""

Span = tuple[int, int]


class Layout:
    """Cells sorted into segments and blocks, by number alone: no cell is needed to know which rows a part has.

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

    def rows_of(self, span: Span) -> Span:
        """First row, and the one after the last, of a run of blocks."""
        return self.blocks[span[0]].start, self.blocks[span[1] - 1].stop

    def segments_of(self, span: Span) -> Span:
        """First segment, and the one after the last, of a run of blocks."""
        return self.blocks[span[0]].first, self.blocks[span[1] - 1].last

    def unit(self, group: Span, reach: float) -> float:
        """What distances inside a group are multiplied by."""
        start, stop = self.rows_of(group)
        return fixed_point_unit(reach, stop - start)

    def own_segment(self, span: Span) -> NDArray[np.int64]:
        """The segment of each row of a run of blocks."""
        found: NDArray[np.int64] = np.searchsorted(self.segments.starts, np.arange(*self.rows_of(span)), "right") - 1
        return found


@dataclass(frozen=True, slots=True)
class Part:
    """A run of blocks of a large group; or of whole small groups, where `group` is None."""

    span: Span
    group: Span | None


def pairs(parts: list[Part]) -> Iterator[tuple[int, int]]:
    """The parts that are compared, by number: those of a large group each with itself and with all others.

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


def parts_of(
    layout: Layout, d: int, n_slots: int, *, most_parts: int = MAX_PARTS, most_rows: int | None = None
) -> list[Part]:
    """Cut the cells into parts, in order.

    Parameters
    ----------
    n_slots : tasks that run at a time
    most_parts : that large groups are cut into, unless their rows are too many
    most_rows : that a part may have, where a group or its blocks have more; None: as many as there are
    """
    segments, blocks = layout.segments, layout.blocks
    parts: list[Part] = []
    products = sum((blocks[last - 1].stop - blocks[first].start) ** 2 / 2 for first, last in layout.groups)
    a_task = min(TASK_PRODUCTS / d, products / (TASKS_PER_SLOT * n_slots))
    small: Span | None = None
    waiting = 0.0
    for first, last in layout.groups:
        rows = blocks[last - 1].stop - blocks[first].start
        n_segments = blocks[last - 1].last - blocks[first].first
        a_part = max(a_task**0.5, layout.n / most_parts)
        a_part = min(a_part, (SUM_BYTES / 16 * rows / n_segments) ** 0.5, most_rows or np.inf)
        is_small = rows <= max(a_part, BLOCK_ROWS)
        if small and (not is_small or blocks[last - 1].stop - blocks[small[0]].start > (most_rows or np.inf)):
            parts.append(Part(small, None))
            small, waiting = None, 0.0
        if not is_small:
            parts += [Part(span, (first, last)) for span in _runs(blocks, (first, last), a_part)]
            continue
        small = (small[0] if small else first), last
        waiting += rows**2 / 2
        if waiting >= a_task:
            parts.append(Part(small, None))
            small, waiting = None, 0.0
    if small:
        parts.append(Part(small, None))
    assert segments.starts[-1] == layout.n
    return parts


def _runs(blocks: list[Block], group: Span, most_rows: float) -> Iterator[Span]:
    """Cut a group into runs of blocks with about as many rows each."""
    start, stop = blocks[group[0]].start, blocks[group[1] - 1].stop
    n_parts = -(-(stop - start) // max(int(most_rows), 1))
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


def compared(segment: NDArray[np.int64], segments: Segments) -> Iterator[tuple[int, int]]:
    """How many cells of a sample are of each group, and how many the group has.

    Parameters
    ----------
    segment : of each cell of the sample
    """
    n_groups = int(segments.group[-1]) + 1
    drawn = np.bincount(segments.group[segment], minlength=n_groups)
    sizes = np.bincount(segments.group, weights=segments.sizes, minlength=n_groups)
    yield from zip(drawn.tolist(), sizes.astype(np.int64).tolist(), strict=True)

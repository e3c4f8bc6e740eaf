"""How silhouettes are cut into tasks: runs of blocks of sorted cells are parts, and a task compares two of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

import numpy as np

from gpubench.engines.cpu_tiles import BLOCK_ROWS
from gpubench.engines.segments import Block, Segments, cut, unit_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

TASK_PRODUCTS = 1.2e11
"""Differences of two values of one task, a few seconds on one core."""

TASKS_A_SLOT = 6
"""Tasks that there are for each that runs at a time, at least, so that all end at about the same time."""

MOST_PARTS = 400
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
        return unit_of(reach, stop - start)

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
    layout: Layout, d: int, n_slots: int, *, most_parts: int = MOST_PARTS, most_rows: int | None = None
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
    a_task = min(TASK_PRODUCTS / d, products / (TASKS_A_SLOT * n_slots))
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
    for _, last_segment in segments.of_groups():
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

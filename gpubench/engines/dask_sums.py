"""What tasks find of the distances between two parts of a group, and how it is put together.

Sums are integers in fixed point: they can be added in any order, so that neither the cut nor the workers leave a trace
in the result.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from gpubench.engines.cpu_silhouette import fixed_tile_sums

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.cpu_tiles import CentredRows, Summer
    from gpubench.engines.dask_parts import Layout, Span
    from gpubench.engines.segments import Block

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

"""Silhouettes on a cluster: tasks add up the distances between two parts of a group, and what they find is merged.

Cells are sorted and cut into blocks as on one machine (see `segments`); runs of blocks are parts. Sums are integers in
fixed point: they can be added in any order, so that neither the cut nor the workers leave a trace in the result.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.engines.cpu_sampled import CELLS_A_PIECE, Sample
from gpubench.engines.cpu_silhouette import fixed_tile_sums
from gpubench.engines.cpu_tiles import BLOCK_ROWS, CentredRows, make_summer
from gpubench.engines.dask_worker import kept
from gpubench.engines.segments import Block, Segments, cut, own_means, sort_cells, unit_of, widths_from_means

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from gpubench.engines.dask_cluster import Cluster
    from gpubench.engines.dask_worker import Recipe

TASK_PRODUCTS = 1.2e11
"""Differences of two values of one task, a few seconds on one core."""

TASKS_A_SLOT = 6
"""Tasks that there are for each that runs at a time, at least, so that all end at about the same time."""

MOST_PARTS = 400
"""Parts that the cells are cut into at most: 80,000 pairs."""

SUM_BYTES = 1 << 28
"""Memory of the sums of one task."""

FOLD_ROWS = 4096
"""Rows whose means are formed at a time."""

PIECES_A_TASK = 8
"""Pieces of a sample that a task compares with their groups, at least."""

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Columns:
    """The cells of a silhouette, as tasks are told of them.

    Attributes
    ----------
    x : what stands for the matrix
    key : tells matrix and columns from others that workers hold
    clusters, groups : the codes, or what stands for them
    """

    x: Any
    key: str
    clusters: Any
    groups: Any

    @property
    def told(self) -> tuple[Any, ...]:
        """The arguments that every task takes."""
        return self.x, self.key, self.clusters, self.groups


@dataclass(slots=True)
class Found:
    """What is known of consecutive rows from some of the parts of their group.

    Attributes
    ----------
    own : (m,) mean distances to the own cluster; NaN where not known yet
    nearest : (m,) the smallest mean distance to another cluster so far
    cut : segment -> (m,) sums of distances to it in fixed point, of clusters that several parts share
    """

    own: NDArray[np.float64]
    nearest: NDArray[np.float64]
    cut: dict[int, NDArray[np.int64]] = field(default_factory=dict)


class Sorted:
    """Sorted and centred cells, which a worker makes once."""

    def __init__(self, x: NDArray[np.float32], clusters: NDArray[Any], groups: NDArray[Any] | None) -> None:
        self.segments = sort_cells(clusters, groups)
        self.blocks = cut(self.segments, BLOCK_ROWS)
        self.rows = CentredRows(x, self.segments, self.blocks)

    @classmethod
    def here(cls, x: NDArray[np.float32], key: str, clusters: NDArray[Any], groups: NDArray[Any] | None) -> Sorted:
        """Those of this worker."""
        return kept(("sorted", *key.split()), lambda: cls(x, clusters, groups))

    def rows_of(self, span: Span) -> Span:
        """First row, and the one after the last, of a run of blocks."""
        return self.blocks[span[0]].start, self.blocks[span[1] - 1].stop

    def unit(self, group: Span) -> float:
        """What distances inside a group are multiplied by."""
        start, stop = self.rows_of(group)
        return unit_of(self.rows.reach, stop - start)

    def own_segment(self, span: Span) -> NDArray[np.int64]:
        """The segment of each row of a run of blocks."""
        return np.searchsorted(self.segments.starts, np.arange(*self.rows_of(span)), "right") - 1


def silhouette_widths(cluster: Cluster, columns: Columns, segments: Segments, d: int, recipe: Recipe) -> Any:
    """Silhouette widths of all cells, on one worker; see `Engine.silhouette_widths`."""
    return cluster.submit("widths", _widths, _means(cluster, columns, segments, d, recipe), *columns.told)


def mean_distances(cluster: Cluster, columns: Columns, segments: Segments, d: int, recipe: Recipe) -> Any:
    """Mean distances to the own cluster, on one worker; the groups of `columns` are these clusters."""
    return cluster.submit("means", _own_means, _means(cluster, columns, segments, d, recipe), *columns.told)


def _means(cluster: Cluster, columns: Columns, segments: Segments, d: int, recipe: Recipe) -> list[Any]:
    """Futures of what is found of consecutive rows, which together are all rows."""
    blocks = cut(segments, BLOCK_ROWS)
    calls: list[tuple[Any, ...]] = []
    ends: list[list[tuple[int, int]]] = []  # for each run of rows: which call, and which of its two answers
    for parts, group in _parts(segments, blocks, d, cluster.n_slots):
        first = len(ends)
        ends += [[(len(calls) + i, 0)] for i in range(len(parts))]
        calls += [(*columns.told, part, part, group, recipe) for part in parts]
        for i, j in combinations(range(len(parts)), 2):
            ends[first + i].append((len(calls), 0))
            ends[first + j].append((len(calls), 1))
            calls.append((*columns.told, parts[i], parts[j], group, recipe))
    futures = cluster.submit_each("silhouette", sum_parts, calls)
    spans = [(call[-4], call[-2]) for call in calls]
    means = []
    for of_rows in ends:
        found = cluster.merged("merge_sums", merge, [(futures[call], side) for call, side in of_rows])
        part, group = spans[of_rows[0][0]]
        means.append(cluster.submit("fold", fold, found, *columns.told, part, group))
    cluster.wait([*futures, *means])
    return means


def _parts(segments: Segments, blocks: list[Block], d: int, n_slots: int) -> Iterator[tuple[list[Span], Span | None]]:
    """Runs of blocks, in order: the parts of a large group, with the group; or a run of small groups, with None."""
    n = blocks[-1].stop
    groups = list(_groups(segments, blocks))
    pairs = sum((blocks[last - 1].stop - blocks[first].start) ** 2 / 2 for first, last in groups)
    a_task = min(TASK_PRODUCTS / d, pairs / (TASKS_A_SLOT * n_slots))
    small: Span | None = None
    waiting = 0.0
    for first, last in groups:
        rows = blocks[last - 1].stop - blocks[first].start
        n_segments = blocks[last - 1].last - blocks[first].first
        most_rows = max(a_task**0.5, n / MOST_PARTS)
        most_rows = min(most_rows, (SUM_BYTES / 16 * rows / n_segments) ** 0.5)
        if rows <= max(most_rows, BLOCK_ROWS):
            small = (small[0] if small else first), last
            waiting += rows**2 / 2
            if waiting >= a_task:
                yield [small], None
                small, waiting = None, 0.0
            continue
        if small:
            yield [small], None
            small, waiting = None, 0.0
        yield list(_runs(blocks, (first, last), most_rows)), (first, last)
    if small:
        yield [small], None


def _runs(blocks: list[Block], group: Span, most_rows: float) -> Iterator[Span]:
    """Cut a group into runs of blocks with about as many rows each."""
    start, stop = blocks[group[0]].start, blocks[group[1] - 1].stop
    n_parts = -(-(stop - start) // max(int(most_rows), 1))
    part = [(block.start - start) * n_parts // (stop - start) for block in blocks[slice(*group)]]
    edges = [i for i in range(1, len(part)) if part[i] != part[i - 1]]
    yield from ((group[0] + a, group[0] + b) for a, b in pairwise([0, *edges, len(part)]))


def _groups(segments: Segments, blocks: list[Block]) -> Iterator[Span]:
    """(first, last + 1) block of each group."""
    first = 0
    for _, last_segment in segments.of_groups():
        last = first
        while last < len(blocks) and blocks[last].first < last_segment:
            last += 1
        yield first, last
        first = last


def sum_parts(
    x: NDArray[np.float32],
    key: str,
    clusters: NDArray[Any],
    groups: NDArray[Any] | None,
    first: Span,
    second: Span,
    group: Span | None,
    recipe: Recipe,
) -> tuple[Found, ...]:
    """Distances between the cells of two parts of a group: what is found of the rows of each.

    Where both are the same part it is found once. Without a group, the part is a run of whole groups.
    """
    own = Sorted.here(x, key, clusters, groups)
    if group is not None:
        return _sum_pair(own, first, second, group, recipe)
    found = [
        _sum_pair(own, (a, b), (a, b), (a, b), recipe)[0]
        for a, b in _groups(own.segments, own.blocks)
        if first[0] <= a < first[1]
    ]
    return (Found(np.concatenate([f.own for f in found]), np.concatenate([f.nearest for f in found])),)


def _sum_pair(own: Sorted, first: Span, second: Span, group: Span, recipe: Recipe) -> tuple[Found, ...]:
    blocks, same = own.blocks, first == second
    engine = recipe.start(threads=1)
    summer = make_summer(engine.tiles, own.rows.rows.shape[1])
    unit = own.unit(group)
    sums = [_empty_sums(own, first, second), _empty_sums(own, second, first)]
    if same:
        sums[1] = sums[0]
    for i in range(*first):
        for j in range(i if same else second[0], second[1]):
            of_left, of_right = fixed_tile_sums(own.rows, summer, blocks[i], blocks[j], unit)
            _part_of_sums(own, sums[0], first, second, blocks[i], blocks[j])[...] += of_left
            if i != j:
                _part_of_sums(own, sums[1], second, first, blocks[j], blocks[i])[...] += of_right
    answers = [_found(own, sums[0], first, second, unit)]
    if not same:
        answers.append(_found(own, sums[1], second, first, unit))
    return tuple(answers)


def _empty_sums(own: Sorted, rows: Span, to: Span) -> NDArray[np.int64]:
    """(segments of one part, rows of another)."""
    start, stop = own.rows_of(rows)
    return np.zeros((own.blocks[to[1] - 1].last - own.blocks[to[0]].first, stop - start), np.int64)


def _part_of_sums(
    own: Sorted, sums: NDArray[np.int64], rows: Span, to: Span, block: Block, other: Block
) -> NDArray[np.int64]:
    start, first = own.blocks[rows[0]].start, own.blocks[to[0]].first
    return sums[other.first - first : other.last - first, block.start - start : block.stop - start]


def _found(own: Sorted, sums: NDArray[np.int64], rows: Span, to: Span, unit: float) -> Found:
    """Means of the clusters that lie in one part, and sums of those that are cut."""
    first, last = own.blocks[to[0]].first, own.blocks[to[1] - 1].last
    start, stop = own.rows_of(to)
    starts, sizes = own.segments.starts[first : last + 1], own.segments.sizes[first:last]
    whole = (starts[:-1] >= start) & (starts[1:] <= stop)
    segment = own.own_segment(rows)
    found = Found(np.full(len(segment), np.nan), np.full(len(segment), np.inf))
    found.cut = {int(first + i): sums[i] for i in np.flatnonzero(~whole)}
    whole_sums, whole_sizes = sums[whole], sizes[whole]
    number = np.full(last - first, -1)
    number[whole] = np.arange(len(whole_sizes))
    for begin in range(0, len(segment) if len(whole_sizes) else 0, FOLD_ROWS):
        part = slice(begin, begin + FOLD_ROWS)
        means = whole_sums[:, part] / (unit * whole_sizes[:, None])
        inside = np.flatnonzero((segment[part] >= first) & (segment[part] < last))
        code = number[segment[part][inside] - first]
        inside, code = inside[code >= 0], code[code >= 0]
        found.own[begin + inside] = whole_sums[code, begin + inside] / (unit * np.maximum(whole_sizes[code] - 1, 1))
        means[code, inside] = np.inf
        found.nearest[part] = means.min(axis=0)
    return found


def merge(found: list[tuple[tuple[Found, ...], int]]) -> tuple[Found, ...]:
    """Put together what several tasks have found of the same rows."""
    first, *others = (of_task[side] for of_task, side in found)
    merged = Found(first.own.copy(), first.nearest.copy(), dict(first.cut))
    for other in others:
        known = ~np.isnan(other.own)
        merged.own[known] = other.own[known]
        np.minimum(merged.nearest, other.nearest, out=merged.nearest)
        for segment, sums in other.cut.items():
            merged.cut[segment] = merged.cut[segment] + sums if segment in merged.cut else sums
    return (merged,)


def fold(
    found: list[tuple[tuple[Found, ...], int]],
    x: NDArray[np.float32],
    key: str,
    clusters: NDArray[Any],
    groups: NDArray[Any] | None,
    part: Span,
    group: Span | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means of the rows of a part from everything that was found of them: to the own cluster, to the nearest other."""
    (merged,) = merge(found)
    own = Sorted.here(x, key, clusters, groups)
    if group is not None:
        segment, unit = own.own_segment(part), own.unit(group)
        for number, sums in merged.cut.items():
            size = own.segments.sizes[number]
            inside = segment == number
            merged.own[inside] = sums[inside] / (unit * max(size - 1, 1))
            means = np.where(inside, np.inf, sums / (unit * size))
            np.minimum(merged.nearest, means, out=merged.nearest)
    return merged.own / own.rows.scale, merged.nearest / own.rows.scale


def _widths(means: list[Any], x: Any, key: str, clusters: Any, groups: Any) -> NDArray[np.float64]:
    own, nearest = (np.concatenate(side) for side in zip(*means, strict=True))
    return widths_from_means(own, nearest, Sorted.here(x, key, clusters, groups).segments)


def _own_means(means: list[Any], x: Any, key: str, clusters: Any, groups: Any) -> NDArray[np.float64]:
    own = np.concatenate([of_rows[0] for of_rows in means])
    return own_means(own, Sorted.here(x, key, clusters, groups).segments)


def sampled_widths(
    cluster: Cluster, columns: Columns, cells: NDArray[np.int64], of_groups: list[int], recipe: Recipe
) -> Any:
    """Widths of some cells, so many of each group, compared with all of their group; on one worker."""
    n_pieces = sum(-(-drawn // CELLS_A_PIECE) for drawn in of_groups)
    step = max(PIECES_A_TASK, -(-n_pieces // (TASKS_A_SLOT * cluster.n_slots)))
    calls = [(*columns.told, cells, (start, start + step), recipe) for start in range(0, n_pieces, step)]
    futures = cluster.submit_each("silhouette", widths_of_pieces, calls)
    widths = cluster.submit("widths", put_together, futures, len(cells))
    cluster.wait([*futures, widths])
    return widths


def compared(cells: NDArray[np.int64], segments: Segments) -> tuple[list[int], list[int]]:
    """How many cells of a sample are of each group, and how many the group has."""
    segment_of_cell = np.empty(len(segments.order), np.int64)
    segment_of_cell[segments.order] = np.repeat(np.arange(len(segments.sizes)), segments.sizes)
    n_groups = int(segments.group[-1]) + 1
    drawn = np.bincount(segments.group[segment_of_cell[cells]], minlength=n_groups)
    sizes = np.bincount(segments.group, weights=segments.sizes, minlength=n_groups)
    return drawn.tolist(), sizes.astype(np.int64).tolist()


def widths_of_pieces(
    x: NDArray[np.float32],
    key: str,
    clusters: NDArray[Any],
    groups: NDArray[Any] | None,
    cells: NDArray[np.int64],
    span: Span,
    recipe: Recipe,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Widths of the cells of some pieces of a sample, and where they are in it."""
    own = Sorted.here(x, key, clusters, groups)
    sample = Sample(cells, x, own.segments, own.blocks, own.rows)
    widths = np.empty(len(cells))
    pieces = sample.pieces[slice(*span)]
    compare = sample.comparer(recipe.start(threads=1).tiles, widths)
    for piece in pieces:
        compare(piece)
    which = np.concatenate([which for which, _ in pieces])
    return which, widths[which]


def put_together(found: list[tuple[NDArray[np.int64], NDArray[np.float64]]], m: int) -> NDArray[np.float64]:
    """Values of all cells from those of some; (m,)."""
    values = np.empty(m)
    for which, own in found:
        values[which] = own
    return values

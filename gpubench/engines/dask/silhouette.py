"""Silhouettes on a cluster: cells are sorted into parts on the workers, and each task compares two parts.

Tasks compute the same tiles with the same code as the CPU engine, so results have the same bits. See
`gpubench.engines.common.segments` for the terms block, segment and panel.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from itertools import combinations, groupby, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.engines.common.segments import Block, Segments, cut, fixed_point_unit, in_cell_order
from gpubench.engines.cpu.silhouette import CELLS_PER_PIECE, fixed_tile_sums, segment_codes, sums_to_segments
from gpubench.engines.cpu.tiles import BLOCK_ROWS, CentredRows, Centring, Summer, block_sums
from gpubench.engines.dask.shuffle import StreamingMerge, max_parts, send_ranks, shuffle, sorted_rows
from gpubench.engines.dask.worker import cached

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpubench.core.types import F32, F64, I64
    from gpubench.engines.dask.remote import ClusterMatrix
    from gpubench.engines.dask.worker import EngineSettings

TASK_PRODUCTS = 1.2e11
"""Work of one task, as (pairs of cells) * (dimensions): a few seconds on one core."""

TASKS_PER_SLOT = 6
"""Smallest number of tasks per thread of the cluster, so that all threads finish at about the same time."""

MAX_PARTS = 400
"""Largest number of parts, which make 80,000 pairs."""

SUM_BYTES, SAMPLE_SUM_BYTES = 1 << 28, 1 << 26
"""Memory of the sums of one task, and of those of some cells of a sample to the segments of a part."""

FOLD_ROWS = 4096
"""Number of rows whose means are computed at a time."""

Span = tuple[int, int]

Piece = tuple[int, int, Span]
"""A piece of a sample: start and stop of its cells, and the range of blocks of their group."""

Means = tuple["F64", "F64"]
"""Mean distances of consecutive rows to the own cluster, and to the nearest other."""

SharedLayout = tuple[str, "I64", "I64"]
"""A layout in the arguments of tasks: a key, and the starts and the groups of the segments."""

Sorting = tuple[Centring, SharedLayout]
"""Centring and layout of sorted cells."""

PartFacts = tuple["F64", "F32", "F32"]
"""Sums of the blocks of a part, and the smallest and largest value of each dimension."""


class Layout:
    """Segments of the sorted cells (their field `order` may be empty), and the range of blocks of each group."""

    def __init__(self, segments: Segments) -> None:
        self.segments = segments
        self.blocks = cut(segments, BLOCK_ROWS)
        firsts = [block.first for block in self.blocks]
        group_starts = [bisect_left(firsts, first) for first, _ in segments.group_spans()]
        self.groups = list(pairwise([*group_starts, len(self.blocks)]))

    @property
    def n(self) -> int:
        """Number of cells."""
        return self.blocks[-1].stop

    def row_range(self, span: Span) -> Span:
        """Return the range of sorted rows, as (start, stop), of a range of blocks."""
        return self.blocks[span[0]].start, self.blocks[span[1] - 1].stop

    def segment_range(self, span: Span) -> Span:
        """Return the range of segments, as (start, stop), of a range of blocks."""
        return self.blocks[span[0]].first, self.blocks[span[1] - 1].last

    def unit(self, group: Span, reach: float) -> float:
        """Return the factor that converts distances up to `reach` in a group, a range of blocks, to fixed point."""
        start, stop = self.row_range(group)
        return fixed_point_unit(reach, stop - start)

    def own_segment(self, span: Span) -> I64:
        """Return the index of the segment of each row in a range of blocks."""
        found: I64 = np.searchsorted(self.segments.starts, np.arange(*self.row_range(span)), "right") - 1
        return found


@dataclass(frozen=True, slots=True)
class BlockRun:
    """A part: blocks `span` of one large `group`, or of one or several whole small groups, where `group` is None."""

    span: Span
    group: Span | None


def cut_parts(layout: Layout, d: int, n_blocks: int, n_slots: int, part_bytes: int) -> list[BlockRun]:
    """Cut the sorted cells into parts, which are returned in order.

    Parameters
    ----------
    layout : segments and blocks of the sorted cells
    d : number of dimensions
    n_blocks : number of blocks of rows of the unsorted embedding
    n_slots : number of tasks that run at the same time
    part_bytes : largest size of the cells of a part
    """
    parts: list[BlockRun] = []
    group_rows = [stop - start for start, stop in map(layout.row_range, layout.groups)]
    products = sum(rows**2 / 2 for rows in group_rows)
    task_products = min(TASK_PRODUCTS / d, products / (TASKS_PER_SLOT * n_slots))
    part_rows = max(task_products**0.5, layout.n / max_parts(n_blocks, MAX_PARTS))
    max_rows = max(1, part_bytes // (4 * d))
    waiting = 0.0  # products of the small groups of the last part, while it may take more of them
    for group, rows in zip(layout.groups, group_rows, strict=True):
        first, last = layout.segment_range(group)
        size = min(part_rows, (SUM_BYTES / 16 * rows / (last - first)) ** 0.5, max_rows)
        if rows > max(size, BLOCK_ROWS):
            parts += [BlockRun(span, group) for span in _runs(layout, group, size)]
            waiting = 0.0
            continue
        start, stop = layout.row_range((parts[-1].span[0] if waiting else group[0], group[1]))
        if waiting and stop - start <= max_rows:
            parts[-1] = BlockRun((parts[-1].span[0], group[1]), None)
        else:
            parts.append(BlockRun(group, None))
            waiting = 0.0
        waiting += rows**2 / 2
        if waiting >= task_products:
            waiting = 0.0
    return parts


def _runs(layout: Layout, group: Span, max_rows: float) -> Iterator[Span]:
    """Cut the blocks of a group into ranges with about equal numbers of rows, at most about `max_rows` each."""
    start, stop = layout.row_range(group)
    n_parts = -(-(stop - start) // max(int(max_rows), 1))
    numbers = range(*group)
    for _, run in groupby(numbers, key=lambda i: (layout.blocks[i].start - start) * n_parts // (stop - start)):
        first, *others = run
        yield first, first + 1 + len(others)


def pairs(parts: list[BlockRun]) -> Iterator[Span]:
    """Yield the pairs of indices of parts to compare: all pairs within a large group, and each part with itself.

    Comparing a part with itself is half the work, so these pairs come last in a group, so that workers finish together.
    """
    for _, run in groupby(range(len(parts)), key=lambda i: parts[i].group or i):
        numbers = list(run)
        yield from combinations(numbers, 2)
        yield from zip(numbers, numbers, strict=True)


@dataclass(slots=True)
class PartialDistances:
    """Distances of m rows to the clusters of those parts of their group with which they were compared so far.

    Attributes
    ----------
    own : (m,) mean distance to the own cluster, NaN if not known yet; a single NaN if unknown for all rows
    nearest : (m,) smallest mean distance to another cluster so far; a single infinity if unknown for all rows
    cut : for each segment that several parts share, by its index: the number of its cells compared so far, and the sums
        (m,) of the distances to these in fixed point
    """

    own: F64 | float = np.nan
    nearest: F64 | float = np.inf
    cut: dict[int, tuple[int, I64]] = field(default_factory=dict)

    @classmethod
    def merged(cls, answers: list[tuple[tuple[PartialDistances, ...], int]]) -> PartialDistances:
        """Merge the results of several tasks on the same rows; `answers` has each result and the item to use of it."""
        found = cls()
        for answer, side in answers:
            found.add(answer[side])
        return found

    def add(self, other: PartialDistances) -> None:
        """Add the distances of the same rows to other parts."""
        self.own = np.where(np.isnan(other.own), self.own, other.own)
        self.nearest = np.minimum(self.nearest, other.nearest)
        for segment, (count, sums) in other.cut.items():
            known, before = self.cut.get(segment, (0, 0))
            self.cut[segment] = known + count, before + sums

    def finish(self, layout: Layout, segment: I64, unit: float) -> None:
        """Turn sums of distances into means, for segments shared by several parts whose cells were all compared.

        Parameters
        ----------
        segment : (m,) index of the segment of each row
        unit : factor of the fixed-point sums
        """
        sizes = layout.segments.sizes
        for number in [number for number, (count, _) in self.cut.items() if count == sizes[number]]:
            _, sums = self.cut.pop(number)
            inside = segment == number
            own = np.where(inside, sums / (unit * max(int(sizes[number]) - 1, 1)), np.nan)
            self.add(PartialDistances(own, np.where(inside, np.inf, sums / (unit * sizes[number]))))

    def means(self, scale: float) -> Means:
        """Return `own` and `nearest` of all rows, unscaled, after all parts were added and finished."""
        own, nearest = np.broadcast_arrays(self.own, self.nearest)
        return own / scale, nearest / scale


class RunSums:
    """Table (segments, rows) of sums of distances from the rows of one range of blocks to the segments of another."""

    def __init__(self, layout: Layout, rows: Span, to: Span) -> None:
        (self._start, stop), (self._first, last) = layout.row_range(rows), layout.segment_range(to)
        self.table = np.zeros((last - self._first, stop - self._start), np.int64)

    def add(self, block: Block, other: Block, sums: I64) -> None:
        """Add sums of distances from the rows of `block` to the segments of `other`."""
        segments = slice(other.first - self._first, other.last - self._first)
        self.table[segments, block.start - self._start : block.stop - self._start] += sums


def sum_pair(
    layout: Layout, rows: CentredRows, summer: Summer, first: Span, second: Span, unit: float
) -> tuple[PartialDistances, ...]:
    """Compare two parts of a group, given as ranges of blocks; return the distances of the rows of each.

    If both are the same part, a single item is returned.
    """
    blocks, same = layout.blocks, first == second
    left = RunSums(layout, first, second)
    right = left if same else RunSums(layout, second, first)
    for i in range(*first):
        for j in range(i if same else second[0], second[1]):
            left_sums, right_sums = fixed_tile_sums(rows, summer, blocks[i], blocks[j], unit)
            left.add(blocks[i], blocks[j], left_sums)
            if i != j:
                right.add(blocks[j], blocks[i], right_sums)
    sides = [(left, first, second), (right, second, first)][: 1 if same else 2]
    return tuple(partial_distances(layout, sums.table, layout.own_segment(own), to, unit) for sums, own, to in sides)


def partial_distances(layout: Layout, sums: I64, segment: I64, to: Span, unit: float) -> PartialDistances:
    """Reduce sums to the mean distances of each row to the segments of a part; keep the sums of shared segments.

    A segment is shared if some of its cells are in other parts, so that its sums are incomplete.

    Parameters
    ----------
    sums : (segments of the part, m) fixed-point sums of the distances of m rows
    segment : (m,) index of the segment of each row
    to : range of blocks of the part
    unit : factor of the fixed-point sums
    """
    (first, last), (start, stop), starts = layout.segment_range(to), layout.row_range(to), layout.segments.starts
    # only the first and the last segment may go beyond the part
    begin, end = first + int(starts[first] < start), last - int(starts[last] > stop)
    found = PartialDistances(
        cut={
            i: (int(min(starts[i + 1], stop) - max(starts[i], start)), sums[i - first].copy())
            for i in {first, last - 1}
            if not begin <= i < end
        }
    )
    if begin >= end:
        return found
    whole, sizes = sums[begin - first : end - first], layout.segments.sizes[begin:end]
    own, nearest = np.full(len(segment), np.nan), np.empty(len(segment))
    for row in range(0, len(segment), FOLD_ROWS):
        part = slice(row, row + FOLD_ROWS)
        means = whole[:, part] / (unit * sizes[:, None])
        code = segment[part] - begin
        inside = np.flatnonzero((code >= 0) & (code < len(sizes)))
        code = code[inside]
        own[row + inside] = whole[code, row + inside] / (unit * np.maximum(sizes[code] - 1, 1))
        means[code, inside] = np.inf
        nearest[part] = means.min(axis=0)
    found.own = np.nan if np.isnan(own).all() else own
    found.nearest = nearest
    return found


@dataclass(slots=True)
class SortedCells:
    """An embedding sorted for silhouettes, in parts on the workers.

    Attributes
    ----------
    key : identifier of the order of the cells
    layout : segments and blocks of the sorted cells
    parts : parts into which the blocks are divided
    rows : futures of the rows of each part, not centred
    sorting : centring and layout as an argument of tasks, see `Sorting`
    """

    key: str
    layout: Layout
    parts: list[BlockRun]
    rows: list[Any]
    sorting: tuple[Any, Any]


def sort(x: ClusterMatrix, segments: Segments) -> SortedCells:
    """Sort the cells into parts on the workers; reuse the last result of the matrix if the order is the same."""
    digest = hashlib.sha256(segments.order.data)
    for array in (segments.starts, segments.group):  # columns that sort cells the same may group them otherwise
        digest.update(np.ascontiguousarray(array).data)
    key = digest.hexdigest()
    if x.sorted is not None and x.sorted.key == key:
        known: SortedCells = x.sorted
        return known
    x.sorted = None  # frees the memory of the others
    cluster, layout = x.cluster, Layout(segments)
    parts = cut_parts(layout, x.shape[1], len(x.blocks), cluster.n_slots, x.limits.part_bytes)
    rank = np.empty(layout.n, np.uint32)
    rank[segments.order] = np.arange(layout.n, dtype=np.uint32)
    edges = [layout.row_range(part.span) for part in parts]
    rows = shuffle(cluster, x, send_ranks(cluster, rank, x), edges, sorted_rows)
    shared = key, cluster.encode_args(segments.starts), cluster.encode_args(segments.group)
    calls = [(part_rows, shared, part) for part_rows, part in zip(rows, parts, strict=True)]
    facts = cluster.submit_each("centre", part_facts, calls)
    centring = cluster.submit("centre", join_facts, facts, shared)
    cluster.wait([*facts, centring])
    x.sorted = found = SortedCells(key, layout, parts, rows, (centring, shared))
    return found


def load_layout(shared: SharedLayout) -> Layout:
    """Return the layout; each worker makes it once and caches it."""
    key, starts, group = shared
    return cached(("layout", key), lambda: Layout(Segments(np.empty(0, np.int64), np.array(starts), np.array(group))))


def part_facts(rows: F32, shared: SharedLayout, part: BlockRun) -> PartFacts:
    """Return the sums and ranges of the values of a part, from which the centring is computed."""
    return block_sums(rows, load_layout(shared).blocks[slice(*part.span)]), rows.min(axis=0), rows.max(axis=0)


def join_facts(facts: list[PartFacts], shared: SharedLayout) -> Centring:
    """Return the means and the scale with which all rows are centred, from the facts of all parts."""
    sums, low, high = zip(*facts, strict=True)
    return Centring.of(np.concatenate(sums), np.min(low, axis=0), np.max(high, axis=0), load_layout(shared).blocks)


def centred_copy(layout: Layout, centring: Centring, parts: list[tuple[BlockRun, F32]]) -> CentredRows:
    """Return centred copies of the rows of several parts."""
    runs = []
    for part, rows in parts:
        own = rows.copy()
        squares = centring.centre(own, layout.blocks[slice(*part.span)])
        runs.append((layout.row_range(part.span)[0], own, squares))
    return CentredRows(runs, centring)


def cluster_distances(x: ClusterMatrix, segments: Segments, settings: EngineSettings) -> F64:
    """Compute the mean distances of all cells to clusters, (2, n); see `Engine.cluster_distances`."""
    cells, cluster = sort(x, segments), x.cluster
    rows, sorting, parts = cells.rows, cells.sorting, cells.parts
    both = list(pairs(parts))
    compared = [tuple(dict.fromkeys(pair)) for pair in both]

    def submit(name: str, function: Any) -> Any:
        return lambda part, found: cluster.submit(name, function, found, sorting, parts[part])

    n_answers = np.bincount([number for numbers in compared for number in numbers])
    merging = StreamingMerge(n_answers.tolist(), submit("merge_sums", merge_part), submit("fold", finish_part))
    calls = ((rows[i], None if i == j else rows[j], sorting, parts[i], parts[j], settings) for i, j in both)
    merging.run(cluster, "silhouette", sum_parts, calls, compared)
    own, nearest = (np.concatenate(means) for means in zip(*cluster.fetch(merging.finished), strict=True))
    return np.stack(in_cell_order(own, nearest, segments))


def sum_parts(
    first_rows: F32,
    second_rows: F32 | None,
    sorting: Sorting,
    first: BlockRun,
    second: BlockRun,
    settings: EngineSettings,
) -> tuple[PartialDistances, ...]:
    """Compare the cells of two parts of a group; return the distances of the rows of each.

    Parameters
    ----------
    first_rows, second_rows : rows of the parts, not centred. If `second_rows` is None, the first part is compared with
        itself, and if it has several whole groups, the cells of each group with each other
    """
    centring, shared = sorting
    layout = load_layout(shared)
    parts = [(first, first_rows), *([] if second_rows is None else [(second, second_rows)])]
    rows = centred_copy(layout, centring, parts)
    summer = Summer(settings.start(threads=1).tiles, rows.d)
    if first.group is not None:
        return sum_pair(layout, rows, summer, first.span, second.span, layout.unit(first.group, rows.reach))
    begin, end = first.span
    groups = [
        sum_pair(layout, rows, summer, group, group, layout.unit(group, rows.reach))[0]
        for group in layout.groups
        if begin <= group[0] < end
    ]
    own, nearest = (np.concatenate([getattr(group, name) for group in groups]) for name in ("own", "nearest"))
    return (PartialDistances(own, nearest),)


def merge_part(answers: Any, sorting: Sorting, part: BlockRun) -> tuple[PartialDistances]:
    """Merge the distances of the same rows to several parts; complete sums of segments become means."""
    merged, layout = PartialDistances.merged(answers), load_layout(sorting[1])
    if part.group is not None:
        merged.finish(layout, layout.own_segment(part.span), layout.unit(part.group, sorting[0].reach))
    return (merged,)


def finish_part(answers: Any, sorting: Sorting, part: BlockRun) -> Means:
    """Return the final mean distances of the rows of a part from all results on them."""
    return merge_part(answers, sorting, part)[0].means(sorting[0].scale)


def sampled_distances(x: ClusterMatrix, segments: Segments, cells: I64, settings: EngineSettings) -> F64:
    """Compute the mean distances of m sampled cells to their own and to the nearest other cluster, (2, m)."""
    whole, cluster = sort(x, segments), x.cluster
    segment = segment_codes(cells, segments)
    order = np.argsort(segment, kind="stable")
    rows, own_segment = x[cells[order]].future, cluster.submit("segments", np.array, segment[order])
    runs = list(group_pieces(sample_pieces(segment[order], whole.layout), whole.layout, whole.parts, x.shape[1]))
    which = [(i, number) for i, (_, numbers) in enumerate(runs) for number in numbers]
    found: list[list[Any]] = [[] for _ in runs]
    calls = (
        (whole.rows[number], rows, own_segment, whole.sorting, whole.parts[number], runs[i][0], settings)
        for i, number in which
    )
    cluster.submit_throttled(
        "silhouette", compare_pieces, calls, len(which), lambda number, future: found[which[number][0]].append(future)
    )
    run_calls = [(own, own_segment, whole.sorting, run) for (run, _), own in zip(runs, found, strict=True)]
    values = np.empty((2, len(order)))
    values[:, order] = np.concatenate(cluster.fetch(cluster.submit_each("fold", finish_run, run_calls)), axis=1)
    return values


def sample_pieces(segment: I64, layout: Layout) -> Iterator[Piece]:
    """Cut a sample of cells, sorted by segment, into pieces: ranges whose cells are in the same group."""
    for group in layout.groups:
        begin, end = np.searchsorted(segment, layout.segment_range(group)).tolist()
        for start in range(begin, end, CELLS_PER_PIECE):
            yield start, min(start + CELLS_PER_PIECE, end), group


def group_pieces(
    pieces: Iterator[Piece], layout: Layout, parts: list[BlockRun], d: int
) -> Iterator[tuple[list[Piece], range]]:
    """Yield runs of pieces that have the same parts to be compared with, and the indices of these parts.

    A task compares all pieces of a run with one of the parts.
    """
    starts = [part.span[0] for part in parts]

    def compared_with(piece: Piece) -> range:
        first, last = piece[2]
        return range(bisect_right(starts, first) - 1, bisect_left(starts, last))

    for numbers, run in groupby(pieces, key=compared_with):
        spans = [parts[number].span for number in numbers]
        rows = max(stop - start for start, stop in map(layout.row_range, spans))
        n_segments = max(last - first for first, last in map(layout.segment_range, spans))
        limit = max(CELLS_PER_PIECE, min(TASK_PRODUCTS / (d * rows), SAMPLE_SUM_BYTES / (8 * n_segments)))
        for _, task_pieces in groupby(run, key=lambda piece, limit=limit: piece[0] // limit):  # type: ignore[misc]
            yield list(task_pieces), numbers


def compare_pieces(
    rows: F32, cells: F32, segment: I64, sorting: Sorting, part: BlockRun, run: list[Piece], settings: EngineSettings
) -> list[PartialDistances]:
    """Compute the distances of sampled cells to clusters with cells in a part; an item for each range in `run`."""
    layout = load_layout(sorting[1])
    own = centred_copy(layout, sorting[0], [(part, rows)])
    summer = Summer(settings.start(threads=1).tiles, own.d)
    found = []
    for start, stop, group in run:
        span = max(part.span[0], group[0]), min(part.span[1], group[1])
        unit = layout.unit(group, own.reach)
        sums = sums_to_segments(layout.blocks[slice(*span)], cells[start:stop], own, summer, unit)
        found.append(partial_distances(layout, sums, segment[start:stop], span, unit))
    return found


def finish_run(found: list[list[PartialDistances]], segment: I64, sorting: Sorting, run: list[Piece]) -> F64:
    """Return the final distances (2, m) of the cells of the pieces in `run` from all results on them."""
    layout, distances = load_layout(sorting[1]), []
    for number, (start, stop, group) in enumerate(run):
        merged, own = PartialDistances.merged([(tuple(answer), number) for answer in found]), segment[start:stop]
        merged.finish(layout, own, layout.unit(group, sorting[0].reach))
        a, b = merged.means(sorting[0].scale)
        distances.append(np.stack([np.where(layout.segments.sizes[own] == 1, np.nan, a), b]))
    return np.concatenate(distances, axis=1)

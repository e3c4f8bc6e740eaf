"""Silhouettes of an embedding in blocks: cells are sorted into parts on the workers, and tasks compare two of them.

Tasks compute of two parts what every engine computes of them (`silhouette_parts`), so the bits are the same.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.engines.common.segments import Segments, in_cell_order
from gpubench.engines.cpu.silhouette import CELLS_PER_PIECE, Sample, segment_codes, sums_to_segments
from gpubench.engines.cpu.tiles import CentredRows, Centring, Summer, block_sums
from gpubench.engines.dask.shuffle import StreamingMerge, max_parts, send_ranks, shuffle, sorted_rows
from gpubench.engines.dask.silhouette_parts import (
    MAX_PARTS,
    TASK_PRODUCTS,
    BlockRun,
    Layout,
    PartialDistances,
    cut_parts,
    final_means,
    merge,
    pairs,
    partial_distances,
    sum_pair,
)
from gpubench.engines.dask.worker import cached

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from gpubench.engines.dask.remote import ClusterMatrix
    from gpubench.engines.dask.silhouette_parts import Means, Span
    from gpubench.engines.dask.worker import EngineSettings

SUM_BYTES = 1 << 26
"""Memory of the sums of some cells of a sample to the segments of a part."""

SharedLayout = tuple[str, "NDArray[np.int64]", "NDArray[np.int64]"]
"""A layout in the arguments of tasks: a key, and the starts and the groups of the segments."""

Sorting = tuple[Centring, SharedLayout]
"""The values that sorted cells are centred on, and their layout."""

Piece = tuple[int, int, "Span"]
"""First cell of a piece of a sample, the one after its last, and the blocks of their group."""

Answers = list[tuple[tuple[PartialDistances, ...], int]]
"""Answers of tasks about the same rows, each with the number of the item."""


@dataclass(slots=True)
class SortedCells:
    """An embedding sorted for silhouettes, in parts on the workers.

    Attributes
    ----------
    key : identifies how the cells are sorted
    layout, parts : how they are cut
    rows : futures of the rows of each part, not centred
    sorting : argument of tasks, see `Sorting`
    """

    key: str
    layout: Layout
    parts: list[BlockRun]
    rows: list[Any]
    sorting: tuple[Any, Any]


def cut_sorted(layout: Layout, d: int, n_blocks: int, n_slots: int, part_bytes: int) -> list[BlockRun]:
    """Cut the sorted cells of so many blocks into parts of so many bytes at most."""
    rows = max(1, part_bytes // (4 * d))
    return cut_parts(layout, d, n_slots, max_parts=max_parts(n_blocks, MAX_PARTS), max_rows=rows)


def sort(x: ClusterMatrix, segments: Segments) -> SortedCells:
    """Sort the cells, unless they were sorted the same last."""
    digest = hashlib.sha256(segments.order.data)
    for array in (segments.starts, segments.group):  # columns that sort cells the same may group them otherwise
        digest.update(np.ascontiguousarray(array).data)
    key = digest.hexdigest()
    if x.sorted is not None and x.sorted.key == key:
        known: SortedCells = x.sorted
        return known
    x.sorted = None  # frees the memory of the others
    cluster, layout = x.cluster, Layout(segments)
    parts = cut_sorted(layout, x.shape[1], len(x.blocks), cluster.n_slots, x.limits.part_bytes)
    rank = np.empty(layout.n, np.uint32)
    rank[segments.order] = np.arange(layout.n, dtype=np.uint32)
    edges = [layout.row_range(part.span) for part in parts]
    rows = shuffle(cluster, x, send_ranks(cluster, rank, x), edges, sorted_rows)
    shared = key, cluster.encode_args(segments.starts), cluster.encode_args(segments.group)
    facts = cluster.submit_each(
        "centre", part_facts, [(part_rows, shared, part) for part_rows, part in zip(rows, parts, strict=True)]
    )
    centring = cluster.submit("centre", join_facts, facts, shared)
    cluster.wait([*facts, centring])
    x.sorted = found = SortedCells(key, layout, parts, rows, (centring, shared))
    return found


PartFacts = tuple["NDArray[np.float64]", "NDArray[np.float32]", "NDArray[np.float32]"]
"""Sums of the blocks of a part, and the smallest and largest value of each dimension."""


def load_layout(shared: SharedLayout) -> Layout:
    """Return the layout, which each worker makes once."""
    key, starts, group = shared
    return cached(("layout", key), lambda: Layout(Segments(np.empty(0, np.int64), np.array(starts), np.array(group))))


def part_facts(rows: NDArray[np.float32], shared: SharedLayout, part: BlockRun) -> PartFacts:
    """Return what centring needs to know of a part."""
    return block_sums(rows, load_layout(shared).blocks[slice(*part.span)]), rows.min(axis=0), rows.max(axis=0)


def join_facts(facts: list[PartFacts], shared: SharedLayout) -> Centring:
    """Return the values that all rows are centred on."""
    sums, low, high = zip(*facts, strict=True)
    return Centring.of(np.concatenate(sums), np.min(low, axis=0), np.max(high, axis=0), load_layout(shared).blocks)


def centred_copy(layout: Layout, centring: Centring, parts: list[tuple[BlockRun, NDArray[np.float32]]]) -> CentredRows:
    """Copy parts and centre the copies."""
    runs = []
    for part, rows in parts:
        own = rows.copy()
        squares = centring.centre(own, layout.blocks[slice(*part.span)])
        runs.append((layout.row_range(part.span)[0], own, squares))
    return CentredRows(runs, centring)


def cluster_distances(x: ClusterMatrix, segments: Segments, settings: EngineSettings) -> NDArray[np.float64]:
    """Compute the distances of all cells to clusters, (2, n); see `Engine.cluster_distances`."""
    cells, cluster = sort(x, segments), x.cluster
    both = list(pairs(cells.parts))

    def submit(name: str, function: Any) -> Any:
        return lambda part, found: cluster.submit(name, function, found, cells.sorting, cells.parts[part])

    n_answers = np.bincount([number for pair in both for number in set(pair)])
    merging = StreamingMerge(n_answers.tolist(), submit("merge_sums", merge_part), submit("fold", finish_part))

    def done(number: int, future: Any) -> None:
        for side, part in enumerate(dict.fromkeys(both[number])):
            merging.add(part, future, side)

    calls = (
        (
            *(cells.rows[i], None if i == j else cells.rows[j], cells.sorting),
            *(cells.parts[i], cells.parts[j], settings),
        )
        for i, j in both
    )
    cluster.submit_throttled("silhouette", sum_parts, calls, len(both), done)
    own, nearest = (np.concatenate(means) for means in zip(*cluster.fetch(merging.finished), strict=True))
    return np.stack(in_cell_order(own, nearest, segments))


def sum_parts(
    first_rows: NDArray[np.float32],
    second_rows: NDArray[np.float32] | None,
    sorting: Sorting,
    first: BlockRun,
    second: BlockRun,
    settings: EngineSettings,
) -> tuple[PartialDistances, ...]:
    """Compare the cells of two parts of a group; return the distances of the rows of each.

    Parameters
    ----------
    second_rows : None where both are the same part. A part of whole groups is compared with itself, each group alone
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
    own = np.concatenate([group.own for group in groups if group.own is not None])
    return (PartialDistances(own, np.concatenate([group.nearest for group in groups if group.nearest is not None])),)


def merge_part(answers: Answers, sorting: Sorting, part: BlockRun) -> tuple[PartialDistances, ...]:
    """Merge several answers about the same rows; sums to clusters that are complete become means."""
    assert part.group is not None, "what is compared with itself alone is not merged"
    merged, layout = merge(answers), load_layout(sorting[1])
    merged.finish(layout, layout.own_segment(part.span), layout.unit(part.group, sorting[0].reach))
    return (merged,)


def finish_part(answers: Answers, sorting: Sorting, part: BlockRun) -> Means:
    """Return the mean distances of the rows of a part from all answers about them."""
    layout = load_layout(sorting[1])
    merged = merge(answers) if part.group is None else merge_part(answers, sorting, part)[0]
    start, stop = layout.row_range(part.span)
    return final_means(merged, stop - start, sorting[0].scale)


def sampled_distances(
    x: ClusterMatrix, segments: Segments, cells: NDArray[np.int64], settings: EngineSettings
) -> NDArray[np.float64]:
    """Compute the distances of some cells, compared with all of their group; (2, m)."""
    whole, cluster = sort(x, segments), x.cluster
    segment = segment_codes(cells, segments)
    order, pieces = sample_pieces(Sample(segment, segments, whole.layout.blocks), whole.layout)
    rows, own_segment = x[cells[order]].future, cluster.submit("segments", np.array, segment[order])
    runs = list(group_pieces(pieces, whole.layout, whole.parts, x.shape[1]))
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


def sample_pieces(sample: Sample, layout: Layout) -> tuple[NDArray[np.int64], list[Piece]]:
    """Return the sample in the order in which it is compared, and the pieces that are compared at a time."""
    group_of = {layout.blocks[group[0]].first: group for group in layout.groups}
    pieces, start = [], 0
    for which, others in sample.pieces:
        pieces.append((start, start + len(which), group_of[others[0].first]))
        start += len(which)
    return np.concatenate([which for which, _ in sample.pieces]), pieces


def group_pieces(
    pieces: list[Piece], layout: Layout, parts: list[BlockRun], d: int
) -> Iterator[tuple[list[Piece], list[int]]]:
    """Yield pieces that are compared in one task with each of the same parts, and the numbers of these parts."""
    numbers_of: dict[Span, list[int]] = {}
    by_start = {group[0]: group for group in layout.groups}
    for number, part in enumerate(parts):
        inside = [by_start[i] for i in range(*part.span) if i in by_start] if part.group is None else [part.group]
        for group in inside:
            numbers_of.setdefault(group, []).append(number)
    for numbers, run in groupby(pieces, key=lambda piece: numbers_of[piece[2]]):
        spans = [parts[number].span for number in numbers]
        rows = max(stop - start for start, stop in map(layout.row_range, spans))
        n_segments = max(last - first for first, last in map(layout.segment_range, spans))
        limit = max(CELLS_PER_PIECE, min(TASK_PRODUCTS / (d * rows), SUM_BYTES / (8 * n_segments)))
        for _, task_pieces in groupby(run, key=lambda piece, limit=limit: piece[0] // limit):  # type: ignore[misc]
            yield list(task_pieces), numbers


def compare_pieces(
    rows: NDArray[np.float32],
    cells: NDArray[np.float32],
    segment: NDArray[np.int64],
    sorting: Sorting,
    part: BlockRun,
    run: list[Piece],
    settings: EngineSettings,
) -> list[PartialDistances]:
    """Compare some cells with a part; return the distances of each piece."""
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


def finish_run(
    found: list[list[PartialDistances]], segment: NDArray[np.int64], sorting: Sorting, run: list[Piece]
) -> NDArray[np.float64]:
    """Return the distances of the cells of some pieces from all answers about them; (2, m)."""
    layout, distances = load_layout(sorting[1]), []
    for number, (start, stop, group) in enumerate(run):
        merged, own = merge([(tuple(answer), number) for answer in found]), segment[start:stop]
        merged.finish(layout, own, layout.unit(group, sorting[0].reach))
        a, b = final_means(merged, stop - start, sorting[0].scale)
        distances.append(np.stack([np.where(layout.segments.sizes[own] == 1, np.nan, a), b]))
    return np.concatenate(distances, axis=1)

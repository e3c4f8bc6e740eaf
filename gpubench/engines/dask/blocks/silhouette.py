"""Silhouettes of an embedding in blocks: cells are sorted into parts on the workers, and tasks are given two of them.

What is computed of two parts is what every engine computes (`dask_sums`, `cpu_sampled`), so the bits are the same.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.engines.common.segments import Segments
from gpubench.engines.cpu.silhouette import CELLS_PER_PIECE, Sample, segment_codes, sums_to_segments
from gpubench.engines.cpu.tiles import CentredRows, Centring, block_sums, make_summer
from gpubench.engines.dask.blocks.shuffle import Gathered, most_parts, ranks_of, shuffle, sorted_rows
from gpubench.engines.dask.silhouette import distances_of_parts, folded, sums_of_parts
from gpubench.engines.dask.silhouette_parts import (
    MAX_PARTS,
    TASK_PRODUCTS,
    Found,
    Layout,
    Part,
    found_in,
    means,
    pairs,
    parts_of,
    together,
)
from gpubench.engines.dask.worker import kept

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from gpubench.engines.dask.blocks.rows import BlockRows
    from gpubench.engines.dask.silhouette import Means
    from gpubench.engines.dask.silhouette_parts import Span
    from gpubench.engines.dask.worker import Recipe


@dataclass(slots=True)
class SortedCells:
    """An embedding sorted for silhouettes, in parts on the workers.

    Attributes
    ----------
    key : tells it from cells sorted otherwise
    layout, parts : how they are cut
    rows : futures of the rows of each part, as they are
    sorting : what tasks are told of it, see `Sorting`
    """

    key: str
    layout: Layout
    parts: list[Part]
    rows: list[Any]
    sorting: tuple[Any, Any]


def cut_of(layout: Layout, d: int, n_blocks: int, n_slots: int, part_bytes: int) -> list[Part]:
    """The parts that cells in so many blocks are sorted into, of so many bytes at most."""
    rows = max(1, part_bytes // (4 * d))
    return parts_of(layout, d, n_slots, most_parts=most_parts(n_blocks, MAX_PARTS), most_rows=rows)


def sort(x: BlockRows, segments: Segments) -> SortedCells:
    """Sort the cells, unless they were sorted the same last."""
    digest = hashlib.sha256(segments.order.data)
    for array in (segments.starts, segments.group):  # columns that sort cells the same may group them otherwise
        digest.update(np.ascontiguousarray(array).data)
    key = digest.hexdigest()
    known: SortedCells | None = x.sorted
    if known is not None and known.key == key:
        return known
    known = x.sorted = None  # first let go of the others
    cluster, layout = x.cluster, Layout(segments)
    parts = cut_of(layout, x.shape[1], len(x.blocks), cluster.n_slots, x.facts.part_bytes)
    rank = np.empty(layout.n, np.uint32)
    rank[segments.order] = np.arange(layout.n, dtype=np.uint32)
    edges = [layout.rows_of(part.span) for part in parts]
    rows = shuffle(cluster, x, ranks_of(cluster, rank, x), edges, sorted_rows)
    laid = key, cluster.packed(segments.starts), cluster.packed(segments.group)
    facts = cluster.submit_each(
        "look", look, [(of_part, laid, part) for of_part, part in zip(rows, parts, strict=True)]
    )
    centring = cluster.submit("centre", centring_of, facts, laid)
    cluster.wait([*facts, centring])
    x.sorted = found = SortedCells(key, layout, parts, rows, (centring, laid))
    return found


Laid = tuple[str, "NDArray[np.int64]", "NDArray[np.int64]"]
"""How cells are cut, as tasks are told of it: a key, and the starts and the group of the segments."""

Sorting = tuple[Centring, Laid]
"""What sorted cells are centred on, and how they are cut."""

Facts = tuple["NDArray[np.float64]", "NDArray[np.float32]", "NDArray[np.float32]"]


def layout_of(laid: Laid) -> Layout:
    """The layout, which each worker makes once."""
    key, starts, group = laid
    return kept(("layout", key), lambda: Layout(Segments(np.empty(0, np.int64), np.array(starts), np.array(group))))


def look(rows: NDArray[np.float32], laid: Laid, part: Part) -> Facts:
    """Sums of the blocks of a part, and the smallest and largest value of each dimension."""
    return block_sums(rows, layout_of(laid).blocks[slice(*part.span)]), rows.min(axis=0), rows.max(axis=0)


def centring_of(facts: list[Facts], laid: Laid) -> Centring:
    """What all rows are centred on."""
    sums, low, high = zip(*facts, strict=True)
    return Centring.of(np.concatenate(sums), np.min(low, axis=0), np.max(high, axis=0), layout_of(laid).blocks)


def centred(layout: Layout, centring: Centring, parts: list[tuple[Part, NDArray[np.float32]]]) -> CentredRows:
    """Copies of parts, centred."""
    runs = []
    for part, rows in parts:
        own = rows.copy()
        squares = centring.centre(own, layout.blocks[slice(*part.span)])
        runs.append((layout.rows_of(part.span)[0], own, squares))
    return CentredRows(runs, centring)


def cluster_distances(x: BlockRows, segments: Segments, codes: list[Any], recipe: Recipe) -> Any:
    """Distances of all cells to clusters, (2, n) on one worker; see `Engine.cluster_distances`."""
    found = _means(x, segments, recipe)
    return x.cluster.submit("distances", distances_of_parts, found, *codes)


def _means(x: BlockRows, segments: Segments, recipe: Recipe) -> list[Any]:
    """Futures of the means of consecutive rows, which together are all rows."""
    cells, cluster = sort(x, segments), x.cluster
    both = list(pairs(cells.parts))

    def merging(name: str, function: Any) -> Any:
        return lambda part, found: cluster.submit(name, function, found, cells.sorting, cells.parts[part])

    n_tasks = np.bincount([number for pair in both for number in set(pair)])
    gathered = Gathered(n_tasks.tolist(), merging("merge_sums", merge), merging("fold", fold))

    def done(number: int, future: Any) -> None:
        i, j = both[number]
        gathered.add(i, future, 0)
        if i != j:
            gathered.add(j, future, 1)

    calls = (
        (
            *(cells.rows[i], None if i == j else cells.rows[j], cells.sorting),
            *(cells.parts[i], cells.parts[j], recipe),
        )
        for i, j in both
    )
    cluster.in_turn("silhouette", sum_parts, calls, len(both), done)
    cluster.wait(gathered.found)
    return gathered.found


def sum_parts(
    first_rows: NDArray[np.float32],
    second_rows: NDArray[np.float32] | None,
    sorting: Sorting,
    first: Part,
    second: Part,
    recipe: Recipe,
) -> tuple[Found, ...]:
    """Distances between the cells of two parts of a group: what is found of the rows of each.

    Parameters
    ----------
    second_rows : None where both are the same part
    """
    layout = layout_of(sorting[1])
    parts = [(first, first_rows), *([] if second_rows is None else [(second, second_rows)])]
    rows = centred(layout, sorting[0], parts)
    return sums_of_parts(layout, rows, make_summer(recipe.start(threads=1).tiles, rows.d), first, second)


def merge(
    found: list[tuple[tuple[Found, ...], int]],
    sorting: Sorting,
    part: Part,
) -> tuple[Found, ...]:
    """Put together what several tasks have found of the same rows; of clusters that were finished means are left."""
    merged, layout = together(found), layout_of(sorting[1])
    assert part.group is not None, "what is compared with itself alone is not merged"
    merged.finish(layout, layout.own_segment(part.span), layout.unit(part.group, sorting[0].reach))
    return (merged,)


def fold(
    found: list[tuple[tuple[Found, ...], int]],
    sorting: Sorting,
    part: Part,
) -> Means:
    """Means of the rows of a part from everything that was found of them."""
    return folded(together(found), layout_of(sorting[1]), part, sorting[0].reach, sorting[0].scale)


SUM_BYTES = 1 << 26
"""Memory of the sums of some cells of a sample to the segments of a part."""

Piece = tuple[int, int, "Span"]
"""First cell of the sample, the one after the last, and the blocks of their group."""


def distances_of_cells(x: BlockRows, segments: Segments, cells: NDArray[np.int64], recipe: Recipe) -> Any:
    """Distances of some cells, compared with all of their group; (2, m) on one worker."""
    there, cluster = sort(x, segments), x.cluster
    segment = segment_codes(cells, segments)
    order, pieces = pieces_of(Sample(segment, segments, there.layout.blocks), there.layout)
    rows, of_rows = x[cells[order]].argument, cluster.submit("segments", as_it_is, segment[order])
    runs = list(runs_of(pieces, there.layout, there.parts, x.shape[1]))
    which = [(i, number) for i, (_, numbers) in enumerate(runs) for number in numbers]
    found: list[list[Any]] = [[] for _ in runs]
    calls = (
        (there.rows[number], rows, of_rows, there.sorting, there.parts[number], runs[i][0], recipe)
        for i, number in which
    )
    cluster.in_turn("silhouette", compare, calls, len(which), lambda n, future: found[which[n][0]].append(future))
    distances = cluster.submit_each(
        "fold",
        distances_of_run,
        [(of_run, of_rows, there.sorting, run) for (run, _), of_run in zip(runs, found, strict=True)],
    )
    values = cluster.submit("distances", put_back, distances, order)
    cluster.wait([*distances, values])
    return values


def pieces_of(sample: Sample, layout: Layout) -> tuple[NDArray[np.int64], list[Piece]]:
    """The sample in the order in which it is compared, and what is compared at a time."""
    group_of = {layout.blocks[group[0]].first: group for group in layout.groups}
    pieces, start = [], 0
    for which, others in sample.pieces:
        pieces.append((start, start + len(which), group_of[others[0].first]))
        start += len(which)
    return np.concatenate([which for which, _ in sample.pieces]), pieces


def runs_of(pieces: list[Piece], layout: Layout, parts: list[Part], d: int) -> Iterator[tuple[list[Piece], list[int]]]:
    """Pieces that are compared in one task with each of the same parts, and the numbers of these parts."""
    numbers_of: dict[Span, list[int]] = {}
    by_start = {group[0]: group for group in layout.groups}
    for number, part in enumerate(parts):
        inside = [by_start[i] for i in range(*part.span) if i in by_start] if part.group is None else [part.group]
        for group in inside:
            numbers_of.setdefault(group, []).append(number)
    for numbers, run in groupby(pieces, key=lambda piece: numbers_of[piece[2]]):
        spans = [parts[number].span for number in numbers]
        rows = max(stop - start for start, stop in map(layout.rows_of, spans))
        n_segments = max(last - first for first, last in map(layout.segments_of, spans))
        most = max(CELLS_PER_PIECE, min(TASK_PRODUCTS / (d * rows), SUM_BYTES / (8 * n_segments)))
        for _, of_task in groupby(run, key=lambda piece, most=most: piece[0] // most):  # type: ignore[misc]
            yield list(of_task), numbers


def compare(
    rows: NDArray[np.float32],
    cells: NDArray[np.float32],
    segment: NDArray[np.int64],
    sorting: Sorting,
    part: Part,
    run: list[Piece],
    recipe: Recipe,
) -> list[Found]:
    """What is found of some cells from a part; of each piece."""
    layout = layout_of(sorting[1])
    own = centred(layout, sorting[0], [(part, rows)])
    summer = make_summer(recipe.start(threads=1).tiles, own.d)
    found = []
    for start, stop, of_group in run:
        span = max(part.span[0], of_group[0]), min(part.span[1], of_group[1])
        unit = layout.unit(of_group, own.reach)
        sums = sums_to_segments(layout.blocks[slice(*span)], cells[start:stop], own, summer, unit)
        found.append(found_in(layout, sums, segment[start:stop], span, unit))
    return found


def distances_of_run(
    found: list[list[Found]],
    segment: NDArray[np.int64],
    sorting: Sorting,
    run: list[Piece],
) -> NDArray[np.float64]:
    """Distances of the cells of some pieces, of which everything was found; (2, m)."""
    layout, distances = layout_of(sorting[1]), []
    for number, (start, stop, of_group) in enumerate(run):
        merged, own = together([(tuple(of_part), number) for of_part in found]), segment[start:stop]
        merged.finish(layout, own, layout.unit(of_group, sorting[0].reach))
        a, b = means(merged, stop - start, sorting[0].scale)
        distances.append(np.stack([np.where(layout.segments.sizes[own] == 1, np.nan, a), b]))
    return np.concatenate(distances, axis=1)


def as_it_is(array: NDArray[np.int64]) -> NDArray[np.int64]:
    """What a worker was handed, for all tasks."""
    return np.array(array)


def put_back(distances: list[NDArray[np.float64]], order: NDArray[np.int64]) -> NDArray[np.float64]:
    """Distances in the order of the sample."""
    values = np.empty((2, len(order)))
    values[:, order] = np.concatenate(distances, axis=1)
    return values

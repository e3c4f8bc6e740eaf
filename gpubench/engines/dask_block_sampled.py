"""Silhouettes of some cells of an embedding in blocks: they are brought together, and compared with each part."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.engines.cpu_sampled import CELLS_A_PIECE, Sample, segments_of, sums_to
from gpubench.engines.cpu_tiles import make_summer
from gpubench.engines.dask_block_silhouette import centred, layout_of, sort
from gpubench.engines.dask_parts import TASK_PRODUCTS
from gpubench.engines.dask_sums import Found, found_in, means, together
from gpubench.engines.segments import widths_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from gpubench.engines.dask_block_silhouette import Sorting
    from gpubench.engines.dask_blocks import BlockRows
    from gpubench.engines.dask_parts import Layout, Part, Span
    from gpubench.engines.dask_worker import Recipe
    from gpubench.engines.segments import Segments

SUM_BYTES = 1 << 26
"""Memory of the sums of some cells of a sample to the segments of a part."""

Piece = tuple[int, int, "Span"]
"""First cell of the sample, the one after the last, and the blocks of their group."""


def sampled_widths(x: BlockRows, segments: Segments, cells: NDArray[np.int64], recipe: Recipe) -> Any:
    """Widths of some cells, compared with all of their group; on one worker."""
    there, cluster = sort(x, segments), x.cluster
    segment = segments_of(cells, segments)
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
    widths = cluster.submit_each(
        "fold",
        widths_of_run,
        [(of_run, of_rows, there.sorting, run) for (run, _), of_run in zip(runs, found, strict=True)],
    )
    values = cluster.submit("widths", put_back, widths, order)
    cluster.wait([*widths, values])
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
        most = max(CELLS_A_PIECE, min(TASK_PRODUCTS / (d * rows), SUM_BYTES / (8 * n_segments)))
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
        sums = sums_to(layout.blocks[slice(*span)], cells[start:stop], own, summer, unit)
        found.append(found_in(layout, sums, segment[start:stop], span, unit))
    return found


def widths_of_run(
    found: list[list[Found]],
    segment: NDArray[np.int64],
    sorting: Sorting,
    run: list[Piece],
) -> NDArray[np.float64]:
    """Widths of the cells of some pieces, of which everything was found."""
    layout, widths = layout_of(sorting[1]), []
    for number, (start, stop, of_group) in enumerate(run):
        merged, own = together([(tuple(of_part), number) for of_part in found]), segment[start:stop]
        merged.finish(layout, own, layout.unit(of_group, sorting[0].reach))
        alone = layout.segments.sizes[own] == 1
        widths.append(widths_of(*means(merged, stop - start, sorting[0].scale), alone))
    return np.concatenate(widths)


def as_it_is(array: NDArray[np.int64]) -> NDArray[np.int64]:
    """What a worker was handed, for all tasks."""
    return np.array(array)


def put_back(widths: list[NDArray[np.float64]], order: NDArray[np.int64]) -> NDArray[np.float64]:
    """Values in the order of the sample."""
    values = np.empty(len(order))
    values[order] = np.concatenate(widths)
    return values

"""Silhouettes on a cluster whose workers hold all cells: tasks add up the distances between two parts of a group.

How cells are cut into parts is in `dask_parts`, what is found of them in `dask_sums`; where workers hold blocks of the
cells it is `dask_block_silhouette` that brings them to the tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.engines.common.segments import Segments, in_cell_order, sort_cells
from gpubench.engines.cpu.silhouette import CELLS_PER_PIECE, Sample, segment_codes
from gpubench.engines.cpu.tiles import CentredRows, make_summer
from gpubench.engines.dask.silhouette_parts import (
    TASKS_PER_SLOT,
    Found,
    Layout,
    Part,
    compared,
    means,
    pairs,
    parts_of,
    sum_pair,
    together,
)
from gpubench.engines.dask.worker import SORTED, kept

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.cpu.tiles import Summer
    from gpubench.engines.dask.cluster import Cluster
    from gpubench.engines.dask.silhouette_parts import Span
    from gpubench.engines.dask.worker import Recipe

PIECES_PER_TASK = 8
"""Pieces of a sample that a task compares with their groups, at least."""

Means = tuple["NDArray[np.float64]", "NDArray[np.float64]"]
"""Of consecutive rows: mean distances to the own cluster, and to the nearest other."""


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


class Sorted:
    """Sorted and centred cells, which a worker makes once."""

    def __init__(self, x: NDArray[np.float32], clusters: NDArray[Any], groups: NDArray[Any] | None) -> None:
        self.layout = Layout(sort_cells(clusters, groups))
        self.rows = CentredRows.sort(x, self.layout.segments, self.layout.blocks)

    @classmethod
    def here(cls, x: NDArray[np.float32], key: str, clusters: NDArray[Any], groups: NDArray[Any] | None) -> Sorted:
        """Those of this worker."""
        return kept((SORTED, *key.split()), lambda: cls(x, clusters, groups))


def cluster_distances(cluster: Cluster, columns: Columns, segments: Segments, d: int, recipe: Recipe) -> Any:
    """Distances of all cells to clusters, (2, n) on one worker; see `Engine.cluster_distances`."""
    found = _means(cluster, columns, segments, d, recipe)
    return cluster.submit("distances", distances_of_parts, found, columns.clusters, columns.groups)


def distances_of_parts(found: list[Means], clusters: NDArray[Any], groups: NDArray[Any] | None) -> NDArray[np.float64]:
    """Distances of all cells to clusters from the means of consecutive rows; (2, n)."""
    own, nearest = (np.concatenate(side) for side in zip(*found, strict=True))
    return np.stack(in_cell_order(own, nearest, sort_cells(clusters, groups)))


def _means(cluster: Cluster, columns: Columns, segments: Segments, d: int, recipe: Recipe) -> list[Any]:
    """Futures of the means of consecutive rows, which together are all rows."""
    parts = parts_of(Layout(segments), d, cluster.n_slots)
    both = list(pairs(parts))
    futures = cluster.submit_each(
        "silhouette", sum_parts, [(*columns.told, parts[i], parts[j], recipe) for i, j in both]
    )
    of_part: list[list[tuple[Any, int]]] = [[] for _ in parts]
    for (i, j), future in zip(both, futures, strict=True):
        of_part[i].append((future, 0))
        if i != j:
            of_part[j].append((future, 1))
    found = []
    for part, of_rows in zip(parts, of_part, strict=True):
        few = cluster.merged("merge_sums", merge, of_rows)
        found.append(cluster.submit("fold", fold, few, *columns.told, part))
    cluster.wait([*futures, *found])
    return found


def sum_parts(
    x: NDArray[np.float32],
    key: str,
    clusters: NDArray[Any],
    groups: NDArray[Any] | None,
    first: Part,
    second: Part,
    recipe: Recipe,
) -> tuple[Found, ...]:
    """Distances between the cells of two parts of a group: what is found of the rows of each."""
    own = Sorted.here(x, key, clusters, groups)
    summer = make_summer(recipe.start(threads=1).tiles, own.rows.d)
    return sums_of_parts(own.layout, own.rows, summer, first, second)


def sums_of_parts(layout: Layout, rows: CentredRows, summer: Summer, first: Part, second: Part) -> tuple[Found, ...]:
    """The same from rows that are here; a part of whole groups is compared with itself, each group alone."""
    if first.group is not None:
        unit = layout.unit(first.group, rows.reach)
        return sum_pair(layout, rows, summer, first.span, second.span, unit)
    begin, end = first.span
    found = [
        sum_pair(layout, rows, summer, group, group, layout.unit(group, rows.reach))[0]
        for group in layout.groups
        if begin <= group[0] < end
    ]
    own = np.concatenate([of_group.own for of_group in found if of_group.own is not None])
    nearest = np.concatenate([of_group.nearest for of_group in found if of_group.nearest is not None])
    return (Found(own, nearest),)


def merge(found: list[tuple[tuple[Found, ...], int]]) -> tuple[Found, ...]:
    """Put together what several tasks have found of the same rows."""
    return (together(found),)


def fold(
    found: list[tuple[tuple[Found, ...], int]],
    x: NDArray[np.float32],
    key: str,
    clusters: NDArray[Any],
    groups: NDArray[Any] | None,
    part: Part,
) -> Means:
    """Means of the rows of a part from everything that was found of them."""
    own = Sorted.here(x, key, clusters, groups)
    return folded(together(found), own.layout, part, own.rows.reach, own.rows.scale)


def folded(merged: Found, layout: Layout, part: Part, reach: float, scale: float) -> Means:
    """Means of the rows of a part of which everything was found."""
    if part.group is not None:
        merged.finish(layout, layout.own_segment(part.span), layout.unit(part.group, reach))
    start, stop = layout.rows_of(part.span)
    return means(merged, stop - start, scale)


def distances_of_cells(
    cluster: Cluster, columns: Columns, cells: NDArray[np.int64], segments: Segments, recipe: Recipe
) -> Any:
    """Distances of some cells, compared with all of their group; (2, m) on one worker."""
    of_groups = [drawn for drawn, _ in compared(segment_codes(cells, segments), segments)]
    n_pieces = sum(-(-drawn // CELLS_PER_PIECE) for drawn in of_groups)
    step = max(PIECES_PER_TASK, -(-n_pieces // (TASKS_PER_SLOT * cluster.n_slots)))
    calls = [(*columns.told, cells, (start, start + step), recipe) for start in range(0, n_pieces, step)]
    futures = cluster.submit_each("silhouette", distances_of_pieces, calls)
    distances = cluster.submit("distances", put_together, futures, len(cells))
    cluster.wait([*futures, distances])
    return distances


def distances_of_pieces(
    x: NDArray[np.float32],
    key: str,
    clusters: NDArray[Any],
    groups: NDArray[Any] | None,
    cells: NDArray[np.int64],
    span: Span,
    recipe: Recipe,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Distances of the cells of some pieces of a sample, and where they are in it."""
    own = Sorted.here(x, key, clusters, groups)
    layout, rows = own.layout, own.rows
    sample = Sample(segment_codes(cells, layout.segments), layout.segments, layout.blocks)
    summer = make_summer(recipe.start(threads=1).tiles, rows.d)
    pieces = sample.pieces[slice(*span)]
    distances = [sample.distances(x[cells[which]], which, others, rows, summer) for which, others in pieces]
    return np.concatenate([which for which, _ in pieces]), np.concatenate(distances, axis=1)


def put_together(found: list[tuple[NDArray[np.int64], NDArray[np.float64]]], m: int) -> NDArray[np.float64]:
    """Distances of all cells from those of some; (2, m)."""
    values = np.empty((2, m))
    for which, own in found:
        values[:, which] = own
    return values

"""Silhouettes of an embedding in blocks: cells are sorted into parts on the workers, and tasks are given two of them.

What is computed of two parts is what every engine computes (`dask_sums`, `cpu_sampled`), so the bits are the same.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.engines.cpu_tiles import CentredRows, Centring, block_sums, make_summer
from gpubench.engines.dask_blocks import FLIGHT_SHARE
from gpubench.engines.dask_parts import MOST_PARTS, Layout, Part, pairs, parts_of
from gpubench.engines.dask_shuffle import most_parts, ranks_of, shuffle, sorted_rows
from gpubench.engines.dask_silhouette import folded, own_means_of, sums_of_parts, widths_of
from gpubench.engines.dask_sums import Found, together
from gpubench.engines.dask_worker import kept
from gpubench.engines.segments import Segments

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.dask_blocks import BlockRows
    from gpubench.engines.dask_cluster import Cluster
    from gpubench.engines.dask_silhouette import Means
    from gpubench.engines.dask_worker import Recipe

MERGED = 8
"""Answers about the same rows that wait to be put together: fewer take less memory, more take fewer tasks."""


@dataclass(slots=True)
class SortedCells:
    """An embedding sorted for silhouettes, in parts on the workers.

    Attributes
    ----------
    key : tells it from cells sorted otherwise
    layout, parts : how they are cut
    rows : futures of the rows of each part, as they are
    centring : future of what they are centred on
    """

    key: str
    layout: Layout
    parts: list[Part]
    rows: list[Any]
    centring: Any
    starts: Any
    group: Any

    @property
    def told(self) -> tuple[Any, ...]:
        """The arguments that tasks take to know the layout."""
        return self.key, self.starts, self.group


def cut_of(layout: Layout, d: int, n_blocks: int, n_slots: int, most_bytes: int) -> list[Part]:
    """The parts that cells in so many blocks are sorted into.

    Parameters
    ----------
    most_bytes : what one worker may hold
    """
    rows = max(1, int(FLIGHT_SHARE * most_bytes) // (4 * d))
    return parts_of(layout, d, n_slots, most_parts=most_parts(n_blocks, MOST_PARTS), most_rows=rows)


def sort(x: BlockRows, segments: Segments) -> SortedCells:
    """Sort the cells, unless they were sorted the same last."""
    digest = hashlib.sha256(segments.order.data)
    for array in (segments.starts, segments.group):  # columns that sort cells the same may group them otherwise
        digest.update(np.ascontiguousarray(array).data)
    key = digest.hexdigest()
    if x.sorted is not None and x.sorted.key == key:
        found: SortedCells = x.sorted
        return found
    x.sorted = None  # first let go of the others
    cluster, layout = x.cluster, Layout(segments)
    parts = cut_of(layout, x.shape[1], len(x.blocks), cluster.n_slots, x.most_bytes)
    rank = np.empty(layout.n, np.uint32)
    rank[segments.order] = np.arange(layout.n, dtype=np.uint32)
    edges = [layout.rows_of(part.span) for part in parts]
    rows = shuffle(cluster, x, ranks_of(cluster, rank, x), edges, sorted_rows)
    starts, group = cluster.packed(segments.starts), cluster.packed(segments.group)
    calls = [(part_rows, key, starts, group, part) for part_rows, part in zip(rows, parts, strict=True)]
    facts = cluster.submit_each("look", look, calls)
    centring = cluster.submit("centre", centring_of, facts, key, starts, group)
    cluster.wait([*facts, centring])
    x.sorted = SortedCells(key, layout, parts, rows, centring, starts, group)
    return x.sorted


def layout_here(key: str, starts: NDArray[np.int64], group: NDArray[np.int64]) -> Layout:
    """The layout on this worker, which makes it once."""
    return kept(("layout", key), lambda: Layout(Segments(np.empty(0, np.int64), np.array(starts), np.array(group))))


Facts = tuple["NDArray[np.float64]", "NDArray[np.float32]", "NDArray[np.float32]"]


def look(rows: NDArray[np.float32], key: str, starts: NDArray[np.int64], group: NDArray[np.int64], part: Part) -> Facts:
    """Sums of the blocks of a part, and the smallest and largest value of each dimension."""
    blocks = layout_here(key, starts, group).blocks[slice(*part.span)]
    return block_sums(rows, blocks), rows.min(axis=0), rows.max(axis=0)


def centring_of(facts: list[Facts], key: str, starts: NDArray[np.int64], group: NDArray[np.int64]) -> Centring:
    """What all rows are centred on."""
    sums, low, high = zip(*facts, strict=True)
    blocks = layout_here(key, starts, group).blocks
    return Centring.of(np.concatenate(sums), np.min(low, axis=0), np.max(high, axis=0), blocks)


def centred(layout: Layout, centring: Centring, parts: list[tuple[Part, NDArray[np.float32]]]) -> CentredRows:
    """Copies of parts, centred."""
    runs = []
    for part, rows in parts:
        own = rows.copy()
        squares = centring.centre(own, layout.blocks[slice(*part.span)])
        runs.append((layout.rows_of(part.span)[0], own, squares))
    return CentredRows(runs, centring)


def silhouette_widths(x: BlockRows, segments: Segments, codes: list[Any], recipe: Recipe) -> Any:
    """Silhouette widths of all cells, on one worker; see `Engine.silhouette_widths`."""
    found = _means(x, segments, recipe)
    return x.cluster.submit("widths", widths_of, found, *codes)


def mean_distances(x: BlockRows, segments: Segments, codes: list[Any], recipe: Recipe) -> Any:
    """Mean distances to the own cluster, on one worker."""
    found = _means(x, segments, recipe)
    return x.cluster.submit("means", own_means_of, found, *codes)


def _means(x: BlockRows, segments: Segments, recipe: Recipe) -> list[Any]:
    """Futures of the means of consecutive rows, which together are all rows."""
    cells, cluster = sort(x, segments), x.cluster
    both = list(pairs(cells.parts))
    gathered = _Gathered(cluster, cells, np.bincount([number for i, j in both for number in {i, j}]))
    calls = (
        (
            *(cells.rows[i], None if i == j else cells.rows[j], cells.centring, *cells.told),
            *(cells.parts[i], cells.parts[j], recipe),
        )
        for i, j in both
    )
    cluster.in_turn("silhouette", sum_parts, calls, len(both), lambda n, future: gathered.add(*both[n], future))
    cluster.wait(gathered.found)
    return gathered.found


class _Gathered:
    """Puts together what tasks have found of each part while others still run.

    Parameters
    ----------
    n_tasks : that each part is in
    """

    def __init__(self, cluster: Cluster, cells: SortedCells, n_tasks: NDArray[np.int64]) -> None:
        self._cluster, self._cells, self._missing = cluster, cells, n_tasks
        self._waiting: list[list[tuple[Any, int]]] = [[] for _ in cells.parts]
        self.found: list[Any] = [None] * len(cells.parts)

    def add(self, i: int, j: int, future: Any) -> None:
        """Take what was found of parts i and j."""
        self._add(i, future, 0)
        if i != j:
            self._add(j, future, 1)

    def _add(self, number: int, future: Any, side: int) -> None:
        cells, waiting = self._cells, self._waiting[number]
        waiting.append((future, side))
        self._missing[number] -= 1
        told = cells.centring, *cells.told, cells.parts[number]
        if not self._missing[number]:
            self.found[number] = self._cluster.submit("fold", fold, waiting, *told)
            self._waiting[number] = []
        elif len(waiting) >= MERGED:
            self._waiting[number] = [(self._cluster.submit("merge_sums", merge, waiting, *told), 0)]


def sum_parts(
    first_rows: NDArray[np.float32],
    second_rows: NDArray[np.float32] | None,
    centring: Centring,
    key: str,
    starts: NDArray[np.int64],
    group: NDArray[np.int64],
    first: Part,
    second: Part,
    recipe: Recipe,
) -> tuple[Found, ...]:
    """Distances between the cells of two parts of a group: what is found of the rows of each.

    Parameters
    ----------
    second_rows : None where both are the same part
    """
    layout = layout_here(key, starts, group)
    parts = [(first, first_rows), *([] if second_rows is None else [(second, second_rows)])]
    rows = centred(layout, centring, parts)
    return sums_of_parts(layout, rows, make_summer(recipe.start(threads=1).tiles, rows.d), first, second)


def merge(
    found: list[tuple[tuple[Found, ...], int]],
    centring: Centring,
    key: str,
    starts: NDArray[np.int64],
    group: NDArray[np.int64],
    part: Part,
) -> tuple[Found, ...]:
    """Put together what several tasks have found of the same rows; of clusters that were finished means are left."""
    merged, layout = together(found), layout_here(key, starts, group)
    assert part.group is not None, "what is compared with itself alone is not merged"
    merged.finish(layout, layout.own_segment(part.span), layout.unit(part.group, centring.reach))
    return (merged,)


def fold(
    found: list[tuple[tuple[Found, ...], int]],
    centring: Centring,
    key: str,
    starts: NDArray[np.int64],
    group: NDArray[np.int64],
    part: Part,
) -> Means:
    """Means of the rows of a part from everything that was found of them."""
    return folded(together(found), layout_here(key, starts, group), part, centring.reach, centring.scale)

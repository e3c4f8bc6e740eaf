"""Euclidean silhouettes on the GPUs of workers: each adds up some rows of tiles, and the sums are put together.

All workers cut the cells into the same tiles as one GPU would, and sums are integers, so the bits are those of one GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.engines.common.segments import Pass, in_cell_order, sort_cells
from gpubench.engines.dask import gpu_worker
from gpubench.engines.dask.worker import SORTED, kept

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.cuda.silhouette import SilhouetteTiles
    from gpubench.engines.dask.cluster import Cluster
    from gpubench.engines.dask.worker import Recipe

MAX_PIECES = 16
"""Ranges of cells that sums are cut into at most, so that no worker receives all that the others have added up."""

Tables = tuple["NDArray[np.int64]", "NDArray[np.int64]"]
"""Sums of one pass; see `DistanceSums.tables`."""

Means = tuple["NDArray[np.float64]", "NDArray[np.float64]"]
"""Mean distances to the own cluster, and to the nearest other of one pass; (n,) in sorted order."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The cells of a silhouette, as tasks are told of them.

    Attributes
    ----------
    x : what stands for the matrix on a GPU
    key : tells the matrix from others that workers hold
    token : tells these columns from others
    clusters, groups : the codes, or what stands for them
    """

    x: Any
    key: str
    token: str
    clusters: Any
    groups: Any

    @property
    def told(self) -> tuple[Any, ...]:
        """The arguments that every task takes."""
        return self.x, self.key, self.token, self.clusters, self.groups


def cluster_distances(cluster: Cluster, columns: Columns, recipe: Recipe) -> Any:
    """Distances of all cells to clusters, (2, n) on one worker; see `Engine.cluster_distances`."""
    room_bytes = min(cluster.on_each(room_here, recipe).values())
    told = (*columns.told, room_bytes, recipe)
    try:
        plan: list[Pass] = cluster.fetch(cluster.submit("plan", plan_of, told))
        n_workers = len(cluster.workers())
        n_pieces = min(n_workers, MAX_PIECES)
        calls = [(told, part, share, n_workers, n_pieces) for part in plan for share in range(n_workers)]
        futures = cluster.submit_each("silhouette", sums_of, calls, spread=True)
        means = []
        for i, part in enumerate(plan):
            of_part = futures[i * n_workers : (i + 1) * n_workers]
            pieces = [_merged_piece(cluster, of_part, piece) for piece in range(n_pieces)]
            means.append(cluster.submit("fold", fold, pieces, told, part))
        distances = cluster.submit("distances", distances_of_passes, means, columns.clusters, columns.groups)
        cluster.wait([*futures, *means, distances])
    finally:
        cluster.release(columns.token)  # tiles take up to a third of a GPU
    return distances


def _merged_piece(cluster: Cluster, shares: list[Any], piece: int) -> Any:
    """The future of the sums of all shares for one range of cells."""
    pieces = cluster.submit_each("piece", piece_of, [(share, piece) for share in shares])
    few = cluster.merged("merge_sums", merge, [(future, 0) for future in pieces])
    return cluster.submit("merge_sums", merge, few)


def room_here(recipe: Recipe) -> int:
    """Bytes that there are for tiles and sums on the GPU of this worker."""
    return int(gpu_worker.engine_of(recipe).room_bytes())


def _tiles_here(
    x: Any,
    key: str,
    token: str,
    clusters: NDArray[np.int32],
    groups: NDArray[np.int32] | None,
    room_bytes: int,
    recipe: Recipe,
) -> SilhouetteTiles:
    """The tiles of this worker, made once."""
    engine = gpu_worker.engine_of(recipe)

    def make() -> SilhouetteTiles:
        return engine.silhouette_tiles(gpu_worker.on_device(engine, x), sort_cells(clusters, groups), room_bytes)

    return kept((SORTED, key, token), make)


def plan_of(told: tuple[Any, ...]) -> list[Pass]:
    """What is summed up at a time."""
    with gpu_worker.one_at_a_time:
        return _tiles_here(*told).plan


def sums_of(told: tuple[Any, ...], part: Pass, share: int, n_shares: int, n_pieces: int) -> list[Tables]:
    """What a share of the rows of tiles adds to the sums of a pass, in ranges of cells; see `rows_of`."""
    *_, recipe = told
    engine = gpu_worker.engine_of(recipe)
    with gpu_worker.one_at_a_time:
        tiles = _tiles_here(*told)
        sums = tiles.empty_sums(engine.xp, part)
        for i in rows_of(part, share, n_shares):
            tiles.add_row(i, part.group_last, sums)
        tables = [engine.to_host(of) for of in sums.tables]
    inside, after = ([np.ascontiguousarray(cut) for cut in np.array_split(of, n_pieces, axis=1)] for of in tables)
    return list(zip(inside, after, strict=True))


def piece_of(pieces: list[Tables], piece: int) -> tuple[Tables]:
    """One range of cells."""
    return (pieces[piece],)


def rows_of(part: Pass, share: int, n_shares: int) -> list[int]:
    """Rows of tiles of a share. Row i has the tiles from i on: shares take turns, and every other round backwards."""
    rounds = [*range(n_shares), *reversed(range(n_shares))]
    return [i for i in range(part.first, part.last) if rounds[(i - part.first) % len(rounds)] == share]


def merge(found: list[tuple[tuple[Tables], int]]) -> tuple[Tables]:
    """Sums of several shares."""
    inside, after = zip(*(tables for (tables,), _ in found), strict=True)
    return ((reduce(np.add, inside), reduce(np.add, after)),)  # np.sum would copy all of them into one array first


def fold(pieces: list[tuple[Tables]], told: tuple[Any, ...], part: Pass) -> Means:
    """Means of all cells from the sums of a pass; what the pass does not have is 0, and infinite."""
    with gpu_worker.one_at_a_time:
        tiles = _tiles_here(*told)
    sums = tiles.empty_sums(np, part)
    inside, after = zip(*(tables for (tables,) in pieces), strict=True)
    sums.add((np.concatenate(inside, axis=1), np.concatenate(after, axis=1)))
    n = len(tiles.segments.order)
    own, nearest = np.zeros(n), np.full(n, np.inf)
    sums.write_means(own, nearest)
    return own / tiles.scale, nearest / tiles.scale


def distances_of_passes(
    found: list[Means], clusters: NDArray[np.int32], groups: NDArray[np.int32] | None
) -> NDArray[np.float64]:
    """Distances of all cells to clusters from the means of all passes; (2, n)."""
    own, nearest = zip(*found, strict=True)
    return np.stack(in_cell_order(np.sum(own, axis=0), np.min(nearest, axis=0), sort_cells(clusters, groups)))

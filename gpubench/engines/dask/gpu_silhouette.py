"""Euclidean silhouettes on the GPUs of workers: each adds up some rows of tiles, and the sums are merged.

All workers cut the cells into the same tiles as one GPU would, and sums are integers, so the bits are those of one GPU.
"""

from __future__ import annotations

import uuid
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.engines.common.segments import Pass, in_cell_order, sort_cells
from gpubench.engines.dask import gpu_worker
from gpubench.engines.dask.worker import SORTED, cached

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.cuda.silhouette import SilhouetteTiles
    from gpubench.engines.dask.cluster import Cluster
    from gpubench.engines.dask.silhouette_parts import Means
    from gpubench.engines.dask.worker import EngineSettings

MAX_PIECES = 16
"""Ranges of cells that sums are cut into at most, so that no worker receives all that the others have added up."""

Tables = tuple["NDArray[np.int64]", "NDArray[np.int64]"]
"""Sums of one pass; see `DistanceSums.tables`."""

Arguments = tuple[Any, str, Any, Any, int, "EngineSettings"]
"""Arguments of every task: the matrix on its GPU, a key of the columns, clusters, groups, bytes for tiles and sums."""


def cluster_distances(
    cluster: Cluster,
    x: Any,
    clusters: NDArray[np.int32],
    groups: NDArray[np.int32] | None,
    settings: EngineSettings,
) -> NDArray[np.float64]:
    """Compute the distances of all cells to clusters, (2, n); see `Engine.cluster_distances`.

    Parameters
    ----------
    x : stands for the matrix on a GPU in the arguments of tasks
    """
    key = uuid.uuid4().hex
    available = min(cluster.run_on_all(available_bytes, settings).values())
    arguments: Arguments = x, key, clusters, groups, available, settings
    try:
        plan: list[Pass] = cluster.fetch(cluster.submit("plan", make_plan, arguments))
        n_workers = len(cluster.workers())
        n_pieces = min(n_workers, MAX_PIECES)
        calls = [(arguments, part, share, n_workers, n_pieces) for part in plan for share in range(n_workers)]
        futures = cluster.submit_each("silhouette", add_rows, calls, spread=True)
        means = []
        for i, part in enumerate(plan):
            shares = futures[i * n_workers : (i + 1) * n_workers]
            pieces = [_merged_piece(cluster, shares, piece) for piece in range(n_pieces)]
            means.append(cluster.submit("fold", fold, pieces, arguments, part))
        cluster.wait([*futures, *means])
        distances: NDArray[np.float64] = cluster.fetch(
            cluster.submit("distances", merge_passes, means, clusters, groups)
        )
    finally:
        cluster.release(key)  # tiles take up to a third of a GPU
    return distances


def _merged_piece(cluster: Cluster, shares: list[Any], piece: int) -> Any:
    """Return the future of the sums of all shares for one range of cells."""
    pieces = cluster.submit_each("piece", take_piece, [(share, piece) for share in shares])
    few = cluster.merge_tree("merge_sums", merge, [(future, 0) for future in pieces])
    return cluster.submit("merge_sums", merge, few)


def available_bytes(settings: EngineSettings) -> int:
    """Return the bytes that are available for tiles and sums on the GPU of this worker."""
    return int(gpu_worker.cuda_engine(settings).room_bytes())


def _load_tiles(
    x: Any,
    key: str,
    clusters: NDArray[np.int32],
    groups: NDArray[np.int32] | None,
    max_bytes: int,
    settings: EngineSettings,
) -> SilhouetteTiles:
    """Return the tiles of this worker, made once."""
    engine = gpu_worker.cuda_engine(settings)

    def make() -> SilhouetteTiles:
        return engine.silhouette_tiles(gpu_worker.on_device(engine, x), sort_cells(clusters, groups), max_bytes)

    return cached((SORTED, key), make)


def make_plan(arguments: Arguments) -> list[Pass]:
    """Return the passes."""
    with gpu_worker.one_at_a_time:
        return _load_tiles(*arguments).plan


def add_rows(arguments: Arguments, part: Pass, share: int, n_shares: int, n_pieces: int) -> list[Tables]:
    """Add up a share of the rows of tiles, see `share_rows`; return the sums of a pass in ranges of cells."""
    *_, settings = arguments
    engine = gpu_worker.cuda_engine(settings)
    with gpu_worker.one_at_a_time:
        tiles = _load_tiles(*arguments)
        sums = tiles.empty_sums(engine.xp, part)
        for i in share_rows(part, share, n_shares):
            tiles.add_row(i, part.group_last, sums)
        tables = [engine.to_host(table) for table in sums.tables]
    inside, after = ([np.ascontiguousarray(cut) for cut in np.array_split(table, n_pieces, axis=1)] for table in tables)
    return list(zip(inside, after, strict=True))


def take_piece(pieces: list[Tables], piece: int) -> tuple[Tables]:
    """Return the sums of one range of cells."""
    return (pieces[piece],)


def share_rows(part: Pass, share: int, n_shares: int) -> list[int]:
    """Return the rows of tiles of a share. Row i has the tiles from i on, so every other round goes backwards."""
    rounds = [*range(n_shares), *reversed(range(n_shares))]
    return [i for i in range(part.first, part.last) if rounds[(i - part.first) % len(rounds)] == share]


def merge(found: list[tuple[tuple[Tables], int]]) -> tuple[Tables]:
    """Add the sums of several shares."""
    inside, after = zip(*(tables for (tables,), _ in found), strict=True)
    return ((reduce(np.add, inside), reduce(np.add, after)),)  # np.sum would copy all of them into one array first


def fold(pieces: list[tuple[Tables]], arguments: Arguments, part: Pass) -> Means:
    """Return the means of all cells from the sums of a pass; 0 and infinite where the pass has none."""
    with gpu_worker.one_at_a_time:
        tiles = _load_tiles(*arguments)
    sums = tiles.empty_sums(np, part)
    inside, after = zip(*(tables for (tables,) in pieces), strict=True)
    sums.add((np.concatenate(inside, axis=1), np.concatenate(after, axis=1)))
    n = len(tiles.segments.order)
    own, nearest = np.zeros(n), np.full(n, np.inf)
    sums.write_means(own, nearest)
    return own / tiles.scale, nearest / tiles.scale


def merge_passes(
    found: list[Means], clusters: NDArray[np.int32], groups: NDArray[np.int32] | None
) -> NDArray[np.float64]:
    """Return the distances of all cells to clusters from the means of all passes; (2, n)."""
    own, nearest = zip(*found, strict=True)
    return np.stack(in_cell_order(np.sum(own, axis=0), np.min(nearest, axis=0), sort_cells(clusters, groups)))

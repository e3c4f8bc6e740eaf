"""The Dask engine where every worker has a GPU: its operations are those of the CUDA engine, on the workers.

For exact neighbours each worker searches some ranges of rows among all cells. Values of neighbourhoods are computed
where the neighbours are. Rows of tiles of Euclidean silhouettes are divided among the workers: all cut the cells into
the same tiles as one GPU would, and sums are integers. Operations that need the whole graph run on one worker.

Neighbours, distances and values of cells have the same bits as with the CUDA engine on one GPU of the same kind. Means
over cells are computed on the host, and may differ in the last bits from means computed on a GPU.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field, replace
from functools import cache, reduce
from operator import getitem
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError
from gpubench.core.types import Array, Knn, RowSource
from gpubench.core.units import bytes_text
from gpubench.data import as_rows
from gpubench.engines.base import Policy
from gpubench.engines.common import flop_counts
from gpubench.engines.common.segments import Pass, in_cell_order, sort_cells
from gpubench.engines.dask import gpu_worker
from gpubench.engines.dask.engine import DaskEngine
from gpubench.engines.dask.remote import WHOLE_COPIES, ClusterMatrix, remote_knn
from gpubench.engines.dask.worker import SORTED, TYPE_KEY, cached

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike

    from gpubench.core.types import F64, I32, I64
    from gpubench.engines.base import ClassifierKind, Distance
    from gpubench.engines.cuda.silhouette import SilhouetteTiles
    from gpubench.engines.dask.cluster import Cluster
    from gpubench.engines.dask.silhouette import Means
    from gpubench.engines.dask.worker import EngineSettings

TASK_PRODUCTS = 2e13
"""Work of one task, as (pairs of cells) * (dimensions): a few seconds at the nominal speed of a GPU."""

MIN_PRODUCTS = 1e11
"""Work, as (pairs of cells) * (dimensions), from which silhouettes are divided among workers: far below a second."""

MIN_ROWS = 4096
"""Smallest number of rows per task, enough to keep a GPU busy."""

TASKS_PER_WORKER = 4

MAX_PIECES = 16
"""Largest number of ranges of cells into which sums are cut, so that no worker receives all sums of the others."""

SHARES_AT_A_TIME = 16
"""Number of shares whose sums one task adds."""

Tables = tuple["I64", "I64"]
"""Sums of one pass; see `DistanceSums.tables`."""

SilhouetteArguments = tuple[Any, str, Any, Any, int, "EngineSettings"]
"""The matrix on its GPU, a key of the columns, clusters, groups, bytes for tiles and sums, settings."""


def rows_per_task(m: int, n: int, d: int, n_workers: int) -> int:
    """Return the number of queries per task, such that each worker gets several tasks and none takes too long."""
    return max(min(int(TASK_PRODUCTS / n / d), -(-m // (TASKS_PER_WORKER * n_workers))), MIN_ROWS)


def on_gpus(engine: DaskEngine) -> DaskEngine:
    """Return a `DaskGpuEngine` on the same cluster if all workers have a GPU, else the given engine."""
    gpu = gpu_worker.check_alike(engine.cluster.run_on_all(gpu_worker.gpu_here))
    return DaskGpuEngine(engine, gpu) if gpu else engine


@dataclass(frozen=True)
class GpuClusterPolicy(Policy):
    """Policy that requests each decision from the CUDA engine of a worker.

    Attributes
    ----------
    ask : function that calls a method of the worker's policy by name
    """

    ask: Callable[..., Any] = field(kw_only=True)

    def knn_method_for(self, n: int, d: int, k: int = 1) -> str:
        """See `Policy.knn_method_for`; decided by the CUDA engine of a worker."""
        return str(self.ask("knn_method_for", n, d, k))

    def max_training_cells(self, kind: ClassifierKind, n: int) -> int:
        """See `Policy.max_training_cells`; decided by the CUDA engine of a worker."""
        return int(self.ask("max_training_cells", kind, n)) if kind == "rf" else n


class DaskGpuEngine(DaskEngine):
    """A Dask engine whose workers have GPUs.

    Parameters
    ----------
    engine : connected Dask engine, whose connection is used
    gpu : name of the workers' GPUs
    """

    def __init__(self, engine: DaskEngine, gpu: str) -> None:
        vars(self).update(vars(engine))
        self._settings = replace(self._settings, engine="cuda")
        self.device = f"workers of a Dask cluster, {gpu}"
        self.chosen = f"{engine.chosen} and one GPU each: cuda, which all have"
        self._verified: dict[str, str] = {}
        ask = cache(lambda *question: self.run(gpu_worker.policy_here, *question))
        self.policy = GpuClusterPolicy(knn_method=engine.policy.knn_method, saves_neighbors=False, ask=ask)

    def put(self, x: ArrayLike | RowSource, name: str = "X") -> ClusterMatrix:
        """See `Engine.put`; every worker receives all cells on first use and must have memory for all of them."""
        if isinstance(x, ClusterMatrix):
            return x
        rows = as_rows(x, name)
        (n, d), limit = rows.shape, self.placement.worker_bytes
        if int(WHOLE_COPIES * 4 * n * d) > limit:
            raise InputError(
                f"{name} ({n:,} x {d}) does not fit the host memory of a worker ({bytes_text(limit)}), and"
                " workers with GPUs hold all cells; start workers with more memory, or hide the GPUs with"
                ' CUDA_VISIBLE_DEVICES=""'
            )
        return super().put(rows, name)

    def verified(self) -> dict[str, str]:
        """See `Engine.verified`; of the engines of all workers."""
        return dict(sorted(self._verified.items()))

    def release(self, x: Array) -> None:
        """See `Engine.release`; also frees copies on the workers' GPUs."""
        super().release(x)
        if isinstance(x, ClusterMatrix) and x.key:
            self.cluster.release(x.key)

    def _exact_knn(self, cells: ClusterMatrix, k: int) -> Knn:
        return remote_knn(self.cluster, self._search("knn", cells, cells, k, leave_out_self=True), (len(cells), k))

    def _knn_between(self, queries: ClusterMatrix, x: ClusterMatrix, k: int) -> Knn:
        blocks = self.cluster.fetch(self._search("knn_between", queries, x, k, leave_out_self=False))
        indices, distances = (np.concatenate([block[i] for block in blocks]) for i in (1, 2))
        return Knn(indices, distances)

    def _search(
        self, name: str, queries: ClusterMatrix, x: ClusterMatrix, k: int, *, leave_out_self: bool
    ) -> list[Any]:
        """Search neighbours of the queries in tasks; return the futures of `KnnBlock`s in the order of the queries."""
        m, (n, d) = len(queries), x.shape
        self.timeline.count(flop_counts.search(m, n, d, k, symmetric=False))
        rows = rows_per_task(m, n, d, len(self.cluster.workers()))
        both = self._encode(queries), self._encode(x)
        spans = [(start, min(start + rows, m)) for start in range(0, m, rows)]
        calls = [(*both, span, k, self._settings, leave_out_self) for span in spans]
        blocks = self.cluster.submit_each(name, gpu_worker.search_rows, calls)
        self.cluster.wait(blocks)
        return blocks

    def cluster_distances(
        self,
        x: Array,
        clusters: I32,
        groups: I32 | None = None,
        metric: Distance = "euclidean",
        cells: I64 | None = None,
    ) -> tuple[F64, F64]:
        """See `Engine.cluster_distances`; Euclidean distances are computed by all workers, if there are many."""
        x = self.put(x)
        may_divide = metric == "euclidean" and self.n_workers > 1
        group_sizes = sort_cells(clusters, groups).group_sizes if may_divide else []
        todo = flop_counts.silhouettes(group_sizes, x.shape[1])
        if may_divide and todo.flop >= MIN_PRODUCTS:
            self.timeline.count(todo)
            found = cluster_distances(self.cluster, self._encode(x), clusters, groups, self._settings)
            a, b = found if cells is None else found[:, cells]
        else:
            a, b = self._call("cluster_distances", x, clusters, groups, metric, cells)
        return a, b

    def _encode(self, given: Any) -> Any:
        """Return an argument in the form passed to tasks; a matrix from `put` is copied to each GPU only once."""
        if not isinstance(given, ClusterMatrix) or not given.key:
            return given
        arguments = {"key": given.key, "cells": given.future, "settings": self._settings}
        return {TYPE_KEY: gpu_worker.matrix_on_device, **arguments}

    def _submit(self, operation: str, *args: Any, **kwargs: Any) -> Any:
        """See `DaskEngine._submit`; also copy `notes` of the workers' engines and what they `verified`."""
        future = super()._submit(operation, *args, **kwargs)
        for notes, verified in self.cluster.run_on_all(gpu_worker.facts_here, self._settings).values():
            self.notes += [note for note in notes if note not in self.notes]
            wrong = {name: found for name, found in self._verified.items() if found != "right"}
            self._verified |= verified | wrong
        return future

    def _map_host_neighbors(self, knn: Knn, *args: Any, **kwargs: Any) -> F64:
        """Compute the values of neighbourhoods on the GPU of one worker, for a neighbour graph on this machine."""
        return np.asarray(self._call("map_neighbors", knn, *args, **kwargs))


def cluster_distances(cluster: Cluster, x: Any, clusters: I32, groups: I32 | None, settings: EngineSettings) -> F64:
    """Compute the Euclidean distances of all cells to clusters, (2, n); see `Engine.cluster_distances`.

    Parameters
    ----------
    x : argument of tasks that a worker decodes to its copy of the matrix on the GPU
    """
    key = uuid.uuid4().hex
    available = min(cluster.run_on_all(available_bytes, settings).values())
    arguments: SilhouetteArguments = x, key, clusters, groups, available, settings
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
        return np.asarray(cluster.fetch(cluster.submit("distances", merge_passes, means, clusters, groups)))
    finally:
        cluster.release(key)  # tiles take up to a third of a GPU


def _merged_piece(cluster: Cluster, shares: list[Any], piece: int) -> Any:
    """Return the future of the total of all shares' sums for one range of cells, added pairwise in a tree of tasks."""
    found = cluster.submit_each("piece", getitem, [(share, piece) for share in shares])
    while len(found) > 1:
        some = [found[i : i + SHARES_AT_A_TIME] for i in range(0, len(found), SHARES_AT_A_TIME)]
        found = cluster.submit_each("merge_sums", add_tables, [(tables,) for tables in some])
    return found[0]


def available_bytes(settings: EngineSettings) -> int:
    """Return the bytes available for tiles and sums on this worker's GPU."""
    return int(gpu_worker.cuda_engine(settings).room_bytes())


def _load_tiles(
    x: Any, key: str, clusters: I32, groups: I32 | None, max_bytes: int, settings: EngineSettings
) -> SilhouetteTiles:
    """Return the silhouette tiles of a matrix on this worker's GPU; they are made once and cached."""
    engine = gpu_worker.cuda_engine(settings)

    def make() -> SilhouetteTiles:
        return engine.silhouette_tiles(gpu_worker.on_device(engine, x), sort_cells(clusters, groups), max_bytes)

    return cached((SORTED, key), make)


def make_plan(arguments: SilhouetteArguments) -> list[Pass]:
    """Return the passes over the cells, which are the same on all workers."""
    with gpu_worker.one_at_a_time:
        return _load_tiles(*arguments).plan


def add_rows(arguments: SilhouetteArguments, part: Pass, share: int, n_shares: int, n_pieces: int) -> list[Tables]:
    """Compute one worker's part of the sums of distances of a silhouette.

    The matrix of distances is divided into tiles, and their rows into `n_shares`, of which `share` is added up, see
    `share_rows`. The sums of all cells are returned in `n_pieces` arrays of consecutive cells.
    """
    engine = gpu_worker.cuda_engine(arguments[-1])
    with gpu_worker.one_at_a_time:
        tiles = _load_tiles(*arguments)
        sums = tiles.empty_sums(engine.xp, part)
        tiles.add_rows(share_rows(part, share, n_shares), part.group_last, sums)
        tables = [engine.to_host(table) for table in sums.tables]
    inside, after = ([np.ascontiguousarray(cut) for cut in np.array_split(table, n_pieces, axis=1)] for table in tables)
    return list(zip(inside, after, strict=True))


def share_rows(part: Pass, share: int, n_shares: int) -> list[int]:
    """Return the rows of tiles that belong to a share, alternating the order of shares to balance their work.

    Row i has only the tiles (i, j) with j >= i, so later rows have fewer tiles.
    """
    rounds = [*range(n_shares), *reversed(range(n_shares))]
    return [i for i in range(part.first, part.last) if rounds[(i - part.first) % len(rounds)] == share]


def add_tables(found: list[Tables]) -> Tables:
    """Return the total of the sums of several shares for the same range of cells."""
    inside, after = zip(*found, strict=True)
    return reduce(np.add, inside), reduce(np.add, after)  # np.sum would copy all of them into one array first


def fold(pieces: list[Tables], arguments: SilhouetteArguments, part: Pass) -> Means:
    """Turn sums of distances into the mean distances a and b of all cells.

    `part` is the set of groups whose distances were summed; cells of other groups get a = 0 and b = infinity.
    """
    with gpu_worker.one_at_a_time:
        tiles = _load_tiles(*arguments)
    sums = tiles.empty_sums(np, part)
    inside, after = zip(*pieces, strict=True)
    sums.add((np.concatenate(inside, axis=1), np.concatenate(after, axis=1)))
    n = len(tiles.segments.order)
    own, nearest = np.zeros(n), np.full(n, np.inf)
    sums.write_means(own, nearest)
    return tiles.in_given_order(np, own), tiles.in_given_order(np, nearest)


def merge_passes(found: list[Means], clusters: I32, groups: I32 | None) -> F64:
    """Combine the means of all passes to distances a and b of all cells, (2, n); see `Engine.cluster_distances`."""
    own, nearest = zip(*found, strict=True)
    return np.stack(in_cell_order(np.sum(own, axis=0), np.min(nearest, axis=0), sort_cells(clusters, groups)))

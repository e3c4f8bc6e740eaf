"""The Dask engine where every worker has a GPU: its operations are those of the CUDA engine, on the workers.

Exact neighbours are searched in ranges of rows by all workers: of each row among all cells, so that, other than on one
GPU, the distance between two cells is computed twice. Values of neighbourhoods are computed where the neighbours are.
Rows of tiles of Euclidean silhouettes are divided among the workers. What needs the whole graph runs on one worker.

Neighbours, distances, and values of cells have the bits of the CUDA engine on one GPU of the same kind. Means over
cells are formed on the host, and may differ from those formed on a GPU in the last bits.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from operator import getitem
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError
from gpubench.core.types import Array, Knn, RowSource
from gpubench.core.units import bytes_text
from gpubench.data import as_rows
from gpubench.engines.base import Policy
from gpubench.engines.common import flop_counts
from gpubench.engines.common.segments import sort_cells
from gpubench.engines.dask import gpu_silhouette, gpu_worker
from gpubench.engines.dask.engine import DaskEngine
from gpubench.engines.dask.remote import WHOLE_COPIES, ClusterMatrix, remote_knn
from gpubench.engines.dask.worker import TYPE_KEY

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    from gpubench.engines.base import ClassifierKind, Distance
    from gpubench.engines.costs import CostModel

TASK_PRODUCTS = 2e13
"""Differences of two values of one task: some seconds on a GPU, if it is as fast as its maker says."""

MIN_PRODUCTS = 1e11
"""Differences of two values from which on silhouettes are divided among workers: much less than a second on one GPU."""

MIN_ROWS = 4096
"""Rows of a task at least, which fill a GPU."""

TASKS_PER_WORKER = 4


def rows_per_task(m: int, n: int, d: int, n_workers: int) -> int:
    """Return the queries of a task, so that there are some tasks for each worker and none takes too long."""
    return max(min(int(TASK_PRODUCTS / n / d), -(-m // (TASKS_PER_WORKER * n_workers))), MIN_ROWS)


def on_gpus(engine: DaskEngine) -> DaskEngine:
    """Return the engine for GPUs where all workers have one, else the given engine.

    Raises
    ------
    EngineUnavailable
        Some have one and others have not; see `gpu_worker.check_alike`.
    """
    gpu = gpu_worker.check_alike(engine.cluster.run_on_all(gpu_worker.gpu_here))
    return DaskGpuEngine(engine, gpu) if gpu else engine


@dataclass(frozen=True)
class GpuClusterPolicy(Policy):
    """Decisions of the CUDA engine of a worker.

    Attributes
    ----------
    ask : calls a method of the policy there
    """

    ask: Callable[..., Any] = field(kw_only=True)

    def knn_method_for(self, n: int, d: int, k: int = 1) -> str:
        """See `Policy.knn_method_for`; as the CUDA engine on a worker."""
        return str(self.ask("knn_method_for", n, d, k))

    def max_training_cells(self, kind: ClassifierKind, n: int) -> int:
        """See `Policy.max_training_cells`; as the CUDA engine on a worker."""
        return int(self.ask("max_training_cells", kind, n)) if kind == "rf" else n


class DaskGpuEngine(DaskEngine):
    """A Dask engine whose workers have GPUs.

    Parameters
    ----------
    engine : as it was connected
    gpu : the name of the GPUs
    """

    def __init__(self, engine: DaskEngine, gpu: str) -> None:
        vars(self).update(vars(engine))
        self._settings = replace(self._settings, engine="cuda")
        self.device = f"workers of a Dask cluster, {gpu}"
        self.chosen = f"{engine.chosen} and one GPU each: cuda, which all have"
        ask = cache(lambda *question: self.run(gpu_worker.policy_here, *question))
        self.policy = GpuClusterPolicy(knn_method=engine.policy.knn_method, saves_neighbors=False, ask=ask)

    @cached_property
    def cost_model(self) -> CostModel | None:
        """See `Engine.cost_model`."""
        return None

    def put(self, x: ArrayLike | RowSource, name: str = "X") -> Array:
        """See `Engine.put`; every worker receives all cells when it first needs them.

        Raises
        ------
        InputError
            They do not fit, or cannot be scored.
        """
        if isinstance(x, ClusterMatrix):
            return x
        rows = as_rows(x, name)
        n, d = (int(size) for size in rows.shape)
        if int(WHOLE_COPIES * 4 * n * d) > self.worker_bytes:
            raise InputError(
                f"{name} ({n:,} x {d}) does not fit the host memory of a worker ({bytes_text(self.worker_bytes)}), and"
                " workers with GPUs hold all cells; start workers with more memory, or hide the GPUs with"
                ' CUDA_VISIBLE_DEVICES=""'
            )
        return super().put(rows, name)

    def release(self, x: Array) -> None:
        """See `Engine.release`; also on the GPUs."""
        super().release(x)
        if isinstance(x, ClusterMatrix) and x.key:
            self.cluster.release(x.key)

    def knn(self, x: Array, k: int) -> Knn:
        """See `Engine.knn`; exact neighbours are found by all workers, approximate ones by one."""
        cells = self._on_cluster(x)
        n, d = cells.shape
        if not 1 <= k < n:
            raise ValueError(f"k={k} neighbours need 1 <= k < n = {n}")
        if self.policy.knn_method_for(n, d, k) == "exact":
            return remote_knn(self.cluster, self._search("knn", cells, cells, k, leave_out_self=True), (n, k))
        block = self.cluster.submit("knn", gpu_worker.search_whole, self._encode(cells), k, self._settings)
        facts = self.cluster.fetch(self.cluster.submit("knn_facts", getitem, block, 3))
        return remote_knn(self.cluster, [block], (n, k), *facts)

    def knn_between(self, queries: Array, x: Array, k: int) -> Knn:
        """See `Engine.knn_between`; the queries are divided among the workers."""
        queries, x = self._on_cluster(queries), self._on_cluster(x)
        if not 1 <= k <= len(x):
            raise ValueError(f"k={k} neighbours need 1 <= k <= n = {len(x)}")
        blocks = self.cluster.fetch(self._search("knn_between", queries, x, k, leave_out_self=False))
        indices, distances = (np.concatenate([block[i] for block in blocks]) for i in (1, 2))
        return Knn(indices, distances)

    def _search(
        self, name: str, queries: ClusterMatrix, x: ClusterMatrix, k: int, *, leave_out_self: bool
    ) -> list[Any]:
        """Return the futures of blocks of a graph, which are in the order of the queries."""
        m, (n, d) = len(queries), x.shape
        self.timeline.count(flop_counts.search(m, n, d, k, symmetric=False))
        rows = rows_per_task(m, n, d, len(self.cluster.workers()))
        both = self._encode(queries), self._encode(x)
        spans = [(start, min(start + rows, m)) for start in range(0, m, rows)]
        calls = [(*both, span, k, self._settings, leave_out_self) for span in spans]
        blocks = self.cluster.submit_each(name, gpu_worker.search_rows, calls)
        self.cluster.wait(blocks)
        return blocks

    def _cluster_distances(
        self,
        x: ClusterMatrix,
        clusters: NDArray[np.int32],
        groups: NDArray[np.int32] | None,
        metric: Distance,
        cells: NDArray[np.int64] | None,
    ) -> NDArray[np.float64]:
        """Compute Euclidean distances on all workers, unless there is little to do."""
        if metric == "euclidean" and self.n_workers > 1:
            todo = flop_counts.silhouettes(sort_cells(clusters, groups).group_sizes, x.shape[1])
            if todo.flop >= MIN_PRODUCTS:
                self.timeline.count(todo)
                found = gpu_silhouette.cluster_distances(
                    self.cluster, self._encode(x), clusters, groups, self._settings
                )
                return found if cells is None else found[:, cells]
        return np.asarray(self._call("cluster_distances", x, clusters, groups, metric, cells))

    def _encode(self, given: Any) -> Any:
        """Return an argument of tasks: a matrix that was put is copied to the GPU of each worker once."""
        if not isinstance(given, ClusterMatrix) or not given.key:
            return given
        arguments = {"key": given.key, "cells": given.future, "settings": self._settings}
        return {TYPE_KEY: gpu_worker.matrix_on_device, **arguments}

    def _submit(self, operation: str, *args: Any, **kwargs: Any) -> Any:
        """Run an operation on the GPU of one worker; see `DaskEngine._submit`."""
        encoded = tuple(map(self._encode, args))
        future = self.cluster.submit(operation, gpu_worker.on_gpu, self._settings, operation, encoded, kwargs)
        self.cluster.wait([future])
        for notes in self.cluster.run_on_all(gpu_worker.notes_here, self._settings).values():
            self.notes += [note for note in notes if note not in self.notes]
        return future

    def _map_host_neighbors(self, knn: Knn, *args: Any, **kwargs: Any) -> NDArray[np.float64]:
        """Compute the values on the GPU of one worker."""
        return np.asarray(self._call("map_neighbors", knn, *args, **kwargs))

"""The Dask engine where every worker has a GPU: its operations are those of the CUDA engine, on the workers.

Exact neighbours are searched in ranges of rows by all workers: of each row among all cells, so that, other than on one
GPU, the distance between two cells is computed twice. Values of neighbourhoods are computed where the neighbours are.
Rows of tiles of Euclidean silhouettes are shared out. What needs the whole graph runs on one worker.

Neighbours, distances, and values of cells have the bits of the CUDA engine on one GPU of the same kind. Means over
cells are formed on the hosts of the workers, and may differ from those formed on a GPU in the last bits.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError
from gpubench.core.types import Array, Graph, Knn, RowSource
from gpubench.core.units import bytes_text
from gpubench.data import as_rows
from gpubench.engines.base import Policy
from gpubench.engines.common import flop_counts
from gpubench.engines.common.segments import sort_cells
from gpubench.engines.cuda.classifiers import max_training_cells
from gpubench.engines.dask import array, gpu_silhouette, gpu_worker, worker
from gpubench.engines.dask import knn as dask_knn
from gpubench.engines.dask.array import ClusterArray
from gpubench.engines.dask.classifiers import ClusterClassifier, LinearClusterClassifier
from gpubench.engines.dask.engine import DaskEngine
from gpubench.engines.dask.worker import Held

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    from gpubench.engines.base import Classifier, ClassifierKind, Distance
    from gpubench.engines.costs import CostModel

TASK_PRODUCTS = 2e13
"""Differences of two values of one task: some seconds on a GPU, if it is as fast as their makers say."""

MIN_PRODUCTS = 1e11
"""Differences of two values from which on silhouettes are shared out: much less than a second on one GPU."""

MIN_ROWS = 4096
"""Rows of a task at least, which fill a GPU."""

TASKS_PER_WORKER = 4


def rows_a_task(m: int, n: int, d: int, n_workers: int) -> int:
    """Queries of a task: so many that there are some tasks for each worker and none takes too long."""
    return max(min(int(TASK_PRODUCTS / n / d), -(-m // (TASKS_PER_WORKER * n_workers))), MIN_ROWS)


def on_gpus(engine: DaskEngine) -> DaskEngine:
    """The engine for what the workers have: another one where all have a GPU.

    Raises
    ------
    EngineUnavailable
        Some have one and others have not; see `dask_cuda.check_alike`.
    """
    gpu = gpu_worker.check_alike(engine.cluster.on_each(gpu_worker.gpu_here))
    return DaskGpuEngine(engine, gpu) if gpu else engine


@dataclass(frozen=True)
class GpuClusterPolicy(Policy):
    """What the CUDA engine of a worker decides.

    Attributes
    ----------
    ask : calls `knn_method_for` there
    """

    ask: Callable[[int, int, int], str] = field(kw_only=True)

    def knn_method_for(self, n: int, d: int, k: int = 1) -> str:
        """See `Policy.knn_method_for`; as the CUDA engine on a worker."""
        return self.ask(n, d, k)

    def max_training_cells(self, kind: ClassifierKind, n: int) -> int:
        """See `Policy.max_training_cells`; as the CUDA engine."""
        return max_training_cells(kind, n)


class DaskGpuEngine(DaskEngine):
    """A Dask engine whose workers have GPUs.

    Parameters
    ----------
    engine : as it was connected
    gpu : the name of the GPUs
    """

    def __init__(self, engine: DaskEngine, gpu: str) -> None:
        vars(self).update(vars(engine))
        self._recipe = replace(self._recipe, engine="cuda")
        self.device = f"workers of a Dask cluster, {gpu}"
        self.chosen = f"{engine.chosen} and one GPU each: cuda, which all have"
        ask = cache(lambda *sizes: str(self.run(gpu_worker.knn_method_here, *sizes)))
        self.policy = GpuClusterPolicy(knn_method=engine.policy.knn_method, saves_neighbors=False, ask=ask)

    def put(self, x: ArrayLike | RowSource, name: str = "X") -> Array:
        """See `Engine.put`; every worker holds all cells.

        Raises
        ------
        InputError
            They do not fit, or cannot be scored.
        """
        if isinstance(x, ClusterArray):
            return x
        rows = as_rows(x, name)
        n, d = (int(size) for size in rows.shape)
        if self.placement.in_blocks(n, d, name):
            raise InputError(
                f"{name} ({n:,} x {d}) does not fit the host memory of a worker ({bytes_text(self.worker_bytes)}), and"
                " workers with GPUs hold all cells; start workers with more memory, or hide the GPUs with"
                ' CUDA_VISIBLE_DEVICES=""'
            )
        return super().put(rows, name)

    @property
    def cost_model(self) -> CostModel | None:
        """See `Engine.cost_model`."""
        return None

    def digest(self, x: Array) -> str:
        """See `Engine.digest`; of the cells on the host of a worker."""
        future = self.cluster.submit("digest", worker.on_engine, self._recipe, "digest", (x,), {})
        return str(self.cluster.fetch(future))

    def knn(self, x: Array, k: int) -> Knn:
        """See `Engine.knn`; exact neighbours are found by all workers, approximate ones by one."""
        cells = self._on(x)
        n, d = cells.shape
        if not 1 <= k < n:
            raise ValueError(f"k={k} neighbours need 1 <= k < n = {n}")
        if self.policy.knn_method_for(n, d, k) == "exact":
            return self._search(cells, cells, k, themselves=True)
        block = self.cluster.submit("knn", gpu_worker.whole_search, self._gpu(cells), k, self._recipe)
        self.cluster.wait([block])
        told: Any = self.cluster.fetch(self.cluster.submit("knn_told", dask_knn.told_of, block))
        return Knn(*array.tables(self.cluster, [block], (n, k)), *told)

    def knn_between(self, queries: Array, x: Array, k: int) -> Knn:
        """See `Engine.knn_between`; the queries are shared out among the workers."""
        queries, x = self._on(queries), self._on(x)
        if not 1 <= k <= x.shape[0]:
            raise ValueError(f"k={k} neighbours need 1 <= k <= n = {x.shape[0]}")
        return self._search(queries, x, k, themselves=False)

    def _search(self, queries: ClusterArray, x: ClusterArray, k: int, *, themselves: bool) -> Knn:
        m, (n, d) = queries.shape[0], x.shape
        self.timeline.count(flop_counts.search(m, n, d, k, symmetric=False))
        rows = rows_a_task(m, n, d, len(self.cluster.workers()))
        told = self._gpu(queries), self._gpu(x)
        calls = [(*told, (start, min(start + rows, m)), k, self._recipe, themselves) for start in range(0, m, rows)]
        blocks = self.cluster.submit_each("knn" if themselves else "knn_between", gpu_worker.search_rows, calls)
        self.cluster.wait(blocks)
        return Knn(*array.tables(self.cluster, blocks, (m, k)))

    def _cluster_distances(
        self,
        x: ClusterArray,
        clusters: NDArray[np.int32],
        groups: NDArray[np.int32] | None,
        metric: Distance,
        cells: NDArray[np.int64] | None,
    ) -> ClusterArray:
        """Euclidean ones on all workers, unless there is little to do."""
        if not self._are_shared(x, clusters, groups, metric):
            there: ClusterArray = self._there("cluster_distances", x, clusters, groups, metric, cells)
            return there
        found = gpu_silhouette.cluster_distances(self.cluster, self._columns_on_gpus(x, clusters, groups), self._recipe)
        distances = ClusterArray(self.cluster, found, ((2, len(clusters)), np.dtype(np.float64)))
        return distances if cells is None else distances[:, cells]

    def _are_shared(
        self, x: ClusterArray, clusters: NDArray[np.int32], groups: NDArray[np.int32] | None, metric: Distance
    ) -> bool:
        """Whether the distances of a silhouette are shared out among the workers."""
        if metric != "euclidean" or self.n_workers == 1:
            return False
        todo = flop_counts.silhouettes(sort_cells(clusters, groups).group_sizes, x.shape[1])
        if todo.flop < MIN_PRODUCTS:
            return False
        self.timeline.count(todo)
        return True

    def _columns_on_gpus(
        self, x: ClusterArray, clusters: NDArray[np.int32], groups: NDArray[np.int32] | None
    ) -> gpu_silhouette.Columns:
        told = (None if column is None else self.cluster.packed(column) for column in (clusters, groups))
        return gpu_silhouette.Columns(self._gpu(x), str(x.argument.key), uuid.uuid4().hex, *told)

    def rank(self, values: Array) -> Array:
        """See `Engine.rank`; where the values are."""
        if not isinstance(values, ClusterArray):
            return super().rank(values)
        future = self.cluster.submit("rank", gpu_worker.rank, self._recipe, values)
        self.cluster.wait([future])
        return self._array(future)

    def classifier(self, kind: ClassifierKind, **params: Any) -> Classifier:
        """See `Engine.classifier`; trained on one worker, and asked where it is."""
        self._here.classifier(kind, **params)  # refuses what cannot be, before anything is sent
        made = LinearClusterClassifier if kind == "lr" else ClusterClassifier
        return made(self.cluster, self._recipe, kind, params)

    def _gpu(self, given: Any) -> Any:
        """Cells that workers hold as they have them on their GPUs; all else as it is."""
        is_held = isinstance(given, ClusterArray) and isinstance(given.argument, Held)
        return gpu_worker.OnGpu(given.argument, self._recipe) if is_held else given

    def _there(self, operation: str, *args: Any, **kwargs: Any) -> Any:
        """Run an operation on the GPU of one worker, and leave its answer on the host there."""
        told = tuple(map(self._gpu, args))
        future = self.cluster.submit(operation, gpu_worker.on_gpu, self._recipe, operation, told, kwargs)
        self.cluster.wait([future])
        for notes in self.cluster.on_each(gpu_worker.notes_here, self._recipe).values():
            self.notes += [note for note in notes if note not in self.notes]
        return self._array(future)

    def _of_other_graph(self, operation: str, knn: Knn | Graph, *args: Any, **kwargs: Any) -> Any:
        return self._there(operation, knn, *args, **kwargs)

"""The Dask engine: the operations of the CPU engine as tasks on the workers of a cluster, with the same bits.

An embedding is in blocks of its rows, which workers read from the file or from what the client has transferred. What is
done for every cell, or every pair of cells, is cut into tasks: exact neighbours, Euclidean silhouettes, and values of
neighbourhoods. What needs the whole graph or all cells at once runs on one worker. Values of cells come back as NumPy
arrays; embeddings and neighbour tables stay on the workers (see `remote`).
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from functools import cached_property
from operator import getitem
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.timeline import Timeline
from gpubench.core.types import Array, Graph, Knn, RowSource
from gpubench.engines import planner
from gpubench.engines.base import Classifier, ClassifierKind, Distance, Engine, Policy, T
from gpubench.engines.common import flop_counts
from gpubench.engines.common.neighborhoods import BYTES_PER_NEIGHBOR, NeighborKernel
from gpubench.engines.common.segments import sort_cells
from gpubench.engines.cpu.engine import CpuEngine
from gpubench.engines.cpu.silhouette import segment_codes
from gpubench.engines.dask import connect, knn, neighborhoods, silhouette, worker
from gpubench.engines.dask.classifiers import ClusterClassifier, LinearClusterClassifier
from gpubench.engines.dask.cluster import DEFAULT_TUNING, Cluster, DaskTuning, RemoteArray
from gpubench.engines.dask.placement import Placement, smallest_memory
from gpubench.engines.dask.remote import ClusterMatrix, KnnTable, join_knn, remote_knn
from gpubench.engines.dask.silhouette_parts import compared_counts
from gpubench.engines.dask.worker import EngineSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import ArrayLike, NDArray

    from gpubench.engines.costs import CostModel


class DaskEngine(Engine):
    """Runs on the workers of a Dask cluster; see `Engine` for what each operation computes.

    Attributes
    ----------
    cluster : the workers
    placement : puts embeddings on them
    n_workers : how many there were at the start
    """

    name = "dask"
    packages = ("dask", "distributed")
    xp: Any = np

    def __init__(
        self,
        *,
        cluster: Any = None,
        seed: int = 42,
        threads: int | None = None,
        memory_bytes: int | None = None,
        timeline: Timeline | None = None,
        knn: str = "auto",
        exact: bool = False,
        tuning: DaskTuning = DEFAULT_TUNING,
    ) -> None:
        """Connect to a cluster, or start one, and refuse workers that would compute other numbers than this process.

        Parameters
        ----------
        cluster : see `connect.connect`
        threads : of the operations on this machine
        memory_bytes : what all workers that are started here may use
        """
        self.timeline = timeline or Timeline()
        self.seed = seed
        self.notes = []
        self._here = CpuEngine(seed=seed, threads=threads, knn=knn, exact=exact)
        self.policy: Policy = replace(self._here.policy, saves_neighbors=False)

        self.cluster = Cluster(*connect.connect(cluster, memory_bytes, tuning), self.timeline, tuning)
        worker.quiet()
        workers = self.cluster.workers()
        connect.check_limits(workers)
        connect.check_versions(connect.worker_versions(self.cluster.client), connect.versions_here())
        tiles = connect.check_tiles(self.cluster.run_on_all(connect.tiles_here))
        self.cluster.transfer.check_visible(self.cluster.run_on_all)

        thread_counts = sorted({int(worker["nthreads"]) for worker in workers.values()})
        worker_bytes = smallest_memory(workers)
        task_bytes = worker_bytes // thread_counts[-1]
        self.memory_bytes = task_bytes if memory_bytes is None else planner.budget_bytes(memory_bytes)
        self._settings = EngineSettings(seed, knn, exact, max(task_bytes, planner.MIN_BUDGET_BYTES), thread_counts[0])
        self.placement = Placement(self.cluster, self._here, worker_bytes, thread_counts[-1])

        self.n_workers = len(workers)
        self.device = f"workers of a Dask cluster, CPU, tiles of {tiles}"
        each = "/".join(f"{n} thread{'s' if n > 1 else ''}" for n in thread_counts)
        self.chosen = f"{len(workers)} worker{'s' if len(workers) > 1 else ''} of {each}"

    @property
    def worker_bytes(self) -> int:
        """What one worker may hold."""
        return self.placement.worker_bytes

    @cached_property
    def cost_model(self) -> CostModel | None:
        """See `Engine.cost_model`; of workers on CPUs."""
        from gpubench.engines.dask.costs import DaskCosts

        return DaskCosts.of(self.cluster, self._settings, self.placement)

    def close(self) -> None:
        """Disconnect from the cluster, and end the workers that were started here."""
        self.cluster.close()

    def put(self, x: ArrayLike | RowSource, name: str = "X") -> Array:
        """See `Engine.put`; workers read the cells, from the file where there is one."""
        if isinstance(x, ClusterMatrix):
            return x
        with self.timeline.stage("put"):
            matrix = self.placement.put(x, name)
            self.timeline.put(4 * matrix.shape[0] * matrix.shape[1])
        return matrix

    def release(self, x: Array) -> None:
        """See `Engine.release`."""
        if isinstance(x, ClusterMatrix):
            x.sorted = None

    def to_host(self, x: Array) -> NDArray[Any]:
        """See `Engine.to_host`."""
        return np.asarray(x)

    def digest(self, x: Array) -> str:
        """See `Engine.digest`; computed by the workers that have the cells."""
        return self._on_cluster(x).digest()

    def knn(self, x: Array, k: int) -> Knn:
        """See `Engine.knn`; exact neighbours are found by all workers, approximate ones by one."""
        cells = self._on_cluster(x)
        n, d = cells.shape
        if not 1 <= k < n:
            raise ValueError(f"k={k} neighbours need 1 <= k < n = {n}")
        method = self.policy.knn_method_for(n, d, k)
        if method == "exact":
            self.timeline.count(flop_counts.search(n, n, d, k, symmetric=True))
            return knn.exact_knn(cells, k, self._settings)
        cells.require_one_worker(f"approximate neighbours ({method}) need", 'ask for exact ones (knn="exact")')
        block = self.cluster.submit("knn", knn.search_whole, cells, k, replace(self._settings, knn=method))
        facts = self.cluster.fetch(self.cluster.submit("knn_facts", getitem, block, 3))
        return remote_knn(self.cluster, [block], (n, k), *facts)

    def knn_between(self, queries: Array, x: Array, k: int) -> Knn:
        """See `Engine.knn_between`; the queries are divided among the workers, and the answers are on the host."""
        queries, x = self._on_cluster(queries), self._on_cluster(x)
        m, (n, d) = len(queries), x.shape
        if not 1 <= k <= n:
            raise ValueError(f"k={k} neighbours need 1 <= k <= n = {n}")
        self.timeline.count(flop_counts.search(m, n, d, k, symmetric=False))
        return knn.knn_between(queries, x, k, self._settings)

    def cluster_distances(
        self,
        x: Array,
        clusters: NDArray[np.int32],
        groups: NDArray[np.int32] | None = None,
        metric: Distance = "euclidean",
        cells: NDArray[np.int64] | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See `Engine.cluster_distances`; Euclidean ones on all workers."""
        a, b = self._cluster_distances(self._on_cluster(x), clusters, groups, metric, cells)
        return a, b

    def _cluster_distances(
        self,
        x: ClusterMatrix,
        clusters: NDArray[np.int32],
        groups: NDArray[np.int32] | None,
        metric: Distance,
        cells: NDArray[np.int64] | None,
    ) -> NDArray[np.float64]:
        """(2, n) or (2, m)."""
        segments, d = sort_cells(clusters, groups), x.shape[1]
        if metric != "euclidean":
            self.timeline.count(flop_counts.closed_silhouettes(segments.group_sizes, d))
            return np.asarray(self._call("cluster_distances", x, clusters, groups, metric, cells))
        if cells is None:
            self.timeline.count(flop_counts.silhouettes(segments.group_sizes, d))
            return silhouette.cluster_distances(x, segments, self._settings)
        counts = compared_counts(segment_codes(cells, segments), segments)
        self.timeline.count(flop_counts.sampled(counts, len(x), d))
        return silhouette.sampled_distances(x, segments, cells, self._settings)

    def map_neighbors(
        self,
        knn: Knn,
        kernel: NeighborKernel,
        *columns: Any,
        cells: NDArray[np.int64] | None = None,
        width: int = 1,
    ) -> NDArray[np.float64]:
        """See `Engine.map_neighbors`; each block of a graph is worked on where it is."""
        if not isinstance(knn.indices, KnnTable):
            return self._map_host_neighbors(knn, kernel, *columns, cells=cells, width=width)
        self.timeline.count(flop_counts.look_up(knn.indices.shape, BYTES_PER_NEIGHBOR.get(kernel.__name__, 8)))
        return neighborhoods.map_blocks(knn, kernel, columns, cells, width, self._settings)

    def _map_host_neighbors(self, knn: Knn, *args: Any, **kwargs: Any) -> NDArray[np.float64]:
        """Compute the values of neighbours that are on this machine."""
        return self._here.map_neighbors(knn, *args, **kwargs)

    def fuzzy_graph(self, knn: Knn) -> Graph:
        """See `Engine.fuzzy_graph`; on one worker, which receives the neighbours and keeps the graph."""
        self.timeline.count(flop_counts.look_up(knn.indices.shape, 8))
        table: Any = knn.indices
        is_remote = isinstance(table, KnnTable)
        whole = self.cluster.submit("whole", join_knn, table.blocks, *table.shape) if is_remote else knn
        graph = self._submit("fuzzy_graph", whole)
        fields = [self.cluster.submit(name, getattr, graph, name) for name in ("indptr", "indices", "weights")]
        return Graph(*(RemoteArray(self.cluster, field) for field in fields))

    def leiden(self, graph: Graph, resolution: float = 1.0, n_iterations: int = 2) -> NDArray[np.int32]:
        """See `Engine.leiden`; on one worker."""
        return np.asarray(self._call("leiden", graph, resolution, n_iterations))

    def rank(self, values: Array) -> Array:
        """See `Engine.rank`; on this machine, as the values are."""
        return self._here.rank(values)

    def group_means(self, x: Any, codes: NDArray[np.int32], n_groups: int) -> NDArray[np.float64]:
        """See `Engine.group_means`; on one worker, of a matrix on the host there."""
        if not isinstance(x, ClusterMatrix):
            return self._here.group_means(x, codes, n_groups)
        return np.asarray(self._call("group_means", x, codes, n_groups))

    def classifier(self, kind: ClassifierKind, **params: Any) -> Classifier:
        """See `Engine.classifier`; trained on one worker, and asked where it is."""
        self._here.classifier(kind, **params)  # refuses invalid parameters before anything is sent
        make = LinearClusterClassifier if kind == "lr" else ClusterClassifier
        return make(self.cluster, self._settings, kind, params)

    def run(self, function: Callable[..., T], *args: Any) -> T:
        """See `Engine.run`; on one worker."""
        answer: T = self._call("run", function, *args)
        return answer

    def map(self, functions: Iterable[Callable[[], T]]) -> Iterator[T]:
        """See `Engine.map`; as many functions are called ahead as there are workers, each for one of them in turn."""
        ahead: deque[T] = deque()
        for i, function in enumerate(functions):
            with self.cluster.run_on_one(i):
                ahead.append(function())
            if len(ahead) == self.n_workers:
                yield ahead.popleft()
        yield from ahead

    def over_rows(self, n: int, kernel: Callable[[int, int], None], width: int = 1) -> None:
        """See `Engine.over_rows`; on this machine."""
        self._here.over_rows(n, kernel, width)

    def _on_cluster(self, x: Array) -> ClusterMatrix:
        matrix: ClusterMatrix = self.put(x)
        return matrix

    def _submit(self, operation: str, *args: Any, **kwargs: Any) -> Any:
        """Run an operation of the engine of one worker; wait, and return the future of its answer."""
        name = args[0].__name__ if operation == "run" else operation
        for arg in args:
            if isinstance(arg, ClusterMatrix):
                arg.require_one_worker(f"{name} needs")
        future = self.cluster.submit(name, worker.on_engine, self._settings, operation, args, kwargs)
        self.cluster.wait([future])
        return future

    def _call(self, operation: str, *args: Any, **kwargs: Any) -> Any:
        """Run an operation of the engine of one worker and return its answer."""
        return self.cluster.fetch(self._submit(operation, *args, **kwargs))

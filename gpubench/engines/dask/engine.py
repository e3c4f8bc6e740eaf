"""The Dask engine: the operations of the CPU engine as tasks on the workers of a cluster, with the same bits.

An embedding is divided into blocks of rows, which workers read from the file or receive from the client. Operations on
every cell or every pair of cells are divided into tasks: exact neighbours, Euclidean silhouettes, and values of
neighbourhoods. Operations that need the whole graph or all cells at once run on one worker. Results with one value per
cell return as NumPy arrays; embeddings and neighbour tables stay on the workers (see `remote`).
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from functools import cached_property
from operator import getitem
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.timeline import Timeline
from gpubench.core.types import Array, Graph, Knn, RankSums, RowSource
from gpubench.engines import planner
from gpubench.engines.base import Classifier, ClassifierKind, Distance, Engine, Policy, T
from gpubench.engines.common import flop_counts, rank_sums
from gpubench.engines.common.neighborhoods import BYTES_PER_NEIGHBOR, NeighborKernel
from gpubench.engines.common.segments import sort_cells
from gpubench.engines.cpu.engine import CpuEngine
from gpubench.engines.cpu.silhouette import segment_codes
from gpubench.engines.dask import connect, gpu_worker, knn, silhouette, worker
from gpubench.engines.dask import rank_sums as dask_rank_sums
from gpubench.engines.dask.classifiers import ClusterClassifier, LinearClusterClassifier
from gpubench.engines.dask.cluster import DEFAULT_TUNING, Cluster, DaskTuning, RemoteArray
from gpubench.engines.dask.placement import Placement, smallest_memory
from gpubench.engines.dask.remote import ClusterMatrix, KnnTable, in_order, remote_knn
from gpubench.engines.dask.worker import EngineSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import ArrayLike, NDArray

    from gpubench.core.types import F64, I32, I64
    from gpubench.engines.costs import CostModel
    from gpubench.engines.dask.remote import KnnBlock


class DaskEngine(Engine):
    """Engine on the workers of a Dask cluster; see `Engine` for what each operation computes.

    Attributes
    ----------
    cluster : connection to the cluster
    placement : transfer of embeddings to the workers
    n_workers : number of workers at the start
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
        """Connect to a cluster, or start one, and check that its workers compute the same numbers as this process.

        Parameters
        ----------
        cluster : address, number of workers or object; see `connect.connect`
        threads : number of threads for operations on this machine
        memory_bytes : memory that all started workers together may use
        """
        self.timeline = timeline or Timeline()
        self.seed = seed
        self.notes = []
        self._here = CpuEngine(seed=seed, threads=threads, exact=exact)
        self.policy: Policy = replace(self._here.policy, knn_method=knn, saves_neighbors=False)

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

    @cached_property
    def cost_model(self) -> CostModel | None:
        """See `Engine.cost_model`; None if the workers have GPUs."""
        from gpubench.engines.dask.costs import DaskCosts

        is_known = self._settings.engine == "cpu"
        return DaskCosts.of(self.cluster, self._settings, self.placement) if is_known else None

    def close(self) -> None:
        """Disconnect from the cluster and stop the workers that this engine started."""
        self.cluster.close()

    def put(self, x: ArrayLike | RowSource, name: str = "X") -> ClusterMatrix:
        """See `Engine.put`; workers read the cells directly from the file if x is in one."""
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
        return self.put(x).digest()

    def knn(self, x: Array, k: int) -> Knn:
        """See `Engine.knn`; an exact search runs on all workers, an approximate one on a single worker."""
        cells = self.put(x)
        n, d = cells.shape
        if not 1 <= k < n:
            raise ValueError(f"k={k} neighbours need 1 <= k < n = {n}")
        method = self.policy.knn_method_for(n, d, k)
        if method == "exact":
            return self._exact_knn(cells, k)
        cells.require_one_worker(f"approximate neighbours ({method}) need", 'ask for exact ones (knn="exact")')
        on_cpu = self._settings.engine == "cpu"  # a GPU has one engine for all operations
        settings = replace(self._settings, knn=method) if on_cpu else self._settings
        block = self.cluster.submit("knn", gpu_worker.search_whole, self._encode(cells), k, settings)
        facts = self.cluster.fetch(self.cluster.submit("knn_facts", getitem, block, 3))
        return remote_knn(self.cluster, [block], (n, k), *facts)

    def _exact_knn(self, cells: ClusterMatrix, k: int) -> Knn:
        n, d = cells.shape
        self.timeline.count(flop_counts.search(n, n, d, k, symmetric=True))
        return knn.exact_knn(cells, k, self._settings)

    def knn_between(self, queries: Array, x: Array, k: int) -> Knn:
        """See `Engine.knn_between`; queries are divided among the workers, and the result is on the host."""
        queries, x = self.put(queries), self.put(x)
        if not 1 <= k <= len(x):
            raise ValueError(f"k={k} neighbours need 1 <= k <= n = {len(x)}")
        return self._knn_between(queries, x, k)

    def _knn_between(self, queries: ClusterMatrix, x: ClusterMatrix, k: int) -> Knn:
        self.timeline.count(flop_counts.search(len(queries), *x.shape, k, symmetric=False))
        return knn.knn_between(queries, x, k, self._settings)

    def cluster_distances(
        self,
        x: Array,
        clusters: I32,
        groups: I32 | None = None,
        metric: Distance = "euclidean",
        cells: I64 | None = None,
    ) -> tuple[F64, F64]:
        """See `Engine.cluster_distances`; Euclidean ones on all workers."""
        x, segments = self.put(x), sort_cells(clusters, groups)
        n, d = x.shape
        if metric != "euclidean":
            self.timeline.count(flop_counts.closed_silhouettes(segments.group_sizes, d))
            found = self._call("cluster_distances", x, clusters, groups, metric, cells)
        elif cells is None:
            self.timeline.count(flop_counts.silhouettes(segments.group_sizes, d))
            found = silhouette.cluster_distances(x, segments, self._settings)
        else:
            n_compared = np.bincount(segments.group, segments.sizes)[segments.group[segment_codes(cells, segments)]]
            self.timeline.count(flop_counts.sampled([(1, int(n_compared.sum()))], n, d))
            found = silhouette.sampled_distances(x, segments, cells, self._settings)
        a, b = found
        return a, b

    def map_neighbors(
        self, knn: Knn, kernel: NeighborKernel, *columns: Any, cells: I64 | None = None, width: int = 1
    ) -> F64:
        """See `Engine.map_neighbors`; each block of a graph is processed by the worker that has it."""
        table = knn.indices
        if not isinstance(table, KnnTable):
            return self._map_host_neighbors(knn, kernel, *columns, cells=cells, width=width)
        self.timeline.count(flop_counts.look_up(table.shape, BYTES_PER_NEIGHBOR.get(kernel.__name__, 8)))
        calls = [(block, knn.k, cells, width, self._settings, kernel, *columns) for block in table.blocks]
        values = self.cluster.submit_each(kernel.__name__, map_block, calls)
        return np.asarray(self.cluster.fetch(self.cluster.submit("in_order", in_order, values, (len(table),))))

    def _map_host_neighbors(self, knn: Knn, *args: Any, **kwargs: Any) -> F64:
        """Compute the values of neighbourhoods for a neighbour graph on this machine."""
        return self._here.map_neighbors(knn, *args, **kwargs)

    def fuzzy_graph(self, knn: Knn) -> Graph:
        """See `Engine.fuzzy_graph`; computed on one worker, which receives the neighbours and keeps the graph."""
        self.timeline.count(flop_counts.look_up(knn.indices.shape, 8))
        graph = self._submit("fuzzy_graph", knn)
        fields = [self.cluster.submit(name, getattr, graph, name) for name in ("indptr", "indices", "weights")]
        return Graph(*(RemoteArray(self.cluster, field) for field in fields))

    def leiden(self, graph: Graph, resolution: float = 1.0, n_iterations: int = 2) -> I32:
        """See `Engine.leiden`; computed on one worker."""
        return np.asarray(self._call("leiden", graph, resolution, n_iterations))

    def rank(self, values: Array) -> Array:
        """See `Engine.rank`; computed on this machine, where the values are."""
        return self._here.rank(values)

    def group_means(self, x: Any, codes: I32, n_groups: int) -> F64:
        """See `Engine.group_means`; computed on one worker, or on this machine if x is here."""
        if not isinstance(x, ClusterMatrix):
            return self._here.group_means(x, codes, n_groups)
        return np.asarray(self._call("group_means", x, codes, n_groups))

    def rank_sums(
        self, values: Any, groups: ArrayLike, n_groups: int, control: int, *, float32_ties: bool = False
    ) -> RankSums:
        """See `Engine.rank_sums`; genes are divided among the workers, or few values are ranked here."""
        options = {"float32_ties": float32_ties}
        if isinstance(values, ClusterMatrix):
            ranked: RankSums = self._call("rank_sums", values, np.asarray(groups), n_groups, control, **options)
            return ranked
        cells = rank_sums.group_cells(groups, n_groups, control, np.shape(values))
        matrix = rank_sums.as_matrix(values, **options)
        n_tasks = dask_rank_sums.count_tasks(rank_sums.n_stored(matrix), self.cluster.n_slots)
        if n_tasks < 2:
            return self._here.rank_sums(matrix, cells.codes, n_groups, control)
        rank_sums.require_finite(matrix, cells)
        self.timeline.count(rank_sums.work(matrix, n_groups))
        calls = (
            (*part, cells.codes, n_groups, control, self._settings)
            for part in dask_rank_sums.gene_parts(matrix, n_tasks)
        )
        found: list[RankSums] = self.cluster.fetch(
            self.cluster.submit_each("rank_sums", dask_rank_sums.rank_genes, calls)
        )
        u, ties = (np.concatenate([getattr(part, name) for part in found], axis=1) for name in ("u", "ties"))
        return RankSums(u, ties, cells.sizes, control)

    def mean_distances(self, values: Any, codes: I32, n_groups: int, reference: int | None = None) -> F64:
        """See `Engine.mean_distances`; computed on this machine, where the values are."""
        return self._here.mean_distances(values, codes, n_groups, reference)

    def classifier(self, kind: ClassifierKind, **params: Any) -> Classifier:
        """See `Engine.classifier`; one worker trains it, and predictions run where the trained classifier is."""
        self._here.classifier(kind, **params)  # refuses invalid parameters before anything is sent
        make = LinearClusterClassifier if kind == "lr" else ClusterClassifier
        return make(self.cluster, self._settings, kind, params)

    def run(self, function: Callable[..., T], *args: Any) -> T:
        """See `Engine.run`; the function runs on one worker."""
        answer: T = self._call("run", function, *args)
        return answer

    def map(self, functions: Iterable[Callable[[], T]]) -> Iterator[T]:
        """See `Engine.map`; as many functions are called ahead as there are workers, each for another worker."""
        ahead: deque[T] = deque()
        for i, function in enumerate(functions):
            with self.cluster.run_on_one(i):
                ahead.append(function())
            if len(ahead) == self.n_workers:
                yield ahead.popleft()
        yield from ahead

    def over_rows(self, n: int, kernel: Callable[[int, int], None], width: int = 1) -> None:
        """See `Engine.over_rows`; runs on this machine."""
        self._here.over_rows(n, kernel, width)

    def _encode(self, given: Any) -> Any:
        """Return an argument in the form passed to tasks."""
        return given

    def _submit(self, operation: str, *args: Any, **kwargs: Any) -> Any:
        """Run an operation with the engine of one worker, wait until it has finished, and return its future."""
        name = args[0].__name__ if operation == "run" else operation
        for arg in args:
            if isinstance(arg, ClusterMatrix):
                arg.require_one_worker(f"{name} needs")
        encoded = tuple(map(self._encode, args))
        future = self.cluster.submit(operation, gpu_worker.on_engine, self._settings, operation, encoded, kwargs)
        self.cluster.wait([future])
        return future

    def _call(self, operation: str, *args: Any, **kwargs: Any) -> Any:
        """Run an operation with the engine of one worker and return its result."""
        return self.cluster.fetch(self._submit(operation, *args, **kwargs))


def map_block(
    block: KnnBlock, k: int, cells: I64 | None, width: int, settings: EngineSettings, *args: Any
) -> tuple[I64 | None, F64]:
    """Run a kernel on the rows of a block of a graph; return the block's rows (None if it has all) and their values.

    Parameters
    ----------
    cells : index of the cell of each row of the whole graph. If None, row i belongs to cell i
    args : the kernel and its columns
    """
    rows, indices, distances = block[:3]
    knn = Knn(np.ascontiguousarray(indices[:, :k]), np.ascontiguousarray(distances[:, :k]))
    own = rows if cells is None else cells if rows is None else cells[rows]
    options = {"cells": own, "width": width}
    return rows, gpu_worker.on_engine(settings, "map_neighbors", (knn, *args), options, threads=1)

"""The Dask engine: the operations of the CPU engine as tasks on the workers of a cluster, with the same bits.

Every worker reads the embedding once, from the file or from what the client has handed over; where it does not fit,
each has some blocks of its rows (`dask_put`). What is done for every cell, or every pair of cells, is cut into tasks:
exact neighbours, Euclidean silhouettes, and what neighbours say of a column. What needs the whole graph or all cells at
once runs on one worker, as the CPU engine does it there (`dask_one`). Neighbours and values of cells stay on the
workers (see `dask_array`).
"""

from __future__ import annotations

import atexit
import uuid
import weakref
from collections import deque
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from gpubench.core.errors import EngineUnavailable
from gpubench.core.timeline import Timeline
from gpubench.core.types import Array, Graph, Knn, RowSource
from gpubench.engines import planner
from gpubench.engines.base import Classifier, ClassifierKind, Distance, Engine, Policy, T
from gpubench.engines.common import flop_counts
from gpubench.engines.common.neighborhoods import BYTES_PER_NEIGHBOR, NeighborKernel
from gpubench.engines.common.segments import sort_cells
from gpubench.engines.cpu.engine import CpuEngine
from gpubench.engines.cpu.silhouette import segment_codes
from gpubench.engines.dask import array, connect, neighborhoods, worker
from gpubench.engines.dask import knn as dask_knn
from gpubench.engines.dask import silhouette as dask_silhouette
from gpubench.engines.dask.array import BlockTable, ClusterArray, ClusterNumpy, whole_knn
from gpubench.engines.dask.blocks import knn as blocks_knn
from gpubench.engines.dask.blocks import silhouette
from gpubench.engines.dask.blocks.rows import BlockRows
from gpubench.engines.dask.classifiers import ClusterClassifier, LinearClusterClassifier
from gpubench.engines.dask.cluster import Cluster
from gpubench.engines.dask.placement import Placement
from gpubench.engines.dask.silhouette import Columns
from gpubench.engines.dask.silhouette_parts import compared
from gpubench.engines.dask.transfer import Handover
from gpubench.engines.dask.worker import Held, Recipe, quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import ArrayLike, NDArray

    from gpubench.engines.costs import CostModel


class OneWorkerEngine(Engine):
    """The operations of the Dask engine that one worker does; see `Engine` for what each computes.

    Attributes
    ----------
    cluster : the workers
    """

    cluster: Cluster
    _recipe: Recipe
    _here: CpuEngine

    def to_host(self, x: Array) -> NDArray[Any]:
        """See `Engine.to_host`."""
        return np.asarray(x)

    def digest(self, x: Array) -> str:
        """See `Engine.digest`; computed by the worker that has the cells."""
        return x.digest() if isinstance(x, BlockRows) else str(self._fetched("digest", x))

    def fuzzy_graph(self, knn: Knn) -> Graph:
        """See `Engine.fuzzy_graph`; on the worker to which the neighbours are brought."""
        self.timeline.count(flop_counts.look_up(knn.indices.shape, 8))
        graph = self._there("fuzzy_graph", self._whole(knn))
        return Graph(*self._fields(graph, "indptr", "indices", "weights"))

    def leiden(self, graph: Graph, resolution: float = 1.0, n_iterations: int = 2) -> NDArray[np.int32]:
        """See `Engine.leiden`; on one worker."""
        return self._codes("leiden", graph, resolution, n_iterations)

    def run(self, function: Callable[..., T], *args: Any) -> T:
        """See `Engine.run`; on one worker."""
        answer: T = self._fetched("run", function, *args)
        return answer

    def rank(self, values: Array) -> Array:
        """See `Engine.rank`; where the values are."""
        return self._there("rank", values) if isinstance(values, ClusterArray) else self._here.rank(values)

    def group_means(self, x: Array, codes: NDArray[np.int32], n_groups: int) -> NDArray[np.float64]:
        """See `Engine.group_means`; on one worker."""
        return np.asarray(self._there("group_means", self._on(x), codes, n_groups))

    def classifier(self, kind: ClassifierKind, **params: Any) -> Classifier:
        """See `Engine.classifier`; trained on one worker, and asked where it is."""
        self._here.classifier(kind, **params)  # refuses what cannot be, before anything is sent
        made = LinearClusterClassifier if kind == "lr" else ClusterClassifier
        return made(self.cluster, self._recipe, kind, params)

    def over_rows(self, n: int, kernel: Callable[[int, int], None], width: int = 1) -> None:
        """See `Engine.over_rows`; on this machine."""
        self._here.over_rows(n, kernel, width)

    def _on(self, x: Array) -> ClusterArray:
        """An array on the cluster."""
        on: ClusterArray = x if isinstance(x, ClusterArray) else self.put(x)
        return on

    def _array(self, future: Any) -> Any:
        return ClusterArray(self.cluster, future)

    def _there(self, operation: str, *args: Any, **kwargs: Any) -> Any:
        """Run an operation on one worker, and leave its answer there."""
        name = args[0].__name__ if operation == "run" else operation
        for arg in args:
            if isinstance(arg, BlockRows):
                arg.require_one_worker(f"{name} needs")
        future = self.cluster.submit(name, worker.on_engine, self._recipe, operation, args, kwargs)
        self.cluster.wait([future])
        return self._array(future)

    def _fetched(self, operation: str, *args: Any) -> Any:
        return self.cluster.fetch(self._there(operation, *args).argument)

    def _codes(self, operation: str, *args: Any) -> NDArray[np.int32]:
        """Codes of cells, which cross as the smallest integers that hold them."""
        found = self._there(operation, *args)
        return np.asarray(self.cluster.fetch(self.cluster.submit("codes", _smallest, found))).astype(np.int32)

    def _fields(self, found: ClusterArray, *names: str) -> list[ClusterArray]:
        return [self._array(self.cluster.submit(name, getattr, found, name)) for name in names]

    def _whole(self, knn: Knn) -> Any:
        """A neighbour graph on one worker."""
        if not isinstance(knn.indices, BlockTable):
            return knn
        return self._array(self.cluster.submit("whole", whole_knn, knn.indices.blocks, *knn.indices.shape))

    def _of_other_graph(self, operation: str, knn: Knn, *args: Any, **kwargs: Any) -> Any:
        """Of a graph that is not in blocks: where it is."""
        if isinstance(knn.indices, np.ndarray):
            return getattr(self._here, operation)(knn, *args, **kwargs)
        return self._there(operation, knn, *args, **kwargs)


def _smallest(codes: NDArray[np.int32]) -> NDArray[Any]:
    return codes.astype(np.min_scalar_type(int(codes.max(initial=0))))


class DaskEngine(OneWorkerEngine):
    """Runs on the workers of a Dask cluster; see `Engine` for what each operation computes.

    Attributes
    ----------
    cluster : the workers
    placement : how embeddings are put on them
    n_workers : that were there at the start
    """

    name = "dask"
    packages = ("dask", "distributed")

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
    ) -> None:
        self.xp: Any = ClusterNumpy()
        self.timeline = timeline or Timeline()
        self._here = CpuEngine(seed=seed, threads=threads, knn=knn, exact=exact)
        self.seed = seed
        self.policy: Policy = replace(self._here.policy, saves_neighbors=False)
        self.notes = []
        client, opened = connect.connect(cluster, memory_bytes)
        quiet()
        handover = Handover()
        self.cluster = Cluster(client, self.timeline, handover, *opened[1:])
        # arrays that are on the cluster hold it, and may be looked at when this engine is gone
        self._close = weakref.finalize(self.cluster, _close, [*opened, handover])
        # before Dask ends its own threads, which it does where Python calls finalizers
        self._close.atexit = False
        atexit.register(self._close)
        self._started = len(opened) > 1
        connect.check_limits(workers := self.cluster.workers())
        self.n_workers = len(workers)
        connect.check_versions(connect.versions_of(client), connect.versions_here())
        tiles = set(self.cluster.on_each(connect.tiles_here).values())
        if len(tiles) > 1:
            raise EngineUnavailable(
                f"workers have processors of several kinds (tiles of {', '.join(sorted(tiles))}), whose numbers differ"
                " in the last bits; set GPUBENCH_TILES to one that all have"
            )
        handover.look(self.cluster.on_each)
        n_threads = {int(worker["nthreads"]) for worker in workers.values()}
        limits = [int(worker["memory_limit"]) for worker in workers.values()]
        least = min((limit for limit in limits if limit > 0), default=planner.free_memory_bytes() // len(workers))
        worker_bytes = int(planner.SHARE_OF_FREE * least)
        a_task = worker_bytes // max(n_threads)
        self.memory_bytes = a_task if memory_bytes is None else planner.budget_bytes(memory_bytes)
        self._recipe = Recipe(seed, knn, exact, max(a_task, planner.MIN_BUDGET_BYTES), min(n_threads))
        self.placement = Placement(self.cluster, handover, self._here, self._recipe, worker_bytes, max(n_threads))
        of_threads = "/".join(f"{n} thread{'s' if n > 1 else ''}" for n in sorted(n_threads))
        self.device = f"workers of a Dask cluster, CPU, tiles of {tiles.pop()}"
        self.chosen = f"{len(workers)} worker{'s' if len(workers) > 1 else ''} of {of_threads}"

    @property
    def worker_bytes(self) -> int:
        """What one worker may hold."""
        return self.placement.worker_bytes

    @worker_bytes.setter
    def worker_bytes(self, n_bytes: int) -> None:
        self.placement.worker_bytes = n_bytes

    def close(self) -> None:
        """Let the cluster go, and end the workers that were started here."""
        self._close()

    @cached_property
    def cost_model(self) -> CostModel | None:
        """See `Engine.cost_model`; of workers on CPUs."""
        from gpubench.engines.dask.costs import DaskCosts

        return DaskCosts.of(self.cluster, self._recipe, self.placement, started=self._started)

    def map(self, functions: Iterable[Callable[[], T]]) -> Iterator[T]:
        """See `Engine.map`; as many functions are called ahead as there are workers, each for one of them in turn."""
        ahead: deque[T] = deque()
        for i, function in enumerate(functions):
            with self.cluster.on_one(i):
                ahead.append(function())
            if len(ahead) == self.n_workers:
                yield ahead.popleft()
        yield from ahead

    def put(self, x: ArrayLike | RowSource, name: str = "X") -> Array:
        """See `Engine.put`: workers read the cells, from the file where there is one; see `dask_put`."""
        if isinstance(x, ClusterArray):
            return x
        with self.timeline.stage("put"):
            placed, n_bytes = self.placement.put(x, name)
            self.timeline.put(n_bytes)
        return placed

    def release(self, x: Array) -> None:
        """See `Engine.release`."""
        if isinstance(x, ClusterArray) and not _in_blocks(x) and isinstance(x.argument, Held):
            self.cluster.release(x.argument.key)

    def knn(self, x: Array, k: int) -> Knn:
        """See `Engine.knn`; exact neighbours are found by all workers, approximate ones by one."""
        cells = self._on(x)
        n, d = cells.shape
        if not 1 <= k < n:
            raise ValueError(f"k={k} neighbours need 1 <= k < n = {n}")
        method = self.policy.knn_method_for(n, d, k)
        if method == "exact":
            self.timeline.count(flop_counts.search(n, n, d, k, symmetric=True))
            if _in_blocks(cells):
                return blocks_knn.exact_knn(cells, k, self._recipe)
            return dask_knn.exact_knn(self.cluster, cells.argument, _key_of(cells), (n, d), k, self._recipe)
        if isinstance(cells, BlockRows):
            cells.require_one_worker(f"approximate neighbours ({method}) need", 'ask for exact ones (knn="exact")')
        block = self.cluster.submit("knn", dask_knn.whole_search, cells, k, replace(self._recipe, knn=method))
        self.cluster.wait([block])
        told: Any = self.cluster.fetch(self.cluster.submit("knn_told", dask_knn.told_of, block))
        return Knn(*array.tables(self.cluster, [block], (n, k)), *told)

    def knn_between(self, queries: Array, x: Array, k: int) -> Knn:
        """See `Engine.knn_between`; the queries are shared out among the workers."""
        queries, x = self._on(queries), self._on(x)
        m, (n, d) = queries.shape[0], x.shape
        if not 1 <= k <= n:
            raise ValueError(f"k={k} neighbours need 1 <= k <= n = {n}")
        self.timeline.count(flop_counts.search(m, n, d, k, symmetric=False))
        if _in_blocks(x):
            return blocks_knn.knn_between(queries, x, k, self._recipe)
        return dask_knn.knn_between(self.cluster, queries.argument, x.argument, (m, n, d), k, self._recipe)

    def cluster_distances(
        self,
        x: Array,
        clusters: NDArray[np.int32],
        groups: NDArray[np.int32] | None = None,
        metric: Distance = "euclidean",
        cells: NDArray[np.int64] | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See `Engine.cluster_distances`."""
        a, b = np.asarray(self._cluster_distances(self._on(x), clusters, groups, metric, cells))
        return a, b

    def _cluster_distances(
        self,
        x: ClusterArray,
        clusters: NDArray[np.int32],
        groups: NDArray[np.int32] | None,
        metric: Distance,
        cells: NDArray[np.int64] | None,
    ) -> ClusterArray:
        """(2, n) or (2, m) on one worker."""
        segments, d = sort_cells(clusters, groups), x.shape[1]
        if metric != "euclidean":
            self.timeline.count(flop_counts.closed_silhouettes(segments.group_sizes, d))
            there: ClusterArray = self._there("cluster_distances", x, clusters, groups, metric, cells)
            return there
        if cells is None:
            self.timeline.count(flop_counts.silhouettes(segments.group_sizes, d))
        else:
            sizes = compared(segment_codes(cells, segments), segments)
            self.timeline.count(flop_counts.sampled(sizes, x.shape[0], d))
        if _in_blocks(x):
            if cells is not None:
                found = silhouette.distances_of_cells(x, segments, cells, self._recipe)
            else:
                codes = [None if column is None else self.cluster.packed(column) for column in (clusters, groups)]
                found = silhouette.cluster_distances(x, segments, codes, self._recipe)
        else:
            on = self._columns(x, clusters, groups)
            if cells is not None:
                found = dask_silhouette.distances_of_cells(self.cluster, on, cells, segments, self._recipe)
            else:
                found = dask_silhouette.cluster_distances(self.cluster, on, segments, d, self._recipe)
        return ClusterArray(self.cluster, found)

    def map_neighbors(
        self,
        knn: Knn,
        kernel: NeighborKernel,
        *columns: Any,
        cells: NDArray[np.int64] | None = None,
        width: int = 1,
    ) -> NDArray[np.float64]:
        """See `Engine.map_neighbors`; each block of a graph is looked at where it is."""
        if not isinstance(knn.indices, BlockTable):
            return np.asarray(self._of_other_graph("map_neighbors", knn, kernel, *columns, cells=cells, width=width))
        self.timeline.count(flop_counts.look_up(knn.indices.shape, BYTES_PER_NEIGHBOR.get(kernel.__name__, 8)))
        return np.asarray(neighborhoods.look_up(self.cluster, knn, kernel, columns, cells, width, self._recipe))

    def _columns(self, x: ClusterArray, clusters: NDArray[np.int32], groups: NDArray[np.int32] | None) -> Columns:
        """Cells and their columns, as tasks are told of them."""
        told = (None if column is None else self.cluster.packed(column) for column in (clusters, groups))
        return Columns(x.argument, f"{_key_of(x)} {uuid.uuid4().hex}", *told)


def _in_blocks(x: ClusterArray) -> TypeGuard[BlockRows]:
    """Whether the cells are in blocks, and nobody has written to them."""
    return isinstance(x, BlockRows) and bool(x.blocks)


def _key_of(cells: ClusterArray) -> str:
    """Tells an array from every other."""
    return str(cells.argument.key)


def _close(opened: list[Any]) -> None:
    for one in opened:
        one.close()

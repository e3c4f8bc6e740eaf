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
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from gpubench.core.errors import EngineUnavailable
from gpubench.core.timeline import Timeline
from gpubench.core.types import Array, Graph, Knn, RowSource
from gpubench.engines import planner
from gpubench.engines.base import Classifier, ClassifierKind, Distance, Engine
from gpubench.engines.common import work
from gpubench.engines.common.segments import sort_cells
from gpubench.engines.cpu.engine import CpuEngine
from gpubench.engines.cpu.silhouette import segments_of
from gpubench.engines.dask import array, connect, costs, neighborhoods, worker
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
    from contextlib import AbstractContextManager

    from numpy.typing import ArrayLike, NDArray

    from gpubench.engines.cpu.rates import Rates
    from gpubench.engines.dask.costs import Workers


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
        self.timeline.work(*work.look_up(knn, 8))
        graph = self._there("fuzzy_graph", self._whole(knn))
        return Graph(*self._fields(graph, "indptr", "indices", "weights"))

    def leiden(self, graph: Graph, resolution: float = 1.0, n_iterations: int = 2) -> NDArray[np.int32]:
        """See `Engine.leiden`; on one worker."""
        return self._codes("leiden", graph, resolution, n_iterations)

    def kmeans(self, x: Array, n_clusters: int) -> NDArray[np.int32]:
        """See `Engine.kmeans`; on one worker."""
        return self._codes("kmeans", self._on(x), n_clusters)

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

    def _on(self, x: Array) -> ClusterArray:
        """An array on the cluster."""
        on: ClusterArray = x if isinstance(x, ClusterArray) else self.put(x)
        return on

    def _array(self, future: Any) -> Any:
        return ClusterArray(self.cluster, future)

    def _there(self, operation: str, *args: Any) -> Any:
        """Run an operation on one worker, and leave its answer there."""
        for arg in args:
            if isinstance(arg, BlockRows):
                arg.require_one_worker(f"{operation} needs")
        future = self.cluster.submit(operation, worker.on_engine, self._recipe, operation, args, {})
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

    def _of_other_graph(self, operation: str, knn: Knn, *args: Any) -> Any:
        """Of a graph that is not in blocks: where it is."""
        if isinstance(knn.indices, np.ndarray):
            return getattr(self._here, operation)(knn, *args)
        return self._there(operation, knn, *args)


def _smallest(codes: NDArray[np.int32]) -> NDArray[Any]:
    return codes.astype(np.min_scalar_type(int(codes.max(initial=0))))


class DaskEngine(OneWorkerEngine):
    """Runs on the workers of a Dask cluster; see `Engine` for what each operation computes.

    Attributes
    ----------
    cluster : the workers
    placement : how embeddings are put on them
    uses_gpus : whether the workers compute on GPUs
    """

    name = "dask"
    precision = "exact"
    brings_neighbors = False
    uses_gpus = False

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
        self.seed, self.knn_method, self.exact_products = seed, knn, self._here.exact_products
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
        self.trainings = len(workers)
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

    @cached_property
    def of_workers(self) -> Workers:
        """The workers, as plans see them."""
        return costs.look(self.cluster, self._recipe, self.placement, started=self._started)

    def measure_rates(self) -> Rates:
        """Run each operation on few cells on one worker and see how long it takes."""
        return costs.rates_on(self.cluster, self._recipe)

    def close(self) -> None:
        """Let the cluster go, and end the workers that were started here."""
        self._close()

    def beside(self, i: int) -> AbstractContextManager[None]:
        """See `Engine.beside`: on one worker."""
        return self.cluster.on_one(i)

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
        method = self.method(n, d, k)
        if method == "exact":
            self.timeline.work(*work.search(n, n, d, k, symmetric=True))
            if _in_blocks(cells):
                return blocks_knn.exact_knn(cells, k, self._recipe)
            return dask_knn.exact_knn(self.cluster, cells.argument, _key_of(cells), (n, d), k, self._recipe)
        if isinstance(cells, BlockRows):
            cells.require_one_worker(f"approximate neighbours ({method}) need", 'ask for exact ones (knn="exact")')
        block = self.cluster.submit("knn", dask_knn.whole_search, cells, k, replace(self._recipe, knn=method))
        self.cluster.wait([block])
        told: Any = self.cluster.fetch(self.cluster.submit("knn_told", dask_knn.told_of, block))
        return Knn(*array.tables(self.cluster, [block], (n, k)), *told)

    def method(self, n: int, d: int, k: int = 1) -> str:
        """See `Engine.method`; that of the CPU engine, whose bits these are."""
        return self._here.method(n, d, k)

    def estimates_neighborhoods(self, n: int, d: int) -> bool:
        """See `Engine.estimates_neighborhoods`; as the CPU engine."""
        return self._here.estimates_neighborhoods(n, d)

    def most_training_cells(self, kind: ClassifierKind, n: int) -> int:
        """See `Engine.most_training_cells`; as the CPU engine."""
        return self._here.most_training_cells(kind, n)

    def knn_between(self, queries: Array, x: Array, k: int) -> Knn:
        """See `Engine.knn_between`; the queries are shared out among the workers."""
        queries, x = self._on(queries), self._on(x)
        m, (n, d) = queries.shape[0], x.shape
        if not 1 <= k <= n:
            raise ValueError(f"k={k} neighbours need 1 <= k <= n = {n}")
        self.timeline.work(*work.search(m, n, d, k, symmetric=False))
        if _in_blocks(x):
            return blocks_knn.knn_between(queries, x, k, self._recipe)
        return dask_knn.knn_between(self.cluster, queries.argument, x.argument, (m, n, d), k, self._recipe)

    def silhouette_widths(
        self,
        x: Array,
        clusters: NDArray[np.int32],
        groups: NDArray[np.int32] | None = None,
        metric: Distance = "euclidean",
        cells: NDArray[np.int64] | None = None,
    ) -> Array:
        """See `Engine.silhouette_widths`."""
        x, segments = self._on(x), sort_cells(clusters, groups)
        d = x.shape[1]
        if metric != "euclidean":
            self.timeline.work(*work.closed_silhouettes(segments, d))
            return self._there("silhouette_widths", x, clusters, groups, metric, cells)
        if cells is None:
            self.timeline.work(*work.silhouettes(segments, d))
        else:
            sizes = compared(segments_of(cells, segments), segments)
            self.timeline.work(*work.sampled(sizes, x.shape[0], d))
        if _in_blocks(x):
            if cells is not None:
                return self._array(silhouette.sampled_widths(x, segments, cells, self._recipe))
            codes = [None if column is None else self.cluster.packed(column) for column in (clusters, groups)]
            return self._array(silhouette.silhouette_widths(x, segments, codes, self._recipe))
        on = self._columns(x, clusters, groups)
        if cells is None:
            return self._array(dask_silhouette.silhouette_widths(self.cluster, on, segments, d, self._recipe))
        return self._array(dask_silhouette.sampled_widths(self.cluster, on, cells, segments, self._recipe))

    def mean_distances(self, x: Array, clusters: NDArray[np.int32], metric: Distance = "euclidean") -> Array:
        """See `Engine.mean_distances`."""
        x, alone = self._on(x), np.zeros_like(clusters)
        segments, d = sort_cells(alone, clusters), x.shape[1]
        if metric != "euclidean":
            self.timeline.work(*work.closed_silhouettes(segments, d))
            return self._there("mean_distances", x, clusters, metric)
        self.timeline.work(*work.silhouettes(segments, d))
        if _in_blocks(x):
            codes = [self.cluster.packed(column) for column in (alone, clusters)]
            return self._array(silhouette.mean_distances(x, segments, codes, self._recipe))
        on = self._columns(x, alone, clusters)
        return self._array(dask_silhouette.mean_distances(self.cluster, on, segments, d, self._recipe))

    def neighbor_entropy(
        self, knn: Knn, codes: NDArray[np.int32], n_codes: int, cells: NDArray[np.int64] | None = None
    ) -> Array:
        """See `Engine.neighbor_entropy`."""
        if not isinstance(knn.indices, BlockTable) or cells is not None:
            return self._of_other_graph("neighbor_entropy", knn, codes, n_codes, cells)
        return self._looked_up(knn, neighborhoods.entropy, codes, n_codes)

    def neighbor_value_distance(
        self, knn: Knn, values: NDArray[np.float64], k_per_cell: NDArray[np.int64] | None = None
    ) -> Array:
        """See `Engine.neighbor_value_distance`."""
        if not isinstance(knn.indices, BlockTable):
            return self._of_other_graph("neighbor_value_distance", knn, values, k_per_cell)
        return self._looked_up(knn, neighborhoods.value_distance, values, k_per_cell)

    def neighbor_simpson(self, knn: Knn, codes: NDArray[np.int32], n_codes: int, perplexity: float) -> Array:
        """See `Engine.neighbor_simpson`."""
        if not isinstance(knn.indices, BlockTable):
            return self._of_other_graph("neighbor_simpson", knn, codes, n_codes, perplexity)
        return self._looked_up(knn, neighborhoods.simpson, codes, n_codes, perplexity)

    def neighbor_chi_square(self, knn: Knn, codes: NDArray[np.int32], shares: NDArray[np.float64]) -> Array:
        """See `Engine.neighbor_chi_square`."""
        if not isinstance(knn.indices, BlockTable):
            return self._of_other_graph("neighbor_chi_square", knn, codes, shares)
        return self._looked_up(knn, neighborhoods.chi_square, codes, shares)

    def _looked_up(self, knn: Knn, function: Any, *args: Any) -> Any:
        value_bytes = 8 if function in (neighborhoods.value_distance, neighborhoods.simpson) else 4
        self.timeline.work(*work.look_up(knn, value_bytes))
        return neighborhoods.look_up(self.cluster, knn, function, *args)

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

"""The CPU engine: compiled tiles, NumPy, igraph and scikit-learn, on all cores."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from threading import Thread
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import EngineUnavailable, InputError
from gpubench.core.machine import usable_cores
from gpubench.core.timeline import Timeline
from gpubench.core.types import Array, Graph, Knn, RowSource
from gpubench.engines import planner
from gpubench.engines.base import Classifier, ClassifierKind, Distance, Engine, Policy
from gpubench.engines.common import flop_counts
from gpubench.engines.cpu import approximate_knn, compiled, graphs, kernels, leaves, silhouette
from gpubench.engines.cpu import leiden as cpu_leiden
from gpubench.engines.cpu import put as cpu_put
from gpubench.engines.cpu.classifiers import (
    MODULES,
    LogisticRegression,
    RandomForest,
    forest_package,
    max_training_cells,
)
from gpubench.engines.cpu.exact_knn import ExactSearch
from gpubench.engines.cpu.threads import WorkerThreads

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from gpubench.engines.costs import CostModel


IMPORTED = {"leiden": ("scipy.sparse",), "lr": ("scipy.optimize",), "folds": ("sklearn.model_selection",)}
"""What is done -> what it imports, whatever the number of cells; of a forest that depends on it."""


def import_ahead(operations: Collection[str], n: int) -> None:
    """Import in a thread what these operations on n cells will import; a forest is named "rf"."""
    names = [name for operation in operations for name in IMPORTED.get(operation, ())]
    if "rf" in operations:
        names.append(MODULES[forest_package(n)])
    if names:
        # not a daemon: a process that ends sooner waits until the import is whole
        Thread(target=_import, args=(names,), name="gpubench imports").start()


def _import(names: Collection[str]) -> None:
    for name in names:
        # Whatever is wrong with a package (compiled ones fail with OSError, too), the operation that needs it
        # imports it again, meets the same error, and tells it as its own; from here it would be a thread's traceback.
        with suppress(Exception):
            import_module(name)


@dataclass(frozen=True)
class CpuPolicy(Policy):
    """What the CPU engine decides by the number of cells; the limits keep each step within minutes on a few cores.

    Attributes
    ----------
    exact : compare all cells with all in silhouettes, and train on all cells
    compiled : whether there are compiled tiles, which the search by leaves needs
    max_exact_pair_dims : 632,000 cells of 50 dimensions, a minute on two cores
    max_exact_knn_cells : every pair is compared up to here, for any number of dimensions
    max_exact_knn_pair_dims : the same of pairs of cells times dimensions: 316,000 cells of 50 dimensions
    """

    exact: bool = False
    compiled: bool = True
    max_exact_pair_dims: float = 2e13
    max_exact_knn_cells: int = 100_000
    max_exact_knn_pair_dims: float = 5e12

    def knn_method_for(self, n: int, d: int, k: int = 1) -> str:  # noqa: ARG002 - all k are found in the same way
        """See `Policy.knn_method_for`: "exact", "leaves", "ivf" or "nn_descent"."""
        if self.knn_method != "auto":
            return self.knn_method
        if n <= self.max_exact_knn_cells or n * n * d <= self.max_exact_knn_pair_dims:
            return "exact"
        if self.compiled:
            return "leaves"
        return "ivf" if approximate_knn.available() else "exact"

    def samples_neighborhoods(self, n: int, d: int) -> bool:
        """See `Policy.samples_neighborhoods`; not if a search method was named."""
        return self.knn_method == "auto" and self.knn_method_for(n, d) != "exact"

    def max_training_cells(self, kind: ClassifierKind, n: int) -> int:
        """See `Policy.max_training_cells`."""
        return n if self.exact else max_training_cells(kind, n)


ROWS_PER_PIECE = 8192
"""Rows that a worker takes at a time where a kernel does little for each."""

VALUES_PER_PIECE = 1 << 17
"""Values that a worker makes at a time where a kernel makes many for each row; they stay in its cache."""


class CpuEngine(Engine):
    """Runs everything on the host; see `Engine` for what each operation computes.

    Attributes
    ----------
    n_threads : worker threads; results have the same bits for any number of them
    """

    name = "cpu"
    xp: ModuleType = np

    def __init__(
        self,
        *,
        seed: int = 42,
        threads: int | None = None,
        memory_bytes: int | None = None,
        timeline: Timeline | None = None,
        knn: str = "auto",
        exact: bool = False,
    ) -> None:
        if threads is not None and threads < 1:
            raise InputError(f"threads={threads}: at least one thread is needed", argument="threads")
        self.seed = seed
        self.n_threads = threads or usable_cores()
        self.memory_bytes = planner.budget_bytes(memory_bytes)
        self._budget = planner.Budget(self.memory_bytes)
        self.timeline = timeline or Timeline()
        self.notes = []
        self._workers = WorkerThreads(self.n_threads, self.timeline)
        self._tiles = compiled.load()
        self.policy: CpuPolicy = CpuPolicy(knn_method=knn, exact=exact, compiled=self._tiles is not None)
        if exact:
            self.policy = replace(self.policy, max_exact_pair_dims=np.inf)
        threads_in_words = f"{self.n_threads} thread{'s' if self.n_threads > 1 else ''}"
        self.device = f"CPU, {threads_in_words}, tiles of {self._tiles.name if self._tiles else compiled.NUMPY}"
        if knn == "leaves" and self._tiles is None:
            raise EngineUnavailable('knn="leaves" needs the compiled tiles; see: gpubench doctor', argument="knn")
        self._checked: dict[int, NDArray[np.float32]] = {}

    def preload(self, operations: Collection[str], n: int) -> None:
        """See `Engine.preload`."""
        import_ahead(operations, n)

    def put(self, x: ArrayLike | RowSource, name: str = "X") -> NDArray[np.float32]:
        """See `Engine.put`; a C-contiguous float32 array in memory is used where it is."""
        known = self._checked.get(id(x))
        if known is not None and known is x:
            return known
        with self.timeline.stage("put"):
            array = cpu_put.put(x, name, self._budget, self.timeline)
        self._checked[id(array)] = array
        return array

    def release(self, x: Array) -> None:
        """See `Engine.release`."""
        self._checked.pop(id(x), None)

    def to_host(self, x: Array) -> NDArray[Any]:
        """See `Engine.to_host`."""
        return np.asarray(x)

    def knn(self, x: NDArray[np.float32], k: int) -> Knn:
        """See `Engine.knn`; of very many cells or on request approximate, with the recall measured."""
        if not 1 <= k < len(x):
            raise ValueError(f"k={k} neighbours need 1 <= k < n = {len(x)}")
        planner.require_knn(len(x), x.shape[1], k, self.memory_bytes)
        method = self.policy.knn_method_for(*x.shape)
        if method == "leaves" and self._tiles is not None:
            found = leaves.leaves_knn(x, k, self._exact, self._tiles, self.seed)
        elif method == "ivf":
            found = approximate_knn.ivf_knn(x, k, self._exact, self.seed)
        elif method == "nn_descent":
            found = approximate_knn.nn_descent_knn(x, k, self._exact, self.seed)
        else:
            found = self._exact.knn_between(x, x, k)
        self._budget.hold(found.indices)
        self._budget.hold(found.distances)
        return found

    @property
    def tiles_of_numpy(self) -> bool:
        """Whether distances are products of NumPy, for there are no compiled tiles."""
        return self._tiles is None

    @property
    def _exact(self) -> ExactSearch:
        """Exact search with the memory that there is now."""
        return ExactSearch(self._workers, self._tiles, self._budget.left)

    def knn_between(self, queries: NDArray[np.float32], x: NDArray[np.float32], k: int) -> Knn:
        """See `Engine.knn_between`."""
        if not 1 <= k <= len(x):
            raise ValueError(f"k={k} neighbours need 1 <= k <= n = {len(x)}")
        # a view, so that asking an array about itself finds each cell as its own nearest
        return self._exact.knn_between(queries.view(), x, k)

    def cluster_distances(
        self,
        x: NDArray[np.float32],
        clusters: NDArray[np.int32],
        groups: NDArray[np.int32] | None = None,
        metric: Distance = "euclidean",
        cells: NDArray[np.int64] | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See `Engine.cluster_distances`."""
        if cells is not None and metric == "euclidean":
            return silhouette.cluster_distances_of_cells(cells, x, clusters, groups, self._workers, self._tiles)
        a, b = silhouette.cluster_distances(x, clusters, groups, metric, self._workers, self._budget.left, self._tiles)
        return (a, b) if cells is None else (a[cells], b[cells])  # cosine distances of all cells take no longer

    def fuzzy_graph(self, knn: Knn) -> Graph:
        """See `Engine.fuzzy_graph`."""
        n, k = knn.indices.shape
        mean = float(knn.distances.sum(dtype=np.float64)) / (n * (k + 1))
        memberships = np.empty((n, k))
        self.timeline.count(flop_counts.look_up(knn.indices.shape, 8))
        self.over_rows(n, lambda a, b: kernels.fuzzy_memberships(knn.distances, mean, a, b, memberships))
        return graphs.symmetrise(knn.indices, memberships, self._tiles, self.over_rows)

    def leiden(self, graph: Graph, resolution: float = 1.0, n_iterations: int = 2) -> NDArray[np.int32]:
        """See `Engine.leiden`; by networkit where there are very many cells, which is noted."""
        note = f"Leiden communities of {cpu_leiden.NETWORKIT_FROM:,} cells and more are found by networkit"
        if cpu_leiden.package_for(graph.n) == "networkit" and note not in self.notes:
            self.notes.append(note)
        take = [graph].pop
        del graph
        return cpu_leiden.leiden(take, resolution, n_iterations, self.seed, self.timeline)

    def rank(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """See `Engine.rank`."""
        ranks = np.empty(values.shape)
        self.over_rows(len(values), lambda a, b: kernels.average_ranks(values, a, b, ranks), values.shape[1])
        return ranks

    def group_means(self, x: NDArray[Any], codes: NDArray[np.int32], n_groups: int) -> NDArray[np.float64]:
        """See `Engine.group_means`."""
        return kernels.group_means(x, codes, n_groups)

    def classifier(self, kind: ClassifierKind, **params: Any) -> Classifier:
        """See `Engine.classifier`."""
        if kind == "lr":
            return LogisticRegression(self.n_threads, timeline=self.timeline, **params)
        if kind == "rf":
            return RandomForest(self.seed, self.n_threads, **params)
        return super().classifier(kind, **params)

    @property
    def cost_model(self) -> CostModel | None:
        """See `Engine.cost_model`."""
        from gpubench.engines.costs import CostModel

        return CostModel(self)

    def over_rows(self, n: int, kernel: Callable[[int, int], None], width: int = 1) -> None:
        """See `Engine.over_rows`."""
        step = max(1, min(ROWS_PER_PIECE, VALUES_PER_PIECE // width))
        self._workers.run(range(0, n, step), lambda: lambda start: kernel(start, min(start + step, n)))

"""The CPU engine: compiled tiles, NumPy, igraph and scikit-learn, on all cores."""

from __future__ import annotations

import mmap
import platform
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from threading import Thread
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError
from gpubench.core.machine import usable_cores
from gpubench.core.timeline import Timeline
from gpubench.core.types import Array, Graph, Knn, RankSums, RowSource
from gpubench.data import FiniteCheck, as_rows
from gpubench.engines import knn_methods, planner
from gpubench.engines.base import Classifier, ClassifierKind, Distance, Engine, Policy
from gpubench.engines.common import flop_counts
from gpubench.engines.common.rank_sums import as_matrix, group_cells
from gpubench.engines.cpu import approximate_knn, compiled, kernels, leaves, mean_distances, rank_sums, silhouette
from gpubench.engines.cpu import leiden as cpu_leiden
from gpubench.engines.cpu.classifiers import CpuLogisticRegression
from gpubench.engines.cpu.exact_knn import ExactSearch
from gpubench.engines.cpu.forest import MAX_FOREST_CELLS, SKLEARN_MODULE, RandomForest, forest_package
from gpubench.engines.cpu.threads import WorkerThreads
from gpubench.engines.cpu.tuning import CpuTuning

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from gpubench.core.types import F32, F64, I32, I64
    from gpubench.engines.costs import CostModel

PRELOADED = {"leiden": ("scipy.sparse",), "lr": ("scipy.optimize",), "folds": ("sklearn.model_selection",)}
"""Modules that each operation imports, by name of the operation."""


def import_modules(names: Collection[str]) -> None:
    """Import modules and ignore errors, which the operation that needs the module will raise when it imports it."""
    for name in names:
        with suppress(Exception):  # compiled packages also fail with OSError
            import_module(name)


@dataclass(frozen=True)
class CpuPolicy(Policy):
    """Choices of the CPU engine between exact and approximate computation, by the number of cells.

    The limits are such that each step ends within minutes on a few cores.
    """

    exact: bool = False  # compare all cells with all in silhouettes, and train on all cells
    compiled: bool = True  # whether there are compiled tiles, which the search by leaves and our random forest need
    max_exact_pair_dims: float = 2e13  # 632,000 cells of 50 dimensions, a minute on two cores
    max_exact_knn_cells: int = 100_000  # every pair is compared up to here, for any number of dimensions
    # the same for pairs of cells times dimensions: 316,000 cells of 50 dimensions
    max_exact_knn_pair_dims: float = 5e12
    # the few weights of logistic regression learn nothing from more cells that shows in the scores; a million takes
    # about 10 s for 50 dimensions and 30 classes on two cores
    max_lr_cells: int = 1_000_000

    def knn_method_for(self, n: int, d: int, k: int = 1) -> str:  # noqa: ARG002 - all k are found in the same way
        """See `Policy.knn_method_for`; above the limits of the exact search the first usable method."""
        if self.knn_method != "auto":
            return self.knn_method
        if self.compares_all(n, d):
            return "exact"
        return knn_methods.first_usable("cpu", lambda name: self.compiled or name != "leaves")

    def compares_all(self, n: int, d: int) -> bool:
        """Return whether n cells are so few that all pairs are compared, exactly or by the flat index of faiss."""
        return n <= self.max_exact_knn_cells or n * n * d <= self.max_exact_knn_pair_dims

    def samples_neighborhoods(self, n: int, d: int) -> bool:
        """See `Policy.samples_neighborhoods`; False if the user has named a search method."""
        return self.knn_method == "auto" and self.knn_method_for(n, d) != "exact"

    def max_training_cells(self, kind: ClassifierKind, n: int) -> int:
        """See `Policy.max_training_cells`."""
        limits = {"lr": self.max_lr_cells, "rf": MAX_FOREST_CELLS[forest_package(is_compiled=self.compiled)]}
        return n if self.exact else min(n, limits.get(kind, n))


_INSTRUCTIONS = {"avx512": "AVX-512", "avx2": "AVX2", "numpy": "NumPy"}
if platform.machine() in ("aarch64", "arm64"):
    _INSTRUCTIONS["generic"] = "NEON"
"""Names of the instruction sets in the description of the device."""


class CpuEngine(Engine):
    """Engine that computes on the CPU; results have the same bits for any number of threads."""

    name = "cpu"
    xp: ModuleType = np
    policy: CpuPolicy

    def __init__(
        self,
        *,
        seed: int = 42,
        threads: int | None = None,
        memory_bytes: int | None = None,
        timeline: Timeline | None = None,
        knn: str = "auto",
        exact: bool = False,
        tuning: CpuTuning | None = None,
    ) -> None:
        if threads is not None and threads < 1:
            raise InputError(f"threads={threads}: at least one thread is needed", argument="threads")
        self.seed = seed
        self.n_threads = threads or usable_cores()
        self.memory_bytes = planner.budget_bytes(memory_bytes)
        self.budget = planner.Budget(self.memory_bytes)
        self.timeline = timeline or Timeline()
        self.notes = []
        self.tuning = tuning or CpuTuning()
        self.workers = WorkerThreads(self.n_threads, self.timeline, self.tuning)
        self.tiles = compiled.load()  # None: distances are products of NumPy
        knn_methods.require(knn, "cpu")
        self.policy = CpuPolicy(
            knn_method=knn,
            exact=exact,
            compiled=self.tiles is not None,
            max_exact_pair_dims=np.inf if exact else CpuPolicy.max_exact_pair_dims,
        )
        threads_text = f"{self.n_threads} thread{'s' if self.n_threads > 1 else ''}"
        tiles = self.tiles.name if self.tiles else compiled.NUMPY
        self.device = f"CPU ({threads_text}, {_INSTRUCTIONS.get(tiles, tiles)})"
        self._checked: dict[int, F32] = {}

    def preload(self, operations: Collection[str]) -> None:
        """See `Engine.preload`."""
        names = [name for operation in operations for name in PRELOADED.get(operation, ())]
        if "rf" in operations and self.tiles is None:
            names.append(SKLEARN_MODULE)
        if names:
            # not a daemon: a process that ends earlier waits until the import is complete
            Thread(target=import_modules, args=(names,), name="gpubench imports").start()

    def put(self, x: ArrayLike | RowSource, name: str = "X") -> F32:
        """See `Engine.put`; a C-contiguous float32 array in memory is used without a copy."""
        known = self._checked.get(id(x))
        if known is not None and known is x:
            return known
        with self.timeline.stage("put"):
            array = put_cells(x, name, self.budget, self.timeline)
        self._checked[id(array)] = array
        return array

    def release(self, x: Array) -> None:
        """See `Engine.release`."""
        self._checked.pop(id(x), None)

    def to_host(self, x: Array) -> NDArray[Any]:
        """See `Engine.to_host`."""
        return np.asarray(x)

    @property
    def exact_search(self) -> ExactSearch:
        """Exact search that uses the memory available now."""
        return ExactSearch(self.workers, self.tiles, self.budget.left)

    def knn(self, x: F32, k: int) -> Knn:
        """See `Engine.knn`; approximate for very many cells or on request, with measured recall."""
        if not 1 <= k < len(x):
            raise ValueError(f"k={k} neighbours need 1 <= k < n = {len(x)}")
        planner.require_knn(len(x), x.shape[1], k, self.memory_bytes)
        method, exact = self.policy.knn_method_for(*x.shape), self.exact_search
        if method == "leaves" and self.tiles is not None:
            knn = leaves.leaves_knn(x, k, exact, self.tiles, self.seed)
        elif method in ("ivf", "faiss"):
            flat = method == "faiss" and self.policy.compares_all(*x.shape)
            knn = approximate_knn.faiss_knn(x, k, exact, self.seed, method, flat=flat)
        elif method == "nn_descent":
            knn = approximate_knn.nn_descent_knn(x, k, exact, self.seed)
        else:
            knn = exact.knn_between(x, x, k)
        self.budget.hold(knn.indices)
        self.budget.hold(knn.distances)
        return knn

    def knn_between(self, queries: F32, x: F32, k: int) -> Knn:
        """See `Engine.knn_between`."""
        if not 1 <= k <= len(x):
            raise ValueError(f"k={k} neighbours need 1 <= k <= n = {len(x)}")
        # a view, so that an array compared with itself finds each cell as its own nearest
        return self.exact_search.knn_between(queries.view(), x, k)

    def cluster_distances(
        self, x: F32, clusters: I32, groups: I32 | None = None, metric: Distance = "euclidean", cells: I64 | None = None
    ) -> tuple[F64, F64]:
        """See `Engine.cluster_distances`."""
        if cells is not None and metric == "euclidean":
            return silhouette.sampled_distances(cells, x, clusters, groups, self.workers, self.tiles)
        a, b = silhouette.cluster_distances(x, clusters, groups, metric, self.workers, self.budget.left, self.tiles)
        return (a, b) if cells is None else (a[cells], b[cells])  # cosine distances of all cells take no longer

    def fuzzy_graph(self, knn: Knn) -> Graph:
        """See `Engine.fuzzy_graph`."""
        n, k = knn.indices.shape
        mean = float(knn.distances.sum(dtype=np.float64)) / (n * (k + 1))
        memberships = np.empty((n, k))
        self.timeline.count(flop_counts.look_up(knn.indices.shape, 8))
        self.over_rows(n, lambda a, b: kernels.fuzzy_memberships(knn.distances, mean, a, b, memberships))
        return kernels.symmetrise(knn.indices, memberships, self.tiles, self.over_rows)

    def leiden(self, graph: Graph, resolution: float = 1.0, n_iterations: int = 2) -> I32:
        """See `Engine.leiden`; by networkit instead of igraph for very many cells, with a message in `notes`."""
        note = f"Leiden communities of {self.tuning.min_networkit_cells:,} cells and more are found by networkit"
        if cpu_leiden.package_for(graph.n, self.tuning) == "networkit" and note not in self.notes:
            self.notes.append(note)
        take = [graph].pop
        del graph
        return cpu_leiden.leiden(take, resolution, n_iterations, self.seed, self.timeline, self.tuning)

    def rank(self, values: NDArray[Any]) -> F64:
        """See `Engine.rank`."""
        ranks = np.empty(values.shape)
        self.over_rows(len(values), lambda a, b: kernels.average_ranks(values, a, b, ranks), values.shape[1])
        return ranks

    def group_means(self, x: Any, codes: I32, n_groups: int) -> F64:
        """See `Engine.group_means`."""
        if self.tiles is None or not hasattr(x, "tocsr"):
            return kernels.group_means(x, codes, n_groups)
        sums = rank_sums.group_sums(x, codes, n_groups, self.tiles, self.workers)
        return kernels.means_of_sums(sums, codes)

    def rank_sums(
        self, values: Any, groups: ArrayLike, n_groups: int, control: int, *, float32_ties: bool = False
    ) -> RankSums:
        """See `Engine.rank_sums`."""
        if self.tiles is None:
            return super().rank_sums(values, groups, n_groups, control, float32_ties=float32_ties)
        cells = group_cells(groups, n_groups, control, np.shape(values))
        matrix = as_matrix(values, float32_ties=float32_ties)
        return rank_sums.rank_sums(matrix, cells, self.tiles, self.workers)

    def mean_distances(self, values: Any, codes: I32, n_groups: int, reference: int | None = None) -> F64:
        """See `Engine.mean_distances`."""
        if self.tiles is None:
            return super().mean_distances(values, codes, n_groups, reference)
        return mean_distances.mean_distances(values, codes, n_groups, reference, self.tiles, self.workers)

    def classifier(self, kind: ClassifierKind, **params: Any) -> Classifier:
        """See `Engine.classifier`."""
        if kind == "lr":
            return CpuLogisticRegression(self.n_threads, timeline=self.timeline, tuning=self.tuning, **params)
        if kind == "rf":
            return RandomForest(self.seed, self.n_threads, timeline=self.timeline, tuning=self.tuning, **params)
        return super().classifier(kind, **params)

    @property
    def cost_model(self) -> CostModel | None:
        """See `Engine.cost_model`."""
        from gpubench.engines.costs import CostModel

        return CostModel(self)

    def over_rows(self, n: int, kernel: Callable[[int, int], None], width: int = 1) -> None:
        """See `Engine.over_rows`."""
        step = max(1, min(self.tuning.rows_per_task, self.tuning.values_per_task // width))
        self.workers.run(range(0, n, step), lambda: lambda start: kernel(start, min(start + step, n)))


def put_cells(x: ArrayLike | RowSource, name: str, budget: planner.Budget, timeline: Timeline) -> F32:
    """Read cells in blocks, check them, and convert them to float32 unless they can be used without a copy."""
    source = as_rows(x, name)
    n, d = source.shape
    in_place = _usable_in_place(source)
    if in_place is None:
        planner.require(4 * n * d, budget.total_bytes, f"{name} as float32 ({n:,} x {d})")
        array = budget.hold(np.empty((n, d), np.float32))
    else:
        array = in_place
    timeline.count(flop_counts.put(n, d, source.dtype.itemsize, copied=in_place is None))
    check = FiniteCheck(name)
    step = planner.read_block_rows(d, source.dtype.itemsize)
    for start in range(0, n, step):
        stop = min(start + step, n)
        block = source[start:stop] if isinstance(source, np.ndarray) else source.read(start, stop)
        check.add(block, start)
        if in_place is None:
            with np.errstate(over="ignore"):  # values beyond float32 become infinite and are refused below
                array[start:stop] = block
        _release_pages(source)
        timeline.advance(stop, n)
    check.finish(n)
    timeline.put(array.nbytes)
    return array


def _usable_in_place(source: NDArray[Any] | RowSource) -> F32 | None:
    """Return the array itself if it can be used without a copy, else None; a memory map is always copied."""
    if not isinstance(source, np.ndarray) or isinstance(source, np.memmap):
        return None
    usable = source.dtype == np.float32 and source.flags.c_contiguous and source.flags.aligned
    return source if usable else None


def _release_pages(source: NDArray[Any] | RowSource) -> None:
    """Release pages of a memory map that were read, because they count as memory of this process.

    The operating system keeps released pages in its cache while there is room. Pages of a copy-on-write map (mode "c")
    are not released, because they may have been changed.
    """
    if isinstance(source, np.memmap) and source.mode != "c" and hasattr(mmap, "MADV_DONTNEED"):
        mapped: Any = source
        mapped._mmap.madvise(mmap.MADV_DONTNEED)  # noqa: SLF001 - NumPy's only way to the map

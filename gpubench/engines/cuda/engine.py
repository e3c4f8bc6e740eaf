"""The CUDA engine: CuPy arrays and cuBLAS tiles, the kernels of `kernels/`, and cuGraph and cuML if installed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, fields, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from gpubench.core.errors import EngineUnavailable, InputError
from gpubench.core.machine import usable_cores
from gpubench.core.timeline import Timeline
from gpubench.core.types import Array, Graph, Knn, RankSums, RowSource
from gpubench.engines import knn_methods, planner
from gpubench.engines.base import Backend, Classifier, ClassifierKind, Distance, Engine, Policy, Precision
from gpubench.engines.common import flop_counts
from gpubench.engines.common import rank_sums as common_rank_sums
from gpubench.engines.common.neighborhoods import BYTES_PER_NEIGHBOR, NeighborKernel
from gpubench.engines.common.segments import Segments, in_cell_order, sort_cells
from gpubench.engines.cpu import kernels as cpu_kernels
from gpubench.engines.cpu.engine import CpuEngine
from gpubench.engines.cuda import cuml_models, exact_knn, ivf, library_knn, rank_sums, silhouette, tables
from gpubench.engines.cuda import graphs as cuda_graphs
from gpubench.engines.cuda import put as cuda_put
from gpubench.engines.cuda.checks import CHECKS, CUML_CLASSIFIERS, METHODS
from gpubench.engines.cuda.classifiers import CudaLogisticRegression, Forests, HostClassifier
from gpubench.engines.cuda.device import Device, driver_version, install_command
from gpubench.engines.cuda.memory import import_problem
from gpubench.engines.cuda.workspace import CudaTuning, Workspace, row_blocks

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

GraphOrKnn = TypeVar("GraphOrKnn", Graph, Knn)

LIBRARY_METHODS = {method for method, _ in library_knn.LIBRARIES}
"""Methods of the neighbour search that a library provides."""

BYTES_PER_VALUE = 128
"""Bytes that a kernel in array code needs per computed value, including temporary arrays."""


@dataclass(frozen=True)
class CudaPolicy(Policy):
    """Policy of the CUDA engine: exact neighbours up to 4,000,000 cells, then ivf if it fits.

    Silhouettes are never estimated, because a sample would take as long as all cells.

    Attributes
    ----------
    exact_knn_cells : see `CudaTuning`
    room_bytes : function that returns the memory that an operation may use now
    max_forest_cells : function `Forests.max_training_cells`
    is_right_knn : function that returns whether a method of the neighbour search is right on this GPU
    """

    exact_knn_cells: int = field(kw_only=True)
    room_bytes: Callable[[], int] = field(kw_only=True)
    max_forest_cells: Callable[[int], int] = field(kw_only=True)
    is_right_knn: Callable[[str], bool] = field(kw_only=True)

    def knn_method_for(self, n: int, d: int, k: int = 1) -> str:
        """See `Policy.knn_method_for`; above `exact_knn_cells` the first usable method that fits."""
        if self.knn_method != "auto":
            return self.knn_method
        if n <= self.exact_knn_cells:
            return "exact"

        def fits(name: str) -> bool:
            needed_bytes = ivf.needed_bytes if name == "ivf" else library_knn.needed_bytes
            return needed_bytes(n, d, k) <= self.room_bytes()

        return knn_methods.first_usable("cuda", fits, self.is_right_knn)

    def max_training_cells(self, kind: ClassifierKind, n: int) -> int:
        """See `Policy.max_training_cells`; only random forests are limited."""
        return self.max_forest_cells(n) if kind == "rf" else n


class CudaEngine(Engine):
    """Engine on one NVIDIA GPU; see `Engine` for what each operation computes.

    An embedding is copied to the GPU once. An embedding that does not fit in GPU memory is copied to pinned host
    memory, from which the GPU reads rows when it needs them.

    Attributes
    ----------
    gpu : GPU that the engine uses
    n_threads : number of CPU threads for steps that run on the CPU
    tuning : block sizes and thresholds
    """

    name = "cuda"

    def __init__(
        self,
        *,
        seed: int = 42,
        threads: int | None = None,
        memory_bytes: int | None = None,
        timeline: Timeline | None = None,
        knn: str = "auto",
        precision: Precision = "exact",
        exact: bool = False,
        device: Device | None = None,
        tuning: CudaTuning | None = None,
    ) -> None:
        """Start the engine on `device`, or the current GPU if None; see `gpubench.get_engine` for the other parameters.

        Raises
        ------
        EngineUnavailable
            There is no device, or a package is missing.
        InputError
            `threads` or `memory_bytes` is too small, or `knn` is a method of another engine or of a library that is not
            installed.
        """
        if threads is not None and threads < 1:
            raise InputError(f"threads={threads}: at least one thread is needed", argument="threads")
        if knn != "auto" and knn not in knn_methods.offered_by("cuda"):
            knn_methods.require(knn, "cuda")
        self.gpu = device or Device.find()
        if knn in LIBRARY_METHODS:
            with self.gpu.library():
                knn_methods.require(knn, "cuda")
        self.xp: ModuleType = self.gpu.xp
        self.seed = seed
        self.n_threads = threads or usable_cores()
        self._exact = exact
        self.tuning = tuning or CudaTuning()
        self._forests = Forests(self.gpu, seed, self.n_threads, lambda: self._is_right("rf", "cuml"), exact=exact)
        self.policy = CudaPolicy(
            knn_method=knn,
            precision=precision,
            exact_knn_cells=self.tuning.exact_knn_cells,
            room_bytes=self.room_bytes,
            max_forest_cells=self._forests.max_training_cells,
            is_right_knn=lambda method: self._is_right("knn", method),
        )
        self.notes = list(self.gpu.memory.notes)
        self.gpu.verdicts.checks, self.gpu.verdicts.note = CHECKS, self._note
        if self._method("copies") is None:
            raise self._unavailable("copies")
        if memory_bytes is None:
            self.memory_bytes = int(planner.SHARE_OF_FREE * self.gpu.free_bytes())
        else:
            self.memory_bytes = planner.budget_bytes(memory_bytes)
        self.timeline = timeline or Timeline()
        self.timeline.use_device(self.gpu)
        self.device = f"{self.gpu.name}, {self.gpu.free_bytes() / 2**30:.0f} GiB free"
        self._checked: dict[int, Array] = {}

    def put(self, x: ArrayLike | RowSource, name: str = "X") -> Array:
        """See `Engine.put`; arrays of CuPy, torch or DLPack on this GPU are not copied."""
        if id(x) in self._checked:
            return x
        with self.timeline.stage("put"):
            array = cuda_put.put(self.workspace(), x, name, self._note)
        self._checked[id(array)] = array
        return array

    def release(self, x: Array) -> None:
        """See `Engine.release`."""
        self._checked.pop(id(x), None)

    def to_host(self, x: Array) -> NDArray[Any]:
        """See `Engine.to_host`."""
        host: NDArray[Any] = self.gpu.xp.asnumpy(x)
        return host

    def digest(self, x: Array) -> str:
        """See `Engine.digest`; computed from sums formed on the GPU, so that cells are not copied to the host."""
        if self._method("digest") is None:
            return super().digest(x)
        sums = tables.mixed_sums(self.gpu.current(), x, self.tuning.float64_values)
        return hashlib.sha256(f"{x.shape} {sums}".encode()).hexdigest()

    def knn(self, x: Array, k: int) -> Knn:
        """See `Engine.knn`; approximate above 4,000,000 cells or on request, with measured recall."""
        if not 1 <= k < len(x):
            raise ValueError(f"k={k} neighbours need 1 <= k < n = {len(x)}")
        n, d = x.shape
        method = self.policy.knn_method_for(n, d, k)
        if method != "exact" and self._is_right("knn", method):
            if method == "ivf":
                return ivf.ivf_knn(self.workspace(), x, k, seed=self.seed)
            return library_knn.library_knn(self.workspace(), x, k, method, seed=self.seed)
        if self._is_right("knn", "exact"):
            return exact_knn.knn_between(self.workspace(), x, x, k)
        return self._on_gpu(self._host("knn").knn(self.to_host(x), k))

    def knn_between(self, queries: Array, x: Array, k: int) -> Knn:
        """See `Engine.knn_between`."""
        if not 1 <= k <= len(x):
            raise ValueError(f"k={k} neighbours need 1 <= k <= n = {len(x)}")
        if not self._is_right("knn", "exact"):
            return self._on_gpu(self._host("knn").knn_between(self.to_host(queries), self.to_host(x), k))
        # a view, so that a cell of x that is a query finds itself
        queries, x = self.xp.ascontiguousarray(queries).view(), self.xp.ascontiguousarray(x)
        return exact_knn.knn_between(self.workspace(), queries, x, k)

    def cluster_distances(
        self,
        x: Array,
        clusters: NDArray[np.int32],
        groups: NDArray[np.int32] | None = None,
        metric: Distance = "euclidean",
        cells: NDArray[np.int64] | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See `Engine.cluster_distances`; distances of all cells are computed even if `cells` selects only some."""
        operation = "silhouettes" if metric == "euclidean" else "cosine_silhouettes"
        leave_out = ("fast",) if self.policy.precision == "exact" else ()
        method = self._method(operation, leave_out)
        if method is None:
            return self._host(operation).cluster_distances(self.to_host(x), clusters, groups, metric, cells)
        segments, workspace = sort_cells(clusters, groups), self.workspace()
        if metric == "cosine":
            self.timeline.count(flop_counts.closed_silhouettes(segments.group_sizes, x.shape[1]))
            own, nearest = silhouette.cosine_means(workspace, x, segments)
        else:
            self.timeline.count(flop_counts.silhouettes(segments.group_sizes, x.shape[1]))
            own, nearest = silhouette.euclidean_means(
                replace(workspace, precision=cast("Precision", method)), x, segments
            )
        a, b = in_cell_order(self.to_host(own), self.to_host(nearest), segments)
        return (a, b) if cells is None else (a[cells], b[cells])

    def silhouette_tiles(self, x: Array, segments: Segments, room_bytes: int) -> silhouette.SilhouetteTiles:
        """Return the tiles of Euclidean distances of x, for callers that sum only a share of the tiles.

        Raises
        ------
        EngineUnavailable
            The sums of tiles are wrong on this GPU.
        """
        if self._method("silhouettes", ("fast",)) is None:
            raise self._unavailable("silhouettes")
        return silhouette.SilhouetteTiles(self.workspace(room_bytes), x, segments)

    def map_neighbors(
        self,
        knn: Knn,
        kernel: NeighborKernel,
        *columns: Any,
        cells: NDArray[np.int64] | None = None,
        width: int = 1,
    ) -> NDArray[np.float64]:
        """See `Engine.map_neighbors`; `neighbor_entropy` and `neighbor_value_distance` use CUDA kernels."""
        method = self._method(kernel.__name__)
        if method is None:
            on_host = Knn(self.to_host(knn.indices), self.to_host(knn.distances))
            given = [self.to_host(value) if isinstance(value, self.xp.ndarray) else value for value in columns]
            return self._host(kernel.__name__).map_neighbors(on_host, kernel, *given, cells=cells, width=width)
        own_kernel = tables.NEIGHBOR_KERNELS.get(kernel.__name__)
        if own_kernel is None or method != "kernel":
            return super().map_neighbors(knn, kernel, *columns, cells=cells, width=width)
        self.timeline.count(flop_counts.look_up(knn.indices.shape, BYTES_PER_NEIGHBOR.get(kernel.__name__, 8)))
        return self.to_host(own_kernel(self.gpu.current(), knn, cells, *columns))

    def fuzzy_graph(self, knn: Knn) -> Graph:
        """See `Engine.fuzzy_graph`."""
        if self._method("fuzzy_graph") is None:
            on_host = Knn(self.to_host(knn.indices), self.to_host(knn.distances))
            return self._on_gpu(self._host("fuzzy_graph").fuzzy_graph(on_host))
        self.timeline.count(flop_counts.look_up(knn.indices.shape, 8))
        return cuda_graphs.fuzzy_graph(self.gpu.current(), knn)

    def leiden(self, graph: Graph, resolution: float = 1.0, n_iterations: int = 2) -> NDArray[np.int32]:
        """See `Engine.leiden`; computed by cuGraph, or by igraph on the host with a message in `notes`.

        cuGraph receives the seed, but it is not known whether it finds the same communities in every run.
        """
        device = self.gpu.current()

        def is_right() -> bool:
            return self._is_right("leiden", "cugraph")

        return cuda_graphs.leiden(device, graph, resolution, n_iterations, self.seed, self._note, is_right)

    def rank(self, values: Array) -> Array:
        """See `Engine.rank`."""
        if self._method("rank") is None:
            return self.xp.asarray(self._host("rank").rank(self.to_host(values)))
        return tables.rank(self.gpu.current(), values, self.room_bytes())

    def group_means(self, x: Any, codes: NDArray[np.int32], n_groups: int) -> NDArray[np.float64]:
        """See `Engine.group_means`; computed on the host if `x` is in host memory."""
        if type(x) is np.ndarray or hasattr(x, "tocsr"):
            return cpu_kernels.group_means(x, codes, n_groups)
        if self._method("group_means") is None:
            return self._host("group_means").group_means(self.to_host(x), codes, n_groups)
        return self.to_host(tables.group_means(self.gpu.current(), x, codes, n_groups))

    def rank_sums(
        self, values: Any, groups: ArrayLike, n_groups: int, control: int, *, float32_ties: bool = False
    ) -> RankSums:
        """See `Engine.rank_sums`."""
        if self._method("rank_sums") is None:
            on_host = self.to_host(values) if isinstance(values, self.xp.ndarray) else values
            return self._host("rank_sums").rank_sums(on_host, groups, n_groups, control, float32_ties=float32_ties)
        cells = common_rank_sums.group_cells(groups, n_groups, control, np.shape(values))
        matrix = common_rank_sums.as_matrix(values, float32_ties=float32_ties)
        self.timeline.count(common_rank_sums.work(matrix, n_groups))
        return rank_sums.rank_sums(self.gpu.current(), matrix, cells, self.room_bytes())

    def classifier(self, kind: ClassifierKind, **params: Any) -> Classifier:
        """See `Engine.classifier`."""
        if kind == "lr" and self._method("lr") is None:
            return HostClassifier(self.xp, self._host("lr").classifier("lr", **params))
        if kind == "lr":
            return CudaLogisticRegression(self.workspace(), **params)
        if kind == "rf":
            return self._forests.make(**params)
        return super().classifier(kind, **params)

    def require_backend(self, backend: Backend) -> None:
        """See `Engine.require_backend`; "cuml" needs cuML."""
        if backend == "cuml":
            with self.gpu.current().library():
                problem = import_problem("cuml")
            if problem:
                remedy = f"install it with: {install_command(driver_version())}"
                raise InputError(f"backend='cuml' needs cuML, which {problem}; {remedy}", argument="backend")

    def library_classifier(self, kind: ClassifierKind, backend: Backend, **params: Any) -> Classifier:
        """See `Engine.library_classifier`."""
        if backend != "cuml":
            return super().library_classifier(kind, backend, **params)
        if kind == "rf":
            if self._forests.problem:
                raise InputError(f"backend='cuml': {self._forests.problem}; leave out backend", argument="backend")
            return self._forests.make(**params)
        self._require_right(kind)
        return CUML_CLASSIFIERS[kind](self.gpu.current(), **params)

    def library_silhouettes(
        self, x: Array, clusters: NDArray[np.int32], metric: Distance, backend: Backend
    ) -> NDArray[np.float64]:
        """See `Engine.library_silhouettes`."""
        if backend != "cuml":
            return super().library_silhouettes(x, clusters, metric, backend)
        self._require_right("silhouettes")
        return cuml_models.silhouette_widths(self.gpu.current(), x, clusters, metric, self.room_bytes())

    def _require_right(self, what: str) -> None:
        """Check that cuML is there and right on this GPU; `what` is a method of the operation "cuml" in `checks`."""
        self.require_backend("cuml")
        if not self._is_right("cuml", what):
            raise InputError(
                f"backend='cuml': {what} of cuML are wrong on this GPU; leave out backend", argument="backend"
            )

    def room_bytes(self) -> int:
        """Return the bytes of GPU memory that an operation may use now."""
        return min(self.memory_bytes, self.gpu.free_bytes())

    def workspace(self, room_bytes: int | None = None) -> Workspace:
        """Return device and settings for an operation that may use `room_bytes`; if None, the memory free now."""
        room_bytes = self.room_bytes() if room_bytes is None else room_bytes
        return Workspace(self.gpu.current(), self.policy.precision, room_bytes, self.timeline, self.tuning)

    def over_rows(self, n: int, kernel: Callable[[int, int], None], width: int = 1) -> None:
        """See `Engine.over_rows`."""
        for rows in row_blocks(n, self.room_bytes() // (BYTES_PER_VALUE * width)):
            kernel(rows.start, rows.stop)

    def verified(self) -> dict[str, str]:
        """See `Engine.verified`."""
        return self.gpu.verdicts.summary()

    def _is_right(self, operation: str, method: str) -> bool:
        """Return whether a method is right on this GPU."""
        return self.gpu.current().verdicts.allows(operation, method)

    def _method(self, operation: str, leave_out: Collection[str] = ()) -> str | None:
        """Return the first method of an operation that is right; None if there is none, "" if none is checked."""
        methods = [method for method in METHODS.get(operation, ("",)) if method not in leave_out]
        return next((method for method in methods if self._is_right(operation, method)), None)

    def _host(self, operation: str) -> Engine:
        """Return the CPU engine, which takes over an operation that is wrong on this GPU if "auto" chose the engine.

        Raises
        ------
        EngineUnavailable
            The user named the engine.
        """
        if not self.chosen:
            raise self._unavailable(operation)
        self._note(f"{operation} ran on the CPU, as it is wrong on this GPU")
        knn = "exact" if self.policy.knn_method == "exact" else "auto"
        options: dict[str, Any] = {"knn": knn, "exact": self._exact}
        return CpuEngine(seed=self.seed, threads=self.n_threads, timeline=self.timeline, **options)

    def _unavailable(self, operation: str) -> EngineUnavailable:
        return EngineUnavailable(
            f"engine 'cuda': {operation} is wrong on this GPU, see: gpubench doctor --gpu; use the engine 'cpu'"
        )

    def _on_gpu(self, found: GraphOrKnn) -> GraphOrKnn:
        """Return a graph of the host with its arrays on the GPU."""
        values = {item.name: getattr(found, item.name) for item in fields(found)}
        arrays = {name: self.xp.asarray(value) for name, value in values.items() if isinstance(value, np.ndarray)}
        return replace(found, **arrays)

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

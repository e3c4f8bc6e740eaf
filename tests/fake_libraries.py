"""Stand-ins for faiss-gpu, cuVS and cuML on the arrays of `strict_cupy`, as strict as the libraries, or stricter.

They take the arguments of the real functions by the same names. faiss gets addresses only: what is there is read
without strides, so a wrong dtype or an array with gaps gives an error or wrong neighbours. A search on another stream
or device than those of the thread is refused. cuVS writes its results when its handle is synchronised, not before.
"""

from __future__ import annotations

import sys
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import strict_cupy
from sklearn import metrics as sklearn_metrics
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

NULL = 0
MAX_K = 2048


def install_module(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    """Make a module importable, and found by `find_spec`."""
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    module.__dict__.update(content)
    monkeypatch.setitem(sys.modules, name, module)


def nearest(queries: np.ndarray, cells: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return squared distances (m, k) in float32 by products, as libraries compute them, and ids, -1 if missing."""
    squared = (queries**2).sum(1)[:, None] + (cells**2).sum(1) - 2 * queries @ cells.T
    order = np.argsort(squared, axis=1, kind="stable")[:, :k]
    missing = ((0, 0), (0, k - order.shape[1]))
    found = np.pad(np.take_along_axis(squared, order, axis=1), missing, constant_values=np.inf)
    return found.astype(np.float32), np.pad(order, missing, constant_values=-1)


@dataclass(frozen=True)
class Pointer:
    """A pointer of SWIG."""

    address: int
    dtype: Any

    def read(self, *shape: int) -> np.ndarray:
        return strict_cupy.array_at(self.address, shape, self.dtype)


class StandardGpuResources:
    """faiss's memory and streams; its temporary memory is taken by the first search."""

    def __init__(self) -> None:
        self.temporary_bytes = 1536 << 20
        self.streams: dict[int, Any] = {}
        self._holds = False

    def setTempMemory(self, size: int) -> None:  # noqa: N802
        self.temporary_bytes = size

    def setDefaultStream(self, device: int, stream: Any) -> None:  # noqa: N802
        assert isinstance(stream, tuple), "SWIG refuses a number"
        self.streams[device] = stream[1]

    def check(self, device: int) -> None:
        """Check that work on a device is in the order of the thread's stream; take the temporary memory."""
        stream = strict_cupy.thread.stream
        assert device == strict_cupy.thread.device, "another device than that of the thread"
        assert self.streams.get(device) == (stream.ptr if stream else NULL), "another stream than that of the thread"
        if not self._holds:
            gpu = strict_cupy.current_gpu()
            gpu.take(self.temporary_bytes)
            weakref.finalize(self, gpu.give, self.temporary_bytes)
            self._holds = True


class GpuDistanceParams:
    """Arguments of a search among all cells; SWIG accepts others too, and they do nothing."""

    __slots__ = (
        *("metric", "metricArg", "k", "dims"),
        *("vectors", "vectorType", "vectorsRowMajor", "numVectors", "vectorNorms"),
        *("queries", "queryType", "queriesRowMajor", "numQueries"),
        *("outDistances", "ignoreOutDistances", "outIndicesType", "outIndices", "device", "use_cuvs"),
    )

    def __init__(self) -> None:
        self.vectorsRowMajor = self.queriesRowMajor = True
        self.outIndicesType, self.device = "i64", -1


def bfKnn(resources: StandardGpuResources, args: GpuDistanceParams) -> None:  # noqa: N802
    resources.check(strict_cupy.thread.device if args.device == -1 else args.device)
    assert (args.metric, args.vectorType, args.queryType, args.outIndicesType) == ("l2", "f32", "f32", "i64")
    assert args.vectorsRowMajor is args.queriesRowMajor is True
    assert args.k <= MAX_K
    queries, cells = args.queries.read(args.numQueries, args.dims), args.vectors.read(args.numVectors, args.dims)
    found = nearest(queries, cells, args.k)
    args.outDistances.read(len(queries), args.k)[...] = found[0]
    args.outIndices.read(len(queries), args.k)[...] = found[1]


class GpuIndexIVFFlat:
    """faiss's inverted file."""

    def __init__(self, resources: StandardGpuResources, dims: int, n_lists: int, metric: str, config: Any) -> None:
        assert metric == "l2"
        self._resources, self._dims, self._n_lists, self._device = resources, dims, n_lists, config.device
        self.cp, self.nprobe = SimpleNamespace(seed=1234), 1
        self._cells = np.empty((0, dims), np.float32)

    def train_c(self, n: int, x: Pointer) -> None:
        self._resources.check(self._device)
        assert n >= self._n_lists
        assert isinstance(self.cp.seed, int)
        assert self.cp.seed < 2**31
        cells = x.read(n, self._dims)
        chosen = np.random.default_rng(self.cp.seed).choice(n, self._n_lists, replace=False)
        self._centres = cells[chosen].copy()

    def add_c(self, n: int, x: Pointer) -> None:
        self._resources.check(self._device)
        self._cells = np.concatenate([self._cells, x.read(n, self._dims)])

    def search_c(self, n: int, x: Pointer, k: int, distances: Pointer, labels: Pointer) -> None:
        self._resources.check(self._device)
        assert k <= MAX_K
        assert self.nprobe <= MAX_K
        lists = nearest(self._cells, self._centres, 1)[1][:, 0]
        queries, out, ids = x.read(n, self._dims), distances.read(n, k), labels.read(n, k)
        for i, probed in enumerate(nearest(queries, self._centres, self.nprobe)[1]):
            here = np.flatnonzero(np.isin(lists, probed))
            found, order = nearest(queries[i : i + 1], self._cells[here], k)
            out[i], ids[i] = found[0], np.where(order[0] < 0, -1, here[order[0]])


def install_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the stand-in for faiss-gpu."""
    install_module(
        monkeypatch,
        "faiss",
        METRIC_L2="l2",
        DistanceDataType_F32="f32",
        IndicesDataType_I64="i64",
        StandardGpuResources=StandardGpuResources,
        GpuDistanceParams=GpuDistanceParams,
        GpuIndexIVFFlat=GpuIndexIVFFlat,
        GpuIndexIVFFlatConfig=lambda: SimpleNamespace(device=0),
        bfKnn=bfKnn,
        cast_integer_to_cudastream_t=lambda number: ("cudaStream_t", number),
        cast_integer_to_float_ptr=lambda address: Pointer(address, np.float32),
        cast_integer_to_idx_t_ptr=lambda address: Pointer(address, np.int64),
    )


class _FakeCuml:
    """A classifier of cuML, which is scikit-learn's on arrays of the device."""

    model: type[Any]

    def __init__(self, *, output_type: str, **given: Any) -> None:
        assert output_type == "cupy"
        self._model = self.model(**given)

    def fit(self, x: Any, y: Any) -> None:
        cells = _checked(x, np.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # cuML gives no such warning
            self._model.fit(cells, _checked(y, np.int32, len(cells)))

    def predict_proba(self, x: Any) -> Any:
        return strict_cupy.asarray(self._model.predict_proba(_checked(x, np.float32)).astype(np.float32))


def silhouette_samples(x: Any, labels: Any, metric: str = "euclidean", chunksize: int | None = None) -> Any:
    assert chunksize is not None
    assert 1 <= chunksize <= len(x)
    cells = _checked(x, np.float32)
    widths = sklearn_metrics.silhouette_samples(cells, _checked(labels, np.int32, len(cells)), metric=metric)
    return strict_cupy.asarray(widths.astype(np.float32))


def install_cuml(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the stand-in for cuML's logistic regression, nearest neighbours and silhouettes."""
    regression = type("Regression", (_FakeCuml,), {"model": LogisticRegression})
    neighbors = type("Neighbors", (_FakeCuml,), {"model": KNeighborsClassifier})
    install_module(monkeypatch, "cuml")
    install_module(monkeypatch, "cuml.linear_model", LogisticRegression=regression)
    install_module(monkeypatch, "cuml.neighbors", KNeighborsClassifier=neighbors)
    install_module(monkeypatch, "cuml.metrics")
    install_module(monkeypatch, "cuml.metrics.cluster", silhouette_samples=silhouette_samples)


class Resources:
    """cuVS's handle; what was started is done when it is synchronised."""

    def __init__(self, stream: int | None = None) -> None:
        self.stream = stream
        self.waiting: list[Callable[[], None]] = []

    def sync(self) -> None:
        for write in self.waiting:
            write()
        self.waiting.clear()

    def check(self) -> None:
        stream = strict_cupy.thread.stream
        assert self.stream == (stream.ptr if stream else NULL), "another stream than that of the thread"


def _checked(array: Any, dtype: Any, *shape: int) -> np.ndarray:
    """Return the values of an array that cuVS was given; it accepts contiguous arrays of the device only."""
    assert isinstance(array, strict_cupy.ndarray), "no __cuda_array_interface__"
    host = strict_cupy._check_device(array)
    if host.dtype != dtype:
        raise TypeError(f"dtype {host.dtype} not supported")
    if not host.flags.c_contiguous:
        raise ValueError("Row major input is expected")
    if shape and host.shape != shape:
        raise ValueError(f"expected {shape}, got {host.shape}")
    return host


@dataclass
class Cuvs:
    """The stand-in for cuVS.

    Attributes
    ----------
    n_lost : number of neighbours of every third cell that NN-descent does not find
    """

    n_lost: int = 0
    calls: list[dict[str, Any]] = field(default_factory=list)

    def build_brute_force(self, dataset: Any, metric: str, resources: Resources) -> np.ndarray:
        assert metric == "sqeuclidean"
        resources.check()
        return _checked(dataset, np.float32)

    def search_brute_force(
        self, index: np.ndarray, queries: Any, k: int, *, neighbors: Any, distances: Any, resources: Resources
    ) -> None:
        resources.check()
        asked = _checked(queries, np.float32)
        ids, out = _checked(neighbors, np.int64, len(asked), k), _checked(distances, np.float32, len(asked), k)

        def write() -> None:
            out[...], ids[...] = nearest(asked, index, k)

        resources.waiting.append(write)

    def build_graph(self, dataset: Any, k: int, params: Any, *, indices: Any, resources: Resources) -> None:
        resources.check()
        cells = _checked(dataset, np.float32)
        ids = _checked(indices, np.int64, len(cells), k)
        descent = params.nn_descent_params
        assert (params.algo, params.metric, descent.metric) == ("nn_descent", "sqeuclidean", "sqeuclidean")
        assert k <= descent.graph_degree <= descent.intermediate_graph_degree
        assert descent.dist_comp_dtype == "fp32"

        def write() -> None:
            ids[...] = nearest(cells, cells, k)[1]
            ids[::3, k - self.n_lost :] = ids[::3, :1]

        resources.waiting.append(write)


def install_cuvs(monkeypatch: pytest.MonkeyPatch) -> Cuvs:
    """Install the stand-in for cuVS."""
    fake = Cuvs()

    def params(names: str) -> Callable[..., SimpleNamespace]:
        def make(**given: Any) -> SimpleNamespace:
            assert set(given) <= set(names.split())
            return SimpleNamespace(**given)

        return make

    install_module(monkeypatch, "cuvs")
    install_module(monkeypatch, "cuvs.common", Resources=Resources)
    modules = {
        "brute_force": {"build": fake.build_brute_force, "search": fake.search_brute_force},
        "nn_descent": {"IndexParams": params("metric graph_degree intermediate_graph_degree dist_comp_dtype")},
        "all_neighbors": {
            "AllNeighborsParams": params("algo overlap_factor n_clusters metric nn_descent_params"),
            "build": fake.build_graph,
        },
    }
    for name, content in modules.items():
        install_module(monkeypatch, f"cuvs.neighbors.{name}", **content)
    install_module(monkeypatch, "cuvs.neighbors", **{name: sys.modules[f"cuvs.neighbors.{name}"] for name in modules})
    return fake

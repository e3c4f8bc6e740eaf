"""Check every method of the CUDA engine, and time it on synthetic cells against the limits of the GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from gpubench.core.errors import GpubenchError, message_of
from gpubench.core.timeline import Timeline, Work
from gpubench.engines.base import Engine
from gpubench.engines.common import flop_counts, neighborhoods
from gpubench.engines.cuda.arithmetic import ARITHMETICS, MEASURED_ROWS, PRODUCTS, padded
from gpubench.engines.cuda.checks import CHECKS, METHODS
from gpubench.engines.cuda.engine import CudaEngine
from gpubench.engines.cuda.library_knn import library_problem
from gpubench.profiling import synthetic
from gpubench.profiling.child import measure_limits

if TYPE_CHECKING:
    from gpubench.core.types import Array
    from gpubench.engines.cuda.device import Device
    from gpubench.profiling.profile import Limits

LIBRARIES = {
    ("leiden", "cugraph"): "pylibcugraph",
    ("rf", "cuml"): "cuml",
    ("knn", "faiss"): "faiss",
    ("knn", "cuvs"): "cuvs",
    **{("cuml", method): "cuml" for method in METHODS["cuml"]},
}
"""Module that a method needs."""

REPEATS = 3

PIECE_BYTES = 256 << 20
"""Size of the arrays with which memory is filled."""


@dataclass(frozen=True)
class BenchSizes:
    """What is timed.

    Attributes
    ----------
    n, d, k : numbers of cells, dimensions and neighbours
    n_labels : number of labels
    forest_cells : number of cells that a forest is trained on
    table : numbers of rows and values of the table that is ranked
    whole : numbers of cells and dimensions of the run in which all tasks are scored; None for no run
    memory_share : share of the free memory that is written and read; 0 for none
    """

    n: int = 100_000
    d: int = 50
    k: int = 15
    n_labels: int = 30
    forest_cells: int = 10_000
    table: tuple[int, int] = (256, 20_000)
    whole: tuple[int, int] | None = None
    memory_share: float = 0.0


FULL = BenchSizes(n=1_000_000, whole=(1_000_000, 50), memory_share=0.8)


@dataclass(frozen=True)
class Measured:
    """Verdict on a method, and its rate.

    Attributes
    ----------
    operation, method : names, see `gpubench.engines.cuda.checks.METHODS`
    is_right : verdict; None if the method cannot be used here
    text : how it is wrong, or why it cannot be used; empty if it is right
    check_seconds : duration of the check
    seconds : shortest time of a call on the synthetic cells; None if it was not timed
    work : amount of work of that call
    """

    operation: str
    method: str
    is_right: bool | None
    text: str = ""
    check_seconds: float = 0.0
    seconds: float | None = None
    work: Work = field(default_factory=lambda: Work(0, 0))

    def rate(self) -> tuple[float, str] | None:
        """Return the rate and its unit: arithmetic if the operation counts it, else bytes; None if it has neither."""
        if not self.seconds:
            return None
        if self.work.flop:
            return self.work.flop / self.seconds / 1e12, "TFLOP/s"
        return (self.work.moved_bytes / self.seconds / 1e9, "GB/s") if self.work.moved_bytes else None

    def share(self, limits: Limits) -> float | None:
        """Return the time that the limits of the GPU allow as a share of the time taken; None without a rate."""
        if not self.rate():
            return None
        work = self.work if not self.work.flop else self.work._replace(moved_bytes=0)
        return limits.least_s(work.flop, work.moved_bytes) / cast("float", self.seconds)


def check_all(device: Device) -> Iterator[Measured]:
    """Check all methods, whatever was found before."""
    device.verdicts.checks = CHECKS
    device.verdicts.forget()
    for operation, methods in METHODS.items():
        for method in methods:
            if operation == PRODUCTS and ARITHMETICS[method].tensor_cores and not device.has_tensor_cores:
                yield Measured(operation, method, None, "the GPU has no tensor cores for it")
                continue
            with device.library():
                problem = _problem(operation, method)
            if problem:
                yield Measured(operation, method, None, problem)
                continue
            verdict = device.verdicts.of(operation, method)
            yield Measured(operation, method, verdict.is_right, verdict.reason, verdict.seconds)


def _problem(operation: str, method: str) -> str:
    """Return why the library of a method cannot be used; empty if it can, or if the method needs none."""
    module = LIBRARIES.get((operation, method))
    problem = module and library_problem(module)
    return f"{module} {problem}" if problem else ""


class Timed(NamedTuple):
    """A call to time, and its work."""

    call: Callable[[], object]
    work: Work = Work(0, 0)


class Bench:
    """Synthetic cells on a GPU, and the calls that are timed on them."""

    def __init__(self, device: Device, sizes: BenchSizes) -> None:
        self.device, self.sizes = device, sizes
        self.cells = synthetic.make(sizes.n, sizes.d, n_labels=sizes.n_labels)

    @cached_property
    def engine(self) -> CudaEngine:
        """The engine with its defaults."""
        return CudaEngine(device=self.device, timeline=Timeline())

    @cached_property
    def x(self) -> Array:
        """The cells on the GPU."""
        return self.engine.put(self.cells.x)

    @cached_property
    def knn(self) -> Any:
        """Neighbours of the cells, from which graphs and statistics of neighbourhoods are computed."""
        return CudaEngine(device=self.device, timeline=Timeline()).knn(self.x, self.sizes.k)

    @cached_property
    def graph(self) -> Any:
        """Their connectivities."""
        return self.engine.fuzzy_graph(self.knn)

    def time(self, found: Measured) -> Measured:
        """Add times of a method that is right."""
        make = _TIMED.get(found.operation)
        if not found.is_right or make is None:
            return found
        try:
            timed = make(self, found.method)
            seconds = self._shortest(timed.call)
        except (GpubenchError, MemoryError) as error:  # such as a GPU that is too small for the cells
            return replace(found, text=message_of(error))
        return replace(found, seconds=seconds, work=timed.work)

    def _shortest(self, call: Callable[[], object]) -> float:
        best = np.inf
        for _ in range(1 + REPEATS):  # the first one compiles and loads
            self.device.synchronize()
            begin = time.perf_counter()
            call()
            self.device.synchronize()
            best = min(best, time.perf_counter() - begin)
        return float(best)


def _copies(bench: Bench, _: str) -> Timed:
    def put() -> None:
        bench.engine.release(bench.engine.put(bench.cells.x))

    return Timed(put, Work(0, bench.cells.x.nbytes))


def _products(bench: Bench, method: str) -> Timed:
    way, d, device, xp = ARITHMETICS[method], bench.sizes.d, bench.device, bench.device.xp
    edge = min(MEASURED_ROWS, bench.sizes.n)
    operand, out = xp.ones((edge, way.parts * padded(d)), np.float32), xp.empty((edge, edge), np.float32)
    call = partial(device.product, operand, operand, out, tensor_cores=way.tensor_cores)
    return Timed(call, Work(2 * edge * edge * d, 0))


def _knn(bench: Bench, method: str) -> Timed:
    engine = CudaEngine(device=bench.device, knn=method, timeline=Timeline())
    n, k = bench.sizes.n, bench.sizes.k
    work = flop_counts.search(n, n, bench.sizes.d, k, symmetric=False) if method == "exact" else Work(0, 0)
    return Timed(lambda: engine.knn(bench.x, k), work)


def _silhouettes(bench: Bench, method: str) -> Timed:
    engine = CudaEngine(device=bench.device, precision=cast("Any", method), timeline=Timeline())
    work = flop_counts.silhouettes([(bench.sizes.n, bench.sizes.n_labels)], bench.sizes.d)
    return Timed(lambda: engine.cluster_distances(bench.x, bench.cells.label), work)


def _cosine(bench: Bench, _: str) -> Timed:
    work = flop_counts.closed_silhouettes([(bench.sizes.n, bench.sizes.n_labels)], bench.sizes.d)
    call = partial(bench.engine.cluster_distances, bench.x, bench.cells.label, metric="cosine")
    return Timed(call, work._replace(flop=0))


def _statistic(name: str, bench: Bench, method: str) -> Timed:
    n_codes, kernel = bench.sizes.n_labels, getattr(neighborhoods, name)
    columns = {
        "neighbor_entropy": (bench.cells.label, n_codes),
        "neighbor_chi_square": (bench.cells.label, np.full(n_codes, 1 / n_codes)),
        "neighbor_simpson": (bench.cells.label, n_codes, bench.sizes.k / 3),
        "neighbor_value_distance": (bench.cells.time.astype(np.float64),),
    }[name]
    work = flop_counts.look_up(bench.knn.indices.shape, neighborhoods.BYTES_PER_NEIGHBOR.get(name, 8))
    map_neighbors = CudaEngine.map_neighbors if method == "kernel" else Engine.map_neighbors
    return Timed(lambda: map_neighbors(bench.engine, bench.knn, kernel, *columns), work)


def _fuzzy_graph(bench: Bench, _: str) -> Timed:
    knn, n_edges = bench.knn, bench.sizes.n * bench.sizes.k
    return Timed(lambda: bench.engine.fuzzy_graph(knn), Work(0, 33 * n_edges))  # see kernels/README.md


def _leiden(bench: Bench, _: str) -> Timed:
    graph = bench.graph
    return Timed(lambda: bench.engine.leiden(graph))


def _forest(bench: Bench, _: str) -> Timed:
    x, codes = bench.x[: bench.sizes.forest_cells], bench.cells.label[: bench.sizes.forest_cells]
    return Timed(lambda: bench.engine.classifier("rf").fit(x, codes, bench.sizes.n_labels))


def _logistic_regression(bench: Bench, _: str) -> Timed:
    return Timed(lambda: bench.engine.classifier("lr").fit(bench.x, bench.cells.label, bench.sizes.n_labels))


def _group_means(bench: Bench, _: str) -> Timed:
    call = partial(bench.engine.group_means, bench.x, bench.cells.label, bench.sizes.n_labels)
    return Timed(call, Work(0, bench.cells.x.nbytes))


def _table(bench: Bench) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 100, bench.sizes.table).astype(np.float32)


def _rank(bench: Bench, _: str) -> Timed:
    values = bench.device.xp.asarray(_table(bench))
    return Timed(lambda: bench.engine.rank(values), Work(0, 24 * values.size))


def _rank_sums(bench: Bench, _: str) -> Timed:
    values = np.ascontiguousarray(_table(bench).T)
    groups = np.arange(len(values)) % 10
    work = flop_counts.rank_sums(values.size, 4, 10, values.shape[1])
    return Timed(lambda: bench.engine.rank_sums(values, groups, 10, 0), work)


def _digest(bench: Bench, _: str) -> Timed:
    return Timed(lambda: bench.engine.digest(bench.x), Work(0, bench.cells.x.nbytes))


_TIMED: Mapping[str, Callable[[Bench, str], Timed]] = {
    "copies": _copies,
    PRODUCTS: _products,
    "knn": _knn,
    "silhouettes": _silhouettes,
    "cosine_silhouettes": _cosine,
    **{name: partial(_statistic, name) for name in METHODS if name.startswith("neighbor_")},
    "fuzzy_graph": _fuzzy_graph,
    "leiden": _leiden,
    "rf": _forest,
    "lr": _logistic_regression,
    "group_means": _group_means,
    "rank": _rank,
    "rank_sums": _rank_sums,
    "digest": _digest,
}
"""Makes the call to time for a method of each operation."""


def limits_of(device: Device) -> Limits:
    """Measure the rates of square float32 products and of copies in GPU memory."""
    return measure_limits(CudaEngine(device=device, timeline=Timeline()), 1)


def fill_memory(device: Device, share: float) -> dict[str, float]:
    """Write a share of the free memory and read it; return the bytes, the seconds, and how many values were wrong."""
    xp, begin = device.current().xp, time.perf_counter()
    n_bytes = int(share * device.free_bytes())
    piece = min(PIECE_BYTES, n_bytes) // 4
    pieces = [xp.full(piece, i + 1, np.uint32) for i in range(n_bytes // (4 * piece))]
    wrong = sum(int((values != np.uint32(i + 1)).sum()) for i, values in enumerate(pieces))
    return {"bytes": 4 * piece * len(pieces), "seconds": time.perf_counter() - begin, "wrong_values": wrong}

"""How fast this machine is at what a run does most: the operations themselves, on cells that take about a second.

A few hundred thousand cells at once would say more; a thousand tell minutes from hours.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpubench.core.types import Knn
from gpubench.engines.common.neighborhoods import neighbor_entropy
from gpubench.engines.cpu.classifiers import LogisticRegression, RandomForest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.cpu.engine import CpuEngine

CELLS, FEW, DIMS, NEIGHBORS = 4000, 1200, (16, 128), (5, 100)
QUERIED = (500, 4000), (2000, 30_000)
"""Cells whose neighbours are searched among how many others; of fewer, beginning takes longer than comparing."""

CLASSES, TREES = 10, 4


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates of the CPU engine with its threads.

    Attributes
    ----------
    search : seconds of exact search are search[0] pairs + search[1] pairs d + search[2] n k + search[3] n k d
    queries : seconds of the neighbours of other cells are queries[0] pairs + queries[1] pairs d + queries[2] rows
    silhouette : seconds of silhouettes are silhouette[0] pairs + silhouette[1] pairs d
    graph_edges_s : neighbours a second that become a graph and communities, of `graph_cells` cells
    looked_up_s : neighbours a second whose value is looked up
    logistic_flop_s : operations a second of logistic regression
    split_cells_s : cells a second that pass a level of a tree
    copied_bytes_s : bytes a second that are checked and copied
    """

    search: tuple[float, ...]
    queries: tuple[float, ...]
    silhouette: tuple[float, ...]
    graph_edges_s: float
    looked_up_s: float
    logistic_flop_s: float
    split_cells_s: float
    copied_bytes_s: float
    graph_cells: int = CELLS

    def search_s(self, pairs: float, n: int, d: int, k: int) -> float:
        """Seconds to find k neighbours of n cells by comparing so many pairs."""
        return float(np.dot(self.search, (pairs, pairs * d, n * k, n * k * d)))

    def queries_s(self, m: float, n: float, d: int) -> float:
        """Seconds to find a few neighbours of m cells among n others."""
        return float(np.dot(self.queries, (m * n, m * n * d, m)))

    def silhouette_s(self, pairs: float, d: int) -> float:
        """Seconds to sum up the distances of so many pairs."""
        return float(np.dot(self.silhouette, (pairs, pairs * d)))


UNKNOWN = Rates((1.0,) * 4, (1.0,) * 3, (1.0,) * 2, 1.0, 1.0, 1.0, 1.0, 1.0)
"""Stands in where nobody asks for seconds."""


def measure_rates(engine: CpuEngine) -> Rates:
    """Run each operation once or twice on few cells and see how long it takes."""
    rng = np.random.default_rng(0)
    codes = np.arange(CELLS, dtype=np.int32) % CLASSES
    x = {d: _cells(rng, codes, d) for d in DIMS}
    few, few_codes = x[DIMS[0]][:FEW], codes[:FEW]
    knn = engine.knn(x[DIMS[0]], 14)
    steps = 10
    logistic = LogisticRegression(engine.n_threads, max_iter=steps)
    lr_s = _seconds(lambda: logistic.fit(x[DIMS[1]], codes, CLASSES))
    flop = 4.0 * CELLS * DIMS[1] * CLASSES * max(1, logistic.n_iter)
    forest = RandomForest(0, engine.n_threads, n_estimators=TREES)
    return Rates(
        search=_search(engine, x),
        queries=_queries(engine, rng),
        silhouette=_silhouette(engine, x, codes),
        graph_edges_s=CELLS * 14 / _seconds(lambda: engine.leiden(engine.fuzzy_graph(knn))),
        looked_up_s=_looked_up(engine, rng, codes),
        logistic_flop_s=flop / lr_s,
        split_cells_s=TREES * FEW * math.log2(FEW) / _seconds(lambda: forest.fit(few, few_codes, CLASSES)),
        copied_bytes_s=_copied(engine, rng),
    )


def _cells(rng: np.random.Generator, codes: NDArray[np.int32], d: int) -> NDArray[np.float32]:
    """Labels that overlap."""
    x: NDArray[np.float32] = rng.standard_normal((len(codes), d), np.float32)
    x += 0.5 * rng.standard_normal((CLASSES, d), np.float32)[codes]
    return x


def _search(engine: CpuEngine, x: dict[int, NDArray[np.float32]]) -> tuple[float, ...]:
    pairs = CELLS**2 / 2
    rows = [(pairs, pairs * d, CELLS * k, CELLS * k * d) for d in DIMS for k in NEIGHBORS]
    return _fit(rows, [_seconds(lambda d=d, k=k: engine.knn(x[d], k)) for d in DIMS for k in NEIGHBORS])  # type: ignore[misc]


def _queries(engine: CpuEngine, rng: np.random.Generator) -> tuple[float, ...]:
    sizes = [(m, n, d) for d in DIMS for m, n in QUERIED]
    seconds = []
    for m, n, d in sizes:
        x = _cells(rng, np.zeros(m + n, np.int32), d)
        seconds.append(_seconds(lambda x=x, m=m: engine.knn_between(x[:m], x[m:], 5)))  # type: ignore[misc]
    return _fit([(m * n, m * n * d, m) for m, n, d in sizes], seconds)


def _silhouette(engine: CpuEngine, x: dict[int, NDArray[np.float32]], codes: NDArray[np.int32]) -> tuple[float, ...]:
    pairs = CELLS**2 / 2
    seconds = [_seconds(lambda d=d: engine.cluster_distances(x[d], codes)) for d in DIMS]  # type: ignore[misc]
    return _fit([(pairs, pairs * d) for d in DIMS], seconds)


def _looked_up(engine: CpuEngine, rng: np.random.Generator, codes: NDArray[np.int32]) -> float:
    k = NEIGHBORS[-1]
    knn = Knn(rng.integers(0, CELLS, (CELLS, k), np.int32), np.zeros((CELLS, k), np.float32))
    return CELLS * k / _seconds(lambda: engine.map_neighbors(knn, neighbor_entropy, codes, CLASSES))


def _copied(engine: CpuEngine, rng: np.random.Generator) -> float:
    values = rng.standard_normal((1 << 14, 128))
    return values.size * 12 / _seconds(lambda: engine.release(engine.put(values)))


def _fit(rows: Sequence[tuple[float, ...]], seconds: Sequence[float]) -> tuple[float, ...]:
    """Coefficients of at least 0 that explain the seconds best, each measurement weighed alike."""
    from scipy.optimize import nnls

    scaled = np.array(rows) / np.array(seconds)[:, None]
    return tuple(float(c) for c in nnls(scaled, np.ones(len(rows)))[0])


def _seconds(call: Callable[[], object]) -> float:
    """The shorter of two calls: the first may load or page in what later ones have."""
    both = []
    for _ in range(2):
        begin = time.perf_counter()
        call()
        both.append(time.perf_counter() - begin)
    return min(both)

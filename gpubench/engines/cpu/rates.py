"""Measure the rates of the CPU engine: seconds per unit of each kind of work.

A few thousand cells are enough to distinguish minutes from hours; more would take longer than many runs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.timeline import Work
from gpubench.core.types import Knn
from gpubench.engines.common import flop_counts
from gpubench.engines.common.neighborhoods import neighbor_entropy
from gpubench.engines.cpu.classifiers import CpuLogisticRegression
from gpubench.engines.cpu.forest import RandomForest

if TYPE_CHECKING:
    from numpy.typing import NDArray

CELLS, FOREST_CELLS, DIMS, NEIGHBORS = 4000, 1200, (16, 128), (5, 100)
QUERIED = (500, 4000), (2000, 30_000)
"""Numbers of cells and queries for measuring rates; with fewer queries the start would dominate."""

CLASSES, TREES, GENES = 10, 20, 100

FEATURES = {
    "search": (0, 1, 2),
    "queries": (0, 1, 2),
    "silhouette": (0, 2),
    "leiden": (2,),
    "look_up": (2,),
    "rank_sums": (2,),
    "lr": (0,),
    "rf": (2,),
    "copy": (1,),
}
"""Kind of work -> the fields of `Work` that explain its seconds, at most as many as there are measurements."""


def measure_rates(engine: Any) -> dict[str, list[float]]:
    """Time each operation of a `CpuEngine` twice on few cells, and fit the rates at which seconds grow with work."""
    from scipy.sparse import csr_array

    rng = np.random.default_rng(0)
    codes = np.arange(CELLS, dtype=np.int32) % CLASSES
    x = {d: _draw_cells(rng, codes, d) for d in DIMS}
    queried = {(m, n, d): _draw_cells(rng, np.zeros(m + n, np.int32), d) for d in DIMS for m, n in QUERIED}
    knn, k = engine.knn(x[DIMS[0]], 14), NEIGHBORS[-1]
    random_knn = Knn(rng.integers(0, CELLS, (CELLS, k), np.int32), np.zeros((CELLS, k), np.float32))
    values = rng.standard_normal((1 << 14, 128))
    expression = csr_array(_draw_expression(rng))
    train = partial(CpuLogisticRegression(engine.n_threads, max_iter=10).fit, x[DIMS[1]], codes, CLASSES)
    grow = partial(
        RandomForest(0, engine.n_threads, n_estimators=TREES).fit,
        x[DIMS[0]][:FOREST_CELLS],
        codes[:FOREST_CELLS],
        CLASSES,
    )
    runs: dict[str, list[tuple[Work, Callable[[], Any]]]] = {
        "search": [
            (flop_counts.search(CELLS, CELLS, d, k, symmetric=True), partial(engine.knn, x[d], k))
            for d in DIMS
            for k in NEIGHBORS
        ],
        "queries": [
            (flop_counts.search(m, n, d, 5, symmetric=False), partial(engine.knn_between, both[:m], both[m:], 5))
            for (m, n, d), both in queried.items()
        ],
        "silhouette": [
            (flop_counts.silhouettes([(CELLS, CLASSES)], d), partial(engine.cluster_distances, x[d], codes))
            for d in DIMS
        ],
        "leiden": [(Work(0, 0, CELLS * 14), lambda: engine.leiden(engine.fuzzy_graph(knn)))],
        "look_up": [
            (
                flop_counts.look_up((CELLS, k), 4),
                partial(engine.map_neighbors, random_knn, neighbor_entropy, codes, CLASSES, width=CLASSES),
            )
        ],
        "rank_sums": [
            (
                flop_counts.rank_sums(expression.nnz, 4, CLASSES, GENES),
                partial(engine.rank_sums, expression, codes, CLASSES, 0),
            )
        ],
        "lr": [(flop_counts.gradients(CELLS, DIMS[1], CLASSES, max(1, train().n_iter)), train)],
        "rf": [(Work(0, 0, tree_levels(TREES, FOREST_CELLS)), grow)],
        "copy": [(flop_counts.put(1 << 14, 128, 8, copied=True), lambda: engine.release(engine.put(values)))],
    }
    return {
        kind: _fit([work for work, _ in calls], [_time(call) for _, call in calls], FEATURES[kind])
        for kind, calls in runs.items()
    }


def tree_levels(n_trees: int, n: int) -> float:
    """Return the work of growing trees on n cells: the number of cells summed over the levels of all trees."""
    return n_trees * n * math.log2(max(n, 2))


def _draw_expression(rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw a random matrix of log expression in which one value in four is nonzero."""
    is_expressed = rng.random((CELLS, GENES)) < 0.25
    return np.where(is_expressed, rng.lognormal(size=(CELLS, GENES)), 0).astype(np.float32)


def _draw_cells(rng: np.random.Generator, codes: NDArray[np.int32], d: int) -> NDArray[np.float32]:
    """Draw random cells, (n, d), whose labels overlap: one shifted normal distribution for each label."""
    x: NDArray[np.float32] = rng.standard_normal((len(codes), d), np.float32)
    x += 0.5 * rng.standard_normal((CLASSES, d), np.float32)[codes]
    return x


def _fit(work: Sequence[Work], seconds: Sequence[float], features: Sequence[int]) -> list[float]:
    """Fit nonnegative rates to the work and seconds of several timings by least squares of relative errors."""
    from scipy.optimize import nnls

    rates = np.zeros(len(Work._fields))
    chosen = np.array(work, np.float64)[:, features]
    rates[list(features)] = nnls(chosen / np.array(seconds)[:, None], np.ones(len(work)))[0]
    return rates.tolist()


def _time(call: Callable[[], Any]) -> float:
    """Return the shorter duration of two calls, because the first may include loading of code and data."""
    seconds = []
    for _ in range(2):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)

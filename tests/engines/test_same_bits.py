"""The same seed gives the same bits: run twice, and with another number of threads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from cells import Cells, make_cells
from engines.test_integration import on_host
from scipy.sparse import csr_matrix

from gpubench.engines.base import Engine
from gpubench.engines.common.kmeans import kmeans
from gpubench.engines.common.neighborhoods import (
    neighbor_chi_square,
    neighbor_entropy,
    neighbor_simpson,
    neighbor_value_distance,
)
from gpubench.metrics.kbet import diffusion_map
from gpubench.metrics.silhouette import silhouette_widths

# Several blocks for each of three threads, and a last one that is not full.
N = 3_001


@pytest.fixture(scope="module")
def cells() -> Cells:
    return make_cells(N, 20, n_labels=12, n_batches=4, seed=5)


def silhouette(engine: Engine, cells: Cells) -> list[np.ndarray]:
    x = engine.put(cells.x)
    return [silhouette_widths(engine, x, cells.label), silhouette_widths(engine, x, cells.batch, cells.label)]


def silhouette_cosine(engine: Engine, cells: Cells) -> list[np.ndarray]:
    return [silhouette_widths(engine, engine.put(cells.x), cells.batch, cells.label, "cosine")]


def knn(engine: Engine, cells: Cells) -> list[np.ndarray]:
    x = engine.put(cells.x)
    found = engine.knn(x, 30), engine.knn_between(x[:701], x, 30)
    return [engine.to_host(a) for knn in found for a in (knn.indices, knn.distances)]


def neighborhoods(engine: Engine, cells: Cells) -> list[np.ndarray]:
    knn = engine.knn(engine.put(cells.x), 30)
    counts = np.arange(N) % 30 + 1
    return [
        engine.map_neighbors(knn, neighbor_entropy, cells.batch, 4),
        engine.map_neighbors(knn, neighbor_value_distance, cells.time, counts),
    ]


def clusters(engine: Engine, cells: Cells) -> list[np.ndarray]:
    graph = engine.fuzzy_graph(engine.knn(engine.put(cells.x), 14))
    return [engine.to_host(graph.weights), engine.leiden(graph)]


def tables(engine: Engine, cells: Cells) -> list[np.ndarray]:
    x = engine.put(cells.x)
    tests = engine.rank_sums(csr_matrix(np.maximum(cells.x, 0)), cells.label, 12, 0)
    ranks = engine.to_host(engine.rank(engine.xp.ascontiguousarray(x.T)))
    distances = [engine.mean_distances(np.maximum(cells.x, 0), cells.label, 12, other) for other in (None, 3)]
    return [engine.group_means(x, cells.label, 12), ranks, tests.u, tests.ties, *distances]


def integration(engine: Engine, cells: Cells) -> list[np.ndarray]:
    x = engine.put(cells.x)
    knn = engine.knn(x, 30)
    graph = engine.fuzzy_graph(knn)
    return [
        *engine.cluster_distances(x, np.zeros_like(cells.label), cells.label),
        engine.map_neighbors(knn, neighbor_simpson, cells.batch, 4, 10.0),
        engine.map_neighbors(knn, neighbor_chi_square, cells.batch, np.full(4, 0.25)),
        diffusion_map(on_host(engine, graph), np.arange(N), 20, engine.seed),
        engine.run(kmeans, x, 12),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("compute", [silhouette, silhouette_cosine, knn, neighborhoods, clusters, tables, integration])
def test_same_bits(
    start_engine: Callable[..., Engine], cells: Cells, compute: Callable[[Engine, Cells], list[np.ndarray]]
) -> None:
    one_thread = [a.tobytes() for a in compute(start_engine(threads=1), cells)]
    for threads in (1, 2, 3):
        again = [a.tobytes() for a in compute(start_engine(threads=threads), cells)]
        assert again == one_thread, f"other bits with {threads} threads"

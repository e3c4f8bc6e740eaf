"""Counted work: formulas against plain counting of pairs, and what each operation adds to its stage."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubench.core.types import Knn
from gpubench.engines.base import Engine
from gpubench.engines.common import flop_counts
from gpubench.engines.common.kmeans import kmeans
from gpubench.engines.common.neighborhoods import (
    neighbor_chi_square,
    neighbor_entropy,
    neighbor_simpson,
    neighbor_value_distance,
)
from gpubench.engines.common.segments import sort_cells

N, D, K = 60, 3, 5


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=30), st.integers(1, 4))
def test_silhouettes_count_every_pair_of_a_group(cells: list[tuple[int, int]], d: int) -> None:
    clusters, groups = np.array(cells, np.int32).T
    segments = sort_cells(clusters, groups)
    n = len(cells)
    pairs = sum(groups[i] == groups[j] for i, j in product(range(n), repeat=2) if i < j)
    with_clusters = sum(len(set(clusters[groups == groups[i]])) for i in range(n))
    assert flop_counts.silhouettes(segments.group_sizes, d) == (2 * pairs * d, 4 * n * d + 16 * n, pairs)
    assert flop_counts.closed_silhouettes(segments.group_sizes, d).flop == 2 * with_clusters * d


def test_search_counts_every_pair() -> None:
    assert flop_counts.search(7, 5, D, K, symmetric=False) == (2 * 7 * 5 * D, 4 * (7 + 5) * D + 8 * 7 * K, 7 * 5)
    assert flop_counts.search(5, 5, D, 2, symmetric=True).flop == 2 * sum(1 for i in range(5) for j in range(i)) * D
    assert flop_counts.leaves([3, 5], D).flop == 2 * (3 + 10) * D
    assert flop_counts.sampled([(2, 10), (3, 10)], 50, D).flop == 2 * 50 * D
    assert flop_counts.assign(10, D, 4).flop == 2 * 40 * D
    assert flop_counts.gradients(10, D, 4, 3)[:2] == (2 * 2 * 10 * D * 4 * 3, 4 * 10 * D * 3), (
        "logits and their gradient"
    )


def in_stage(engine: Engine, operation: str, *args: object, **kwargs: object) -> tuple[int, int]:
    """What one operation counts."""
    with engine.timeline.stage(operation) as span:
        getattr(engine, operation)(*args, **kwargs)
    return span.flop, span.moved_bytes


@pytest.fixture
def cells() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((N, D)).astype(np.float32), np.arange(N, dtype=np.int32) % 4


def test_operations_count_their_work(engine: Engine, cells: tuple[np.ndarray, np.ndarray]) -> None:
    x, codes = cells
    on_device = engine.put(x)
    flop, moved = in_stage(engine, "knn", on_device, K)
    assert flop in (N * (N - 1) * D, 2 * N * N * D), "every pair once, or both ways"
    assert moved >= 4 * N * D + 8 * N * K
    assert in_stage(engine, "cluster_distances", on_device, codes)[0] == N * (N - 1) * D
    assert in_stage(engine, "cluster_distances", on_device, codes, codes // 2)[0] == N * (N // 2 - 1) * D
    assert in_stage(engine, "cluster_distances", on_device, np.zeros_like(codes), codes)[0] == N * (N // 4 - 1) * D
    assert in_stage(engine, "cluster_distances", on_device, codes, metric="cosine")[0] == 2 * N * 4 * D
    assert in_stage(engine, "run", kmeans, on_device, 3)[0] % (2 * N * 3 * D) == 0
    knn: Knn = engine.knn(on_device, K)
    for operation, args, value_bytes in (
        ("map_neighbors", (neighbor_entropy, codes, 4), 4),
        (
            "map_neighbors",
            (
                neighbor_value_distance,
                codes.astype(np.float64),
            ),
            8,
        ),
        ("map_neighbors", (neighbor_simpson, codes, 4, 2.0), 8),
        ("map_neighbors", (neighbor_chi_square, codes, np.full(4, 0.25)), 4),
        ("fuzzy_graph", (), 8),
    ):
        assert in_stage(engine, operation, knn, *args) == (0, N * K * (4 + value_bytes) + 8 * N)


def test_training_counts_its_evaluations(engine: Engine, cells: tuple[np.ndarray, np.ndarray]) -> None:
    if engine.name == "dask":
        pytest.skip("what a classifier does on its worker is not counted")
    x, codes = cells
    classifier = engine.classifier("lr")
    with engine.timeline.stage("lr") as span:
        classifier.fit(engine.put(x), codes, 4)
    flop, rest = divmod(span.flop, 4 * N * D * 4)
    assert rest == 0
    assert flop > classifier.n_iter  # type: ignore[attr-defined]


def test_put_in_place_counts_one_read(engine: Engine) -> None:
    if engine.name != "cpu":
        pytest.skip("on a GPU the bytes put are what is counted")
    x = np.ones((N, D), np.float32)
    assert in_stage(engine, "put", x) == (0, 4 * N * D)
    assert in_stage(engine, "put", x.astype(np.float64)) == (0, (8 + 4) * N * D)


def test_sampled_cluster_distances_count_the_sample(engine: Engine, cells: tuple[np.ndarray, np.ndarray]) -> None:
    if engine.name != "cpu":
        pytest.skip("a GPU computes the widths of all cells")
    x, codes = cells
    some = np.array([1, 7, 30])
    assert in_stage(engine, "cluster_distances", engine.put(x), codes, cells=some)[0] == 2 * 3 * N * D

"""`Engine.neighbor_entropy` and `Engine.neighbor_value_distance` against the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from cells import uneven_codes
from numpy.testing import assert_allclose, assert_array_equal

from gpubench.core.types import Knn
from gpubench.engines.base import Engine
from gpubench.engines.common.neighborhoods import neighbor_entropy, neighbor_value_distance


def random_knn(engine: Engine, n: int, k: int, seed: int = 0) -> Knn:
    """Neighbours drawn at random: nothing here depends on their being near."""
    rng = np.random.default_rng(seed)
    indices = np.array([rng.choice(np.delete(np.arange(n), i), k, replace=False) for i in range(n)])
    distances = np.sort(rng.random((n, k)), axis=1)
    return Knn(engine.xp.asarray(indices.astype(np.int32)), engine.xp.asarray(distances.astype(np.float32)))


@pytest.mark.parametrize("k", [1, 2, 14, 199])
@pytest.mark.parametrize("n_codes", [1, 2, 9, 65, 400])
def test_neighbor_entropy(engine: Engine, k: int, n_codes: int, rng: np.random.Generator) -> None:
    knn = random_knn(engine, 400, k)
    codes = uneven_codes(400, n_codes, rng) if n_codes < 65 else rng.permutation(np.arange(400) % n_codes)
    got = engine.map_neighbors(knn, neighbor_entropy, codes.astype(np.int32), n_codes)
    assert got.dtype == np.float64
    assert_allclose(got, reference.neighbor_entropy(engine.to_host(knn.indices), codes), rtol=1e-12, atol=1e-12)


def test_neighbor_entropy_of_some_cells(engine: Engine, rng: np.random.Generator) -> None:
    knn, some = random_knn(engine, 400, 20), rng.permutation(400)[:70]
    codes = uneven_codes(400, 9, rng).astype(np.int32)
    rows = engine.xp.asarray(some)
    sampled = Knn(engine.xp.ascontiguousarray(knn.indices[rows]), engine.xp.ascontiguousarray(knn.distances[rows]))
    got = engine.map_neighbors(sampled, neighbor_entropy, codes, 9, cells=some)
    assert_array_equal(got, engine.map_neighbors(knn, neighbor_entropy, codes, 9)[some])


def test_entropy_is_exactly_zero_if_all_codes_are_equal(engine: Engine) -> None:
    knn = random_knn(engine, 50, 7)
    assert_array_equal(engine.map_neighbors(knn, neighbor_entropy, np.full(50, 2, np.int32), 3), np.zeros(50))


@pytest.mark.parametrize("n", [2, 3, 63, 65, 257, 1025])
def test_sizes_about_block_edges(engine: Engine, n: int, rng: np.random.Generator) -> None:
    knn = random_knn(engine, n, min(n - 1, 5))
    codes, values = rng.integers(0, 3, n).astype(np.int32), rng.normal(size=n)
    indices = engine.to_host(knn.indices)
    assert_allclose(
        engine.map_neighbors(knn, neighbor_entropy, codes, 3), reference.neighbor_entropy(indices, codes), atol=1e-12
    )
    assert_allclose(
        engine.map_neighbors(knn, neighbor_value_distance, values),
        reference.neighbor_value_distance(indices, values),
        rtol=1e-12,
    )


def test_head_of_a_larger_graph(engine: Engine, rng: np.random.Generator) -> None:
    # A head is a view whose rows are not next to each other in memory.
    knn = random_knn(engine, 200, 30)
    head, values, codes = knn.head(4), rng.normal(size=200), rng.integers(0, 3, 200).astype(np.int32)
    indices = engine.to_host(knn.indices)[:, :4]
    assert_allclose(
        engine.map_neighbors(head, neighbor_entropy, codes, 3), reference.neighbor_entropy(indices, codes), atol=1e-12
    )
    assert_allclose(
        engine.map_neighbors(head, neighbor_value_distance, values),
        reference.neighbor_value_distance(indices, values),
        rtol=1e-12,
    )


@pytest.mark.parametrize("offset", [0.0, 1e9])
def test_neighbor_value_distance_with_k_per_cell(engine: Engine, offset: float, rng: np.random.Generator) -> None:
    knn = random_knn(engine, 500, 50)
    values = rng.integers(0, 8, 500) * 0.5 + offset
    counts = rng.integers(1, 51, 500)
    got = engine.map_neighbors(knn, neighbor_value_distance, values, counts)
    assert got.dtype == np.float64
    exact = reference.neighbor_value_distance(engine.to_host(knn.indices), values, counts)
    assert_allclose(got, exact, rtol=1e-12, atol=1e-12)

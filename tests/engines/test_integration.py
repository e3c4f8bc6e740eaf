"""The operations behind the integration metrics, against the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import reference_integration as integration
from cells import Cells, make_cells, uneven_codes
from engines.test_neighborhoods import random_knn
from numpy.testing import assert_allclose, assert_array_equal

from gpubench.core.types import Graph, Knn
from gpubench.engines.base import Distance, Engine
from gpubench.engines.common.kmeans import kmeans
from gpubench.engines.common.neighborhoods import neighbor_chi_square, neighbor_simpson
from gpubench.metrics.graph_connectivity import strong_components
from gpubench.metrics.kbet import diffusion_map


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two columns of codes group the cells alike."""
    pairs = len(np.unique(np.stack([a, b]), axis=1).T)
    return pairs == len(np.unique(a)) == len(np.unique(b))


def dense(engine: Engine, graph: Graph) -> np.ndarray:
    indptr = engine.to_host(graph.indptr)
    n = len(indptr) - 1
    w = np.zeros((n, n))
    w[np.repeat(np.arange(n), np.diff(indptr)), engine.to_host(graph.indices)] = engine.to_host(graph.weights)
    return w


def components_of(engine: Engine, knn: Knn, codes: np.ndarray) -> np.ndarray:
    """Strong components of a neighbour graph."""
    return strong_components(np.arange(len(codes) + 1) * knn.k, engine.to_host(knn.indices).ravel(), codes)


def on_host(engine: Engine, graph: Graph) -> Graph:
    return Graph(*map(engine.to_host, (graph.indptr, graph.indices, graph.weights)))


def mean_distances(engine: Engine, x: np.ndarray, clusters: np.ndarray, metric: Distance = "euclidean") -> np.ndarray:
    """Mean distances to the own cluster; every cluster is a group, so no others are compared."""
    return engine.cluster_distances(engine.put(x), np.zeros_like(clusters), clusters, metric)[0]


class TestMeanDistances:
    @pytest.mark.parametrize("metric", ["euclidean", "cosine"])
    @pytest.mark.parametrize("n", [2, 3, 65, 257])
    def test_oracle(self, engine: Engine, n: int, metric: Distance) -> None:
        cells = make_cells(n, 7, n_labels=min(n, 4), n_batches=1, seed=n)
        got = mean_distances(engine, cells.x, cells.label, metric)
        exact = integration.mean_distances(cells.x, cells.label, metric)
        assert got.dtype == np.float64
        assert_allclose(got, exact, rtol=1e-5, atol=1e-7)

    def test_a_cell_alone_in_its_cluster_has_nan(self, engine: Engine) -> None:
        got = mean_distances(engine, np.array([[0.0], [3.0], [5.0]]), np.array([0, 1, 1], np.int32))
        assert_array_equal(got, [np.nan, 2, 2])


class TestSimpson:
    @pytest.mark.slow
    @pytest.mark.parametrize("k", [2, 14, 89])
    @pytest.mark.parametrize("n_codes", [1, 3, 65])
    @pytest.mark.parametrize("perplexity", [1, 4.5, 30])
    def test_oracle(self, engine: Engine, k: int, n_codes: int, perplexity: float, rng: np.random.Generator) -> None:
        knn, codes = random_knn(engine, 120, k), uneven_codes(120, n_codes, rng)
        got = engine.map_neighbors(knn, neighbor_simpson, codes, n_codes, perplexity)
        exact = integration.neighbor_simpson(*map(engine.to_host, (knn.indices, knn.distances)), codes, perplexity)
        assert got.dtype == np.float64
        assert_allclose(got, exact, atol=1e-8)

    @pytest.mark.parametrize("scale", [1e-30, 1e30])
    def test_any_unit_of_distance(self, engine: Engine, scale: float) -> None:
        knn = random_knn(engine, 60, 20)
        codes = np.arange(60, dtype=np.int32) % 3
        scaled = Knn(knn.indices, knn.distances * np.float32(scale))
        expected = engine.map_neighbors(knn, neighbor_simpson, codes, 3, 6.0)
        assert_allclose(engine.map_neighbors(scaled, neighbor_simpson, codes, 3, 6.0), expected, rtol=1e-4)

    @pytest.mark.parametrize(
        ("distances", "perplexity", "expected"),
        [
            ([0, 0, 0, 5], 2, 5 / 9),  # three copies are more than two: each 1/3, of codes 0, 0, 1
            ([1, 2, 3, 4], 4, 1 / 2),  # no more than four neighbours: each 1/4
            ([1, 2, 3, 4], 9, 1 / 2),
            ([1, 2, 2, 2], 1, 1),  # all the weight on the nearest
        ],
    )
    def test_limits(self, engine: Engine, distances: list[float], perplexity: float, expected: float) -> None:
        indices = np.array([[j for j in range(5) if j != i] for i in range(5)], np.int32)
        every = np.tile(np.array(distances, np.float32), (5, 1))
        knn = Knn(engine.xp.asarray(indices), engine.xp.asarray(every))
        codes = np.array([9, 0, 0, 1, 1], np.int32)
        assert_allclose(engine.map_neighbors(knn, neighbor_simpson, codes, 10, perplexity)[0], expected)


class TestChiSquare:
    @pytest.mark.parametrize(("n", "k"), [(2, 1), (65, 10), (400, 70)])
    @pytest.mark.parametrize("n_codes", [1, 2, 40])
    def test_oracle(self, engine: Engine, n: int, k: int, n_codes: int, rng: np.random.Generator) -> None:
        knn, codes = random_knn(engine, n, k), uneven_codes(n, min(n, n_codes), rng)
        shares = np.bincount(codes) / n
        got = engine.map_neighbors(knn, neighbor_chi_square, codes, shares)
        assert_allclose(got, integration.neighbor_chi_square(engine.to_host(knn.indices), codes, shares), atol=1e-10)

    def test_head_of_a_larger_graph(self, engine: Engine, rng: np.random.Generator) -> None:
        head, codes = random_knn(engine, 100, 30).head(4), uneven_codes(100, 3, rng)
        shares = np.bincount(codes) / 100
        exact = integration.neighbor_chi_square(engine.to_host(head.indices), codes, shares)
        assert_allclose(engine.map_neighbors(head, neighbor_chi_square, codes, shares), exact, atol=1e-10)


class TestComponents:
    @pytest.mark.parametrize("k", [1, 2, 4])
    def test_strong_components(self, engine: Engine, k: int, rng: np.random.Generator) -> None:
        x = rng.normal(size=(150, 2)).astype(np.float32)
        knn, codes = engine.knn(engine.put(x), k), uneven_codes(150, 3, rng)
        exact = integration.strong_components(integration.edges_within(engine.to_host(knn.indices), codes))
        got = components_of(engine, knn, codes)
        assert same_partition(got, exact)
        assert 3 < len(np.unique(exact)) < 150

    def test_cells_connected_in_one_direction_are_separate_components(self, engine: Engine) -> None:
        indices = engine.xp.asarray(np.array([[1], [0], [1]], np.int32))
        knn = Knn(indices, engine.xp.asarray(np.zeros((3, 1), np.float32)))
        got = components_of(engine, knn, np.zeros(3, np.int32))
        assert got[0] == got[1] != got[2]

    def test_of_a_graph(self, engine: Engine, rng: np.random.Generator) -> None:
        x = rng.normal(size=(90, 2)).astype(np.float32)
        x[40:] += 100
        graph = engine.fuzzy_graph(engine.knn(engine.put(x), 5))
        codes = uneven_codes(90, 2, rng)
        edges = (dense(engine, graph) > 0) & (codes[:, None] == codes)
        there = on_host(engine, graph)
        got = strong_components(there.indptr, there.indices, codes)
        assert same_partition(got, integration.strong_components(edges))


class TestDiffusionMap:
    @pytest.mark.slow
    @pytest.mark.parametrize(("n", "n_components"), [(60, 10), (60, 100), (500, 20)])
    def test_distances_are_those_of_the_oracle(self, engine: Engine, n: int, n_components: int) -> None:
        cells = make_cells(n + 40, 5, n_labels=2, duplicates=0, seed=6)
        graph = engine.fuzzy_graph(engine.knn(engine.put(cells.x), 20))
        chosen = np.sort(np.random.default_rng(0).permutation(n + 40)[:n])
        got = diffusion_map(on_host(engine, graph), chosen, n_components, 42)
        exact = integration.diffusion_map(dense(engine, graph)[np.ix_(chosen, chosen)], n_components)
        assert got.shape == exact.shape == (n, min(n_components, n - 1))
        assert got.dtype == np.float32
        # components have no sign of their own, distances do
        expected = reference.distances(exact, exact)
        assert_allclose(reference.distances(got, got), expected, atol=1e-5 * expected.max())

    def test_vectors_of_separate_components_are_not_rescaled(self, engine: Engine, rng: np.random.Generator) -> None:
        x = rng.normal(size=(60, 2)).astype(np.float32)
        x[30:] += 1000
        graph = engine.fuzzy_graph(engine.knn(engine.put(x), 8))
        got = diffusion_map(on_host(engine, graph), np.arange(60), 40, 42)
        assert np.isfinite(got).all()
        lengths = np.linalg.norm(got, axis=0)
        assert (np.abs(lengths - 1) < 1e-6).sum() == 2


class TestKMeans:
    def test_distant_groups_are_found(self, engine: Engine, small_cells: Cells) -> None:
        x = small_cells.x + 50 * small_cells.label[:, None]
        assert same_partition(engine.run(kmeans, engine.put(x), 6), small_cells.label)

    @pytest.mark.parametrize(("scale", "offset"), [(1, 0), (1e-25, 0), (1e30, 0), (1, 1e5)])
    def test_no_cell_is_nearer_to_another_centre(
        self, engine: Engine, small_cells: Cells, scale: float, offset: float
    ) -> None:
        x = (small_cells.x.astype(np.float64) * scale + offset).astype(np.float32)
        codes = engine.run(kmeans, engine.put(x), 7)
        assert codes.dtype == np.int32
        assert set(codes.tolist()) == set(range(7))
        exact = x.astype(np.float64)
        centres = np.array([exact[codes == c].mean(axis=0) for c in range(7)])
        d = reference.distances(exact, centres)
        assert (d[np.arange(400), codes] <= d.min(axis=1) * (1 + 1e-4)).all()

    def test_fewer_distinct_cells_than_clusters_leave_clusters_empty(self, engine: Engine) -> None:
        x = np.repeat([[0.0, 1.0], [4.0, 0.0]], 5, axis=0)
        codes = engine.run(kmeans, engine.put(x), 4)
        assert same_partition(codes, np.repeat([0, 1], 5))

    def test_one_cluster_and_as_many_as_cells(self, engine: Engine) -> None:
        x = engine.put(np.arange(5.0)[:, None])
        assert_array_equal(engine.run(kmeans, x, 1), np.zeros(5))
        assert len(np.unique(engine.run(kmeans, x, 5))) == 5

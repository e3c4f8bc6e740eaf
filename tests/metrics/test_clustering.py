"""adjusted_rand_index, normalized_mutual_info and leiden_clusters: real cells, values by hand, edge cases."""

from __future__ import annotations

from fractions import Fraction
from math import comb
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import reference
from cells import Cells, read_embedding
from numpy.testing import assert_array_equal

from gpubench.core.errors import InputError
from gpubench.engines.base import Engine
from gpubench.metrics import adjusted_rand_index, leiden_clusters, normalized_mutual_info
from gpubench.metrics._metric import contingency

BOTH = pytest.mark.parametrize("metric", [adjusted_rand_index, normalized_mutual_info])


@pytest.mark.parametrize(
    ("file", "ari", "nmi"),
    [
        ("pbmc3k", 0.649988, 0.771468),
        ("celllines_5batch", 0.595334, 0.797596),
        ("worm_embryo", 0.564666, 0.746011),
    ],
)
def test_agreement_on_real_cells_is_published(
    engine: Engine, shared_data: Path, file: str, ari: float, nmi: float
) -> None:
    x, columns = read_embedding(shared_data / f"{file}.h5ad", "cell_type")
    label = columns["cell_type"]
    clusters = leiden_clusters(x, engine=engine)
    found = adjusted_rand_index(label, clusters, engine=engine), normalized_mutual_info(label, clusters, engine=engine)
    assert found[0] == pytest.approx(reference.adjusted_rand_index(label, clusters.codes), abs=1e-12)
    assert found[1] == pytest.approx(reference.normalized_mutual_info(label, clusters.codes), abs=1e-12)
    # Two programs that run Leiden on the same graph split it a little differently.
    assert found[0] == pytest.approx(ari, abs=0.02)
    assert found[1] == pytest.approx(nmi, abs=0.02)


def test_clusters_of_real_cells_agree_with_labels(engine: Engine, shared_data: Path) -> None:
    x, columns = read_embedding(shared_data / "celllines_5batch.h5ad", "cell_type")
    clusters = leiden_clusters(x, engine=engine)
    weights = reference.fuzzy_graph(*reference.knn(x, 14))
    label = np.unique(columns["cell_type"], return_inverse=True)[1]
    assert reference.modularity(weights, clusters.codes) > reference.modularity(weights, label)


def test_clusters_are_named_by_size(engine: Engine, small_cells: Cells) -> None:
    clusters = leiden_clusters(small_cells.x, engine=engine)
    assert clusters.names == tuple(map(str, range(clusters.n_classes)))
    sizes = np.bincount(clusters.codes)
    assert (np.diff(sizes) <= 0).all()
    assert clusters.n_classes > 1


def test_n_neighbors_count_the_cell_itself(engine: Engine) -> None:
    # Three pairs far from each other: with one other neighbour each, the graph is three edges.
    x = np.array([[0.0], [1], [100], [101], [300], [301]])
    clusters = leiden_clusters(x, n_neighbors=2, engine=engine)
    assert_array_equal(clusters.codes[::2], clusters.codes[1::2])
    assert clusters.n_classes == 3


def test_n_neighbors_are_cut_to_the_number_of_cells(engine: Engine) -> None:
    x = np.array([[0.0], [1], [100], [101]])
    assert_array_equal(
        leiden_clusters(x, n_neighbors=1000, engine=engine).codes,
        leiden_clusters(x, n_neighbors=4, engine=engine).codes,
    )
    assert len(leiden_clusters(x[:2], engine=engine)) == 2


def test_resolution_and_iterations_reach_leiden(engine: Engine) -> None:
    x = np.random.default_rng(0).normal(size=(600, 3))  # no structure: both change the clusters
    graph = engine.fuzzy_graph(engine.knn(engine.put(x), 14))
    for options in ({"resolution": 3.0}, {"n_iterations": 1}, {"resolution": 0.5, "n_iterations": 5}):
        assert_array_equal(leiden_clusters(x, **options, engine=engine).codes, engine.leiden(graph, **options))
        assert (engine.leiden(graph, **options) != engine.leiden(graph)).any()


@pytest.mark.parametrize("n_neighbors", [1, 0, -3])
def test_n_neighbors_below_two_raises(engine: Engine, small_cells: Cells, n_neighbors: int) -> None:
    with pytest.raises(InputError, match=f"n_neighbors={n_neighbors}"):
        leiden_clusters(small_cells.x, n_neighbors=n_neighbors, engine=engine)


def test_clusters_of_one_cell_raises(engine: Engine) -> None:
    with pytest.raises(InputError, match="1 cell"):
        leiden_clusters([[1.0, 2.0]], engine=engine)


@BOTH
def test_agreement_of_equal_clusterings_is_one(engine: Engine, metric, small_cells: Cells) -> None:
    names = np.array(["f", "e", "d", "c", "b", "a"])
    assert metric(small_cells.label, names[small_cells.label], engine=engine) == 1
    assert metric([5], ["x"], engine=engine) == 1
    assert metric(list("aaaa"), list("bbbb"), engine=engine) == 1
    assert metric(list("abcd"), [1, 2, 3, 4], engine=engine) == 1


@BOTH
@pytest.mark.parametrize("seed", range(40))
def test_rounding_does_not_exceed_one(engine: Engine, metric, seed: int) -> None:
    # Sums over the classes come in another order than over the clusters.
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 30, 50)
    assert 1 - 1e-12 <= metric(label, rng.permutation(30)[label], engine=engine) <= 1


@pytest.mark.parametrize("n_classes", range(2, 20))
def test_rounding_does_not_fall_below_zero(engine: Engine, n_classes: int) -> None:
    # Every pair of codes once: independent, and the entropies cancel but for rounding.
    true, pred = np.divmod(np.arange(n_classes * 7), 7)
    assert 0 <= normalized_mutual_info(true, pred, engine=engine) < 1e-12


@BOTH
def test_agreement_of_one_cluster_is_zero(engine: Engine, metric, small_cells: Cells) -> None:
    assert metric(small_cells.label, np.zeros(small_cells.n), engine=engine) == 0
    assert metric(np.zeros(small_cells.n), small_cells.label, engine=engine) == 0


def test_agreement_equals_values_by_hand(engine: Engine) -> None:
    # Hubert & Arabie's table [[2, 1], [0, 3]]: 4 pairs together in both, 6 and 7 in each, 15 in all.
    a, b = [0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 1]
    assert adjusted_rand_index(a, b, engine=engine) == pytest.approx((4 - 6 * 7 / 15) / ((6 + 7) / 2 - 6 * 7 / 15))
    mutual = (2 * np.log(2 * 6 / (3 * 2)) + np.log(6 / (3 * 4)) + 3 * np.log(3 * 6 / (3 * 4))) / 6
    entropies = np.log(2) - (2 * np.log(2 / 6) + 4 * np.log(4 / 6)) / 6
    assert normalized_mutual_info(a, b, engine=engine) == pytest.approx(2 * mutual / entropies)


def test_ari_of_opposite_clusterings_is_negative(engine: Engine) -> None:
    assert adjusted_rand_index([0, 0, 1, 1], [0, 1, 0, 1], engine=engine) == pytest.approx(-0.5)


def test_pair_counts_beyond_64_bits_are_exact(engine: Engine) -> None:
    # 300,000 cells have 4.5e10 pairs, whose square passes 2^63.
    n = 300_000
    a, b = np.arange(n) % 2, np.arange(n) % 5 % 2
    table = [int(((a == i) & (b == j)).sum()) for i in (0, 1) for j in (0, 1)]
    together = sum(comb(c, 2) for c in table)
    rows = comb(table[0] + table[1], 2) + comb(table[2] + table[3], 2)
    columns = comb(table[0] + table[2], 2) + comb(table[1] + table[3], 2)
    chance = Fraction(rows * columns, comb(n, 2))
    exact = float((together - chance) / (Fraction(rows + columns, 2) - chance))
    assert adjusted_rand_index(a, b, engine=engine) == pytest.approx(exact, rel=1e-9)


@BOTH
def test_empty_categories_are_ignored(engine: Engine, metric, small_cells: Cells) -> None:
    c = small_cells
    label = pd.Categorical(c.label, categories=range(20))
    assert metric(label, c.batch, engine=engine) == metric(c.label, c.batch, engine=engine)


@BOTH
@pytest.mark.parametrize(
    ("true", "pred", "message"),
    [
        ([0, 1], [0, 1, 1], "labels_pred has 3 values"),
        ([0, None], [0, 1], "labels_true"),
        ([0, 1], [np.nan, 1.0], "labels_pred"),
        ([], [], "labels_true has no values"),
    ],
)
def test_unequal_or_missing_labels_raise(engine: Engine, metric, true: list, pred: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        metric(true, pred, engine=engine)


@pytest.mark.parametrize("n", [1, 2, 63, 257, 2049])
@pytest.mark.parametrize(("n_rows", "n_columns"), [(1, 1), (3, 5), (2, 300), (700, 700)])
def test_contingency_counts_every_pair_of_codes(n: int, n_rows: int, n_columns: int, rng: np.random.Generator) -> None:
    rows = rng.integers(0, n_rows, n).astype(np.int32)
    columns = rng.integers(0, n_columns, n).astype(np.int32)
    counts = contingency(rows, columns, n_rows, n_columns)
    assert counts.dtype == np.int64
    assert_array_equal(counts, reference.contingency(rows, columns, n_rows, n_columns))

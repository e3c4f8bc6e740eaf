"""The oracle itself, against scikit-learn and SciPy where they define the same number."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import reference
from cells import Cells, make_cells
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from sklearn import metrics, neighbors


@pytest.fixture(scope="module")
def cells() -> Cells:
    # No exact copies: scikit-learn orders cells at equal distance as it likes.
    return make_cells(300, 7, n_labels=5, n_batches=4, duplicates=0, seed=3)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_silhouette_equals_sklearn(cells: Cells, metric: str) -> None:
    x = cells.x.astype(np.float64)
    widths = metrics.silhouette_samples(x, cells.label, metric=metric)
    assert_allclose(reference.silhouette_widths(x, cells.label, metric=metric), widths, atol=1e-12)
    assert_allclose(reference.silhouette_label(x, cells.label, metric), (widths.mean() + 1) / 2, atol=1e-12)


def test_silhouette_in_groups_equals_silhouette_of_each_group(cells: Cells) -> None:
    x = cells.x.astype(np.float64)
    widths = reference.silhouette_widths(x, cells.batch, cells.label)
    for label in range(5):
        inside = cells.label == label
        assert_allclose(widths[inside], metrics.silhouette_samples(x[inside], cells.batch[inside]), atol=1e-12)


def test_knn_equals_sklearn(cells: Cells) -> None:
    x = cells.x.astype(np.float64)
    search = neighbors.NearestNeighbors(n_neighbors=20, algorithm="brute").fit(x)
    for ours, theirs in (
        (reference.knn(x, 20), search.kneighbors()),
        (reference.knn_between(x + 0.1, x, 20), search.kneighbors(x + 0.1)),
    ):
        assert_array_equal(ours[0], theirs[1])
        assert_allclose(ours[1], theirs[0], rtol=1e-7)


def test_neighbors_at_equal_distance_are_ordered_by_index() -> None:
    x = np.array([[0.0], [1.0], [0.0], [-1.0], [0.0]])
    assert_array_equal(reference.knn(x, 4)[0][0], [2, 4, 1, 3])
    assert_array_equal(reference.knn_between([[0.0]], x, 5)[0][0], [0, 2, 4, 1, 3])


def test_entropy_equals_scipy(cells: Cells) -> None:
    indices, _ = reference.knn(cells.x, 9)
    own = np.column_stack([np.arange(cells.n), indices])
    shares = np.stack([np.bincount(row, minlength=4) for row in cells.batch[own]]) / 10
    assert_allclose(reference.neighbor_entropy(indices, cells.batch), stats.entropy(shares, axis=1), atol=1e-14)


def test_expected_distance_equals_ginis_mean_difference(cells: Cells) -> None:
    gap = np.abs(cells.time[:, None] - cells.time)
    assert_allclose(reference.expected_distance(cells.time), gap.sum() / (300 * 299), rtol=1e-14)


def test_agreement_equals_sklearn(cells: Cells) -> None:
    for a, b in ((cells.label, cells.batch), (cells.label, cells.label // 2), (cells.label, cells.label)):
        assert_allclose(reference.adjusted_rand_index(a, b), metrics.adjusted_rand_score(a, b), atol=1e-14)
        assert_allclose(reference.normalized_mutual_info(a, b), metrics.normalized_mutual_info_score(a, b), atol=1e-14)
        table = metrics.cluster.contingency_matrix(a, b)
        assert_array_equal(reference.contingency(a, b, *table.shape), table)


def test_ranks_and_correlations_equal_scipy(rng: np.random.Generator) -> None:
    a = rng.integers(0, 20, 200).astype(float)
    b = a + rng.normal(scale=5, size=200).round()
    assert_array_equal(reference.average_ranks(a), stats.rankdata(a))
    assert_allclose(reference.spearman_correlation(a, b), stats.spearmanr(a, b).statistic, atol=1e-14)
    assert_allclose(reference.pearson_correlation(a, b), stats.pearsonr(a, b).statistic, atol=1e-14)
    assert_allclose(reference.mean_squared_error(a, b), metrics.mean_squared_error(a, b))
    assert np.isnan(reference.spearman_correlation(a, np.ones(200)))


@pytest.mark.parametrize("n_classes", [2, 5])
def test_classification_equals_sklearn(rng: np.random.Generator, n_classes: int) -> None:
    truth = rng.integers(0, n_classes, 200)
    probabilities = (rng.dirichlet(np.ones(n_classes), 200) + np.eye(n_classes)[truth]).round(1) + 0.01
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    predicted = probabilities.argmax(axis=1)
    average = "binary" if n_classes == 2 else "macro"
    expected = metrics.precision_recall_fscore_support(truth, predicted, average=average)[:3]
    assert_allclose(reference.precision_recall_f1(truth, predicted), expected, atol=1e-14)
    assert reference.accuracy(truth, predicted) == pytest.approx(metrics.accuracy_score(truth, predicted))
    scores = probabilities[:, 1] if n_classes == 2 else probabilities
    with warnings.catch_warnings(action="error"):
        area = metrics.roc_auc_score(truth, scores, multi_class="ovr", average="macro")
    assert_allclose(reference.auroc_macro(truth, probabilities), area, atol=1e-14)


def test_modularity_of_two_triangles_is_known() -> None:
    # Newman (2004): two triangles joined by one edge, split in the middle, have Q = 5/14.
    w = np.zeros((6, 6))
    for i, j in ((0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5), (2, 3)):
        w[i, j] = w[j, i] = 1
    assert_allclose(reference.modularity(w, [0, 0, 0, 1, 1, 1]), 5 / 14)


@pytest.mark.slow
def test_fuzzy_graph_equals_values_by_hand() -> None:
    # Cell 0 sees neighbours at 0 (a copy), 1 and 3: rho = 1, and 1 + 1 + exp(-2 / sigma) = log2(4) is reached only as
    # sigma goes to 0, so that sigma is its floor and the third membership is nothing.
    indices, d = [[1, 2, 3], [0, 2, 3], [0, 1, 3], [2, 0, 1]], [[0, 1, 3], [0, 1, 3], [1, 1, 2], [2, 3, 3]]
    w = reference.fuzzy_graph(indices, d)
    assert_allclose(w, w.T)
    assert w[0, 1] == w[0, 2] == w[1, 2] == 1
    # Cell 3: rho = 2 and 1 + 2 exp(-1 / sigma) = 2, so each of the two others gets 1/2; cell 0 adds nothing.
    assert_allclose([w[3, 0], w[3, 1], w[3, 2]], [0.5, 0.5, 1])

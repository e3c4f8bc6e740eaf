"""Scores of resamples equal those of scikit-learn on the drawn cells."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn import metrics

from gpubench.comparison.score_parts import agreement, group_sums, mean_over_cells, mean_over_labels, prediction

RNG = np.random.default_rng(0)
SCORES = {
    "accuracy": metrics.accuracy_score,
    "f1": metrics.f1_score,
    "precision": metrics.precision_score,
    "recall": metrics.recall_score,
}


def categories(*n_codes: int) -> list[np.ndarray]:
    """Return every combination of codes as a category."""
    return [codes.ravel() for codes in np.indices(n_codes)]


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["adjusted_rand_index", "normalized_mutual_info"])
@given(seed=st.integers(0, 2**32 - 1))
def test_agreement_equals_scikit_learn_on_drawn_cells(metric: str, seed: int) -> None:
    labels, clusters = categories(4, 3)
    weights = np.random.default_rng(seed).integers(0, 4, (12, 8)).astype(float)
    weights[:, 0] = labels == 0  # one label
    weights[:, 1] = clusters == 1  # one cluster
    weights[:, 2] = np.arange(12) == 5  # one of both
    weights[:, 3] = labels == clusters  # the same
    found = agreement(metric, labels, clusters)(weights)
    score = {"adjusted_rand_index": metrics.adjusted_rand_score}.get(metric, metrics.normalized_mutual_info_score)
    for r in range(8):
        times = weights[:, r].astype(int)
        if times.sum():
            assert found[r] == pytest.approx(score(labels.repeat(times), clusters.repeat(times)), abs=1e-9)


@pytest.mark.parametrize("measure", SCORES)
@pytest.mark.parametrize("n_classes", [2, 4])
def test_prediction_equals_scikit_learn_on_drawn_cells(measure: str, n_classes: int) -> None:
    folds, actual, called = categories(3, n_classes, n_classes)
    weights = RNG.poisson(0.4, (len(folds), 30)).astype(float)
    weights[folds == 2, 0] = 0  # a fold of which nothing is drawn
    weights[actual == 1, 1] = 0  # a class that is only called
    weights[:, 2] = 0
    found = prediction(measure, folds, actual, called, n_classes)(weights)
    assert np.isnan(found[2])
    average = {} if measure == "accuracy" else {"average": "binary" if n_classes == 2 else "macro", "zero_division": 0}
    for r in np.flatnonzero(weights.any(axis=0)):
        times = weights[:, r].astype(int)
        fold_scores = []
        for fold in range(3):
            inside = (folds == fold).nonzero()[0].repeat(times[folds == fold])
            if len(inside):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # one class alone
                    fold_scores.append(SCORES[measure](actual[inside], called[inside], **average))
        assert found[r] == pytest.approx(np.mean(fold_scores), abs=1e-12)


def test_prediction_with_true_only_ignores_other_classes() -> None:
    folds, actual, called = categories(1, 3, 3)
    weights = RNG.poisson(1.0, (9, 20)).astype(float)
    weights[actual == 2] = 0
    found = prediction("recall", folds, actual, called, 3, true_only=True)(weights)
    for r in range(20):
        times = weights[:, r].astype(int)
        drawn = np.arange(9).repeat(times)
        true, said = actual[drawn], called[drawn]
        expected = np.mean([np.mean(said[true == c] == c) for c in np.unique(true)])
        assert found[r] == pytest.approx(expected)


def test_means_ignore_labels_without_drawn_cells() -> None:
    sums, weights = np.array([[6.0, 0.0], [1.0, 1.0]]), np.array([[3.0, 0.0], [1.0, 2.0]])
    assert_allclose(mean_over_cells(sums, weights), [7 / 4, 1 / 2])
    assert_allclose(mean_over_labels(sums, weights), [3 / 2, 1 / 2])
    assert np.isnan(mean_over_labels(np.zeros((2, 1)), np.zeros((2, 1)))).all()


def test_group_sums_add_weights_by_group() -> None:
    added = group_sums(np.array([1, -1, 0, 1]), 3)(np.array([[1.0, 2], [10, 20], [100, 200], [1000, 2000]]))
    assert_allclose(added, [[100, 200], [1001, 2002], [0, 0]])

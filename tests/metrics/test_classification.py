"""Accuracy, F1, precision, recall and AUROC against scikit-learn, over labels of any kind and absent classes."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sk

from gpubench.core.errors import InputError
from gpubench.core.scores import Score
from gpubench.engines.base import Engine
from gpubench.metrics import classification as gb
from gpubench.metrics.classification import Outcome, mean_over_classifiers, mean_over_folds

PEERS = {"f1": sk.f1_score, "precision": sk.precision_score, "recall": sk.recall_score}


@st.composite
def true_and_predicted(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Codes of up to six classes; some may occur on one side only."""
    n = draw(st.integers(1, 40))
    codes = hnp.arrays(np.int32, n, elements=st.integers(0, draw(st.integers(1, 5))))
    return draw(codes), draw(codes)


@pytest.mark.slow
@given(true_and_predicted())
def test_agrees_with_sklearn_on_labels(vectors: tuple[np.ndarray, np.ndarray]) -> None:
    true, predicted = vectors
    present = np.unique(np.concatenate(vectors))
    average = {"average": "binary", "pos_label": present[-1]} if len(present) == 2 else {"average": "macro"}
    assert gb.accuracy(true, predicted) == pytest.approx(sk.accuracy_score(true, predicted))
    for name, peer in PEERS.items():
        ours = getattr(gb, name)(true, predicted)
        assert ours == pytest.approx(peer(true, predicted, zero_division=0, **average)), name
        assert getattr(gb, f"{name}_calculation")(true, predicted) == ours
        assert ours.n == len(true)


@pytest.mark.slow
@given(true_and_predicted())
def test_text_labels_score_as_codes(vectors: tuple[np.ndarray, np.ndarray]) -> None:
    names = np.array(["B", "CD4 T", "NK", "T", "dendritic", "mono"])
    for name in ("accuracy", *PEERS):
        metric = getattr(gb, f"{name}_calculation")
        assert metric(*vectors) == metric(*(names[v] for v in vectors))


@st.composite
def true_and_probabilities(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Codes in which every class occurs, and probabilities with many ties."""
    n_classes = draw(st.integers(2, 5))
    rest = draw(st.lists(st.integers(0, n_classes - 1), max_size=30))
    true = np.array([*range(n_classes), *rest], np.int32)
    votes = draw(hnp.arrays(np.float64, (len(true), n_classes), elements=st.integers(0, 4).map(float)))
    votes[:, 0] += 0.5  # no row of zeros
    return true, votes / votes.sum(axis=1, keepdims=True)


@pytest.mark.slow
@given(true_and_probabilities())
def test_auroc_agrees_with_sklearn(pair: tuple[np.ndarray, np.ndarray]) -> None:
    true, proba = pair
    scores = proba[:, 1] if proba.shape[1] == 2 else proba
    expected = sk.roc_auc_score(true, scores, average="macro", multi_class="ovr")
    assert gb.auroc(true, scores) == pytest.approx(expected, abs=1e-12)
    assert gb.auroc(true, proba) == pytest.approx(reference.auroc_macro(true, proba), abs=1e-12)


def test_auroc_does_not_depend_on_the_size_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    proba = rng.dirichlet(np.ones(7), 50).round(2)
    true = np.r_[np.arange(7), rng.integers(0, 7, 43)]
    at_once = gb.auroc(true, proba)
    for values in (1, 150):
        monkeypatch.setattr("gpubench.metrics.classification.RANKED_VALUES", values)
        assert gb.auroc(true, proba) == at_once


def test_auroc_of_a_class_without_cells_is_undefined() -> None:
    score = gb.auroc(["a", "b", "b"], np.full((3, 3), 1 / 3), classes=["a", "b", "c"])
    assert np.isnan(score)
    assert "'c'" in score.note


def test_auroc_of_one_class_is_undefined() -> None:
    score = gb.auroc(["a", "a"], np.ones((2, 1)))
    assert np.isnan(score)
    assert "one label" in score.note


@pytest.mark.parametrize(
    ("proba", "classes", "message"),
    [
        (np.full((3, 2), "a"), None, "y_proba has dtype <U1; give real numbers"),
        (np.full((3, 2), 0.5 + 0j), None, "y_proba has dtype complex128"),
        ([[0.5, 0.5], [1.0]], None, "y_proba cannot be made an array"),
        (np.ones((3, 4)), None, r"shape \(3, 4\)"),
        (np.full((3, 2), np.nan), None, "NaN"),
        (np.ones((3, 2)), ["a", "x"], "'b'"),
    ],
)
def test_auroc_of_bad_probabilities_raises(proba: np.ndarray, classes: list[str] | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        gb.auroc(["a", "b", "b"], proba, classes=classes)


def test_lengths_that_differ_raise() -> None:
    with pytest.raises(InputError, match="y_pred"):
        gb.accuracy([1, 2, 3], [1, 2])


@pytest.mark.slow
@given(true_and_predicted())
def test_averages_over_shared_classes_equal_sklearn(vectors: tuple[np.ndarray, np.ndarray]) -> None:
    """Across species only the classes that occur in the test cells are averaged, whatever was predicted."""
    from gpubench.engines import get_engine

    true, predicted = vectors
    shared = np.unique(true).tolist()
    names = [str(c) for c in range(7)]  # one more than can occur: never binary
    outcome = Outcome(get_engine("cpu"), true, predicted, names, scored=shared)
    for measure in gb.MEASURES[1:4]:
        expected = PEERS[measure.id](true, predicted, labels=shared, average="macro", zero_division=0)
        assert measure.compute(outcome) == pytest.approx(expected), measure.id


def test_every_id_has_a_metric_that_can_be_pickled(engine: Engine) -> None:
    metrics = [metric for metric in vars(gb).values() if hasattr(metric, "spec")]
    ids = {metric.spec.id for metric in metrics}
    five = {"accuracy", "f1", "precision", "recall", "auroc"}
    assert ids == five | {f"mean_fold_{name}" for name in five} | {f"{name}_calculation" for name in five - {"auroc"}}
    for metric in metrics:
        assert pickle.loads(pickle.dumps(metric)) is metric
        assert "Parameters" in (metric.__doc__ or "")
    folds = [([0, 1, 1], [0, 1, 0]), ([1, 0], [1, 0])]
    assert gb.mean_fold_accuracy(folds, engine=engine) == pytest.approx((2 / 3 + 1) / 2)


def test_mean_over_folds_leaves_out_undefined_folds_with_a_note() -> None:
    score = mean_over_folds([Score(0.5, n=10), Score(np.nan, n=9, note="why"), Score(0.7, n=10)])
    assert score == pytest.approx(0.6)
    assert (score.stderr, score.stderr_df) == (pytest.approx(0.1), 1)
    assert score.n == 29
    assert score.note == "why (1 of 3 folds)"
    assert np.isnan(mean_over_folds([Score(np.nan, n=3, note="why")] * 2))


def test_mean_over_classifiers_is_undefined_without_one_of_them() -> None:
    lr, knn = [Score(0.2, n=5), Score(0.4, n=5)], [Score(0.6, n=5), Score(np.nan, n=5, note="why")]
    assert mean_over_classifiers([lr, knn]) == pytest.approx(0.4)
    assert mean_over_classifiers([lr, knn]).n == 10
    broken = mean_over_classifiers([lr, [Score(np.nan, n=5, note="why")] * 2])
    assert np.isnan(broken)
    assert broken.note == "why"

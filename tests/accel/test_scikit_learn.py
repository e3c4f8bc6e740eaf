"""sklearn.metrics with gpubench in its place: the same numbers, types and errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import sklearn.metrics
from cells import Cells
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubench import accel

NAME = "sklearn.metrics.silhouette_samples"


@pytest.fixture(autouse=True)
def _installed() -> Iterator[None]:
    accel.report().clear()
    with accel.accelerated("sklearn", "cpu"):
        yield
    accel.report().clear()


def theirs(*args: Any, **kwargs: Any) -> Any:
    return sklearn.metrics.silhouette_samples.__wrapped__(*args, **kwargs)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64"])
def test_silhouette_samples_equal_those_of_scikit_learn(small_cells: Cells, metric: str, dtype: str) -> None:
    X = (small_cells.x * 10).astype(dtype)
    ours = sklearn.metrics.silhouette_samples(X, small_cells.label, metric=metric)
    expected = theirs(X, small_cells.label, metric=metric)
    assert ours.dtype == (np.float64 if dtype == "float16" else expected.dtype)
    np.testing.assert_allclose(ours, expected, atol=2e-3 if dtype == "float16" else 2e-5)
    assert accel.report()[NAME].ran == 1


@pytest.mark.parametrize(
    "kind", [np.array, list, pd.Series, pd.Categorical], ids=["array", "list", "series", "categorical"]
)
@pytest.mark.parametrize("matrix", [np.array, list, pd.DataFrame], ids=["array", "list", "frame"])
def test_types_of_cells_and_labels(small_cells: Cells, kind, matrix) -> None:
    labels = kind([f"type {i}" for i in small_cells.label])
    ours = sklearn.metrics.silhouette_samples(matrix(small_cells.x), labels)
    np.testing.assert_allclose(ours, theirs(small_cells.x, labels), atol=2e-5)
    assert accel.report()[NAME].ran == 1


def test_cells_far_from_the_origin_are_precise(small_cells: Cells) -> None:
    expected = theirs(small_cells.x, small_cells.label)
    found = sklearn.metrics.silhouette_samples(small_cells.x.astype(np.float64) + 1e7, small_cells.label)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
@settings(max_examples=15)
@given(st.integers(0, 10_000))
def test_score_of_a_sample(seed: int) -> None:
    rng = np.random.default_rng(seed)
    X, labels = rng.normal(size=(60, 3)), rng.integers(0, 3, 60)
    ours = sklearn.metrics.silhouette_score(X, labels, sample_size=40, random_state=seed)
    with accel.accelerated([]):
        assert ours == pytest.approx(
            sklearn.metrics.silhouette_score(X, labels, sample_size=40, random_state=seed), abs=1e-6
        )


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"metric": "l1"}, "metric='l1'"),
        ({"metric": "minkowski", "p": 3}, "metric='minkowski'"),
        ({"X": sp.csr_matrix(np.eye(4))}, "X is a csr_matrix"),
        ({"X": np.arange(4.0), "labels": [0, 0, 1, 1]}, "X has 1 dimensions"),
        ({"X": np.zeros((4, 4)), "metric": "precomputed"}, "metric='precomputed'"),
        ({"labels": np.array([1, 1, "1", 2], dtype=object)}, "several types"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_uncovered_call_goes_to_the_original(options, reason, caplog) -> None:
    given = {"X": np.arange(8.0).reshape(4, 2), "labels": [0, 0, 1, 1], **options}
    results = []
    for function in (sklearn.metrics.silhouette_samples, sklearn.metrics.silhouette_samples, theirs):
        try:
            results.append(function(**given))
        except (TypeError, ValueError) as error:
            results.append(str(error))
    np.testing.assert_array_equal(results[0], results[2])
    assert accel.report()[NAME].ran == 0
    (why,) = accel.report()[NAME].reasons
    assert reason in why
    assert accel.report()[NAME].reasons[why] == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"labels": [0, 0, 0, 0]},
        {"labels": [0, 1, 2, 3]},
        {"labels": [0, 1]},
        {"X": np.array([[np.nan], [1], [2], [3]])},
        {"X": np.array([["a"], ["b"], ["c"], ["d"]])},
        {"X": np.zeros(4)},
        {"metric": 3},
        {"no_such": 1, "metric": "euclidean"},
    ],
    ids=str,
)
def test_errors_equal_those_of_scikit_learn(wrong: dict[str, Any]) -> None:
    arguments = {"X": np.arange(8.0).reshape(4, 2), "labels": [0, 0, 1, 1], **wrong}
    with pytest.raises(Exception) as expected:  # noqa: PT011 - whatever it is
        theirs(**arguments)
    with pytest.raises(type(expected.value)) as found:
        sklearn.metrics.silhouette_samples(**arguments)
    assert str(found.value) == str(expected.value)


def test_the_reason_is_logged_once(caplog) -> None:
    from gpubench.accel.calls import dispatcher

    dispatcher.reset()
    X = np.arange(8.0).reshape(4, 2)
    for _ in range(3):
        sklearn.metrics.silhouette_samples(X, [0, 0, 1, 1], metric="l1")
    (record,) = caplog.records
    assert record.message == f"{NAME}: computed by the original: metric='l1'; gpubench has 'euclidean' and 'cosine'"
    assert record.levelname == "WARNING"

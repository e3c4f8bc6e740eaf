"""Correlations, mean squared error and Jaccard index: against SciPy and scikit-learn, values by hand, bad input."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from sklearn import metrics as sklearn_metrics

from gpubench.core.errors import InputError
from gpubench.core.scores import Score
from gpubench.engines import get_engine
from gpubench.engines.base import Engine
from gpubench.metrics import jaccard, mean_squared_error, pearson_correlation, spearman_correlation

CORRELATIONS = [spearman_correlation, pearson_correlation]
ENGINE = get_engine("cpu", threads=1)
OF_PAIRS = [*CORRELATIONS, mean_squared_error]


@st.composite
def pairs_with_ties(draw: st.DrawFn) -> np.ndarray:
    """Two vectors of few distinct values, neither constant."""
    n = draw(st.integers(2, 40))
    pair = draw(hnp.arrays(np.float64, (2, n), elements=st.integers(-4, 4)))
    pair[:, 0] = 5
    pair[:, -1] = -5
    return pair


@settings(max_examples=40)
@given(pairs_with_ties())
def test_correlations_equal_scipy(pair: np.ndarray) -> None:
    assert pearson_correlation(*pair) == pytest.approx(stats.pearsonr(*pair).statistic, abs=1e-14)
    assert spearman_correlation(*pair, engine=ENGINE) == pytest.approx(stats.spearmanr(*pair).statistic, abs=1e-14)


@given(hnp.arrays(np.float64, (2, 9), elements=st.floats(-1e6, 1e6)))
def test_mean_squared_error_equals_sklearn(pair: np.ndarray) -> None:
    assert mean_squared_error(*pair) == pytest.approx(sklearn_metrics.mean_squared_error(*pair), rel=1e-14)


def test_metrics_equal_known_values(engine: Engine) -> None:
    a, b = [1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 4.0, 9.0, 25.0, 16.0]
    assert spearman_correlation(a, b, engine=engine) == pytest.approx(0.9, abs=1e-15)  # 1 - 6 (1 + 1) / (5 24)
    assert spearman_correlation(a, a[::-1], engine=engine) == pytest.approx(-1, abs=1e-15)
    assert mean_squared_error([0, 0], [1, -3]) == 5
    assert jaccard({"a", "b", "c"}, ["b", "c", "d", "d"]) == 0.5


def test_spearman_depends_only_on_the_order(engine: Engine) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 100))
    assert spearman_correlation(np.exp(a), b**3, engine=engine) == spearman_correlation(a, b, engine=engine)


@pytest.mark.parametrize("scale", [1e-320, 1e-200, 1e200, 1e307])
def test_pearson_of_extreme_values_is_exact(scale: float) -> None:
    a = np.array([1.0, 2, 3, 5])
    assert pearson_correlation(scale * a, -a) == pytest.approx(-1, abs=1e-3 if scale < 1e-300 else 1e-15)


@given(hnp.arrays(np.float64, (2, 6), elements=st.floats(allow_nan=False, allow_infinity=False)))
def test_correlations_are_within_bounds_or_have_a_note(pair: np.ndarray) -> None:
    for correlation in CORRELATIONS:
        score = correlation(*pair)
        if math.isnan(score):
            assert "constant" in score.note
            assert any(len(set(row)) == 1 for row in pair)
        else:
            assert -1 <= score <= 1


@pytest.mark.parametrize("correlation", CORRELATIONS)
def test_undefined_correlations_have_a_note(correlation: Callable[..., Score]) -> None:
    for a, b, why in [
        ([1, 1, 1], [1, 2, 3], "undefined: a constant"),
        ([1, 2, 3], [0.1, 0.1, 0.1], "undefined: b constant"),
        ([1, 1], [2, 2], "undefined: a and b constant"),
        ([1], [2], "undefined: a correlation needs at least 2 values, there are 1"),
    ]:
        score = correlation(a, b)
        assert math.isnan(score)
        assert (score.note, score.n) == (why, len(a))


@pytest.mark.parametrize("metric", OF_PAIRS)
@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1.0, math.nan, 2.0], [1.0, 2.0, 3.0], "1 of 3 rows hold no finite number"),
        ([1.0, 2.0, 3.0], [1.0, math.inf, 2.0], "1 of 3 rows hold no finite number"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], "has 2 values but .* has 3; give one of each per item"),
        ([[1.0, 2.0]], [[1.0, 2.0]], "must have one value per cell but has shape"),
        (["x", "y"], [1.0, 2.0], "is not numeric"),
        ([], [], "has no values"),
    ],
)
def test_bad_input_raises(metric: Callable[..., Score], a: list[float], b: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        metric(a, b)


def test_jaccard_of_empty_sets_is_undefined_and_of_a_string_raises() -> None:
    empty = jaccard([], set())
    assert math.isnan(empty)
    assert empty.note == "undefined: y_true and y_pred are empty"
    assert jaccard({1}, set()) == 0
    with pytest.raises(InputError, match="y_pred is one string, 'STAT1'; give a set"):
        jaccard(["STAT1"], "STAT1")
    for single in (3, np.array(3)):
        with pytest.raises(InputError, match="y_true is of type int; give a set or a list of elements"):
            jaccard(single, [3])  # type: ignore[arg-type]


def test_engine_may_be_a_name_or_an_object(engine_name: str) -> None:
    a, b = [3, 1, 2], [1, 2, 3]
    assert spearman_correlation(a, b, engine=engine_name) == spearman_correlation(a, b, engine=get_engine(engine_name))
    with pytest.raises(InputError, match="engine='gpu' is unknown"):
        spearman_correlation(a, b, engine="gpu")

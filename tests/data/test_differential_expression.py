"""The Wilcoxon test of all conditions at once, against SciPy's test of one at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from scipy.sparse import csr_array

from gpubench.data.perturbation.differential_expression import (
    benjamini_hochberg,
    differential_expression,
    rank_sum_scores,
)


def naive_score(treated: np.ndarray, controls: np.ndarray, *, tie_correct: bool) -> float:
    """z of the rank sum, from ranks of the pooled values."""
    pooled = np.concatenate([treated, controls])
    n, m = len(treated), len(controls)
    variance = n * m * (n + m + 1) / 12 * (stats.tiecorrect(stats.rankdata(pooled)) if tie_correct else 1)
    rank_sum = stats.rankdata(pooled)[:n].sum()
    return (rank_sum - n * (n + m + 1) / 2) / np.sqrt(variance) if variance > 0 else 0.0


@st.composite
def expression(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int, int]:
    """(values, codes, control, n_codes): few distinct values, many zeros, some negative, each code at least once."""
    n_codes = draw(st.integers(2, 4))
    n = draw(st.integers(n_codes, 14))
    values = draw(hnp.arrays(np.float32, (n, 3), elements=st.sampled_from([0, 0, 0, 0.5, 1, 2, -1])))
    codes = draw(
        st.permutations(
            [*range(n_codes), *draw(st.lists(st.integers(0, n_codes - 1), min_size=n - n_codes, max_size=n - n_codes))]
        )
    )
    return values, np.array(codes, np.int32), draw(st.integers(0, n_codes - 1)), n_codes


@given(expression(), st.booleans())
def test_scores_match_pooled_ranks(case: tuple[np.ndarray, np.ndarray, int, int], tie_correct: bool) -> None:
    values, codes, control, n_codes = case
    scores = rank_sum_scores(csr_array(values).tocsc(), codes, control, n_codes, tie_correct=tie_correct)
    expected = [
        [naive_score(values[codes == code, g], values[codes == control, g], tie_correct=tie_correct) for g in range(3)]
        for code in range(n_codes)
        if code != control
    ]
    np.testing.assert_allclose(scores, expected, atol=1e-12)


def test_p_values_match_scipy() -> None:
    rng = np.random.default_rng(0)
    codes = rng.permutation(np.repeat(np.arange(3), [30, 40, 50])).astype(np.int32)
    x = np.log1p(rng.poisson(0.7, (120, 20)) * (1.0 + (codes == 2)[:, None] * (np.arange(20) < 5)))
    tested = differential_expression(csr_array(x), codes, control=1, n_codes=3)
    for row, code in enumerate((0, 2)):
        expected = stats.mannwhitneyu(x[codes == code], x[codes == 1], method="asymptotic", use_continuity=False).pvalue
        np.testing.assert_allclose(tested.p_values[row], expected, rtol=1e-10)
        np.testing.assert_allclose(
            tested.adjusted_p_values[row], stats.false_discovery_control(expected, method="bh"), rtol=1e-10
        )
        means = [np.expm1(x[codes == c].mean(axis=0, dtype=np.float64)) + 1e-9 for c in (code, 1)]
        np.testing.assert_allclose(tested.log2_fold_changes[row], np.log2(means[0] / means[1]), atol=1e-12)
    assert (np.sign(tested.scores[1, :5]) > 0).all()


def test_constant_gene_does_not_change() -> None:
    x = csr_array(np.array([[1.0, 0], [1, 0], [1, 0]]))
    tested = differential_expression(x, np.array([0, 1, 1], np.int32), control=0, n_codes=2)
    assert (tested.scores == 0).all()
    assert (tested.adjusted_p_values == 1).all()
    assert (tested.log2_fold_changes == 0).all()


def test_without_tie_correction_is_weaker() -> None:
    rng = np.random.default_rng(1)
    x = csr_array(np.r_[rng.poisson(0.2, (50, 1)), rng.poisson(0.6, (50, 1))].astype(np.float32))
    codes = np.repeat([0, 1], 50).astype(np.int32)
    corrected, plain = (differential_expression(x, codes, 0, 2, tie_correct=tie).p_values for tie in (True, False))
    assert corrected < plain


@given(hnp.arrays(np.float64, (2, 12), elements=st.floats(0, 1)))
def test_adjusted_p_values_match_scipy(p_values: np.ndarray) -> None:
    expected = [stats.false_discovery_control(row, method="bh") for row in p_values]
    np.testing.assert_allclose(benjamini_hochberg(p_values), expected, rtol=1e-12)


def test_hundreds_of_conditions_match_separate_tests() -> None:
    """Some of 300 conditions are compared with separate tests."""
    rng = np.random.default_rng(2)
    codes = rng.permutation(np.r_[np.arange(301), rng.integers(0, 301, 4000)]).astype(np.int32)
    x = rng.poisson(0.5, (len(codes), 8)).astype(np.float32)
    scores = rank_sum_scores(csr_array(x).tocsc(), codes, 300, 301)
    for code in (0, 57, 299):
        for gene in range(8):
            expected = naive_score(x[codes == code, gene], x[codes == 300, gene], tie_correct=True)
            assert scores[code, gene] == pytest.approx(expected, abs=1e-10)

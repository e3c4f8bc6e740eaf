"""Weights and sums of resamples: proportions, reproducibility, intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from gpubench.comparison import resampling
from gpubench.comparison.resampling import (
    BLOCK,
    CHUNK,
    Resampler,
    cut_into_blocks,
    degrees_of_freedom,
    jackknife_interval,
    percentile_interval,
)


def weights_of_cells(resampler: Resampler, strata: np.ndarray) -> np.ndarray:
    """Return the (resamples, n) weights of `Resampler.sums`."""
    order, blocks = cut_into_blocks(strata, int(strata.max()) + 1)
    weights = np.empty((resampler.n_resamples, len(strata)))
    for chunk, first in enumerate(range(0, resampler.n_resamples, CHUNK)):
        size = min(CHUNK, resampler.n_resamples - first)
        for block, (_, start, stop) in enumerate(blocks):
            drawn = resampler.cell_weights(chunk, block, size, stop - start)
            weights[first : first + size, order[start:stop]] = drawn
    return weights


def test_sums_equal_plain_weighted_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "BLOCK", 64)
    rng = np.random.default_rng(0)
    n, n_resamples = 500, CHUNK + 5
    values, strata = rng.standard_normal((n, 3)).astype(np.float32), rng.integers(0, 4, n).astype(np.int32)
    resampler = Resampler(n, n_resamples=n_resamples, seed=3)
    found = np.concatenate(list(resampler.sums(values, strata, 4)), axis=2)
    assert found.shape == (4, 3, n_resamples)
    weights = weights_of_cells(resampler, strata)
    for r in (0, CHUNK - 1, CHUNK, n_resamples - 1):
        for stratum in range(4):
            expected = sum(weights[r, i] * values[i].astype(float) for i in range(n) if strata[i] == stratum)
            assert_allclose(found[stratum, :, r], expected, atol=1e-4)


def test_weights_are_poisson_and_independent() -> None:
    weights = Resampler(1).cell_weights(0, 0, 100, 10_000)
    shares = np.bincount(weights.ravel().astype(int)) / weights.size
    expected = np.exp(-1) / np.array([1, 1, 2, 6, 24, 120])
    assert_allclose(shares[:6], expected, atol=4 * np.sqrt(0.25 / weights.size))  # four standard errors
    others = [Resampler(1, seed=43).cell_weights(0, 0, 100, 10_000), Resampler(1).cell_weights(0, 1, 100, 10_000)]
    others.append(Resampler(1).cell_weights(1, 0, 100, 10_000))
    for other in others:
        assert abs(np.corrcoef(weights.ravel(), other.ravel())[0, 1]) < 4e-3


def test_sums_do_not_depend_on_threads() -> None:
    rng = np.random.default_rng(0)
    values, strata = rng.standard_normal((3 * BLOCK + 7, 2)).astype(np.float32), np.zeros(3 * BLOCK + 7, np.int32)
    one, two = (list(Resampler(len(values), n_resamples=200, threads=t).sums(values, strata, 1)) for t in (1, 2))
    for a, b in zip(one, two, strict=True):
        assert_array_equal(a, b)


@given(st.lists(st.integers(-1, 4), min_size=1, max_size=40).filter(lambda codes: max(codes) >= 0))
def test_tables_preserve_the_number_of_cells(codes: list[int]) -> None:
    resampler = Resampler(len(codes), n_resamples=150)
    tables = np.concatenate(list(resampler.tables(np.array(codes), 5)), axis=1)
    assert tables.shape == (5, 150)
    assert (tables.sum(axis=0) == sum(code >= 0 for code in codes)).all()
    assert (tables[[code not in codes for code in range(5)]] == 0).all()


def test_tables_have_the_expected_proportions() -> None:
    tables = np.concatenate(list(Resampler(100, n_resamples=4000).tables(np.repeat([0, 1], [20, 80]), 2)), axis=1)
    assert tables[0].mean() == pytest.approx(20, abs=4 * 4 / np.sqrt(4000))
    assert tables[0].std() == pytest.approx(4, rel=0.06), "sqrt(100 * 0.2 * 0.8)"


@given(st.lists(st.integers(-1, 4), max_size=40), st.integers(1, 50))
def test_tables_without_a_group_omit_each_cell_once(codes: list[int], n_groups: int) -> None:
    given_codes = np.array(codes, np.int64)
    found = list(Resampler(len(codes), n_resamples=n_groups).tables_without(given_codes, 5))
    counts = np.bincount(given_codes[given_codes >= 0], minlength=5)
    n_groups = min(n_groups, counts.sum())
    left_out = counts[:, None] - (np.concatenate(found, axis=1) if found else np.zeros((5, 0)))
    assert left_out.shape == (5, n_groups)
    assert_array_equal(left_out.sum(axis=1), counts)
    assert n_groups == 0 or np.ptp(left_out.sum(axis=0)) <= 1, "groups are of one size"


def test_groups_are_random() -> None:
    codes = np.repeat([0, 1], [2000, 8000])
    found = np.concatenate(list(Resampler(10_000, n_resamples=100).tables_without(codes, 2)), axis=1)
    left_out = 2000 - found[0]
    assert left_out.mean() == 20
    assert 2 < left_out.std() < 6, "4, the square root of 100 * 0.2 * 0.8; cells are in order in the file"


def test_tables_without_a_donor_omit_all_its_cells() -> None:
    donors = np.array([3, 3, 0, 0, 0, 7, 7, 7, 7, 5], np.int32)
    codes = np.array([0, 1, 0, 0, 1, 1, 1, 1, 0, -1])
    (found,) = Resampler(10, donors=donors).tables_without(codes, 2)
    assert_array_equal(found, np.array([[2, 3, 3], [4, 4, 2]]), "without 0, 3 and 7; the cell of 5 is not counted")


def test_sums_omit_each_donor_once() -> None:
    rng = np.random.default_rng(0)
    n, n_donors = 600, CHUNK + 5
    donors, strata = rng.integers(0, n_donors, n).astype(np.int32), rng.integers(0, 3, n).astype(np.int32)
    donors[0] = n_donors - 1
    values = rng.standard_normal((n, 2)).astype(np.float32)
    sums = np.concatenate(list(Resampler(n, donors=donors).sums(values, strata, 3)), axis=2)
    assert sums.shape == (3, 2, n_donors)
    for donor in (0, CHUNK - 1, CHUNK, n_donors - 1):
        for stratum in range(3):
            inside = (strata == stratum) & (donors != donor)
            assert_allclose(sums[stratum, :, donor], values[inside].sum(axis=0, dtype=float), atol=1e-5)


def test_percentile_interval_is_centred_on_the_value() -> None:
    assert percentile_interval(500.0, np.arange(1001.0)) == pytest.approx((25.0, 975.0))
    assert percentile_interval(0.0, np.arange(1001.0), level=0.5) == pytest.approx((-250.0, 250.0))


def test_jackknife_of_a_mean_equals_its_standard_error() -> None:
    x = np.random.default_rng(0).standard_normal(12)
    low, high = jackknife_interval(x.mean(), (x.sum() - x) / 11)
    assert (low + high) / 2 == pytest.approx(x.mean())
    assert (high - low) / 2 == pytest.approx(2.2010 * x.std(ddof=1) / np.sqrt(12), rel=1e-4)


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=12))
def test_degrees_of_freedom_equal_those_of_the_quadratic_form(sizes: list[int]) -> None:
    w = np.array(sizes) / sum(sizes)
    centring = np.eye(len(w)) - np.outer(np.ones(len(w)), w)
    form = centring.T @ np.diag((w / (1 - w)) ** 2) @ centring
    expected = np.trace(form) ** 2 / np.trace(form @ form)
    assert degrees_of_freedom(w) == pytest.approx(expected, rel=1e-6)
    assert 1 - 1e-9 <= expected <= len(w) - 1 + 1e-9


@pytest.mark.parametrize("rare", [1e-3, 1e-9, 1e-17])
def test_degrees_of_freedom_with_one_dominating_donor_are_one(rare: float) -> None:
    assert degrees_of_freedom(np.array([1 - rare, rare])) == pytest.approx(1)
    assert degrees_of_freedom(np.array([rare, 1 - 2 * rare, rare])) == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("n_groups", [2, 3, 40])
def test_degrees_of_freedom_of_equal_groups_are_one_less_than_groups(n_groups: int) -> None:
    assert degrees_of_freedom(np.full(n_groups, 1 / n_groups)) == pytest.approx(n_groups - 1)

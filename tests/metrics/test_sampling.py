"""Silhouettes estimated from some of the cells: unbiased, with an honest standard error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import reference
from cells import make_cells
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from gpubench.core.errors import InputError
from gpubench.engines import get_engine
from gpubench.engines.base import Engine
from gpubench.metrics import _sampling, isolated_labels, silhouette_batch, silhouette_label
from gpubench.metrics._sampling import mean_of_labels
from gpubench.metrics.silhouette import silhouette_widths


def test_widths_of_some_cells_equal_those_of_all(engine: Engine, rng: np.random.Generator) -> None:
    cells = make_cells(500, 6, n_labels=7, n_batches=3, seed=4)
    some = rng.choice(500, 140, replace=False)
    for groups in (None, cells.label):
        for metric in ("euclidean", "cosine"):
            expected = reference.silhouette_widths(cells.x, cells.batch, groups, metric)[some]
            widths = silhouette_widths(engine, engine.put(cells.x), cells.batch, groups, metric, cells=some)
            assert_allclose(widths, expected, atol=2e-6)


def test_widths_of_copies_and_singletons(engine: Engine) -> None:
    x = np.repeat(np.array([[0.0, 1.0], [5.0, 5.0], [9.0, -3.0]], np.float32), [40, 40, 1], axis=0)
    clusters = np.repeat([0, 1, 2], [40, 40, 1]).astype(np.int32)
    some = np.array([80, 3, 41])
    widths = silhouette_widths(engine, engine.put(x), clusters, cells=some)
    assert_allclose(widths, reference.silhouette_widths(x, clusters)[some], atol=1e-7)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_estimate_has_the_same_bits_for_the_same_seed(start_engine: Callable[..., Engine], threads: int) -> None:
    cells = make_cells(3000, 8, n_labels=5, n_batches=3, seed=4)
    some = np.arange(0, 3000, 7)
    one, other = start_engine(threads=1), start_engine(threads=threads)
    a, b = (silhouette_widths(engine, engine.put(cells.x), cells.label, cells=some) for engine in (one, other))
    assert np.array_equal(a, b)


@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=6), seed=st.integers(0, 1000), equal=st.booleans())
def test_sample_of_all_cells_gives_the_mean(sizes: list[int], seed: int, equal: bool) -> None:
    """Small strata are drawn whole: nothing is estimated."""
    codes = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    values = np.random.default_rng(seed).standard_normal(len(codes))
    weights = np.full(len(sizes), 1 / len(sizes)) if equal else np.array(sizes) / sum(sizes)
    means = [values[codes == label].mean() for label in range(len(sizes))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_sampling, "MIN_CELLS", 60)
        value, stderr, n = mean_of_labels(codes, weights, lambda cells: values[cells], seed)
    assert value == pytest.approx(weights @ means, abs=1e-12)
    assert stderr == 0
    assert n == len(codes)


@pytest.mark.slow
def test_intervals_have_their_coverage() -> None:
    """Strata of different size and scatter, values far from normal; 300 samples."""
    rng = np.random.default_rng(0)
    codes = rng.choice(5, 60_000, p=[0.5, 0.3, 0.15, 0.04, 0.01]).astype(np.int32)
    values = rng.beta(0.5 + codes, 2)
    for weights in (np.bincount(codes) / len(codes), np.full(5, 0.2)):
        true = weights @ [values[codes == label].mean() for label in range(5)]
        inside, errors = 0, []
        for seed in range(300):
            value, stderr, _ = mean_of_labels(codes, weights, lambda cells: values[cells], seed)
            inside += abs(value - true) <= 1.96 * stderr
            errors.append(value - true)
            assert stderr < 1.2 * _sampling.WANTED_STDERR
        assert inside >= 0.92 * 300
        assert abs(np.mean(errors)) < 4 * np.std(errors) / np.sqrt(300), "the estimate is biased"


def test_scores_beyond_the_budget_are_estimated(start_engine: Callable[..., Engine]) -> None:
    cells = make_cells(9000, 5, n_labels=4, n_batches=3, seed=1)
    exact, sampled = start_engine(), start_engine()
    sampled.policy = replace(sampled.policy, max_exact_pair_dims=0)
    for score_on in (
        lambda engine: silhouette_label(cells.x, cells.label, engine=engine),
        lambda engine: silhouette_batch(cells.x, cells.label, cells.batch, engine=engine),
        lambda engine: isolated_labels(cells.x, cells.label, cells.batch, engine=engine),
    ):
        true, estimate = score_on(exact), score_on(sampled)
        assert true.stderr is None
        assert not true.approximate
        assert estimate.approximate
        assert 0 < estimate.stderr <= 1.2 * _sampling.WANTED_STDERR
        assert estimate.n < 9000
        assert "estimated from" in estimate.note
        assert estimate == pytest.approx(true, abs=4 * estimate.stderr)
        assert score_on(sampled) == estimate, "the same seed gives the same sample"
    assert silhouette_label(cells.x, cells.label, metric="cosine", engine=sampled).stderr is None


def test_exact_lifts_the_budget() -> None:
    assert get_engine("cpu").policy.max_exact_pair_dims < np.inf
    assert get_engine("cpu", exact=True).policy.max_exact_pair_dims == np.inf
    with pytest.raises(InputError, match="knn='leaves' is approximate, which `exact` forbids"):
        get_engine("cpu", exact=True, knn="leaves")

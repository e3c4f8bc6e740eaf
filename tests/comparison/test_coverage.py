"""Coverage of intervals of clusterings and predictions in simulations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from gpubench.comparison.resampling import Resampler, jackknife_interval, percentile_interval
from gpubench.comparison.score_parts import agreement, prediction

WORLDS = 150


def joint_shares(n_labels: int, n_clusters: int, purity: float, rng: np.random.Generator) -> np.ndarray:
    """Return (labels, clusters) shares of cells: each label mostly in one cluster, the rest uneven."""
    shares = rng.dirichlet(np.full(n_clusters, 0.5), n_labels) * (1 - purity)
    shares[np.arange(n_labels), np.arange(n_labels) % n_clusters] += purity
    return shares * rng.dirichlet(np.full(n_labels, 3.0))[:, None]


Interval = Callable[[Callable[[np.ndarray], np.ndarray], np.ndarray, int], tuple[float, float]]


def by_jackknife(score: Callable[[np.ndarray], np.ndarray], counts: np.ndarray, seed: int) -> tuple[float, float]:
    codes = np.repeat(np.arange(len(counts)), counts)
    tables = Resampler(len(codes), n_resamples=60, seed=seed).tables_without(codes, len(counts))
    return jackknife_interval(
        float(score(counts[:, None] * 1.0)[0]), np.concatenate([score(table) for table in tables])
    )


def copies(score: Callable[[np.ndarray], np.ndarray], counts: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return score(rng.multinomial(counts.sum(), counts / counts.sum(), 200).T.astype(float))


def by_percentiles(score: Callable[[np.ndarray], np.ndarray], counts: np.ndarray, seed: int) -> tuple[float, float]:
    return percentile_interval(float(score(counts[:, None] * 1.0)[0]), copies(score, counts, seed))


def not_moved(score: Callable[[np.ndarray], np.ndarray], counts: np.ndarray, seed: int) -> tuple[float, float]:
    return tuple(np.percentile(copies(score, counts, seed), [2.5, 97.5]))


def coverage(
    score: Callable[[np.ndarray], np.ndarray], shares: np.ndarray, n: int, interval: Interval, worlds: int = WORLDS
) -> float:
    """Return how often intervals contain the expectation of the score of n cells."""
    rng = np.random.default_rng(1)
    expected = np.nanmean(score(rng.multinomial(n, shares, 1000).T.astype(float)))
    bounds = [interval(score, rng.multinomial(n, shares), world) for world in range(worlds)]
    return float(np.mean([low <= expected <= high for low, high in bounds]))


@pytest.mark.slow
@pytest.mark.parametrize(("n", "n_labels", "n_clusters", "purity"), [(200, 6, 10, 0.6), (5000, 30, 40, 0.3)])
@pytest.mark.parametrize("metric", ["normalized_mutual_info", "adjusted_rand_index"])
def test_coverage_of_clusterings(metric: str, n: int, n_labels: int, n_clusters: int, purity: float) -> None:
    shares = joint_shares(n_labels, n_clusters, purity, np.random.default_rng(0)).ravel()
    labels, clusters = np.divmod(np.arange(len(shares)), n_clusters)
    score = agreement(metric, labels, clusters)
    assert coverage(score, shares, n, by_jackknife) >= 0.88, "95% less four standard errors of a share of 150"
    if (metric, n) == ("normalized_mutual_info", 5000):
        held = coverage(score, shares, n, not_moved, worlds=20)
        assert held < 0.2, "copies of cells make clusterings agree, which is why they are not drawn"


@pytest.mark.slow
@pytest.mark.parametrize(("measure", "least"), [("accuracy", 0.88), ("f1", 0.88), ("recall", 0.8)])
def test_coverage_of_predictions(measure: str, least: float) -> None:
    n_classes, rng = 20, np.random.default_rng(0)
    shares = joint_shares(n_classes, n_classes, 0.7, rng) * rng.dirichlet(np.full(n_classes, 0.5))[:, None]
    shares = np.stack([shares / shares.sum()] * 3).ravel() / 3
    folds, actual, called = np.unravel_index(np.arange(len(shares)), (3, n_classes, n_classes))
    score = prediction(measure, folds, actual, called, n_classes)
    held = coverage(score, shares, 1000, by_percentiles)
    assert held >= least
    assert held >= coverage(score, shares, 1000, not_moved) - 0.03, "where labels are rare, their draws lack some"


@pytest.mark.parametrize(("n_donors", "uneven"), [(6, 0.3), (10, 1.0)])
@pytest.mark.parametrize("measure", ["f1", "recall"])
def test_coverage_of_predictions_over_few_donors(measure: str, n_donors: int, uneven: float) -> None:
    n_classes, n_worlds, rng = 6, 500, np.random.default_rng(0)
    actual, called = np.divmod(np.arange(n_classes**2), n_classes)
    score = prediction(measure, np.zeros_like(actual), actual, called, n_classes)
    common = rng.dirichlet(np.full(n_classes, 2.0))

    def draw_donors(worlds: int) -> np.ndarray:
        """(K, worlds, donors) cells of each kind: donors have their own mixture, and their own success by class."""
        right = rng.beta(6, 2, (worlds, n_donors, n_classes, 1))
        said = np.where(np.eye(n_classes, dtype=bool), right, (1 - right) / (n_classes - 1))
        mixture = rng.dirichlet(6 * n_classes * common, (worlds, n_donors))
        sizes = np.exp(4 + uneven * rng.standard_normal((worlds, n_donors))).astype(int) + 2
        shares = (mixture[..., None] * said).reshape(worlds, n_donors, -1)
        return np.moveaxis(rng.multinomial(sizes, shares / shares.sum(axis=-1, keepdims=True)), -1, 0).astype(float)

    expected = float(np.mean(score(draw_donors(5000).sum(axis=2))))
    hits = 0
    for tables in np.moveaxis(draw_donors(n_worlds), 1, 0):
        every = tables.sum(axis=1, keepdims=True)
        shares = tables.sum(axis=0) / tables.sum()
        low, high = jackknife_interval(float(score(every)[0]), score(every - tables), shares)
        hits += low <= expected <= high
    assert hits / n_worlds >= 0.93, "95% less two standard errors of a share of 500"

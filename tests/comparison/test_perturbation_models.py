"""Which metrics tell predictions of perturbations apart."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gpubench.comparison.perturbation_models import MetricPower, metric_powers
from gpubench.core.scores import MetricResult, PerturbationTable

NAMES = [f"P{i}" for i in range(20)]


def row(metric: str, name: str, value: float, **params: str) -> MetricResult:
    return MetricResult(name, "perturbation_prediction", metric, value, params=params, n=100)


def powers(**references: float) -> MetricPower:
    """Two predictions whose errors differ in every perturbation, and a third like the second but for noise."""
    random = np.random.default_rng(0)
    values = {"good": random.uniform(0.1, 0.2, 20), "poor": random.uniform(0.5, 0.6, 20)}
    values["other"] = values["poor"] + random.normal(0, 0.05, 20)
    values["other"][0] = math.nan
    table = PerturbationTable()
    for name, own in values.items():
        table.add(name, "", ((p, "mae", value, "") for p, value in zip(NAMES, own, strict=True)))
    rows = [row("mae", name, float(np.nanmean(own))) for name, own in values.items()]
    rows += [row("mae", name, value) for name, value in references.items()]
    rows += [row("mae_scaled", "good", 0.5), row("de_nsig_counts_pred", "good", 3.0), row("avg_score", "good", 0.5)]
    (found,) = metric_powers(rows, table)
    return found


def test_pairs_beyond_noise_are_counted() -> None:
    found = powers()
    assert (found.n_told_apart, found.n_pairs, found.best) == (2, 3, "good")
    assert list(found.sentences()) == ["Beyond noise it tells 2 of 3 pairs of predictions apart."]


def test_the_dynamic_range_is_the_way_from_the_mean_to_perfection() -> None:
    found = powers(baseline_mean=0.4, replicate=0.1)
    assert found.dynamic_range == pytest.approx(0.75)
    assert "75% of the way to a perfect prediction (0.0000)" in next(found.sentences())


@pytest.mark.parametrize("replicate", [0.4, 0.5])
def test_a_metric_that_prefers_the_mean_is_blind(replicate: float) -> None:
    found = powers(baseline_mean=0.4, replicate=replicate)
    assert found.is_blind
    assert "is no better than the mean of all perturbations (0.4000)" in next(found.sentences())


@pytest.mark.parametrize("references", [{"replicate": 0.1}, {"baseline_mean": 0.0, "replicate": 0.1}])
def test_without_a_scale_there_is_no_dynamic_range(references: dict[str, float]) -> None:
    assert powers(**references).dynamic_range is None


def test_means_over_contexts_are_judged() -> None:
    rows = [row("mae", name, 1.0, context=context) for name in ("a", "b") for context in ("x", "y", "MEAN")]
    (found,) = metric_powers(rows, PerturbationTable())
    assert found.values == {"a": 1.0, "b": 1.0}
    assert found.n_pairs == 0

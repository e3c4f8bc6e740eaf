"""Scores on a scale, intervals over perturbations, and the examples of the documentation."""

from __future__ import annotations

import doctest
import importlib
import math
import pkgutil

import numpy as np
import pytest

from gpubench.core.errors import InputError
from gpubench.metrics import perturbation
from gpubench.metrics.perturbation import (
    PerturbationScores,
    Reason,
    Values,
    dynamic_range,
    intervals,
    paired_intervals,
    score_fixed,
    score_from_baseline,
    score_from_replicate,
)

MODULES = [name for _, name, _ in pkgutil.iter_modules(perturbation.__path__, f"{perturbation.__name__}.")]


def score(metric: str, user: float, baseline: float) -> float:
    return score_from_baseline({metric: user}, {metric: baseline}).scores[metric]


@pytest.mark.parametrize(
    ("metric", "user", "baseline", "expected"),
    [
        ("mae", 0.25, 0.5, 0.5),
        ("mae", 0.75, 0.5, 0.0),  # cell-eval cuts at 0
        ("pr_auc", math.nan, 0.5, 0.0),
        ("pr_auc", 0.75, 0.5, 0.5),
        ("expr_mae", 1.0, 0.5, -1.5),  # -((1 / 0.5)^2 - 1) / 2
        ("expr_mae", 100.0, 0.5, -6.0),
        ("expr_mae", math.nan, 0.5, -6.0),
        ("de_wilcoxon_lfc_nmae", 1.5, 0.5, -2.0),
        ("de_wilcoxon_lfc_nmae", 9.0, 0.5, -6.0),
        ("expr_mse_unbiased_capped_norm", -0.1, 0.5, 1.0),
        ("expr_mse_unbiased_capped_norm", 0.9, 0.5, 0.0),
        ("pds_cosine", 0.25, 0.5, -0.5),  # of the challenge: not cut
        ("pds_cosine", math.nan, 0.5, -1.0),  # as the value 0
        ("pds_l1", 0.25, 0.5, 0.0),
        ("de_wilcoxon_direction_coverage", 1.0, 0.5, 1.0),
        ("de_wilcoxon_direction_coverage", 9.0, 0.5, 2.0),
        ("de_wilcoxon_direction_yield", -0.5, -0.25, -1.0),
        ("de_wilcoxon_direction_yield", math.nan, 0.25, -2.0),
    ],
)
def test_score_from_baseline_follows_the_rules_of_each_package(
    metric: str, user: float, baseline: float, expected: float
) -> None:
    assert score(metric, user, baseline) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("metric", "baseline"),
    [("expr_mae", 0.0), ("pds_l1", 1.0), ("de_wilcoxon_direction_yield", 0.0), ("pds_l1", math.nan)],
)
def test_metrics_whose_baseline_leaves_no_scale_are_left_out_with_the_reason(metric: str, baseline: float) -> None:
    got = score_from_baseline({metric: 0.5}, {metric: baseline})
    assert got.scores == {}
    assert "the baseline is" in got.left_out[metric]
    assert math.isnan(got.average)


def test_metrics_without_a_best_value_or_without_a_baseline_are_not_scored() -> None:
    got = score_from_baseline(
        {"de_nsig_counts_real": 3.0, "mae": 1.0, "mse": 1.0}, {"de_nsig_counts_real": 3, "mse": 2}
    )
    assert got.scores == {"mse": 0.5}


def test_score_from_replicate_is_one_for_the_replicate_and_zero_for_the_baseline() -> None:
    base = {"pds_cosine": 0.5, "de_wilcoxon_lfc_nmae": 1.0, "expr_mse_unbiased_capped_norm": 1.0}
    best = {"pds_cosine": 0.9, "de_wilcoxon_lfc_nmae": 0.4, "expr_mse_unbiased_capped_norm": 0.0}
    assert set(score_from_replicate(best, base, best).scores.values()) == {1.0}
    assert set(score_from_replicate(base, base, best).scores.values()) == {0.0}
    worse = {"pds_cosine": 0.1, "de_wilcoxon_lfc_nmae": 9.0, "expr_mse_unbiased_capped_norm": 2.0}
    assert list(score_from_replicate(worse, base, best).scores.values()) == pytest.approx([-1.0, 0.0, -6.0])
    useless = score_from_replicate(worse, base, base)
    assert useless.scores == {}
    assert useless.left_out["pds_cosine"] == "the replicate (0.5) is no better than the baseline (0.5)"


def test_fixed_scale_has_floors() -> None:
    scores = score_fixed({"pds_cosine": 0.0, "de_wilcoxon_lfc_nmae": 5.0, "de_wilcoxon_sig_jaccard": 0.25}).scores
    assert scores == {"de_wilcoxon_lfc_nmae": -1.0, "pds_cosine": -1.0, "de_wilcoxon_sig_jaccard": 0.25}
    assert "pds_cosine" in score_fixed({"pds_cosine": math.nan}).left_out


def of(*values: float) -> Values:
    return Values(np.array(values), tuple(Reason("none") if math.isnan(v) else None for v in values))


def test_dynamic_range_is_the_median_way_from_baseline_to_perfection() -> None:
    assert dynamic_range("pr_auc", 1, of(0.5, 0.5, 0.5), of(1.0, 0.75, 0.0)) == pytest.approx(0.5, abs=1e-5)
    assert dynamic_range("mae", 0, of(0.4, 0.4), of(0.1, 0.1)) == pytest.approx(0.75, abs=1e-5)
    assert math.isnan(dynamic_range("mae", 0, of(math.nan), of(0.1)))


def scores_of(**values: Values) -> PerturbationScores:
    n = len(next(iter(values.values())).values)
    return PerturbationScores(tuple(f"p{i:03d}" for i in range(n)), values)


def test_interval_of_a_mean_is_that_of_its_sampling_distribution() -> None:
    values = np.random.default_rng(0).normal(2, 1, 400)
    (got,) = intervals(scores_of(mae=of(*values))).values()
    half = 1.96 * values.std(ddof=1) / 20
    assert got.value == pytest.approx(values.mean())
    assert got.low == pytest.approx(values.mean() - half, abs=0.02)
    assert got.high == pytest.approx(values.mean() + half, abs=0.02)
    assert got.n == 400


def test_undefined_values_are_left_out_of_intervals() -> None:
    (got,) = intervals(scores_of(mae=of(1, 1, math.nan, 1))).values()
    assert (got.value, got.low, got.high, got.n) == (1, 1, 1, 3)
    (none,) = intervals(scores_of(mae=of(math.nan, math.nan))).values()
    assert math.isnan(none.low)
    (one,) = intervals(scores_of(mae=of(2.0))).values()
    assert math.isnan(one.high)


def test_paired_interval_of_two_like_models_is_narrower_than_that_of_each() -> None:
    random = np.random.default_rng(1)
    base = random.normal(1, 1, 100)
    a, b = scores_of(mae=of(*base)), scores_of(mae=of(*(base + 0.1 + random.normal(0, 0.05, 100))))
    got = paired_intervals(a, b)["mae"]
    alone = intervals(a)["mae"]
    assert 0 < got.low < got.value < got.high
    assert got.high - got.low < (alone.high - alone.low) / 5
    with pytest.raises(InputError, match="compare predictions of the same ones"):
        paired_intervals(a, scores_of(mae=of(1.0)))


def test_one_value_of_all_perturbations_is_computed_again_for_each_draw() -> None:
    x = np.arange(30.0)
    whole = Values(np.full(30, 14.5), (None,) * 30, 14.5, resampled=lambda rows: float(x[rows].mean()))
    assert (
        intervals(scores_of(pearson_edistance=whole))["pearson_edistance"]
        == intervals(scores_of(pearson_edistance=Values(x, (None,) * 30)))["pearson_edistance"]
    )
    fixed = Values(np.full(30, 0.5), (None,) * 30, 0.5)
    assert math.isnan(intervals(scores_of(clustering_agreement=fixed))["clustering_agreement"].low)


@pytest.mark.parametrize("module", MODULES)
def test_examples_of_the_documentation_are_true(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


@pytest.mark.parametrize("name", [name for name in perturbation.__all__ if name.islower()])
def test_docstrings_of_public_functions_have_their_sections(name: str) -> None:
    text = getattr(perturbation, name).__doc__
    assert text.splitlines()[0].endswith(".")
    sections = ("Parameters", "Examples") if name == "mean_profile" else ("Parameters", "Returns", "Examples")
    for section in sections:
        assert f"    {section}\n    {'-' * len(section)}\n" in text, section
    for parameter in getattr(perturbation, name).__annotations__.keys() - {"return"}:
        assert parameter in text, parameter

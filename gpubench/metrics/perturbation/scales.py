"""Scaled scores: 0 for a baseline, 1 for a perfect prediction or for a repeated experiment."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpubench.metrics.perturbation.registry import CHALLENGE_2026, PERTURBATION_METRICS

if TYPE_CHECKING:
    from gpubench.metrics.perturbation._values import PerturbationMetric, Values

RATIO_ERROR = "expr_mse_unbiased_capped_norm"
FOLD_CHANGE_ERROR = "de_wilcoxon_lfc_nmae"
SQUARED_PENALTY = frozenset({"expr_mae", "expr_mse", "delta_mae", "delta_mse"})
MIN_ERROR_SCORE = -6.0
MAX_OPEN_SCORE = 2.0

AVERAGE = "avg_score"

FIXED_SCALE: Mapping[str, tuple[float, float]] = {
    "expr_mse_unbiased_capped_norm": (1.0, -6.0),
    "de_wilcoxon_lfc_nmae": (1.0, -1.0),
    "pds_cosine": (0.5, -1.0),
    "de_wilcoxon_direction_fidelity_yield_raw": (0.5, -1.0),
    "de_wilcoxon_direction_reach_raw": (0.0, 0.0),
    "de_wilcoxon_sig_jaccard": (0.0, 0.0),
}
"""Metric -> (value of a random prediction, smallest score) of the scale low-random_high-1_v10."""


@dataclass(frozen=True)
class ScaledScores:
    """Scaled scores of one prediction.

    Attributes
    ----------
    scores : metric -> scaled score
    left_out : metric -> reason why it has no score
    """

    scores: dict[str, float]
    left_out: dict[str, str]

    @property
    def average(self) -> float:
        """Mean of the scores; NaN if there are none."""
        return float(np.mean(list(self.scores.values()))) if self.scores else math.nan


def score_from_baseline(user: Mapping[str, float], baseline: Mapping[str, float]) -> ScaledScores:
    r"""Scale the aggregates of a prediction so that a baseline gets 0 and a perfect prediction 1.

    .. math:: s = 1 - u / b \text{ (0 is best)}, \quad s = (u - b) / (1 - b) \text{ (1 is best)}, \quad
        s = (u - b) / |b| \text{ (open, cut to } \pm 2)

    with u the aggregate of the prediction and b that of the baseline.

    For metrics of cell-eval, undefined and negative scores become 0. For metrics of cell-eval2, the limits depend on
    what is best. Where 0 is best, scores are at least -6, that of `expr_mse_unbiased_capped_norm` is cut to 0 ... 1,
    and negative scores of errors of profiles are replaced by :math:`-((u/b)^2 - 1) / 2`. Where 1 is best, scores are at
    least 0, but those of the metrics of the challenge of 2026 have no lower limit.

    Parameters
    ----------
    user, baseline : metric -> aggregate of the prediction, and of the baseline; metrics that are in one of them only,
        or for which no values are better, are not scored

    Returns
    -------
    ScaledScores
        A metric of cell-eval2 is left out where the baseline is perfect or undefined.

    Examples
    --------
    >>> score_from_baseline({"mae": 0.2, "overlap_at_N": 0.1}, {"mae": 0.4, "overlap_at_N": 0.2}).scores
    {'mae': 0.5, 'overlap_at_N': 0.0}
    """
    scores, left_out = {}, {}
    for name, value in user.items():
        metric = PERTURBATION_METRICS[name]
        if name not in baseline or metric.best == "none":
            continue
        base = baseline[name]
        if metric.generation == 1:
            scores[name] = _cell_eval_score(metric, value, base)
        elif math.isnan(base):
            left_out[name] = "the baseline is undefined"
        elif _is_perfect(metric, base):
            left_out[name] = f"the baseline is perfect ({base:g})"
        else:
            scores[name] = _cell_eval2_score(metric, value, base)
    return ScaledScores(scores, left_out)


def _cell_eval_score(metric: PerturbationMetric, value: float, base: float) -> float:
    below, above = (base - value, base) if metric.best == "low" else (value - base, 1 - base)
    if above == 0 or math.isnan(below):
        return 0.0
    return max(0.0, below / above)


def _is_perfect(metric: PerturbationMetric, base: float) -> bool:
    """Return whether nothing can be better than the baseline, so that there is no scale."""
    if metric.best == "open":
        return base == 0
    return base <= 0 if metric.best == "low" else base >= 1


def _cell_eval2_score(metric: PerturbationMetric, value: float, base: float) -> float:
    """Scale a value and clip it to the metric's limits; undefined gets the lower limit, or (1 is best) counts as 0."""
    if metric.best == "low":
        least, most = (0.0, 1.0) if metric.id == RATIO_ERROR else (MIN_ERROR_SCORE, math.inf)
        score = -math.inf if math.isnan(value) else 1 - value / base
        if -math.inf < score < 0 and metric.id in SQUARED_PENALTY:
            score = -((value / base) ** 2 - 1) / 2
    elif metric.best == "open":
        least, most = -MAX_OPEN_SCORE, MAX_OPEN_SCORE
        score = -math.inf if math.isnan(value) else (value - base) / abs(base)
    else:
        least, most = (-math.inf if metric.id in CHALLENGE_2026 else 0.0), math.inf
        score = ((0.0 if math.isnan(value) else value) - base) / (1 - base)
    return min(max(score, least), most)


def score_from_replicate(
    user: Mapping[str, float], baseline: Mapping[str, float], replicate: Mapping[str, float]
) -> ScaledScores:
    r"""Scale the six metrics of the challenge of 2026 so that a baseline gets 0 and a repeated experiment 1.

    .. math:: s = (u - b) / (r - b)

    Parameters
    ----------
    user, baseline, replicate : metric -> aggregate of the prediction (u), the baseline (b) and a replicate (r)

    Returns
    -------
    ScaledScores
        `expr_mse_unbiased_capped_norm` is cut to 0 ... 1, `de_wilcoxon_lfc_nmae` at -6. A metric is left out where the
        replicate is no better than the baseline, or one of the values is undefined.

    Examples
    --------
    >>> score_from_replicate({"pds_cosine": 0.75}, {"pds_cosine": 0.5}, {"pds_cosine": 1.0}).scores
    {'pds_cosine': 0.5}
    """
    scores, left_out = {}, {}
    for name in CHALLENGE_2026:
        if name not in user:
            continue
        u, b, r = (side.get(name, math.nan) for side in (user, baseline, replicate))
        better = b - r if PERTURBATION_METRICS[name].best == "low" else r - b
        if any(map(math.isnan, (u, b, r))):
            left_out[name] = "a value is undefined"
        elif better <= 0:
            left_out[name] = f"the replicate ({r:g}) is no better than the baseline ({b:g})"
        else:
            scores[name] = _limited(name, (u - b) / (r - b), MIN_ERROR_SCORE)
    return ScaledScores(scores, left_out)


def score_fixed(user: Mapping[str, float]) -> ScaledScores:
    """Scale the six metrics of the challenge of 2026 so that a random prediction gets 0 and a perfect one 1.

    Parameters
    ----------
    user : metric -> aggregate

    Returns
    -------
    ScaledScores
        Scores on the scale low-random_high-1_v10 of cell-eval2, see `FIXED_SCALE`.

    Examples
    --------
    >>> score_fixed({"pds_cosine": 0.75, "de_wilcoxon_lfc_nmae": 0.4}).scores
    {'de_wilcoxon_lfc_nmae': 0.6, 'pds_cosine': 0.5}
    """
    scores, left_out = {}, {}
    for name, (random, least) in FIXED_SCALE.items():
        if name not in user:
            continue
        if math.isnan(user[name]):
            left_out[name] = "the value is undefined"
            continue
        perfect = 0.0 if PERTURBATION_METRICS[name].best == "low" else 1.0
        scores[name] = min(max((user[name] - random) / (perfect - random), least), 1.0)
    return ScaledScores(scores, left_out)


def _limited(name: str, score: float, least: float) -> float:
    if name == RATIO_ERROR:
        return min(max(score, 0.0), 1.0)
    return max(score, least) if name == FOLD_CHANGE_ERROR else score


def dynamic_range(metric: str, perfect: float, baseline: Values, replicate: Values) -> float:
    r"""Compute the share of the range from a baseline to a perfect prediction that a repeated experiment covers.

    .. math:: \frac{m(R) - m(B)}{m(\text{perfect}) - m(B) + 10^{-6}}, \quad
        \frac{m(B) - m(R)}{m(B) + 10^{-6}} \text{ for errors}

    with m(B) and m(R) the values of the baseline and of a replicate. It is computed for each perturbation and clipped
    to [-1, 1]; the result is the median. If it is near 0 or negative, the metric cannot distinguish a good model from
    the baseline on these data.

    Parameters
    ----------
    metric : id of the metric
    perfect : value of a perfect prediction
    baseline, replicate : values of the baseline and of a replicate

    Returns
    -------
    float
        NaN if no perturbation has both values.

    References
    ----------
    Shift Bioscience (2025), arXiv:2506.22641.

    Examples
    --------
    >>> import numpy as np
    >>> from gpubench.metrics.perturbation import Values
    >>> baseline, replicate = (Values(np.array([value]), (None,)) for value in (0.4, 0.1))
    >>> round(dynamic_range("mae", 0, baseline, replicate), 3)
    0.75
    """
    n, r = baseline.values, replicate.values
    both = ~(np.isnan(n) | np.isnan(r))
    if not both.any():
        return math.nan
    n, r = n[both], r[both]
    low = PERTURBATION_METRICS[metric].best == "low"
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (n - r) / (n + 1e-6) if low else (r - n) / (perfect - n + 1e-6)
    return float(np.median(np.clip(share, -1, 1)))

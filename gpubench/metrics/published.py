"""Declarations, by id, of all scores that results may contain: of embeddings, and of predicted perturbations."""

from __future__ import annotations

import math

from gpubench.metrics import METRICS
from gpubench.metrics._metric import AGGREGATE, MetricSpec
from gpubench.metrics.perturbation.registry import PERTURBATION_METRICS
from gpubench.metrics.perturbation.scales import AVERAGE

SCALED = "_scaled"
"""Suffix of the ids of scaled scores, which are 0 for a baseline and 1 for a perfect prediction or a replicate."""


def is_aggregate(metric: str) -> bool:
    """Whether a metric is a mean of other metrics of its task, so that ranks over both would count these twice.

    Examples
    --------
    >>> is_aggregate("total"), is_aggregate("silhouette_score")
    (True, False)
    """
    spec = METRICS[metric].spec if metric in METRICS else None
    return metric == AVERAGE or (spec is not None and spec.scib is not None and spec.scib[1] == AGGREGATE)


def published_spec(metric: str) -> MetricSpec | None:
    """Return the declaration of a metric, or None if gpubench does not define it, as for a user's scorer.

    Examples
    --------
    >>> published_spec("mae").higher_is_better
    False
    >>> published_spec("mae_scaled").higher_is_better
    True
    """
    if metric in METRICS:
        return METRICS[metric].spec
    if metric in PERTURBATION_METRICS:
        declared = PERTURBATION_METRICS[metric]
        better = {"high": True, "open": True, "low": False, "none": None}[declared.best]
        return MetricSpec(metric, metric, declared.bounds, better, f"{declared.description}.")
    if metric == AVERAGE:
        return MetricSpec(metric, "Average score", (-math.inf, math.inf), description="Mean of the scaled scores.")
    base = metric.removesuffix(SCALED)
    if base != metric and base in PERTURBATION_METRICS:
        text = f"{base} on a scale where the baseline has 0, and perfection or a replicate of the experiment 1."
        return MetricSpec(metric, metric, (-math.inf, math.inf), description=text)
    return None

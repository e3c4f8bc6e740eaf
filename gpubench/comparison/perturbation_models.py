"""Which metrics of predicted perturbations can tell models apart on a data set, and what their values are worth."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from gpubench.core.scores import MEAN
from gpubench.metrics.perturbation.scales import AVERAGE
from gpubench.metrics.published import SCALED, published_spec
from gpubench.results.table import format_value

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.core.scores import MetricResult, PerturbationTable

TASK = "perturbation_prediction"
MEAN_BASELINE, CONTROL_BASELINE, REPLICATE = "baseline_mean", "baseline_control", "replicate"
REFERENCES = (MEAN_BASELINE, CONTROL_BASELINE, REPLICATE, "ceiling")
"""Names in results of what is no prediction."""

N_RESAMPLES = 1000

ByPerturbation = dict[str, dict[str, "NDArray[np.float64]"]]
"""Metric -> prediction -> (perturbations,) values."""


@dataclass(frozen=True, slots=True)
class MetricPower:
    """How well a metric separates predictions on one data set.

    Attributes
    ----------
    metric : id of the metric
    perfect : value of a perfect prediction; None if neither end is better, or if there is no best value
    values : prediction -> aggregate
    references : baseline or replicate -> aggregate
    n_pairs : number of pairs of predictions
    n_told_apart : number of those pairs whose difference has a 95% interval that excludes 0
    higher_is_better : None if neither end is better
    """

    metric: str
    perfect: float | None
    values: Mapping[str, float]
    references: Mapping[str, float]
    n_told_apart: int
    n_pairs: int
    higher_is_better: bool | None

    @property
    def dynamic_range(self) -> float | None:
        """How far a repeated experiment gets from the mean baseline (0) to perfection (1); None if one is unknown."""
        low, repeated = (self.references.get(name, math.nan) for name in (MEAN_BASELINE, REPLICATE))
        if self.perfect is None or math.isnan(low) or math.isnan(repeated) or low == self.perfect:
            return None
        return (repeated - low) / (self.perfect - low)

    @property
    def is_blind(self) -> bool:
        """Whether a repeated experiment is no better than the mean of all perturbations."""
        return self.dynamic_range is not None and self.dynamic_range <= 0

    @property
    def best(self) -> str | None:
        """Name of the prediction with the best value; None if neither end is better, or all are undefined."""
        known = {name: value for name, value in self.values.items() if not math.isnan(value)}
        if self.higher_is_better is None or not known:
            return None
        return (max if self.higher_is_better else min)(known, key=lambda name: known[name])

    def sentences(self) -> Iterator[str]:
        """Yield sentences on what the values of the metric are worth on these data."""
        mean, repeated = (self.references.get(name, math.nan) for name in (MEAN_BASELINE, REPLICATE))
        if self.is_blind:
            yield (
                f"A repeated experiment ({format_value(repeated)}) is no better than the mean of all perturbations"
                f" ({format_value(mean)}): here the metric cannot tell a good model from one that predicts the mean."
            )
        elif (share := self.dynamic_range) is not None:
            yield (
                f"From the mean of all perturbations ({format_value(mean)}) to a repeated experiment"
                f" ({format_value(repeated)}) it is {share:.0%} of the way to a perfect prediction"
                f" ({format_value(self.perfect or 0.0)})."
            )
        if self.n_pairs:
            told = "all" if self.n_told_apart == self.n_pairs > 1 else f"{self.n_told_apart} of"
            pairs = f"{self.n_pairs} pair{'s' if self.n_pairs > 1 else ''}"
            yield f"Beyond noise it tells {told} {pairs} of predictions apart."


def metric_powers(results: Sequence[MetricResult], table: PerturbationTable, *, seed: int = 0) -> list[MetricPower]:
    """Measure how well each metric of perturbation_prediction separates models, baselines and repeated experiments.

    Parameters
    ----------
    results : rows of a result
    table : value of each metric for each perturbation, from which the intervals are drawn
    seed : random seed for resampling perturbations

    Returns
    -------
    list of MetricPower
        In the order of the rows. Scaled scores are left out, and metrics for which neither higher nor lower values are
        better.
    """
    own = [row for row in results if row.task == TASK and row.params.get("context", MEAN) == MEAN]
    values: dict[str, dict[str, float]] = {}
    for row in own:
        if not row.metric.endswith(SCALED):
            values.setdefault(row.metric, {})[row.embedding] = row.value
    arrays = values_by_perturbation(table)
    powers = []
    for metric, columns in values.items():
        spec = published_spec(metric)
        if spec is None or spec.higher_is_better is None or metric == AVERAGE:
            continue
        predictions = {name: value for name, value in columns.items() if name not in REFERENCES}
        pairs = list(combinations(predictions, 2))
        told = sum(_differ(arrays.get(metric, {}), a, b, seed) for a, b in pairs)
        powers.append(
            MetricPower(
                metric,
                _perfect(spec.bounds, higher=spec.higher_is_better),
                predictions,
                {name: value for name, value in columns.items() if name in REFERENCES},
                told,
                len(pairs) if metric in arrays else 0,
                spec.higher_is_better,
            )
        )
    return powers


def _perfect(bounds: tuple[float, float], *, higher: bool) -> float | None:
    if not higher:
        return 0.0
    return bounds[1] if math.isfinite(bounds[1]) else None


def values_by_perturbation(table: PerturbationTable) -> ByPerturbation:
    """Return the values of each metric and prediction as an array, contexts one after the other."""
    place: dict[tuple[str, str], int] = {}
    found: dict[str, dict[str, dict[int, float]]] = {}
    columns = (table.metric, table.prediction, table.context, table.perturbation, table.value)
    for metric, prediction, context, perturbation, value in zip(*columns, strict=True):
        row = place.setdefault((context, perturbation), len(place))
        found.setdefault(metric, {}).setdefault(prediction, {})[row] = value
    return {
        metric: {
            name: np.array([own.get(row, math.nan) for row in range(len(place))], np.float64)
            for name, own in columns_of.items()
        }
        for metric, columns_of in found.items()
    }


def _differ(arrays: Mapping[str, NDArray[np.float64]], first: str, second: str, seed: int) -> bool:
    """Return whether the 95% interval of the mean difference over drawn perturbations excludes 0."""
    if first not in arrays or second not in arrays:
        return False
    differences = arrays[second] - arrays[first]
    differences = differences[~np.isnan(differences)]
    if len(differences) < 2 or np.ptp(differences) == 0:
        return False
    drawn = np.random.default_rng(seed).integers(0, len(differences), (N_RESAMPLES, len(differences)))
    low, high = np.quantile(differences[drawn].mean(axis=1), [0.025, 0.975])
    return bool(low > 0 or high < 0)

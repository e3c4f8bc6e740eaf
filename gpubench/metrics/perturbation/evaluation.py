"""Score a prediction of perturbations against the real data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError
from gpubench.metrics.perturbation._values import PerturbationMetric, Values
from gpubench.metrics.perturbation.pairing import PairedSides
from gpubench.metrics.perturbation.registry import PERTURBATION_METRICS, metrics_of
from gpubench.metrics.perturbation.sides import RealSide, prepare

if TYPE_CHECKING:
    from gpubench.engines.base import Engine
    from gpubench.metrics.perturbation.energy_distance import CellDistance
    from gpubench.metrics.perturbation.settings import CellEval2Settings, CellEvalSettings
    from gpubench.metrics.perturbation.streaming import Cells
    from gpubench.metrics.perturbation.tables import ExpressionTable

Options = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class PerturbationScores:
    """Values of metrics for one prediction, for each perturbation.

    Attributes
    ----------
    perturbations : (P,) names, sorted
    values : metric id -> its values
    """

    perturbations: tuple[str, ...]
    values: dict[str, Values]

    def mean(self, metric: str, *, strict: bool = False) -> float:
        """Return the aggregate of a metric: its one value, or the mean of the perturbations' values.

        Parameters
        ----------
        metric : id of the metric
        strict : make the mean NaN because of undefined values wherever cell-eval does; by default they are skipped
        """
        values = self.values[metric]
        if values.whole is not None:
            return values.whole
        if strict and PERTURBATION_METRICS[metric].generation == 1:
            counted = np.array([reason is None or not reason.no_row for reason in values.reasons], bool)
            return float(values.values[counted].mean()) if counted.any() else math.nan
        defined = values.values[~np.isnan(values.values)]
        return float(defined.mean()) if len(defined) else math.nan

    def means(self, *, strict: bool = False) -> dict[str, float]:
        """Return the aggregate of every metric, see `mean`."""
        return {metric: self.mean(metric, strict=strict) for metric in self.values}

    def rows(self) -> Iterator[tuple[str, str, float, str]]:
        """Yield (perturbation, metric, value, reason) for every perturbation and metric; reason is "" if defined."""
        for metric, values in self.values.items():
            if values.rows:
                for name, value, reason in zip(self.perturbations, values.values, values.reasons, strict=True):
                    yield name, metric, float(value), "" if reason is None else reason.text

    def undefined(self) -> dict[str, dict[str, int]]:
        """Count the perturbations with an undefined value, by metric and reason; metrics without any are left out."""
        counts: dict[str, dict[str, int]] = {}
        for metric, values in self.values.items():
            for reason in values.reasons:
                if reason is not None:
                    mine = counts.setdefault(metric, {})
                    mine[reason.text] = mine.get(reason.text, 0) + 1
        return counts


def evaluate(
    real: Cells | RealSide,
    predicted: Cells,
    *,
    control: str | None = None,
    profile: str = "cell_eval",
    metrics: Sequence[str] | None = None,
    options: Options | None = None,
    cell_eval: CellEvalSettings | None = None,
    cell_eval2: CellEval2Settings | None = None,
    predicted_table: ExpressionTable | None = None,
    engine: Engine | str | None = None,
) -> PerturbationScores:
    """Compute metrics of a prediction of perturbations.

    Parameters
    ----------
    real : the real cells, in memory or streamed; or the `RealSide` that `prepare` returns, to score many predictions
    predicted : predicted cells of the same perturbations, with the same genes in any order; metrics of cell-eval need
        cells of the control among them, those of cell-eval2 do not
    control : label of the control cells; None if `real` is a `RealSide`
    profile : name of a set of metrics: "cell_eval", "full" (cell-eval2), "vcc2026", "vcc2025" or "minimal"
    metrics : ids of the metrics, instead of a profile
    options : metric id -> keyword arguments of the metric's function; "embed_key" names the embedding in which to
        compute the metric, instead of gene space
    cell_eval, cell_eval2 : settings of the metrics of each package; if None, the defaults. None if `real` is a
        `RealSide`
    predicted_table : differential expression of the prediction; if None, it is computed
    engine : engine to compute on, or its name; None if `real` is a `RealSide`

    Returns
    -------
    PerturbationScores

    Raises
    ------
    InputError
        Perturbations or genes that differ, a control that is missing, an unknown metric or profile.

    Examples
    --------
    >>> from gpubench.metrics.perturbation import perturbed_cells
    >>> labels, genes = ["control", "control", "KLF1", "KLF1"], ["A", "B"]
    >>> real = perturbed_cells([[1.0, 0.5], [1.2, 0.5], [0.1, 2.0], [0.3, 2.0]], labels, genes)
    >>> predicted = perturbed_cells([[1.0, 0.5], [1.2, 0.5], [0.2, 1.0], [0.2, 1.0]], labels, genes)
    >>> scores = evaluate(real, predicted, control="control", metrics=["mae", "pearson_delta"], engine="cpu")
    >>> {metric: round(value, 3) for metric, value in scores.means().items()}
    {'mae': 0.5, 'pearson_delta': 1.0}
    """
    if isinstance(real, RealSide):
        given = {"control": control, "cell_eval": cell_eval, "cell_eval2": cell_eval2, "engine": engine}
        for name, value in given.items():
            if value is not None:
                raise InputError(f"{name}: was given to `prepare` already; leave it out", argument=name)
    else:
        if control is None:
            raise InputError("control: give the label of the control cells", argument="control")
        real = prepare(real, control=control, cell_eval=cell_eval, cell_eval2=cell_eval2, engine=engine)
    chosen = metrics_of(profile, None if metrics is None else list(metrics))
    options = options or {}
    for name in options:
        if name not in PERTURBATION_METRICS:
            raise InputError(f"options: {name!r} is not a metric", argument="options")
    return evaluate_pair(PairedSides(real, predicted, predicted_table), chosen, options)


def evaluate_pair(
    comparison: PairedSides, metrics: Sequence[PerturbationMetric], options: Options
) -> PerturbationScores:
    """Compute metrics of a prediction that is paired with the real data; `options` as in `evaluate`."""
    values = {m.id: _compute(m, comparison, options.get(m.id, {})) for m in metrics}
    return PerturbationScores(comparison.real.perturbations, values)


def _compute(metric: PerturbationMetric, comparison: PairedSides, options: Mapping[str, Any]) -> Values:
    arguments = dict(options)
    key = arguments.pop("embed_key", None)
    if key is not None and (metric.generation == 2 or metric.needs not in ("effects", "energies", "centroids")):
        raise InputError(f"options: {metric.id} has no embed_key; it is made of genes", argument="options")
    distance: CellDistance = arguments.pop("distance", "euclidean") if metric.needs == "energies" else "euclidean"
    if metric.generation == 2 and metric.function.__name__ == "discrimination":
        settings = comparison.real.cell_eval2
        arguments = {
            "exclude_target_gene": settings.exclude_target_gene,
            "exclusion_scope": settings.exclusion_scope,
            "rank_denominator": settings.rank_denominator,
            "tie_policy": settings.tie_policy,
            **arguments,
        }
    for name in arguments:
        if name not in signature(metric.function).parameters:
            raise InputError(f"options: {metric.id} has no option {name!r}", argument="options")
    return metric(comparison.pair(metric.needs, metric.generation, key, distance), **arguments)

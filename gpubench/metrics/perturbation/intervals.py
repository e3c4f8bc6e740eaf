"""Confidence intervals of aggregates by a bootstrap over perturbations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpubench.core.errors import InputError
from gpubench.metrics.perturbation._values import Values

if TYPE_CHECKING:
    from gpubench.core.types import F64, I64
    from gpubench.metrics.perturbation.cells import PerturbedCells
    from gpubench.metrics.perturbation.evaluation import PerturbationScores

N_RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class BootstrapInterval:
    """An aggregate, or a difference of two, with its percentile interval.

    Attributes
    ----------
    value : value for the perturbations as they are, without resampling
    low, high : ends of the interval; NaN if the metric cannot be resampled
    n : number of perturbations with a value
    """

    value: float
    low: float
    high: float
    n: int


def _draws(n: int, n_resamples: int, seed: int) -> I64:
    return np.random.default_rng(seed).integers(0, n, (n_resamples, n))


def _resampled(values: Values, draws: I64) -> F64:
    """Compute the aggregate of each draw; NaN if it is undefined."""
    if values.whole is not None:
        if values.resampled is None:
            return np.full(len(draws), np.nan)
        return np.array([values.resampled(rows) for rows in draws])
    drawn = values.values[draws]
    counts = (~np.isnan(drawn)).sum(axis=1)
    means: F64 = np.divide(np.nansum(drawn, axis=1), counts, out=np.full(len(draws), np.nan), where=counts > 0)
    return means


def _interval(value: float, resampled: F64, n: int, level: float) -> BootstrapInterval:
    defined = resampled[~np.isnan(resampled)]
    if n < 2 or len(defined) < len(resampled) / 2:
        return BootstrapInterval(value, math.nan, math.nan, n)
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return BootstrapInterval(value, float(low), float(high), n)


def _n_defined(*sides: Values) -> int:
    if sides[0].whole is not None:
        return len(sides[0].values)
    return int(np.logical_and.reduce([~np.isnan(side.values) for side in sides]).sum())


def intervals(
    scores: PerturbationScores, *, level: float = LEVEL, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> dict[str, BootstrapInterval]:
    """Compute the interval of each metric's aggregate over perturbations drawn with replacement.

    The same draws serve every metric. A metric with one value for all perturbations is computed again for each draw
    where it can be (correlations over perturbations, the ratio of sums); clusterings have no interval.

    Parameters
    ----------
    scores : scores of one prediction
    level : coverage of the intervals
    n_resamples : number of draws
    seed : random seed of the draws

    Returns
    -------
    dict
        Metric -> `BootstrapInterval`; undefined values are left out of the means.

    References
    ----------
    Efron & Tibshirani (1993), doi:10.1201/9780429246593.

    Examples
    --------
    >>> import numpy as np
    >>> from gpubench.metrics.perturbation import PerturbationScores, Values
    >>> values = Values(np.array([0.0, 1.0, 1.0, 1.0]), (None,) * 4)
    >>> intervals(PerturbationScores(("A", "B", "C", "D"), {"overlap_at_N": values}))["overlap_at_N"]
    BootstrapInterval(value=0.75, low=0.25, high=1.0, n=4)
    """
    draws = _draws(len(scores.perturbations), n_resamples, seed)
    return {
        metric: _interval(scores.mean(metric), _resampled(values, draws), _n_defined(values), level)
        for metric, values in scores.values.items()
    }


def paired_intervals(
    first: PerturbationScores,
    second: PerturbationScores,
    *,
    level: float = LEVEL,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> dict[str, BootstrapInterval]:
    """Compute the interval of each metric's difference, second minus first, of two predictions of the same data.

    The same perturbations are drawn for both predictions. Means are over the perturbations that have a value in both.

    Parameters
    ----------
    first, second : scores of the same perturbations
    level, n_resamples, seed : as in `intervals`

    Returns
    -------
    dict
        Metric that both have -> `BootstrapInterval`.

    Raises
    ------
    InputError
        The perturbations are not the same.

    Examples
    --------
    >>> import numpy as np
    >>> from gpubench.metrics.perturbation import PerturbationScores, Values
    >>> def scores(*values): return PerturbationScores(("A", "B"), {"mae": Values(np.array(values), (None,) * 2)})
    >>> paired_intervals(scores(1.0, 3.0), scores(0.5, 2.5))["mae"]
    BootstrapInterval(value=-0.5, low=-0.5, high=-0.5, n=2)
    """
    if first.perturbations != second.perturbations:
        raise InputError(
            f"second: {len(second.perturbations):,} perturbations that are not the {len(first.perturbations):,} of the"
            " first; compare predictions of the same ones",
            argument="second",
        )
    draws = _draws(len(first.perturbations), n_resamples, seed)
    out = {}
    for metric in first.values.keys() & second.values.keys():
        a, b = first.values[metric], second.values[metric]
        if a.whole is not None and b.whole is not None:
            difference, value = _resampled(b, draws) - _resampled(a, draws), b.whole - a.whole
        else:
            paired = Values(b.values - a.values, ())
            difference = _resampled(paired, draws)
            defined = paired.values[~np.isnan(paired.values)]
            value = float(defined.mean()) if len(defined) else math.nan
        out[metric] = _interval(value, difference, _n_defined(a, b), level)
    return {metric: out[metric] for metric in first.values if metric in out}


def resampled_cells(cells: PerturbedCells, *, seed: int = 0) -> PerturbedCells:
    """Draw cells with replacement within each perturbation and within the control, for intervals that include them.

    Parameters
    ----------
    cells : the cells to draw from
    seed : random seed of the draws

    Returns
    -------
    PerturbedCells
        As many cells of each name as there were.

    Examples
    --------
    >>> from gpubench.metrics.perturbation import perturbed_cells
    >>> cells = perturbed_cells([[1.0], [2.0], [3.0]], ["A", "A", "B"], ["G"])
    >>> resampled_cells(cells).n_cells
    array([2, 1])
    """
    random = np.random.default_rng(seed)
    rows = [cells.rows_of(name) for name in cells.names]
    return cells.select(np.concatenate([mine[random.integers(0, len(mine), len(mine))] for mine in rows]))

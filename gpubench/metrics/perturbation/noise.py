"""Squared errors of profiles from which the noise of averaging few cells is subtracted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from gpubench.metrics.perturbation._values import NO_SIGNAL, Reason, Values, each_value, overall_value
from gpubench.metrics.perturbation.cells import PerturbedCells, row_totals

if TYPE_CHECKING:
    from gpubench.core.types import F64, I64
    from gpubench.metrics.perturbation.effects import EffectPair

VALUES_PER_BLOCK = 1 << 16
"""Number of dense values of leave-one-out profiles in memory at a time: they stay in a core's cache."""


@dataclass(frozen=True)
class NoisePair:
    """Real and predicted profiles of P perturbations with their sampling variances.

    Attributes
    ----------
    effects : the real and predicted profiles
    real_variance, predicted_variance : (P,) sampling variance of each profile, summed over the genes
    control_variance : sampling variance of the profile of the real control, summed over the genes
    """

    effects: EffectPair
    real_variance: F64
    predicted_variance: F64
    control_variance: float

    @cached_property
    def counted(self) -> F64:
        """1 for every gene but the one that the perturbation targets, which is 0; (P, G)."""
        mask = np.ones_like(self.effects.real)
        mine = np.flatnonzero(self.effects.own >= 0)
        mask[mine, self.effects.own[mine]] = 0
        return mask

    @cached_property
    def n_genes(self) -> F64:
        """Number of genes that count for each perturbation; (P,)."""
        sums: F64 = self.counted.sum(axis=1)
        return sums

    @cached_property
    def rho(self) -> float:
        r"""Factor in [0, 1] on the noise that `capped` subtracts for the prediction.

        min(1, B / A), where A sums over perturbations the smaller of the real and the predicted sampling variance, and
        B is the sum of squared deviations of the predicted profiles from their mean, over the genes that count for two
        or more perturbations. In both sums a perturbation has the weight 1 / G_p, with G_p its number of genes.
        """
        weights = 1 / self.n_genes
        claim = float((weights * np.minimum(self.predicted_variance, self.real_variance)).sum())
        weighted = self.counted * weights[:, None]
        shared = self.counted.sum(axis=0) >= 2
        weighted, profiles = weighted[:, shared], self.effects.predicted[:, shared]
        mean = (weighted * profiles).sum(axis=0) / weighted.sum(axis=0)
        spread = float((weighted * (profiles - mean) ** 2).sum())
        return min(1.0, spread / claim) if claim > 0 else 1.0

    @cached_property
    def squared_error(self) -> F64:
        """Squared distance of the predicted and the real profile over the genes that count; (P,)."""
        squared: F64 = (self.counted * (self.effects.predicted - self.effects.real) ** 2).sum(axis=1)
        return squared

    @cached_property
    def unbiased(self) -> F64:
        """Mean squared error minus the sampling variances of the real and the predicted profile; (P,)."""
        return (self.squared_error - self.predicted_variance - self.real_variance) / self.n_genes

    @cached_property
    def capped(self) -> F64:
        """As `unbiased`, but subtracting only `rho` times the smaller sampling variance for the prediction; (P,)."""
        claimed = self.rho * np.minimum(self.predicted_variance, self.real_variance)
        return (self.squared_error - claimed - self.real_variance) / self.n_genes

    @cached_property
    def distance(self) -> F64:
        """Mean squared distance of the real profile to the real control, minus the sampling variances of both; (P,)."""
        squared: F64 = (self.counted * self.effects.real_effects**2).sum(axis=1)
        return (squared - self.real_variance - self.control_variance) / self.n_genes


def unbiased_error(pair: NoisePair, *, kind: Literal["unbiased", "capped", "distance"] = "unbiased") -> Values:
    r"""Compute a mean squared distance of profiles whose expectation does not depend on the number of cells.

    .. math:: \frac{\|\hat b_p - b_p\|^2 - \hat C_p - C_p}{G_p}

    with C the sampling variance of a profile, summed over genes, and G_p the number of genes. The gene that the
    perturbation targets is left out of the distance.

    Parameters
    ----------
    pair : real and predicted profiles with their sampling variances
    kind : "unbiased" for the formula above; "capped" subtracts :math:`\rho \min(\hat C_p, C_p)` in place of
        :math:`\hat C_p`, so that a prediction of noisy cells gains nothing; "distance" is the distance of the real
        profile to the real control

    Returns
    -------
    Values
        May be negative.

    Examples
    --------
    >>> import numpy as np
    >>> from gpubench.metrics.perturbation.effects import EffectPair
    >>> effects = EffectPair(("A",), np.ones((1, 2)), np.zeros((1, 2)), np.zeros(2), np.zeros(2), np.array([-1]))
    >>> unbiased_error(NoisePair(effects, np.array([0.5]), np.array([0.5]), 0.0)).values
    array([0.5])
    """
    return each_value(getattr(pair, kind).tolist())


def normalised_error(pair: NoisePair) -> Values:
    r"""Compute the capped error summed over perturbations, divided by their summed distance from the control.

    .. math:: \sum_p \text{capped}_p / \sum_p \text{distance}_p

    Parameters
    ----------
    pair : real and predicted profiles with their sampling variances

    Returns
    -------
    Values
        One value; 0 is best, predicting the control gives about 1. Undefined if the divisor is not positive. The terms
        are those of `unbiased_error`.

    Examples
    --------
    >>> import numpy as np
    >>> from gpubench.metrics.perturbation.effects import EffectPair
    >>> effects = EffectPair(("A",), np.ones((1, 2)), np.zeros((1, 2)), np.zeros(2), np.zeros(2), np.array([-1]))
    >>> normalised_error(NoisePair(effects, np.zeros(1), np.zeros(1), 0.0)).whole
    1.0
    """
    finite = np.isfinite(pair.capped) & np.isfinite(pair.distance)

    def ratio(rows: I64) -> float | Reason:
        rows = rows[finite[rows]]
        divisor = float(pair.distance[rows].sum())
        return float(pair.capped[rows].sum()) / divisor if divisor > 0 else NO_SIGNAL

    def resampled(rows: I64) -> float:
        answer = ratio(rows)
        return math.nan if isinstance(answer, Reason) else answer

    n = len(pair.real_variance)
    return overall_value(n, ratio(np.arange(n)), resampled, rows=False)


def profile_variances(cells: PerturbedCells, names: tuple[str, ...], target_sum: float, *, counts: bool) -> F64:
    r"""Compute the sampling variance of each group's profile, summed over genes, by leaving out one cell at a time.

    .. math:: C = \frac{n - 1}{n} \sum_g \sum_c (v_{cg} - \bar v_g)^2, \quad
        v_c = \log \Big( 1 + T \frac{P - y_c}{\sum_g (P_g - y_{cg})} \Big)

    with P the sum of the counts of the group, y_c the counts of a cell, and T the total to which profiles are scaled.
    For log values it is the trace of their covariance matrix, divided by n.

    Parameters
    ----------
    cells : counts, or log values
    names : names of the groups of cells
    target_sum : T, the total to which profiles are scaled
    counts : whether values are counts

    Returns
    -------
    (len(names),) float64; 0 for a group of one cell

    References
    ----------
    Efron & Stein (1981), doi:10.1214/aos/1176345462.
    """
    return np.array([_variance(cells, cells.rows_of(name), target_sum, counts=counts) for name in names])


def _variance(cells: PerturbedCells, rows: I64, target_sum: float, *, counts: bool) -> float:
    n = len(rows)
    if n < 2:
        return 0.0
    x = cells.x[rows]
    total = np.asarray(x.sum(axis=0, dtype=np.float64)).ravel()
    without = total.sum() - row_totals(x)
    profile = np.log1p(target_sum * total / total.sum()) if counts and total.sum() > 0 else total / n
    shift, squares, sums = profile, np.zeros(len(total)), np.zeros(len(total))
    start = 0
    for block in cells.blocks(rows, max_values=VALUES_PER_BLOCK):
        values = block
        if counts:
            left = without[start : start + len(block), None]
            values = np.log1p(target_sum * (total - block) / np.where(left > 0, left, 1)) * (left > 0)
        start += len(block)
        deviation = values - shift  # about the profile, where nothing cancels
        sums += deviation.sum(axis=0)
        squares += (deviation * deviation).sum(axis=0)
    spread = float(np.maximum(squares - sums * sums / n, 0).sum())
    return spread * (n - 1) / n if counts else spread / (n - 1) / n

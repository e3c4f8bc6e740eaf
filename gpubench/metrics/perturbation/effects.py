"""Real and predicted mean profiles of perturbations, and how far they are from each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gpubench.metrics.perturbation._statistics import pearson
from gpubench.metrics.perturbation._values import CONSTANT, Reason, Values, each_value, for_each

if TYPE_CHECKING:
    from gpubench.core.types import F64, I64


ROUNDING = 1e-12
"""Relative rounding error of a mean profile."""


def _effects(profiles: F64, control: F64) -> F64:
    """Subtract the control; differences within the rounding error of means become 0, so that they have no sign."""
    effects = profiles - control
    effects[np.abs(effects) <= ROUNDING * max(1.0, float(np.abs(control).max()))] = 0
    return effects


@dataclass(frozen=True)
class EffectPair:
    """Profiles of P perturbations over G genes (or dimensions of an embedding), real and predicted.

    Attributes
    ----------
    perturbations : (P,) names
    real, predicted : (P, G) float64 profiles
    real_control, predicted_control : (G,) control profiles that are subtracted from real and from predicted profiles
    own : (P,) column of the gene that a perturbation targets; -1 where there is none
    mass_ratio : (P,) total of each real profile on the scale of counts, divided by the total it was scaled to, or None
    """

    perturbations: tuple[str, ...]
    real: F64
    predicted: F64
    real_control: F64
    predicted_control: F64
    own: I64
    mass_ratio: F64 | None = None

    @property
    def n(self) -> int:
        """Number of perturbations P."""
        return len(self.perturbations)

    @cached_property
    def real_effects(self) -> F64:
        """Real profile minus `real_control`; (P, G)."""
        return _effects(self.real, self.real_control)

    @cached_property
    def predicted_effects(self) -> F64:
        """Predicted profile minus `predicted_control`; (P, G)."""
        return _effects(self.predicted, self.predicted_control)

    @property
    def panel(self) -> I64:
        """Columns of the genes that perturbations target, each once."""
        return np.unique(self.own[self.own >= 0])


def mean_error(pair: EffectPair, *, of: Literal["profile", "effect"] = "profile", squared: bool = False) -> Values:
    r"""Compute the mean over genes of the absolute, or squared, error of each profile or effect.

    .. math:: \frac{1}{G} \sum_g |\hat{m}_{pg} - m_{pg}|

    Parameters
    ----------
    pair : real and predicted profiles
    of : "profile" for profiles as they are, "effect" for profiles minus their control
    squared : use the squared error instead of the absolute one

    Returns
    -------
    Values
        At least 0; 0 is best.

    Examples
    --------
    >>> import numpy as np
    >>> zeros = np.zeros(2)
    >>> pair = EffectPair(("A",), np.array([[1.0, 2.0]]), np.array([[1.0, 4.0]]), zeros, zeros, np.array([-1]))
    >>> mean_error(pair).values
    array([1.])
    """
    error = pair.predicted - pair.real if of == "profile" else pair.predicted_effects - pair.real_effects
    return each_value(((error**2) if squared else np.abs(error)).mean(axis=1).tolist())


def effect_correlation(pair: EffectPair, *, worst: float | None = None) -> Values:
    """Compute Pearson's correlation over genes of the predicted and the real effect of each perturbation.

    Parameters
    ----------
    pair : real and predicted profiles
    worst : value for a perturbation whose predicted effect is constant while the real one is not; if None, it is
        undefined

    Returns
    -------
    Values
        In [-1, 1]; undefined if the real or the predicted effect is the same in all genes.

    Examples
    --------
    >>> import numpy as np
    >>> pair = EffectPair(("A",), np.array([[1.0, 2.0, 4.0]]), np.array([[2.0, 4.0, 8.0]]), np.zeros(3), np.zeros(3),
    ...                   np.array([-1]))
    >>> effect_correlation(pair).values
    array([1.])
    """

    def correlate(p: int) -> float | Reason:
        real, predicted = pair.real_effects[p], pair.predicted_effects[p]
        if _is_constant(real):
            return CONSTANT
        if _is_constant(predicted):
            return CONSTANT if worst is None else worst
        return pearson(real, predicted)

    return for_each(pair.n, correlate)


MAX_EXAMPLE_GENES = 150
"""Number of genes in an example of an effect, those with the largest effects."""


def example_effects(pair: EffectPair, genes: Sequence[str]) -> list[dict[str, Any]]:
    """Return the effects of the perturbations with the best, the median and the worst correlation.

    Parameters
    ----------
    pair : real and predicted profiles
    genes : (G,) names

    Returns
    -------
    list of dicts
        Fields of `EffectExample` except prediction and context, numbers with three digits; fewer than three for fewer
        perturbations with a correlation.

    Examples
    --------
    >>> import numpy as np
    >>> effects = np.array([[1.0, 2.0, 4.0]])
    >>> pair = EffectPair(("A",), effects, 2 * effects, np.zeros(3), np.zeros(3), np.array([-1]))
    >>> [(example["rank"], example["predicted"]) for example in example_effects(pair, "xyz")]
    [('best', (2.0, 4.0, 8.0))]
    """
    values = effect_correlation(pair).values
    order = np.argsort(-values, kind="stable")[: int((~np.isnan(values)).sum())]
    places = (
        {0: "best", len(order) // 2: "median", len(order) - 1: "worst"} if len(order) > 2 else {0: "best", 1: "worst"}
    )
    examples = []
    for place, rank in places.items():
        if place >= len(order):
            continue
        p = order[place]
        real, predicted = pair.real_effects[p], pair.predicted_effects[p]
        kept = np.sort(np.argsort(-np.maximum(np.abs(real), np.abs(predicted)), kind="stable")[:MAX_EXAMPLE_GENES])
        examples.append(
            {
                "perturbation": pair.perturbations[p],
                "rank": rank,
                "correlation": float(values[p]),
                "genes": tuple(genes[g] for g in kept),
                "real": tuple(float(f"{x:.3g}") for x in real[kept]),
                "predicted": tuple(float(f"{x:.3g}") for x in predicted[kept]),
            }
        )
    return examples


def _is_constant(effect: F64) -> bool:
    """Return whether the values of an effect differ by no more than the rounding error of means."""
    return bool(np.ptp(effect) <= ROUNDING * max(1.0, float(np.abs(effect).max())))


def mass_ratio(pair: EffectPair) -> Values:
    """Check that real profiles are means of counts, by the sum over genes of each profile.

    The sum, after undoing a logarithm, is divided by the total that the cells were normalised to.

    Parameters
    ----------
    pair : real and predicted profiles, with `mass_ratio`

    Returns
    -------
    Values
        The ratio of each perturbation: 1 if counts were averaged, another value if log values were.

    Examples
    --------
    >>> import numpy as np
    >>> zeros = np.zeros((1, 2))
    >>> mass_ratio(EffectPair(("A",), zeros, zeros, zeros[0], zeros[0], np.array([-1]), np.ones(1))).values
    array([1.])
    """
    assert pair.mass_ratio is not None
    return each_value(pair.mass_ratio.tolist())

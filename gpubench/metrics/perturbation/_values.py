"""What a metric of predicted perturbations returns, and how it is declared."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from gpubench.core.types import F64, I64


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a perturbation has no value of a metric.

    Attributes
    ----------
    text : for the table of values
    no_row : whether the peer package leaves the row out; otherwise it reports NaN, which cell-eval lets into its means
    """

    text: str
    no_row: bool = False

    def __str__(self) -> str:
        return self.text


NO_SIGNIFICANT = Reason("no significant gene in the real data", no_row=True)
ONE_CLASS = Reason("none or all genes are significant in the real data")
CONSTANT = Reason("constant: no correlation is defined")
FEW_SIGNIFICANT = Reason("fewer than 10 significant genes in the real data")
ALL_SIGNIFICANT = Reason("every tested gene is significant in the real data")
FEW_ADJUDICABLE = Reason("fewer than 10 genes have a fold change other than 0 in the real data")
FEW_GENES = Reason("fewer than 10 genes with a fold change to compare", no_row=True)
NONE_CALLED = Reason("the prediction has no significant gene with a real fold change")
NOTHING_REAL = Reason("no significant gene in the real data but the target gene")
NOTHING_ANYWHERE = Reason("no significant gene on either side")
FEW_CELLS = Reason("fewer than 50 cells on a side", no_row=True)
FEW_EXPRESSED = Reason("fewer than 20 expressed genes vary on both sides", no_row=True)
FEW_PAIRS = Reason("fewer than 6 correlated pairs of genes")
FEW_PERTURBATIONS = Reason("too few perturbations", no_row=True)
FEW_PERTURBATIONS_SIGNIFICANT = Reason("fewer than 10 perturbations have a significant gene in the real data")
NO_SIGNAL = Reason("the real perturbations do not differ from the control beyond their noise")
UNDEFINED = Reason("the value is not a finite number")


@dataclass(frozen=True, slots=True)
class Values:
    """The values of one metric.

    Attributes
    ----------
    values : (P,) float64, one for each perturbation; NaN where it is undefined
    reasons : (P,) why a value is undefined; None where it is defined
    whole : the value of all perturbations together where the metric has one; None where the aggregate is the mean of
        the values. A metric with `whole` repeats it in `values`, or has NaN there if `rows` is False
    rows : whether perturbations have rows of their own
    resampled : rows -> value of `whole` for perturbations drawn with replacement; None where nothing can be resampled
    """

    values: F64
    reasons: tuple[Reason | None, ...]
    whole: float | None = None
    rows: bool = True
    resampled: Callable[[I64], float] | None = field(default=None, repr=False)

    @property
    def reason(self) -> Reason | None:
        """Why there is no value at all, or None."""
        first = next((reason for reason in self.reasons if reason), None)
        return first if np.isnan(self.values).all() else None


def of_each(answers: Sequence[float | Reason]) -> Values:
    """Make `Values` of a number or a reason for each perturbation; a number that is not finite is undefined."""
    checked = [UNDEFINED if not isinstance(a, Reason) and not math.isfinite(a) else a for a in answers]
    values = np.array([np.nan if isinstance(a, Reason) else float(a) for a in checked], np.float64)
    return Values(values, tuple(a if isinstance(a, Reason) else None for a in checked))


def for_each(n: int, compute: Callable[[int], float | Reason]) -> Values:
    """Make `Values` of a function of the perturbation's number."""
    return of_each([compute(i) for i in range(n)])


def of_all(
    n: int, answer: float | Reason, resampled: Callable[[I64], float] | None = None, *, rows: bool = True
) -> Values:
    """Make `Values` of one value of n perturbations together."""
    value = math.nan if isinstance(answer, Reason) else float(answer)
    reason = answer if isinstance(answer, Reason) else None
    return Values(np.full(n, value if rows else np.nan), (reason,) * n, value, rows, resampled)


Best = Literal["low", "high", "open", "none"]
"""Which values are better: 0 is best, 1 is best, more is better without a limit, or neither."""

Needs = Literal["effects", "tables", "noise", "cells", "energies", "centroids"]
"""What a metric compares: profiles, tables of expression tests, profiles with their sampling variance, cells,
E-distances, or the profiles as points to cluster."""


@dataclass(frozen=True, slots=True)
class PerturbationMetric:
    """The declaration of a metric of predicted perturbations; tables, tests and listings follow from it.

    Attributes
    ----------
    id : as in the package that introduced it
    function : (what it needs, **options) -> `Values`
    needs : what the first argument is made of
    generation : 1 for definitions of cell-eval, 2 for those of cell-eval2
    best : which values are better
    bounds : smallest and largest possible value
    description : one sentence with the formula
    options : arguments of the function that are fixed for this id
    ceiling : whether a replicate ceiling is defined
    """

    id: str
    function: Callable[..., Values]
    needs: Needs
    generation: Literal[1, 2]
    best: Best
    bounds: tuple[float, float]
    description: str
    options: dict[str, Any] = field(default_factory=dict)
    ceiling: bool = False

    def __call__(self, pair: Any, **options: Any) -> Values:
        """Compute the values."""
        return self.function(pair, **{**self.options, **options})

"""The values that a metric of predicted perturbations returns, and the declaration of such a metric."""

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
    """Reason why a metric is undefined for a perturbation.

    Attributes
    ----------
    text : text for the table of values
    no_row : whether cell-eval and cell-eval2 leave out the row of the perturbation; if False, they report NaN, which
        cell-eval includes in its means
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
    reasons : (P,) reason why a value is undefined; None where it is defined
    whole : value of a metric that is computed from all perturbations together; it is repeated in `values`, or `values`
        are NaN if `rows` is False. If None, the aggregate is the mean of `values`
    rows : whether tables have a row of this metric for each perturbation
    resampled : function that returns the value of `whole` for the numbers of perturbations drawn with replacement; None
        if the metric cannot be resampled
    """

    values: F64
    reasons: tuple[Reason | None, ...]
    whole: float | None = None
    rows: bool = True
    resampled: Callable[[I64], float] | None = field(default=None, repr=False)

    @property
    def reason(self) -> Reason | None:
        """The reason if all values are undefined, otherwise None."""
        first = next((reason for reason in self.reasons if reason), None)
        return first if np.isnan(self.values).all() else None


def each_value(answers: Sequence[float | Reason]) -> Values:
    """Make `Values` from a number or `Reason` for each perturbation; numbers that are not finite become undefined."""
    checked = [UNDEFINED if not isinstance(a, Reason) and not math.isfinite(a) else a for a in answers]
    values = np.array([np.nan if isinstance(a, Reason) else float(a) for a in checked], np.float64)
    return Values(values, tuple(a if isinstance(a, Reason) else None for a in checked))


def for_each(n: int, compute: Callable[[int], float | Reason]) -> Values:
    """Make `Values` by calling `compute` with the number of each of n perturbations."""
    return each_value([compute(i) for i in range(n)])


def overall_value(
    n: int, answer: float | Reason, resampled: Callable[[I64], float] | None = None, *, rows: bool = True
) -> Values:
    """Make `Values` of a metric that has one value for all n perturbations together."""
    value = math.nan if isinstance(answer, Reason) else float(answer)
    reason = answer if isinstance(answer, Reason) else None
    return Values(np.full(n, value if rows else np.nan), (reason,) * n, value, rows, resampled)


Best = Literal["low", "high", "open", "none"]
"""Which values are better: 0 is best ("low"), 1 is best ("high"), more is better without a limit ("open"), or
neither."""

Needs = Literal["effects", "tables", "noise", "cells", "energies", "centroids"]
"""Kind of real and predicted data that a metric compares: profiles ("effects"), tables of differential expression
("tables"), profiles with sampling variances ("noise"), cells, E-distances ("energies"), or profiles as points to
cluster ("centroids")."""


@dataclass(frozen=True, slots=True)
class PerturbationMetric:
    """The declaration of a metric of predicted perturbations; tables, tests and listings follow from it.

    Attributes
    ----------
    id : identifier, as in cell-eval or cell-eval2
    function : function that takes the data declared by `needs`, and options, and returns `Values`
    needs : kind of data that the function takes, see `Needs`
    generation : 1 if defined by cell-eval, 2 if by cell-eval2
    best : which values are better, see `Best`
    bounds : smallest and largest possible value
    description : one sentence with the formula
    options : keyword arguments of the function that are fixed for this id
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
        """Compute the values from `pair`, the data that `needs` declares."""
        return self.function(pair, **{**self.options, **options})

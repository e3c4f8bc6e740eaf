"""The direction metrics of cell-eval2: how often confidently predicted changes have the sign of the real ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from gpubench.metrics.perturbation._values import (
    FEW_SIGNIFICANT,
    NONE_CALLED,
    NOTHING_ANYWHERE,
    NOTHING_REAL,
    Reason,
    Values,
    for_each,
)
from gpubench.metrics.perturbation.significant_genes import MIN_GENES

if TYPE_CHECKING:
    from gpubench.core.types import Bools
    from gpubench.metrics.perturbation.tables import TablePair

MIN_ROOM = 0.05
"""Smallest value of 1 - q that scores are divided by, with q the share of the more frequent sign."""

PURITY = 0.9
"""Share of equal signs that the raw reach requires."""

ERROR_RATE = 0.05
"""Tolerated error rate of the reach and the sensitivity."""


@dataclass(frozen=True)
class _Directions:
    """Numbers of genes of one perturbation, without the gene that it targets.

    Attributes
    ----------
    real : N, number of significant genes of the real data
    called : n, number of significant genes of the prediction that have a real fold change other than 0
    matched : k, number of the called genes whose fold changes have the same sign
    majority : q, share of the more frequent sign among the N; NaN if none has a sign
    """

    real: int
    called: int
    matched: int
    majority: float

    @property
    def room(self) -> float:
        """Distance from the share of the more frequent sign to 1, at least 0.05."""
        return max(1 - self.majority, MIN_ROOM)

    @classmethod
    def of(cls, pair: TablePair, p: int) -> _Directions:
        mine, adjudicable = pair.not_own[p], pair.adjudicable[p]
        called = pair.predicted_significant[p] & mine & adjudicable
        votes = pair.real_significant[p] & mine & adjudicable
        up, n = int((pair.real_sign[p, votes] > 0).sum()), int(votes.sum())
        return cls(
            int((pair.real_significant[p] & mine).sum()),
            int(called.sum()),
            int((called & pair.matches[p]).sum()),
            max(up, n - up) / n if n else np.nan,
        )


Direction = Literal[
    "fidelity_raw", "fidelity", "coverage", "yield_raw", "yield", "fidelity_yield", "fidelity_yield_raw"
]


def direction(pair: TablePair, *, kind: Direction = "fidelity_yield_raw") -> Values:
    r"""Compute how many of the genes that are significant in the prediction have the right direction of change.

    Let N be the number of significant genes of the real data, n the number of significant genes of the prediction with
    a real fold change other than 0, k the number of these n whose fold changes have the same sign, q the share of the
    more frequent sign among the N, and d = max(1 - q, 0.05). The gene that the perturbation targets does not count.

    .. math:: \text{fidelity\_raw } k/n, \ \text{fidelity } (k/n - q)/d, \ \text{coverage } n/N, \
        \text{yield\_raw } k/N, \ \text{yield } (k - qn)/(Nd), \ \text{fidelity\_yield\_raw } k/\max(n, N), \
        \text{fidelity\_yield } \min(1, n/N) \cdot \text{fidelity}

    Parameters
    ----------
    pair : real and predicted tables of differential expression
    kind : which of these numbers to compute

    Returns
    -------
    Values
        1 is best for fidelity and fidelity_yield, also the raw ones; for the others larger is better, without a limit.
        Without significant genes in the real data, fidelity and fidelity_yield are 1 if n = 0, and otherwise 0.

    Examples
    --------
    >>> from gpubench.metrics.perturbation.tables import expression_table, pair_tables
    >>> rows = {"target": ["A"] * 4, "feature": range(4), "log2_fold_change": [1, 1, -1, -1], "p_value": [0.01] * 4,
    ...         "fdr": [0.01] * 4}
    >>> predicted = expression_table({**rows, "log2_fold_change": [1, 1, 1, -1]})
    >>> direction(pair_tables(expression_table(rows), predicted, {})).values
    array([0.75])
    """
    compute = _DIRECTIONS[kind]
    return for_each(pair.n, lambda p: compute(_Directions.of(pair, p)))


def _per_called(d: _Directions) -> float | Reason:
    return d.matched / d.called if d.called else NONE_CALLED


def _per_real(count: float, d: _Directions) -> float | Reason:
    return count / d.real if d.real else NOTHING_REAL


def _per_larger(d: _Directions) -> float | Reason:
    return d.matched / max(d.called, d.real) if d.called or d.real else NOTHING_ANYWHERE


def _fidelity(d: _Directions, none_called: float | Reason = NONE_CALLED) -> float | Reason:
    if not d.real:
        return 0.0 if d.called else 1.0
    return (d.matched / d.called - d.majority) / d.room if d.called else none_called


def _fidelity_yield(d: _Directions) -> float | Reason:
    fidelity = _fidelity(d, none_called=0.0)
    return fidelity if isinstance(fidelity, Reason) or not d.real else min(1.0, d.called / d.real) * fidelity


_DIRECTIONS: dict[str, Callable[[_Directions], float | Reason]] = {
    "fidelity_raw": _per_called,
    "fidelity": _fidelity,
    "coverage": lambda d: _per_real(d.called, d),
    "yield_raw": lambda d: _per_real(d.matched, d),
    "yield": lambda d: _per_real((d.matched - d.majority * d.called) / d.room, d),
    "fidelity_yield": _fidelity_yield,
    "fidelity_yield_raw": _per_larger,
}


def reach(pair: TablePair, *, raw: bool = True, unbounded: bool = False) -> Values:
    """Compute how far down the prediction's ranking of genes the directions of change stay right.

    Genes are sorted by the confidence of the prediction, see `TablePair.by_confidence`. The reach is the largest number
    of first genes with a real fold change of which at least a given share is predicted with the same sign, divided by
    the number of significant genes of the real data.

    Parameters
    ----------
    pair : real and predicted tables of differential expression
    raw : require a share of 0.9; otherwise q + 0.95 (1 - q), with q the share of the more frequent sign among the
        significant genes of the real data
    unbounded : rank all genes; otherwise only the significant genes of the real data. The gene that the perturbation
        targets is left out

    Returns
    -------
    Values
        1 is best, unless `unbounded`; undefined without significant genes in the real data.

    Examples
    --------
    >>> from gpubench.metrics.perturbation.tables import expression_table, pair_tables
    >>> rows = {"target": ["A"] * 4, "feature": range(4), "log2_fold_change": [4, 3, 2, 1], "p_value": [0.01] * 4,
    ...         "fdr": [0.01] * 4}
    >>> predicted = expression_table({**rows, "log2_fold_change": [4, 3, 2, -1]})
    >>> reach(pair_tables(expression_table(rows), predicted, {})).values
    array([0.75])
    """

    def value(p: int) -> float | Reason:
        d = _Directions.of(pair, p)
        if d.real == 0:
            return NOTHING_REAL
        pool = pair.not_own[p] if unbounded else pair.not_own[p] & pair.real_significant[p]
        purity = PURITY if raw else d.majority + (1 - ERROR_RATE) * (1 - d.majority)
        return _depth(pair, p, pool, purity) / d.real

    return for_each(pair.n, value)


def sensitivity(pair: TablePair, *, universe: bool = False) -> Values:
    """Compute the reach for a share of 0.975, including the gene that the perturbation targets; see `reach`.

    Parameters
    ----------
    pair : real and predicted tables of differential expression
    universe : rank all genes; otherwise only the significant genes of the real data

    Returns
    -------
    Values
        A number of genes divided by that of the significant genes of the real data; undefined with fewer than 10 of
        these.

    Examples
    --------
    >>> from gpubench.metrics.perturbation.tables import expression_table, pair_tables
    >>> rows = {"target": ["A"] * 10, "feature": range(10), "log2_fold_change": [1] * 10, "p_value": [0.01] * 10,
    ...         "fdr": [0.01] * 10}
    >>> table = expression_table(rows)
    >>> sensitivity(pair_tables(table, table, {})).values
    array([1.])
    """

    def value(p: int) -> float | Reason:
        n = int(pair.real_significant[p].sum())
        if n < MIN_GENES:
            return FEW_SIGNIFICANT
        pool = np.ones_like(pair.not_own[p]) if universe else pair.real_significant[p]
        return _depth(pair, p, pool, 1 - ERROR_RATE / 2) / n

    return for_each(pair.n, value)


def _depth(pair: TablePair, p: int, pool: Bools, purity: float) -> int:
    """Largest number of adjudicable genes at the top of the ranking of which a share `purity` matches; 0 if none."""
    order = pair.by_confidence[p]
    order = order[pool[order] & (pair.real.tested[p, order] | pair.predicted.tested[p, order])]
    seen, matched = np.cumsum(pair.adjudicable[p, order]), np.cumsum(pair.matches[p, order])
    # a quotient, as the peer compares it: products of the same numbers may round to the other side
    pure = (seen > 0) & (matched / np.maximum(seen, 1) >= purity)
    return int(seen[pure].max()) if pure.any() else 0

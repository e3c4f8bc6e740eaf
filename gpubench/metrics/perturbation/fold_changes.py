"""Agreement of fold changes over significant genes: sign, rank, size."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np

from gpubench.metrics.perturbation._statistics import spearman
from gpubench.metrics.perturbation._values import (
    CONSTANT,
    FEW_ADJUDICABLE,
    FEW_GENES,
    FEW_SIGNIFICANT,
    NO_SIGNIFICANT,
    Reason,
    Values,
    for_each,
)
from gpubench.metrics.perturbation.significant_genes import MIN_GENES, with_overrides

if TYPE_CHECKING:
    from gpubench.metrics.perturbation.tables import TablePair


def direction_match(pair: TablePair, *, gated: bool = False, fdr_threshold: float | None = None) -> Values:
    """Compute the share of significant genes of the real data whose fold change is predicted with the same sign.

    Parameters
    ----------
    pair : real and predicted tables of differential expression; genes that the predicted table lacks do not count
    gated : require at least 10 significant genes in the real data; otherwise one is enough
    fdr_threshold : threshold of the adjusted p-value; if None, that of `pair`

    Returns
    -------
    Values
        In [0, 1]; a fold change of 0 agrees only with 0.

    Examples
    --------
    >>> from gpubench.metrics.perturbation.tables import expression_table, pair_tables
    >>> rows = {"target": ["A"] * 2, "feature": ["x", "y"], "log2_fold_change": [3, 1], "p_value": [0.01, 0.01],
    ...         "fdr": [0.01, 0.01]}
    >>> predicted = expression_table({**rows, "log2_fold_change": [2, -1]})
    >>> direction_match(pair_tables(expression_table(rows), predicted, {})).values
    array([0.5])
    """
    pair = with_overrides(pair, fdr_threshold, None)
    same = pair.real_sign == pair.predicted_sign

    def share(p: int) -> float | Reason:
        genes = pair.real_significant[p]
        if gated and genes.sum() < MIN_GENES:
            return FEW_SIGNIFICANT
        present = genes & pair.predicted.tested[p]
        if not present.any():
            return 0.0 if gated else NO_SIGNIFICANT
        return float(same[p, present].mean())

    return for_each(pair.n, share)


def model_direction_match(pair: TablePair) -> Values:
    """Compute the share of significant genes of the prediction whose real fold change has the same sign.

    Parameters
    ----------
    pair : real and predicted tables of differential expression

    Returns
    -------
    Values
        In [0, 1]; 0 if the prediction has no significant gene. Undefined with fewer than 10 genes that have a real fold
        change.

    Examples
    --------
    >>> from gpubench.metrics.perturbation.tables import expression_table, pair_tables
    >>> rows = {"target": ["A"] * 10, "feature": range(10), "log2_fold_change": [1] * 10, "p_value": [0.01] * 10,
    ...         "fdr": [0.01] * 10}
    >>> predicted = expression_table({**rows, "log2_fold_change": [1] * 9 + [-1]})
    >>> model_direction_match(pair_tables(expression_table(rows), predicted, {})).values
    array([0.9])
    """
    same = pair.real_sign == pair.predicted_sign

    def share(p: int) -> float | Reason:
        defined = ~np.isnan(pair.real.log2_fold_change[p])
        if defined.sum() < MIN_GENES:
            return FEW_ADJUDICABLE
        called = pair.predicted_significant[p] & pair.real.tested[p]
        return float(same[p, called].mean()) if called.any() else 0.0

    return for_each(pair.n, share)


def direction_precision(pair: TablePair) -> Values:
    """Compute the share with the right sign among significant genes of the prediction that have a real fold change.

    Parameters
    ----------
    pair : real and predicted tables of differential expression; a real fold change of 0 does not count

    Returns
    -------
    Values
        In [0, 1]; 0 if the prediction has no such gene. Undefined with fewer than 10 real fold changes other than 0.

    Examples
    --------
    >>> from gpubench.metrics.perturbation.tables import expression_table, pair_tables
    >>> rows = {"target": ["A"] * 10, "feature": range(10), "log2_fold_change": [1] * 10, "p_value": [0.01] * 10,
    ...         "fdr": [0.01] * 10}
    >>> predicted = expression_table({**rows, "log2_fold_change": [1] * 9 + [-1]})
    >>> direction_precision(pair_tables(expression_table(rows), predicted, {})).values
    array([0.9])
    """

    def share(p: int) -> float | Reason:
        if pair.adjudicable[p].sum() < MIN_GENES:
            return FEW_ADJUDICABLE
        called = pair.predicted_significant[p] & pair.adjudicable[p]
        return float(pair.matches[p, called].mean()) if called.any() else 0.0

    return for_each(pair.n, share)


def fold_change_correlation(
    pair: TablePair,
    *,
    side: Literal["all", "up", "down"] = "all",
    gated: bool = False,
    fdr_threshold: float | None = None,
) -> Values:
    """Compute Spearman's correlation of log2 fold changes over the significant genes of the real data.

    Parameters
    ----------
    pair : real and predicted tables of differential expression; a fold change that the prediction lacks is 0
    side : significant genes to use: "all", or those that go "up" or "down" in the real data
    gated : require at least 10 genes, and return -1 if the predicted fold changes are constant; otherwise one gene is
        enough, and the value is undefined then
    fdr_threshold : threshold of the adjusted p-value; if None, that of `pair`

    Returns
    -------
    Values
        In [-1, 1].

    Examples
    --------
    >>> from gpubench.metrics.perturbation.tables import expression_table, pair_tables
    >>> rows = {"target": ["A"] * 3, "feature": ["x", "y", "z"], "log2_fold_change": [3, 2, 1], "p_value": [0.01] * 3,
    ...         "fdr": [0.01] * 3}
    >>> table = expression_table(rows)
    >>> fold_change_correlation(pair_tables(table, table, {})).values
    array([1.])
    """
    pair = with_overrides(pair, fdr_threshold, None)
    real_changes = pair.real.log2_fold_change
    keep = pair.real_significant
    if side != "all":
        keep = keep & (pair.real_sign == (1 if side == "up" else -1))

    def correlate(p: int) -> float | Reason:
        genes = keep[p]
        real = real_changes[p, genes]
        if len(real) < (MIN_GENES if gated else 1):
            return FEW_SIGNIFICANT if gated else NO_SIGNIFICANT
        predicted = pair.predicted.log2_fold_change[p, genes]
        predicted = np.where(np.isnan(predicted), 0.0, predicted)
        if np.isnan(real).any() or (real == real[0]).all():
            return CONSTANT
        value = spearman(real, predicted)
        return (-1.0 if gated else CONSTANT) if math.isnan(value) else value

    return for_each(pair.n, correlate)


def fold_change_error(pair: TablePair) -> Values:
    r"""Compute the error of log2 fold changes relative to their size, over the significant genes of the real data.

    .. math:: \sum_g |\hat l_g - l_g| / \sum_g |l_g|

    Parameters
    ----------
    pair : real and predicted tables of differential expression; the gene that a perturbation targets and genes without
        a finite real fold change are left out, and predicted fold changes that are missing or not finite are 0

    Returns
    -------
    Values
        At least 0; 0 is best, and predicting no change gives 1. Undefined with fewer than 10 genes.

    Examples
    --------
    >>> from gpubench.metrics.perturbation.tables import expression_table, pair_tables
    >>> rows = {"target": ["A"] * 10, "feature": range(10), "log2_fold_change": [2] * 10, "p_value": [0.01] * 10,
    ...         "fdr": [0.01] * 10}
    >>> predicted = expression_table({**rows, "log2_fold_change": [1] * 10})
    >>> fold_change_error(pair_tables(expression_table(rows), predicted, {})).values
    array([0.5])
    """
    keep = pair.real_significant & pair.not_own & np.isfinite(pair.real.log2_fold_change)

    def error(p: int) -> float | Reason:
        genes = keep[p]
        if genes.sum() < MIN_GENES:
            return FEW_GENES
        real, predicted = pair.real.log2_fold_change[p, genes], pair.predicted.log2_fold_change[p, genes]
        predicted = np.where(np.isfinite(predicted), predicted, 0.0)
        return float(np.abs(predicted - real).sum() / np.abs(real).sum())

    return for_each(pair.n, error)

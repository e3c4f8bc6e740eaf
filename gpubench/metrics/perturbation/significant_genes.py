"""Agreement of real and predicted significant genes: overlaps of ranked lists, recall, correlation of numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np

from gpubench.metrics.perturbation._statistics import average_precision, roc_area, spearman
from gpubench.metrics.perturbation._values import (
    ALL_SIGNIFICANT,
    CONSTANT,
    FEW_PERTURBATIONS_SIGNIFICANT,
    FEW_SIGNIFICANT,
    NO_SIGNIFICANT,
    ONE_CLASS,
    Reason,
    Values,
    each_value,
    for_each,
    overall_value,
)

if TYPE_CHECKING:
    from gpubench.core.types import I64
    from gpubench.metrics.perturbation.tables import TablePair

MIN_GENES = 10
"""Number of significant genes in the real data that metrics of cell-eval2 require."""


def with_overrides(pair: TablePair, fdr_threshold: float | None, sort_by: str | None) -> TablePair:
    """Return the pair with another threshold or order of genes; None leaves a setting as it is."""
    changes = {name: value for name, value in (("alpha", fdr_threshold), ("sort_by", sort_by)) if value is not None}
    return pair.with_settings(**changes) if changes else pair


def overlap(
    pair: TablePair,
    *,
    k: int | None = None,
    of: Literal["real", "predicted"] = "real",
    fdr_threshold: float | None = None,
    sort_by: str | None = None,
) -> Values:
    r"""Compute the share of the first K significant genes that real data and prediction have in common.

    .. math:: |A_{1..K} \cap B_{1..K}| / K, \quad K = \min(k, n)

    with A and B the significant genes of the real data and of the prediction, largest fold change first, and n the
    number of significant genes of the real data (overlap) or of the prediction (precision).

    Parameters
    ----------
    pair : real and predicted tables of differential expression
    k : length of the lists; if None, n
    of : data that determine n: "real" for the overlap, "predicted" for the precision
    fdr_threshold, sort_by : threshold of the adjusted p-value and order of the genes; if None, those of `pair`

    Returns
    -------
    Values
        In [0, 1]; 0 where K is 0.

    Examples
    --------
    >>> from gpubench.metrics.perturbation.tables import expression_table, pair_tables
    >>> rows = {"target": ["A"] * 3, "feature": ["x", "y", "z"], "log2_fold_change": [3, 2, 1],
    ...         "p_value": [0.01] * 3, "fdr": [0.01, 0.01, 0.5]}
    >>> real = expression_table(rows)
    >>> predicted = expression_table({**rows, "fdr": [0.01, 0.5, 0.01]})
    >>> overlap(pair_tables(real, predicted, {})).values
    array([0.5])
    """
    pair = with_overrides(pair, fdr_threshold, sort_by)

    def share(p: int) -> float:
        real, predicted = pair.real_ranked[p], pair.predicted_ranked[p]
        n = len(real if of == "real" else predicted)
        length = n if k is None else min(k, n)
        return len(np.intersect1d(real[:length], predicted[:length])) / length if length else 0.0

    return for_each(pair.n, share)


def n_significant(pair: TablePair, *, of: Literal["real", "predicted"] = "real") -> Values:
    """Count the significant genes of each perturbation.

    Parameters
    ----------
    pair : real and predicted tables of differential expression
    of : data whose significant genes to count

    Returns
    -------
    Values
        Whole numbers.

    Examples
    --------
    >>> from gpubench.metrics.perturbation.tables import expression_table, pair_tables
    >>> table = expression_table({"target": ["A"], "feature": ["x"], "log2_fold_change": [3], "p_value": [0.01],
    ...                           "fdr": [0.01]})
    >>> n_significant(pair_tables(table, table, {})).values
    array([1.])
    """
    return each_value(_counts(pair)[0 if of == "real" else 1].tolist())


def _counts(pair: TablePair) -> tuple[I64, I64]:
    """Count the real and the predicted significant genes; (P,) each."""
    return pair.real_significant.sum(axis=1), pair.predicted_significant.sum(axis=1)


def counts_correlation(
    pair: TablePair, *, gated: bool = False, worst: float | None = None, fdr_threshold: float | None = None
) -> Values:
    """Compute Spearman's correlation over perturbations of the real and the predicted number of significant genes.

    Parameters
    ----------
    pair : real and predicted tables of differential expression
    gated : require at least 10 perturbations with a significant gene in the real data
    worst : value if the predicted numbers are constant while the real ones are not; if None, the metric is undefined
        then
    fdr_threshold : threshold of the adjusted p-value; if None, that of `pair`

    Returns
    -------
    Values
        One value in [-1, 1], over the perturbations with a significant gene in the real data; without `gated` 1 if
        there are none.

    Examples
    --------
    >>> from gpubench.metrics.perturbation.tables import expression_table, pair_tables
    >>> table = expression_table({"target": ["A", "B", "B"], "feature": ["x", "x", "y"], "fdr": [0.01] * 3,
    ...                           "log2_fold_change": [1, 1, 1], "p_value": [0.01] * 3})
    >>> round(counts_correlation(pair_tables(table, table, {})).whole, 6)
    1.0
    """
    pair = with_overrides(pair, fdr_threshold, None)
    real, predicted = _counts(pair)

    def correlate(rows: I64) -> float | Reason:
        rows = rows[real[rows] > 0]
        if gated and len(rows) < MIN_GENES:
            return FEW_PERTURBATIONS_SIGNIFICANT
        if len(rows) == 0:
            return 1.0
        if np.ptp(real[rows]) == 0:
            return CONSTANT
        value = spearman(real[rows], predicted[rows])
        return (CONSTANT if worst is None else worst) if math.isnan(value) else value

    def resampled(rows: I64) -> float:
        answer = correlate(rows)
        return math.nan if isinstance(answer, Reason) else answer

    return overall_value(pair.n, correlate(np.arange(pair.n)), resampled)


def recall(pair: TablePair, *, gated: bool = False, fdr_threshold: float | None = None) -> Values:
    """Compute the share of the significant genes of the real data that are significant in the prediction.

    Parameters
    ----------
    pair : real and predicted tables of differential expression
    gated : require at least 10 significant genes in the real data; otherwise one is enough
    fdr_threshold : threshold of the adjusted p-value; if None, that of `pair`

    Returns
    -------
    Values
        In [0, 1]; undefined where there are too few significant genes.

    Examples
    --------
    >>> from gpubench.metrics.perturbation.tables import expression_table, pair_tables
    >>> table = expression_table({"target": ["A"], "feature": ["x"], "log2_fold_change": [3], "p_value": [0.01],
    ...                           "fdr": [0.01]})
    >>> recall(pair_tables(table, table, {})).values
    array([1.])
    """
    pair = with_overrides(pair, fdr_threshold, None)
    real, both = _counts(pair)[0], (pair.real_significant & pair.predicted_significant).sum(axis=1)
    return for_each(pair.n, lambda p: _gate(int(real[p]), gated=gated) or both[p] / real[p])


def _gate(n_real: int, *, gated: bool) -> Reason | None:
    """Return the reason why a metric over the significant genes of the real data is undefined, or None."""
    if gated:
        return FEW_SIGNIFICANT if n_real < MIN_GENES else None
    return None if n_real else NO_SIGNIFICANT


Adjusted = Literal["recall", "precision", "mcc", "overlap"]


def adjusted_agreement(pair: TablePair, *, kind: Adjusted = "mcc") -> Values:
    r"""Compute an agreement of real and predicted significant genes that is 0 on average for random genes.

    With a and b the numbers of significant genes in the real data and in the prediction, t the number of genes that are
    significant in both, and g the number of all tested genes:

    .. math:: \text{recall: } \frac{t}{a} - \frac{b - t}{g - a}, \quad
              \text{precision: } \frac{t}{b} - \frac{a - t}{g - b}, \quad
              \text{mcc: } \frac{t g - a b}{\sqrt{a b (g - a)(g - b)}}

    Parameters
    ----------
    pair : real and predicted tables of differential expression
    kind : agreement to compute; "overlap" is the mcc with only the first a significant genes of the prediction

    Returns
    -------
    Values
        In [-1, 1]. Except for "recall", it is -1 if no gene or every gene is significant in the prediction. Except for
        "precision", it is undefined if fewer than 10 genes or all genes are significant in the real data.

    References
    ----------
    Matthews (1975), doi:10.1016/0005-2795(75)90109-9; Youden (1950).

    Examples
    --------
    >>> from gpubench.metrics.perturbation.tables import expression_table, pair_tables
    >>> rows = {"target": ["A"] * 20, "feature": range(20), "log2_fold_change": [1] * 20, "p_value": [0.01] * 20,
    ...         "fdr": [0.01] * 10 + [1] * 10}
    >>> table = expression_table(rows)
    >>> adjusted_agreement(pair_tables(table, table, {})).values
    array([1.])
    """

    def agreement(p: int) -> float | Reason:
        real, predicted = pair.real_significant[p], pair.predicted_significant[p]
        if kind == "overlap":
            first = pair.predicted_ranked[p][: int(real.sum())]
            predicted = np.zeros_like(predicted)
            predicted[first] = True
        a, b, t = int(real.sum()), int(predicted.sum()), int((real & predicted).sum())
        g = int(pair.either_tested[p])
        if kind != "precision" and (a < MIN_GENES or a == g):
            return FEW_SIGNIFICANT if a < MIN_GENES else ALL_SIGNIFICANT
        if kind == "recall":
            return t / a - (b - t) / (g - a)
        if not 0 < b < g:
            return -1.0
        if kind == "precision":
            return t / b - (a - t) / (g - b)
        return (t * g - a * b) / math.sqrt(a * b * (g - a) * (g - b))

    return for_each(pair.n, agreement)


def jaccard_index(pair: TablePair) -> Values:
    r"""Compute the share of genes significant in both real data and prediction among those significant in either.

    .. math:: |A \cap B| / |A \cup B|

    Parameters
    ----------
    pair : real and predicted tables of differential expression

    Returns
    -------
    Values
        In [0, 1]; 1 if no gene is significant in either. The gene that the perturbation targets is left out.

    Examples
    --------
    >>> from gpubench.metrics.perturbation.tables import expression_table, pair_tables
    >>> table = expression_table({"target": ["A"], "feature": ["x"], "log2_fold_change": [3], "p_value": [0.01],
    ...                           "fdr": [0.01]})
    >>> jaccard_index(pair_tables(table, table, {})).values
    array([1.])
    """
    real, predicted = pair.real_significant & pair.not_own, pair.predicted_significant & pair.not_own
    both, either = (real & predicted).sum(axis=1), (real | predicted).sum(axis=1)
    return each_value(np.divide(both, either, out=np.ones(pair.n), where=either > 0).tolist())


def area(pair: TablePair, *, curve: Literal["pr", "roc"] = "pr", gated: bool = False) -> Values:
    """Compute the area under the precision-recall or ROC curve of predicted p-values for the real significant genes.

    Parameters
    ----------
    pair : real and predicted tables of differential expression; genes are scored by `TablePair.evidence`
    curve : "pr" for average precision, "roc" for the area under the receiver operating characteristic
    gated : require at least 10 significant genes in the real data; otherwise one is enough

    Returns
    -------
    Values
        In [0, 1]; undefined where too few or all genes are significant in the real data.

    Examples
    --------
    >>> from gpubench.metrics.perturbation.tables import expression_table, pair_tables
    >>> table = expression_table({"target": ["A"] * 2, "feature": ["x", "y"], "log2_fold_change": [3, 1],
    ...                           "p_value": [0.01, 0.5], "fdr": [0.02, 0.5]})
    >>> area(pair_tables(table, table, {})).values
    array([1.])
    """
    compute = average_precision if curve == "pr" else roc_area

    def value(p: int) -> float | Reason:
        labelled = pair.real.tested[p]
        positive = pair.real_significant[p, labelled]
        if gated and positive.sum() < MIN_GENES:
            return FEW_SIGNIFICANT
        if positive.all() or not positive.any():
            return ALL_SIGNIFICANT if gated else ONE_CLASS
        return min(max(compute(positive, pair.evidence[p, labelled]), 0.0), 1.0)

    return for_each(pair.n, value)

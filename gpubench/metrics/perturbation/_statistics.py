"""Small statistics on the host: ranks, correlations, areas under curves, agreement of clusterings."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.core.types import F64, Bools


def average_ranks(values: NDArray[Any]) -> F64:
    """Rank values from 1; equal values share their mean rank."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    sizes = np.diff(np.append(starts, len(values)))
    ranks = np.empty(len(values))
    ranks[order] = np.repeat(starts + (sizes + 1) / 2, sizes)
    return ranks


def pearson(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Compute Pearson's correlation of two vectors; NaN if one is constant or has a value that is not finite."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if len(a) < 2 or not (np.isfinite(a).all() and np.isfinite(b).all()) or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    x, y = a - a.mean(), b - b.mean()
    # Scaled by their lengths first: products of very small numbers would vanish
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    return float(np.clip(x @ y, -1, 1))


def spearman(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Compute Spearman's correlation of two vectors; NaN if one is constant or has NaN."""
    if len(a) < 2 or np.isnan(a).any() or np.isnan(b).any():
        return math.nan
    return pearson(average_ranks(a), average_ranks(b))


def average_precision(positive: Bools, score: NDArray[Any]) -> float:
    """Compute average precision: the sum of precision times gain in recall down the ranking. Ties are one step."""
    order = np.argsort(-score, kind="stable")
    ordered, hits = score[order], np.cumsum(positive[order])
    last = np.flatnonzero(np.r_[ordered[1:] != ordered[:-1], True])
    true, called = hits[last], last + 1
    return float((np.diff(true, prepend=0) * (true / called)).sum() / true[-1])


def roc_area(positive: Bools, score: NDArray[Any]) -> float:
    """Compute the area under the ROC curve: the probability that a positive scores above a negative, ties one half."""
    n = int(positive.sum())
    ranks = average_ranks(score)
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(score) - n)))


def adjusted_mutual_information(counts: NDArray[Any]) -> float:
    """Compute the adjusted mutual information of two clusterings from their contingency table.

    It is corrected for chance, and normalised by the mean of the two entropies. It is 1 if both clusterings are a
    single cluster, or if every cluster of both has one member.
    """
    counts = np.asarray(counts, np.float64)
    rows, columns, n = counts.sum(axis=1), counts.sum(axis=0), counts.sum()
    if len(rows) == len(columns) == 1 or len(rows) == len(columns) == n:
        return 1.0
    filled = counts > 0
    joint = counts[filled] / n
    information = float((joint * np.log(joint / np.outer(rows / n, columns / n)[filled])).sum())
    chance = _expected_information(rows, columns, n)
    mean_entropy = (_entropy(rows / n) + _entropy(columns / n)) / 2
    denominator = mean_entropy - chance
    tiny = float(np.finfo(np.float64).eps)
    denominator = min(denominator, -tiny) if denominator < 0 else max(denominator, tiny)
    return (information - chance) / denominator


def _entropy(shares: F64) -> float:
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


def _expected_information(rows: F64, columns: F64, n: float) -> float:
    """Compute the expected mutual information of random clusterings with these cluster sizes."""
    from scipy.special import gammaln

    total = 0.0
    for a in rows:
        for b in columns:
            k = np.arange(max(1.0, a + b - n), min(a, b) + 1)
            log_chance = (
                gammaln(a + 1)
                + gammaln(b + 1)
                + gammaln(n - a + 1)
                + gammaln(n - b + 1)
                - gammaln(n + 1)
                - gammaln(k + 1)
                - gammaln(a - k + 1)
                - gammaln(b - k + 1)
                - gammaln(n - a - b + k + 1)
            )
            total += float((k / n * np.log(n * k / (a * b)) * np.exp(log_chance)).sum())
    return total

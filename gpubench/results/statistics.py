"""Statistics of per-cell values by group of cells, and 95% intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.core.scores import CellColumn
    from gpubench.core.types import Labels

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, slots=True)
class GroupStatistics:
    """Number, mean and `QUANTILES` of the values of one group of cells."""

    n: int
    mean: float
    quantiles: tuple[float, ...]


def group_statistics(column: CellColumn, labels: Labels) -> dict[str, GroupStatistics]:
    """Return group name -> statistics of a column of per-cell values, for each group that has values."""
    counted = np.flatnonzero(~np.isnan(column.values))
    codes, values = labels.codes[counted], column.values[counted]
    order = np.lexsort((values, codes))
    sizes = np.bincount(codes, minlength=labels.n_classes)
    ascending = np.split(values[order].astype(np.float64), np.cumsum(sizes)[:-1])
    found = {}
    for name, own in zip(labels.names, ascending, strict=True):
        if len(own):
            ranks = np.array(QUANTILES) * (len(own) - 1)
            quantiles = np.interp(ranks, np.arange(len(own)), own).tolist()
            found[name] = GroupStatistics(len(own), float(own.mean()), tuple(quantiles))
    return found


def standard_error(column: CellColumn, labels: Labels | None) -> float | None:
    r"""Estimate the standard error of a score from the scatter of its per-cell values.

    The first formula holds for a mean over n cells, the second for a mean over L labels of the mean within each label.

    .. math:: SE^2 = \frac{s^2}{n}, \qquad SE^2 = \frac{1}{L^2} \sum_l \frac{s_l^2}{n_l}

    A label with one cell adds nothing, because its scatter is not known. Returns None if there are fewer than two
    values, or if the score is a mean over labels and `labels` is None.
    """
    if column.mean_over == "labels" and labels is None:
        return None
    counted = np.flatnonzero(~np.isnan(column.values))
    if len(counted) < 2:
        return None
    values = column.values[counted].astype(np.float64)
    if column.mean_over == "cells" or labels is None:
        return float(values.std(ddof=1) / np.sqrt(len(values)))
    codes = labels.codes[counted]
    sizes = np.bincount(codes)
    n = np.maximum(sizes, 1)
    deviations = values - (np.bincount(codes, weights=values) / n)[codes]
    variances = np.bincount(codes, weights=deviations**2) / np.maximum(n - 1, 1)
    return float(np.sqrt((variances / n)[sizes > 0].sum()) / np.count_nonzero(sizes))


def group_times(labels: Labels, times: NDArray[np.float64]) -> dict[str, float]:
    """Return time point -> time, sorted by time, since names sort as text ("10" before "9").

    `labels` has the time point of each cell, `times` its time as a number.
    """
    by_code = np.empty(labels.n_classes)
    by_code[labels.codes] = times
    return {labels.names[code]: float(by_code[code]) for code in np.argsort(by_code)}


def half_width(stderr: float, freedom: float | None) -> float:
    """Return half the width of the 95% confidence interval of a value with a standard error.

    It follows from Student's t distribution with `freedom` degrees of freedom, or, if that is None, from the normal
    distribution.

    Examples
    --------
    >>> round(half_width(1.0, 4), 2), round(half_width(1.0, None), 2)
    (2.78, 1.96)
    """
    from scipy.special import ndtri, stdtrit

    return stderr * float(ndtri(0.975) if freedom is None or math.isinf(freedom) else stdtrit(freedom, 0.975))


def half_width_of_difference(first: tuple[float, float | None], other: tuple[float, float | None]) -> float:
    r"""Return half the width of the 95% confidence interval of the difference of two independent values.

    .. math:: t_\nu \sqrt{s_1^2 + s_2^2}, \qquad \nu = \frac{(s_1^2 + s_2^2)^2}{s_1^4 / \nu_1 + s_2^4 / \nu_2}

    where each argument is (standard error s, its degrees of freedom nu), with None for infinitely many.

    References
    ----------
    Welch (1947), doi:10.1093/biomet/34.1-2.28.
    """
    squares = [stderr**2 for stderr, _ in (first, other)]
    shares = [square**2 / nu for square, (_, nu) in zip(squares, (first, other), strict=True) if nu is not None]
    freedom = sum(squares) ** 2 / sum(shares) if any(shares) else None
    return half_width(math.sqrt(sum(squares)), freedom)

"""Statistics of values of cells by group."""

from __future__ import annotations

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
    """Number of a group's values, their mean, and their `QUANTILES`."""

    n: int
    mean: float
    quantiles: tuple[float, ...]


def group_statistics(column: CellColumn, labels: Labels) -> dict[str, GroupStatistics]:
    """Compute the statistics of each group that has values."""
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
    r"""Compute the standard error of a mean over cells, or over labels, from the scatter of the cells' values.

    .. math:: SE^2 = \frac{s^2}{n}, \qquad SE^2 = \frac{1}{L^2} \sum_l \frac{s_l^2}{n_l}

    A label with one cell adds nothing, because its scatter is not known. None for a mean over labels without `labels`,
    and for fewer than two values.
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
    """Return the time of each time point, in order of time ("10" comes before "9" in order of names)."""
    by_code = np.empty(labels.n_classes)
    by_code[labels.codes] = times
    return {labels.names[code]: float(by_code[code]) for code in np.argsort(by_code)}

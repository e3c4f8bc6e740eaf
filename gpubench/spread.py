"""How the values of cells spread within groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.cells import CellColumn
    from gpubench.types import Labels

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, slots=True)
class Spread:
    """The values of a group's cells: how many, their mean, and `QUANTILES` of them."""

    n: int
    mean: float
    quantiles: tuple[float, ...]


def spreads(column: CellColumn, labels: Labels) -> dict[str, Spread]:
    """The spread of each group that has cells that count."""
    counted = np.flatnonzero(~np.isnan(column.values))
    codes, values = labels.codes[counted], column.values[counted]
    order = np.lexsort((values, codes))
    sizes = np.bincount(codes, minlength=labels.n_classes)
    ascending = np.split(values[order].astype(np.float64), np.cumsum(sizes)[:-1])
    return {
        name: Spread(len(own), float(own.mean()), tuple(_quantiles(own)))
        for name, own in zip(labels.names, ascending, strict=True)
        if len(own)
    }


def standard_error(column: CellColumn, labels: Labels | None) -> float | None:
    r"""Standard error of a score over cells drawn anew, from the scatter of the values that it is the mean of.

    .. math:: SE^2 = \frac{s^2}{n}, \qquad SE^2 = \frac{1}{L^2} \sum_l \frac{s_l^2}{n_l}

    of a mean over cells, and of a mean over labels, to which a label of one cell adds nothing, since its scatter is not
    known. None where a mean over labels comes without them, and for fewer than two values.
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


def _quantiles(ascending: NDArray[np.float64]) -> list[float]:
    places = np.array(QUANTILES) * (len(ascending) - 1)
    return np.interp(places, np.arange(len(ascending)), ascending).tolist()  # type: ignore[no-any-return]

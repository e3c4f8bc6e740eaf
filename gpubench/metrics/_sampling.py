"""Means over cells estimated from some of them, with the standard error of the estimate."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


WANTED_STDERR = 0.002
"""Standard error of a score that as many cells are drawn for as it takes."""

PILOT_CELLS = 2000
"""Cells that tell how much the values scatter, shared by the labels."""

MIN_CELLS = 30
"""Cells that are drawn of a label at least, where it has as many."""

MARGIN = 1.1
"""Times as many cells are drawn as the scatter of the pilot asks for, which may be too small by chance."""


def mean_of_labels(
    codes: NDArray[np.int32],
    weights: NDArray[np.float64],
    values_of: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    seed: int,
) -> tuple[float, float, int]:
    r"""Estimate a weighted mean over labels of the mean over each label's cells, from a stratified random sample.

    .. math:: \hat\mu = \sum_l w_l \bar y_l, \qquad
        SE^2 = \sum_l w_l^2 \Big(1 - \frac{m_l}{n_l}\Big) \frac{s_l^2}{m_l}

    A pilot tells the scatter s_l, and the rest is drawn in proportion to w_l s_l (Neyman's allocation).

    Parameters
    ----------
    codes : (n,) the label of each cell, 0 ... L - 1, each with cells
    weights : (L,) of the labels, summing to 1
    values_of : the values of some cells, (m,)
    seed : of the sample

    Returns
    -------
    the estimate, its standard error, and how many cells were drawn

    References
    ----------
    Cochran (1977), Sampling Techniques, 3rd edition, chapter 5.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(codes))
    order = order[np.argsort(codes[order], kind="stable")]  # each label's cells in random order
    n_cells = np.bincount(codes)
    starts = np.cumsum(n_cells) - n_cells
    drawn = np.minimum(n_cells, np.maximum(MIN_CELLS, PILOT_CELLS * weights).astype(np.int64))
    pilot = [order[start : start + m] for start, m in zip(starts, drawn, strict=True)]
    values = np.split(values_of(np.concatenate(pilot)), np.cumsum(drawn)[:-1])
    scatter = weights * np.array([own.std(ddof=1) if len(own) > 1 else 0.0 for own in values])
    wanted = MARGIN * scatter.sum() * scatter / WANTED_STDERR**2
    more = np.clip(np.ceil(wanted).astype(np.int64), drawn, n_cells) - drawn
    if more.any():
        rest = [order[start + m : start + m + k] for start, m, k in zip(starts, drawn, more, strict=True)]
        added = np.split(values_of(np.concatenate(rest)), np.cumsum(more)[:-1])
        values = [np.concatenate(both) for both in zip(values, added, strict=True)]
    means = np.array([own.mean() for own in values])
    variances = np.array([_variance_of_mean(own, n) for own, n in zip(values, n_cells, strict=True)])
    n_drawn = sum(len(own) for own in values)
    return float(weights @ means), float(np.sqrt(weights**2 @ variances)), n_drawn


def _variance_of_mean(values: NDArray[np.float64], n: int) -> float:
    m = len(values)
    return float((1 - m / n) * values.var(ddof=1) / m) if 1 < m < n else 0.0

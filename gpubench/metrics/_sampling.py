"""Scores estimated from a stratified sample of cells, with the standard error of the estimate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.scores import Score

if TYPE_CHECKING:
    from numpy.typing import NDArray

WANTED_STDERR = 0.002
"""Desired standard error of an estimated score, from which the number of cells to draw follows."""

PILOT_CELLS = 2000
"""Number of cells of the pilot sample, from which the standard deviation of the values is estimated."""

MIN_CELLS = 30
"""Smallest number of cells drawn from a label; a label with fewer cells is used whole."""

MARGIN = 1.1
"""Factor on the sample size that follows from the pilot, whose standard deviation may be too small by chance."""


def estimated_score(
    values_of: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    codes: NDArray[np.int32],
    rows: NDArray[np.int64] | None = None,
    *,
    equal_labels: bool,
    seed: int,
    remedy: str,
    note: str = "",
    params: Mapping[str, Any],
) -> Score:
    """Estimate a mean over cells from a stratified random sample of cells.

    Parameters
    ----------
    values_of : function of row numbers that returns the values of these cells, each at most 1
    codes : (n,) label of each cell; every label is sampled
    rows : row numbers of the cells that count; if None, all cells
    equal_labels : estimate the mean over labels of the mean of each label's cells, instead of the mean over all cells
    seed : random seed of the sample
    remedy : end of the note, what exact=True does instead
    note, params : note and parameters of the score
    """
    rows = np.arange(len(codes)) if rows is None else rows
    cells = np.full(len(codes), np.nan, np.float32)

    def record(drawn: NDArray[np.int64]) -> NDArray[np.float64]:
        values = values_of(rows[drawn])
        cells[rows[drawn]] = values
        return values

    strata = np.unique(codes[rows], return_inverse=True)[1].astype(np.int32)
    sizes = np.bincount(strata)
    weights = np.full(len(sizes), 1 / len(sizes)) if equal_labels else sizes / sizes.sum()
    value, stderr, n = mean_of_labels(strata, weights, record, seed)
    notes = (note, f"estimated from {n:,} of {len(rows):,} cells; exact=True {remedy}")
    return Score(
        min(1.0, value),
        n=n,
        stderr=stderr,
        approximate=True,
        params=params,
        note="; ".join(filter(None, notes)),
        cells=cells,
    )


def mean_of_labels(
    codes: NDArray[np.int32],
    weights: NDArray[np.float64],
    values_of: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    seed: int,
) -> tuple[float, float, int]:
    r"""Estimate a weighted mean over labels of the mean over each label's cells, from a stratified random sample.

    .. math:: \hat\mu = \sum_l w_l \bar y_l, \qquad
        SE^2 = \sum_l w_l^2 \Big(1 - \frac{m_l}{n_l}\Big) \frac{s_l^2}{m_l}

    The standard deviation s_l of the values of label l is estimated from a pilot sample; the other cells are drawn in
    proportion to w_l s_l (Neyman's allocation); see Cochran (1977), Sampling Techniques, 3rd edition, chapter 5.
    `codes` (n,) are the labels of the cells, `weights` (L,) sum to 1, and `values_of` returns the values of the cells
    with the given row numbers. Returns the estimate, its standard error, and the number of cells drawn.
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
    variances = [
        (1 - len(own) / n) * own.var(ddof=1) / len(own) if 1 < len(own) < n else 0.0
        for own, n in zip(values, n_cells, strict=True)
    ]
    return float(weights @ means), float(np.sqrt(weights**2 @ np.array(variances))), sum(map(len, values))

"""Highly variable genes: those whose dispersion is large among genes of similar mean."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_array

_N_BINS = 20
_SMALLEST_MEAN = 1e-12
_EDGE = 1e-3
"""Share of the range of means by which the first bin reaches below the smallest."""


def highly_variable_genes(
    log_blocks: Iterable[tuple[int, csr_array]], shape: tuple[int, int], n_top: int
) -> NDArray[np.intp]:
    """Choose the genes of highest normalised dispersion, as Seurat does.

    The dispersion of a gene is log(variance / mean) of its normalised counts. It is standardised by mean and standard
    deviation over the genes of its bin, one of 20 of equal width in log(1 + mean). A gene alone in its bin gets 1.

    Parameters
    ----------
    log_blocks : (first row, log(1 + normalised counts)) that together have `shape`
    shape : (cells, genes)
    n_top : how many to choose; genes tied with the last of them are chosen too, constant genes never

    Returns
    -------
    Ascending columns

    References
    ----------
    Satija et al. (2015), doi:10.1038/nbt.3192.
    """
    means, variances = _moments(log_blocks, shape)
    scores = normalized_dispersions(means, variances)
    ranked = np.sort(scores[~np.isnan(scores)])[::-1]
    if not len(ranked):
        return np.empty(0, np.intp)
    return np.flatnonzero(scores >= ranked[min(n_top, len(ranked)) - 1])


def _moments(
    log_blocks: Iterable[tuple[int, csr_array]], shape: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance (divisor n - 1) of each gene's normalised counts."""
    n, n_genes = shape
    sums, squares = np.zeros(n_genes), np.zeros(n_genes)
    for _, rows in log_blocks:
        counts = np.expm1(rows.data).astype(np.float64)
        sums += np.bincount(rows.indices, weights=counts, minlength=n_genes)
        squares += np.bincount(rows.indices, weights=counts**2, minlength=n_genes)
    means = sums / n
    return means, np.maximum(squares / n - means**2, 0) * (n / max(n - 1, 1))


def normalized_dispersions(means: NDArray[np.float64], variances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standardise log(variance / mean) within bins of the mean; NaN where a gene does not vary."""
    with np.errstate(divide="ignore"):
        dispersions = np.log(variances / np.where(means == 0, _SMALLEST_MEAN, means))
    dispersions[np.isneginf(dispersions)] = np.nan
    bins = _bins_of(np.log1p(means))
    varies = ~np.isnan(dispersions)
    scores = np.full(len(means), np.nan)
    for which in np.unique(bins[varies]):
        genes = np.flatnonzero((bins == which) & varies)
        inside = dispersions[genes]
        if len(genes) == 1:
            scores[genes] = 1.0
        elif (spread := inside.std(ddof=1)) > 0:
            scores[genes] = (inside - inside.mean()) / spread
    return scores


def _bins_of(log_means: NDArray[np.float64]) -> NDArray[np.intp]:
    """Number the bin of each gene; a bin holds its upper edge."""
    low, high = log_means.min(), log_means.max()
    edges = np.linspace(low, high, _N_BINS + 1)
    edges[0] -= _EDGE * (high - low) or _EDGE
    return np.searchsorted(edges, log_means, side="left") - 1

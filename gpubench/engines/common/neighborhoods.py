"""Statistics of the neighbours of each cell, for any array module: the kernels of `Engine.map_neighbors`.

A kernel computes one value for each cell of a block. It is called as `kernel(xp, knn, cells, *columns)` with the array
module, the neighbours of the block's cells, the indices (rows,) of these cells, and columns with values of all n cells.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, Protocol

import numpy as np

from gpubench.core.types import Array, Knn


class NeighborKernel(Protocol):
    """Type of the functions that `Engine.map_neighbors` accepts: compute one value per cell from its neighbours."""

    __name__: str

    def __call__(self, xp: ModuleType, knn: Knn, cells: Array, /, *columns: Any) -> Array:
        """Return one float64 value for each cell of a block, (rows,).

        Parameters
        ----------
        xp : array module, NumPy or CuPy
        knn : neighbours of the block's cells, (rows, k)
        cells : (rows,) indices of the block's cells among all n cells
        columns : values of all n cells, indexed by the neighbours, and further parameters
        """


BYTES_PER_NEIGHBOR = {"neighbor_entropy": 4, "neighbor_chi_square": 4}
"""Bytes that a kernel reads per neighbour, by name of the kernel; 8 for kernels that are not listed."""

WEIGHT_UNIT = 2.0**40
"""Weights are rounded to multiples of the inverse before they are summed, so that sums are exact in any order."""

ENTROPY_TOLERANCE = 1e-10
NEWTON_STEPS = 100
MIN_SLOPE = 1e-12
MAX_STEP = 2.0
"""Largest step in log(beta); keeps Newton's method from jumping to where the entropy is flat."""


def neighbor_entropy(xp: ModuleType, knn: Knn, cells: Array, codes: Array, n_codes: int) -> Array:
    """Compute the entropy (nats) of the codes of each cell and its k neighbours.

    H_i = -sum_c p_ic log p_ic, where p_ic is the share of code c among the k + 1 cells. It is computed from the counts
    n_ic of the codes as H_i = log(k + 1) - (sum_c n_ic log n_ic) / (k + 1).

    Parameters
    ----------
    codes : (n,) int32 in [0, n_codes)
    """
    m = knn.k + 1
    count = xp.arange(m + 1)
    count_log_count = count * xp.log(xp.maximum(count, 1))
    counts = _counts(xp, knn, cells, codes, n_codes)
    entropy: Array = xp.maximum(np.log(m) - count_log_count[counts].sum(axis=1) / m, 0)
    return entropy


def neighbor_chi_square(xp: ModuleType, knn: Knn, cells: Array, codes: Array, shares: Array) -> Array:
    """Compute Pearson's chi-square statistic of the codes of each cell and its k neighbours.

    sum_c (o_ic - e_c)^2 / e_c, where o_ic is the number of cells with code c among the k + 1 cells, and
    e_c = (k + 1) shares_c is the expected number.

    Parameters
    ----------
    codes : (n,) int32 in [0, n_codes)
    shares : (n_codes,) float64, share of each code among all cells, greater than 0
    """
    expected = (knn.k + 1) * shares
    apart = _counts(xp, knn, cells, codes, len(shares)) - expected
    statistics: Array = (xp.square(apart) / expected).sum(axis=1)
    return statistics


def _counts(xp: ModuleType, knn: Knn, cells: Array, codes: Array, n_codes: int) -> Array:
    """Count how often each code occurs among a cell and its neighbours; (rows, n_codes)."""
    n_rows = len(cells)
    first = xp.arange(n_rows) * n_codes
    bins = first[:, None] + codes[knn.indices]
    counts = xp.bincount(bins.ravel(), minlength=n_rows * n_codes)
    counts[first + codes[cells]] += 1
    return counts.reshape(n_rows, n_codes)


def neighbor_value_distance(
    xp: ModuleType, knn: Knn, cells: Array, values: Array, k_per_cell: Array | None = None
) -> Array:
    """Compute the mean absolute difference between a cell's value and those of its neighbours.

    Parameters
    ----------
    values : (n,) float64, value of each cell
    k_per_cell : (n,) int64 in [1, knn.k], number of nearest neighbours to use for each cell. If None, all
    """
    apart = xp.abs(values[knn.indices] - values[cells, None])
    if k_per_cell is None:
        return apart.sum(axis=1) / knn.k
    counted = k_per_cell[cells]
    apart[xp.arange(knn.k) >= counted[:, None]] = 0
    return apart.sum(axis=1) / counted


def neighbor_simpson(
    xp: ModuleType,
    knn: Knn,
    cells: Array,  # noqa: ARG001 - a cell does not count for itself
    codes: Array,
    n_codes: int,
    perplexity: float,
) -> Array:
    """Compute Simpson's index of the codes around each cell: the probability that two random neighbours share a code.

    sum_c (sum_{j in N_i, c_j = c} w_ij)^2, in [1 / n_codes, 1]. The weights w_ij of the k neighbours are proportional
    to exp(-beta_i d_ij), with beta_i such that their entropy is log(perplexity), see `perplexity_weights`.

    Parameters
    ----------
    codes : (n,) int32 in [0, n_codes)
    perplexity : effective number of neighbours, at least 1

    References
    ----------
    Korsunsky et al. (2019), doi:10.1038/s41592-019-0619-0.
    """
    n_rows = len(knn.indices)
    weights = perplexity_weights(xp, knn.distances.astype(np.float64), perplexity)
    weights = xp.rint(weights * WEIGHT_UNIT)
    bins = xp.arange(n_rows)[:, None] * n_codes + codes[knn.indices]
    sums = xp.bincount(bins.ravel(), weights=weights.ravel(), minlength=n_rows * n_codes)
    shares = sums.reshape(n_rows, n_codes) / weights.sum(axis=1)[:, None]
    index: Array = xp.square(shares).sum(axis=1)
    return index


def perplexity_weights(xp: ModuleType, distances: Array, perplexity: float) -> Array:
    """Compute weights proportional to exp(-beta d), which sum to 1 in each row and have the entropy log(perplexity).

    In rows where no beta achieves this entropy, the limit is returned: equal weights of all k neighbours if
    k <= perplexity; equal weights of the nearest neighbours if at least `perplexity` are at the same smallest distance.

    Parameters
    ----------
    distances : (m, k) float64, ascending

    Returns
    -------
    (m, k) float64
    """
    k = distances.shape[1]
    beyond = distances - distances[:, :1]
    if perplexity >= k:
        return xp.full(beyond.shape, 1.0 / k)
    nearest = beyond == 0
    n_nearest = nearest.sum(axis=1)
    weights = nearest / n_nearest[:, None]
    rows = xp.flatnonzero(n_nearest < perplexity)
    if len(rows):
        beyond = beyond[rows]
        beyond /= beyond.mean(axis=1)[:, None]
        beta = xp.exp(_log_betas(xp, beyond, float(np.log(perplexity))))
        raw = xp.exp(-beta[:, None] * beyond)
        weights[rows] = raw / raw.sum(axis=1)[:, None]
    return weights


def _log_betas(xp: ModuleType, beyond: Array, target: float) -> Array:
    """Find log(beta) of each row such that the entropy is `target`, by Newton's method with bisection as a fallback."""
    m = len(beyond)
    log_beta, low, high = xp.zeros(m), xp.full(m, -np.inf), xp.full(m, np.inf)
    rows = xp.arange(m)
    for _ in range(NEWTON_STEPS):
        surplus, slope = _entropy(xp, beyond[rows], log_beta[rows])
        surplus -= target
        is_open = xp.abs(surplus) > ENTROPY_TOLERANCE
        rows, surplus, slope = rows[is_open], surplus[is_open], slope[is_open]
        if not len(rows):
            break
        t = log_beta[rows]
        low[rows] = xp.where(surplus > 0, t, low[rows])
        high[rows] = xp.where(surplus > 0, high[rows], t)
        step = surplus / xp.maximum(slope, MIN_SLOPE)
        new = t + xp.minimum(xp.maximum(step, -MAX_STEP), MAX_STEP)
        middle = (low[rows] + high[rows]) / 2
        inside = (new > low[rows]) & (new < high[rows])
        log_beta[rows] = xp.where(inside | ~xp.isfinite(middle), new, middle)
    return log_beta


def _entropy(xp: ModuleType, beyond: Array, log_beta: Array) -> tuple[Array, Array]:
    """Return the entropy of each row's weights, and its negative derivative with respect to log(beta)."""
    beta = xp.exp(log_beta)
    raw = xp.exp(-beta[:, None] * beyond)
    total = raw.sum(axis=1)
    raw *= beyond
    mean = raw.sum(axis=1) / total
    raw *= beyond
    variance = raw.sum(axis=1) / total - xp.square(mean)
    return xp.log(total) + beta * mean, xp.square(beta) * variance

"""Values of neighbourhoods, in array code that runs on any device: the functions for `Engine.map_neighbors`.

Each is given a block of rows and computes one value for each: `kernel(xp, knn, cells, *columns)` with the array module,
the neighbours of the block's cells, (rows,) which cells these are, and columns of all n cells.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, Protocol

import numpy as np

from gpubench.core.types import Array, Knn


class NeighborKernel(Protocol):
    """A function for `Engine.map_neighbors`."""

    __name__: str

    def __call__(self, xp: ModuleType, knn: Knn, cells: Array, /, *columns: Any) -> Array:
        """Compute the (rows,) float64 values of a block of rows."""


BYTES_PER_NEIGHBOR = {"neighbor_entropy": 4, "neighbor_chi_square": 4}
"""Bytes of columns and distances that a kernel reads for each neighbour; 8 unless it is named here."""

WEIGHT_UNIT = 2.0**40
"""Weights are rounded to multiples of 1 / this before they are summed: such sums are exact in any order."""

ENTROPY_TOLERANCE = 1e-10
NEWTON_STEPS = 100
MIN_SLOPE = 1e-12
MAX_STEP = 2.0
"""Largest step in log(beta); keeps Newton's method from jumping to where the entropy is flat."""


def neighbor_entropy(xp: ModuleType, knn: Knn, cells: Array, codes: Array, n_codes: int) -> Array:
    """Compute the entropy (nats) of the codes among k + 1 cells: the cell itself and its k neighbours.

    H_i = -sum_c p_ic log p_ic with p_ic the share of code c. With c_b cells of code b among m,
    H = log m - (sum of c_b log c_b) / m.

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
    """Compute Pearson's statistic of the codes among k + 1 cells against the shares of codes among all cells.

    sum_c (o_ic - e_c)^2 / e_c with o_ic the cells of code c among the cell itself and its k neighbours, and
    e_c = (k + 1) shares_c.

    Parameters
    ----------
    codes : (n,) int32 in [0, n_codes)
    shares : (n_codes,) float64, each above 0
    """
    expected = (knn.k + 1) * shares
    apart = _counts(xp, knn, cells, codes, len(shares)) - expected
    statistics: Array = (xp.square(apart) / expected).sum(axis=1)
    return statistics


def _counts(xp: ModuleType, knn: Knn, cells: Array, codes: Array, n_codes: int) -> Array:
    """Count the codes of each cell and its neighbours; (rows, n_codes)."""
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
    values : (n,) float64
    k_per_cell : (n,) int64, how many of its nearest neighbours count for each cell, in [1, knn.k]; None: all
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
    """Compute Simpson's index of the codes around each cell: the chance that two weighted neighbours share a code.

    sum_c (sum_{j in N_i, c_j = c} w_ij)^2 with w_ij proportional to exp(-beta_i d_ij) over the k neighbours, and
    beta_i such that the entropy of the weights is log(perplexity), see `perplexity_weights`; in [1 / n_codes, 1].

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
    """Compute weights proportional to exp(-beta d) that sum to 1, with beta such that the entropy is log(perplexity).

    If no beta achieves that, the limit is taken: equal weights of all neighbours if there are not more than
    `perplexity`, else of the nearest ones if as many or more are at the same smallest distance.

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
    """Find log(beta) of each row by Newton's method, in a bracket, on the entropy, which falls with beta."""
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
    """Return the entropy of each row's weights, and how fast it falls with log(beta)."""
    beta = xp.exp(log_beta)
    raw = xp.exp(-beta[:, None] * beyond)
    total = raw.sum(axis=1)
    raw *= beyond
    mean = raw.sum(axis=1) / total
    raw *= beyond
    variance = raw.sum(axis=1) / total - xp.square(mean)
    return xp.log(total) + beta * mean, xp.square(beta) * variance

"""What a cell's neighbours say of a column of codes, on any device: Simpson's index and the chi-square statistic.

Rows are worked on in pieces, so that threads can share them and what stands in memory is small. Weights are rounded to
multiples of 2^-40 before they are summed: such sums are exact, so that they do not depend on their order.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Protocol

import numpy as np

from gpubench.core.types import Array, Knn

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


class OverRows(Protocol):
    """How an engine runs pieces of rows."""

    def __call__(self, n: int, kernel: Callable[[int, int], None], width: int = 1, /) -> None:
        """Run `kernel(start, stop)` on pieces that cover n rows, of `width` values each."""


WEIGHT_UNIT = 2.0**40

ENTROPY_TOLERANCE = 1e-10
NEWTON_STEPS = 100
FLATTEST = 1e-12
MAX_STEP = 2.0
"""In log(beta); keeps Newton's method from leaving for where the entropy is flat."""


def neighbor_simpson(
    xp: ModuleType,
    knn: Knn,
    codes: NDArray[np.int32],
    n_codes: int,
    perplexity: float,
    over_rows: OverRows,
) -> Array:
    """See `Engine.neighbor_simpson`; (n,) float64 on the device."""
    n = len(knn.indices)
    of_cells, out = xp.asarray(codes), xp.empty(n)

    def measure(start: int, stop: int) -> None:
        rows = slice(start, stop)
        weights = perplexity_weights(xp, knn.distances[rows].astype(np.float64), perplexity)
        weights = xp.rint(weights * WEIGHT_UNIT)
        bins = xp.arange(stop - start)[:, None] * n_codes + of_cells[knn.indices[rows]]
        sums = xp.bincount(bins.ravel(), weights=weights.ravel(), minlength=(stop - start) * n_codes)
        shares = sums.reshape(stop - start, n_codes) / weights.sum(axis=1)[:, None]
        out[rows] = xp.square(shares).sum(axis=1)

    over_rows(n, measure, max(knn.k, n_codes))
    return out


def neighbor_chi_square(
    xp: ModuleType, knn: Knn, codes: NDArray[np.int32], shares: NDArray[np.float64], over_rows: OverRows
) -> Array:
    """See `Engine.neighbor_chi_square`; (n,) float64 on the device."""
    n, n_codes = len(knn.indices), len(shares)
    of_cells, out = xp.asarray(codes), xp.empty(n)
    expected = xp.asarray((knn.k + 1) * shares)

    def measure(start: int, stop: int) -> None:
        rows = slice(start, stop)
        first = xp.arange(stop - start) * n_codes
        bins = first[:, None] + of_cells[knn.indices[rows]]
        counts = xp.bincount(bins.ravel(), minlength=(stop - start) * n_codes)
        counts[first + of_cells[rows]] += 1
        apart = counts.reshape(stop - start, n_codes) - expected
        out[rows] = (xp.square(apart) / expected).sum(axis=1)

    over_rows(n, measure, max(knn.k, n_codes))
    return out


def perplexity_weights(xp: ModuleType, distances: Array, perplexity: float) -> Array:
    """Weights exp(-beta d) of each row, which sum to 1, with beta such that their entropy is log(perplexity).

    Where no beta does that the limit is taken: equal weights, of all neighbours where there are not more than
    `perplexity`, of the nearest where as many or more are at the same smallest distance.

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
        weights[rows] = _weights(xp, beyond, _log_betas(xp, beyond, float(np.log(perplexity))))
    return weights


def _weights(xp: ModuleType, beyond: Array, log_beta: Array) -> Array:
    weights = xp.exp(-xp.exp(log_beta)[:, None] * beyond)
    weights /= weights.sum(axis=1)[:, None]
    return weights


def _log_betas(xp: ModuleType, beyond: Array, target: float) -> Array:
    """log(beta) of each row by Newton's method on the entropy, which falls with beta, inside a bracket."""
    m = len(beyond)
    found, low, high = xp.zeros(m), xp.full(m, -np.inf), xp.full(m, np.inf)
    rows = xp.arange(m)
    for _ in range(NEWTON_STEPS):
        surplus, slope = _entropy(xp, beyond[rows], found[rows])
        surplus -= target
        is_open = xp.abs(surplus) > ENTROPY_TOLERANCE
        rows, surplus, slope = rows[is_open], surplus[is_open], slope[is_open]
        if not len(rows):
            break
        t = found[rows]
        low[rows] = xp.where(surplus > 0, t, low[rows])
        high[rows] = xp.where(surplus > 0, high[rows], t)
        step = surplus / xp.maximum(slope, FLATTEST)
        new = t + xp.minimum(xp.maximum(step, -MAX_STEP), MAX_STEP)
        middle = (low[rows] + high[rows]) / 2
        inside = (new > low[rows]) & (new < high[rows])
        found[rows] = xp.where(inside | ~xp.isfinite(middle), new, middle)
    return found


def _entropy(xp: ModuleType, beyond: Array, log_beta: Array) -> tuple[Array, Array]:
    """Entropy of each row's weights, and how fast it falls with log(beta)."""
    beta = xp.exp(log_beta)
    raw = xp.exp(-beta[:, None] * beyond)
    total = raw.sum(axis=1)
    raw *= beyond
    mean = raw.sum(axis=1) / total
    raw *= beyond
    variance = raw.sum(axis=1) / total - xp.square(mean)
    return xp.log(total) + beta * mean, xp.square(beta) * variance

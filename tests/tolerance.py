"""How far from the oracle is near enough: derived from what plain float32 NumPy does, not guessed."""

from __future__ import annotations

import numpy as np
import reference
from numpy.testing import assert_array_equal
from numpy.typing import ArrayLike, NDArray


def assert_as_good_as_plain(actual: ArrayLike, plain: ArrayLike, exact: ArrayLike, floor: float) -> None:
    """The largest error is at most twice that of plain float32, plus a floor; NaN exactly where the oracle has NaN."""
    actual, plain, exact = np.asarray(actual), np.asarray(plain), np.asarray(exact)
    assert actual.shape == exact.shape
    assert_array_equal(np.isnan(actual), np.isnan(exact), "undefined in other places than the oracle")
    error, allowed = largest_error(actual, exact), 2 * largest_error(plain, exact) + floor
    assert error <= allowed, f"error {error:.3g}; allowed {allowed:.3g}, of which plain float32 explains half"


def largest_error(values: NDArray[np.floating], exact: NDArray[np.floating]) -> float:
    defined = ~np.isnan(exact)
    return float(np.abs(values[defined] - exact[defined]).max(initial=0))


def plain_silhouette_widths(
    x: NDArray[np.float32], clusters: ArrayLike, groups: ArrayLike | None = None, metric: str = "euclidean"
) -> NDArray[np.float64]:
    """Silhouette widths from float32 distances |x - y|, or |u - v|^2 / 2 of unit vectors; their means in float64."""
    clusters = np.asarray(clusters)
    groups = np.zeros(len(x), int) if groups is None else np.asarray(groups)
    if metric == "cosine":
        norm = np.sqrt((x * x).sum(axis=1, keepdims=True))
        x = x / np.where(norm == 0, np.float32(1), norm)
    widths = np.full(len(x), np.nan)
    for group in np.unique(groups):
        inside = x[groups == group]
        squares = np.array([((inside - row) ** 2).sum(axis=1) for row in inside])
        d = np.sqrt(squares) if metric == "euclidean" else squares / 2
        widths[groups == group] = reference.silhouette_widths_from(d.astype(np.float64), clusters[groups == group])
    return widths

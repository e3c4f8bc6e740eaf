"""Shared parts of the neighbour searches: samples, recall, results, scaling of cells and bounds of rounding errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.core.types import F32, F64, I32, I64, Bools


SAMPLE = 256
"""Size of the sample of a part from which the direction of the part's cut is computed."""

POWER_STEPS = 3
"""Steps of the power iteration: the direction need not be exactly that of the largest variance."""


def locality_order(x: F32, scaling: Scaling, leaf: int, seed: int) -> I64:
    """Order cells so that close cells follow one another, by halving along the direction of largest variance.

    Returns
    -------
    (n,) permutation of the cells; each consecutive run of `leaf` cells (the last may be shorter) is one part
    """
    rng = np.random.default_rng(seed)
    leaves: list[I64] = []
    parts = [np.arange(len(x))]
    while parts:
        cells = parts.pop()
        if len(cells) <= leaf:
            leaves.append(cells)
            continue
        along = x[cells] @ principal_direction(
            scaling.rows(x[rng.choice(cells, min(len(cells), SAMPLE), replace=False)]), rng
        )
        n_leaves = -(-len(cells) // leaf)
        half = n_leaves // 2 * leaf
        order = np.argpartition(along, half)
        parts += [cells[order[half:]], cells[order[:half]]]  # the first half is split next
    return np.concatenate(leaves)


def principal_direction(sample: F32, rng: np.random.Generator) -> F32:
    """Estimate the first principal direction of a sample of centred and scaled cells by power iteration."""
    centred: F32 = sample - sample.mean(axis=0)
    direction: F32 = rng.standard_normal(centred.shape[1:]).astype(np.float32)
    for _ in range(POWER_STEPS):
        direction = centred.T @ (centred @ direction)
        length = np.linalg.norm(direction)
        if length > 0:  # otherwise all cells of the sample are copies, and any direction serves
            direction /= np.float32(length)
    return direction


RECALL_SAMPLE = 500
"""Number of sampled cells whose neighbours are also searched exactly, to measure recall."""


def draw_sample(n: int, seed: int, size: int | None = None) -> I64:
    """Draw `size` of n cells at random and return sorted indices. If None, as many as measuring recall needs."""
    size = RECALL_SAMPLE if size is None else size
    return np.sort(np.random.default_rng(seed).choice(n, min(n, size), replace=False))


def measure_recall(sample: NDArray[Any], exact: NDArray[Any], found: NDArray[Any]) -> float:
    """Return the recall of a search: the share of the true neighbours of a sample of cells that were found.

    Parameters
    ----------
    sample : (m,) indices of the sampled cells
    exact : (m, k + 1) nearest cells of each sampled cell, itself included unless k + 1 copies are as near
    found : (m, k) or more columns, the neighbours that the search found
    """
    m, k = len(exact), exact.shape[1] - 1
    hits = 0
    for cell, nearest, candidates in zip(sample, exact, found, strict=True):
        others = nearest[nearest != cell][:k]
        hits += len(np.intersect1d(others, candidates, assume_unique=True))
    return float(hits / (m * k))


Floats = Any  # an array of float32 or float64

CENTER_ROWS = 1000
"""Largest number of sampled rows from which the median, the centre, is computed."""

EXTENT_ROWS = 8192
"""Rows whose differences from the centre are computed at a time."""

REACH_MARGIN = 1 + 1e-5
"""Factor by which bounds on norms are enlarged to allow for the rounding of norms."""


@dataclass(frozen=True, slots=True)
class Neighbors:
    """Result arrays of a search for k neighbours of m queries, which the search fills in.

    Attributes
    ----------
    indices, distances : (m, k) neighbours and their distances
    uncertain : (m,) True for queries for which a nearer cell may have been missed
    """

    indices: I32
    distances: F32
    uncertain: Bools

    @classmethod
    def empty(cls, m: int, k: int) -> Neighbors:
        """Allocate arrays for k neighbours of m queries."""
        return cls(np.empty((m, k), np.int32), np.empty((m, k), np.float32), np.zeros(m, np.bool_))


class Scaling:
    """Centring and scaling of cells to an extent of at most 1, so that products lose few digits.

    Attributes
    ----------
    center : (d,) median of a sample of cells. A few distant cells would shift a mean, and the others would lose digits
    scale : factor, a power of two so that scaling does not round; squares of values up to 1 cannot overflow
    """

    def __init__(self, x: F32, queries: F32) -> None:
        # in float64, because the sum of two middle values may overflow float32
        sample = x[:: -(-len(x) // CENTER_ROWS)].astype(np.float64)
        self.center: F32 = np.median(sample, axis=0).astype(np.float32)
        extent = max(_extent(side, self.center) for side in ((x,) if queries is x else (x, queries)))
        self.scale = power_of_two_scale(extent)

    def rows(self, cells: F32, dtype: Any = np.float32, out: Floats | None = None) -> Floats:
        """Return cells (m, d) centred and scaled, with the given dtype, written to `out` if given."""
        rows = np.subtract(cells, self.center.astype(dtype), dtype=dtype, out=out)
        rows *= dtype(self.scale)
        return rows


def power_of_two_scale(extent: float) -> float:
    """Return the power of two by which an extent must be multiplied to be at most 1, limited to the float32 range."""
    return float(2.0 ** np.clip(-np.ceil(np.log2(extent)), -126, 126)) if extent > 0 else 1.0


def _extent(x: F32, center: F32) -> float:
    """Return the largest absolute difference between a coordinate of a cell and that of the centre."""
    return max(float(np.abs(x[start : start + EXTENT_ROWS] - center).max()) for start in range(0, len(x), EXTENT_ROWS))


@dataclass(frozen=True, slots=True)
class Rounding:
    """Bounds of the rounding error of squared distances |q|^2 + |x|^2 - 2 q.x of queries q and cells x.

    A sum of K products has an error of at most gamma_K times the norms; the bound covers the product, the norms and the
    rounding of the centred rows. Only cells x with |x| <= |q| + (distance of the k-th neighbour) matter: by the
    triangle inequality a cell further from the centre is no neighbour. So one very distant cell does not loosen all
    bounds.

    Attributes
    ----------
    norms : (m,) float64, |q| of the centred and scaled queries
    largest : largest |x| of the centred and scaled cells
    factor : bound of the error of a squared distance, relative to (|q| + |x|)^2
    scale : factor by which cells were scaled, which converts exact distances to the same unit
    """

    norms: F64
    largest: float
    factor: float
    scale: float

    @classmethod
    def of(cls, squares: Floats, largest_square: float, d: int, scale: float) -> Rounding:
        """Make the bounds for queries with squared norms `squares`, whose dtype is that of the products."""
        unit = float(np.finfo(squares.dtype).eps) / 2
        return cls(np.sqrt(squares.astype(np.float64)), float(np.sqrt(largest_square)), 3.0 * (d + 8) * unit, scale)

    def select(self, rows: slice) -> Rounding:
        """Return the bounds of the selected queries."""
        return Rounding(self.norms[rows], self.largest, self.factor, self.scale)

    def upper_bounds(self, distances: F64) -> F64:
        """Return the largest rounded squared distance, (m,), of a cell within `distances` (m,) of each query."""
        scaled = distances * self.scale
        reach = np.minimum(self.largest, (self.norms + scaled) * REACH_MARGIN)
        bounds: F64 = scaled**2 + self.factor * (self.norms + reach) ** 2
        return bounds

    def lower_bounds(self, limits: Floats, kth: F64) -> F64:
        """Return lower bounds (m,) of the exact squared distances to cells whose rounded ones are at least `limits`.

        A bound need not hold for cells that are further away than the k-th neighbour.

        Parameters
        ----------
        limits : (m,) rounded squared distances of scaled rows, from products
        kth : (m,) exact squared distance of each query to its k-th neighbour
        """
        reach = np.minimum(self.largest, (self.norms + np.sqrt(kth) * self.scale) * REACH_MARGIN)
        bounds: F64 = (limits - self.factor * (self.norms + reach) ** 2) / self.scale**2
        return bounds

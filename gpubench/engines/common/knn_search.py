"""What the searches for neighbours on the CPU share: the result that they fill, and the scale that they work in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


SAMPLE = 256
"""Cells of a part that the direction of its cut is computed from."""

POWER_STEPS = 3
"""Steps of the power iteration: the direction need not be exactly that of the largest variance."""


def locality_order(x: NDArray[np.float32], scaling: Scaling, leaf: int, seed: int) -> NDArray[np.int64]:
    """Halve the cells again and again across the direction in which they vary most, until parts hold `leaf` cells.

    Returns
    -------
    (n,) every cell once; each run of `leaf` cells, counted from the first, is one part (the last may be smaller)
    """
    rng = np.random.default_rng(seed)
    leaves: list[NDArray[np.int64]] = []
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
        parts += [cells[order[half:]], cells[order[:half]]]  # the first half is taken up next
    return np.concatenate(leaves)


def principal_direction(sample: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Roughly the first principal direction of a sample of centred and scaled cells."""
    centred: NDArray[np.float32] = sample - sample.mean(axis=0)
    direction: NDArray[np.float32] = rng.standard_normal(centred.shape[1:]).astype(np.float32)
    for _ in range(POWER_STEPS):
        direction = centred.T @ (centred @ direction)
        length = np.linalg.norm(direction)
        if length > 0:  # else all cells of the sample are copies, and any direction will do
            direction /= np.float32(length)
    return direction


RECALL_SAMPLE = 500
"""Cells whose neighbours are also searched exactly, to measure recall."""


def draw_sample(n: int, seed: int, size: int | None = None) -> NDArray[np.int64]:
    """Draw cells, by default as many as measure recall, whose neighbours are searched again; ascending."""
    size = RECALL_SAMPLE if size is None else size
    return np.sort(np.random.default_rng(seed).choice(n, min(n, size), replace=False))


def measure_recall(sample: NDArray[Any], exact: NDArray[Any], found: NDArray[Any]) -> float:
    """Share of the true neighbours of some cells that were found.

    Parameters
    ----------
    sample : (m,) the cells
    exact : (m, k + 1) their nearest cells, themselves among them unless k + 1 copies are as near
    found : (m, k) or more: what was found
    """
    m, k = len(exact), exact.shape[1] - 1
    hits = 0
    for row, true, got in zip(sample, exact, found, strict=True):
        others = true[true != row][:k]
        hits += len(np.intersect1d(others, got, assume_unique=True))
    return float(hits / (m * k))


Floats = Any  # an array of float32 or float64

CENTER_ROWS = 1000
"""Rows that the centre is the median of, in each dimension, at most."""

EXTENT_ROWS = 8192
"""Rows whose largest difference from the centre is looked for at a time."""

REACH_MARGIN = 1 + 1e-5
"""Covers the rounding of norms."""


@dataclass(frozen=True, slots=True)
class Neighbors:
    """What is found: indices, distances, and the rows in which a nearer cell may have been missed."""

    indices: NDArray[np.int32]
    distances: NDArray[np.float32]
    uncertain: NDArray[np.bool_]

    @classmethod
    def empty(cls, m: int, k: int) -> Neighbors:
        """Room for the k neighbours of m queries."""
        return cls(np.empty((m, k), np.int32), np.empty((m, k), np.float32), np.zeros(m, np.bool_))


class Scaling:
    """Moves cells to their centre and shrinks them to an extent of at most 1, so that products keep their digits.

    Attributes
    ----------
    center : (d,) where most cells are: a mean would follow few that are far out, and cost the others their digits
    scale : a power of two, which rounds nothing; squares of values up to 1 cannot overflow
    """

    def __init__(self, x: NDArray[np.float32], queries: NDArray[np.float32]) -> None:
        # in float64, for half the sum of two middle values may be all that float32 holds
        sample = x[:: -(-len(x) // CENTER_ROWS)].astype(np.float64)
        self.center: NDArray[np.float32] = np.median(sample, axis=0).astype(np.float32)
        extent = max(_extent(side, self.center) for side in ((x,) if queries is x else (x, queries)))
        self.scale = power_of_two_scale(extent)

    def rows(self, cells: NDArray[np.float32], dtype: Any = np.float32, out: Floats | None = None) -> Floats:
        """Centred and scaled cells, (m, d) of `dtype`."""
        rows = np.subtract(cells, self.center.astype(dtype), dtype=dtype, out=out)
        rows *= dtype(self.scale)
        return rows


def power_of_two_scale(extent: float) -> float:
    """The power of two that brings an extent to at most 1, or as near as a float32 can."""
    return float(2.0 ** np.clip(-np.ceil(np.log2(extent)), -126, 126)) if extent > 0 else 1.0


def _extent(x: NDArray[np.float32], center: NDArray[np.float32]) -> float:
    """Largest absolute difference from the centre in any dimension."""
    return max(float(np.abs(x[start : start + EXTENT_ROWS] - center).max()) for start in range(0, len(x), EXTENT_ROWS))


@dataclass(frozen=True, slots=True)
class Rounding:
    """Bounds how far squared distances from products of scaled rows may be from the exact ones.

    A sum of K products is off by at most gamma_K times the norms, for the product itself, the norms, and the rounding
    of the centred rows. Of the other side only cells up to |q| + (distance of the k-th neighbour) from the centre
    count: by the triangle inequality what is further out is no neighbour. So a cell far from all does not spoil the
    bound of the others.

    Attributes
    ----------
    norms : (m,) float64, of the scaled rows
    largest : the largest norm of the other side
    factor : bounds the error of a pair as a share of (|q| + |x|)^2
    scale : what exact distances are multiplied by to be in the unit of the rows
    """

    norms: NDArray[np.float64]
    largest: float
    factor: float
    scale: float

    @classmethod
    def of(cls, squares: Floats, largest_square: float, d: int, scale: float) -> Rounding:
        """From squared norms of the rows, whose dtype is that of the products."""
        unit = float(np.finfo(squares.dtype).eps) / 2
        return cls(np.sqrt(squares.astype(np.float64)), float(np.sqrt(largest_square)), 3.0 * (d + 8) * unit, scale)

    def of_rows(self, rows: slice) -> Rounding:
        """The same for some of the rows."""
        return Rounding(self.norms[rows], self.largest, self.factor, self.scale)

    def reaching(self, distances: NDArray[np.float64]) -> NDArray[np.float64]:
        """Squared distances from products are at most this for all cells that are at most so far; (m,)."""
        far = distances * self.scale
        reach = np.minimum(self.largest, (self.norms + far) * REACH_MARGIN)
        bounds: NDArray[np.float64] = far**2 + self.factor * (self.norms + reach) ** 2
        return bounds

    def unseen(self, limits: Floats, kth: NDArray[np.float64]) -> NDArray[np.float64]:
        """No cell whose product was not below `limits` is nearer than this, or else it is further than the k-th.

        Parameters
        ----------
        limits : (m,) squared distances from products
        kth : (m,) exact squared distances of the k-th neighbours

        Returns
        -------
        (m,) exact squared distances
        """
        reach = np.minimum(self.largest, (self.norms + np.sqrt(kth) * self.scale) * REACH_MARGIN)
        bounds: NDArray[np.float64] = (limits - self.factor * (self.norms + reach) ** 2) / self.scale**2
        return bounds

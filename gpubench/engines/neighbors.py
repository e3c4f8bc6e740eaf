"""What the searches for neighbours on the CPU share: the result that they fill, and the scale that they work in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Floats = Any  # an array of float32 or float64

EXTENT_ROWS = 8192
"""Rows whose largest difference from the centre is looked for at a time."""


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
    center : (d,) the mean of the cells, rounded to float32
    scale : a power of two, which rounds nothing; squares of values up to 1 cannot overflow
    """

    def __init__(self, x: NDArray[np.float32], queries: NDArray[np.float32]) -> None:
        self.center: NDArray[np.float32] = x.mean(axis=0, dtype=np.float64).astype(np.float32)
        extent = max(_extent(side, self.center) for side in ((x,) if queries is x else (x, queries)))
        self.scale = float(2.0 ** -np.ceil(np.log2(extent)) if extent > 0 else 1.0)

    def rows(self, cells: NDArray[np.float32], dtype: Any = np.float32, out: Floats | None = None) -> Floats:
        """Centred and scaled cells, (m, d) of `dtype`."""
        rows = np.subtract(cells, self.center.astype(dtype), dtype=dtype, out=out)
        rows *= dtype(self.scale)
        return rows


def _extent(x: NDArray[np.float32], center: NDArray[np.float32]) -> float:
    """Largest absolute difference from the centre in any dimension."""
    return max(float(np.abs(x[start : start + EXTENT_ROWS] - center).max()) for start in range(0, len(x), EXTENT_ROWS))


def slack(squares: Floats, largest: float, d: int, dtype: Any) -> NDArray[np.float64]:
    """How far a squared distance from a matrix product may be from the exact one; (m,).

    gamma_K of a sum of K products, for the product itself, the norms, and the rounding of the centred rows.

    Parameters
    ----------
    squares : (m,) squared norms of the rows
    largest : the largest squared norm of the other side
    """
    unit = np.finfo(dtype).eps / 2
    bound: NDArray[np.float64] = 3.0 * (d + 8) * unit * (np.sqrt(squares.astype(np.float64)) + np.sqrt(largest)) ** 2
    return bound

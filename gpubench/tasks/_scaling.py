"""Columns brought to one scale, as scikit-learn's `StandardScaler` does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpubench.engines.planner import SCALED_VALUES
from gpubench.types import Array

if TYPE_CHECKING:
    from gpubench.engines.base import Engine


class Scaling:
    """Standard deviations of the columns of some cells, and their means where they are to be subtracted.

    A column that is constant up to rounding is not divided.
    """

    def __init__(self, engine: Engine, x: Array, *, centre: bool) -> None:
        xp = engine.xp
        n, d = x.shape
        step = max(1, SCALED_VALUES // d)
        blocks = [slice(start, start + step) for start in range(0, n, step)]
        mean = sum(x[rows].sum(axis=0, dtype=np.float64) for rows in blocks) / n
        variance = sum(((x[rows] - mean) ** 2).sum(axis=0) for rows in blocks) / n
        # What n float64 additions may leave of a variance of 0.
        eps = np.finfo(np.float64).eps
        constant = variance <= n * eps * variance + (n * mean * eps) ** 2
        self._mean = mean if centre else None
        self._scale = xp.where(constant, 1.0, xp.sqrt(variance))

    def apply(self, x: Array) -> Array:
        """Scale (m, d) float32 cells in place, and return them."""
        if self._mean is not None:
            x -= self._mean
        x /= self._scale
        return x

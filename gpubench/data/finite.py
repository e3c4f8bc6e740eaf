"""Finds values that no metric can use, while blocks of rows pass by."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubench.data.messages import some_rows
from gpubench.errors import InputError

FLOAT32_MAX = np.float64(np.finfo(np.float32).max)


class FiniteCheck:
    """Counts rows that hold NaN, infinite values, or values beyond the range of float32.

    Blocks may be added in any order and from several threads.

    Parameters
    ----------
    name : the argument that the message names
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._not_finite: list[NDArray[np.intp]] = []
        self._too_large: list[NDArray[np.intp]] = []

    def add(self, block: NDArray[Any], start: int) -> None:
        """Look at rows start, start + 1, ... as stored: before a conversion to float32 that may overflow."""
        if block.dtype.kind != "f" or block.size == 0 or _is_fine(block):
            return
        finite = np.isfinite(block)
        self._not_finite.append(start + np.flatnonzero(~finite.all(axis=1)))
        self._too_large.append(start + np.flatnonzero((finite & (np.abs(block) > FLOAT32_MAX)).any(axis=1)))

    def join(self, other: FiniteCheck) -> None:
        """Take what was found in other blocks."""
        self._not_finite += other._not_finite
        self._too_large += other._too_large

    def finish(self, n: int) -> None:
        """Raise if any of the n rows cannot be scored.

        Raises
        ------
        InputError
            How many rows, the first few, and what to do.
        """
        if len(rows := _joined(self._not_finite)):
            found = some_rows(rows, n, "hold NaN or infinite values")
            raise InputError(f"{self._name}: {found}; remove or impute these cells")
        if len(rows := _joined(self._too_large)):
            found = some_rows(rows, n, "hold values beyond 3.4e38, the range of float32")
            raise InputError(f"{self._name}: {found}; rescale the embedding")


def _is_fine(block: NDArray[Any]) -> bool:
    """Whether all values are finite as float32; one pass or two without temporaries for the usual dtypes."""
    if block.dtype.itemsize < 4:  # NumPy compares half floats slowly
        return bool(np.isfinite(block).all())
    # NaN wins both min and max, and fails both comparisons.
    return bool(block.min() >= -FLOAT32_MAX and block.max() <= FLOAT32_MAX)


def _joined(parts: list[NDArray[np.intp]]) -> NDArray[np.intp]:
    return np.sort(np.concatenate(parts)) if parts else np.empty(0, np.intp)

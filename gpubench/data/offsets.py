"""Subtract large offsets from dimensions before they are rounded to float32, which would lose differences of cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.data.digest import sampled_blocks
from gpubench.data.matrices import Rows, WrappedRows, as_rows, read_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_RATIO = 2.0**12
"""Ratio of median to spread from which an offset is subtracted; float32 then rounds by over 1/4096 of the spread."""

NOISE_RATIO = 2.0**-44
"""A spread of floats below this share of their median is rounding noise of float64: the dimension is constant."""

MAX_COSINE_ROUNDING = 2.0**-8
"""Largest rounding error of float32, as a share of the spread of a dimension, with which cosines are computed."""

MAX_MERGED = 0.1
"""Share of the differences between sampled values that float32 may lose before a dimension counts as unresolved."""


@dataclass(frozen=True, slots=True)
class OffsetRows(WrappedRows):
    """`RowSource` of a matrix from whose columns offsets are subtracted, in the precision in which it is stored.

    Attributes
    ----------
    offsets : (d,) values to subtract, 0 in dimensions without a large offset; long double for 64-bit integers
    rounding : largest error of rounding the matrix itself to float32, as a share of the spread of its dimension

    Examples
    --------
    >>> OffsetRows(np.array([[1e9 + 0.25], [1e9 + 0.5]]), np.array([1e9]), 0.0).read(0, 2)
    array([[0.25],
           [0.5 ]])
    """

    offsets: NDArray[Any]
    rounding: float

    @property
    def dtype(self) -> np.dtype[Any]:
        """Float64, whatever is stored."""
        return np.dtype(np.float64)

    def read(self, start: int, stop: int) -> NDArray[np.float64]:
        """Return rows [start, stop) without the offsets."""
        block = read_rows(self.rows, start, stop)
        centred: NDArray[np.float64] = np.subtract(block, self.offsets, dtype=self.offsets.dtype).astype(np.float64)
        return centred


def without_large_offsets(x: Any, name: str = "X") -> Rows:
    """Convert `x` like `as_rows`, and subtract the medians of dimensions that are many times larger than their spread.

    Distances, and every score computed from them, do not change by that; but without it values such as times in
    nanoseconds would become equal when they are rounded to float32. Median and spread (the range of the middle half)
    are those of 64 rows. Matrices without such dimensions are returned as they are.

    Examples
    --------
    >>> without_large_offsets([[1e9, 1.0], [1e9 + 0.25, 2.0], [1e9 + 0.5, 3.0]]).read(0, 1)
    array([[-0.25,  1.  ]])
    """
    rows = as_rows(x, name)
    sample = _sample(rows)
    median, spread = _median_and_spread(sample)
    size = np.abs(median)
    is_large = (size > MIN_RATIO * spread) & (spread > _noise(rows) * size)
    if not is_large.any():
        return rows
    with np.errstate(over="ignore", invalid="ignore"):
        errors = np.abs(sample - sample.astype(np.float32)).max(axis=0)[is_large] / spread[is_large]
    return OffsetRows(rows, np.where(is_large, median, 0), float(errors.max()))


def unresolved_dimensions(rows: Rows) -> NDArray[np.intp]:
    """Return the dimensions in which float32 cannot hold the differences of many cells, by a sample of 64 rows.

    The offsets of `without_large_offsets` are subtracted first, so that these dimensions have several large offsets,
    such as one for each batch.
    """
    if rows.dtype.itemsize <= np.dtype(np.float32).itemsize and rows.dtype.kind == "f":
        return np.empty(0, np.intp)
    centred = without_large_offsets(rows)
    offsets = centred.offsets if isinstance(centred, OffsetRows) else 0
    values = np.sort(_sample(rows) - offsets, axis=0)
    with np.errstate(over="ignore", invalid="ignore"):
        differ = np.diff(values, axis=0) > _noise(rows) * np.abs(values[1:])
        merged = differ & (np.diff(values.astype(np.float32), axis=0) == 0)
    found: NDArray[np.intp] = np.flatnonzero(merged.sum(axis=0) > MAX_MERGED * np.maximum(differ.sum(axis=0), 1))
    return found


def _noise(rows: Rows) -> float:
    return NOISE_RATIO if rows.dtype.kind == "f" else 0.0


def _sample(rows: Rows) -> NDArray[Any]:
    """Return 64 rows in a dtype that holds their values exactly: float64, or long double for 64-bit integers."""
    exact = np.longdouble if rows.dtype.itemsize >= 8 and rows.dtype.kind != "f" else np.float64
    return np.concatenate([np.asarray(block, exact) for block in sampled_blocks(rows)])


def _median_and_spread(sample: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the median of each column, and the range of its middle half, or its mean deviation if that is 0.

    The median is a value of the sample, so that no rounding enters the differences from it.
    """
    n = len(sample)
    in_order = np.sort(sample, axis=0)
    median = in_order[n // 2]
    with np.errstate(over="ignore", invalid="ignore"):
        spread = in_order[(3 * n) // 4] - in_order[n // 4]
        return median, np.where(spread > 0, spread, np.abs(sample - median).mean(axis=0))

"""Counts brought to one sequencing depth and logarithmised, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpubench.core.errors import InputError, some_rows
from gpubench.data.expression.matrix import Expression, check_finite, to_csr
from gpubench.data.matrices import FiniteCheck

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_array


@dataclass(frozen=True, slots=True)
class Depth:
    """How deeply each cell was sequenced, and what kind of values these are.

    Attributes
    ----------
    totals : (n,) float32, the sum of each cell
    target : median of the totals of the cells that are not empty; 1 where all are
    is_counts : whether every value is a whole number
    largest : the largest value, at least 0
    """

    totals: NDArray[np.float32]
    target: np.float32
    is_counts: bool
    largest: float


def measure_depth(expression: Expression) -> Depth:
    """Read the matrix once for its totals.

    Raises
    ------
    InputError
        NaN, infinite or negative values: in how many cells, and the first few.
    """
    n = expression.shape[0]
    totals = np.zeros(n, np.float32)
    has_negative = np.zeros(n, bool)
    finite = FiniteCheck(expression.name)
    is_counts, largest = True, 0.0
    for start, block in expression.blocks():
        rows = to_csr(block)
        if not check_finite(finite, rows, start):
            continue
        cells = slice(start, start + rows.shape[0])
        totals[cells] = rows.sum(axis=1, dtype=np.float64)
        has_negative[cells] = rows.min(axis=1).toarray() < 0
        is_counts = is_counts and not np.any(rows.data % 1)
        largest = max(largest, rows.data.max(initial=0.0))
    finite.finish(n)
    if has_negative.any():
        found = some_rows(np.flatnonzero(has_negative), n, "hold negative values")
        raise InputError(f"{expression.name}: {found}; give raw counts, or values that were not centred or scaled")
    filled = totals[totals > 0]
    return Depth(totals, np.median(filled) if len(filled) else np.float32(1), is_counts, float(largest))


def log_normalized(expression: Expression, depth: Depth) -> Iterator[tuple[int, csr_array]]:
    """Yield (first row, log(1 + x target / total)) block by block, float32.

    Rounded in float32 at each step as scanpy rounds, so that equal counts in cells of equal totals stay equal and the
    ranks and selected genes are the same.
    """
    for start, block in expression.blocks():
        rows = to_csr(block, copy=True)
        scale = depth.totals[start : start + rows.shape[0]] / depth.target
        values = rows.data.astype(np.float32, copy=False)
        values /= np.repeat(scale, np.diff(rows.indptr))
        np.log1p(values, out=values)
        rows.data = values
        yield start, rows

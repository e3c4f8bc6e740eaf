"""Statistics of the columns of tall matrices."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from gpubench.core.types import Array

ROWS_PER_GROUP = 1024


def reduce_rows(xp: ModuleType, x: Array, name: str, **options: Any) -> Array:
    """Return the column-wise "max", "min" or "sum" (`name`) of a matrix (n, d); (d,).

    CuPy runs such a reduction with one block of threads per 32 columns, which leaves most of a GPU idle. So groups of
    rows are reduced first, with one block of threads per group. `options` are passed to the array's method.
    """
    n_grouped = len(x) // ROWS_PER_GROUP * ROWS_PER_GROUP
    if xp is np or not n_grouped:
        return getattr(x, name)(axis=0, **options)
    groups = getattr(x[:n_grouped].reshape(-1, ROWS_PER_GROUP, x.shape[1]), name)(axis=1, **options)
    return getattr(xp.concatenate([groups, x[n_grouped:]]), name)(axis=0, **options)

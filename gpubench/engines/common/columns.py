"""Statistics of the columns of tall matrices."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from gpubench.core.types import Array

ROWS_PER_GROUP = 1024


def reduce_rows(xp: ModuleType, x: Array, name: str, **options: Any) -> Array:
    """Reduce a matrix (n, d) along its rows by its method "max", "min" or "sum"; (d,).

    CuPy gives such a reduction one block of threads for each 32 columns, which would leave a GPU idle. So rows are
    reduced in groups first, which takes a block for each group.
    """
    n_grouped = len(x) // ROWS_PER_GROUP * ROWS_PER_GROUP
    if xp is np or not n_grouped:
        return getattr(x, name)(axis=0, **options)
    groups = getattr(x[:n_grouped].reshape(-1, ROWS_PER_GROUP, x.shape[1]), name)(axis=1, **options)
    return getattr(xp.concatenate([groups, x[n_grouped:]]), name)(axis=0, **options)

"""What a score is the mean of, cell by cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def one_for_each(values: NDArray[Any], kept: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """Values for `Score.cells`: as they are, or those of the cells that were kept, with NaN for the others.

    Parameters
    ----------
    values : (m,), a value for each cell that was kept
    kept : (n,) m of which are true; None: all
    """
    if kept is None or kept.all():
        return values.astype(np.float32)
    cells = np.full(len(kept), np.nan, np.float32)
    cells[kept] = values
    return cells

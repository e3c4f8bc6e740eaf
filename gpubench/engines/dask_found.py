"""Neighbours that tasks have found of cells, and the nearest of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Near:
    """Neighbours of some cells, as many as were found of each.

    Attributes
    ----------
    row, ids : (found,) which cell's, ascending, and which cell it is
    distances : (found,) float32 as the engine gives them
    squared : (found,) float64, which tells apart what is equal in float32
    """

    row: NDArray[np.int32]
    ids: NDArray[np.int32]
    distances: NDArray[np.float32]
    squared: NDArray[np.float64]


def nearest(found: list[tuple[tuple[Near, ...], int]], k: int) -> tuple[Near]:
    """The k nearest of what some tasks have found for the same cells."""
    some = [of_task[side] for of_task, side in found]
    row, ids, distances, squared = (
        np.concatenate([getattr(near, name) for near in some]) for name in ("row", "ids", "distances", "squared")
    )
    order = np.lexsort((ids, squared, distances, row))
    row = row[order]
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    rank = np.arange(len(row)) - np.repeat(starts, np.diff(np.append(starts, len(row))))
    kept = order[rank < k]
    return (Near(row[rank < k], ids[kept], distances[kept], squared[kept]),)

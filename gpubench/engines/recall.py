"""How much of the truth an approximate neighbour search finds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

RECALL_SAMPLE = 1_000
"""Cells whose neighbours are also searched exactly, to measure recall."""


def sample_of(n: int, seed: int) -> NDArray[np.int64]:
    """Draw the cells whose neighbours are searched again; ascending."""
    return np.sort(np.random.default_rng(seed).choice(n, min(n, RECALL_SAMPLE), replace=False))


def share_found(sample: NDArray[Any], exact: NDArray[Any], found: NDArray[Any]) -> float:
    """Share of the true neighbours of some cells that were found.

    Parameters
    ----------
    sample : (m,) the cells
    exact : (m, k + 1) their nearest cells, themselves among them unless k + 1 copies are as near
    found : (m, k) what was found, themselves left out
    """
    m, k = found.shape
    hits = 0
    for row, true, got in zip(sample, exact, found, strict=True):
        others = true[true != row][:k]
        hits += len(np.intersect1d(others, got, assume_unique=True))
    return float(hits / (m * k))

"""How much of the truth an approximate neighbour search finds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

RECALL_SAMPLE = 500
"""Cells whose neighbours are also searched exactly, to measure recall."""


def sample_of(n: int, seed: int, size: int | None = None) -> NDArray[np.int64]:
    """Draw cells, by default as many as measure recall, whose neighbours are searched again; ascending."""
    size = RECALL_SAMPLE if size is None else size
    return np.sort(np.random.default_rng(seed).choice(n, min(n, size), replace=False))


def share_found(sample: NDArray[Any], exact: NDArray[Any], found: NDArray[Any]) -> float:
    """Share of the true neighbours of some cells that were found.

    Parameters
    ----------
    sample : (m,) the cells
    exact : (m, k + 1) their nearest cells, themselves among them unless k + 1 copies are as near
    found : (m, k) or more: what was found
    """
    m, k = len(exact), exact.shape[1] - 1
    hits = 0
    for row, true, got in zip(sample, exact, found, strict=True):
        others = true[true != row][:k]
        hits += len(np.intersect1d(others, got, assume_unique=True))
    return float(hits / (m * k))

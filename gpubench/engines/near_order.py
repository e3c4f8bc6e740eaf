"""An order of cells in which near cells are mostly near each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.neighbors import Scaling

SAMPLE = 256
"""Cells of a part that the direction of its cut is computed from."""

POWER_STEPS = 3
"""Steps of the power iteration: the direction need not be exactly that of the largest variance."""


def near_order(x: NDArray[np.float32], scaling: Scaling, leaf: int, seed: int) -> NDArray[np.int64]:
    """Halve the cells again and again across the direction in which they vary most, until parts hold `leaf` cells.

    Returns
    -------
    (n,) every cell once; each run of `leaf` cells, counted from the first, is one part (the last may be smaller)
    """
    rng = np.random.default_rng(seed)
    leaves: list[NDArray[np.int64]] = []
    parts = [np.arange(len(x))]
    while parts:
        cells = parts.pop()
        if len(cells) <= leaf:
            leaves.append(cells)
            continue
        along = x[cells] @ direction_of(scaling.rows(x[rng.choice(cells, min(len(cells), SAMPLE), replace=False)]), rng)
        n_leaves = -(-len(cells) // leaf)
        half = n_leaves // 2 * leaf
        order = np.argpartition(along, half)
        parts += [cells[order[half:]], cells[order[:half]]]  # the first half is taken up next
    return np.concatenate(leaves)


def direction_of(sample: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Roughly the first principal direction of a sample of centred and scaled cells."""
    centred: NDArray[np.float32] = sample - sample.mean(axis=0)
    direction: NDArray[np.float32] = rng.standard_normal(centred.shape[1:]).astype(np.float32)
    for _ in range(POWER_STEPS):
        direction = centred.T @ (centred @ direction)
        length = np.linalg.norm(direction)
        if length > 0:  # else all cells of the sample are copies, and any direction will do
            direction /= np.float32(length)
    return direction

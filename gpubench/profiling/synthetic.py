"""Synthetic cells for profiles and benchmarks.

Labels overlap and differ in size, batches are shifted, some cells are exact copies, and time moves cells along one
direction, so that scores lie between 0.3 and 0.9. The same arguments give bitwise identical cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ROWS = 100_000  # per block, so that a million cells need little more memory than their matrix


@dataclass(frozen=True)
class Cells:
    """Synthetic embedding, with the columns of its cells.

    Attributes
    ----------
    x : (n, d) float32 embedding
    label, batch : (n,) int32 codes of the label and the batch of each cell
    time : (n,) float64 time point of each cell
    """

    x: NDArray[np.float32]
    label: NDArray[np.int32]
    batch: NDArray[np.int32]
    time: NDArray[np.float64]


def make(n: int, d: int, *, n_labels: int = 30, n_batches: int = 8, n_times: int = 8, seed: int = 0) -> Cells:
    """Draw n cells in d dimensions.

    Each cell is the sum of its label's centre, its batch's shift, its time along one direction, and Gaussian noise
    whose standard deviation decreases from dimension to dimension as in principal components. 1% of the cells are exact
    copies of other cells.

    Parameters
    ----------
    n, d : numbers of cells and dimensions
    n_labels, n_batches, n_times : numbers of labels, batches and time points
    seed : random seed
    """
    rng = np.random.default_rng(seed)
    label = _uneven(n, n_labels, 0.9, rng)
    batch = _uneven(n, n_batches, 0.8, rng)
    time = rng.integers(0, n_times, n)
    spread = (1 + np.arange(d)) ** -0.5
    centres = 1.3 * spread * rng.standard_normal((n_labels, d))
    shifts = spread * rng.standard_normal((n_batches, d))
    course = 3.0 * spread * rng.standard_normal(d) / n_times
    x = np.empty((n, d), np.float32)
    for start in range(0, n, _ROWS):
        rows = slice(start, min(n, start + _ROWS))
        x[rows] = spread * rng.standard_normal((rows.stop - start, d))
        x[rows] += centres[label[rows]] + shifts[batch[rows]] + time[rows, None] * course
    copies = rng.choice(n, n // 100, replace=False)
    x[copies] = x[rng.integers(0, n, len(copies))]
    return Cells(x, label, batch, time.astype(np.float64))


def _uneven(n: int, n_codes: int, ratio: float, rng: np.random.Generator) -> NDArray[np.int32]:
    share = ratio ** np.arange(n_codes)
    return rng.choice(n_codes, n, p=share / share.sum()).astype(np.int32)

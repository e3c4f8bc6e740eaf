"""Synthetic cells with what makes metrics hard: overlap, uneven labels, batch shifts, duplicates; and real cells."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Cells:
    """An embedding and the columns that describe its cells.

    Attributes
    ----------
    x : (n, d) float32
    label, batch : (n,) int32 codes, every code below the largest occurs
    time : (n,) float64, a few distinct values that follow the labels
    """

    x: NDArray[np.float32]
    label: NDArray[np.int32]
    batch: NDArray[np.int32]
    time: NDArray[np.float64]

    @property
    def n(self) -> int:
        return len(self.x)


def make_cells(
    n: int, d: int, *, n_labels: int = 6, n_batches: int = 3, duplicates: float = 0.05, seed: int = 0
) -> Cells:
    """Draw n cells; a share of them are exact copies of other cells, some under another label or batch."""
    rng = np.random.default_rng(seed)
    label = uneven_codes(n, n_labels, rng)
    batch = uneven_codes(n, n_batches, rng)
    centres = rng.normal(scale=1.5, size=(n_labels, d))
    shifts = rng.normal(scale=0.5, size=(n_batches, d))
    x = centres[label] + shifts[batch] + rng.normal(size=(n, d))
    copies = rng.permutation(n)[: round(duplicates * n)]
    x[copies] = x[rng.integers(0, n, len(copies))]
    time = (label // 2).astype(np.float64) * 1.5 + rng.integers(0, 2, n)
    return Cells(x.astype(np.float32), label, batch, time)


def uneven_codes(n: int, n_codes: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """n codes in random order, each of [0, n_codes) at least once, with halving frequencies. Needs n >= n_codes."""
    share = 0.5 ** np.arange(n_codes)
    drawn = rng.choice(n_codes, size=n - n_codes, p=share / share.sum())
    return rng.permutation(np.concatenate([np.arange(n_codes), drawn])).astype(np.int32)


def read_embedding(path: Path, *columns: str) -> tuple[NDArray[np.float32], dict[str, NDArray[Any]]]:
    """X_pca and some columns of an h5ad file, read without gpubench."""
    with h5py.File(path) as file:
        return file["obsm/X_pca"][:], {name: _read_column(file["obs"][name]) for name in columns}


def _read_column(stored: h5py.Group | h5py.Dataset) -> NDArray[Any]:
    if isinstance(stored, h5py.Dataset):
        return stored[:]
    return stored["categories"].asstr()[:][stored["codes"][:]]

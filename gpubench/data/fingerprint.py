"""A short name for the content of a dataset, so that two results can be seen to come from the same cells."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from gpubench.core.types import Dataset
from gpubench.data.columns import encode_labels
from gpubench.data.matrices import Rows, read_rows

_N_BLOCKS = 8
_BLOCK_ROWS = 8


def fingerprint(dataset: Dataset) -> str:
    """Hash what decides the scores: cheap, and the same in every run and on every machine.

    Of each embedding count its name, n, d, dtype and 64 rows in 8 blocks spread evenly; of each column its role and all
    values, as numbers where it is an array of numbers, else as labels. A change in other rows of an embedding can go
    unseen: this tells datasets apart, no more.

    Returns
    -------
    32 hexadecimal digits.

    Raises
    ------
    InputError
        A column with missing values.
    """
    digest = hashlib.blake2b(f"n={dataset.n_cells}".encode(), digest_size=16)
    for name in sorted(dataset.embeddings):
        _add_rows(digest, name, dataset.embeddings[name])
    for role in sorted(dataset.obs):
        _add_column(digest, role, dataset.obs[role])
    return digest.hexdigest()


def _add_column(digest: Any, role: str, values: Any) -> None:
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiub":
        digest.update(repr(("numbers", role)).encode())
        digest.update(np.ascontiguousarray(values, "<f8").data)
    else:
        labels = encode_labels(values, role)
        digest.update(repr(("column", role, labels.names)).encode())
        digest.update(np.ascontiguousarray(labels.codes, "<i4").data)


def _add_rows(digest: Any, name: str, rows: Rows) -> None:
    n, d = rows.shape
    digest.update(repr(("embedding", name, int(n), int(d), rows.dtype.name)).encode())
    for start in np.unique(np.linspace(0, max(n - _BLOCK_ROWS, 0), _N_BLOCKS).astype(np.int64)):
        block = read_rows(rows, int(start), min(int(start) + _BLOCK_ROWS, int(n)))
        # as bytes, for there is no memoryview of long doubles
        digest.update(np.ascontiguousarray(block, block.dtype.newbyteorder("<")).view(np.uint8).data)

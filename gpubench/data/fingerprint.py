"""A hash of a dataset, by which two results can be compared for whether they come from the same cells."""

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
    """Return a hash of a dataset that is cheap, and the same in every run and on every machine.

    It covers the name, n, d, dtype and 64 rows of each embedding, in 8 evenly spaced blocks, and the role and all
    values of each column, as numbers if it is a numeric array, else as labels. A change in other rows of an embedding
    is not detected: the hash identifies datasets, it does not verify them.

    Returns
    -------
    32 hexadecimal digits.

    Raises
    ------
    InputError
        A column with missing values.

    Examples
    --------
    >>> fingerprint(Dataset(embeddings={"pca": np.eye(3)}, obs={}, n_cells=3))
    'f357d5902c8861f7ffbfba4c9430c9c0'
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
        # as bytes, since long doubles have no memoryview
        digest.update(np.ascontiguousarray(block, block.dtype.newbyteorder("<")).view(np.uint8).data)

"""Sample rows of matrices, and hash datasets by such samples."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubench.core.types import Dataset
from gpubench.data.columns import encode_labels
from gpubench.data.matrices import Rows, read_rows

_BLOCKS, _BLOCK_ROWS = 8, 8


def sampled_blocks(rows: Rows) -> Iterator[NDArray[Any]]:
    """Yield 64 rows of a matrix in evenly spaced blocks, or all rows if there are fewer.

    Examples
    --------
    >>> [len(block) for block in sampled_blocks(np.eye(100))]
    [8, 8, 8, 8, 8, 8, 8, 8]
    """
    n = int(rows.shape[0])
    starts = np.linspace(0, max(n - _BLOCK_ROWS, 0), _BLOCKS).astype(np.int64)
    for start in np.unique(starts).tolist():
        yield read_rows(rows, start, min(start + _BLOCK_ROWS, n))


def fingerprint(dataset: Dataset) -> str:
    """Return a hash by which a dataset is recognised; it is cheap, and the same in every run and on every machine.

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
    for name, rows in sorted(dataset.embeddings.items()):
        n, d = map(int, rows.shape)
        digest.update(repr(("embedding", name, n, d, rows.dtype.name)).encode())
        for block in sampled_blocks(rows):
            # as bytes, since long doubles have no memoryview
            digest.update(np.ascontiguousarray(block, block.dtype.newbyteorder("<")).view(np.uint8).data)
    for role, values in sorted(dataset.obs.items()):
        if isinstance(values, np.ndarray) and values.dtype.kind in "fiub":
            digest.update(repr(("numbers", role)).encode())
            digest.update(np.ascontiguousarray(values, "<f8").data)
        else:
            labels = encode_labels(values, role)
            digest.update(repr(("column", role, labels.names)).encode())
            digest.update(np.ascontiguousarray(labels.codes, "<i4").data)
    return digest.hexdigest()

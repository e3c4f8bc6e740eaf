"""Row sources over the matrices of AnnData stores: dense, CSR, CSC, tables of columns, fields of records."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpubench.core.errors import InputError, quoted
from gpubench.data.formats.containers import Node, attribute, is_group
from gpubench.data.matrices import SlicedRows
from gpubench.data.read_errors import reading
from gpubench.data.urls import File

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_SPARSE_FORMATS = {"csr_matrix": "csr", "csc_matrix": "csc", "csr": "csr", "csc": "csc"}


def stored_rows(node: Node, what: str, file: File) -> Any:
    """Return a row source of a stored matrix; only shapes are read.

    Parameters
    ----------
    node : array or group
    what : what messages call the matrix
    file : where it is stored

    Returns
    -------
    A `RowSource`, or the array itself if it has not two dimensions, which `as_rows` refuses.
    """
    if not is_group(node):
        return SlicedRows(node, what, file) if len(node.shape) == 2 else node
    encoding = attribute(node, "encoding-type", attribute(node, "h5sparse_format"))
    if encoding == "dataframe":
        return ColumnRows(node, what, file)
    if encoding not in _SPARSE_FORMATS:
        raise InputError(f"{what} is stored as {encoding!r}, which is not a matrix; choose another one")
    return (CsrRows if _SPARSE_FORMATS[encoding] == "csr" else CscRows)(node, what, file)


class _StoredSparse(ABC):
    """Base class of stored CSR and CSC matrices."""

    def __init__(self, node: Node, what: str, file: File) -> None:
        self.node, self.what, self.file = node, what, file
        shape = node.attrs["shape"] if "shape" in node.attrs else node.attrs["h5sparse_shape"]
        self.shape = (int(shape[0]), int(shape[1]))
        self.dtype: np.dtype[Any] = node["data"].dtype

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows [start, stop) as a dense (stop - start, d) array."""
        return np.asarray(self.read_csr(start, stop).toarray())

    @abstractmethod
    def read_csr(self, start: int, stop: int) -> csr_matrix:
        """Return rows [start, stop) as a CSR matrix."""

    def _check_indices(self, indices: NDArray[Any], limit: int) -> None:
        """Raise if an index of a damaged file is out of bounds, where SciPy would write."""
        if indices.size and not 0 <= indices.min() <= indices.max() < limit:
            raise InputError(f"{self.what} has indices beyond its shape {self.shape}; the file is damaged")


class CsrRows(_StoredSparse):
    """Rows of a stored CSR matrix; a block reads only its own entries."""

    @cached_property
    def _indptr(self) -> NDArray[np.int64]:
        indptr = np.asarray(self.node["indptr"][:], np.int64)
        if len(indptr) != self.shape[0] + 1 or indptr[0] != 0 or (np.diff(indptr) < 0).any():
            raise InputError(f"{self.what} has row pointers that do not fit its shape; the file is damaged")
        return indptr

    def read_csr(self, start: int, stop: int) -> csr_matrix:
        """Return rows [start, stop) as a CSR matrix."""
        from scipy.sparse import csr_matrix

        with reading(f"{self.what}: rows {start:,} to {stop:,}", self.file):
            low, high = int(self._indptr[start]), int(self._indptr[stop])
            indices = np.asarray(self.node["indices"][low:high])
            self._check_indices(indices, self.shape[1])
            entries = (self.node["data"][low:high], indices, self._indptr[start : stop + 1] - low)
            return csr_matrix(entries, shape=(stop - start, self.shape[1]))


class CscRows(_StoredSparse):
    """Rows of a stored CSC matrix; all entries are read on first use, since rows are scattered over the columns."""

    @cached_property
    def _csr(self) -> csr_matrix:
        from scipy.sparse import csc_matrix

        with reading(self.what, self.file):
            indices = np.asarray(self.node["indices"][:])
            self._check_indices(indices, self.shape[0])
            entries = (self.node["data"][:], indices, self.node["indptr"][:])
            return csc_matrix(entries, shape=self.shape).tocsr()

    def read_csr(self, start: int, stop: int) -> csr_matrix:
        """Return rows [start, stop) as a CSR matrix."""
        return self._csr[start:stop]


class ColumnRows:
    """Rows of a stored table whose columns are the dimensions."""

    def __init__(self, node: Node, what: str, file: File) -> None:
        index = attribute(node, "_index", "_index")
        stored = [str(name) for name in node.attrs.get("column-order", ())]
        names = [name for name in stored or node.keys() if name != index]
        text = [name for name in names if is_group(node[name]) or node[name].dtype.kind not in "fiub"]
        if text:
            raise InputError(f"{what} has columns that are not plain numbers: {quoted(text)}; store it as an array")
        self.node, self.what, self.file = node, what, file
        self._columns = [node[name] for name in names]
        self.shape = (int(node[index].shape[0]), len(names))
        self.dtype = np.result_type(*(column.dtype for column in self._columns)) if names else np.dtype(np.float64)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows [start, stop) as a dense (stop - start, d) array."""
        block = np.empty((stop - start, self.shape[1]), self.dtype)
        with reading(f"{self.what}: rows {start:,} to {stop:,}", self.file):
            for j, column in enumerate(self._columns):
                block[:, j] = column[start:stop]
        return block


class FieldRows:
    """Rows of one field of an array of records, as AnnData stored `obsm` before version 0.7."""

    def __init__(self, records: Node, field: str, what: str, file: File) -> None:
        self._records, self._field, self._what, self._file = records, field, what, file
        dtype, *_ = records.dtype.fields[field]
        self.dtype = dtype.base
        self.shape = (int(records.shape[0]), int(np.prod(dtype.shape, dtype=int)))

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows [start, stop) as a dense (stop - start, d) array."""
        with reading(f"{self._what}: rows {start:,} to {stop:,}", self._file):
            return np.asarray(self._records[start:stop][self._field]).reshape(stop - start, -1)

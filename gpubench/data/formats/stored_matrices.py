"""Matrices in AnnData's layout on disk as row sources: dense, CSR, CSC, tables of columns, fields of records."""

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

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_SPARSE_FORMATS = {"csr_matrix": "csr", "csc_matrix": "csc", "csr": "csr", "csc": "csc"}


def stored_rows(node: Node, what: str) -> Any:
    """Make a row source of a stored matrix; nothing but shapes, and the row pointers of CSR, is read.

    Returns
    -------
    A `RowSource`, or the array itself for what has not two dimensions, which `as_rows` refuses.

    Raises
    ------
    InputError
        An encoding that is no matrix.
    """
    if not is_group(node):
        return SlicedRows(node, what) if len(node.shape) == 2 else node
    encoding = attribute(node, "encoding-type", attribute(node, "h5sparse_format"))
    if encoding == "dataframe":
        return ColumnRows(node, what)
    if encoding not in _SPARSE_FORMATS:
        raise InputError(f"{what} is stored as {encoding!r}, which is not a matrix; choose another one")
    return CsrRows(node, what) if _SPARSE_FORMATS[encoding] == "csr" else CscRows(node, what)


class _StoredSparse(ABC):
    """What CSR and CSC groups have in common."""

    def __init__(self, node: Node, what: str) -> None:
        self.node = node
        self.what = what
        shape = node.attrs["shape"] if "shape" in node.attrs else node.attrs["h5sparse_shape"]
        self.shape = (int(shape[0]), int(shape[1]))

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype as stored."""
        dtype: np.dtype[Any] = self.node["data"].dtype
        return dtype

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows [start, stop) as a dense (stop - start, d) array."""
        return np.asarray(self.read_csr(start, stop).toarray())

    @abstractmethod
    def read_csr(self, start: int, stop: int) -> csr_matrix:
        """Return rows [start, stop) as a CSR matrix."""

    def _check_indices(self, indices: NDArray[Any], limit: int) -> None:
        """SciPy writes out of bounds where a damaged file says so."""
        if indices.size and not 0 <= indices.min() <= indices.max() < limit:
            raise InputError(f"{self.what} has indices beyond its shape {self.shape}; the file is damaged")


class CsrRows(_StoredSparse):
    """Rows of a stored CSR matrix; a block reads its own entries only."""

    @cached_property
    def _indptr(self) -> NDArray[np.int64]:
        indptr = np.asarray(self.node["indptr"][:], np.int64)
        if len(indptr) != self.shape[0] + 1 or indptr[0] != 0 or (np.diff(indptr) < 0).any():
            raise InputError(f"{self.what} has row pointers that do not fit its shape; the file is damaged")
        return indptr

    def read_csr(self, start: int, stop: int) -> csr_matrix:
        """Return rows [start, stop) as a CSR matrix."""
        from scipy.sparse import csr_matrix

        with reading(f"{self.what}: rows {start:,} to {stop:,}"):
            low, high = int(self._indptr[start]), int(self._indptr[stop])
            indices = np.asarray(self.node["indices"][low:high])
            self._check_indices(indices, self.shape[1])
            entries = (self.node["data"][low:high], indices, self._indptr[start : stop + 1] - low)
            return csr_matrix(entries, shape=(stop - start, self.shape[1]))


class CscRows(_StoredSparse):
    """Rows of a stored CSC matrix: its entries are read whole on first use, for columns do not come in row blocks."""

    @cached_property
    def _csr(self) -> csr_matrix:
        from scipy.sparse import csc_matrix

        with reading(self.what):
            indices = np.asarray(self.node["indices"][:])
            self._check_indices(indices, self.shape[0])
            entries = (self.node["data"][:], indices, self.node["indptr"][:])
            return csc_matrix(entries, shape=self.shape).tocsr()

    def read_csr(self, start: int, stop: int) -> csr_matrix:
        """Return rows [start, stop) as a CSR matrix."""
        return self._csr[start:stop]


class ColumnRows:
    """Rows of a stored table whose columns are the dimensions."""

    def __init__(self, node: Node, what: str) -> None:
        index = attribute(node, "_index", "_index")
        stored = [str(name) for name in node.attrs.get("column-order", ())]
        names = [name for name in stored or node.keys() if name != index]
        text = [name for name in names if is_group(node[name]) or node[name].dtype.kind not in "fiub"]
        if text:
            raise InputError(f"{what} has columns that are not plain numbers: {quoted(text)}; store it as an array")
        self.node = node
        self._columns = [node[name] for name in names]
        self.what = what
        self.shape = (int(node[index].shape[0]), len(names))
        self.dtype = np.result_type(*(column.dtype for column in self._columns)) if names else np.dtype(np.float64)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows [start, stop) as a dense (stop - start, d) array."""
        block = np.empty((stop - start, self.shape[1]), self.dtype)
        with reading(f"{self.what}: rows {start:,} to {stop:,}"):
            for j, column in enumerate(self._columns):
                block[:, j] = column[start:stop]
        return block


class FieldRows:
    """Rows of one field of an array of records, in which AnnData kept `obsm` before 0.7."""

    def __init__(self, records: Node, field: str, what: str) -> None:
        self._records = records
        self._field = field
        self._what = what
        dtype, *_ = records.dtype.fields[field]
        self.dtype = dtype.base
        self.shape = (int(records.shape[0]), int(np.prod(dtype.shape, dtype=int)))

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows [start, stop) as a dense (stop - start, d) array."""
        with reading(f"{self._what}: rows {start:,} to {stop:,}"):
            return np.asarray(self._records[start:stop][self._field]).reshape(stop - start, -1)

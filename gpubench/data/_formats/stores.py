"""Open HDF5 files (h5ad) and zarr stores, and row sources over their matrices.

Groups and arrays of both libraries have the same interface. Matrices are dense, CSR, CSC, tables of columns or fields
of records.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gpubench.core.errors import InputError, quoted
from gpubench.data.matrices import SlicedRows
from gpubench.data.urls import File, Url, reading

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Node: TypeAlias = Any
"""A group or an array of h5py or zarr: `attrs`, `[key]`; groups have `keys()`, arrays `shape`, `dtype`, slices."""

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def open_hdf5(path: File) -> Node:
    """Open an HDF5 file for reading; it stays open as long as anything read from it lives."""
    import h5py

    if find_spec("hdf5plugin") is not None:
        import_module("hdf5plugin")  # registers compression filters with HDF5
    with reading(path):
        file: Any = path.open("rb")  # h5py calls a file without read permission "not HDF5"
        if isinstance(path, Url):
            is_hdf5 = file.read(len(_HDF5_SIGNATURE)) == _HDF5_SIGNATURE
        else:
            file.close()
            is_hdf5, file = h5py.is_hdf5(path), path
        if not is_hdf5:
            raise InputError(
                f"{path} is not an HDF5 file, so it cannot be an h5ad file; check the path, or copy it again"
            )
        try:
            return h5py.File(file, "r")
        except OSError as error:
            if "truncated" in str(error):
                raise InputError(f"{path} is truncated; copy or download it again") from error
            raise


def open_zarr(path: File) -> Node:
    """Open a zarr store, version 2 or 3, for reading: a folder, a .zip, or a folder behind a URL."""
    import zarr

    if isinstance(path, Url):
        if path.name.endswith(".zip"):
            raise InputError(f"{path}: a zipped store cannot be read from a URL; download it, and give its path")
        if path.has_query:
            raise InputError(
                f"{path}: a store of many files cannot be read from a URL with a query; download it, and give its path"
            )
    with reading(path):
        if isinstance(path, Url):
            store, what, remedy = path.zarr_store(), "is ", "check the address, or give"
        else:
            if not path.exists():
                raise FileNotFoundError(path)
            store = zarr.storage.ZipStore(path, mode="r") if path.is_file() else path
            what, remedy = "is a folder, and " if path.is_dir() else "is ", "give a file, or"
        try:
            return zarr.open_group(store, mode="r")
        except (FileNotFoundError, zarr.errors.ContainsArrayError) as error:
            raise InputError(
                f"{path} {what}not a zarr group of AnnData; {remedy} the store that write_zarr wrote"
            ) from error


def is_group(node: Node) -> bool:
    """Whether a node is a group, which contains other nodes."""
    return hasattr(node, "keys")


def attribute(node: Node, name: str, default: Any = None) -> Any:
    """Return an attribute of a node; text is a str even if the file has bytes or an array of one text."""
    value = node.attrs.get(name, default)
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    return value.decode() if isinstance(value, bytes) else value


def column_order(table: Node) -> list[str]:
    """Return the names of the columns in the order in which they were written; empty if that is not stored."""
    stored = np.atleast_1d(np.asarray(table.attrs.get("column-order", ()), object))
    return [name.decode() if isinstance(name, bytes) else str(name) for name in stored]


def has_node(group: Node, name: str) -> bool:
    """Whether a group has a node of this name; a "/" in the name, which AnnData allows, leads into a nested group."""
    return bool(name) and not name.startswith("/") and "" not in name.split("/") and name in group


def stored_rows(node: Node, what: str, file: File) -> Any:
    """Return a `RowSource` of a stored matrix; only shapes are read, and messages call the matrix `what`.

    An array that is not two-dimensional is returned unchanged, so that `as_rows` refuses it.
    """
    if not is_group(node):
        return SlicedRows(node, what, file) if len(node.shape) == 2 else node
    encoding = attribute(node, "encoding-type", attribute(node, "h5sparse_format"))
    if encoding == "dataframe" or (encoding is None and "column-order" in node.attrs):
        return ColumnRows(node, what, file)
    if encoding in ("csr_matrix", "csr"):
        return CsrRows(node, what, file)
    if encoding in ("csc_matrix", "csc"):
        return CscRows(node, what, file)
    raise InputError(f"{what} is stored as {encoding!r}, which is not a matrix; choose another one")


class _StoredSparse(ABC):
    """Base class of row sources of stored CSR and CSC matrices."""

    def __init__(self, node: Node, what: str, file: File, shape: tuple[int, int] | None = None) -> None:
        self.node, self.what, self.file = node, what, file
        if shape is None:
            shape = node.attrs["shape"] if "shape" in node.attrs else node.attrs["h5sparse_shape"]
        self.shape = (int(shape[0]), int(shape[1]))
        stored: np.dtype[Any] = node["data"].dtype
        self.dtype = np.dtype(np.float32) if stored == np.float16 else stored  # SciPy has no half floats

    @abstractmethod
    def read_csr(self, start: int, stop: int) -> csr_matrix:
        """Return rows [start, stop) as a CSR matrix."""

    def read(self, start: int, stop: int) -> NDArray[Any]:
        return np.asarray(self.read_csr(start, stop).toarray())

    def _pointers(self, n: int, what: str) -> NDArray[np.int64]:
        """Return where each of the n rows or columns begins, and the end of the last."""
        indptr = np.asarray(self.node["indptr"][:], np.int64)
        if len(indptr) != n + 1 or indptr[0] != 0 or (np.diff(indptr) < 0).any():
            raise InputError(f"{self.what} has {what} pointers that do not fit its shape; the file is damaged")
        return indptr

    def _check_indices(self, indices: NDArray[Any], limit: int) -> None:
        """Raise if an index of a damaged file is out of bounds, where SciPy would write."""
        if indices.size and not 0 <= indices.min() <= indices.max() < limit:
            raise InputError(f"{self.what} has indices beyond its shape {self.shape}; the file is damaged")


class CsrRows(_StoredSparse):
    """`RowSource` of a stored CSR matrix; only the entries of a block are read."""

    @cached_property
    def _indptr(self) -> NDArray[np.int64]:
        return self._pointers(self.shape[0], "row")

    def read_csr(self, start: int, stop: int) -> csr_matrix:
        from scipy.sparse import csr_matrix

        with reading(f"{self.what}: rows {start:,} to {stop:,}", self.file):
            low, high = int(self._indptr[start]), int(self._indptr[stop])
            indices = np.asarray(self.node["indices"][low:high])
            self._check_indices(indices, self.shape[1])
            values = self.node["data"][low:high].astype(self.dtype, copy=False)
            entries = (values, indices, self._indptr[start : stop + 1] - low)
            return csr_matrix(entries, shape=(stop - start, self.shape[1]))


class CscRows(_StoredSparse):
    """`RowSource` of a stored CSC matrix, read into memory on first use, since rows are scattered over the columns."""

    def entries(self, block_bytes: int) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32], NDArray[Any]]]:
        """Yield rows, columns and values of the entries, by column, about `block_bytes` at a time."""
        indptr = self._indptr
        n_stored, step = int(indptr[-1]), max(1, block_bytes // (8 + self.dtype.itemsize))
        for low in range(0, n_stored, step):
            high = min(low + step, n_stored)
            with reading(f"{self.what}: entries {low:,} to {high:,}", self.file):
                rows = np.asarray(self.node["indices"][low:high])
                self._check_indices(rows, self.shape[0])
                values = self.node["data"][low:high].astype(self.dtype, copy=False)
            ends = np.clip(indptr, low, high)
            in_block = ends[1:] - ends[:-1]
            columns = np.repeat(np.arange(self.shape[1], dtype=np.int32), in_block)
            yield rows.astype(np.int32), columns, values

    @cached_property
    def _indptr(self) -> NDArray[np.int64]:
        return self._pointers(self.shape[1], "column")

    @cached_property
    def _csr(self) -> csr_matrix:
        from scipy.sparse import csc_matrix

        with reading(self.what, self.file):
            indices = np.asarray(self.node["indices"][:])
            self._check_indices(indices, self.shape[0])
            entries = (self.node["data"][:].astype(self.dtype, copy=False), indices, self.node["indptr"][:])
            return csc_matrix(entries, shape=self.shape).tocsr()

    def read_csr(self, start: int, stop: int) -> csr_matrix:
        return self._csr[start:stop]


class ColumnRows:
    """`RowSource` of a stored table whose columns are dimensions; missing values of nullable columns are NaN."""

    def __init__(self, node: Node, what: str, file: File) -> None:
        index = attribute(node, "_index", "_index")
        names = [name for name in column_order(node) or node.keys() if name != index]
        text = [name for name in names if _values(node[name]).dtype.kind not in "fiub"]
        if text:
            raise InputError(f"{what} has columns that are not plain numbers: {quoted(text)}; store it as an array")
        self.node, self.what, self.file = node, what, file
        self._columns = [(_values(node[name]), _mask(node[name])) for name in names]
        lengths = [column.shape[0] for column, _ in self._columns]
        if has_node(node, index):
            lengths.append(_values(node[index]).shape[0])
        if len(set(lengths)) > 1:
            raise InputError(f"{what} has columns of {min(lengths):,} and {max(lengths):,} rows; write the file again")
        self.shape = (int(lengths[0]) if lengths else 0, len(names))
        dtypes = [
            np.dtype(np.float64) if mask is not None and mask[:].any() else column.dtype
            for column, mask in self._columns
        ]
        self.dtype = np.result_type(*dtypes) if names else np.dtype(np.float64)
        self._index = _values(node[index]) if has_node(node, index) else None

    def names_reader(self) -> Any:
        """Return a function that reads the index of the table; None if there is no index, or it consists of numbers."""
        index = self._index
        if index is None or index.dtype.kind in "iu":
            return None

        def read() -> NDArray[Any]:
            with reading(f"index of {self.what}", self.file):
                return np.asarray((index.asstr() if hasattr(index, "asstr") else index)[:])

        return read

    def read(self, start: int, stop: int) -> NDArray[Any]:
        block = np.empty((stop - start, self.shape[1]), self.dtype)
        with reading(f"{self.what}: rows {start:,} to {stop:,}", self.file):
            for j, (column, mask) in enumerate(self._columns):
                block[:, j] = column[start:stop]
                if mask is not None and self.dtype.kind == "f":
                    block[mask[start:stop], j] = np.nan
        return block


def _values(column: Node) -> Node:
    """Return the array of values of a column, nullable or not; an empty array of text for groups of other kinds."""
    if not is_group(column):
        return column
    return column["values"] if "values" in column and "mask" in column else np.empty(0, str)


def _mask(column: Node) -> Node | None:
    return column["mask"] if is_group(column) else None


class Field:
    """One field of an array of records (`obsm` before AnnData 0.7), with the interface of an array."""

    def __init__(self, records: Node, name: str) -> None:
        self._records, self._name = records, name
        dtype, *_ = records.dtype.fields[name]
        self.dtype = dtype.base
        self.shape = (records.shape[0], int(np.prod(dtype.shape, dtype=int)))
        self.chunks = records.chunks

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        return np.asarray(self._records[rows][self._name]).reshape(-1, self.shape[1])

"""Locations of stored matrices, by which other processes open the same matrix."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError
from gpubench.data._formats.arrays import NpyRows, ParquetRows
from gpubench.data._formats.stores import open_hdf5, open_zarr, stored_rows
from gpubench.data.matrices import comes_from
from gpubench.data.urls import File, Url, reading

if TYPE_CHECKING:
    from gpubench.data.matrices import Rows


@dataclass(frozen=True, slots=True)
class Location:
    """Location of a matrix in a file.

    Attributes
    ----------
    path : absolute path or URL of the file
    format : "npy", "parquet", "hdf5" or "zarr"
    node : path of the array in an HDF5 file or a zarr store
    what : name of the matrix in messages
    """

    path: str | Url
    format: str
    node: str
    what: str

    def open(self) -> Rows:
        """Open the matrix in this process; only shapes are read."""
        file: File = self.path if isinstance(self.path, Url) else Path(self.path)
        if isinstance(file, Path) and not file.exists():
            raise InputError(
                f"{file} is not there for every worker; a path must mean the same on all machines: put the file into a"
                " folder that they share, or give a URL"
            )
        if isinstance(file, Url) and self.format != "zarr":
            file.require()
        if self.format == "npy":
            if isinstance(file, Url):
                return NpyRows(file)
            with reading(file):
                return np.lib.format.open_memmap(file, mode="r")
        if self.format == "parquet":
            return ParquetRows(file)
        root = open_hdf5(file) if self.format == "hdf5" else open_zarr(file)
        with reading(self.what, file):
            rows: Rows = stored_rows(root[self.node], self.what, file)
            return rows


def find_location(rows: Rows) -> Location | None:
    """Return the location of a matrix; None if it is in memory or its format is not supported."""
    if isinstance(rows, np.memmap):
        return _memmap_location(rows)
    file = getattr(rows, "file", None)
    if isinstance(rows, NpyRows | ParquetRows):
        return _location(file, "npy" if isinstance(rows, NpyRows) else "parquet", "", str(file))
    node: Any = getattr(rows, "node", None)
    url, what = file if isinstance(file, Url) else None, getattr(rows, "what", "")
    if comes_from(node, "h5py"):
        return _location(url or Path(node.file.filename), "hdf5", node.name, what)
    if comes_from(node, "zarr"):
        root = getattr(node.store, "root", None)
        return _location(url or (None if root is None else Path(root)), "zarr", node.path, what)
    return None


def _location(file: File | None, kind: str, node: str, what: str) -> Location | None:
    if file is None or (isinstance(file, Url) and not file.is_shared):
        return None
    return Location(file if isinstance(file, Url) else str(file.absolute()), kind, node, what)


def _memmap_location(array: np.memmap[Any, Any]) -> Location | None:
    """Return the location of a memory map that is a whole .npy file."""
    path = array.filename
    if path is None or Path(path).suffix != ".npy":
        return None
    whole = np.lib.format.open_memmap(path, mode="r")
    same = whole.shape == array.shape and whole.dtype == array.dtype and whole.strides == array.strides
    same = same and getattr(whole, "offset", 0) == getattr(array, "offset", 0)
    return Location(str(Path(path).absolute()), "npy", "", str(path)) if same else None

"""Where a matrix is stored, so that another process can open it for itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError
from gpubench.data.formats.array_rows import NpyRows, ParquetRows
from gpubench.data.formats.containers import home_of, open_hdf5, open_zarr
from gpubench.data.formats.stored_matrices import stored_rows
from gpubench.data.matrices import comes_from
from gpubench.data.read_errors import reading
from gpubench.data.urls import File, Url

if TYPE_CHECKING:
    from gpubench.data.matrices import Rows


@dataclass(frozen=True, slots=True)
class Place:
    """A matrix in a file.

    Attributes
    ----------
    path : absolute, or a URL
    format : "npy", "parquet", "hdf5" or "zarr"
    node : which of the arrays of an HDF5 file or a zarr store
    what : for messages
    """

    path: str | Url
    format: str
    node: str
    what: str

    def open(self) -> Rows:
        """Open it; nothing is read but shapes.

        Raises
        ------
        InputError
            It is not there for this process, or damaged.
        """
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
            with reading(str(file)):
                return np.lib.format.open_memmap(file, mode="r")
        if self.format == "parquet":
            return ParquetRows(file)
        root = open_hdf5(file) if self.format == "hdf5" else open_zarr(file)
        with reading(self.what):
            rows: Rows = stored_rows(root[self.node], self.what)
            return rows


def place_of(rows: Rows) -> Place | None:
    """Where the rows are stored; None where they are in memory, or in a layout that has no place of its own.

    Parameters
    ----------
    rows : as `as_rows` returns them
    """
    if isinstance(rows, np.memmap):
        return _of_memmap(rows)
    if isinstance(rows, NpyRows | ParquetRows):
        return _of_home(rows.file, "npy" if isinstance(rows, NpyRows) else "parquet", "", str(rows.file))
    node: Any = getattr(rows, "node", None)
    home, what = home_of(node), getattr(rows, "what", "")
    if comes_from(node, "h5py"):
        return _of_home(home, "hdf5", node.name, what)
    return None if home is None else _of_home(home, "zarr", node.path, what)


def _of_home(home: File | None, kind: str, node: str, what: str) -> Place | None:
    if home is None or (isinstance(home, Url) and not home.is_shared):
        return None
    return Place(home if isinstance(home, Url) else str(home.absolute()), kind, node, what)


def _of_memmap(array: np.memmap[Any, Any]) -> Place | None:
    """The file of a memory map, where it is a whole .npy file."""
    path = array.filename
    if path is None or Path(path).suffix != ".npy":
        return None
    whole = np.lib.format.open_memmap(path, mode="r")
    same = whole.shape == array.shape and whole.dtype == array.dtype and whole.strides == array.strides
    starts_there = getattr(whole, "offset", 0) == getattr(array, "offset", 0)
    return Place(str(Path(path).absolute()), "npy", "", str(path)) if same and starts_there else None

"""Where a matrix is stored, so that another process can open it for itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.data.host import comes_from
from gpubench.data.messages import reading
from gpubench.data.store import open_hdf5, open_zarr
from gpubench.data.stored_matrices import stored_rows

if TYPE_CHECKING:
    from gpubench.data.matrix import Rows


@dataclass(frozen=True, slots=True)
class Place:
    """A matrix in a file.

    Attributes
    ----------
    path : absolute
    format : "npy", "hdf5" or "zarr"
    node : which of the arrays of an HDF5 file or a zarr store
    what : for messages
    """

    path: str
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
        path = Path(self.path)
        if self.format == "npy":
            with reading(self.path):
                return np.lib.format.open_memmap(path, mode="r")
        root = open_hdf5(path) if self.format == "hdf5" else open_zarr(path)
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
    node: Any = getattr(rows, "node", None)
    what: str = getattr(rows, "what", "")
    if comes_from(node, "h5py"):
        return Place(str(Path(node.file.filename).absolute()), "hdf5", node.name, what)
    root = getattr(getattr(node, "store", None), "root", None) if comes_from(node, "zarr") else None
    return None if root is None else Place(str(Path(root).absolute()), "zarr", node.path, what)


def _of_memmap(array: np.memmap[Any, Any]) -> Place | None:
    """The file of a memory map, where it is a whole .npy file."""
    path = array.filename
    if path is None or Path(path).suffix != ".npy":
        return None
    whole = np.lib.format.open_memmap(path, mode="r")
    same = whole.shape == array.shape and whole.dtype == array.dtype and whole.strides == array.strides
    starts_there = getattr(whole, "offset", 0) == getattr(array, "offset", 0)
    return Place(str(Path(path).absolute()), "npy", "", str(path)) if same and starts_there else None

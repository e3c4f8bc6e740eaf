"""Opening the two containers that hold AnnData on disk: HDF5 (h5ad) and zarr. Both give groups that read alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

from gpubench.data.messages import reading
from gpubench.errors import InputError

Node: TypeAlias = Any
"""A group or an array of h5py or zarr: `attrs`, `[key]`; groups have `keys()`, arrays `shape`, `dtype`, slices."""


def open_hdf5(path: Path) -> Node:
    """Open an HDF5 file for reading; it stays open as long as anything read from it lives.

    Raises
    ------
    InputError
        Missing, a folder, not permitted, not HDF5, truncated, locked.
    """
    import h5py

    with reading(str(path)):
        path.open("rb").close()  # h5py says of a file that may not be read that it is no HDF5
        if not h5py.is_hdf5(path):
            raise InputError(
                f"{path} is not an HDF5 file, so it cannot be an h5ad file; check the path, or copy it again"
            )
        try:
            return h5py.File(path, "r")
        except OSError as error:
            if "truncated" in str(error):
                raise InputError(f"{path} is truncated; copy or download it again") from error
            raise


def open_zarr(path: Path) -> Node:
    """Open a zarr store, version 2 or 3, a folder or a .zip, for reading.

    Raises
    ------
    InputError
        Missing, not permitted, not zarr, an array instead of a group, damaged.
    """
    import zarr

    with reading(str(path)):
        if not path.exists():
            raise FileNotFoundError(path)
        try:
            store = zarr.storage.ZipStore(path, mode="r") if path.is_file() else path
            return zarr.open_group(store, mode="r")
        except (FileNotFoundError, zarr.errors.ContainsArrayError) as error:
            what = "is a folder, and " if path.is_dir() else "is "
            raise InputError(
                f"{path} {what}not a zarr group of AnnData; give a file, or the store that write_zarr wrote"
            ) from error


def is_group(node: Node) -> bool:
    """Whether it holds other nodes."""
    return hasattr(node, "keys")


def attribute(node: Node, name: str, default: Any = None) -> Any:
    """An attribute; text as str where an old file holds bytes."""
    value = node.attrs.get(name, default)
    return value.decode() if isinstance(value, bytes) else value

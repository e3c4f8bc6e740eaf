"""Open the two containers that hold AnnData on disk, HDF5 (h5ad) and zarr, whose groups have the same interface."""

from __future__ import annotations

from typing import Any, TypeAlias

from gpubench.core.errors import InputError
from gpubench.data.read_errors import reading
from gpubench.data.urls import File, Url

Node: TypeAlias = Any
"""A group or an array of h5py or zarr: `attrs`, `[key]`; groups have `keys()`, arrays `shape`, `dtype`, slices."""

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def open_hdf5(path: File) -> Node:
    """Open an HDF5 file for reading; it stays open as long as anything read from it lives."""
    import h5py

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
    """Whether a node holds other nodes."""
    return hasattr(node, "keys")


def attribute(node: Node, name: str, default: Any = None) -> Any:
    """Return an attribute of a node; text as str even where an old file holds bytes."""
    value = node.attrs.get(name, default)
    return value.decode() if isinstance(value, bytes) else value

"""Opening the two containers that hold AnnData on disk: HDF5 (h5ad) and zarr. Both give groups that read alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

from gpubench.core.errors import InputError
from gpubench.data.matrices import comes_from
from gpubench.data.read_errors import reading
from gpubench.data.urls import File, Url

Node: TypeAlias = Any
"""A group or an array of h5py or zarr: `attrs`, `[key]`; groups have `keys()`, arrays `shape`, `dtype`, slices."""


_HDF5 = b"\x89HDF\r\n\x1a\n"

_opened: WeakValueDictionary[str, Any] = WeakValueDictionary()
"""Files behind URLs, by the names that h5py has for them."""


def open_hdf5(path: File) -> Node:
    """Open an HDF5 file for reading; it stays open as long as anything read from it lives.

    Raises
    ------
    InputError
        Missing, a folder, not permitted, not HDF5, truncated, locked.
    """
    import h5py

    with reading(str(path)):
        file: Any = path.open("rb")  # h5py says of a file that may not be read that it is no HDF5
        if isinstance(path, Url):
            is_hdf5 = file.read(len(_HDF5)) == _HDF5
            _opened[repr(file)] = file
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
    """Open a zarr store, version 2 or 3, a folder or a .zip, for reading.

    Raises
    ------
    InputError
        Missing, not permitted, not zarr, an array instead of a group, damaged.
    """
    import zarr

    if isinstance(path, Url):
        return _open_zarr_of(path)
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


def _open_zarr_of(url: Url) -> Node:
    import zarr

    if url.has_query or url.name.endswith(".zip"):
        what = (
            "a zipped store" if url.name.endswith(".zip") else "a store of many files cannot be had with a query, and"
        )
        raise InputError(f"{url}: {what} is read from a folder; download it, and give its path")
    with reading(str(url)):
        store = url.zarr_store()
        try:
            root = zarr.open_group(store, mode="r")
        except (FileNotFoundError, zarr.errors.ContainsArrayError) as error:
            raise InputError(
                f"{url} is not a zarr group of AnnData; check the address, or give the store that write_zarr wrote"
            ) from error
        store.url = url  # for `home_of`
        return root


def home_of(node: Node) -> File | None:
    """The file or store that a node is in; None where it is in none."""
    if comes_from(node, "h5py"):
        name = node.file.filename
        file = _opened.get(name)
        return Path(name).absolute() if file is None else file.url
    if not comes_from(node, "zarr"):
        return None
    url: Url | None = getattr(node.store, "url", None)
    root = getattr(node.store, "root", None)
    return url or (None if root is None else Path(root).absolute())


def is_group(node: Node) -> bool:
    """Whether it holds other nodes."""
    return hasattr(node, "keys")


def attribute(node: Node, name: str, default: Any = None) -> Any:
    """An attribute; text as str where an old file holds bytes."""
    value = node.attrs.get(name, default)
    return value.decode() if isinstance(value, bytes) else value

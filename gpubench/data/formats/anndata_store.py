"""AnnData as a source: one in memory or backed, or a store on disk, read without the anndata package."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubench.core.errors import InputError, quoted
from gpubench.data.columns import CategoricalColumn
from gpubench.data.formats.containers import Node, attribute, is_group, open_hdf5, open_zarr
from gpubench.data.formats.source import NamedColumns, Table, unknown_embedding
from gpubench.data.formats.stored_matrices import FieldRows, stored_rows
from gpubench.data.matrices import comes_from
from gpubench.data.read_errors import reading
from gpubench.data.urls import File

_LEGACY_CATEGORIES = "__categories"
_NULLABLE = ("nullable-integer", "nullable-boolean", "nullable-string-array")


class StoredTable:
    """The `obs` or `var` of a store: a group of columns, or, before AnnData 0.7, one array of records.

    Parameters
    ----------
    root : the AnnData group
    where : what messages call the store
    axis : "obs" or "var"
    """

    def __init__(self, root: Node, where: str, axis: str = "obs") -> None:
        self._uns = root.get("uns", {})
        self._table = root[axis]
        self.where = f"{axis} of {where}"

    @property
    def index_name(self) -> str:
        """The name under which the names of the rows are stored."""
        if is_group(self._table):
            return str(attribute(self._table, "_index", "_index"))
        return str(self._table.dtype.names[0])

    def names(self) -> list[str]:
        """The columns, without the index."""
        stored = self._table.keys() if is_group(self._table) else self._table.dtype.names
        return [name for name in stored if name not in (self.index_name, _LEGACY_CATEGORIES)]

    def n_rows(self) -> int:
        """The number of rows, from the shape of the index; nothing is read."""
        with reading(self.where):
            index = self._table[self.index_name] if is_group(self._table) else self._table
            if is_group(index):  # an index with a mask
                index = index["values"]
            return int(index.shape[0])

    def row_names(self) -> NDArray[Any]:
        """Read the names of the rows."""
        names = self.column(self.index_name)
        return names if isinstance(names, np.ndarray) else np.asarray(names.categories)[names.codes]

    def column(self, name: str) -> NDArray[Any] | CategoricalColumn:
        """Read one column as stored."""
        with reading(f"column {name!r} in {self.where}"):
            if is_group(self._table):
                return decode(self._table[name], self._table)
            return self._record_field(name)

    def _record_field(self, name: str) -> NDArray[Any] | CategoricalColumn:
        values = self._table[name] if hasattr(self._table, "fields") else self._table[:][name]
        categories = f"{name}_categories"
        if values.dtype.kind in "iu" and categories in self._uns:
            return CategoricalColumn(values, np.atleast_1d(read_array(self._uns[categories])))
        return np.asarray(values)


def decode(node: Node, parent: Node) -> NDArray[Any] | CategoricalColumn:
    """Read an array, a categorical or a nullable array, in any of their encodings.

    Raises
    ------
    InputError
        An encoding that is no column.
    """
    if not is_group(node):
        if (categories := attribute(node, "categories")) is not None:  # AnnData 0.7: a path, or a reference
            return CategoricalColumn(node[:], read_array(parent[categories]))
        return read_array(node)
    encoding = attribute(node, "encoding-type")
    if encoding == "categorical":
        categories = decode(node["categories"], node)
        if isinstance(categories, CategoricalColumn):
            raise InputError(f"{node.name} is a categorical of categoricals, which AnnData does not write")
        return CategoricalColumn(node["codes"][:], categories)
    if encoding in _NULLABLE:
        values = read_array(node["values"])
        mask = np.asarray(node["mask"][:], bool)
        if not mask.any():
            return values
        values = values.astype(object)
        values[mask] = None
        return values
    raise InputError(f"{node.name} is stored as {encoding!r}, which is not a column; choose another one")


def read_array(node: Node) -> NDArray[Any]:
    """Read a whole array; text as Python strings."""
    if node.dtype.kind == "O" and hasattr(node, "asstr"):  # h5py hands out bytes unless asked
        node = node.asstr()
    return np.asarray(node[:])


class AnnDataSource(ABC):
    """Keys of obsm are embeddings, and so are X ("X") and layers ("layers/counts"), but only when asked for by name.

    "obsm/X_pca" means the key X_pca too; a key of that very name in obsm comes first.
    """

    where: str
    obs: Table | None

    def choose(self, wanted: list[str] | None) -> list[str]:
        """The one key of obsm unless some are named."""
        if wanted is not None:
            for name in wanted:
                self._place(name)
            return wanted
        keys = self._obsm_keys()
        if len(keys) == 1:
            return keys
        if not keys:
            raise InputError(f"{self.where} has no embedding in obsm; add one, or name 'X' or a layer in embeddings")
        raise InputError(f"{self.where} has several embeddings; name one or more in embeddings: {quoted(keys)}")

    def has(self, name: str) -> bool:
        """Whether it is a key of obsm."""
        return name in self._obsm_keys()

    def embedding(self, name: str) -> Any:
        """A matrix of obsm, X, or a layer."""
        return self._matrix(*self._place(name))

    def expression(self) -> Any:
        """X, whatever the keys of obsm are.

        Raises
        ------
        InputError
            There is none.
        """
        if not self._has_x():
            raise InputError(f"{self.where} has no expression in X; give a file that has it")
        return self._matrix("X", "")

    def _place(self, name: str) -> tuple[str, str]:
        """Where an embedding is: ("obsm", key), ("X", ""), ("layers", key)."""
        if name in self._obsm_keys():
            return "obsm", name
        slot, _, key = name.partition("/")
        if slot == "X" and not key and self._has_x():
            return "X", ""
        if slot == "obsm" and key in self._obsm_keys():
            return "obsm", key
        if slot == "layers" and key in self._layer_keys():
            return "layers", key
        layers = [f"layers/{layer}" for layer in self._layer_keys()]
        raise unknown_embedding(name, self.where, [*self._obsm_keys(), *(["X"] if self._has_x() else []), *layers])

    @abstractmethod
    def _obsm_keys(self) -> list[str]: ...

    @abstractmethod
    def _layer_keys(self) -> list[str]: ...

    @abstractmethod
    def _has_x(self) -> bool: ...

    @abstractmethod
    def _matrix(self, slot: str, key: str) -> Any: ...

    @abstractmethod
    def n_cells(self) -> int | None:
        """The number of cells."""

    @abstractmethod
    def cell_ids(self) -> NDArray[Any] | None:
        """Names of the cells."""

    @abstractmethod
    def gene_ids(self) -> NDArray[Any]:
        """Names of the genes."""


class LoadedAnnData(AnnDataSource):
    """An AnnData object, in memory or backed."""

    def __init__(self, adata: Any) -> None:
        self._adata = adata
        self.where = "the AnnData object"
        self.obs = NamedColumns(adata.obs, "obs of the AnnData object")

    def _obsm_keys(self) -> list[str]:
        return list(self._adata.obsm.keys())

    def _layer_keys(self) -> list[str]:
        return list(self._adata.layers.keys())

    def _has_x(self) -> bool:
        return self._adata.X is not None

    def _matrix(self, slot: str, key: str) -> Any:
        return self._adata.X if slot == "X" else getattr(self._adata, slot)[key]

    def n_cells(self) -> int | None:
        """The number of cells."""
        return int(self._adata.n_obs)

    def cell_ids(self) -> NDArray[Any] | None:
        """Names of the cells."""
        return np.asarray(self._adata.obs_names)

    def gene_ids(self) -> NDArray[Any]:
        """Names of the genes."""
        return np.asarray(self._adata.var_names)

    @property
    def uns(self) -> Any:
        """Unstructured annotations: a mapping."""
        return self._adata.uns


class StoredAnnData(AnnDataSource):
    """AnnData in an HDF5 file or a zarr store: only what is asked for is read.

    Parameters
    ----------
    root : the group
    where : the path, for messages
    """

    def __init__(self, root: Node, where: str) -> None:
        self._root = root
        self.where = where
        if "obs" not in root:
            raise InputError(f"{where} is not AnnData: it has no obs; give a file that AnnData wrote")
        self._obs = StoredTable(root, where)
        self.obs = self._obs

    def _slot(self, name: str) -> Node:
        return self._root.get(name, {})

    def _obsm_keys(self) -> list[str]:
        obsm = self._slot("obsm")
        return list(obsm.keys() if is_group(obsm) else obsm.dtype.names)

    def _layer_keys(self) -> list[str]:
        return list(self._slot("layers").keys())

    def _has_x(self) -> bool:
        if "X" not in self._root:
            return False
        x = self._root["X"]
        return is_group(x) or len(x.shape or ()) == 2  # no X is stored as a null scalar, whose shape h5py gives as None

    def _matrix(self, slot: str, key: str) -> Any:
        what = f"{slot}/{key} of {self.where}" if key else f"{slot} of {self.where}"
        with reading(what):
            node = self._root[slot]
            if not key:
                return stored_rows(node, what)
            return stored_rows(node[key], what) if is_group(node) else FieldRows(node, key, what)

    def n_cells(self) -> int | None:
        """The number of cells."""
        return self._obs.n_rows()

    def cell_ids(self) -> NDArray[Any] | None:
        """Read the names of the cells."""
        return self._obs.row_names()

    def gene_ids(self) -> NDArray[Any]:
        """Read the names of the genes."""
        return StoredTable(self._root, self.where, "var").row_names()

    @property
    def uns(self) -> Any:
        """Unstructured annotations: a mapping, as stored."""
        return self._slot("uns")


def is_anndata(x: Any) -> bool:
    """Whether it is an AnnData object, without importing anndata."""
    return comes_from(x, "anndata") and all(hasattr(x, name) for name in ("obsm", "obs", "layers", "n_obs"))


def open_h5ad(path: File) -> StoredAnnData:
    """Open an .h5ad file."""
    return StoredAnnData(open_hdf5(path), str(path))


def open_zarr_anndata(path: File) -> StoredAnnData:
    """Open a zarr store of AnnData."""
    return StoredAnnData(open_zarr(path), str(path))

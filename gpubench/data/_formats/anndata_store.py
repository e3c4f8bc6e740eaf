"""Sources for AnnData: an object, or a store on disk, which is read without the anndata package.

`anndata.io` is not used for stores: importing it adds a second to every run, `sparse_dataset` reads rows of CSR at a
fifth of the speed, and it does not check the indices of damaged files.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubench.core.errors import InputError, quoted
from gpubench.data._formats.row_names import NamesReader, as_array
from gpubench.data._formats.source import NamedColumns, Source, Table, unknown_embedding
from gpubench.data._formats.stores import (
    Field,
    Node,
    attribute,
    column_order,
    has_node,
    is_group,
    open_zarr,
    stored_rows,
)
from gpubench.data.columns import CategoricalColumn
from gpubench.data.matrices import SlicedRows, comes_from
from gpubench.data.urls import File, reading

_LEGACY_CATEGORIES = "__categories"
_NULLABLE = ("nullable-integer", "nullable-boolean", "nullable-string-array")


class StoredTable:
    """Table `obs` or `var` of a store: a group of columns, or, before AnnData 0.7, an array of records."""

    def __init__(self, root: Node, file: File, axis: str) -> None:
        self._file = file
        self._uns = root.get("uns", {})
        self._table = root[axis]
        self.where = f"{axis} of {file}"
        is_table = is_group(self._table)
        self._index = str(attribute(self._table, "_index", "_index") if is_table else self._table.dtype.names[0])

    def names(self) -> list[str]:
        """Return the names of the columns, without the index."""
        if not is_group(self._table):
            return [name for name in self._table.dtype.names if name != self._index]
        written = [name for name in column_order(self._table) if has_node(self._table, name)]
        inside = {name.partition("/")[0] for name in written if "/" in name}
        stored = [name for name in self._table if name not in inside]
        return [name for name in dict.fromkeys([*written, *stored]) if name not in (self._index, _LEGACY_CATEGORIES)]

    def n_rows(self) -> int:
        """Return the number of rows, from the shape of the index."""
        with reading(self.where, self._file):
            index = self._table[self._index] if is_group(self._table) else self._table
            if is_group(index):  # an index with a mask
                index = index["values"]
            return int(index.shape[0])

    def row_names(self) -> NDArray[Any]:
        return as_array(self.column(self._index))

    def names_reader(self) -> NamesReader | None:
        return self.row_names

    def column(self, name: str) -> NDArray[Any] | CategoricalColumn:
        with reading(f"column {name!r} in {self.where}", self._file):
            if is_group(self._table):
                node = self._table[name]
                levels = f"{_LEGACY_CATEGORIES}/{name}"
                is_factor = not is_group(node) and node.dtype.kind in "iu" and "categories" not in node.attrs
                if is_factor and has_node(self._table, levels):  # as SeuratDisk writes factors
                    return CategoricalColumn(node[:], as_array(read_array(self._table[levels])))
                return _decode(node, self._table)
            values = self._table[name] if hasattr(self._table, "fields") else self._table[:][name]
            categories = f"{name}_categories"
            if values.dtype.kind in "iu" and categories in self._uns:
                return CategoricalColumn(values, np.atleast_1d(as_array(read_array(self._uns[categories]))))
            return np.asarray(values)


def _decode(node: Node, parent: Node) -> NDArray[Any] | CategoricalColumn:
    """Read a column that is stored as an array, a categorical or a nullable array, in any encoding of AnnData."""
    if not is_group(node):
        if (categories := attribute(node, "categories")) is not None:  # AnnData 0.7: a path, or a reference
            return CategoricalColumn(node[:], as_array(read_array(parent[categories])))
        return read_array(node)
    encoding = attribute(node, "encoding-type")
    if encoding == "categorical" or (encoding is None and {"codes", "categories"} <= set(node.keys())):
        categories = _decode(node["categories"], node)
        if isinstance(categories, CategoricalColumn):
            raise InputError(f"{node.name} is a categorical of categoricals, which AnnData does not write")
        return CategoricalColumn(node["codes"][:], categories)
    if encoding in _NULLABLE or (encoding is None and {"values", "mask"} <= set(node.keys())):
        values = as_array(read_array(node["values"]))
        mask = np.asarray(node["mask"][:], bool)
        if not mask.any():
            return values
        values = values.astype(object)
        values[mask] = None
        return values
    raise InputError(f"{node.name} is stored as {encoding!r}, which is not a column; choose another one")


def read_array(node: Node) -> NDArray[Any] | CategoricalColumn:
    """Read a whole array; text becomes Python strings, an HDF5 enumeration a categorical column."""
    if node.dtype.kind == "O" and hasattr(node, "asstr"):  # h5py returns bytes by default
        node = node.asstr()
    values = np.asarray(node[()])
    members = _enum_members(node.dtype) if values.dtype.kind in "iu" else {}
    if not members:
        return values
    codes = np.searchsorted(np.sort(list(members)), values)
    names = [members[value] for value in sorted(members)]
    return CategoricalColumn(codes, [None if name == "NA" else name for name in names])


def _enum_members(dtype: np.dtype[Any]) -> dict[int, str]:
    """Return value -> name of the members of an HDF5 enumeration; empty for other types."""
    import h5py

    return {int(value): str(name) for name, value in (h5py.check_enum_dtype(dtype) or {}).items()}


class AnnDataSource(Source):
    """Base class of AnnData sources, in which the keys of obsm are embeddings.

    X and layers are embeddings if requested by name: "X", "layers/counts". The name "obsm/X_pca" is the same as
    "X_pca", unless obsm has a key "obsm/X_pca".
    """

    def choose(self, wanted: list[str] | None) -> list[str]:
        if wanted is not None:
            for name in wanted:
                self._locate(name)
            return wanted
        keys = self._keys("obsm")
        if len(keys) == 1:
            return keys
        if not keys:
            raise InputError(
                f"{self.where} has no embedding in obsm; add one, or name 'X' or a layer with `embeddings`"
            )
        raise InputError(f"{self.where} has several embeddings; name one or more with `embeddings`: {quoted(keys)}")

    def keys(self) -> list[str]:
        return self._keys("obsm")

    def has(self, name: str) -> bool:
        return self._has("obsm", name)

    def _has(self, slot: str, key: str) -> bool:
        return key in self._keys(slot)

    def embedding(self, name: str) -> Any:
        return self._matrix(*self._locate(name))

    def expression(self) -> Any:
        """Return the expression matrix X, even if obsm has a key "X"."""
        if not self._has_x():
            raise InputError(f"{self.where} has no expression in X; give a file that has it")
        return self._matrix("X", "")

    def _locate(self, name: str) -> tuple[str, str]:
        """Return the slot and the key of an embedding: ("obsm", key), ("X", ""), ("layers", key)."""
        if self.has(name):
            return "obsm", name
        slot, _, key = name.partition("/")
        if slot == "X" and not key and self._has_x():
            return "X", ""
        if slot in ("obsm", "layers") and self._has(slot, key):
            return slot, key
        layers = [f"layers/{layer}" for layer in self._keys("layers")]
        keys = self._keys("obsm")
        if not keys and self._has_x():
            listed = quoted(["X", *layers])
            raise InputError(
                f"embedding {name!r} is not in {self.where}, which has expression only ({listed}); compute it first, as"
                " with scanpy.pp.pca, or score the PCA that `baseline` pca computes"
            )
        raise unknown_embedding(name, self.where, [*keys, *(["X"] if self._has_x() else []), *layers])

    @abstractmethod
    def _keys(self, slot: str) -> list[str]:
        """Return the keys of obsm or layers."""

    @abstractmethod
    def _has_x(self) -> bool: ...

    @abstractmethod
    def _matrix(self, slot: str, key: str) -> Any: ...

    @abstractmethod
    def gene_ids(self) -> NDArray[Any]:
        """Return the names of the genes."""

    @property
    @abstractmethod
    def uns(self) -> Any:
        """Unstructured annotations: a mapping, or for a store a group."""

    def annotation(self, key: str) -> dict[str, Any] | None:
        """Return a mapping of uns, with scalars for single values in groups; None if uns has no such mapping."""
        node = self.uns[key] if key in self.uns else None  # noqa: SIM401 - groups of zarr have no `get` like a dict's
        return _as_dict(node) if node is not None and hasattr(node, "keys") else None

    def pairwise(self, key: str) -> Any:  # noqa: ARG002 - for subclasses that have obsp
        """Return a matrix of obsp as a SciPy CSR matrix, with stored zeros; None if there is no such key."""
        return None


class LoadedAnnData(AnnDataSource):
    """Source for an AnnData object, in memory or backed."""

    def __init__(self, adata: Any) -> None:
        self._adata = adata
        self.where = "the AnnData object"

    def table(self) -> Table:
        return NamedColumns(self._adata.obs, "obs of the AnnData object")

    def _keys(self, slot: str) -> list[str]:
        return list(getattr(self._adata, slot).keys())

    def _has_x(self) -> bool:
        return self._adata.X is not None

    def _matrix(self, slot: str, key: str) -> Any:
        return self._adata.X if slot == "X" else getattr(self._adata, slot)[key]

    def pairwise(self, key: str) -> Any:
        return _as_csr(self._adata.obsp[key]) if key in self._adata.obsp else None

    def n_cells(self) -> int | None:
        return int(self._adata.n_obs)

    def names_reader(self) -> NamesReader | None:
        return lambda: self._adata.obs_names

    def gene_ids(self) -> NDArray[Any]:
        return np.asarray(self._adata.var_names)

    @property
    def uns(self) -> Any:
        return self._adata.uns


class StoredAnnData(AnnDataSource):
    """Source for AnnData in an HDF5 file or a zarr store, of which only the requested parts are read."""

    def __init__(self, root: Node, file: File) -> None:
        self._root = root
        self.file = file
        self.where = str(file)
        if "obs" not in root:
            raise InputError(f"{file} is not AnnData: it has no obs; give a file that AnnData wrote")
        self._obs = StoredTable(root, file, "obs")

    def table(self) -> Table:
        return self._obs

    def _keys(self, slot: str) -> list[str]:
        group = self._root.get(slot, {})
        return list(group.keys() if is_group(group) else group.dtype.names)

    def _has(self, slot: str, key: str) -> bool:
        group = self._root.get(slot, {})
        return has_node(group, key) if is_group(group) else key in group.dtype.names

    def _has_x(self) -> bool:
        if "X" not in self._root:
            return False
        x = self._root["X"]
        return is_group(x) or len(x.shape or ()) == 2  # an absent X is a null scalar, whose shape is None in h5py

    def _matrix(self, slot: str, key: str) -> Any:
        what = f"{slot}/{key} of {self.file}" if key else f"{slot} of {self.file}"
        with reading(what, self.file):
            node = self._root[slot]
            if not key:
                return stored_rows(node, what, self.file)
            if not is_group(node):
                return SlicedRows(Field(node, key), what, self.file)
            return stored_rows(node[key], what, self.file)

    def pairwise(self, key: str) -> Any:
        from scipy.sparse import csc_matrix, csr_matrix

        if "obsp" not in self._root or not has_node(self._root["obsp"], key):
            return None
        with reading(f"obsp/{key} of {self.file}", self.file):
            node = self._root["obsp"][key]
            if not is_group(node):
                return _as_csr(node[:])
            encoding = attribute(node, "encoding-type", attribute(node, "h5sparse_format"))
            n_rows, n_columns = map(int, node.attrs["shape" if "shape" in node.attrs else "h5sparse_shape"])
            parts = tuple(node[name][:] for name in ("data", "indices", "indptr"))
            kind = csc_matrix if str(encoding).startswith("csc") else csr_matrix
            return _as_csr(kind(parts, shape=(n_rows, n_columns)))

    def n_cells(self) -> int | None:
        return self._obs.n_rows()

    def names_reader(self) -> NamesReader | None:
        return self._obs.row_names

    def gene_ids(self) -> NDArray[Any]:
        return StoredTable(self._root, self.file, "var").row_names()

    @property
    def uns(self) -> Any:
        return self._root.get("uns", {})


def _as_csr(matrix: Any) -> Any:
    from scipy.sparse import csr_matrix, issparse

    sparse: Any = matrix if issparse(matrix) else csr_matrix(np.asarray(matrix))
    return sparse.tocsr()


def _as_dict(node: Any) -> dict[str, Any]:
    """Return a mapping, or a group of a store with its single values, as a dict; arrays are left out."""
    values: dict[str, Any] = {}
    for name in node.keys():  # noqa: SIM118 - a group of h5py
        value = node[name]
        if hasattr(value, "keys"):
            values[name] = _as_dict(value)
        elif getattr(value, "shape", ()) == ():
            scalar = value if isinstance(value, str | int | float) or value is None else np.asarray(value[()]).item()
            values[name] = scalar.decode() if isinstance(scalar, bytes) else scalar
    return values


def is_anndata(x: Any) -> bool:
    """Whether `x` is an AnnData or MuData object; anndata is not imported."""
    if comes_from(x, "mudata"):
        return hasattr(x, "mod")
    return comes_from(x, "anndata") and all(hasattr(x, name) for name in ("obsm", "obs", "layers", "n_obs"))


def open_zarr_anndata(path: File) -> StoredAnnData:
    return StoredAnnData(open_zarr(path), path)

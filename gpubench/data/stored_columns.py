"""Columns of a table (`obs`) in AnnData's layout on disk, of every version since the first."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubench.data.categorical import CategoricalColumn
from gpubench.data.messages import reading
from gpubench.data.store import Node, attribute, is_group
from gpubench.errors import InputError

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

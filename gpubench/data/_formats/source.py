"""Interfaces `Source` and `Table`, which every kind of input implements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from numbers import Integral
from typing import Any, Protocol

from gpubench.core.errors import InputError, close_matches, quoted
from gpubench.data._formats.row_names import NamesReader, column_reader, names_reader


class Table(Protocol):
    """Interface of a table with a row for each cell."""

    where: str
    """What messages call it, such as "obs of pbmc3k.h5ad"."""

    def names(self) -> list[str]:
        """Return the names of the columns."""

    def column(self, name: str) -> Any:
        """Read a column, in a form that `encode_labels` accepts."""

    def names_reader(self) -> NamesReader | None:
        """Return a function that reads the names of the rows; None if they have no names."""


class Source(ABC):
    """Interface of an input: embeddings of the same cells, and perhaps a table of these cells."""

    where: str
    """What messages call it."""

    @abstractmethod
    def choose(self, wanted: list[str] | None) -> list[str]:
        """Return the names of the embeddings to read: `wanted`, which must exist, or the default if it is None."""

    @abstractmethod
    def embedding(self, name: str) -> Any:
        """Return an embedding by name, in a form that `as_rows` accepts."""

    def table(self) -> Table | None:
        """Return the table of the cells; None if there is none."""
        return None

    def keys(self) -> list[str]:
        """Return the names of the embeddings that have one."""
        return []

    def has(self, name: str) -> bool:  # noqa: ARG002 - for subclasses with named embeddings
        """Whether an embedding has that name."""
        return False

    def n_cells(self) -> int | None:
        """Return the number of cells; None if it is known only from the embeddings."""
        return None

    def names_reader(self) -> NamesReader | None:
        """Return a function that reads the names of the cells; None if they have no names."""
        return None

    def cell_ids(self) -> Any:
        """Return the names of the cells; None if they have none."""
        reader = self.names_reader()
        return None if reader is None else reader()


def unknown_embedding(name: str, where: str, known: list[str]) -> InputError:
    """Return an InputError for an embedding that is not among `known`; it suggests similar names."""
    parts = [part.strip() for part in name.split(",")]
    if len(parts) > 1 and any(part in known for part in parts):
        repeated = " ".join(f"-e {part}" for part in parts)
        return InputError(
            f"embedding {name!r} is not in {where}; name several one by one: {repeated} (in Python: {parts})"
        )
    return InputError(f"embedding {name!r} is not in {where}{close_matches(name, known)}")


class NamedArrays(Source):
    """Source of embeddings given as a mapping name -> matrix in any form that `as_rows` accepts."""

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self._arrays = arrays
        self.where = "data"

    def choose(self, wanted: list[str] | None) -> list[str]:
        chosen = list(self._arrays) if wanted is None else wanted
        for name in chosen:
            if name not in self._arrays:
                raise unknown_embedding(name, self.where, list(self._arrays))
        return chosen

    def keys(self) -> list[str]:
        return list(map(str, self._arrays))

    def has(self, name: str) -> bool:
        return name in self._arrays

    def embedding(self, name: str) -> Any:
        return self._arrays[name]


class OneMatrix(Source):
    """Source of a single matrix, in any form that `as_rows` accepts, with a default name that the user may replace."""

    def __init__(self, matrix: Any, name: str, where: str = "data") -> None:
        self._matrix = matrix
        self._name = name
        self.where = where

    def choose(self, wanted: list[str] | None) -> list[str]:
        if wanted is None:
            return [self._name]
        if len(wanted) > 1:
            raise InputError(
                f"embeddings names {quoted(wanted)}, but {self.where} is one matrix; give one name",
                argument="embeddings",
            )
        return wanted

    def embedding(self, name: str) -> Any:  # noqa: ARG002 - the matrix has whatever name was chosen
        return self._matrix

    def n_cells(self) -> int | None:
        shape = getattr(self._matrix, "shape", None)
        # of Dask, n may be NaN, or yet to be computed
        return int(shape[0]) if shape and isinstance(shape[0], Integral) else None

    def names_reader(self) -> NamesReader | None:
        return names_reader(self._matrix)


class NamedColumns:
    """A `Table` given as a DataFrame or as a mapping name -> column."""

    def __init__(self, columns: Any, where: str = "obs") -> None:
        self._columns = columns
        self.where = where

    def names(self) -> list[str]:
        """Return the names of the columns; a name that occurs twice is listed twice."""
        return [str(key) for key in self._columns.keys()]  # noqa: SIM118 - a DataFrame is no mapping

    def column(self, name: str) -> Any:
        """Return a column; names such as "0" also find columns of a DataFrame that are named by numbers."""
        return self._columns[next(key for key in self._columns.keys() if str(key) == name)]  # noqa: SIM118

    def names_reader(self) -> NamesReader | None:
        """Return a function that reads the names of the rows from the index of a DataFrame or a column; else None."""
        by_index = names_reader(self._columns)
        if by_index is not None:
            return by_index
        listed = self.names()
        return column_reader(listed, [name for name in listed if listed.count(name) == 1], self.column)

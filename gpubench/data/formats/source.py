"""What every kind of input can answer, so that reading is written once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpubench.core.errors import InputError, close_matches, quoted
from gpubench.data.matrices import comes_from


class Table(Protocol):
    """A table of cells.

    Attributes
    ----------
    where : what messages call it: "obs of pbmc3k.h5ad"
    """

    where: str

    def names(self) -> list[str]:
        """Names of the columns."""

    def column(self, name: str) -> Any:
        """Read one column: anything that `encode_labels` takes."""


class Source(Protocol):
    """Embeddings of the same cells, and perhaps a table of them.

    Attributes
    ----------
    where : what messages call it
    obs : the table, or None where the source has none
    """

    where: str
    obs: Table | None

    def choose(self, wanted: list[str] | None) -> list[str]:
        """Names of the embeddings to read: those wanted, or, for None, those that go without saying.

        Raises
        ------
        InputError
            A name that does not exist; or None where there is a choice.
        """

    def has(self, name: str) -> bool:
        """Whether an embedding of its own has that name."""

    def embedding(self, name: str) -> Any:
        """One of the chosen embeddings: anything that `as_rows` takes."""

    def n_cells(self) -> int | None:
        """The number of cells, where it is known without reading an embedding."""

    def cell_ids(self) -> NDArray[Any] | None:
        """Names of the cells, where there are any."""


def unknown_embedding(name: str, where: str, known: list[str]) -> InputError:
    """Make the error for a name that is none of `known`."""
    return InputError(f"embedding {name!r} is not in {where}{close_matches(name, known)}")


class NamedArrays:
    """Embeddings given as name -> matrix.

    Parameters
    ----------
    arrays : name -> anything that `as_rows` takes
    where : what messages call it
    names : those of the arrays that are embeddings; None: all
    """

    def __init__(self, arrays: Mapping[str, Any], where: str = "data", names: list[str] | None = None) -> None:
        self._arrays = arrays
        self._names = list(arrays) if names is None else names
        self.where = where
        self.obs: Table | None = None

    def choose(self, wanted: list[str] | None) -> list[str]:
        """All of them unless some are named."""
        chosen = self._names if wanted is None else wanted
        for name in chosen:
            if name not in self._names:
                raise unknown_embedding(name, self.where, self._names)
        return chosen

    def has(self, name: str) -> bool:
        """Whether one of the arrays has that name."""
        return name in self._names

    def embedding(self, name: str) -> Any:
        """The matrix of that name."""
        return self._arrays[name]

    def n_cells(self) -> int | None:
        """Unknown until an embedding is looked at."""
        return None

    def cell_ids(self) -> NDArray[Any] | None:
        """Arrays name no cells."""
        return None


class OneMatrix:
    """A single matrix, which gets its name from the user.

    Parameters
    ----------
    matrix : anything that `as_rows` takes
    name : what it is called unless the user names it
    where : what messages call it
    """

    def __init__(self, matrix: Any, name: str, where: str = "data") -> None:
        self._matrix = matrix
        self._name = name
        self.where = where
        self.obs: Table | None = None

    def choose(self, wanted: list[str] | None) -> list[str]:
        """The one name."""
        if wanted is None:
            return [self._name]
        if len(wanted) > 1:
            raise InputError(f"embeddings names {quoted(wanted)}, but {self.where} is one matrix; give one name")
        return wanted

    def has(self, name: str) -> bool:  # noqa: ARG002 - a single matrix has no name of its own
        """None has."""
        return False

    def embedding(self, name: str) -> Any:  # noqa: ARG002 - one matrix answers to every name
        """The matrix, whatever it is called."""
        return self._matrix

    def n_cells(self) -> int | None:
        """Unknown until the matrix is looked at."""
        return None

    def cell_ids(self) -> NDArray[Any] | None:
        """The index of a DataFrame that names its rows."""
        index = self._matrix.index if comes_from(self._matrix, "pandas") else None
        return None if index is None or index.dtype.kind in "iu" else np.asarray(index)


class NamedColumns:
    """A table given as name -> column: a mapping, or a DataFrame."""

    def __init__(self, columns: Any, where: str = "obs") -> None:
        self._columns = columns
        self.where = where

    def names(self) -> list[str]:
        """Names of the columns; one that occurs twice is there twice."""
        return [str(key) for key in self._columns.keys()]  # noqa: SIM118 - a DataFrame is no mapping

    def column(self, name: str) -> Any:
        """The column as it is."""
        return self._columns[self._keys()[name]]

    def _keys(self) -> dict[str, Any]:
        """Names as text -> keys: columns of a DataFrame may be called 0, 1, 2."""
        return {str(key): key for key in self._columns.keys()}  # noqa: SIM118 - a DataFrame is no mapping

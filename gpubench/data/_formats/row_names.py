"""Find the names of the rows of tables and matrices, in an index or in a column that names cells."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gpubench.data.matrices import comes_from

NamesReader: TypeAlias = Callable[[], Any]
"""Function that returns the names of the rows, or None if they turn out to be row numbers or names of groups."""

_INDEX = re.compile(r"|Unnamed: .*|index|level_0|_index|__index_level_\d+__|row\.?names?")
"""Names that pandas, R and AnnData give to an index that is written as a column."""

_CELLS = frozenset(
    {"barcode", "barcodes", "cell", "cells", "cellid", "cellids", "cellname", "cellnames", "cellbarcode", "index"}
    | {"obsname", "obsnames", "rowname", "rownames"}
)
"""Names of columns of names of cells, in lower case without dots, blanks and underscores."""


def names_cells(column: str) -> bool:
    """Whether the name of a column suggests that it holds names of cells, such as "barcode", "cell_id", "obs_names".

    Examples
    --------
    >>> names_cells("Cell_ID"), names_cells("cell_type")
    (True, False)
    """
    return re.sub(r"[\s._-]", "", column).casefold() in _CELLS


def leading_index(columns: Sequence[str]) -> list[str]:
    """Return the leading columns whose names are those of an index.

    Examples
    --------
    >>> leading_index(["Unnamed: 0", "index", "PC1", "Unnamed: 3"])
    ['Unnamed: 0', 'index']
    """
    stop = next((i for i, name in enumerate(columns) if not _INDEX.fullmatch(name)), len(columns))
    return list(columns[:stop])


def are_row_numbers(names: Any) -> bool:
    """Whether values are 0, 1, 2 ... or, as R counts, 1, 2, 3 ..., as numbers or as text.

    Examples
    --------
    >>> are_row_numbers(["1", "2", "3"]), are_row_numbers([2, 1, 3])
    (True, False)
    """
    values = np.asarray(names)
    n = len(values)
    if (
        not n
        or values.dtype.kind == "f"
        or str(values[0]) not in ("0", "1")
        or str(values[-1]) != str(int(values[0]) + n - 1)
    ):
        return False
    numbers = np.arange(n) + int(values[0])
    return bool(np.array_equal(values, numbers if values.dtype.kind in "iu" else numbers.astype(str).astype(object)))


def names_of_index(index: Any) -> Any:
    """Return the names that a pandas index gives to rows; None for the row numbers that pandas gives by default."""
    is_default = index.nlevels == 1 and index.dtype.kind in "iu" and np.array_equal(index, np.arange(len(index)))
    return None if is_default else index


def names_reader(values: Any) -> NamesReader | None:
    """Return a function that reads the names of the rows of a matrix or a column; None if they have no names."""
    if hasattr(values, "names_reader"):
        reader: NamesReader | None = values.names_reader()
        return reader
    if not (comes_from(values, "pandas") and hasattr(values, "index")) or names_of_index(values.index) is None:
        return None
    return lambda: values.index


def column_reader(
    columns: Sequence[str], candidates: Iterable[str], column: Callable[[str], Any]
) -> NamesReader | None:
    """Return a function that reads the names of the rows of a table from a column; None if no column has names.

    Parameters
    ----------
    columns : names of all columns
    candidates : columns that may hold the names
    column : function that reads a column by name
    """
    allowed = set(candidates)
    index = [name for name in leading_index(columns) if name in allowed]
    named = [name for name in columns if name in allowed and name not in index and names_cells(name)]
    if not index and not named:
        return None

    def read() -> Any:
        for name in [*index, *named]:
            values = np.asarray(as_array(column(name)))
            if name in index and not are_row_numbers(values) and values.dtype.kind != "f":
                return values
            if name in named and _may_name_rows(values):
                return values
        return None

    return read


def as_array(values: Any) -> NDArray[Any]:
    """Convert a column of any library to an array; cells without a category are None."""
    if hasattr(values, "categories") and hasattr(values, "codes"):
        array: NDArray[Any] = np.array([*values.categories, None], object)[values.codes]  # the last one is for code -1
        return array
    return np.asarray(values.to_pandas() if comes_from(values, "pyarrow") else values)


def _may_name_rows(values: Any) -> bool:
    """Whether values may be names of rows: text or integers, mostly distinct, and no row numbers."""
    listed = values.tolist()
    is_kind = values.dtype.kind in "iu" or all(isinstance(text, str) for text in listed)
    return is_kind and len(set(listed)) > len(listed) / 2 and not are_row_numbers(values)

"""Columns of the cells' table as what metrics take: label codes, or numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubench.data.categorical import CategoricalColumn, as_text, factorize, unwrap
from gpubench.data.messages import quoted, some_rows
from gpubench.errors import InputError
from gpubench.types import Labels


def encode_labels(values: Any, name: str, n: int | None = None) -> Labels:
    """Number the classes of a label column.

    Parameters
    ----------
    values : list, NumPy array (text, bytes, integer, float, bool, object), pandas Series, Categorical or extension
        array, Arrow array, torch tensor, `CategoricalColumn`; `Labels` are returned as they are
    name : the argument that messages name
    n : the number of cells that must have a value; None: any

    Returns
    -------
    Labels whose codes follow the sorted order of the values as text. Only values that occur count; values with the same
    text (1 and "1") are one class.

    Raises
    ------
    InputError
        Missing values, another number of values than n, not one value a cell, no values.
    """
    if isinstance(values, Labels):
        check_length(len(values), n, name)
        return values
    column = _as_categorical(values, name, n)
    used, texts = _used_categories(column, name)
    names = sorted(set(texts))
    rank = {text: code for code, text in enumerate(names)}
    code_of_category = np.zeros(len(column.categories), np.int32)
    code_of_category[used] = [rank[text] for text in texts]
    return Labels(code_of_category[column.codes], tuple(names), name)


def as_numeric(values: Any, name: str, n: int | None = None) -> NDArray[np.float64]:
    """Read a column as numbers; text and categories that spell numbers count.

    Parameters
    ----------
    values, name, n : as in `encode_labels`

    Returns
    -------
    (n,) float64, finite

    Raises
    ------
    InputError
        Text that is not a number, dates, missing or infinite values, and what `encode_labels` refuses.
    """
    column = values if isinstance(values, Labels) else unwrap(values, name)
    check_length(len(column), n, name)
    if isinstance(column, np.ndarray) and column.dtype.kind in "mM":
        raise InputError(f"{name} holds dates or durations; give a numeric column, such as days since the first")
    if isinstance(column, np.ndarray) and column.dtype.kind in "fiub":
        numbers = column.astype(np.float64)
    else:
        labels = encode_labels(column, name)
        numbers = _parse(labels.names, name)[labels.codes]
    rows = np.flatnonzero(~np.isfinite(numbers))
    if len(rows):
        found = some_rows(rows, len(numbers), "hold no finite number")
        raise InputError(f"{name}: {found}; leave these cells out or fill them")
    return numbers


def count_values(values: Any, name: str) -> int:
    """How many values a column has, whatever its library.

    Raises
    ------
    InputError
        Not one value a cell.
    """
    shape = getattr(values, "shape", None)
    if shape is not None and len(shape) != 1:
        raise InputError(f"{name} must have one value per cell but has shape {tuple(shape)}; give one column")
    if isinstance(values, str | bytes) or not hasattr(values, "__len__"):
        raise InputError(f"{name} is of type {type(values).__name__}, not a column; give one value per cell")
    return len(values)


def check_length(length: int, n: int | None, name: str) -> None:
    """Raise unless a column has n values and at least one."""
    if n is not None and length != n:
        raise InputError(
            f"{name} has {length:,} values but the embedding has {n:,} rows; give one value per cell, in the same order"
        )
    if length == 0:
        raise InputError(f"{name} has no values; give one value per cell")


def _as_categorical(values: Any, name: str, n: int | None) -> CategoricalColumn:
    column = unwrap(values, name)
    check_length(len(column), n, name)
    return column if isinstance(column, CategoricalColumn) else factorize(column, name)


def _used_categories(column: CategoricalColumn, name: str) -> tuple[NDArray[np.intp], list[str]]:
    """Indices of the categories that occur, and their text; raises where a value is missing."""
    codes = column.codes.astype(np.intp, copy=False)
    n_categories = len(column.categories)
    if (largest := codes.max()) >= n_categories:
        raise InputError(f"{name} has code {largest} but {n_categories:,} categories; it is damaged, write it anew")
    missing = codes < 0
    used = np.flatnonzero(np.bincount(codes[~missing] if missing.any() else codes, minlength=n_categories))
    texts = {int(i): as_text(column.categories[int(i)]) for i in used}
    nameless = [i for i, text in texts.items() if text is None]
    if nameless:
        missing |= np.isin(codes, nameless)
    if missing.any():
        found = some_rows(np.flatnonzero(missing), len(column), "have no value")
        raise InputError(f"{name}: {found}; leave these cells out or give them a name")
    return used, [text for text in texts.values() if text is not None]


def _parse(names: tuple[str, ...], name: str) -> NDArray[np.float64]:
    numbers = np.empty(len(names))
    wrong = []
    for i, text in enumerate(names):
        try:
            numbers[i] = float(text)
        except ValueError:
            wrong.append(text)
    if wrong:
        raise InputError(
            f"{name} is not numeric: {len(wrong):,} of its {len(names):,} distinct values are not numbers"
            f" ({quoted(wrong[:3])}); give a numeric column"
        )
    return numbers

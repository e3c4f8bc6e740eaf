"""Convert columns of the table of cells to label codes or to numbers, the two forms that metrics accept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubench.core.errors import InputError, quoted, some_rows
from gpubench.core.types import Labels
from gpubench.data.matrices import comes_from, to_host

_BLOCK_ROWS = 1 << 20
_SMALL_RANGE = 1 << 10
_MAX_WHOLE = 2.0**53
"""Largest absolute value of a whole float that is written as an integer."""

_R_MISSING = (-(2**31), -(2**63))
"""Integers by which R and its package bit64 represent NA, as found in files and arrays written by R."""

_R_MISSING_TEXTS = frozenset(text for value in _R_MISSING for text in (str(value), str(float(value))))

_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")


@dataclass(frozen=True, slots=True)
class CategoricalColumn:
    """A column as stored in files, as integer codes into categories, of which some may not occur.

    Attributes
    ----------
    codes : (n,) integers; -1 where the value is missing
    categories : the values, in any order; a missing value is None, NaN or pd.NA

    Examples
    --------
    >>> column = CategoricalColumn(np.array([1, 0, 1]), ["T cell", "B cell", "unused"])
    >>> encode_labels(column, "label").names
    ('B cell', 'T cell')
    """

    codes: NDArray[np.integer[Any]]
    categories: Sequence[Any] | NDArray[Any]

    def __len__(self) -> int:
        return len(self.codes)


def _unwrap(values: Any, name: str) -> NDArray[Any] | CategoricalColumn:
    """Convert a column of any library to a one-dimensional array, or to a `CategoricalColumn` if it has categories."""
    if isinstance(values, CategoricalColumn):
        return values
    if comes_from(values, "polars") and hasattr(values, "to_arrow"):
        values = values.to_arrow()
    if comes_from(values, "dask") and hasattr(values, "compute"):  # a column of a lazy table
        values = values.compute()
    if comes_from(values, "pandas"):
        column = _from_pandas(values, name)
    elif comes_from(values, "pyarrow"):
        column = _from_arrow(values, name)
    else:
        column = to_host(_keep_mixed(values) if isinstance(values, list | tuple) else values, name)
    if isinstance(column, CategoricalColumn):
        return column
    if column.ndim != 1:
        raise InputError(f"{name} must have one value per cell but has shape {column.shape}; give one column")
    _refuse_missing_of_r(column, name)
    return column


def _refuse_missing_of_r(array: NDArray[Any], name: str) -> None:
    """Raise InputError if integers, or floats converted from integers, contain the value by which R represents NA."""
    if array.dtype.kind not in "if" or array.dtype.itemsize < 4 or not array.size or array.min() > max(_R_MISSING):
        return
    rows = np.flatnonzero(np.isin(array, _R_MISSING))
    if len(rows):
        fault = some_rows(rows, len(array), f"hold {int(array[rows[0]])}, the missing value (NA) of R")
        raise InputError(f"{name}: {fault}; leave these cells out or give them a value")


def _from_pandas(values: Any, name: str) -> NDArray[Any] | CategoricalColumn:
    if getattr(values, "ndim", 0) != 1:
        raise InputError(f"{name} is a {type(values).__name__}, not one value per cell; give one column")
    if type(values).__name__ == "MultiIndex":
        raise InputError(f"{name} is a MultiIndex of {values.nlevels} levels; give one level: get_level_values(0)")
    extension = getattr(values, "array", values)  # of a Series or an Index
    if hasattr(extension, "codes"):
        return CategoricalColumn(extension.codes, extension.categories.to_numpy())
    array: NDArray[Any] = values.to_numpy()
    return array


def _from_arrow(values: Any, name: str) -> NDArray[Any] | CategoricalColumn:
    import pyarrow as pa

    kind = getattr(values, "type", None)
    if kind is None:
        raise InputError(f"{name} is a {type(values).__name__} of Arrow, not one value per cell; give one column")
    if pa.types.is_run_end_encoded(kind):
        values, kind = _decode_runs(values), kind.value_type
    if pa.types.is_primitive(kind):  # numbers, booleans and times; null becomes NaN, None or NaT
        array: NDArray[Any] = values.to_numpy(zero_copy_only=False)
        return array
    if pa.types.is_null(kind):
        return np.full(len(values), None, object)
    if pa.types.is_nested(kind) or (pa.types.is_dictionary(kind) and pa.types.is_nested(kind.value_type)):
        raise InputError(f"{name} holds {kind} values, not one text or number per cell; give another column")
    if not pa.types.is_dictionary(kind):
        values = values.dictionary_encode()
    if hasattr(values, "chunks"):
        values = values.unify_dictionaries().combine_chunks()
    codes = values.indices.cast(pa.int64()).fill_null(-1)  # indices may be unsigned
    return CategoricalColumn(codes.to_numpy(zero_copy_only=False), values.dictionary.to_pylist())


def _decode_runs(values: Any) -> Any:
    import pyarrow.compute as pc

    return pc.run_end_decode(values)


def _keep_mixed(values: Sequence[Any]) -> Any:
    """Convert text or mixed types to an object array, since NumPy would convert [nan, 'a'] to ['nan', 'a']."""
    types = set(map(type, values))
    if len(types) == 1 and not types & {str, bytes}:
        return values
    return np.fromiter(values, object, len(values))


def _factorize(array: NDArray[Any], name: str) -> CategoricalColumn:
    """Convert a one-dimensional array to codes into its distinct values."""
    if array.dtype.kind in "cV":
        raise InputError(f"{name} has dtype {array.dtype}, whose values cannot be labels; give text or integers")
    if array.dtype.kind in "biu" and array.size:
        low, high = int(array.min()), int(array.max())
        if high - low <= len(array) + _SMALL_RANGE and high <= np.iinfo(np.int64).max:  # as for codes: no sort needed
            values = low + np.arange(high - low + 1)
            return CategoricalColumn(
                array.astype(np.int64) - low, values.astype(bool) if array.dtype.kind == "b" else values
            )
    if array.dtype.kind in "biufmM":
        categories, codes = np.unique(array, return_inverse=True)
        return CategoricalColumn(codes, categories)
    return _factorize_objects(array)


def _factorize_objects(array: NDArray[Any]) -> CategoricalColumn:
    """Convert text to codes by hashing, in blocks, to avoid a copy of all rows as Python strings."""
    index: dict[str | None, int] = {}
    codes = np.empty(len(array), np.int32)
    for start in range(0, len(array), _BLOCK_ROWS):
        block = array[start : start + _BLOCK_ROWS].tolist()
        if set(map(type, block)) != {str}:
            block = [as_text(value) for value in block]
        for value in dict.fromkeys(block):
            index.setdefault(value, len(index))
        codes[start : start + len(block)] = np.fromiter(map(index.__getitem__, block), np.int32, len(block))
    return CategoricalColumn(codes, list(index))


def as_text(value: Any) -> str | None:
    """Return a label as text, or None if it is missing; a whole float is written as an integer."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="backslashreplace")
    if _is_missing(value):
        return None
    if isinstance(value, float | np.floating) and float(value).is_integer() and abs(float(value)) <= _MAX_WHOLE:
        return str(int(value))
    return str(value)


def _is_missing(value: Any) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):  # of pandas, which need not be loaded
        return True
    if isinstance(value, np.datetime64 | np.timedelta64):
        return bool(np.isnat(value))
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def encode_labels(values: Any, name: str, n: int | None = None) -> Labels:
    """Convert a column of labels to integer codes into class names.

    Parameters
    ----------
    values : list, NumPy array (text, bytes, integer, float, bool, object), pandas Series, Categorical or extension
        array, Arrow array, torch tensor, `CategoricalColumn`; `Labels` are returned unchanged
    name : name of the argument in messages
    n : required number of values; if None, any number

    Returns
    -------
    Labels, with the classes sorted as text. Categories that do not occur are dropped; values with the same text (1, 1.0
    and "1") are one class.

    Raises
    ------
    InputError
        Values are missing, there are none or not n of them, or the column is not one-dimensional.

    Examples
    --------
    >>> labels = encode_labels(["T cell", "B cell", "T cell"], "label")
    >>> labels.names, labels.codes
    (('B cell', 'T cell'), array([1, 0, 1], dtype=int32))
    """
    if isinstance(values, Labels):
        check_length(len(values), n, name)
        return values
    column = _unwrap(values, name)
    check_length(len(column), n, name)
    if isinstance(column, np.ndarray):
        column = _factorize(column, name)
    used, texts = _used_categories(column, name)
    names = sorted(set(texts))
    rank = {text: code for code, text in enumerate(names)}
    code_of_category = np.zeros(len(column.categories), np.int32)
    code_of_category[used] = [rank[text] for text in texts]
    return Labels(code_of_category[column.codes], tuple(names), name)


def as_numeric(values: Any, name: str, n: int | None = None) -> NDArray[np.float64]:
    """Convert a column to numbers; text and categories that spell numbers are accepted.

    Parameters
    ----------
    values, name, n : as in `encode_labels`

    Returns
    -------
    (n,) float64, finite

    Raises
    ------
    InputError
        Text that is not a number, dates, missing or infinite values, and values that `encode_labels` refuses.

    Examples
    --------
    >>> as_numeric(["1", "2.5"], "time")
    array([1. , 2.5])
    """
    column = values if isinstance(values, Labels) else _unwrap(values, name)
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
        fault = some_rows(rows, len(numbers), "hold no finite number")
        raise InputError(f"{name}: {fault}; leave these cells out or fill them")
    return numbers


def take_values(values: Any, rows: NDArray[np.intp], name: str) -> NDArray[Any] | CategoricalColumn | Labels:
    """Return the values of a column at the given rows, in that order.

    Examples
    --------
    >>> take_values(["B", "T", "NK"], np.array([2, 0]), "label")
    array(['NK', 'B'], dtype=object)
    """
    if isinstance(values, Labels):
        used, codes = np.unique(values.codes[rows], return_inverse=True)
        return Labels(codes.astype(np.int32), tuple(values.names[code] for code in used), values.key)
    column = _unwrap(values, name)
    if isinstance(column, CategoricalColumn):
        return CategoricalColumn(column.codes[rows], column.categories)
    return column[rows]


def missing_values(values: Any, name: str) -> NDArray[np.bool_]:
    """Return a boolean mask of the missing values of a column: None, NaN, NaT, pd.NA, or no category.

    Examples
    --------
    >>> missing_values(["B", None, "nan"], "label")
    array([False,  True, False])
    """
    if isinstance(values, Labels):
        return np.zeros(len(values), bool)
    column = _unwrap(values, name)
    if isinstance(column, np.ndarray):
        column = _factorize(column, name)
    nameless = [i for i, value in enumerate(column.categories) if as_text(value) is None]
    return (column.codes < 0) | np.isin(column.codes, nameless)


def count_values(values: Any, name: str) -> int:
    """Return the number of values of a column of any library."""
    shape = getattr(values, "shape", None)
    if shape is not None and len(shape) != 1:
        raise InputError(f"{name} must have one value per cell but has shape {tuple(shape)}; give one column")
    if isinstance(values, str | bytes) or not hasattr(values, "__len__"):
        raise InputError(f"{name} is of type {type(values).__name__}, not a column; give one value per cell")
    return len(values)


def check_length(length: int, n: int | None, name: str) -> None:
    """Raise InputError if a column is empty or, if n is given, does not have n values."""
    if n is not None and length != n:
        raise InputError(
            f"{name} has {length:,} values but the embedding has {n:,} rows; give one value per cell, in the same order"
        )
    if length == 0:
        raise InputError(f"{name} has no values; give one value per cell")


def _used_categories(column: CategoricalColumn, name: str) -> tuple[NDArray[np.intp], list[str]]:
    """Return the indices of the categories that occur, and their text; InputError if a value is missing."""
    codes = column.codes.astype(np.intp, copy=False)
    n_categories = len(column.categories)
    if (largest := codes.max()) >= n_categories:
        raise InputError(f"{name} has code {largest} but {n_categories:,} categories; it is damaged: write it again")
    missing = codes < 0
    used = np.flatnonzero(np.bincount(codes[~missing] if missing.any() else codes, minlength=n_categories))
    texts = {int(i): as_text(column.categories[int(i)]) for i in used}
    nameless = [i for i, text in texts.items() if text is None or text in _R_MISSING_TEXTS]
    if nameless:
        missing |= np.isin(codes, nameless)
    if missing.any():
        fault = some_rows(np.flatnonzero(missing), len(column), "have no value")
        raise InputError(f"{name}: {fault}; leave these cells out or give them a name")
    return used, [text for text in texts.values() if text is not None]


def _parse(names: tuple[str, ...], name: str) -> NDArray[np.float64]:
    numbers = np.empty(len(names))
    wrong = []
    for i, text in enumerate(names):
        try:
            numbers[i] = float(text.replace("_", "?"))  # Python reads "8_10" as 810
        except ValueError:
            wrong.append(text)
    if wrong:
        has_commas = all(map(_DECIMAL_COMMA.fullmatch, wrong))
        raise InputError(
            f"{name} is not numeric: {len(wrong):,} of its {len(names):,} distinct values are not numbers"
            f" ({quoted(wrong[:3])}); {'write decimal points, not commas' if has_commas else 'give a numeric column'}",
            argument=name,
        )
    return numbers

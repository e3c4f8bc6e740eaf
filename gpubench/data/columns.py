"""Columns of the cells' table as what metrics take: label codes, or numbers."""

from __future__ import annotations

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


@dataclass(frozen=True, slots=True)
class CategoricalColumn:
    """A column as codes into its categories: what files store, before anyone looked at which categories occur.

    Attributes
    ----------
    codes : (n,) integers; -1 where the value is missing
    categories : the values, in any order, possibly unused ones among them; a missing value is None, NaN or pd.NA
    """

    codes: NDArray[np.integer[Any]]
    categories: Sequence[Any] | NDArray[Any]

    def __len__(self) -> int:
        return len(self.codes)


def unwrap(values: Any, name: str) -> NDArray[Any] | CategoricalColumn:
    """A column of any library as a one-dimensional NumPy array, or as codes where it has them already.

    Raises
    ------
    InputError
        Not one value a cell.
    """
    if isinstance(values, CategoricalColumn):
        return values
    if comes_from(values, "pandas"):
        return _from_pandas(values, name)
    if comes_from(values, "pyarrow"):
        return _from_arrow(values)
    array = to_host(_keep_mixed(values) if isinstance(values, list | tuple) else values, name)
    if array.ndim != 1:
        raise InputError(f"{name} must have one value per cell but has shape {array.shape}; give one column")
    return array


def _from_pandas(values: Any, name: str) -> NDArray[Any] | CategoricalColumn:
    if getattr(values, "ndim", 0) != 1:
        raise InputError(f"{name} is a {type(values).__name__}, not one value per cell; give one column")
    extension = getattr(values, "array", values)  # what a Series or an Index wraps
    if hasattr(extension, "codes"):
        return CategoricalColumn(extension.codes, extension.categories.to_numpy())
    array: NDArray[Any] = values.to_numpy()
    return array


def _from_arrow(values: Any) -> NDArray[Any] | CategoricalColumn:
    import pyarrow as pa

    if pa.types.is_primitive(values.type):  # numbers, booleans and times; what is null becomes NaN, None or NaT
        array: NDArray[Any] = values.to_numpy(zero_copy_only=False)
        return array
    if not pa.types.is_dictionary(values.type):
        values = values.dictionary_encode()
    if hasattr(values, "chunks"):
        values = values.unify_dictionaries().combine_chunks()
    codes = values.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return CategoricalColumn(codes, values.dictionary.to_pylist())


def _keep_mixed(values: Sequence[Any]) -> Any:
    """A list of text or of mixed types as an object array, for NumPy would turn [nan, 'a'] into ['nan', 'a']."""
    types = set(map(type, values))
    if len(types) == 1 and not types & {str, bytes}:
        return values
    return np.fromiter(values, object, len(values))


def factorize(array: NDArray[Any], name: str) -> CategoricalColumn:
    """Number the distinct values of a one-dimensional array.

    Raises
    ------
    InputError
        Complex numbers or records.
    """
    if array.dtype.kind in "cV":
        raise InputError(f"{name} has dtype {array.dtype}, which cannot be labels; give text or integers")
    if array.dtype.kind in "biu" and array.size:
        return _factorize_integers(array)
    if array.dtype.kind in "fmM":
        categories, codes = np.unique(array, return_inverse=True)
        return CategoricalColumn(codes, categories)
    return _factorize_objects(array)


def _factorize_integers(array: NDArray[Any]) -> CategoricalColumn:
    """Count instead of sort where the range is small, as it is for codes."""
    low, high = int(array.min()), int(array.max())
    if high - low > len(array) + _SMALL_RANGE or high > np.iinfo(np.int64).max:
        categories, codes = np.unique(array, return_inverse=True)
        return CategoricalColumn(codes, categories)
    codes = array.astype(np.int64) - low
    values = low + np.arange(high - low + 1)
    return CategoricalColumn(codes, values.astype(bool) if array.dtype.kind == "b" else values)


def _factorize_objects(array: NDArray[Any]) -> CategoricalColumn:
    """Number text by hashing, in blocks, so that no copy of all rows as Python strings is made."""
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
    """A label as text; None where it is missing."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="backslashreplace")
    if value is None or type(value).__name__ in ("NAType", "NaTType"):  # of pandas, which need not be loaded
        return None
    if isinstance(value, float | np.floating) and np.isnan(value):
        return None
    if isinstance(value, np.datetime64 | np.timedelta64) and np.isnat(value):
        return None
    return str(value)


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

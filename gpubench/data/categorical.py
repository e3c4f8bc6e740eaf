"""Label columns of any kind as codes and categories, without a Python loop over rows where the kind allows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubench.data.host import comes_from, to_host
from gpubench.errors import InputError

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

"""Convert Arrow tables and arrays to matrices, from columns of numbers or from lists of equal length."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubench.core.errors import InputError, quoted


def arrow_matrix(x: Any, name: str) -> NDArray[Any]:
    """Convert an Arrow table of numbers, or an Arrow array with a list of numbers in each row, to a matrix.

    Messages call the matrix `name`.
    """
    import pyarrow as pa

    if isinstance(x, pa.Table | pa.RecordBatch):
        names = [field.name for field in dimensions(x.schema, name)]
        columns = [x.column(i) for i, column in enumerate(x.schema.names) if column in names]
        if len(columns) == 1 and list_width(columns[0].type):
            return arrow_matrix(columns[0], name)
        return np.column_stack([_arrow_numbers(column) for column in columns]) if columns else np.empty((len(x), 0))
    kind = x.type
    if not list_width(kind):
        raise InputError(f"{name} is an Arrow array of {kind}, not a matrix; give a table, or lists of one length")
    if hasattr(x, "chunks"):
        x = pa.chunked_array(x.chunks, type=kind).combine_chunks()
    if x.null_count:
        raise InputError(f"{name}: {x.null_count:,} of {len(x):,} rows have no list of numbers; leave these cells out")
    values = _arrow_numbers(x.flatten())
    if not pa.types.is_fixed_size_list(kind):
        lengths = np.asarray(x.value_lengths())
        if len(np.unique(lengths)) > 1:
            raise InputError(
                f"{name} holds lists of {lengths.min():,} to {lengths.max():,} numbers; give lists of one length"
            )
    return values.reshape(len(x), -1)


def dimensions(fields: Iterable[Any], where: str) -> list[Any]:
    """Return the columns of a table that are dimensions: all columns of numbers, or its only column of lists."""
    fields = list(fields)
    lists = [field for field in fields if list_width(field.type) is not None]
    numbers = [field for field in fields if is_number(field.type)]
    if len(lists) > 1 or (lists and numbers):
        names = quoted([field.name for field in (*lists, *numbers)])
        raise InputError(f"{where} has columns of lists and more numbers ({names}); keep the columns of one embedding")
    if not lists and len(numbers) < len(fields):
        text = [field.name for field in fields if not is_number(field.type)]
        raise InputError(f"{where} has columns that are not numbers: {quoted(text)}; leave them out")
    return lists or numbers


def is_number(kind: Any) -> bool:
    """Whether an Arrow type is a type of real numbers or of booleans."""
    import pyarrow as pa

    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind))


def list_width(kind: Any) -> int | None:
    """Return the length of the lists of an Arrow type: -1 if it varies, None if it is not a list of numbers."""
    import pyarrow as pa

    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size) if is_number(kind.value_type) else None
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return -1 if is_number(kind.value_type) else None
    return None


def _arrow_numbers(values: Any) -> NDArray[Any]:
    """Convert an Arrow array of numbers to NumPy; missing values become NaN."""
    import pyarrow as pa

    if values.null_count:
        values = values.cast(pa.float64())
    return np.asarray(values.to_numpy() if hasattr(values, "chunks") else values.to_numpy(zero_copy_only=False))

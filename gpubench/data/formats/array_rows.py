"""Row sources over single files that cannot be mapped: .npy behind a URL, and tables of dimensions in Parquet."""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError, quoted
from gpubench.data.read_errors import reading
from gpubench.data.urls import File, Url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

UNNAMED = "Unnamed: "
"""How pandas calls a column without a name, which is the index of a table that was written without one."""

_HEADER_BYTES = 1 << 16
_HEADER_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_BATCH_ROWS = 1 << 14


def npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran's order, and dtype of an array in an open .npy file.

    Raises
    ------
    ValueError
        It is no .npy file, or of a version that nothing but field names in Unicode needs.
    """
    version = np.lib.format.read_magic(file)
    if version not in _HEADER_READERS:
        raise ValueError(f"version {version} of .npy is not known")
    return _HEADER_READERS[version](file)


class NpyRows:
    """Rows of an .npy file behind a URL; a block is read in one range of bytes, in Fortran's order in one a column.

    Attributes
    ----------
    file : the URL
    shape : of the array
    dtype : as stored
    """

    def __init__(self, file: Url) -> None:
        self.file = file
        n_bytes = file.info.get("size")
        with reading(str(file)):
            if n_bytes is None:
                raise ValueError("the server does not say how long it is")
            head = io.BytesIO(file.read(0, min(n_bytes, _HEADER_BYTES)))
            shape, self._fortran, self.dtype = npy_header(head)
            self.shape: Any = shape
            self._start = head.tell()
            whole = self._start + math.prod(shape) * self.dtype.itemsize
            if n_bytes < whole:
                raise ValueError(f"it has {n_bytes:,} bytes where its header says {whole:,}")

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows [start, stop)."""
        n, d = self.shape
        rows = stop - start
        with reading(f"{self.file}: rows {start:,} to {stop:,}"):
            if self._fortran:
                return np.stack([self._values(j * n + start, rows) for j in range(d)], axis=1)
            return self._values(start * d, rows * d).reshape(rows, d)

    def _values(self, first: int, count: int) -> NDArray[Any]:
        size = self.dtype.itemsize
        begin = self._start + first * size
        return np.frombuffer(self.file.read(begin, begin + count * size), self.dtype)


class ParquetRows:
    """Rows of a Parquet file whose columns are the dimensions; whoever reads from top to bottom reads each row once.

    Attributes
    ----------
    file : path or URL
    shape : (n, d)
    dtype : that holds the values of all columns; columns of integers with missing values count as float64
    """

    def __init__(self, file: File) -> None:
        import pyarrow.parquet

        self.file = file
        with reading(str(file)):
            self._parquet = pyarrow.parquet.ParquetFile(file.open() if isinstance(file, Url) else file)
            schema = self._parquet.schema_arrow
            self._index = _index_of(schema)
            fields = [schema.field(i) for i in range(len(schema)) if schema.field(i).name not in self._index]
        self._names = [field.name for field in fields]
        twice = [name for name, count in Counter(self._names).items() if count > 1]
        if twice:
            raise InputError(f"{file} has several columns of one name: {quoted(twice)}; rename all but one of each")
        text = [field.name for field in fields if not _is_number(field.type)]
        if text:
            raise InputError(f"{file} has columns that are not numbers: {quoted(text)}; leave them out")
        metadata = self._parquet.metadata
        self.shape = (int(metadata.num_rows), len(fields))
        ends = np.cumsum([0, *(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))])
        self._group_starts = ends[:-1]
        self.dtype = np.result_type(*map(self._dtype_of, fields)) if fields else np.dtype(np.float64)
        self._lock = Lock()
        self._rest: tuple[int, NDArray[Any], Iterator[Any]] | None = None  # the next row, those at hand, those to come

    def row_names(self) -> Any:
        """The index, where it is a column that names the rows; else None."""
        if not self._index:
            return None
        with reading(str(self.file)):
            column = self._parquet.read(columns=self._index[:1]).column(0)
            names = np.asarray(column.to_pandas())
        return None if names.dtype.kind in "iu" else names

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows [start, stop)."""
        block = np.empty((stop - start, self.shape[1]), self.dtype)
        with self._lock, reading(f"{self.file}: rows {start:,} to {stop:,}"):
            at, rows, batches = self._rest_from(start)
            self._rest = None  # whoever reads again after an error begins anew
            filled = 0
            while filled < len(block):
                if not len(rows):
                    rows = self._values(next(batches))
                skipped = min(max(start - at, 0), len(rows))
                taken = rows[skipped : skipped + len(block) - filled]
                block[filled : filled + len(taken)] = taken
                filled += len(taken)
                at += skipped + len(taken)
                rows = rows[skipped + len(taken) :]
            self._rest = at, rows, batches
        return block

    def _rest_from(self, start: int) -> tuple[int, NDArray[Any], Iterator[Any]]:
        """Go on from where the block before has ended, or begin with the row group that has the row."""
        group = int(np.searchsorted(self._group_starts, start, "right")) - 1
        first = int(self._group_starts[group]) if len(self._group_starts) else 0
        if self._rest is not None and first <= self._rest[0] <= start:
            return self._rest
        groups = list(range(group, len(self._group_starts)))
        batches = self._parquet.iter_batches(_BATCH_ROWS, row_groups=groups, columns=self._names)
        return first, np.empty((0, self.shape[1]), self.dtype), iter(batches)

    def _values(self, batch: Any) -> NDArray[Any]:
        values = np.empty((batch.num_rows, self.shape[1]), self.dtype)
        for j, name in enumerate(self._names):
            values[:, j] = batch.column(batch.schema.get_field_index(name)).to_numpy(zero_copy_only=False)
        return values

    def _dtype_of(self, field: Any) -> np.dtype[Any]:
        import pyarrow as pa

        if pa.types.is_floating(field.type) or not self._may_miss(field.name):
            dtype: np.dtype[Any] = np.dtype(field.type.to_pandas_dtype())
            return dtype
        return np.dtype(np.float64)

    def _may_miss(self, name: str) -> bool:
        """Whether a column has missing values, or the file does not say."""
        metadata = self._parquet.metadata
        column = metadata.schema.names.index(name)
        for i in range(metadata.num_row_groups):
            statistics = metadata.row_group(i).column(column).statistics
            if statistics is None or not statistics.has_null_count or statistics.null_count:
                return True
        return False


def _index_of(schema: Any) -> list[str]:
    """Columns that pandas has written as the index, or a first one without a name."""
    told = (schema.metadata or {}).get(b"pandas")
    stored = json.loads(told)["index_columns"] if told else []
    names = [name for name in stored if isinstance(name, str)]  # others are ranges, which are not stored
    first = schema.names[0] if schema.names else ""
    return names or ([first] if first.startswith(UNNAMED) else [])


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind))

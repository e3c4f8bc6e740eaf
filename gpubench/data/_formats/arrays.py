"""Arrays and tables in files: npy, npz, Parquet, CSV."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections import Counter
from collections.abc import Iterator
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubench.core.errors import InputError, quoted
from gpubench.data._formats.delimited import read_frame
from gpubench.data._formats.row_names import NamesReader, are_row_numbers, column_reader, leading_index, names_cells
from gpubench.data._formats.source import NamedColumns, OneMatrix, Source, Table, unknown_embedding
from gpubench.data.arrow import arrow_matrix, dimensions, list_width
from gpubench.data.urls import File, Url, reading

_HEADER_BYTES = 1 << 16
_HEADER_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_BATCH_ROWS = 1 << 14
_ARROW_MAGIC = b"ARROW1"


def stem(path: File) -> str:
    """Return the name of a file without its suffixes: "emb" for emb.csv.gz."""
    return path.name.partition(".")[0] or path.name


def open_npy(path: File) -> OneMatrix:
    """Open an .npy file as a memory map; behind a URL, ranges of rows are read on demand."""
    if isinstance(path, Url):
        return OneMatrix(NpyRows(path), stem(path), str(path))
    with reading(path):
        return OneMatrix(np.lib.format.open_memmap(path, mode="r"), stem(path), str(path))


def _read_npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, whether the array is in Fortran order, and dtype, from the header of an open .npy file."""
    version = np.lib.format.read_magic(file)
    if version not in _HEADER_READERS:  # version 3 is for names of fields in Unicode
        raise ValueError(f"version {version} of .npy is not supported")
    return _HEADER_READERS[version](file)


class NpyRows:
    """`RowSource` of an .npy file behind a URL; a block is one range of bytes, in Fortran order one for each column."""

    def __init__(self, file: Url) -> None:
        self.file = file
        n_bytes = file.info.get("size")
        with reading(file):
            if n_bytes is None:
                raise ValueError("the server does not report its size")
            head = io.BytesIO(file.read(0, min(n_bytes, _HEADER_BYTES)))
            shape, self._fortran, self.dtype = _read_npy_header(head)
            self.shape: Any = shape
            self._start = head.tell()
            end = self._start + math.prod(shape) * self.dtype.itemsize
            if n_bytes < end:
                raise ValueError(f"it has {n_bytes:,} bytes where its header says {end:,}")

    def read(self, start: int, stop: int) -> NDArray[Any]:
        n, d = self.shape
        rows = stop - start
        with reading(f"{self.file}: rows {start:,} to {stop:,}", self.file):
            if self._fortran:
                return np.stack([self._values(j * n + start, rows) for j in range(d)], axis=1)
            return self._values(start * d, rows * d).reshape(rows, d)

    def _values(self, first: int, count: int) -> NDArray[Any]:
        size = self.dtype.itemsize
        begin = self._start + first * size
        return np.frombuffer(self.file.read(begin, begin + count * size), self.dtype)


class NpzArchive(Source):
    """Source of an .npz archive: two-dimensional arrays are embeddings, one-dimensional arrays columns of the table.

    Shapes are read from the headers, and the values of an array on first use.
    """

    def __init__(self, path: File) -> None:
        self._path = path
        self.where = str(path)
        with reading(path):
            self._zip = zipfile.ZipFile(_readable(path))
            members = [name for name in self._zip.namelist() if name.endswith(".npy")]
            self._n_dims = {name.removesuffix(".npy"): self._count_dims(name) for name in members}

    def choose(self, wanted: list[str] | None) -> list[str]:
        matrices = [name for name, n_dims in self._n_dims.items() if n_dims == 2]
        if wanted is None and len(matrices) != 1:
            listed = f"has several: {quoted(matrices)}" if matrices else "has none"
            raise InputError(
                f"{self.where}: `embeddings` must name a two-dimensional array of the archive; it {listed}"
            )
        for name in wanted or ():
            if name not in matrices:
                raise unknown_embedding(name, self.where, matrices)
        return matrices if wanted is None else wanted

    def table(self) -> Table:
        return self

    def has(self, name: str) -> bool:
        return self._n_dims.get(name) == 2

    def embedding(self, name: str) -> NDArray[Any]:
        with reading(f"{name!r} in {self._path}", self._path), self._zip.open(f"{name}.npy") as file:
            array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
            return array

    def names(self) -> list[str]:
        return [name for name, n_dims in self._n_dims.items() if n_dims == 1]

    column = embedding

    def names_reader(self) -> NamesReader | None:
        return column_reader(self.names(), filter(names_cells, self.names()), self.column)

    def _count_dims(self, member: str) -> int:
        with self._zip.open(member) as file:
            return len(_read_npy_header(file)[0])


class ParquetTable:
    """A `Table` in a Parquet file; each column is read when it is requested."""

    def __init__(self, path: File) -> None:
        import pyarrow.parquet

        with reading(path):
            self._parquet = pyarrow.parquet.ParquetFile(_readable(path))
        self._path = path
        self.where = str(path)

    def names(self) -> list[str]:
        return list(self._parquet.schema_arrow.names)

    def column(self, name: str) -> Any:
        with reading(f"column {name!r} of {self.where}", self._path):
            return self._parquet.read(columns=[name]).column(name)

    def names_reader(self) -> NamesReader | None:
        """Return a function that reads the names of the rows from the index of pandas or a column; else None."""
        stored, names = stored_index(self._parquet.schema_arrow), self.names()
        if len(stored) == 1:
            return lambda: _unless_numbers(self.column(stored[0]).to_pandas())
        return column_reader(names, [name for name in names if names.count(name) == 1], self.column)


class ParquetRows:
    """`RowSource` of a Parquet file whose columns are dimensions; reading from top to bottom decodes each row once.

    The dtype is the common dtype of all columns, where integers with missing values are float64.
    """

    def __init__(self, file: File) -> None:
        import pyarrow.parquet

        self.file = file
        with reading(file):
            self._parquet = pyarrow.parquet.ParquetFile(_readable(file))
            schema = self._parquet.schema_arrow
            self._index = self._index_columns(schema)
            fields = [schema.field(i) for i in range(len(schema)) if schema.field(i).name not in self._index]
        fields = dimensions(fields, str(file))
        self._names = [field.name for field in fields]
        twice = [name for name, count in Counter(self._names).items() if count > 1]
        if twice:
            raise InputError(f"{file} has several columns of one name: {quoted(twice)}; rename all but one of each")
        self._is_lists = bool(fields) and list_width(fields[0].type) is not None
        metadata = self._parquet.metadata
        self.shape = (int(metadata.num_rows), self._list_width(fields[0].type) if self._is_lists else len(fields))
        ends = np.cumsum([0, *(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))])
        self._group_starts = ends[:-1]
        self.dtype = np.result_type(*map(self._dtype_for, fields)) if fields else np.dtype(np.float64)
        self._lock = Lock()
        # Where the last block ended: the next row, the decoded rows from there on, and the batches after these.
        self._position: tuple[int, NDArray[Any], Iterator[Any]] | None = None

    def names_reader(self) -> NamesReader | None:
        return column_reader(self._index, self._index, self._column) if self._index else None

    def _column(self, name: str) -> NDArray[Any]:
        with reading(self.file):
            return np.asarray(self._parquet.read(columns=[name]).column(0).to_pandas())

    def _index_columns(self, schema: Any) -> list[str]:
        """Return the columns that are not dimensions: the index, and columns of text that name cells."""
        import pyarrow as pa

        def is_text(name: str) -> bool:
            kind = schema.field(name).type
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))

        once = [name for name in schema.names if schema.names.count(name) == 1]
        likely = [*leading_index(once), *filter(names_cells, once)]
        names = [name for name in likely if is_text(name) or _are_unique_integers(self._column(name))]
        return list(dict.fromkeys([*stored_index(schema), *names]))

    def read(self, start: int, stop: int) -> NDArray[Any]:
        block = np.empty((stop - start, self.shape[1]), self.dtype)
        with self._lock, reading(f"{self.file}: rows {start:,} to {stop:,}", self.file):
            row, decoded, batches = self._seek(start)
            self._position = None  # after an error the next block seeks again
            filled = 0
            while filled < len(block):
                if not len(decoded):
                    decoded = self._decode(next(batches))
                skipped = min(max(start - row, 0), len(decoded))
                taken = decoded[skipped : skipped + len(block) - filled]
                block[filled : filled + len(taken)] = taken
                filled += len(taken)
                row += skipped + len(taken)
                decoded = decoded[skipped + len(taken) :]
            self._position = row, decoded, batches
        return block

    def _seek(self, start: int) -> tuple[int, NDArray[Any], Iterator[Any]]:
        """Continue reading where the last block ended, or begin with the row group that contains row `start`."""
        group = int(np.searchsorted(self._group_starts, start, "right")) - 1
        first = int(self._group_starts[group]) if len(self._group_starts) else 0
        if self._position is not None and first <= self._position[0] <= start:
            return self._position
        groups = list(range(group, len(self._group_starts)))
        batches = self._parquet.iter_batches(_BATCH_ROWS, row_groups=groups, columns=self._names)
        return first, np.empty((0, self.shape[1]), self.dtype), iter(batches)

    def _decode(self, batch: Any) -> NDArray[Any]:
        if self._is_lists:
            lists = arrow_matrix(batch.column(batch.schema.get_field_index(self._names[0])), str(self.file))
            if lists.shape[1] != self.shape[1]:
                raise InputError(f"{self.file} holds lists of {self.shape[1]:,} and {lists.shape[1]:,} numbers")
            return lists.astype(self.dtype, copy=False)
        values = np.empty((batch.num_rows, self.shape[1]), self.dtype)
        for j, name in enumerate(self._names):
            values[:, j] = batch.column(batch.schema.get_field_index(name)).to_numpy(zero_copy_only=False)
        return values

    def _dtype_for(self, field: Any) -> np.dtype[Any]:
        import pyarrow as pa

        if self._is_lists:
            kind = field.type.value_type
            return np.dtype(kind.to_pandas_dtype() if pa.types.is_floating(kind) else np.float64)
        if pa.types.is_floating(field.type) or not self._may_have_missing(field.name):
            dtype: np.dtype[Any] = np.dtype(field.type.to_pandas_dtype())
            return dtype
        return np.dtype(np.float64)

    def _list_width(self, kind: Any) -> int:
        """Return the length of the lists, from the type if it is fixed, else from the first list."""
        width = list_width(kind)
        if width != -1:
            return width or 0
        first = next(self._parquet.iter_batches(1, columns=self._names), None)
        return len(first.column(0)[0]) if first is not None and first.column(0)[0].is_valid else 0

    def _may_have_missing(self, name: str) -> bool:
        """Whether a column may have missing values: it has some, or the file has no statistics of the column."""
        metadata = self._parquet.metadata
        column = metadata.schema.names.index(name)
        statistics = (metadata.row_group(i).column(column).statistics for i in range(metadata.num_row_groups))
        return any(stats is None or not stats.has_null_count or stats.null_count for stats in statistics)


def open_matrix_table(path: File) -> OneMatrix:
    """Open a table of numbers as an embedding; leading columns with names of an index are not dimensions."""
    if path.suffix.lower() in (".parquet", ".pq"):
        return OneMatrix(ParquetRows(path), stem(path), str(path))
    import pandas as pd

    frame = read_frame(path)
    columns = [str(name) for name in frame.columns]
    likely = dict.fromkeys([*leading_index(columns), *filter(names_cells, columns)])
    index = [name for name in likely if _may_be_names(frame[name])]
    if index:
        read = column_reader(index, index, lambda name: frame[name])
        names = read() if read else None
        frame = frame.drop(columns=index)
        frame.index = pd.RangeIndex(len(frame)) if names is None else pd.Index(names)
    return OneMatrix(frame, stem(path), str(path))


def open_arrow(path: File) -> OneMatrix:
    """Open a file in the file or stream format of Arrow as an embedding."""
    return OneMatrix(_read_arrow(path), stem(path), str(path))


def open_arrow_table(path: File) -> NamedColumns:
    """Open a file in the file or stream format of Arrow as a table of cells."""
    table = _read_arrow(path)
    return NamedColumns({name: table.column(name) for name in dict.fromkeys(table.column_names)}, str(path))


def _read_arrow(path: File) -> Any:
    """Read a table in the file or stream format of Arrow, also called Feather."""
    import pyarrow as pa

    with reading(path), pa.input_stream(_readable(path)) as stream:
        content = stream.read_buffer()
        is_file = content.slice(0, len(_ARROW_MAGIC)).to_pybytes() == _ARROW_MAGIC
        return (pa.ipc.open_file if is_file else pa.ipc.open_stream)(content).read_all()


def _may_be_names(values: Any) -> bool:
    return values.dtype.kind not in "fbiu" or _are_unique_integers(values.to_numpy())


def _are_unique_integers(values: NDArray[Any]) -> bool:
    return values.dtype.kind in "iu" and len(np.unique(values)) == len(values)


def _unless_numbers(names: Any) -> Any:
    return None if are_row_numbers(names) else names


def stored_index(schema: Any) -> list[str]:
    """Return the columns that pandas wrote as the index."""
    pandas_metadata = (schema.metadata or {}).get(b"pandas")
    stored = json.loads(pandas_metadata)["index_columns"] if pandas_metadata else []
    return [name for name in stored if isinstance(name, str) and name in schema.names]  # others are ranges


def _readable(path: File) -> Any:
    """Return a path, or an open file for a URL, which libraries can read."""
    return path.open() if isinstance(path, Url) else path

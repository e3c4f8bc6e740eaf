"""Arrays and tables in files: npy, npz, parquet, CSV."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubench.core.errors import InputError, quoted
from gpubench.data.formats.array_rows import UNNAMED, NpyRows, ParquetRows, npy_header
from gpubench.data.formats.source import NamedArrays, OneMatrix
from gpubench.data.read_errors import reading
from gpubench.data.urls import File, Url


def stem(path: File) -> str:
    """The name of a file without its suffixes: "emb" for emb.csv.gz."""
    return path.name.partition(".")[0] or path.name


def open_npy(path: File) -> OneMatrix:
    """Open an .npy file as a memmap; one behind a URL is read in ranges of rows."""
    if isinstance(path, Url):
        return OneMatrix(NpyRows(path), stem(path), str(path))
    with reading(str(path)):
        return OneMatrix(np.lib.format.open_memmap(path, mode="r"), stem(path), str(path))


class NpzArrays(NamedArrays):
    """An .npz archive: its two-dimensional arrays are embeddings, its one-dimensional arrays columns."""

    def __init__(self, path: File) -> None:
        archive = _Archive(path)
        super().__init__(archive, str(path), archive.names(2))
        self.obs = _NpzColumns(archive, str(path))

    def choose(self, wanted: list[str] | None) -> list[str]:
        """The one matrix unless some are named."""
        if wanted is None and len(self._names) != 1:
            there = f"has several: {quoted(self._names)}" if self._names else "has none"
            raise InputError(f"{self.where}: embeddings must name a two-dimensional array of the archive; it {there}")
        return super().choose(wanted)


class _NpzColumns:
    """The one-dimensional arrays of an archive as a table."""

    def __init__(self, archive: _Archive, where: str) -> None:
        self._archive = archive
        self.where = where

    def names(self) -> list[str]:
        return self._archive.names(1)

    def column(self, name: str) -> NDArray[Any]:
        return self._archive[name]


class _Archive(Mapping[str, "NDArray[Any]"]):
    """The arrays of an .npz archive by name. Shapes come from the headers; an array is read when it is asked for."""

    def __init__(self, path: File) -> None:
        self._path = path
        with reading(str(path)):
            self._zip = zipfile.ZipFile(_readable(path))
            members = [Path(name) for name in self._zip.namelist()]
            self._n_dims = {member.stem: len(self._shape(member.name)) for member in members if member.suffix == ".npy"}

    def names(self, n_dims: int) -> list[str]:
        """Names of the arrays that have as many dimensions."""
        return [name for name, found in self._n_dims.items() if found == n_dims]

    def __getitem__(self, name: str) -> NDArray[Any]:
        with reading(f"{name!r} in {self._path}"), self._zip.open(f"{name}.npy") as file:
            array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
            return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._n_dims)

    def __len__(self) -> int:
        return len(self._n_dims)

    def _shape(self, member: str) -> tuple[int, ...]:
        with self._zip.open(member) as file:
            return npy_header(file)[0]


class ParquetTable:
    """A table in a parquet file; a column is read when it is asked for."""

    def __init__(self, path: File) -> None:
        import pyarrow.parquet

        with reading(str(path)):
            self._file = pyarrow.parquet.ParquetFile(_readable(path))
        self.where = str(path)

    def names(self) -> list[str]:
        """Names of the columns."""
        return list(self._file.schema_arrow.names)

    def column(self, name: str) -> Any:
        """Read one column."""
        with reading(f"column {name!r} of {self.where}"):
            return self._file.read(columns=[name]).column(name)


class TextTable:
    """A table in a CSV or TSV file, which may be compressed by gzip.

    Columns are read as the text that stands there, so that 01 and 1 stay different labels; empty fields, NA, NaN and
    null are missing values.
    """

    def __init__(self, path: File) -> None:
        from pyarrow import csv

        self._path = path
        self._parse = csv.ParseOptions(delimiter=_separator(path))
        self.where = str(path)
        with reading(self.where):
            path.open("rb").close()
            with csv.open_csv(self._opened(), parse_options=self._parse) as file:
                self._names = list(file.schema.names)

    def names(self) -> list[str]:
        """Names of the columns."""
        return self._names

    def column(self, name: str) -> Any:
        """Read one column."""
        import pyarrow as pa
        from pyarrow import csv

        convert = csv.ConvertOptions(
            include_columns=[name],
            column_types={name: pa.dictionary(pa.int32(), pa.string())},
            strings_can_be_null=True,
        )
        with reading(f"column {name!r} of {self.where}"):
            table = csv.read_csv(self._opened(), parse_options=self._parse, convert_options=convert)
            return table.column(name)

    def _opened(self) -> Any:
        """What Arrow reads."""
        import pyarrow as pa

        return pa.input_stream(_readable(self._path), compression=_compression(self._path))


class ParquetMatrix(OneMatrix):
    """An embedding in a Parquet file, whose index may name the cells."""

    def __init__(self, path: File) -> None:
        self._rows = ParquetRows(path)
        super().__init__(self._rows, stem(path), str(path))

    def cell_ids(self) -> NDArray[Any] | None:
        """The index, where it names the cells."""
        names: NDArray[Any] | None = self._rows.row_names()
        return names


def open_matrix_table(path: File) -> OneMatrix:
    """A table all of whose columns are numbers as an embedding; a first column without a name is the index."""
    if path.suffix.lower() in (".parquet", ".pq"):
        return ParquetMatrix(path)
    import pandas as pd

    with reading(str(path)):
        compression: Any = _compression(path)
        frame = pd.read_csv(_readable(path), sep=_separator(path), compression=compression)
    first = str(frame.columns[0]) if len(frame.columns) else ""
    if first.startswith(UNNAMED):
        frame = frame.set_index(first)
    return OneMatrix(frame, stem(path), str(path))


def _readable(path: File) -> Any:
    """What libraries open: a path, or an open file where there is a URL."""
    return path.open() if isinstance(path, Url) else path


def _separator(path: File) -> str:
    """Of the values of a row; upper and lower case of suffixes count as equal, as they do where formats are found."""
    return "\t" if path.name.lower().endswith((".tsv", ".tsv.gz")) else ","


def _compression(path: File) -> str | None:
    return "gzip" if path.suffix.lower() == ".gz" else None

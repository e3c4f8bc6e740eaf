"""Tables in delimited text, such as CSV: the separator and the decimal mark are detected from the first lines."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError, quoted
from gpubench.data._formats.row_names import NamesReader, column_reader
from gpubench.data.urls import File, Url, reading

if TYPE_CHECKING:
    import pandas as pd

_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
_SEPARATORS = {".csv": ",;\t|", ".tsv": "\t,;|", ".txt": "\t,;| "}
"""Suffix -> the separators that are tried, in this order."""

SUFFIXES = tuple(f"{suffix}{packed}" for suffix in _SEPARATORS for packed in ("", *_COMPRESSIONS))

_NAMES = {",": "','", ";": "';'", "\t": "a tab", "|": "'|'", " ": "a blank"}
_HEAD_BYTES, _HEAD_ROWS = 1 << 20, 50
_NUMBER = re.compile(r"\s*[+-]?(\d+[.,]?\d*|[.,]\d+)(e[+-]?\d+)?|[+-]?inf|nan|na|\s*", re.IGNORECASE)
_FRACTION = re.compile(r"[+-]?\d*[.,]\d+(e[+-]?\d+)?", re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(e[+-]?\d+)?", re.IGNORECASE)
_DECIMAL_POINT = re.compile(r"[+-]?\d*\.\d+(e[+-]?\d+)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Dialect:
    """Format of a text file with a table.

    Attributes
    ----------
    separator, decimal : characters between fields, and before decimals
    names : names of the columns; the first is empty if the header omits the index, as in files of R's `write.table`
    has_short_header : whether the header has one field less than the rows
    """

    separator: str
    decimal: str
    names: tuple[str, ...]
    has_short_header: bool


def detect(path: File) -> Dialect:
    """Detect the dialect of a file from its first lines.

    Raises
    ------
    InputError
        The text is not UTF-8, rows have more fields than the header, or the header consists of numbers.
    """
    with reading(path):
        text, is_whole = _head(path)
    lines = [line for line in re.split(r"\r\n|\r|\n", text) if line]
    if not is_whole and len(lines) > 1:
        lines.pop()
    suffixes = [suffix.lower() for suffix in Path(path.name).suffixes[-2:]]
    separators = next((_SEPARATORS[suffix] for suffix in reversed(suffixes) if suffix in _SEPARATORS), ",;\t|")
    tried = {separator: _split(lines, separator) for separator in separators}
    separator = _choose(tried, lines)
    header, *rows = tried[separator]
    is_short = bool(rows) and len(rows[0]) == len(header) + 1 and _names_rows(rows, lines)
    if rows and not is_short:
        _check_fields(path, separator, header, rows)
    if sum(bool(_FRACTION.fullmatch(field.strip())) for field in header) > len(header) / 2:
        raise InputError(
            f"{path} has no header: its first line is numbers ({quoted(header[:3])}); add names of columns"
        )
    names = ("", *header) if is_short else tuple(header)
    fields = [field.strip() for row in rows for field in row]
    has_commas = any(map(_DECIMAL_COMMA.fullmatch, fields)) and not any(map(_DECIMAL_POINT.fullmatch, fields))
    return Dialect(separator, "," if separator != "," and has_commas else ".", names, is_short)


def _head(path: File) -> tuple[str, bool]:
    """Return the first lines of a file, and whether they are the whole file."""
    with open_text(path) as stream:
        head = stream.read(_HEAD_BYTES)
        is_whole = len(head) < _HEAD_BYTES
    head = head.removeprefix(b"\xef\xbb\xbf")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in head:
        raise InputError(f"{path} is not UTF-8 but UTF-16, or no text; save it as UTF-8: iconv -f UTF-16 -t UTF-8")
    try:
        return head.decode(), is_whole
    except UnicodeDecodeError as error:
        if not is_whole and error.start > len(head) - 4:  # a character that the end of the block cuts
            return head[: error.start].decode(), is_whole
        raise


def _split(lines: list[str], separator: str) -> list[list[str]]:
    rows = csv.reader(lines[: _HEAD_ROWS + 1], delimiter=separator)
    try:
        return list(rows) or [[""]]
    except csv.Error:
        return [[""]]


def _choose(tried: dict[str, list[list[str]]], lines: list[str]) -> str:
    """Return the separator with which all rows have as many fields as the header, or one more for an index."""
    default, *others = tried
    if _have_fields(tried[default], 0) and len(tried[default][0]) > 1:
        return default
    for separator in others:
        header, *rows = tried[separator]
        if _have_fields(tried[separator], 0) and len(header) > 1 and (separator != " " or _is_plain(rows, lines)):
            return separator
    named = [separator for separator, rows in tried.items() if _have_fields(rows, 1) and _names_rows(rows[1:], lines)]
    if _have_fields(tried[default], 0) and not (named and '"' in lines[0]):  # one column
        return default
    return named[0] if named else max(tried, key=lambda separator: len(tried[separator][0]))


def _have_fields(rows: list[list[str]], more: int) -> bool:
    return all(len(row) == len(rows[0]) + more for row in rows[1:])


def _is_plain(rows: list[list[str]], lines: list[str]) -> bool:
    """Whether blanks separate fields, not words, which is assumed if there are quotes or a column of numbers."""
    columns = list(zip(*rows, strict=True))
    return '"' in lines[0] or any(all(map(_NUMBER.fullmatch, column)) for column in columns)


def _names_rows(rows: list[list[str]], lines: list[str]) -> bool:
    """Whether the first field of each row is an index, which is text or in quotes."""
    first = [row[0] for row in rows]
    is_text = not any(map(_NUMBER.fullmatch, first)) or all(line.startswith('"') for line in lines[1 : len(rows) + 1])
    return is_text and len(set(first)) == len(first)


def _check_fields(path: File, separator: str, header: list[str], rows: list[list[str]]) -> None:
    """Raise InputError if a row has more or fewer fields than the header."""
    row = next((i for i, row in enumerate(rows) if len(row) > len(header)), None)
    if row is None:
        return
    fields = rows[row]
    separated = f"{path}, separated by {_NAMES[separator]}, has {len(fields)} fields in line {row + 2}"
    if len(fields) == len(header) + 1 and not fields[-1]:
        reason = "the line ends with a separator; remove it"
    else:
        reason = "use decimal points, another separator, or quotes"
    raise InputError(f"{separated} but {len(header)} in the header; {reason}")


def open_text(path: File) -> Any:
    """Open a text file, which may be compressed, as a stream of bytes."""
    import pyarrow as pa

    source = path.open() if isinstance(path, Url) else str(path)
    return pa.input_stream(source, compression=_COMPRESSIONS.get(path.suffix.lower()))


class DelimitedTable:
    """A table in a CSV, TSV or other text file.

    Columns are read as text, so that 01 and 1 stay different labels; empty fields, NA, NaN and null are missing values.
    """

    def __init__(self, path: File) -> None:
        self._path = path
        self.where = str(path)
        with reading(path):
            path.open("rb").close()
        self._dialect = detect(path)
        self._names = list(self._dialect.names)

    def names(self) -> list[str]:
        return self._names

    def names_reader(self) -> NamesReader | None:
        return column_reader(self._names, [name for name in self._names if self._names.count(name) == 1], self.column)

    def column(self, name: str) -> Any:
        import pyarrow as pa
        from pyarrow import csv as reader

        convert = reader.ConvertOptions(
            include_columns=[name],
            column_types={name: pa.dictionary(pa.int32(), pa.string())},
            strings_can_be_null=True,
        )
        is_short = self._dialect.has_short_header
        lines = reader.ReadOptions(column_names=self._names, skip_rows=1) if is_short else reader.ReadOptions()
        parse = reader.ParseOptions(delimiter=self._dialect.separator)
        with reading(f"column {name!r} of {self.where}", self._path), open_text(self._path) as stream:
            table = reader.read_csv(stream, read_options=lines, parse_options=parse, convert_options=convert)
            return table.column(name)


def read_frame(path: File) -> pd.DataFrame:
    """Read a text file of numbers; columns of other values stay text."""
    import pandas as pd

    dialect = detect(path)
    names: Any = list(dialect.names) if dialect.has_short_header else None
    is_packed = path.suffix.lower() in _COMPRESSIONS
    with reading(path), open_text(path) if is_packed else path.open("rb") as stream:
        content: Any = io.BytesIO(stream.read()) if is_packed else stream
        frame = pd.read_csv(
            content, sep=dialect.separator, decimal=dialect.decimal, header=0, names=names, low_memory=False
        )
    last = frame.columns[-1] if len(frame.columns) > 1 else None
    if (
        last is not None and not dialect.names[-1] and np.all(frame[last].isna())
    ):  # header and rows end with a separator
        frame = frame.drop(columns=last)
    return frame

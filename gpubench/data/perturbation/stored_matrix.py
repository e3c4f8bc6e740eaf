"""Expression of a screen in files of a temporary folder, in parts that have all cells of some perturbations."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError
from gpubench.core.files import cannot_write
from gpubench.core.units import bytes_text
from gpubench.data._formats.stores import CscRows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.data.expression import Expression

BUFFER_BYTES = 64 << 20
"""Values that are collected before they are appended to the files of the parts."""

FRACTION = 1e-3
"""Largest distance of a count from a whole number."""


def in_batches(sizes: Iterable[int], limit: int) -> list[list[int]]:
    """Split the numbers 0, 1, ... of things with these sizes into batches of at most `limit`, in order.

    A batch has one thing if that is larger than the limit.
    """
    batches: list[list[int]] = []
    held = 0
    for i, size in enumerate(sizes):
        if not batches or held + size > limit:
            batches.append([])
            held = 0
        batches[-1].append(i)
        held += size
    return batches


@dataclass(frozen=True)
class StoredPart:
    """Some rows of a `StoredMatrix`, in files of their own.

    Attributes
    ----------
    rows : row numbers, ascending, in the order of the files
    path : path of the files without suffix
    """

    rows: NDArray[np.intp]
    path: Path

    def append(self, x: Any) -> None:
        """Write rows after those that were written before."""
        if isinstance(x, np.ndarray):
            _append(self.path, {"data": x})
        else:
            indices = x.indices.astype(np.int32, copy=False)
            _append(self.path, {"data": x.data, "indices": indices, "lengths": np.diff(x.indptr).astype(np.int64)})

    def append_entries(self, places: NDArray[np.int32], columns: NDArray[np.int32], values: NDArray[Any]) -> None:
        """Write entries of a sparse matrix in any order; `to_rows` ends this."""
        _append(self.path, {"places": places, "columns": columns, "values": values})

    def to_rows(self, dtype: np.dtype[Any], n_columns: int) -> None:
        """Sort entries from `append_entries` into rows."""
        from scipy.sparse import csr_array

        files = {name: self.path.with_suffix(f".{name}") for name in ("places", "columns", "values")}
        empty = not files["values"].exists()
        types: dict[str, Any] = {"places": np.int32, "columns": np.int32, "values": dtype}
        arrays = {name: np.empty(0, types[name]) if empty else np.fromfile(files[name], types[name]) for name in files}
        entries = arrays["values"], (arrays["places"], arrays["columns"])
        x = csr_array(entries, shape=(len(self.rows), n_columns))
        x.sum_duplicates()
        for file in files.values():
            file.unlink(missing_ok=True)
        self.append(x)

    def read(self, dtype: np.dtype[Any], n_columns: int, *, sparse: bool) -> Any:
        """Return the rows as a NumPy array or a CSR matrix."""
        data = np.fromfile(self.path.with_suffix(".data"), dtype)
        if not sparse:
            return data.reshape(len(self.rows), n_columns)
        from scipy.sparse import csr_array

        indices = np.fromfile(self.path.with_suffix(".indices"), np.int32)
        ends = np.cumsum(np.fromfile(self.path.with_suffix(".lengths"), np.int64))
        indptr = np.concatenate([[0], ends]).astype(np.int32 if len(data) <= np.iinfo(np.int32).max else np.int64)
        return csr_array((data, indices, indptr), shape=(len(self.rows), n_columns))


def _append(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    try:
        for suffix, array in arrays.items():
            with path.with_suffix(f".{suffix}").open("ab") as file:
                np.ascontiguousarray(array).tofile(file)
    except OSError as error:
        raise cannot_write(path.parent, error, "a part of the cells cannot be written") from error


class TemporaryFolder:
    """A folder that is removed with this object, or when the process ends."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="gpubench-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


@dataclass(frozen=True, eq=False)
class StoredMatrix:
    """Rows of a matrix in files of a temporary folder, which is removed with the last object that refers to it.

    Attributes
    ----------
    folder : the temporary folder
    parts : the parts; each row is in one of them
    shape : number of rows and of columns
    dtype : data type of the values
    sparse : whether rows are read as CSR matrices
    is_whole : whether no value has a fraction
    rows_per_part : number of rows up to which groups of rows were joined to parts
    columns : columns to read, in this order; if None, all
    """

    folder: TemporaryFolder
    parts: tuple[StoredPart, ...]
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    sparse: bool
    is_whole: bool
    rows_per_part: int
    columns: NDArray[np.intp] | None = None

    def __post_init__(self) -> None:
        """Find the part and the place in it of every row."""
        part_of, place_of = (np.empty(self.shape[0], np.int32) for _ in range(2))
        for i, part in enumerate(self.parts):
            part_of[part.rows], place_of[part.rows] = i, np.arange(len(part.rows))
        object.__setattr__(self, "_part_of", part_of)
        object.__setattr__(self, "_place_of", place_of)
        object.__setattr__(self, "_last", [])

    def _read(self, i: int) -> Any:
        """Return a part, which stays in memory until another one is read."""
        last: list[Any] = self._last  # type: ignore[attr-defined]
        if not last or last[0] != i:
            last.clear()
            stored_columns = self.shape[1]
            x = self.parts[i].read(self.dtype, stored_columns, sparse=self.sparse)
            last[:] = [i, x if self.columns is None else x[:, self.columns]]
        return last[1]

    def blocks(self) -> Iterator[tuple[NDArray[np.intp], Any]]:
        """Yield (row numbers, these rows) for every part."""
        for i, part in enumerate(self.parts):
            yield part.rows, self._read(i)

    def take(self, rows: NDArray[np.intp]) -> Any:
        """Return the rows with these numbers, ascending."""
        part_of, place_of = self._part_of, self._place_of  # type: ignore[attr-defined]
        needed = np.unique(part_of[rows])
        pieces, found = [], []
        for i in needed:
            mine = rows[part_of[rows] == i]
            x = self._read(int(i))
            pieces.append(x if len(mine) == len(self.parts[i].rows) else x[place_of[mine]])
            found.append(mine)
        if len(pieces) == 1:
            return pieces[0]
        order = np.argsort(np.concatenate(found))
        if not self.sparse:
            return np.concatenate(pieces)[order]
        from scipy.sparse import csr_array, vstack

        return csr_array(vstack(pieces, format="csr"))[order]

    def select(self, rows: NDArray[np.intp]) -> StoredMatrix:
        """Return only these rows, ascending; they must be all rows of some of the parts."""
        place = np.full(self.shape[0], -1)
        place[rows] = np.arange(len(rows))
        parts = [replace(part, rows=place[part.rows]) for part in self.parts]
        if any((part.rows < 0).any() != (part.rows < 0).all() for part in parts):
            raise ValueError("rows are not all rows of some parts")
        kept = tuple(part for part in parts if len(part.rows) and part.rows[0] >= 0)
        return replace(self, parts=kept, shape=(len(rows), self.shape[1]))

    def with_columns(self, columns: Sequence[int]) -> StoredMatrix:
        """Return the matrix with its columns reordered."""
        order = np.asarray(columns, np.intp)
        return replace(self, columns=order if self.columns is None else self.columns[order])


def stored_bytes(expression: Expression) -> int:
    """Return the bytes of the values (and indices) of a matrix in memory, without reading it."""
    rows: Any = expression.rows
    if hasattr(rows, "read_csr"):
        node = getattr(rows, "node", None)
        if node is not None and hasattr(node, "nnz"):
            return int(node.nnz) * (expression.dtype.itemsize + 4)
        if node is not None and hasattr(node, "keys"):
            return int(node["data"].shape[0]) * (expression.dtype.itemsize + 4)
    n, n_columns = expression.shape
    return n * n_columns * expression.dtype.itemsize


def store_matrix(
    expression: Expression, groups: NDArray[np.int32], alone: Sequence[int], apart: NDArray[np.int32], part_bytes: int
) -> StoredMatrix:
    """Copy a matrix into files of a temporary folder, with all rows of a group in one part.

    The matrix is read once, in blocks.

    Parameters
    ----------
    expression : matrix to read
    groups : (n,) group of each row
    alone : groups that get parts of their own, such as control cells
    apart : (n_groups,) number of the context of each group, such as its cell line; a part never mixes contexts
    part_bytes : bytes of a part; one group may have more
    """
    n, n_columns = expression.shape
    total = stored_bytes(expression)
    _require_space(total, expression.name)
    rows_per_part = max(1, int(part_bytes / max(1, total / max(1, n))))
    folder = TemporaryFolder()
    n_rows = np.bincount(groups, minlength=len(apart))
    plan: list[list[int]] = [[group] for group in alone]
    for context in np.unique(apart):
        mine = [g for g in np.flatnonzero(apart == context).tolist() if g not in set(alone)]
        plan += [[mine[i] for i in batch] for batch in in_batches(n_rows[mine].tolist(), rows_per_part)]
    part_of_group = np.empty(len(apart), np.int32)
    for i, members in enumerate(plan):
        part_of_group[members] = i
    part_of = part_of_group[groups]
    order = np.argsort(part_of, kind="stable")
    bounds = np.cumsum(np.bincount(part_of, minlength=len(plan)))[:-1]
    parts = tuple(StoredPart(rows, folder.path / str(i)) for i, rows in enumerate(np.split(order, bounds)))
    write = _write_columns if isinstance(expression.rows, CscRows) else _write_rows
    dtype, sparse, is_whole = write(expression, parts, part_of)
    return StoredMatrix(folder, parts, (n, n_columns), dtype, sparse, is_whole, rows_per_part)


def _require_space(n_bytes: int, name: str) -> None:
    where = tempfile.gettempdir()
    free = shutil.disk_usage(where).free
    if free < n_bytes:
        raise InputError(
            f"{name}: {bytes_text(n_bytes)} of values do not fit into memory, nor into the temporary folder {where},"
            f" which has {bytes_text(free)} left; name another folder with TMPDIR, or allow more `memory`"
        )


def _chunks(expression: Expression) -> Iterator[tuple[int, Any]]:
    """Yield (first row, rows) with about `BUFFER_BYTES` of values, as NumPy arrays or canonical CSR matrices."""
    from scipy.sparse import csr_array, vstack

    held: list[Any] = []
    first = n_bytes = 0

    def joined() -> Any:
        if isinstance(held[0], np.ndarray):
            return np.concatenate(held) if len(held) > 1 else held[0]
        x = csr_array(vstack([csr_array(block) for block in held], format="csr"))
        if not x.has_canonical_format:
            x.sum_duplicates()
        return x

    for start, block in expression.blocks():
        if not held:
            first = start
        held.append(block)
        n_bytes += block.nbytes if isinstance(block, np.ndarray) else block.data.nbytes + block.indices.nbytes
        if n_bytes >= BUFFER_BYTES:
            yield first, joined()
            held, n_bytes = [], 0
    if held:
        yield first, joined()


def _is_whole(values: NDArray[Any]) -> bool:
    return values.dtype.kind in "iub" or not bool((np.abs(values - np.rint(values)) > FRACTION).any())


def _write_rows(
    expression: Expression, parts: Sequence[StoredPart], part_of: NDArray[np.int32]
) -> tuple[np.dtype[Any], bool, bool]:
    """Append every row to its part; return data type, whether rows are sparse, whether no value has a fraction."""
    dtype, sparse, is_whole = expression.dtype, False, True
    for start, x in _chunks(expression):
        sparse = not isinstance(x, np.ndarray)
        dtype = x.dtype
        is_whole = is_whole and _is_whole(x.data if sparse else x)
        mine = part_of[start : start + x.shape[0]]
        for i in np.unique(mine).tolist():
            parts[i].append(x[np.flatnonzero(mine == i)])
    return dtype, sparse, is_whole


def _write_columns(
    expression: Expression, parts: Sequence[StoredPart], part_of: NDArray[np.int32]
) -> tuple[np.dtype[Any], bool, bool]:
    """Distribute the entries of a CSC matrix to the parts, then sort them into rows part by part."""
    rows: Any = expression.rows
    place_of = np.empty(len(part_of), np.int32)
    for part in parts:
        place_of[part.rows] = np.arange(len(part.rows))
    is_whole = True
    for cells, genes, values in rows.entries(BUFFER_BYTES):
        is_whole = is_whole and _is_whole(values)
        owner = part_of[cells]
        order = np.argsort(owner, kind="stable")
        bounds = np.searchsorted(owner[order], np.arange(len(parts) + 1))
        for i, part in enumerate(parts):
            own = order[bounds[i] : bounds[i + 1]]
            if len(own):
                part.append_entries(place_of[cells[own]], genes[own], values[own])
    for part in parts:
        part.to_rows(rows.dtype, rows.shape[1])
    return rows.dtype, True, is_whole

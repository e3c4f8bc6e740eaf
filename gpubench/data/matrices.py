"""Convert matrices of any library to a host array, or to a row source that is read block by block."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gpubench.core.errors import InputError, quoted, some_rows
from gpubench.core.types import RowSource
from gpubench.data.arrow import arrow_matrix
from gpubench.data.urls import File, reading

FLOAT32_MAX = np.float64(np.finfo(np.float32).max)


class FiniteCheck:
    """Counter of rows with NaN, infinite values, or values beyond the range of float32.

    Blocks may be added in any order and from several threads.

    Parameters
    ----------
    name : name of the argument in the message

    Examples
    --------
    >>> check = FiniteCheck("x")
    >>> check.add(np.array([[1.0, 2.0], [np.nan, 3.0]]), 0)
    >>> check.finish(2)
    Traceback (most recent call last):
    gpubench.core.errors.InputError: x: 1 of 2 rows hold NaN or infinite values (first: 1); remove or impute these cells
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._not_finite: list[NDArray[np.intp]] = []
        self._too_large: list[NDArray[np.intp]] = []

    def add(self, block: NDArray[Any], start: int) -> None:
        """Check a block whose first row is row `start` of the matrix, before a conversion to float32 may overflow."""
        if block.dtype.kind != "f" or block.size == 0 or _is_fine(block):
            return
        finite = np.isfinite(block)
        self._not_finite.append(start + np.flatnonzero(~finite.all(axis=1)))
        self._too_large.append(start + np.flatnonzero((finite & (np.abs(block) > FLOAT32_MAX)).any(axis=1)))

    def join(self, other: FiniteCheck) -> None:
        """Add the counts of another check."""
        self._not_finite += other._not_finite
        self._too_large += other._too_large

    def finish(self, n: int) -> None:
        """Raise an error if any of the n rows has values that are not finite.

        Raises
        ------
        InputError
            With the number of such rows, the first of them, and what to do.
        """
        for blocks, fault, remedy in (
            (self._not_finite, "hold NaN or infinite values", "remove or impute these cells"),
            (self._too_large, "hold values beyond 3.4e38, the range of float32", "rescale the embedding"),
        ):
            rows = np.sort(np.concatenate([np.empty(0, np.intp), *blocks]))
            if len(rows):
                raise InputError(f"{self._name}: {some_rows(rows, n, fault)}; {remedy}")


def _is_fine(block: NDArray[Any]) -> bool:
    """Whether all values are finite as float32; usual dtypes are checked in two passes without temporary arrays."""
    if block.dtype.itemsize < 4:  # NumPy compares half floats slowly
        return bool(np.isfinite(block).all())
    # NaN is the result of min and max wherever it occurs, and fails both comparisons.
    return bool(block.min() >= -FLOAT32_MAX and block.max() <= FLOAT32_MAX)


_DLPACK_CPU = 1


def comes_from(x: Any, package: str) -> bool:
    """Whether the type of `x`, or a base class of it, is defined in `package`."""
    return any(base.__module__.partition(".")[0] == package for base in type(x).__mro__)


def is_on_device(x: Any) -> bool:
    """Whether `x` is an array in device memory: of CuPy, of torch on a GPU, or of another exporter of DLPack."""
    if comes_from(x, "cupy"):
        return True
    if comes_from(x, "torch"):
        return str(x.layout) == "torch.strided" and x.device.type != "cpu"
    return hasattr(x, "__dlpack_device__") and x.__dlpack_device__()[0] != _DLPACK_CPU


def to_host(x: Any, name: str) -> NDArray[Any]:
    """Convert `x` to a NumPy array of the same shape and dtype, without a copy if memory can be shared.

    `x` is a NumPy array or memmap, torch tensor (any device, requiring grad or not), CuPy array, an object that has
    `__array__` or exports DLPack, or nested lists.
    """
    if "numpy.ma" in sys.modules and isinstance(x, np.ma.MaskedArray):  # importing numpy.ma takes a while
        n_masked = int(np.count_nonzero(np.ma.getmaskarray(x)))
        if n_masked:
            raise InputError(f"{name} has {n_masked:,} masked values; fill them or leave those cells out")
        return np.asarray(x.data)
    if isinstance(x, np.ndarray):
        return x
    if comes_from(x, "torch"):
        return _from_torch(x, name)
    if comes_from(x, "cupy"):
        host: NDArray[Any] = x.get()
        return host
    if hasattr(x, "__dlpack__") and not hasattr(x, "__array__"):
        return _from_dlpack(x, name)
    if isinstance(x, str | bytes) or not (hasattr(x, "__array__") or isinstance(x, Sequence)):
        raise InputError(f"{name} is of type {type(x).__name__}, not an array; give an array, one row or value a cell")
    try:
        return np.asarray(x)
    except ValueError as error:  # nested lists of uneven length
        raise InputError(f"{name} cannot be made an array: {error}; give rows of equal length") from error


def _from_torch(tensor: Any, name: str) -> NDArray[Any]:
    if str(tensor.layout) != "torch.strided":
        raise InputError(f"{name} is a sparse torch tensor; give {name}.to_dense() or a SciPy sparse matrix")
    tensor = tensor.detach().cpu()
    if str(tensor.dtype) == "torch.bfloat16":  # NumPy has no such dtype; float32 holds every bfloat16
        tensor = tensor.float()
    host: NDArray[Any] = tensor.resolve_conj().resolve_neg().numpy()
    return host


def _from_dlpack(x: Any, name: str) -> NDArray[Any]:
    try:
        if x.__dlpack_device__()[0] == _DLPACK_CPU:
            return np.from_dlpack(x)
        return np.from_dlpack(x, device="cpu")
    except (BufferError, RuntimeError, TypeError) as error:
        raise InputError(f"{name} cannot be copied to the host ({error}); give a NumPy array") from error


def _shape(x: Any) -> tuple[int, int]:
    n, d = x.shape
    return int(n), int(d)


class DeviceRows:
    """A matrix in device memory; an engine on that device uses `array`, other engines read blocks of rows.

    Attributes
    ----------
    array : device array of CuPy, torch or another library
    """

    def __init__(self, array: Any, what: str) -> None:
        self.array = array
        self._what = what
        self.shape = _shape(array)
        self.dtype: np.dtype[Any] = to_host(array[:0], what).dtype

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Copy rows [start, stop) to the host."""
        return to_host(self.array[start:stop], self._what)

    def taken(self, order: NDArray[np.intp]) -> DeviceRows:
        """Return a copy of the given rows, in device memory."""
        return DeviceRows(self.array[order], self._what)


class SlicedRows:
    """`RowSource` of a matrix that can be sliced as `x[start:stop]`: a CSR matrix, an HDF5 dataset, a zarr array.

    Chunked arrays are decompressed in whole chunks. The rows of the last chunk that are not needed yet are cached for
    the next block, so that reading from top to bottom reads each chunk once.

    Attributes
    ----------
    node : object with `shape` and `dtype`, whose slices are arrays or have `toarray`
    what : name of the matrix in messages
    file : file in which the matrix is stored, if known
    """

    def __init__(self, node: Any, what: str, file: File | None = None) -> None:
        self.node, self.what, self.file = node, what, file
        self.shape = _shape(node)
        self.dtype: np.dtype[Any] = node.dtype
        chunks = getattr(node, "chunks", None)
        self._chunk_rows = int(np.max(chunks[0])) if chunks else 1  # Dask has the size of every chunk
        self._cached: tuple[int, NDArray[Any]] | None = None  # first row, rows

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows [start, stop) as a dense array."""
        cached = self._take_cached(start, stop)
        first = start + len(cached)
        if first >= stop:
            return cached
        end = min(-(-stop // self._chunk_rows) * self._chunk_rows, self.shape[0])
        rows = self._slice(first, end)
        # A copy, since a view would keep the whole block in memory. Set in one step: threads may read concurrently.
        self._cached = (stop, rows[stop - first :].copy()) if end > stop else None
        rows = rows[: stop - first]
        return np.concatenate([cached, rows]) if len(cached) else rows

    def _take_cached(self, start: int, stop: int) -> NDArray[Any]:
        """Return those of rows [start, stop) that are cached; these are the first ones."""
        cached = self._cached
        if cached is None or not cached[0] <= start < cached[0] + len(cached[1]):
            return np.empty((0, self.shape[1]), self.dtype)
        offset, rows = start - cached[0], cached[1]
        if stop >= self.shape[0]:
            self._cached = None
        return rows[offset : offset + stop - start]

    def _slice(self, start: int, stop: int) -> NDArray[Any]:
        with reading(f"{self.what}: rows {start:,} to {stop:,}", self.file):
            block = self.node[start:stop]
            if comes_from(block, "dask"):  # its blocks may be sparse
                block = block.compute()
            return np.asarray(block.toarray() if hasattr(block, "toarray") else block)


class CsrMatrixRows(SlicedRows):
    """`RowSource` of a CSR matrix in memory, which can also be read as CSR blocks."""

    def read_csr(self, start: int, stop: int) -> Any:
        """Return rows [start, stop) as a CSR matrix."""
        return self.node[start:stop]


class DeviceCsrRows(CsrMatrixRows):
    """A CSR matrix of CuPy in device memory; an engine on that device uses `node`, other engines read blocks."""

    def read_csr(self, start: int, stop: int) -> Any:
        """Copy rows [start, stop) to the host, as a CSR matrix."""
        return self.node[start:stop].get()

    def _slice(self, start: int, stop: int) -> NDArray[Any]:
        return np.asarray(self.read_csr(start, stop).toarray())


class StackedRows:
    """`RowSource` that stacks matrices with the same number of columns vertically, without copying them.

    Parameters
    ----------
    parts : arrays or row sources

    Examples
    --------
    >>> rows = StackedRows([np.zeros((2, 3)), np.ones((1, 3))])
    >>> rows.shape
    (3, 3)
    >>> rows.read(1, 3)
    array([[0., 0., 0.],
           [1., 1., 1.]])
    """

    def __init__(self, parts: Sequence[NDArray[Any] | RowSource]) -> None:
        self._parts = list(parts)
        widths = {int(part.shape[1]) for part in parts}
        if len(widths) != 1:
            raise InputError(f"matrices of {sorted(widths)} columns cannot be stacked; they must have the same number")
        self._starts = np.cumsum([0, *(int(part.shape[0]) for part in parts)])
        self.shape = (int(self._starts[-1]), widths.pop())
        self.dtype = np.result_type(*(part.dtype for part in parts))

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows [start, stop) as a dense (stop - start, d) array."""
        block = np.empty((stop - start, self.shape[1]), self.dtype)
        for part, begin, end in zip(self._parts, self._starts[:-1], self._starts[1:], strict=True):
            low, high = max(start, int(begin)), min(stop, int(end))
            if low < high:
                block[low - start : high - start] = read_rows(part, low - int(begin), high - int(begin))
        return block


def read_rows(x: NDArray[Any] | RowSource, start: int, stop: int) -> NDArray[Any]:
    """Return rows [start, stop) of an array or a row source.

    Examples
    --------
    >>> read_rows(np.eye(3), 1, 2)
    array([[0., 1., 0.]])
    """
    return x.read(start, stop) if isinstance(x, RowSource) else x[start:stop]


Rows: TypeAlias = "NDArray[Any] | RowSource"

_REAL_KINDS = "fiub"


@dataclass(frozen=True, slots=True)
class WrappedRows:
    """Base class of row sources that add names or notes to a matrix.

    Attributes
    ----------
    rows : (n, d) array or `RowSource`
    """

    rows: Rows

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (n, d)."""
        return _shape(self.rows)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype as stored."""
        return self.rows.dtype

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows [start, stop) as a dense array."""
        return read_rows(self.rows, start, stop)


def as_rows(x: Any, name: str) -> Rows:
    """Convert `x` to a host array or a `RowSource`, the two forms of a matrix that gpubench reads rows from.

    Parameters
    ----------
    x : NumPy array or memmap, nested list, DataFrame of pandas, polars or Dask, Arrow table or array of lists, torch
        tensor, CuPy array, DLPack exporter, SciPy (or CuPy) sparse matrix or array, open HDF5 dataset or zarr array,
        Dask array, `RowSource`
    name : name of the argument in messages

    Returns
    -------
    (n, d) host array, without a copy if memory can be shared; or a `RowSource` if the matrix is sparse, on disk or in
    device memory, where it stays. The dtype is float, integer or bool as given, in any memory order; values are not
    checked.

    Raises
    ------
    InputError
        The dtype is complex, object, text or time, or the matrix is not two-dimensional, or has no rows or columns.

    Examples
    --------
    >>> as_rows([[0.5, 1.5], [2.5, 3.5]], "embedding").shape
    (2, 2)
    """
    matrix = _as_matrix(x, name)
    shape = tuple(matrix.shape)
    if len(shape) != 2:
        raise InputError(
            f"{name} must be a matrix (cells x dimensions) but has shape {shape}; {_reshaping(shape, name)}"
        )
    for length, what in zip(shape, ("rows (no cells)", "columns (no dimensions)"), strict=True):
        if length == 0:
            raise InputError(f"{name} has no {what}: its shape is {shape}; check how it was made")
    if matrix.dtype.kind not in _REAL_KINDS:
        raise InputError(f"{name} has dtype {matrix.dtype}; give real numbers, such as {name}.astype('float32')")
    if isinstance(matrix, np.ndarray | RowSource):
        return matrix
    return CsrMatrixRows(matrix.tocsr(), name) if hasattr(matrix, "tocsr") else SlicedRows(matrix, name)


def _as_matrix(x: Any, name: str) -> Any:
    """Convert `x` to an array, or return it unchanged if it is sparse, on disk or a row source."""
    if comes_from(x, "cupyx"):  # sparse, on the device
        return DeviceCsrRows(x.tocsr(), name)
    is_sparse = hasattr(x, "tocsr") and comes_from(x, "scipy")
    is_stored = hasattr(x, "dtype") and any(comes_from(x, package) for package in ("h5py", "zarr", "anndata", "dask"))
    if is_stored and comes_from(x, "dask"):
        return _with_known_chunks(x)
    if isinstance(x, RowSource) or is_sparse or is_stored:
        return x
    if is_on_device(x) and len(getattr(x, "shape", ())) == 2:
        return DeviceRows(x, name)
    table = _table_values(x, name)
    return to_host(x, name) if table is None else table


def _table_values(x: Any, name: str) -> NDArray[Any] | None:
    """Return the values of a table of pandas, Dask, polars or Arrow, or of an Arrow array; None for other objects."""
    if type(x).__name__ == "Dataset2D" and comes_from(x, "anndata"):  # a table of a lazy AnnData
        x = x.to_memory()
    if type(x).__name__ == "DataFrame" and comes_from(x, "dask"):
        x = x.compute()
    if type(x).__name__ == "DataFrame" and comes_from(x, "pandas"):
        return _frame_values(x, name)
    if comes_from(x, "polars") and hasattr(x, "to_arrow"):
        x = x.to_arrow()
    return arrow_matrix(x, name) if comes_from(x, "pyarrow") else None


def _with_known_chunks(x: Any) -> Any:
    """Return a Dask array with a known number of rows, which is computed if it is unknown."""
    return x.compute_chunk_sizes() if any(np.isnan(length) for length in x.shape) else x


def _reshaping(shape: tuple[int, ...], name: str) -> str:
    """Return advice on how to reshape an array of this shape to a matrix."""
    if not shape or not shape[0]:
        return "give one row for each cell"
    if len(shape) == 1:
        return f"give {name}.reshape(-1, 1) if cells have one dimension"
    return f"give {name}.reshape({shape[0]}, -1) if there are {shape[0]:,} cells"


def _frame_values(frame: Any, name: str) -> NDArray[Any]:
    text = [str(column) for column, dtype in frame.dtypes.items() if dtype.kind not in _REAL_KINDS]
    if text:
        raise InputError(f"{name} has columns that are not numbers: {quoted(text)}; leave them out")
    if all(isinstance(dtype, np.dtype) for dtype in frame.dtypes):
        values: NDArray[Any] = frame.to_numpy()
    else:  # nullable columns: missing values become NaN, which the check of values reports
        values = frame.to_numpy(dtype=np.float64, na_value=np.nan)
    return values

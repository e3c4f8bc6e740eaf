"""Anything matrix-like as rows: a host array, or a source that is read block by block."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gpubench.data.host import comes_from, is_on_device, to_host
from gpubench.data.messages import quoted
from gpubench.data.rows import CsrMatrixRows, DeviceRows, SlicedRows
from gpubench.errors import InputError
from gpubench.types import RowSource

Rows: TypeAlias = "NDArray[Any] | RowSource"

_REAL_KINDS = "fiub"


def as_rows(x: Any, name: str) -> Rows:
    """`x` as a matrix whose rows can be read.

    Parameters
    ----------
    x : NumPy array or memmap, nested list, pandas DataFrame, torch tensor, CuPy array, DLPack exporter, SciPy (or
        CuPy) sparse matrix or array, open HDF5 dataset or zarr array, array of Dask,
        `RowSource`
    name : the argument that messages name

    Returns
    -------
    (n, d) host array, not copied where its memory can be shared, or a `RowSource` for what is sparse, on disk or on a
    device, where it stays. Any float, integer or bool dtype, in any memory order; values are not looked at.

    Raises
    ------
    InputError
        Complex, object, text or time dtype; not two-dimensional; no rows; no columns.
    """
    matrix = _as_matrix(x, name)
    _check_shape(tuple(matrix.shape), name)
    if matrix.dtype.kind not in _REAL_KINDS:
        raise InputError(f"{name} has dtype {matrix.dtype}; give real numbers, such as {name}.astype('float32')")
    if isinstance(matrix, np.ndarray | RowSource):
        return matrix
    return CsrMatrixRows(matrix.tocsr(), name) if hasattr(matrix, "tocsr") else SlicedRows(matrix, name)


def _as_matrix(x: Any, name: str) -> Any:
    """`x` as an array, or as it is where it is sparse, on disk or a row source: with a shape and a dtype."""
    if comes_from(x, "cupyx"):  # sparse, on the device
        x = x.get()
    if isinstance(x, RowSource) or _is_sparse(x) or _is_stored(x):
        return x
    if is_on_device(x) and len(getattr(x, "shape", ())) == 2:
        return DeviceRows(x, name)
    if type(x).__name__ == "DataFrame" and comes_from(x, "pandas"):
        return _frame_values(x, name)
    return to_host(x, name)


def _is_sparse(x: Any) -> bool:
    return hasattr(x, "tocsr") and comes_from(x, "scipy")


def _is_stored(x: Any) -> bool:
    """Whether `x` is an array that slices by rows and is somewhere else: of h5py, zarr, AnnData's backed mode, Dask."""
    return hasattr(x, "dtype") and any(comes_from(x, package) for package in ("h5py", "zarr", "anndata", "dask"))


def _check_shape(shape: tuple[int, ...], name: str) -> None:
    if len(shape) != 2:
        raise InputError(
            f"{name} must be a matrix (cells x dimensions) but has shape {shape}; {_reshaped(shape, name)}"
        )
    for length, what in zip(shape, ("rows (no cells)", "columns (no dimensions)"), strict=True):
        if length == 0:
            raise InputError(f"{name} has no {what}: its shape is {shape}; check how it was made")


def _reshaped(shape: tuple[int, ...], name: str) -> str:
    """What to do about an array that is no matrix."""
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
    else:  # nullable columns: what is missing becomes NaN, which the check of values reports
        values = frame.to_numpy(dtype=np.float64, na_value=np.nan)
    return values

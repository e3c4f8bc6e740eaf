"""Expression matrices, cells x genes: with names, read in blocks of rows, sparse where they are stored sparse."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from gpubench.data.categorical import as_text
from gpubench.data.finite import FiniteCheck
from gpubench.data.matrix import as_rows
from gpubench.data.messages import reading
from gpubench.data.rows import read_rows
from gpubench.data.store import Node, attribute, is_group, open_hdf5, open_zarr
from gpubench.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_array

Block: TypeAlias = Any
"""Rows of a matrix: a NumPy array, or a SciPy CSR matrix where the matrix is stored sparse."""

_BLOCK_VALUES = 1 << 24
"""Values of a block were it dense: 64 MiB in float32."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A matrix of cells x genes; it is a `RowSource`, and its blocks can also be had as they are stored.

    Attributes
    ----------
    shape : (cells, genes)
    dtype : as stored
    rows : (start, stop) -> those rows as stored, dense or CSR
    cells, genes : their names, None where the source has none
    name : the argument that messages name
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    rows: Callable[[int, int], Block]
    cells: NDArray[np.str_] | None = None
    genes: NDArray[np.str_] | None = None
    name: str = "X"

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows [start, stop) as a dense array."""
        return to_dense(self.rows(start, stop))

    def blocks(self) -> Iterator[tuple[int, Block]]:
        """Yield (first row, rows as stored) from top to bottom."""
        step = max(1, _BLOCK_VALUES // self.shape[1])
        for start in range(0, self.shape[0], step):
            yield start, self.rows(start, min(start + step, self.shape[0]))


def read_expression(source: Any, name: str = "X") -> Expression:
    """Open a matrix of cells x genes; its values are read when they are asked for.

    Parameters
    ----------
    source : path of an h5ad file or a zarr store (its X is read), an AnnData (X), or whatever `as_rows` takes
    name : the argument that messages name

    Raises
    ------
    InputError
        A file that cannot be read, no X, and what `as_rows` refuses.
    """
    if isinstance(source, Expression):
        return replace(source, name=name)
    if isinstance(source, str | os.PathLike):
        return _from_store(Path(source), name)
    if hasattr(source, "obs_names"):
        return _from_anndata(source, name)
    return _from_matrix(source, name)


def to_dense(block: Block) -> NDArray[Any]:
    """Return a block as an array."""
    return np.asarray(block if isinstance(block, np.ndarray) else block.toarray())


def to_csr(block: Block, *, copy: bool = False) -> csr_array:
    """Return a block as a CSR array without stored zeros or repeated entries."""
    from scipy.sparse import csr_array

    rows = csr_array(block, copy=copy)
    if not rows.has_canonical_format or not rows.data.all():
        rows = rows.copy()
        rows.sum_duplicates()
        rows.eliminate_zeros()
    return rows


def check_finite(check: FiniteCheck, block: Block, start: int) -> bool:
    """Add a block to a check; return whether all of its values are finite."""
    fine = bool(np.isfinite(block if isinstance(block, np.ndarray) else block.data).all())
    if not fine:
        check.add(to_dense(block), start)
    return fine


def open_store(path: Path) -> Node:
    """Open an h5ad file, or a zarr store where the path is a folder or ends in .zarr or .zip, for reading."""
    is_zarr = path.is_dir() or path.suffix in (".zarr", ".zip")
    return open_zarr(path) if is_zarr else open_hdf5(path)


def read_names(store: Node, axis: str) -> NDArray[np.str_]:
    """Read the names of the cells (axis "obs") or genes ("var")."""
    names = store[axis][attribute(store[axis], "_index", "_index")][:]
    return np.asarray([as_text(name) for name in names.tolist()], dtype=np.str_)


def _from_store(path: Path, name: str) -> Expression:
    store = open_store(path)
    with reading(str(path)):
        if "X" not in store:
            raise InputError(f"{name}: {path} has no X; give a file with expression in X")
        cells, genes = read_names(store, "obs"), read_names(store, "var")
        stored = _stored_matrix(store["X"], (len(cells), len(genes)))
    return replace(_from_matrix(stored, name), cells=cells, genes=genes)


def _stored_matrix(x: Node, shape: tuple[int, int]) -> Any:
    if not is_group(x):
        return x
    if attribute(x, "encoding-type") == "csr_matrix":
        return _StoredCsr(x, shape)
    from scipy.sparse import csc_array  # its rows are scattered over the file, so it is turned in memory, once

    return csc_array((x["data"][:], x["indices"][:], x["indptr"][:]), shape=shape)


class _StoredCsr:
    """A CSR matrix in a file, of which slices of rows are read."""

    format = "csr"

    def __init__(self, group: Node, shape: tuple[int, int]) -> None:
        self.shape = shape
        self.dtype = np.dtype(group["data"].dtype)
        self._group = group
        self._indptr = group["indptr"][:].astype(np.int64)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows [start, stop) as a dense array."""
        return to_dense(self[start:stop])

    def __getitem__(self, rows: slice) -> csr_array:
        from scipy.sparse import csr_array

        indptr = self._indptr[rows.start : rows.stop + 1]
        stored = slice(int(indptr[0]), int(indptr[-1]))
        with reading(f"rows {rows.start:,} to {rows.stop:,} of X"):
            data, indices = self._group["data"][stored], self._group["indices"][stored]
        return csr_array((data, indices, indptr - indptr[0]), shape=(rows.stop - rows.start, self.shape[1]))


def _from_anndata(adata: Any, name: str) -> Expression:
    if adata.X is None:
        raise InputError(f"{name} has no X; give an AnnData with expression in X")
    cells, genes = (np.asarray(names, dtype=np.str_) for names in (adata.obs_names, adata.var_names))
    return replace(_from_matrix(adata.X, name), cells=cells, genes=genes)


def _from_matrix(matrix: Any, name: str) -> Expression:
    """Keep what is sparse sparse, in memory or in AnnData's backed mode; the rest is what `as_rows` makes of it."""
    if not hasattr(matrix, "format"):
        dense = as_rows(matrix, name)
        return Expression(dense.shape, dense.dtype, partial(read_rows, dense), name=name)
    if matrix.format != "csr":
        matrix = (matrix.to_memory() if hasattr(matrix, "to_memory") else matrix).tocsr()
    as_rows(matrix, name)  # checks shape and dtype
    return Expression(tuple(matrix.shape), np.dtype(matrix.dtype), lambda start, stop: matrix[start:stop], name=name)

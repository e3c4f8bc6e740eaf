"""Rank sums of groups of cells against a control group: their input, and the definition in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from gpubench.core.errors import InputError, some_rows
from gpubench.core.types import RankSums
from gpubench.data.matrices import comes_from, to_host
from gpubench.engines.common import flop_counts

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from scipy.sparse import csc_array, csr_array

    from gpubench.core.timeline import Work
    from gpubench.core.types import F64, I32, I64

    Matrix: TypeAlias = "NDArray[Any] | csr_array | csc_array"
    "Cells x genes, float32 or float64; sparse ones have sorted indices that do not repeat."

MAX_COMPARED_CELLS = 2_097_151
"""Largest number of cells of a group and the control together, such that its cube fits in 63 bits."""


@dataclass(frozen=True, slots=True)
class GroupedCells:
    """Validated assignment of cells to groups.

    Attributes
    ----------
    codes : (n,) int32, group of each cell in [0, n_groups), or -1 for a cell that is left out
    sizes : (n_groups,) int64, number of cells of each group
    control : index of the group that every group is compared with
    """

    codes: I32
    sizes: I64
    control: int

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return len(self.sizes)


def group_cells(groups: ArrayLike, n_groups: int, control: int, shape: tuple[int, ...]) -> GroupedCells:
    """Validate the group of each cell, for a matrix of values with this shape; see `Engine.rank_sums`.

    Raises
    ------
    InputError
        `groups` is not one integer in [-1, n_groups) per cell, `control` is no group, or a group has too many cells.
    """
    if len(shape) != 2:
        raise InputError(f"values has {len(shape)} dimensions; give a matrix of cells x genes", argument="values")
    codes, n = to_host(groups, "groups"), shape[0]
    if codes.shape != (n,) or codes.dtype.kind not in "iu":
        raise InputError(
            f"groups has shape {codes.shape} and dtype {codes.dtype}; give one integer for each of {n:,} cells",
            argument="groups",
        )
    if not 0 <= control < n_groups:
        raise InputError(f"control={control} is not a group from 0 to {n_groups - 1}", argument="control")
    outside = np.flatnonzero((codes < -1) | (codes >= n_groups))
    if len(outside):
        fault = some_rows(outside, n, f"are not in [-1, {n_groups})")
        raise InputError(f"groups: {fault}; number the groups from 0, and use -1 for cells to leave out")
    codes = codes.astype(np.int32)
    sizes = np.bincount(codes[codes >= 0], minlength=n_groups).astype(np.int64)
    if sizes[control] + np.delete(sizes, control).max(initial=0) > MAX_COMPARED_CELLS:
        raise InputError(
            f"groups: {int(sizes[control]):,} control cells and the largest group are more than the"
            f" {MAX_COMPARED_CELLS:,} cells that can be ranked together; draw fewer control cells"
        )
    return GroupedCells(codes, sizes, control)


def as_matrix(values: Any, *, float32_ties: bool) -> Matrix:
    """Return values on the host as float32 or float64, in a memory layout or sparse format that `rank_sums` accepts.

    Values that already are in such a form are not copied. Small integers become float32, other integers float64.

    Raises
    ------
    InputError
        The values are not a matrix of real numbers.
    """
    values = values.get() if comes_from(values, "cupyx") else values
    is_sparse = hasattr(values, "tocsr")
    matrix = values if is_sparse else to_host(values, "values")
    if matrix.dtype.kind not in "fiub":
        raise InputError(f"values has dtype {matrix.dtype}; give real numbers", argument="values")
    exact = np.float32 if matrix.dtype.itemsize < 4 or matrix.dtype == np.float32 else np.float64
    dtype = np.float32 if float32_ties else exact
    if not is_sparse:
        with np.errstate(over="ignore"):  # values that become infinite are refused when they are counted
            return matrix.astype(dtype, copy=False)
    matrix = _canonical(matrix, exact)
    with np.errstate(over="ignore"):
        rounded: Matrix = matrix.astype(dtype, copy=False)
    return rounded


def _canonical(matrix: Any, dtype: Any) -> Any:
    """Return a sparse matrix of any format as CSR or CSC with sorted indices and without duplicate entries."""
    from scipy.sparse import csc_array, csr_array

    matrix = (csc_array(matrix) if matrix.format == "csc" else csr_array(matrix)).astype(dtype, copy=False)
    if not matrix.has_canonical_format:
        matrix = matrix.copy()  # its indices may be those of the caller
        matrix.sum_duplicates()
    return matrix


def n_stored(matrix: Matrix) -> int:
    """Return the number of stored values of a matrix: all values of a dense one, explicit entries of a sparse one."""
    return int(matrix.size if isinstance(matrix, np.ndarray) else matrix.nnz)


def work(matrix: Matrix, n_groups: int) -> Work:
    """Count the work of `Engine.rank_sums`."""
    return flop_counts.rank_sums(n_stored(matrix), matrix.dtype.itemsize, n_groups, matrix.shape[1])


def require_finite(matrix: Matrix, cells: GroupedCells) -> None:
    """Raise InputError if a cell that belongs to a group has NaN or infinite values.

    Raises
    ------
    InputError
        The message says how many rows, lists the first few and names a remedy.
    """
    is_finite = np.ones(matrix.shape[0], bool)
    if isinstance(matrix, np.ndarray):
        is_finite &= np.isfinite(matrix).all(axis=1)
    elif not (stored := np.isfinite(matrix.data)).all():
        is_finite[matrix.tocoo().row[~stored]] = False
    rows = np.flatnonzero(~is_finite & (cells.codes >= 0))
    if len(rows):
        fault = some_rows(rows, len(is_finite), f"hold NaN or infinite values as {matrix.dtype}")
        raise InputError(f"values: {fault}; remove or impute these cells", argument="values")


def rank_sums(matrix: Matrix, cells: GroupedCells, over_genes: Callable[..., None]) -> RankSums:
    """Compute U and the tie term of each group in every gene; see `Engine.rank_sums`.

    Parameters
    ----------
    over_genes : function that calls another one for ranges of genes, as `Engine.over_rows` does for ranges of rows
    """
    n, n_genes = matrix.shape
    columns = matrix if isinstance(matrix, np.ndarray) else matrix.tocsc()
    u, ties = np.empty((cells.n_groups, n_genes)), np.empty((cells.n_groups, n_genes), np.int64)

    def run(start: int, stop: int) -> None:
        for gene in range(start, stop):
            values, codes = _stored(columns, gene, cells.codes)
            u[:, gene], ties[:, gene] = _count(values, codes, cells)

    over_genes(n_genes, run, n)
    return RankSums(u, ties, cells.sizes, cells.control)


def _stored(columns: Any, gene: int, codes: I32) -> tuple[NDArray[Any], I32]:
    """Return the stored values of a gene (all nonzero ones) in cells of a group, and the groups of these cells."""
    if isinstance(columns, np.ndarray):
        values, own = columns[:, gene], codes
    else:
        stored = slice(columns.indptr[gene], columns.indptr[gene + 1])
        values, own = columns.data[stored], codes[columns.indices[stored]]
    taken = (own >= 0) & (values != 0)
    return values[taken], own[taken]


def _count(values: NDArray[Any], codes: I32, cells: GroupedCells) -> tuple[F64, I64]:
    """Compute U and the tie term of each group in a gene from its nonzero values and their groups."""
    n_groups, control = cells.n_groups, cells.control
    zeros = cells.sizes - np.bincount(codes, minlength=n_groups)
    # each run of equal values, 0 among them, and how many cells of each group are in it
    distinct, run_of = np.unique(np.append(values, values.dtype.type(0)), return_inverse=True)
    zero = run_of[-1]
    pairs, sizes = np.unique(run_of[:-1].astype(np.int64) * n_groups + codes, return_counts=True)
    runs = np.concatenate([pairs // n_groups, np.full(n_groups, zero)])
    groups = np.concatenate([pairs % n_groups, np.arange(n_groups)])
    sizes = np.concatenate([sizes, zeros])

    controls = np.zeros(len(distinct), np.int64)
    is_control = groups == control
    np.add.at(controls, runs[is_control], sizes[is_control])
    twice_below = 2 * np.cumsum(controls) - controls
    u = np.bincount(groups, sizes * twice_below[runs], n_groups) / 2
    own = np.where(is_control, 0, sizes)
    ties = np.full(n_groups, _cubes(controls).sum())
    np.add.at(ties, groups, _cubes(controls[runs] + own) - _cubes(controls[runs]))
    return u, ties


def _cubes(sizes: I64) -> I64:
    """Return t^3 - t for each size t, the tie term of t equal values."""
    return sizes * (sizes - 1) * (sizes + 1)

"""Expression matrices, cells x genes, with names; read in blocks of rows, as stored or log-normalised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from gpubench.core.errors import InputError, quoted, some_rows
from gpubench.data.columns import as_text
from gpubench.data.formats.anndata_store import AnnDataSource
from gpubench.data.matrices import FiniteCheck, WrappedRows, as_rows
from gpubench.data.read import open_source, reading_source

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_array, csr_matrix

    Block: TypeAlias = "NDArray[Any] | csr_matrix"
    "Rows of a matrix, CSR if it is stored sparse."

_BLOCK_VALUES = 1 << 24
"""Values of a block in dense form: 64 MiB in float32."""


@dataclass(frozen=True, slots=True)
class Expression(WrappedRows):
    """A matrix of cells x genes, whose blocks can also be read in their stored form.

    Attributes
    ----------
    cells, genes : their names, None if the source has none
    name : what messages call it
    """

    cells: list[str] | None
    genes: list[str] | None
    name: str

    def blocks(self) -> Iterator[tuple[int, Block]]:
        """Yield (first row, rows as stored) from top to bottom."""
        n, n_genes = self.shape
        step = max(1, _BLOCK_VALUES // n_genes)
        read = getattr(self.rows, "read_csr", self.read)
        for start in range(0, n, step):
            yield start, read(start, min(start + step, n))


def read_expression(source: Any, name: str = "data") -> Expression:
    """Open a matrix of cells x genes, whose values are read later.

    Parameters
    ----------
    source : X of an h5ad file, a zarr store or an AnnData; or a matrix, see `gpubench.data.as_rows`
    name : what messages call it
    """
    if isinstance(source, Expression):
        return source
    with reading_source(source):
        opened = open_source(source)
        cells = genes = None
        if isinstance(opened, AnnDataSource):
            cells, genes = _as_texts(opened.cell_ids()), _as_texts(opened.gene_ids())
            x = opened.expression()
        else:
            x = opened.embedding(*opened.choose(["X"]))
        rows = as_rows(x, f"X of {name}")
    for names, length, what in ((cells, rows.shape[0], "cells"), (genes, rows.shape[1], "genes")):
        if names is not None and len(names) != length:
            raise InputError(f"{name} has {len(names):,} names of {what} but {length:,} in X; write the file again")
    return Expression(rows, cells, genes, name)


def _as_texts(names: Iterable[Any] | None) -> list[str] | None:
    return None if names is None else [str(as_text(name)) for name in names]


def index_names(names: list[str] | None, what: str, name: str) -> dict[str, int]:
    """Return name -> position of cells or genes; they must have names, and each only once."""
    if names is None:
        raise InputError(f"{name} has no names of {what}; give an h5ad file or an AnnData")
    positions = {text: i for i, text in enumerate(names)}
    if len(positions) < len(names):
        twice = [text for text, count in Counter(names).items() if count > 1]
        raise InputError(
            f"{name}: {len(twice):,} names of {what} occur more than once ({quoted(twice[:3])}); make them unique"
        )
    return positions


def to_csr(block: Block, *, copy: bool = False) -> csr_array:
    """Return a block as a CSR array without stored zeros or repeated entries."""
    from scipy.sparse import csr_array

    rows = csr_array(block, copy=copy)
    if not (rows.has_canonical_format and rows.data.all()):
        rows = rows.copy()
        rows.sum_duplicates()
        rows.eliminate_zeros()
    return rows


def check_finite(check: FiniteCheck, block: Block | csr_array, start: int) -> bool:
    """Add rows to a check; return whether all of their values are finite."""
    if isinstance(block, np.ndarray):
        check.add(block, start)
        return bool(np.isfinite(block).all())
    is_finite = bool(np.isfinite(block.data).all())
    if not is_finite:
        check.add(block.toarray(), start)
    return is_finite


@dataclass(frozen=True, slots=True)
class Depth:
    """The sequencing depth of each cell, and properties of the values.

    Attributes
    ----------
    totals : (n,) float32, the sum of each cell
    target : median of the totals of the cells that are not empty; 1 where all are
    is_counts : whether every value is a whole number
    largest : the largest value, at least 0
    """

    totals: NDArray[np.float32]
    target: np.float32
    is_counts: bool
    largest: float


def measure_depth(expression: Expression) -> Depth:
    """Read the matrix once for its totals.

    Raises
    ------
    InputError
        NaN, infinite or negative values: in how many cells, and the first few.
    """
    n = expression.shape[0]
    totals = np.zeros(n, np.float32)
    has_negative = np.zeros(n, bool)
    finite = FiniteCheck(expression.name)
    is_counts, largest = True, 0.0
    for start, block in expression.blocks():
        rows = to_csr(block)
        if not check_finite(finite, rows, start):
            continue
        cells = slice(start, start + rows.shape[0])
        totals[cells] = rows.sum(axis=1, dtype=np.float64)
        has_negative[cells] = rows.min(axis=1).toarray() < 0
        is_counts = is_counts and not np.any(rows.data % 1)
        largest = max(largest, rows.data.max(initial=0.0))
    finite.finish(n)
    if has_negative.any():
        fault = some_rows(np.flatnonzero(has_negative), n, "hold negative values")
        raise InputError(f"{expression.name}: {fault}; give raw counts, or values that were not centred or scaled")
    positive = totals[totals > 0]
    return Depth(totals, np.median(positive) if len(positive) else np.float32(1), is_counts, float(largest))


def log_normalized(expression: Expression, depth: Depth) -> Iterator[tuple[int, csr_array]]:
    """Yield (first row, log(1 + x target / total)) block by block, float32.

    Each step rounds to float32 as in scanpy, so that equal counts in cells of equal totals stay equal, and ranks and
    selected genes are the same.
    """
    for start, block in expression.blocks():
        rows = to_csr(block, copy=True)
        scale = depth.totals[start : start + rows.shape[0]] / depth.target
        values = rows.data.astype(np.float32, copy=False)
        values /= np.repeat(scale, np.diff(rows.indptr))
        np.log1p(values, out=values)
        rows.data = values
        yield start, rows

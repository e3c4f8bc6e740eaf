"""Expression matrices, cells x genes: with names, read in blocks of rows, sparse where they are stored sparse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from gpubench.core.errors import InputError, quoted
from gpubench.data.columns import as_text
from gpubench.data.formats.anndata_store import AnnDataSource
from gpubench.data.matrices import Rows, as_rows, read_rows
from gpubench.data.read import open_source, reading_source

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_array, csr_matrix

    from gpubench.data.matrices import FiniteCheck

    Block: TypeAlias = "NDArray[Any] | csr_matrix"
    "Rows of a matrix, CSR where it is stored sparse."

_BLOCK_VALUES = 1 << 24
"""Values of a block were it dense: 64 MiB in float32."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A matrix of cells x genes; it is a `RowSource`, and its blocks can also be had as they are stored.

    Attributes
    ----------
    rows : (cells, genes) array or `RowSource`
    cells, genes : their names, None where the source has none
    name : what messages call it
    """

    rows: Rows
    cells: list[str] | None
    genes: list[str] | None
    name: str

    @property
    def shape(self) -> tuple[int, int]:
        """(cells, genes)."""
        return int(self.rows.shape[0]), int(self.rows.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype as stored."""
        return self.rows.dtype

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows [start, stop) as a dense array."""
        return read_rows(self.rows, start, stop)

    def blocks(self) -> Iterator[tuple[int, Block]]:
        """Yield (first row, rows as stored) from top to bottom."""
        n, n_genes = self.shape
        step = max(1, _BLOCK_VALUES // n_genes)
        read = getattr(self.rows, "read_csr", self.read)
        for start in range(0, n, step):
            yield start, read(start, min(start + step, n))


def read_expression(source: Any, name: str = "data") -> Expression:
    """Open a matrix of cells x genes; its values are read when they are asked for.

    Parameters
    ----------
    source : X of an h5ad file, a zarr store or an AnnData; or a matrix, see `gpubench.data.as_rows`
    name : what messages call it

    Raises
    ------
    InputError
        A file that cannot be read, no X, and what `as_rows` refuses.
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
    """Number the names of cells or genes in their order.

    Raises
    ------
    InputError
        There are none, or some occur more than once.
    """
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
    fine = bool(np.isfinite(block.data).all())
    if not fine:
        check.add(block.toarray(), start)
    return fine

"""What an embedding has to beat: PCA of log-normalised expression, and the expression itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError
from gpubench.data.expression.matrix import read_expression
from gpubench.data.expression.normalize import log_normalized, measure_depth
from gpubench.data.expression.pca import principal_components
from gpubench.data.expression.variable_genes import highly_variable_genes
from gpubench.data.matrices import Rows, read_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_array


@dataclass(frozen=True, slots=True)
class Baseline:
    """A baseline embedding; a `RowSource`.

    Attributes
    ----------
    rows : (n, d) array or `RowSource`
    note : what departs from the recipe, and why
    """

    rows: Rows
    note: str = ""

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""
        return int(self.rows.shape[0]), int(self.rows.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype as stored."""
        return self.rows.dtype

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows [start, stop) as a dense array."""
        return read_rows(self.rows, start, stop)


def pca_baseline(
    source: Any, *, n_top_genes: int = 3000, n_components: int = 50, threads: int | None = None
) -> Baseline:
    """Principal components of the expression of highly variable genes, as cz-benchmarks makes its baseline.

    Counts are brought to the median total, log(1 + x) is taken, the highly variable genes are kept and centred (not
    scaled), and projected on their first principal components. X is read in blocks of rows and stays sparse. The
    components are exact, so that nothing depends on a seed, and the same bits come out for any number of threads.

    Parameters
    ----------
    source : path of an h5ad file or a zarr store, an AnnData, or a matrix of counts, cells x genes
    n_top_genes, n_components : fewer are taken, and noted, where there are fewer
    threads : CPU threads; None: all that this process may use

    Returns
    -------
    Baseline of (n, n_components) float32

    Raises
    ------
    InputError
        No X, NaN, infinite or negative values, no gene that varies.
    """
    expression = read_expression(source)
    n = expression.shape[0]
    depth = measure_depth(expression)
    genes = highly_variable_genes(log_normalized(expression, depth), expression.shape, n_top_genes)
    if not len(genes):
        raise InputError(
            f"X of {expression.name}: no gene varies between cells; a PCA baseline needs expression counts"
        )

    def blocks() -> Iterator[tuple[int, csr_array]]:
        for start, rows in log_normalized(expression, depth):
            yield start, rows[:, genes]

    d = min(n_components, n - 1, len(genes))
    notes = []
    if not depth.is_counts:
        notes.append("X holds no raw counts but was normalised and logarithmised as if it did")
    if len(genes) < n_top_genes:
        notes.append(f"{len(genes):,} genes that vary, instead of {n_top_genes:,} highly variable ones")
    if d < n_components:
        notes.append(f"{d} components instead of {n_components}, for {n:,} cells and {len(genes):,} genes")
    return Baseline(principal_components(blocks, (n, len(genes)), d, threads), "; ".join(notes))


def expression_baseline(source: Any) -> Baseline:
    """X itself, as cz-benchmarks takes it for label prediction.

    Raises
    ------
    InputError
        No X.
    """
    return Baseline(read_expression(source).rows)

"""Expression matrices (cells x genes), read in blocks as stored or log-normalised, and their baseline embeddings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from gpubench.core.errors import InputError, quoted, some_rows
from gpubench.core.machine import usable_cores
from gpubench.data._formats.anndata_store import AnnDataSource
from gpubench.data.alignment import take_rows
from gpubench.data.columns import as_text
from gpubench.data.matrices import FiniteCheck, WrappedRows, as_rows
from gpubench.data.read import open_source, reading_source

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_array, csr_matrix

    Block: TypeAlias = "NDArray[Any] | csr_matrix"
    "Rows of a matrix, CSR if it is stored sparse."

    Blocks: TypeAlias = Callable[[], Iterator[tuple[int, csr_array]]]
    "A function whose every call reads a matrix from top to bottom: (first row, rows)."

_BLOCK_VALUES = 1 << 24
"""Values of a block in dense form: 64 MiB in float32."""

_TILE = 512
_N_BINS = 20
_MIN_MEAN = 1e-12
_EDGE = 1e-3
"""Extension of the first bin below the smallest mean, as a share of the range of means."""


@dataclass(frozen=True, slots=True)
class Expression(WrappedRows):
    """An expression matrix, cells x genes; its blocks of rows can also be read as stored, dense or sparse.

    Attributes
    ----------
    cells, genes : names of the cells and genes; None if the source has none
    name : name of the matrix in messages
    """

    cells: list[str] | None
    genes: list[str] | None
    name: str

    def blocks(self) -> Iterator[tuple[int, Block]]:
        """Yield (index of the first row, rows as stored) for consecutive blocks of rows."""
        n, n_genes = self.shape
        step = max(1, _BLOCK_VALUES // n_genes)
        read = getattr(self.rows, "read_csr", self.read)
        for start in range(0, n, step):
            yield start, read(start, min(start + step, n))


def read_expression(source: Any, name: str = "data") -> Expression:
    """Open the expression matrix X of a source (see `open_source`), or a matrix; values are not read yet.

    Messages call the matrix `name`.
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
    """Return name -> position for the names of cells or genes; InputError if there are none, or one occurs twice.

    `what` is "cells" or "genes", `name` the matrix, both for messages.
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

    if block.dtype == np.float16:  # which SciPy has not
        block, copy = block.astype(np.float32), False
    rows = csr_array(block, copy=copy)
    if not (rows.has_canonical_format and rows.data.all()):
        rows = rows.copy()
        rows.sum_duplicates()
        rows.eliminate_zeros()
    return rows


def check_finite(check: FiniteCheck, block: Block | csr_array, start: int) -> bool:
    """Add rows `start`, `start` + 1, ... to a check; return whether all of their values are finite."""
    if isinstance(block, np.ndarray):
        check.add(block, start)
        return bool(np.isfinite(block).all())
    is_finite = bool(np.isfinite(block.data).all())
    if not is_finite:
        check.add(block.toarray(), start)
    return is_finite


@dataclass(frozen=True, slots=True)
class Depth:
    """Sequencing depth of each cell, and properties of the values of an expression matrix.

    Attributes
    ----------
    totals : (n,) float32, sum of the values of each cell
    target : median of the totals of nonempty cells; 1 if all cells are empty
    is_counts : whether every value is a whole number
    largest : largest value; 0 if the matrix has only zeros
    """

    totals: NDArray[np.float32]
    target: np.float32
    is_counts: bool
    largest: float


def measure_depth(expression: Expression) -> Depth:
    """Read a matrix once and return its `Depth`; InputError if values are NaN, infinite or negative."""
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
    """Yield (index of the first row, log(1 + x target / total)) for consecutive blocks of rows, in float32.

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


@dataclass(frozen=True, slots=True)
class Baseline(WrappedRows):
    """A baseline embedding, to compare other embeddings with.

    Attributes
    ----------
    note : deviations from the recipe of cz-benchmarks and their reasons; empty if there are none
    """

    note: str = ""


def pca_baseline(
    source: Any,
    *,
    n_top_genes: int = 3000,
    n_components: int = 50,
    threads: int | None = None,
    rows: NDArray[np.intp] | None = None,
) -> Baseline:
    """Compute principal components of the expression of highly variable genes, the baseline of cz-benchmarks.

    Counts are scaled to the median total and transformed to log(1 + x); the highly variable genes are selected, centred
    (not scaled), and projected on their first principal components. X is read in blocks of rows and stays sparse. The
    components are exact: they depend on no seed, and are bitwise equal for any number of threads.

    Parameters
    ----------
    source : path of an h5ad file or a zarr store, an AnnData, or a matrix of counts, cells x genes
    n_top_genes, n_components : numbers of highly variable genes and of components. If the data have fewer, all are
        used, and a note says so
    threads : number of CPU threads; if None, all that are available to this process
    rows : indices of the cells to use, in this order; if None, all cells

    Returns
    -------
    Baseline of (n, n_components) float32

    Raises
    ------
    InputError
        No X, NaN, infinite or negative values, no gene that varies.

    Examples
    --------
    >>> counts = np.random.default_rng(0).poisson(2.0, (100, 30))
    >>> pca_baseline(counts, n_components=5).shape
    (100, 5)
    """
    expression = _take(read_expression(source), rows)
    n = expression.shape[0]
    depth = measure_depth(expression)
    genes = highly_variable_genes(log_normalized(expression, depth), expression.shape, n_top_genes)
    if not len(genes):
        raise InputError(
            f"X of {expression.name}: no gene varies between cells; a PCA baseline needs expression counts"
        )

    def blocks() -> Iterator[tuple[int, csr_array]]:
        for start, block in log_normalized(expression, depth):
            yield start, block[:, genes]

    d = min(n_components, n - 1, len(genes))
    notes = []
    if not depth.is_counts:
        notes.append("X holds no raw counts but was normalised and logarithmised as if it did")
    if len(genes) < n_top_genes:
        notes.append(f"{len(genes):,} genes that vary, instead of {n_top_genes:,} highly variable ones")
    if d < n_components:
        notes.append(f"{d} components instead of {n_components}, for {n:,} cells and {len(genes):,} genes")
    return Baseline(principal_components(blocks, (n, len(genes)), d, threads), "; ".join(notes))


def expression_baseline(source: Any, *, rows: NDArray[np.intp] | None = None) -> Baseline:
    """Return the expression matrix X itself, the baseline of cz-benchmarks for label prediction.

    Parameters
    ----------
    source, rows : as in `pca_baseline`

    Raises
    ------
    InputError
        No X.

    Examples
    --------
    >>> expression_baseline(np.eye(3)).shape
    (3, 3)
    """
    return Baseline(_take(read_expression(source), rows).rows)


def _take(expression: Expression, rows: NDArray[np.intp] | None) -> Expression:
    """Return the given cells of an expression matrix; all cells if `rows` is None."""
    if rows is None:
        return expression
    cells = None if expression.cells is None else [expression.cells[row] for row in rows]
    return replace(expression, rows=take_rows(expression.rows, rows), cells=cells)


def highly_variable_genes(
    log_blocks: Iterable[tuple[int, csr_array]], shape: tuple[int, int], n_top: int
) -> NDArray[np.intp]:
    """Return the columns of the genes with the highest normalised dispersion, chosen as in Seurat; ascending.

    The dispersion of a gene is log(variance / mean) of its normalised counts. It is standardised by mean and standard
    deviation over the genes in the same bin, one of 20 of equal width in log(1 + mean); the only gene of a bin gets 1.
    Genes tied with the last of the `n_top` genes are chosen too; constant genes are never chosen.

    References
    ----------
    Satija et al. (2015), doi:10.1038/nbt.3192.
    """
    n, n_genes = shape
    sums, squares = np.zeros(n_genes), np.zeros(n_genes)
    for _, rows in log_blocks:
        counts = np.expm1(rows.data).astype(np.float64)
        sums += np.bincount(rows.indices, weights=counts, minlength=n_genes)
        squares += np.bincount(rows.indices, weights=counts**2, minlength=n_genes)
    means = sums / n
    variances = np.maximum(squares / n - means**2, 0) * (n / max(n - 1, 1))
    scores = normalized_dispersions(means, variances)
    ranked = np.sort(scores[~np.isnan(scores)])[::-1]
    if not len(ranked):
        return np.empty(0, np.intp)
    return np.flatnonzero(scores >= ranked[min(n_top, len(ranked)) - 1])


def normalized_dispersions(means: NDArray[np.float64], variances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standardise log(variance / mean) within bins of the mean; NaN where a gene does not vary."""
    with np.errstate(divide="ignore"):
        dispersions = np.log(variances / np.where(means == 0, _MIN_MEAN, means))
    dispersions[np.isneginf(dispersions)] = np.nan
    log_means = np.log1p(means)
    edges = np.linspace(log_means.min(), log_means.max(), _N_BINS + 1)
    edges[0] -= _EDGE * (edges[-1] - edges[0]) or _EDGE
    bins = np.searchsorted(edges, log_means, side="left")  # a bin includes its upper edge
    varies = ~np.isnan(dispersions)
    scores = np.full(len(means), np.nan)
    for which in np.unique(bins[varies]):
        genes = np.flatnonzero((bins == which) & varies)
        inside = dispersions[genes]
        if len(genes) == 1:
            scores[genes] = 1.0
        elif (spread := inside.std(ddof=1)) > 0:
            scores[genes] = (inside - inside.mean()) / spread
    return scores


def principal_components(
    blocks: Blocks, shape: tuple[int, int], n_components: int, threads: int | None = None
) -> NDArray[np.float32]:
    """Return the principal components of X: its centred rows, projected on the directions of largest variance.

    The directions are eigenvectors of X'X, or of XX' if there are fewer rows than columns, in float64. The largest
    loading of a component is positive.

    Parameters
    ----------
    blocks : function that yields the blocks of rows of X; X is read twice
    shape : shape (n, d) of X
    n_components : number of components; there are at most min(n - 1, d)
    threads : number of CPU threads, which does not change the result; if None, all available ones

    Returns
    -------
    (n, n_components) float32, components in order of decreasing variance
    """
    from threadpoolctl import threadpool_limits

    n, d = shape
    with threadpool_limits(1, user_api="blas"):  # more threads sum in another order
        if n < d:
            x = np.concatenate([rows.toarray() for _, rows in blocks()]).astype(np.float64)
            x -= x.mean(axis=0)
            directions = x.T @ _leading_eigenvectors(x @ x.T, n_components)
            lengths = np.linalg.norm(directions, axis=0)
            return np.asarray(x @ _signed(directions / np.where(lengths > 0, lengths, 1)), np.float32)
        means, products = _means_and_products(blocks, shape, threads or usable_cores())
        loadings = _signed(_leading_eigenvectors(products, n_components))
        components = np.empty((n, n_components), np.float32)
        for start, rows in blocks():
            components[start : start + rows.shape[0]] = rows @ loadings - means @ loadings
    return components


def _leading_eigenvectors(lower: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Return the eigenvectors of the k largest eigenvalues, largest first, of a matrix given by its lower triangle."""
    from scipy.linalg import eigh

    m = len(lower)
    _, vectors = eigh(lower, subset_by_index=(m - k, m - 1), driver="evr", overwrite_a=True)
    return np.asarray(vectors[:, ::-1])


def _signed(loadings: NDArray[np.float64]) -> NDArray[np.float64]:
    largest = np.take_along_axis(loadings, np.abs(loadings).argmax(axis=0)[None], axis=0)
    return np.where(largest < 0, -loadings, loadings)


def _means_and_products(
    blocks: Blocks, shape: tuple[int, int], threads: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the column means of X, and the lower triangle of X'X after X is centred."""
    n, d = shape
    sums, products = np.zeros(d), np.zeros((d, d))
    edges = range(0, d, _TILE)
    tiles = [(slice(i, i + _TILE), slice(j, j + _TILE)) for i in edges for j in edges if j <= i]
    with ThreadPoolExecutor(threads) as pool:
        for _, rows in blocks():
            x = rows.toarray().astype(np.float64)
            sums += x.sum(axis=0)
            for (i, j), product in zip(
                tiles, pool.map(lambda ij, x=x: x[:, ij[0]].T @ x[:, ij[1]], tiles), strict=True
            ):
                products[i, j] += product
    means = sums / n
    products -= np.outer(means, sums)
    return means, products

"""Baseline embeddings: PCA of the log-normalised expression of highly variable genes, and the expression itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from gpubench.core.errors import InputError
from gpubench.core.machine import usable_cores
from gpubench.data.expression.matrix import log_normalized, measure_depth, read_expression
from gpubench.data.matrices import WrappedRows

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_array

    Blocks: TypeAlias = Callable[[], Iterator[tuple[int, csr_array]]]
    "A function whose every call reads a matrix from top to bottom: (first row, rows)."

_TILE = 512
_N_BINS = 20
_MIN_MEAN = 1e-12
_EDGE = 1e-3
"""Extension of the first bin below the smallest mean, as a share of the range of means."""


@dataclass(frozen=True, slots=True)
class Baseline(WrappedRows):
    """A baseline embedding.

    Attributes
    ----------
    note : deviations from the recipe, with their reasons
    """

    note: str = ""


def pca_baseline(
    source: Any, *, n_top_genes: int = 3000, n_components: int = 50, threads: int | None = None
) -> Baseline:
    """Compute principal components of the expression of highly variable genes, the baseline of cz-benchmarks.

    Counts are scaled to the median total and transformed to log(1 + x); the highly variable genes are selected, centred
    (not scaled), and projected on their first principal components. X is read in blocks of rows and stays sparse. The
    components are exact: they depend on no seed, and are bitwise equal for any number of threads.

    Parameters
    ----------
    source : path of an h5ad file or a zarr store, an AnnData, or a matrix of counts, cells x genes
    n_top_genes, n_components : if there are fewer, these are used, and a note says so
    threads : CPU threads; None: all available to this process

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
    """Return X itself, the baseline of cz-benchmarks for label prediction.

    Parameters
    ----------
    source : as in `pca_baseline`

    Raises
    ------
    InputError
        No X.

    Examples
    --------
    >>> expression_baseline(np.eye(3)).shape
    (3, 3)
    """
    return Baseline(read_expression(source).rows)


def highly_variable_genes(
    log_blocks: Iterable[tuple[int, csr_array]], shape: tuple[int, int], n_top: int
) -> NDArray[np.intp]:
    """Choose the genes of highest normalised dispersion, as Seurat does.

    The dispersion of a gene is log(variance / mean) of its normalised counts. It is standardised by mean and standard
    deviation over the genes of its bin, one of 20 of equal width in log(1 + mean). A gene alone in its bin gets 1.

    Parameters
    ----------
    log_blocks : (first row, log(1 + normalised counts)) that together have `shape`
    shape : (cells, genes)
    n_top : number of genes to choose; genes tied with the last one are chosen too, constant genes never

    Returns
    -------
    Columns, ascending

    References
    ----------
    Satija et al. (2015), doi:10.1038/nbt.3192.
    """
    means, variances = _moments(log_blocks, shape)
    scores = normalized_dispersions(means, variances)
    ranked = np.sort(scores[~np.isnan(scores)])[::-1]
    if not len(ranked):
        return np.empty(0, np.intp)
    return np.flatnonzero(scores >= ranked[min(n_top, len(ranked)) - 1])


def _moments(
    log_blocks: Iterable[tuple[int, csr_array]], shape: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance (divisor n - 1) of each gene's normalised counts."""
    n, n_genes = shape
    sums, squares = np.zeros(n_genes), np.zeros(n_genes)
    for _, rows in log_blocks:
        counts = np.expm1(rows.data).astype(np.float64)
        sums += np.bincount(rows.indices, weights=counts, minlength=n_genes)
        squares += np.bincount(rows.indices, weights=counts**2, minlength=n_genes)
    means = sums / n
    return means, np.maximum(squares / n - means**2, 0) * (n / max(n - 1, 1))


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
    """Project the centred rows on the directions of largest variance.

    The directions are eigenvectors of X'X, or of XX' if there are fewer rows than columns, in float64. The largest
    loading of a component is positive.

    Parameters
    ----------
    blocks : reads X, twice
    shape : (n, d) of X
    n_components : at most min(n - 1, d)
    threads : CPU threads, which do not change the result; None: all available to this process

    Returns
    -------
    (n, n_components) float32, in order of decreasing variance
    """
    from threadpoolctl import threadpool_limits

    n, d = shape
    with threadpool_limits(1, user_api="blas"):  # more threads sum in another order
        if n < d:
            x = np.concatenate([rows.toarray() for _, rows in blocks()]).astype(np.float64)
            x -= x.mean(axis=0)
            return np.asarray(x @ _loadings_of_rows(x, n_components), np.float32)
        means, products = _means_and_products(blocks, shape, threads or usable_cores())
        loadings = _signed(_leading_eigenvectors(products, n_components))
        components = np.empty((n, n_components), np.float32)
        for start, rows in blocks():
            components[start : start + rows.shape[0]] = rows @ loadings - means @ loadings
    return components


def _loadings_of_rows(x: NDArray[np.float64], n_components: int) -> NDArray[np.float64]:
    directions = x.T @ _leading_eigenvectors(x @ x.T, n_components)
    lengths = np.linalg.norm(directions, axis=0)
    return _signed(directions / np.where(lengths > 0, lengths, 1))


def _leading_eigenvectors(lower: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Return the eigenvectors of the k largest eigenvalues of a symmetric matrix, largest first.

    Only its lower triangle is used.
    """
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
    """Return the column means, and the lower triangle of X'X of the centred X."""
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

"""Exact principal components of a sparse matrix that is read in blocks of rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_array

    Blocks: TypeAlias = Callable[[], Iterator[tuple[int, csr_array]]]
    "Reads a matrix from top to bottom, as often as it is called: (first row, rows)."

_TILE = 512


def principal_components(
    blocks: Blocks, shape: tuple[int, int], n_components: int, threads: int | None = None
) -> NDArray[np.float32]:
    """Project the centred rows on the directions of largest variance.

    Eigenvectors of X'X, or of XX' where there are fewer rows than columns, in float64. The largest loading of a
    component is positive.

    Parameters
    ----------
    blocks : reads X, twice
    shape : (n, d) of X
    n_components : at most min(n - 1, d)
    threads : CPU threads, which do not change a bit of the result; None: all that this process may use

    Returns
    -------
    (n, n_components) float32, in order of decreasing variance
    """
    from threadpoolctl import threadpool_limits

    n, d = shape
    with threadpool_limits(1, user_api="blas"):  # with more, BLAS sums in another order
        if n < d:
            x = np.concatenate([rows.toarray() for _, rows in blocks()]).astype(np.float64)
            x -= x.mean(axis=0)
            return np.asarray(x @ _loadings_of_rows(x, n_components), np.float32)
        means, products = _means_and_products(blocks, shape, threads or _usable_cores())
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
    """Eigenvectors of the k largest eigenvalues of a symmetric matrix, largest first, from its lower triangle."""
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
    """Column means, and X'X of the centred X, of which the lower triangle is filled."""
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


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

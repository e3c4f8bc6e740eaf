"""Components and diffusion maps of neighbour graphs, computed by SciPy on the host whatever the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.engines.common.blas import one_blas_thread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.core.types import Graph

MAX_DENSE_CELLS = 400
"""Cells up to which all eigenvectors are computed at once, which is as fast as computing the few that are needed."""


def strong_components(
    indptr: NDArray[np.integer], indices: NDArray[np.int32], codes: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Number the strongly connected components of a directed graph in which only equal codes are connected.

    Parameters
    ----------
    indptr, indices : (n + 1,) and (nnz,), the edges of each cell as CSR; edges between different codes are ignored
    codes : (n,) int32

    Returns
    -------
    (n,) int32 codes of the components
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    n = len(codes)
    sources = np.repeat(np.arange(n, dtype=np.int32), np.diff(indptr))
    inside = codes[sources] == codes[indices]
    starts = np.append(0, np.cumsum(np.bincount(sources[inside], minlength=n)))
    targets = indices[inside]
    directed = csr_array((np.ones(len(targets), np.float32), targets, starts), shape=(n, n))
    return np.asarray(connected_components(directed, connection="strong")[1], np.int32)


def diffusion_map(graph: Graph, cells: NDArray[np.int64], n_components: int, seed: int) -> NDArray[np.float32]:
    r"""Compute the diffusion components of the part of a graph that lies between some cells.

    With W the weights between these cells, q the sums of its rows and K = diag(1/q) W diag(1/q), of row sums z, the
    eigenvectors of diag(z)^(-1/2) K diag(z)^(-1/2) with the eigenvalues l of largest magnitude, each times
    l / (1 - l), so that the steps of a random walk of any length count. Vectors whose eigenvalue is 1 in float32,
    those of the connected components, are not rescaled.

    Parameters
    ----------
    graph : on the host
    cells : (m,) indices; each has an edge to another of them
    n_components : cut to m - 1
    seed : of the start vector of the eigensolver

    Returns
    -------
    (m, components) float32, C-contiguous; the sign of a component is arbitrary

    References
    ----------
    Coifman & Lafon (2006), doi:10.1016/j.acha.2006.04.006. Haghverdi et al. (2016), doi:10.1038/nmeth.3971.
    """
    from scipy.sparse import csr_array

    whole = csr_array((graph.weights, graph.indices, graph.indptr), shape=(graph.n, graph.n))
    part = whole[cells][:, cells]
    kernel = _scale(part, 1 / part.sum(axis=1))
    walk = _scale(kernel, 1 / np.sqrt(kernel.sum(axis=1)))
    with one_blas_thread():
        values, vectors = _leading_eigenvectors(walk, min(n_components, len(cells) - 1), seed)
    rounded = values.astype(np.float32)
    with np.errstate(divide="ignore"):
        factors = np.where(rounded == 1, 1.0, values / (1 - values))
    return np.ascontiguousarray(vectors * factors, dtype=np.float32)


def _scale(matrix: Any, factors: NDArray[np.float64]) -> Any:
    """Return diag(factors) matrix diag(factors)."""
    from scipy.sparse import diags_array

    return (diags_array(factors) @ matrix @ diags_array(factors)).tocsr()


def _leading_eigenvectors(matrix: Any, k: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the k eigenvalues of largest magnitude of a symmetric sparse matrix, and their vectors as columns."""
    from scipy.sparse.linalg import eigsh

    n = matrix.shape[0]
    if n > MAX_DENSE_CELLS and 2 * k < n:
        start = np.random.default_rng(seed).normal(size=n)
        values, vectors = eigsh(matrix, k=k, which="LM", v0=start)
        return values, vectors
    values, vectors = np.linalg.eigh(matrix.toarray())
    largest = np.argsort(-np.abs(values), kind="stable")[:k]
    return values[largest], vectors[:, largest]

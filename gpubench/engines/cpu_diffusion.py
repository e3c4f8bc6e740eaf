"""Components and diffusion maps of neighbour graphs on the host, by SciPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.engines.cpu_parallel import one_blas_thread
from gpubench.types import Graph, Knn

if TYPE_CHECKING:
    from numpy.typing import NDArray

DENSE_UP_TO = 400
"""Cells up to which all eigenvectors are found at once, which takes no longer than the few that are wanted."""


def strong_components(edges: Knn | Graph, codes: NDArray[np.int32]) -> NDArray[np.int32]:
    """Number the strongly connected components; see `Engine.strong_components`."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    n = len(codes)
    if isinstance(edges, Graph):
        sources = np.repeat(np.arange(n, dtype=np.int32), np.diff(edges.indptr))
        targets = edges.indices
    else:
        sources, targets = np.repeat(np.arange(n, dtype=np.int32), edges.k), edges.indices.ravel()
    inside = codes[sources] == codes[targets]
    indptr = np.append(0, np.cumsum(np.bincount(sources[inside], minlength=n)))
    kept = targets[inside]
    directed = csr_array((np.ones(len(kept), np.float32), kept, indptr), shape=(n, n))
    return np.asarray(connected_components(directed, connection="strong")[1], np.int32)


def diffusion_map(graph: Graph, cells: NDArray[np.int64], n_components: int, seed: int) -> NDArray[np.float32]:
    """Diffusion components of some cells; see `Engine.diffusion_map`."""
    from scipy.sparse import csr_array

    whole = csr_array((graph.weights, graph.indices, graph.indptr), shape=(graph.n, graph.n))
    part = whole[cells][:, cells]
    kernel = _scaled(part, 1 / part.sum(axis=1))
    walk = _scaled(kernel, 1 / np.sqrt(kernel.sum(axis=1)))
    with one_blas_thread():
        values, vectors = _leading_eigenvectors(walk, min(n_components, len(cells) - 1), seed)
    rounded = values.astype(np.float32)
    with np.errstate(divide="ignore"):
        factors = np.where(rounded == 1, 1.0, values / (1 - values))
    return np.ascontiguousarray(vectors * factors, dtype=np.float32)


def _scaled(matrix: Any, factors: NDArray[np.float64]) -> Any:
    """diag(factors) matrix diag(factors)."""
    from scipy.sparse import diags_array

    return (diags_array(factors) @ matrix @ diags_array(factors)).tocsr()


def _leading_eigenvectors(matrix: Any, n_wanted: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eigenvalues of largest magnitude of a symmetric sparse matrix, and their vectors as columns."""
    from scipy.sparse.linalg import eigsh

    n = matrix.shape[0]
    if n > DENSE_UP_TO and 2 * n_wanted < n:
        start = np.random.default_rng(seed).normal(size=n)
        values, vectors = eigsh(matrix, k=n_wanted, which="LM", v0=start)
        return values, vectors
    values, vectors = np.linalg.eigh(matrix.toarray())
    largest = np.argsort(-np.abs(values), kind="stable")[:n_wanted]
    return values[largest], vectors[:, largest]

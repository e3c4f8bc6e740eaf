"""Neighbour graphs on the CPU: UMAP's fuzzy connectivities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.types import Graph, Knn
from gpubench.engines.cpu.threads import one_blas_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from gpubench.engines.cpu.compiled import Tiles


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


def symmetrise(
    indices: NDArray[np.int32],
    memberships: NDArray[np.float64],
    tiles: Tiles | None,
    over_rows: Callable[[int, Callable[[int, int], None]], None],
) -> Graph:
    """Join the memberships of both directions, w + w' - w w', into one undirected graph.

    Parameters
    ----------
    over_rows : runs a function of a first and a last row over pieces of so many, on all threads
    """
    if tiles is None:
        return _symmetrise(indices, memberships)
    (n, k), rows = indices.shape, np.ascontiguousarray(indices)
    indptr = np.zeros(n + 1, np.int64)
    over_rows(n, lambda a, b: tiles.count_edges(rows, memberships, k, a, b, indptr[1:]))
    np.cumsum(indptr, out=indptr)
    columns, weights = np.empty(indptr[-1], np.int32), np.empty(indptr[-1])
    ends = indptr[:-1].copy()
    over_rows(n, lambda a, b: tiles.write_edges(rows, memberships, k, a, b, ends, columns, weights))
    # threads have written the edges of a cell in the order in which they came
    over_rows(n, lambda a, b: tiles.sort_edges(indptr, a, b, columns, weights))
    return Graph(indptr, columns, weights)


def _symmetrise(indices: NDArray[np.int32], memberships: NDArray[np.float64]) -> Graph:
    """The same with SciPy, in about four times the memory of the graph."""
    from scipy.sparse import csr_array

    n, k = indices.shape
    indptr = np.arange(0, n * k + 1, k, dtype=np.int64)
    directed = csr_array((memberships.ravel(), indices.ravel(), indptr), shape=(n, n))
    reverse = directed.T.tocsr()
    union = directed + reverse - directed * reverse
    union.eliminate_zeros()
    union.sort_indices()
    return Graph(union.indptr.astype(np.int64), union.indices.astype(np.int32), union.data)

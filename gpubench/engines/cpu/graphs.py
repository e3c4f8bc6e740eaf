"""Neighbour graphs on the CPU: UMAP's fuzzy connectivities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpubench.core.types import Graph

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from gpubench.engines.cpu.compiled import Tiles


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

"""Connectivity of the cells of each label in the neighbour graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.scores import Score
from gpubench.data import encode_labels
from gpubench.metrics._metric import BATCH, metric
from gpubench.metrics._neighborhoods import neighborhoods

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.base import Engine

NEIGHBORS = 15
"""Default number of cells in a neighbourhood, the cell itself included."""


@metric(
    "graph_connectivity",
    "Graph connectivity",
    needs=("label",),
    neighbors=lambda _: NEIGHBORS - 1,
    cost=None,
    scib=("Graph connectivity", BATCH),
)
def graph_connectivity(
    X: Any, labels: Any, *, n_neighbors: int | None = None, engine: Engine | str | None = None
) -> Score:
    r"""Compute the share of each label's cells in the largest component of its k-NN graph, averaged over labels.

    .. math:: \frac{1}{L} \sum_l \frac{|C_l|}{n_l}

    with n_l the number of cells of label l, and C_l the largest strongly connected component of the graph in which each
    cell of label l points to those of its nearest neighbours that also have label l.

    Parameters
    ----------
    X : (n, d) matrix of any kind, an `Embedding`, or a `Knn` on the engine
    labels : (n,) labels of any kind, none missing
    n_neighbors : number of cells in a neighbourhood, the cell itself included; reduced to n if larger. If None, 15, or
        all neighbours of a `Knn`
    engine : engine to compute on, or its name; if None, the best available one

    Returns
    -------
    Score
        In (0, 1]; 1 if the cells of every label are connected.

    Raises
    ------
    InputError
        `n_neighbors` below 2, missing labels, or an `X` that is not a matrix of finite numbers.

    References
    ----------
    Luecken et al. (2022), doi:10.1038/s41592-021-01336-8.

    Examples
    --------
    >>> import gpubench as gb
    >>> X, labels = [[0.0], [1.0], [8.0], [9.0]], ["B", "B", "T", "B"]
    >>> round(gb.metrics.graph_connectivity(X, labels, n_neighbors=2, engine="cpu"), 3)
    0.833
    """
    around = neighborhoods(X, n_neighbors, NEIGHBORS, engine)
    label = encode_labels(labels, "labels", around.n)
    indices = around.engine.to_host(around.knn.indices)
    parts = strong_components(np.arange(around.n + 1) * around.knn.k, indices.ravel(), label.codes)
    # a part lies in one label, so the first of its cells tells which
    _, first, sizes = np.unique(parts, return_index=True, return_counts=True)
    largest = np.zeros(label.n_classes)
    np.maximum.at(largest, label.codes[first], sizes)
    return around.score(float((largest / np.bincount(label.codes)).mean()))


def strong_components(
    indptr: NDArray[np.integer], indices: NDArray[np.int32], codes: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Return the strongly connected component of each node, (n,) int32, of a CSR graph.

    Edges between nodes of different `codes` are ignored.
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

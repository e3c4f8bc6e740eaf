"""Agreement of two clusterings, and the clusters of an embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.checkpoint import LABELS
from gpubench.data import encode_labels
from gpubench.engines import get_engine
from gpubench.engines.embedding import on_engine
from gpubench.errors import InputError
from gpubench.metrics._metric import metric
from gpubench.types import Graph, Labels, Score

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.base import Engine


@metric("adjusted_rand_index", "Adjusted Rand index", bounds=(-0.5, 1))
def adjusted_rand_index(labels_true: Any, labels_pred: Any, *, engine: Engine | str | None = None) -> Score:
    r"""Share of cell pairs on which two clusterings agree, corrected for chance.

    .. math:: ARI = \frac{\sum_{ij} \binom{n_{ij}}{2} - E}{\frac{1}{2} (A + B) - E}, \quad E = A B / \binom{n}{2}

    with A and B the numbers of pairs inside the classes and inside the clusters, from the contingency table in O(n).

    Parameters
    ----------
    labels_true, labels_pred : (n,) labels of any kind, none missing
    engine : where to count; None: the best that works here

    Returns
    -------
    Score
        1 where the clusterings are the same, 0 on average for random ones.

    Raises
    ------
    InputError
        Lengths that differ, or missing labels.

    References
    ----------
    Hubert & Arabie (1985), doi:10.1007/BF01908075.
    """
    counts = _contingency(labels_true, labels_pred, engine)
    n = int(counts.sum())
    # Python integers: at 13 million cells products of pair counts pass 2^63
    together = _pairs(counts.ravel())
    same_class, same_cluster = _pairs(counts.sum(axis=1)), _pairs(counts.sum(axis=0))
    only_class, only_cluster = same_class - together, same_cluster - together
    neither = n * (n - 1) // 2 - together - only_class - only_cluster
    if only_class == only_cluster == 0:
        return Score(1.0, n=n)
    value = (
        2
        * (together * neither - only_class * only_cluster)
        / ((together + only_class) * (only_class + neither) + (together + only_cluster) * (only_cluster + neither))
    )
    return Score(value, n=n)


@metric("normalized_mutual_info", "Normalised mutual information", bounds=(0, 1))
def normalized_mutual_info(labels_true: Any, labels_pred: Any, *, engine: Engine | str | None = None) -> Score:
    r"""Mutual information of two clusterings over the mean of their entropies.

    .. math:: NMI = \frac{2 I(U; V)}{H(U) + H(V)}

    Parameters
    ----------
    labels_true, labels_pred : (n,) labels of any kind, none missing
    engine : where to count; None: the best that works here

    Returns
    -------
    Score
        In [0, 1]; 1 where the clusterings are the same, also where both are a single cluster.

    Raises
    ------
    InputError
        Lengths that differ, or missing labels.

    References
    ----------
    Vinh, Epps & Bailey (2010), Journal of Machine Learning Research 11:2837.
    """
    counts = _contingency(labels_true, labels_pred, engine)
    n = int(counts.sum())
    if counts.shape == (1, 1):
        return Score(1.0, n=n)
    entropy_true, entropy_pred = _entropy(counts.sum(axis=1)), _entropy(counts.sum(axis=0))
    mutual = max(0.0, entropy_true + entropy_pred - _entropy(counts.ravel()))
    if min(counts.shape) == 1:
        return Score(0.0, n=n)
    return Score(min(1.0, 2 * mutual / (entropy_true + entropy_pred)), n=n)


def leiden_clusters(
    X: Any,
    *,
    n_neighbors: int = 15,
    resolution: float = 1.0,
    n_iterations: int = 2,
    engine: Engine | str | None = None,
) -> Labels:
    """Leiden clusters of an embedding, by modularity on UMAP's fuzzy neighbour graph.

    Parameters
    ----------
    X : (n, d) matrix of any kind, or an `Embedding`
    n_neighbors : neighbours in the graph, the cell itself counted, at least 2; cut to n
    resolution, n_iterations : of the Leiden algorithm
    engine : where to compute; None: the best that works here

    Returns
    -------
    Labels
        Cluster "0" is the largest.

    Raises
    ------
    InputError
        `n_neighbors` below 2, fewer than two cells, or a matrix that cannot be scored.

    References
    ----------
    Traag, Waltman & van Eck (2019), doi:10.1038/s41598-019-41695-z.
    """
    embedding = on_engine(X, engine)
    if n_neighbors < 2:
        raise InputError(f"n_neighbors={n_neighbors}: at least 2 are needed, the cell itself counted")
    engine = embedding.engine
    knn = embedding.knn(min(n_neighbors, embedding.n) - 1)

    def graph() -> Graph:
        with engine.timeline.stage("fuzzy_graph"):
            return engine.fuzzy_graph(knn)

    def find() -> Labels:
        codes = engine.leiden(graph(), resolution, n_iterations)  # nobody else holds it, for it is large
        return Labels(codes, tuple(map(str, range(int(codes.max()) + 1))), "leiden")

    return embedding.shared("leiden", find, LABELS, knn.k, resolution, n_iterations)


def _contingency(labels_true: Any, labels_pred: Any, engine: Engine | str | None) -> NDArray[np.int64]:
    true = encode_labels(labels_true, "labels_true")
    pred = encode_labels(labels_pred, "labels_pred", len(true))
    if engine is None or isinstance(engine, str):
        engine = get_engine(engine or "auto")
    return engine.contingency(true.codes, pred.codes, true.n_classes, pred.n_classes)


def _pairs(counts: NDArray[np.int64]) -> int:
    return sum(c * (c - 1) // 2 for c in counts.tolist() if c > 1)


def _entropy(counts: NDArray[np.int64]) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())

"""Do clusters found with the labels in view, by k-means or by Leiden at its best resolution, match the labels?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.checkpoint import LABELS, Codec, Part
from gpubench.data import encode_labels
from gpubench.engines.embedding import Embedding, fingerprint_of, on_engine
from gpubench.errors import InputError
from gpubench.metrics._checks import check_several
from gpubench.metrics._metric import Metric, metric
from gpubench.metrics._search import Neighborhoods, neighborhoods
from gpubench.metrics.clustering import adjusted_rand_index, normalized_mutual_info
from gpubench.types import Labels, Score

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.base import Engine

NEIGHBORS = 15
"""Cells in a neighbourhood of Leiden's graph, the cell itself counted."""

RESOLUTIONS = tuple(x / 5 for x in range(1, 11))
"""Those that Leiden's clusters are looked for at: 0.2, 0.4 ... 2."""


_CLUSTERS_AND_RESOLUTION: Codec[tuple[Labels, float]] = Codec(
    lambda found: Part([LABELS.pack(found[0]).value, found[1]], LABELS.pack(found[0]).arrays),
    lambda part: (LABELS.unpack(Part(part.value[0], part.arrays)), part.value[1]),
)


def kmeans_clusters(X: Any, n_clusters: int, *, engine: Engine | str | None = None) -> Labels:
    """k-means clusters of an embedding.

    Parameters
    ----------
    X : (n, d) matrix of any kind, or an `Embedding`
    n_clusters : how many, up to n
    engine : where to compute; None: the best that works here

    Returns
    -------
    Labels
        Cluster "0" is the largest. Fewer than `n_clusters` where cells are copies of each other.

    Raises
    ------
    InputError
        `n_clusters` not in 1 ... n, or a matrix that cannot be scored.

    References
    ----------
    Lloyd (1982), doi:10.1109/TIT.1982.1056489. Arthur & Vassilvitskii (2007), doi:10.5555/1283383.1283494.
    """
    embedding = on_engine(X, engine)
    if not 1 <= n_clusters <= embedding.n:
        raise InputError(f"n_clusters={n_clusters} is too few or too many for {embedding.n} cells; give 1 to that many")

    def find() -> Labels:
        return _by_size(embedding.engine.kmeans(embedding.x, n_clusters), "kmeans")

    return embedding.shared("kmeans", find, LABELS, n_clusters)


def best_leiden_clusters(
    X: Any, labels: Any, *, n_neighbors: int | None = None, engine: Engine | str | None = None
) -> tuple[Labels, float]:
    """Leiden clusters at that of ten resolutions, 0.2, 0.4 ... 2, at which they share most information with labels.

    Parameters
    ----------
    X : (n, d) matrix of any kind, an `Embedding`, or a `Knn` on the engine
    labels : (n,) labels of any kind, none missing
    n_neighbors : cells in a neighbourhood of the graph, the cell itself counted; cut to n. None: 15, or all of a `Knn`
    engine : where to compute; None: the best that works here

    Returns
    -------
    Labels, float
        The clusters, "0" being the largest, of the highest normalised mutual information, and their resolution; the
        smallest of equals.

    Raises
    ------
    InputError
        `n_neighbors` below 2, missing labels, or a matrix that cannot be scored.

    References
    ----------
    Traag, Waltman & van Eck (2019), doi:10.1038/s41598-019-41695-z.
    """
    around = neighborhoods(X, n_neighbors, NEIGHBORS, engine)
    return _best_leiden(X, around, encode_labels(labels, "labels", around.n))


def _best_leiden(X: Any, around: Neighborhoods, labels: Labels) -> tuple[Labels, float]:
    def find() -> tuple[Labels, float]:
        graph = around.engine.fuzzy_graph(around.knn)
        found = [(_by_size(around.engine.leiden(graph, r), "leiden"), r) for r in RESOLUTIONS]
        information = [normalized_mutual_info(labels, clusters, engine=around.engine) for clusters, _ in found]
        return found[int(np.argmax(information))]

    if isinstance(X, Embedding):
        return X.shared("best_leiden", find, _CLUSTERS_AND_RESOLUTION, around.n_neighbors, fingerprint_of(labels.codes))
    return find()


@metric("nmi_ari_cluster_labels_kmeans_nmi", "KMeans NMI", bounds=(0, 1))
def nmi_ari_cluster_labels_kmeans_nmi(X: Any, labels: Any, *, engine: Engine | str | None = None) -> Score:
    """Normalised mutual information of labels and as many k-means clusters.

    Parameters
    ----------
    X : (n, d) matrix of any kind, or an `Embedding`
    labels : (n,) labels of any kind, none missing
    engine : where to compute; None: the best that works here

    Returns
    -------
    Score
        In [0, 1]; 1 where the clusters are the labels.

    Raises
    ------
    InputError
        Fewer than two labels, missing labels, or a matrix that cannot be scored.

    Notes
    -----
    One start of k-means, drawn with the engine's seed; scib-metrics also has one, of other draws.
    """
    return _of_kmeans(normalized_mutual_info, X, labels, engine)


@metric("nmi_ari_cluster_labels_kmeans_ari", "KMeans ARI", bounds=(-0.5, 1))
def nmi_ari_cluster_labels_kmeans_ari(X: Any, labels: Any, *, engine: Engine | str | None = None) -> Score:
    """Adjusted Rand index of labels and as many k-means clusters.

    Parameters
    ----------
    X, labels, engine : as in `nmi_ari_cluster_labels_kmeans_nmi`

    Returns
    -------
    Score
        1 where the clusters are the labels, 0 on average for random ones.

    Raises
    ------
    InputError
        As `nmi_ari_cluster_labels_kmeans_nmi`.
    """
    return _of_kmeans(adjusted_rand_index, X, labels, engine)


@metric("nmi_ari_cluster_labels_leiden_nmi", "Leiden NMI", bounds=(0, 1))
def nmi_ari_cluster_labels_leiden_nmi(
    X: Any, labels: Any, *, n_neighbors: int | None = None, engine: Engine | str | None = None
) -> Score:
    """Normalised mutual information of labels and Leiden clusters, at that of ten resolutions where it is highest.

    Parameters
    ----------
    X, labels, n_neighbors, engine : as in `best_leiden_clusters`

    Returns
    -------
    Score
        In [0, 1]; 1 where the clusters are the labels.

    Raises
    ------
    InputError
        Fewer than two labels, and what `best_leiden_clusters` refuses.
    """
    return _of_leiden(normalized_mutual_info, X, labels, n_neighbors, engine)


@metric("nmi_ari_cluster_labels_leiden_ari", "Leiden ARI", bounds=(-0.5, 1))
def nmi_ari_cluster_labels_leiden_ari(
    X: Any, labels: Any, *, n_neighbors: int | None = None, engine: Engine | str | None = None
) -> Score:
    """Adjusted Rand index of labels and Leiden clusters, at that of ten resolutions where their NMI is highest.

    Parameters
    ----------
    X, labels, n_neighbors, engine : as in `best_leiden_clusters`

    Returns
    -------
    Score
        1 where the clusters are the labels, 0 on average for random ones.

    Raises
    ------
    InputError
        Fewer than two labels, and what `best_leiden_clusters` refuses.
    """
    return _of_leiden(adjusted_rand_index, X, labels, n_neighbors, engine)


def _of_kmeans(agreement: Metric[...], X: Any, labels: Any, engine: Engine | str | None) -> Score:
    embedding = on_engine(X, engine)
    label = encode_labels(labels, "labels", embedding.n)
    check_several(label)
    score = agreement(label, kmeans_clusters(embedding, label.n_classes), engine=embedding.engine)
    return Score(score, n=score.n, params={"n_clusters": label.n_classes})


def _of_leiden(
    agreement: Metric[...], X: Any, labels: Any, n_neighbors: int | None, engine: Engine | str | None
) -> Score:
    around = neighborhoods(X, n_neighbors, NEIGHBORS, engine)
    label = encode_labels(labels, "labels", around.n)
    check_several(label)
    clusters, resolution = _best_leiden(X, around, label)
    return around.score(agreement(label, clusters, engine=around.engine), resolution=resolution)


def _by_size(codes: NDArray[np.int32], key: str) -> Labels:
    """Clusters renumbered in order of decreasing size, the first of equals first; empty ones are forgotten."""
    present, dense, sizes = np.unique(codes, return_inverse=True, return_counts=True)
    rank = np.empty(len(present), np.int32)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(present), dtype=np.int32)
    return Labels(rank[dense], tuple(map(str, range(len(present)))), key)

"""Agreement of two clusterings, and the clusters of an embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.checkpoint import LABELS, CheckpointEntry, Codec
from gpubench.core.errors import InputError
from gpubench.core.scores import Score
from gpubench.core.types import Graph, Labels
from gpubench.data import encode_labels
from gpubench.engines.common.kmeans import kmeans
from gpubench.engines.embedding import Embedding, codes_fingerprint, on_engine
from gpubench.metrics._metric import BIO, Metric, check_several, contingency, metric
from gpubench.metrics._neighborhoods import Neighborhoods, neighborhoods

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.base import Engine


@metric("adjusted_rand_index", "Adjusted Rand index", bounds=(-0.5, 1))
def adjusted_rand_index(
    labels_true: Any,
    labels_pred: Any,
    *,
    engine: Engine | str | None = None,  # noqa: ARG001 - as in other metrics
) -> Score:
    r"""Compute the share of cell pairs on which two clusterings agree, corrected for chance.

    .. math:: ARI = \frac{\sum_{ij} \binom{n_{ij}}{2} - E}{\frac{1}{2} (A + B) - E}, \quad E = A B / \binom{n}{2}

    with n_ij the number of cells of class i in cluster j, and A and B the numbers of pairs of cells in the same class
    and in the same cluster. Computed from the contingency table in O(n).

    Parameters
    ----------
    labels_true, labels_pred : (n,) labels of any kind, none missing
    engine : not used; accepted as in other metrics

    Returns
    -------
    Score
        1 for identical clusterings, 0 on average for random ones.

    Raises
    ------
    InputError
        Arguments of different lengths, or missing labels.

    References
    ----------
    Hubert & Arabie (1985), doi:10.1007/BF01908075.

    Examples
    --------
    >>> import gpubench as gb
    >>> round(gb.metrics.adjusted_rand_index(["B", "B", "T", "T"], [0, 0, 1, 2]), 3)
    0.571
    """
    counts = _count_pairs(labels_true, labels_pred)
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


@metric("normalized_mutual_info", "Normalised mutual information")
def normalized_mutual_info(
    labels_true: Any,
    labels_pred: Any,
    *,
    engine: Engine | str | None = None,  # noqa: ARG001 - as in other metrics
) -> Score:
    r"""Compute the mutual information of two clusterings, divided by the mean of their entropies.

    .. math:: NMI = \frac{2 I(U; V)}{H(U) + H(V)}

    Parameters
    ----------
    labels_true, labels_pred : (n,) labels of any kind, none missing
    engine : not used; accepted as in other metrics

    Returns
    -------
    Score
        In [0, 1]; 1 for identical clusterings, including two that are a single cluster each.

    Raises
    ------
    InputError
        Arguments of different lengths, or missing labels.

    References
    ----------
    Vinh, Epps & Bailey (2010), Journal of Machine Learning Research 11:2837.

    Examples
    --------
    >>> import gpubench as gb
    >>> round(gb.metrics.normalized_mutual_info(["B", "B", "T", "T"], [0, 0, 1, 2]), 3)
    0.8
    """
    counts = _count_pairs(labels_true, labels_pred)
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
    """Find the Leiden clusters of an embedding, by modularity on UMAP's fuzzy neighbour graph.

    Parameters
    ----------
    X : (n, d) matrix of any kind, or an `Embedding`
    n_neighbors : number of neighbours in the graph, the cell itself included; at least 2, and reduced to n if larger
    resolution, n_iterations : parameters of the Leiden algorithm
    engine : engine to compute on, or its name; if None, the best available one

    Returns
    -------
    Labels
        The cluster of each cell; cluster "0" is the largest.

    Raises
    ------
    InputError
        `n_neighbors` below 2, fewer than two cells, or an `X` that is not a matrix of finite numbers.

    References
    ----------
    Traag, Waltman & van Eck (2019), doi:10.1038/s41598-019-41695-z.

    Examples
    --------
    >>> import gpubench as gb
    >>> X = [[0.0], [1.0], [2.0], [70.0], [71.0]]
    >>> gb.metrics.leiden_clusters(X, n_neighbors=2, engine="cpu").codes
    array([0, 0, 0, 1, 1], dtype=int32)
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
        codes = engine.leiden(graph(), resolution, n_iterations)  # not stored in a variable, since the graph is large
        return Labels(codes, tuple(map(str, range(int(codes.max()) + 1))), "leiden")

    return embedding.shared("leiden", find, LABELS, knn.k, resolution, n_iterations)


def _count_pairs(labels_true: Any, labels_pred: Any) -> NDArray[np.int64]:
    true = encode_labels(labels_true, "labels_true")
    pred = encode_labels(labels_pred, "labels_pred", len(true))
    return contingency(true.codes, pred.codes, true.n_classes, pred.n_classes)


def _pairs(counts: NDArray[np.int64]) -> int:
    return sum(c * (c - 1) // 2 for c in counts.tolist() if c > 1)


def _entropy(counts: NDArray[np.int64]) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


NEIGHBORS = 15
"""Default number of cells in a neighbourhood of the graph for Leiden, the cell itself included."""

RESOLUTIONS = tuple(x / 5 for x in range(1, 11))
"""Resolutions of Leiden that `best_leiden_clusters` tries: 0.2, 0.4 ... 2."""


_CLUSTERS_AND_RESOLUTION: Codec[tuple[Labels, float]] = Codec(
    lambda best: CheckpointEntry([LABELS.pack(best[0]).value, best[1]], LABELS.pack(best[0]).arrays),
    lambda entry: (LABELS.unpack(CheckpointEntry(entry.value[0], entry.arrays)), entry.value[1]),
)


def kmeans_clusters(X: Any, n_clusters: int, *, engine: Engine | str | None = None) -> Labels:
    """Find the k-means clusters of an embedding.

    Parameters
    ----------
    X : (n, d) matrix of any kind, or an `Embedding`
    n_clusters : number of clusters, from 1 to n
    engine : engine to compute on, or its name; if None, the best available one

    Returns
    -------
    Labels
        The cluster of each cell; cluster "0" is the largest. There are fewer than `n_clusters` if there are fewer
        distinct cells.

    Raises
    ------
    InputError
        `n_clusters` not in 1 ... n, or an `X` that is not a matrix of finite numbers.

    References
    ----------
    Lloyd (1982), doi:10.1109/TIT.1982.1056489. Arthur & Vassilvitskii (2007), doi:10.5555/1283383.1283494.

    Examples
    --------
    >>> import gpubench as gb
    >>> X = [[0.0], [1.0], [2.0], [70.0], [71.0]]
    >>> gb.metrics.kmeans_clusters(X, 2, engine="cpu").codes
    array([0, 0, 0, 1, 1], dtype=int32)
    """
    embedding = on_engine(X, engine)
    if not 1 <= n_clusters <= embedding.n:
        raise InputError(f"n_clusters={n_clusters} is too few or too many for {embedding.n} cells; give 1 to that many")

    def find() -> Labels:
        return _by_size(embedding.engine.run(kmeans, embedding.x, n_clusters), "kmeans")

    return embedding.shared("kmeans", find, LABELS, n_clusters)


def best_leiden_clusters(
    X: Any, labels: Any, *, n_neighbors: int | None = None, engine: Engine | str | None = None
) -> tuple[Labels, float]:
    """Find the Leiden clusters that agree best with labels, at one of the ten resolutions 0.2, 0.4 ... 2.

    Parameters
    ----------
    X : (n, d) matrix of any kind, an `Embedding`, or a `Knn` on the engine
    labels : (n,) labels of any kind, none missing
    n_neighbors : number of cells in a neighbourhood of the graph, the cell itself included; reduced to n if larger. If
        None, 15, or all neighbours of a `Knn`
    engine : engine to compute on, or its name; if None, the best available one

    Returns
    -------
    Labels, float
        The clusters with the highest normalised mutual information, of which "0" is the largest, and their resolution.
        If several resolutions are equally good, the smallest one.

    Raises
    ------
    InputError
        `n_neighbors` below 2, missing labels, or an `X` that is not a matrix of finite numbers.

    References
    ----------
    Traag, Waltman & van Eck (2019), doi:10.1038/s41598-019-41695-z.

    Examples
    --------
    >>> import gpubench as gb
    >>> X, labels = [[0.0], [1.0], [2.0], [70.0], [71.0]], ["B", "B", "B", "T", "T"]
    >>> clusters, resolution = gb.metrics.best_leiden_clusters(X, labels, n_neighbors=2, engine="cpu")
    >>> clusters.codes, resolution
    (array([0, 0, 0, 1, 1], dtype=int32), 0.2)
    """
    around = neighborhoods(X, n_neighbors, NEIGHBORS, engine)
    return _best_leiden(X, around, encode_labels(labels, "labels", around.n))


def _best_leiden(X: Any, around: Neighborhoods, labels: Labels) -> tuple[Labels, float]:
    def find() -> tuple[Labels, float]:
        graph = around.engine.fuzzy_graph(around.knn)
        candidates = [(_by_size(around.engine.leiden(graph, r), "leiden"), r) for r in RESOLUTIONS]
        information = [normalized_mutual_info(labels, clusters, engine=around.engine) for clusters, _ in candidates]
        return candidates[int(np.argmax(information))]

    if isinstance(X, Embedding):
        return X.shared(
            "best_leiden", find, _CLUSTERS_AND_RESOLUTION, around.n_neighbors, codes_fingerprint(labels.codes)
        )
    return find()


@metric("nmi_ari_cluster_labels_kmeans_nmi", "KMeans NMI", needs=("label",), scib=("KMeans NMI", BIO))
def nmi_ari_cluster_labels_kmeans_nmi(X: Any, labels: Any, *, engine: Engine | str | None = None) -> Score:
    """Compute the normalised mutual information of labels and as many k-means clusters as there are labels.

    Parameters
    ----------
    X : (n, d) matrix of any kind, or an `Embedding`
    labels : (n,) labels of any kind, none missing
    engine : engine to compute on, or its name; if None, the best available one

    Returns
    -------
    Score
        In [0, 1]; 1 if the clusters are identical to the labels.

    Raises
    ------
    InputError
        Fewer than two labels, missing labels, or an `X` that is not a matrix of finite numbers.

    Notes
    -----
    k-means is started once, from centres drawn with the engine's seed. scib-metrics also starts it once, from other
    random centres.

    Examples
    --------
    >>> import gpubench as gb
    >>> X, labels = [[0.0], [1.0], [8.0], [9.0]], ["B", "B", "T", "T"]
    >>> gb.metrics.nmi_ari_cluster_labels_kmeans_nmi(X, labels, engine="cpu")
    1.0
    """
    return _score_kmeans(normalized_mutual_info, X, labels, engine)


@metric("nmi_ari_cluster_labels_kmeans_ari", "KMeans ARI", bounds=(-0.5, 1), needs=("label",), scib=("KMeans ARI", BIO))
def nmi_ari_cluster_labels_kmeans_ari(X: Any, labels: Any, *, engine: Engine | str | None = None) -> Score:
    """Compute the adjusted Rand index of labels and as many k-means clusters as there are labels.

    Parameters
    ----------
    X, labels, engine : as in `nmi_ari_cluster_labels_kmeans_nmi`

    Returns
    -------
    Score
        1 if the clusters are identical to the labels, 0 on average for random ones.

    Raises
    ------
    InputError
        As `nmi_ari_cluster_labels_kmeans_nmi`.

    Examples
    --------
    >>> import gpubench as gb
    >>> X, labels = [[0.0], [1.0], [8.0], [9.0]], ["B", "B", "T", "T"]
    >>> gb.metrics.nmi_ari_cluster_labels_kmeans_ari(X, labels, engine="cpu")
    1.0
    """
    return _score_kmeans(adjusted_rand_index, X, labels, engine)


@metric(
    "nmi_ari_cluster_labels_leiden_nmi", "Leiden NMI", needs=("label",), neighbors=lambda _: NEIGHBORS - 1, cost=None
)
def nmi_ari_cluster_labels_leiden_nmi(
    X: Any, labels: Any, *, n_neighbors: int | None = None, engine: Engine | str | None = None
) -> Score:
    """Compute the normalised mutual information of labels and Leiden clusters, at the best of ten resolutions.

    Parameters
    ----------
    X, labels, n_neighbors, engine : as in `best_leiden_clusters`

    Returns
    -------
    Score
        In [0, 1]; 1 if the clusters are identical to the labels.

    Raises
    ------
    InputError
        Fewer than two labels, or an argument that `best_leiden_clusters` refuses.

    Examples
    --------
    >>> import gpubench as gb
    >>> X, labels = [[0.0], [1.0], [8.0], [9.0]], ["B", "B", "T", "T"]
    >>> gb.metrics.nmi_ari_cluster_labels_leiden_nmi(X, labels, n_neighbors=2, engine="cpu")
    1.0
    """
    return _score_leiden(normalized_mutual_info, X, labels, n_neighbors, engine)


@metric(
    "nmi_ari_cluster_labels_leiden_ari",
    "Leiden ARI",
    bounds=(-0.5, 1),
    needs=("label",),
    neighbors=lambda _: NEIGHBORS - 1,
    cost=None,
)
def nmi_ari_cluster_labels_leiden_ari(
    X: Any, labels: Any, *, n_neighbors: int | None = None, engine: Engine | str | None = None
) -> Score:
    """Compute the adjusted Rand index of labels and Leiden clusters, at that of ten resolutions with the best NMI.

    Parameters
    ----------
    X, labels, n_neighbors, engine : as in `best_leiden_clusters`

    Returns
    -------
    Score
        1 if the clusters are identical to the labels, 0 on average for random ones.

    Raises
    ------
    InputError
        Fewer than two labels, or an argument that `best_leiden_clusters` refuses.

    Examples
    --------
    >>> import gpubench as gb
    >>> X, labels = [[0.0], [1.0], [8.0], [9.0]], ["B", "B", "T", "T"]
    >>> gb.metrics.nmi_ari_cluster_labels_leiden_ari(X, labels, n_neighbors=2, engine="cpu")
    1.0
    """
    return _score_leiden(adjusted_rand_index, X, labels, n_neighbors, engine)


def _score_kmeans(agreement: Metric[...], X: Any, labels: Any, engine: Engine | str | None) -> Score:
    embedding = on_engine(X, engine)
    label = encode_labels(labels, "labels", embedding.n)
    check_several(label)
    score = agreement(label, kmeans_clusters(embedding, label.n_classes), engine=embedding.engine)
    return Score(score, n=score.n, params={"n_clusters": label.n_classes})


def _score_leiden(
    agreement: Metric[...], X: Any, labels: Any, n_neighbors: int | None, engine: Engine | str | None
) -> Score:
    around = neighborhoods(X, n_neighbors, NEIGHBORS, engine)
    label = encode_labels(labels, "labels", around.n)
    check_several(label)
    clusters, resolution = _best_leiden(X, around, label)
    return around.score(agreement(label, clusters, engine=around.engine), resolution=resolution)


def _by_size(codes: NDArray[np.int32], key: str) -> Labels:
    """Renumber clusters by decreasing size, without empty ones; equally large clusters keep their order."""
    present, dense, sizes = np.unique(codes, return_inverse=True, return_counts=True)
    rank = np.empty(len(present), np.int32)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(present), dtype=np.int32)
    return Labels(rank[dense], tuple(map(str, range(len(present)))), key)

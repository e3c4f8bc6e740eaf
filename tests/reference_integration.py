"""The oracle of the integration metrics, by their definitions in float64, as plainly as they can be written.

Like `reference`, on which it stands, it shares no code with gpubench.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from reference import (
    Floats,
    Ints,
    adjusted_rand_index,
    distances,
    fuzzy_graph,
    knn,
    nearest,
    normalized_mutual_info,
    silhouette_widths,
)
from scipy import stats

# Silhouettes


def mean_distances(x: ArrayLike, clusters: ArrayLike, metric: str = "euclidean") -> Floats:
    """Mean distance of each cell to the others of its cluster; NaN for a cell alone."""
    d, clusters = distances(x, x, metric), np.asarray(clusters)
    same = clusters[:, None] == clusters
    np.fill_diagonal(same, val=False)
    return np.array([row[mask].mean() if mask.any() else math.nan for row, mask in zip(d, same, strict=True)])


def isolated_labels(x: ArrayLike, labels: ArrayLike, batch: ArrayLike, iso_threshold: int | None = None) -> float:
    """Mean over the labels in few batches of the mean of (silhouette width + 1) / 2 over their cells."""
    labels, batch = np.asarray(labels), np.asarray(batch)
    widths = silhouette_widths(x, labels)
    n_batches = {label: len(np.unique(batch[labels == label])) for label in np.unique(labels)}
    most = min(n_batches.values()) if iso_threshold is None else iso_threshold
    label_means = [((widths[labels == label] + 1) / 2).mean() for label, count in n_batches.items() if count <= most]
    return float(np.mean(label_means)) if label_means else math.nan


def bras(x: ArrayLike, labels: ArrayLike, batch: ArrayLike, metric: str = "cosine") -> float:
    """Mean over labels of the mean of 1 - |(b - a) / max(a, b)|, b being the mean distance to all other batches."""
    x, labels, batch = np.asarray(x), np.asarray(labels), np.asarray(batch)
    label_means = []
    for label in np.unique(labels):
        inside = np.flatnonzero(labels == label)
        if not 1 < len(np.unique(batch[inside])) < len(inside):
            continue
        d, own = distances(x[inside], x[inside], metric), batch[inside]
        widths = np.zeros(len(inside))
        for i in range(len(inside)):
            mates, others = np.flatnonzero(own == own[i]), own != own[i]
            mates = mates[mates != i]
            if len(mates):
                a, b = d[i, mates].mean(), d[i, others].mean()
                widths[i] = (b - a) / max(a, b) if max(a, b) > 0 else 0.0
        label_means.append((1 - np.abs(widths)).mean())
    return float(np.mean(label_means)) if label_means else math.nan


# Local inverse Simpson's index


def perplexity_weights(d: ArrayLike, perplexity: float) -> Floats:
    """exp(-beta d) of one cell's distances, summing to 1, of entropy log(perplexity); or the limit nearest to that."""
    d = np.asarray(d, np.float64) - np.min(d)
    if perplexity >= len(d):
        return np.full(len(d), 1 / len(d))
    if (d == 0).sum() >= perplexity:
        return (d == 0) / (d == 0).sum()
    low, high, beta = 0.0, math.inf, 1.0
    w = np.exp(-beta * d)
    for _ in range(200):
        p = w / w.sum()
        if -(p[p > 0] * np.log(p[p > 0])).sum() > math.log(perplexity):
            low = beta
        else:
            high = beta
        beta = 2 * beta if math.isinf(high) else (low + high) / 2
        w = np.exp(-beta * d)
    return w / w.sum()


def neighbor_simpson(indices: ArrayLike, d: ArrayLike, codes: ArrayLike, perplexity: float) -> Floats:
    """sum_c (weight of the neighbours of code c)^2 of each cell."""
    codes = np.asarray(codes)
    values = []
    for neighbors, row in zip(np.asarray(indices), np.asarray(d), strict=True):
        w = perplexity_weights(row, perplexity)
        values.append(sum(w[codes[neighbors] == code].sum() ** 2 for code in np.unique(codes)))
    return np.array(values)


def lisi(x: ArrayLike, codes: ArrayLike, n_neighbors: int = 90, perplexity: float | None = None) -> Floats:
    """Inverse Simpson's index of each cell among the others of its neighbourhood."""
    used = min(n_neighbors, len(np.asarray(codes)))
    indices, d = knn(x, used - 1)
    return 1 / neighbor_simpson(indices, d, codes, used // 3 if perplexity is None else perplexity)


def ilisi(x: ArrayLike, codes: ArrayLike, n_neighbors: int = 90, perplexity: float | None = None) -> float:
    """(median LISI - 1) / (B - 1)."""
    return float(np.median(lisi(x, codes, n_neighbors, perplexity)) - 1) / (len(np.unique(codes)) - 1)


def clisi(x: ArrayLike, codes: ArrayLike, n_neighbors: int = 90, perplexity: float | None = None) -> float:
    """(L - median LISI) / (L - 1)."""
    n_codes = len(np.unique(codes))
    return float(n_codes - np.median(lisi(x, codes, n_neighbors, perplexity))) / (n_codes - 1)


# kBET


def neighbor_chi_square(indices: ArrayLike, codes: ArrayLike, shares: ArrayLike) -> Floats:
    """Pearson's statistic of each cell and its neighbours against the shares of the codes."""
    codes, shares, indices = np.asarray(codes), np.asarray(shares), np.asarray(indices)
    expected = shares * (indices.shape[1] + 1)
    observed = np.array([np.bincount(codes[[i, *row]], minlength=len(shares)) for i, row in enumerate(indices)])
    return np.asarray(((observed - expected) ** 2 / expected).sum(axis=1))


def acceptance(indices: ArrayLike, codes: ArrayLike, alpha: float) -> float:
    """Share of the neighbourhoods that the test does not reject."""
    codes = np.unique(codes, return_inverse=True)[1]
    shares = np.bincount(codes) / len(codes)
    p = stats.chi2.sf(neighbor_chi_square(indices, codes, shares), len(shares) - 1)
    return float((p >= alpha).mean())


def kbet(x: ArrayLike, batch: ArrayLike, alpha: float = 0.05, n_neighbors: int = 50) -> float:
    """Acceptance rate in the neighbourhoods of an embedding."""
    return acceptance(knn(x, min(n_neighbors, len(np.asarray(batch))) - 1)[0], batch, alpha)


def kbet_per_label(
    x: ArrayLike, batch: ArrayLike, labels: ArrayLike, alpha: float = 0.05, n_comps: int = 100, n_neighbors: int = 50
) -> float:
    """Mean over labels of the acceptance rate in the diffusion map of each label's part of the fuzzy graph."""
    batch, labels = np.asarray(batch), np.asarray(labels)
    w = fuzzy_graph(*knn(x, min(n_neighbors, len(batch)) - 1))
    label_means = []
    for label in np.unique(labels):
        inside = np.flatnonzero(labels == label)
        n_batches = len(np.unique(batch[inside]))
        if len(inside) < 10 or n_batches == 1:
            continue
        k = min(70, max(10, math.floor(len(inside) / n_batches / 4)))
        parts = strong_components(w[np.ix_(inside, inside)] > 0)
        if len(np.unique(parts)) > 1:
            large = np.bincount(parts)[parts] >= 3 * k
            if large.mean() < 0.75:
                label_means.append(0.0)
                continue
            inside = inside[large]
        diffused = diffusion_map(w[np.ix_(inside, inside)], n_comps)
        d = distances(diffused, diffused)
        np.fill_diagonal(d, np.inf)
        label_means.append(acceptance(nearest(d, min(k, len(inside) - 1))[0], batch[inside], alpha))
    return float(np.mean(label_means)) if label_means else math.nan


def diffusion_map(w: ArrayLike, n_components: int) -> Floats:
    """Eigenvectors of the normalised weights, each times l / (1 - l), or as they are where l is 1; dense weights."""
    w = np.asarray(w, np.float64)
    q = w.sum(axis=0)
    kernel = w / np.outer(q, q)
    z = np.sqrt(kernel.sum(axis=0))
    values, vectors = np.linalg.eigh(kernel / np.outer(z, z))
    largest = np.argsort(-np.abs(values))[: min(n_components, len(w) - 1)]
    values, vectors = values[largest], vectors[:, largest]
    is_one = np.abs(values - 1) < 2**-25
    return np.asarray(vectors * np.where(is_one, 1, values / np.where(is_one, 1, 1 - values)))


# Graphs


def strong_components(edges: ArrayLike) -> Ints:
    """Number the sets of cells that reach each other, from a dense matrix of edges, by following paths to their end."""
    reach = np.asarray(edges, bool) | np.eye(len(np.asarray(edges)), dtype=bool)
    while True:
        further = (reach.astype(np.float64) @ reach) > 0
        if (further == reach).all():
            break
        reach = further
    first = (reach & reach.T).argmax(axis=1)
    return np.unique(first, return_inverse=True)[1]


def edges_within(indices: ArrayLike, codes: ArrayLike) -> NDArray[np.bool_]:
    """Dense matrix of the edges from cells to those of their neighbours that have the same code."""
    codes = np.asarray(codes)
    edges = np.zeros((len(codes), len(codes)), bool)
    for i, neighbors in enumerate(np.asarray(indices)):
        edges[i, neighbors] = codes[neighbors] == codes[i]
    return edges


def graph_connectivity(x: ArrayLike, labels: ArrayLike, n_neighbors: int = 15) -> float:
    """Mean over labels of the share of their cells that are in their largest strongly connected component."""
    labels = np.asarray(labels)
    parts = strong_components(edges_within(knn(x, min(n_neighbors, len(labels)) - 1)[0], labels))
    return float(np.mean([np.bincount(parts[labels == c]).max() / (labels == c).sum() for c in np.unique(labels)]))


def far_apart(x: ArrayLike, n_neighbors: int = 15) -> Ints:
    """Groups of cells that no path through the neighbour graph joins."""
    indices, _ = knn(x, min(n_neighbors, len(np.asarray(x))) - 1)
    edges = edges_within(indices, np.zeros(len(indices), int))
    return strong_components(edges | edges.T)


def far_apart_agreement(agreement: Callable[..., float]) -> Callable[..., float]:
    """Agreement of labels with such groups, which are Leiden's clusters where each group is small and dense."""
    return lambda x, labels: agreement(labels, far_apart(x))


# k-means


def kmeans(x: ArrayLike, n_clusters: int) -> Ints:
    """Lloyd's steps from centres each of which is the cell farthest from those before it."""
    x = np.asarray(x, np.float64)
    centres = x[:1]
    while len(centres) < n_clusters:
        centres = np.vstack([centres, x[distances(x, centres).min(axis=1).argmax()]])
    codes = distances(x, centres).argmin(axis=1)
    while True:
        centres = np.array(
            [x[codes == c].mean(axis=0) if (codes == c).any() else centres[c] for c in range(n_clusters)]
        )
        again = distances(x, centres).argmin(axis=1)
        if (again == codes).all():
            return codes
        codes = again


def kmeans_agreement(agreement: Callable[..., float]) -> Callable[..., float]:
    """Agreement of labels with as many k-means clusters."""
    return lambda x, labels: agreement(labels, kmeans(x, len(np.unique(labels))))


KMEANS_NMI, KMEANS_ARI = kmeans_agreement(normalized_mutual_info), kmeans_agreement(adjusted_rand_index)
LEIDEN_NMI, LEIDEN_ARI = far_apart_agreement(normalized_mutual_info), far_apart_agreement(adjusted_rand_index)


# Principal component regression


def principal_component_regression(x: ArrayLike, covariate: ArrayLike, *, categorical: bool = True) -> float:
    """Mean R^2 of the principal components on the covariate, weighted by their variance."""
    x, covariate = np.asarray(x, np.float64), np.asarray(covariate)
    design = (covariate[:, None] == np.unique(covariate)).astype(float) if categorical else covariate[:, None]
    design = np.column_stack([np.ones(len(x)), design])
    u, s, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    if s[0] == 0:
        return math.nan
    components = u * s
    residual = components - design @ np.linalg.lstsq(design, components, rcond=None)[0]
    explained = (s**2 - (residual**2).sum(axis=0)).sum()
    return float(explained / (s**2).sum())


def pcr_comparison(pre: ArrayLike, post: ArrayLike, covariate: ArrayLike, *, categorical: bool = True) -> float:
    """Share of what the covariate explained before that it no longer explains, at least 0."""
    before = principal_component_regression(pre, covariate, categorical=categorical)
    after = principal_component_regression(post, covariate, categorical=categorical)
    return math.nan if before < 1e-12 else max(0.0, (before - after) / before)


# Aggregates


def mean_score(scores: ArrayLike) -> float:
    """Plain mean."""
    return math.fsum(np.asarray(scores)) / len(np.asarray(scores))


def total(bio: ArrayLike, batch: ArrayLike) -> float:
    """0.6 bio + 0.4 batch."""
    return 0.6 * mean_score(bio) + 0.4 * mean_score(batch)

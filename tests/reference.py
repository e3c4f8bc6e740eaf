"""The oracle: every operation and metric by its definition, in float64 NumPy, as plainly as it can be written.

Nothing here is fast, nothing is cut into blocks, and nothing of gpubench is imported: agreement with it means something
only while the two share no code. Functions take codes (integers 0 ... L - 1) and (n, d) arrays. Where a value is
undefined they return NaN.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


# Distances and neighbours


def distances(x: ArrayLike, y: ArrayLike, metric: str = "euclidean") -> Floats:
    """d_ij = |x_i - y_j|, or 1 - cos(x_i, y_j) where the cosine with a zero vector is 0; (m, n)."""
    x, y = np.ascontiguousarray(x, np.float64), np.ascontiguousarray(y, np.float64)
    if metric == "cosine":
        # 1 - cos = |u - v|^2 / 2 of unit vectors loses nothing where two cells point almost the same way.
        zero = ~x.any(axis=1)[:, None] | ~y.any(axis=1)
        return np.where(zero, 1, distances(_unit_rows(x), _unit_rows(y)) ** 2 / 2)
    # A sum over each row of its own: equal rows of y get equal bits, so ties stay ties.
    return np.array([np.sqrt(((y - row) ** 2).sum(axis=1)) for row in x]).reshape(len(x), len(y))


def _unit_rows(x: Floats) -> Floats:
    norm = np.sqrt((x**2).sum(axis=1, keepdims=True))
    return x / np.where(norm == 0, 1, norm)


def knn(x: ArrayLike, k: int) -> tuple[Ints, Floats]:
    """Indices and distances of the k nearest other cells, by (distance, index)."""
    d = distances(x, x)
    np.fill_diagonal(d, np.inf)
    return nearest(d, k)


def knn_between(queries: ArrayLike, x: ArrayLike, k: int) -> tuple[Ints, Floats]:
    """Indices and distances of the k rows of x nearest to each query, by (distance, index)."""
    return nearest(distances(queries, x), k)


def nearest(d: Floats, k: int) -> tuple[Ints, Floats]:
    """Columns and values of the k smallest entries of each row, by (value, column)."""
    indices = np.argsort(d, axis=1, kind="stable")[:, :k]
    return indices, np.take_along_axis(d, indices, axis=1)


# Silhouette, after Rousseeuw 1987


def nearest_in_other_folds(x: ArrayLike, folds: ArrayLike, n_votes: int) -> Ints:
    """The nearest cells of each cell in other folds; ties go to the first."""
    d, fold = distances(x, x), np.asarray(folds)
    d[fold[:, None] == fold] = np.inf
    return np.argsort(d, axis=1, kind="stable")[:, :n_votes]


def silhouette_widths(
    x: ArrayLike, clusters: ArrayLike, groups: ArrayLike | None = None, metric: str = "euclidean"
) -> Floats:
    """s = (b - a) / max(a, b) of each cell among the cells of its group; NaN in a group of one cluster."""
    x, clusters = np.asarray(x), np.asarray(clusters)
    groups = np.zeros(len(x), int) if groups is None else np.asarray(groups)
    widths = np.full(len(x), np.nan)
    for group in np.unique(groups):
        inside = np.flatnonzero(groups == group)
        widths[inside] = silhouette_widths_from(distances(x[inside], x[inside], metric), clusters[inside])
    return widths


def silhouette_widths_from(d: Floats, clusters: NDArray[np.integer]) -> Floats:
    """Silhouette widths of cells whose distances are d."""
    present, own, size = np.unique(clusters, return_inverse=True, return_counts=True)
    if len(present) == 1:
        return np.full(len(d), np.nan)
    np.fill_diagonal(d, 0)
    to_cluster = d @ np.eye(len(present))[own]  # (n, L) summed distances
    widths = np.zeros(len(d))
    for i, cluster in enumerate(own):
        if size[cluster] == 1:
            continue
        a = to_cluster[i, cluster] / (size[cluster] - 1)
        b = np.delete(to_cluster[i] / size, cluster).min()
        widths[i] = (b - a) / max(a, b) if max(a, b) > 0 else 0.0
    return widths


def silhouette_label(x: ArrayLike, labels: ArrayLike, metric: str = "euclidean") -> float:
    """(mean width + 1) / 2."""
    return float((silhouette_widths(x, labels, metric=metric).mean() + 1) / 2)


def silhouette_batch(x: ArrayLike, labels: ArrayLike, batch: ArrayLike, metric: str = "euclidean") -> float:
    """Mean over labels of the mean of 1 - |width of the batches| over the label's cells.

    Labels with one batch, or with as many batches as cells, are left out.
    """
    x, labels, batch = np.asarray(x), np.asarray(labels), np.asarray(batch)
    label_means = []
    for label in np.unique(labels):
        inside = labels == label
        if 1 < len(np.unique(batch[inside])) < inside.sum():
            label_means.append((1 - np.abs(silhouette_widths(x[inside], batch[inside], metric=metric))).mean())
    return float(np.mean(label_means)) if label_means else math.nan


# Neighbourhoods


def neighbor_entropy(indices: ArrayLike, codes: ArrayLike) -> Floats:
    """-sum_c p log p over each cell and its neighbours, in nats."""
    codes = np.asarray(codes)
    return np.array([entropy(codes[[i, *neighbors]]) for i, neighbors in enumerate(np.asarray(indices))])


def entropy(codes: ArrayLike) -> float:
    """-sum_c p_c log p_c, in nats."""
    p = np.unique(codes, return_counts=True)[1] / len(np.asarray(codes))
    return float(-(p * np.log(p)).sum())


def entropy_per_cell(x: ArrayLike, batch: ArrayLike, n_neighbors: int = 200) -> float:
    """Mean neighbourhood entropy over log B; the n_neighbors nearest count the cell itself and are cut to n."""
    n, n_batches = len(np.asarray(batch)), len(np.unique(batch))
    if n_batches == 1:
        return math.nan
    indices, _ = knn(x, min(n_neighbors, n) - 1)
    return float(neighbor_entropy(indices, batch).mean() / np.log(n_batches))


def neighbor_value_distance(indices: ArrayLike, values: ArrayLike, k_per_cell: ArrayLike | None = None) -> Floats:
    """Mean |t_i - t_j| over the first k_i neighbours j of each cell i."""
    indices, values = np.asarray(indices), np.asarray(values, np.float64)
    counts = np.full(len(values), indices.shape[1]) if k_per_cell is None else np.asarray(k_per_cell)
    rows = zip(values, indices, counts, strict=True)
    return np.array([np.abs(value - values[row[:k]]).mean() for value, row, k in rows])


def expected_distance(values: ArrayLike) -> float:
    """E |t_i - t_j| over i != j: the mean over all ordered pairs of two cells."""
    values = np.asarray(values, np.float64)
    n = len(values)
    return math.fsum(np.abs(value - values).sum() for value in values) / (n * (n - 1))


def adaptive_k(x: ArrayLike, k: int) -> Ints:
    """Neighbours that count for each cell: half of k where cells are dense, twice k where they are sparse.

    Density is the inverse of the distance to the m-th nearest cell, the cell itself being the first; it is scaled to
    [0, 1] between its 10th and 90th percentile. Halves round to even, and the result is clipped to
    [3, min(50, n // 2)], or is 3 where that is empty.
    """
    n = len(np.asarray(x))
    m = max(2, min(30, max(3 * k, n // 4), n - 1))
    density = 1 / (knn(x, m - 1)[1][:, -1] + 1e-10)
    low, high = np.percentile(density, [10, 90])
    scaled = np.clip((density - low) / (high - low + 1e-10), 0, 1)
    counts = np.rint(k * (0.5 + 1.5 * (1 - scaled))).astype(np.int64)
    most = min(50, n // 2)
    return np.full(n, 3) if most < 3 else np.clip(counts, 3, most)


def sequential_alignment(
    x: ArrayLike, time: ArrayLike, k: int = 10, normalize: bool = True, adaptive: bool = False
) -> float:
    """1 - mean |t_i - t_j| over neighbours / E |t_i - t_j| over all pairs, in [0, 1]; or the first mean itself."""
    time = np.asarray(time, np.float64)
    if len(np.unique(time)) == 1:
        return 1.0 if normalize else 0.0
    counts = adaptive_k(x, k) if adaptive else np.full(len(time), k)
    indices, _ = knn(x, int(counts.max()))
    mean = neighbor_value_distance(indices, time, counts).mean()
    return float(np.clip(1 - mean / expected_distance(time), 0, 1)) if normalize else float(mean)


# Graphs, after McInnes, Healy & Melville 2018 and Newman 2006

MIN_SIGMA_TO_MEAN_DISTANCE = 1e-3


def fuzzy_graph(indices: ArrayLike, knn_distances: ArrayLike) -> Floats:
    """UMAP's fuzzy simplicial set, dense (n, n): w_ij = exp(-(d_ij - rho_i) / sigma_i), then w + w' - w w'.

    rho_i is the smallest positive distance of i. sigma_i makes the k memberships sum to log2(k + 1), by bisection until
    float64 has nothing more to give, and is at least a thousandth of the mean distance over the k neighbours and the
    cell itself (over all cells where i has no positive distance).
    """
    indices, d = np.asarray(indices), np.asarray(knn_distances, np.float64)
    n, k = d.shape
    positive = np.where(d > 0, d, np.inf).min(axis=1)
    rho = np.where(np.isinf(positive), 0, positive)
    beyond = np.maximum(d - rho[:, None], 0)
    low, high, sigma = np.zeros(n), np.full(n, np.inf), np.ones(n)
    for _ in range(200):
        too_wide = np.exp(-beyond / sigma[:, None]).sum(axis=1) > np.log2(k + 1)
        high, low = np.where(too_wide, sigma, high), np.where(too_wide, low, sigma)
        sigma = np.where(np.isinf(high), 2 * sigma, (low + high) / 2)
    mean = np.where(rho > 0, d.sum(axis=1) / (k + 1), d.sum() / (n * (k + 1)))
    sigma = np.maximum(sigma, MIN_SIGMA_TO_MEAN_DISTANCE * mean)
    w = np.zeros((n, n))
    for i in range(n):
        w[i, indices[i]] = [1.0 if b == 0 else math.exp(-b / sigma[i]) for b in beyond[i]]
    return w + w.T - w * w.T


def modularity(weights: ArrayLike, codes: ArrayLike, resolution: float = 1.0) -> float:
    """Q = sum_ij (w_ij - gamma s_i s_j / 2m) [c_i = c_j] / 2m with strengths s and 2m = sum_ij w_ij; dense weights."""
    w, codes = np.asarray(weights, np.float64), np.asarray(codes)
    strength, total = w.sum(axis=1), w.sum()
    same = codes[:, None] == codes[None, :]
    return float(((w - resolution * np.outer(strength, strength) / total) * same).sum() / total)


# Two clusterings of the same cells


def contingency(rows: ArrayLike, columns: ArrayLike, n_rows: int, n_columns: int) -> Ints:
    """Cells of each pair of codes."""
    counts = np.zeros((n_rows, n_columns), np.int64)
    for row, column in zip(np.asarray(rows), np.asarray(columns), strict=True):
        counts[row, column] += 1
    return counts


def adjusted_rand_index(a: ArrayLike, b: ArrayLike) -> float:
    """Hubert & Arabie (1985) by counting all pairs of cells; 1 where the two agree on every pair."""
    a, b = np.asarray(a), np.asarray(b)
    pairs = np.triu_indices(len(a), 1)
    same_a, same_b = (a[:, None] == a)[pairs], (b[:, None] == b)[pairs]
    both, neither = int((same_a & same_b).sum()), int((~same_a & ~same_b).sum())
    only_a, only_b = int((same_a & ~same_b).sum()), int((~same_a & same_b).sum())
    if only_a == only_b == 0:
        return 1.0
    chance = (both + only_a) * (only_a + neither) + (both + only_b) * (only_b + neither)
    return 2 * (both * neither - only_a * only_b) / chance


def normalized_mutual_info(a: ArrayLike, b: ArrayLike) -> float:
    """I(a, b) / ((H(a) + H(b)) / 2); 1 where neither has any information."""
    a, b = (np.unique(codes, return_inverse=True)[1] for codes in (a, b))
    h_a, h_b = entropy(a), entropy(b)
    if h_a == h_b == 0:
        return 1.0
    h_joint = entropy(a * (b.max() + 1) + b)
    return (h_a + h_b - h_joint) / ((h_a + h_b) / 2)


# Numbers


def average_ranks(values: ArrayLike) -> Floats:
    """Rank of each value, from 1: the number of smaller values plus the middle of those that are equal."""
    values = np.asarray(values)
    return np.array([(values < v).sum() + ((values == v).sum() + 1) / 2 for v in values], np.float64)


def pearson_correlation(a: ArrayLike, b: ArrayLike) -> float:
    """Covariance over the product of standard deviations; NaN where one is constant."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if (a == a[0]).all() or (b == b[0]).all():
        return math.nan
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / math.sqrt((a**2).sum() * (b**2).sum()))


def spearman_correlation(a: ArrayLike, b: ArrayLike) -> float:
    """Pearson correlation of the average ranks."""
    return pearson_correlation(average_ranks(a), average_ranks(b))


def mean_squared_error(a: ArrayLike, b: ArrayLike) -> float:
    """Mean of (a - b)^2."""
    return float(((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2).mean())


def jaccard(a: set[str], b: set[str]) -> float:
    """|a and b| / |a or b|."""
    return len(a & b) / len(a | b)


def group_means(x: ArrayLike, codes: ArrayLike, n_groups: int) -> Floats:
    """Mean row of each group; NaN where a group is empty."""
    x, codes = np.asarray(x, np.float64), np.asarray(codes)
    present = set(codes.tolist())
    return np.array(
        [x[codes == g].mean(axis=0) if g in present else np.full(x.shape[1], np.nan) for g in range(n_groups)]
    )


def rank_sums(values: ArrayLike, groups: ArrayLike, n_groups: int, control: int) -> tuple[Floats, Ints]:
    """U of each group from the ranks of its cells among them and the controls, and the sum of t^3 - t of their ties."""
    values, groups = np.asarray(values), np.asarray(groups)
    u = np.zeros((n_groups, values.shape[1]))
    ties = np.zeros((n_groups, values.shape[1]), np.int64)
    for gene, column in enumerate(values.T):
        controls = column[groups == control]
        for g in range(n_groups):
            own = column[groups == g]
            ranks = average_ranks(np.concatenate([own, controls]))
            u[g, gene] = ranks[: len(own)].sum() - len(own) * (len(own) + 1) / 2
            pooled = controls if g == control else np.concatenate([own, controls])
            ties[g, gene] = sum(int(t) ** 3 - int(t) for t in np.unique(pooled, return_counts=True)[1])
    return u, ties


# Classification


def accuracy(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Share of cells whose class is right."""
    return float((np.asarray(truth) == np.asarray(predicted)).mean())


def precision_recall_f1(truth: ArrayLike, predicted: ArrayLike) -> tuple[float, float, float]:
    """Of the larger code where two occur, else the plain mean over the codes in either; 0 / 0 counts as 0."""
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    classes = np.unique(np.concatenate([truth, predicted]))
    positive = classes[1:] if len(classes) == 2 else classes
    class_scores = [_precision_recall_f1_of(c, truth, predicted) for c in positive]
    precision, recall, f1 = np.mean(class_scores, axis=0)
    return float(precision), float(recall), float(f1)


def _precision_recall_f1_of(c: int, truth: Ints, predicted: Ints) -> tuple[float, float, float]:
    right = int(((truth == c) & (predicted == c)).sum())
    called, actual = int((predicted == c).sum()), int((truth == c).sum())
    return right / max(called, 1), right / max(actual, 1), 2 * right / max(called + actual, 1)


def auroc(positive: ArrayLike, scores: ArrayLike) -> float:
    """Share of (positive, negative) pairs in which the positive scores higher; equal scores count half."""
    positive, scores = np.asarray(positive, bool), np.asarray(scores)
    gap = scores[positive][:, None] - scores[~positive][None, :]
    return float(((gap > 0) + 0.5 * (gap == 0)).mean()) if gap.size else math.nan


def auroc_macro(truth: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean over the classes of one class against the rest; of class 1 where there are two."""
    truth, probabilities = np.asarray(truth), np.asarray(probabilities)
    classes = [1] if probabilities.shape[1] == 2 else range(probabilities.shape[1])
    return float(np.mean([auroc(truth == c, probabilities[:, c]) for c in classes]))

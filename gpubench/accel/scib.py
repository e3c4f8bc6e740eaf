"""Patches of scib_metrics and of scikit-learn's silhouettes, which return the same numbers and types."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench import metrics
from gpubench.accel.calls import (
    Function,
    LocalName,
    NotCovered,
    Patch,
    Start,
    check_column,
    check_matrix,
    dispatcher,
    is_categorical,
)
from gpubench.accel.startup import collect_own_garbage
from gpubench.core.errors import InputError
from gpubench.core.types import Knn, Labels
from gpubench.data import encode_labels
from gpubench.data.offsets import without_large_offsets
from gpubench.metrics._metric import check_groups
from gpubench.metrics.silhouette import silhouette_widths

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.base import Distance, Engine


def _sklearn_samples(start: Start, X: Any, labels: Any, *, metric: Distance, kwds: dict[str, Any]) -> Any:
    import pandas as pd

    _check_distance(metric)
    if kwds:
        raise NotCovered(f"the parameters {', '.join(kwds)} of the distance")
    X = np.asarray(X) if isinstance(X, list | tuple | pd.DataFrame) else X
    check_matrix(X)
    check_column(labels, lists=True)
    dtype = X.dtype if X.dtype in (np.float32, np.float64) else np.float64
    # scikit-learn computes in the precision of X; float32 suffices once cells are centred, which leaves widths the same
    cells = X - X.mean(axis=0) if metric == "euclidean" and dtype == np.float64 else X
    return _widths(start(), cells, labels, metric).astype(dtype)


def _widths(engine: Engine, X: Any, labels: Any, metric: Distance) -> NDArray[np.floating[Any]]:
    encoded = encode_labels(labels, "labels", len(X))
    check_groups(encoded)
    return silhouette_widths(engine, engine.put(X), encoded.codes, metric=metric)


def _check_distance(metric: Any) -> None:
    if metric not in ("euclidean", "cosine"):
        raise NotCovered(f"metric={metric!r}; gpubench has 'euclidean' and 'cosine'")


def _silhouette_samples(
    start: Start, X: Any, labels: Any, chunk_size: int, metric: Distance, between_cluster_distances: str
) -> NDArray[np.float32]:
    _check_silhouette(X, labels, chunk_size, metric, between_cluster_distances)
    _check_categories(labels)
    return _widths(start(), X, labels, metric).astype(np.float32)


def _silhouette_label(
    start: Start, X: Any, labels: Any, rescale: bool, chunk_size: int, metric: Distance
) -> np.float32:
    _check_silhouette(X, labels, chunk_size, metric)
    _check_categories(labels)
    score = float(metrics.silhouette_label(X, labels, metric=metric, engine=start()))
    return np.float32(score if rescale else 2 * score - 1)


def _silhouette_batch(
    start: Start,
    X: Any,
    labels: Any,
    batch: Any,
    rescale: bool,
    chunk_size: int,
    metric: Distance,
    between_cluster_distances: str,
) -> np.float32:
    # a category without cells does not change the mean over all other batches, which BRAS takes
    is_bras = between_cluster_distances == "mean_other"
    _check_silhouette(X, labels, chunk_size, metric, "nearest" if is_bras else between_cluster_distances)
    check_column(batch, "batch")
    if is_bras:
        mixing = _defined(metrics.bras(X, labels, batch, metric=metric, engine=start()))
    else:
        mixing = _batch_mixing(start, X, labels, batch, metric)
    return np.float32(mixing if rescale else 1 - mixing)


def _bras(
    start: Start, X: Any, labels: Any, batch: Any, chunk_size: int, metric: Distance, between_cluster_distances: str
) -> np.float32:
    return _silhouette_batch(start, X, labels, batch, True, chunk_size, metric, between_cluster_distances)


def _batch_mixing(start: Start, X: Any, labels: Any, batch: Any, metric: Distance) -> float:
    label = encode_labels(labels, "labels", len(X))
    scored, skipping = _labels_of_batches(label, batch)
    if not scored.any():
        raise InputError("no label has two batches and more cells than batches")
    if not skipping.any():
        return float(metrics.silhouette_batch(X, labels, batch, metric=metric, engine=start()))
    dispatcher.warn_once(
        "scib_metrics.silhouette_batch",
        "some labels lack a category of batch; scib-metrics counts them as perfectly mixed, and so does gpubench in its"
        " place; give batch as strings for the score without",
    )
    mixed = float(skipping.sum())
    if (scored & ~skipping).any():
        rows = ~skipping[label.codes]
        score = metrics.silhouette_batch(
            X[rows], np.asarray(labels)[rows], np.asarray(batch)[rows], metric=metric, engine=start()
        )
        mixed += float(score) * (scored & ~skipping).sum()
    return float(mixed / scored.sum())


def _labels_of_batches(label: Labels, batch: Any) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return two (L,) masks of labels: those with batches to compare, and those of them that skip a category.

    A label skips a category of `batch` if it has no cell in that category but cells in a later one. scib-metrics
    computes NaN for the distance to such a category, and then takes 0 as the silhouette width of the label's cells.
    """
    import pandas as pd

    batches = encode_labels(batch, "batch", len(label))
    codes = pd.Categorical(batch).codes if is_categorical(batch) else batches.codes
    counts = np.zeros((label.n_classes, codes.max() + 1), np.int64)
    np.add.at(counts, (label.codes, codes), 1)
    n_batches = (counts > 0).sum(axis=1)
    scored = (n_batches > 1) & (n_batches < counts.sum(axis=1))
    last = counts.shape[1] - (counts[:, ::-1] > 0).argmax(axis=1)
    return scored, scored & (last > n_batches) & is_categorical(batch)


def _check_silhouette(X: Any, labels: Any, chunk_size: Any, metric: Any, between: Any = "nearest") -> None:
    check_matrix(X)
    check_column(labels)
    _check_distance(metric)
    if between != "nearest":
        raise NotCovered(f"between_cluster_distances={between!r}; gpubench has 'nearest'")
    if not isinstance(chunk_size, int) or chunk_size < 1:
        raise NotCovered(f"chunk_size={chunk_size!r}")
    if metric == "cosine" and not X.any(axis=1).all():  # NaN in scib-metrics
        raise NotCovered("cells at the origin have no cosine")


def _check_categories(labels: Any) -> None:
    """Raise `NotCovered` if a category without cells precedes one with cells."""
    import pandas as pd

    if is_categorical(labels):
        codes = pd.Categorical(labels).codes
        if len(np.unique(codes)) <= codes.max(initial=-1):
            raise NotCovered(
                "labels has categories without cells, which scib-metrics counts; drop them for the score without"
            )


def _defined(score: float) -> float:
    """Return a score as a float; raise `InputError` with the score's note if it is NaN."""
    if np.isnan(score):
        raise InputError(getattr(score, "note", "the score is undefined"))
    return float(score)


def _isolated_labels(
    start: Start, X: Any, labels: Any, batch: Any, rescale: bool, iso_threshold: int | None
) -> np.float32:
    check_matrix(X)
    check_column(labels)
    check_column(batch, "batch")
    if is_categorical(labels) or is_categorical(batch):
        raise NotCovered("categories, of which scib-metrics counts those without cells; give strings")
    score = _defined(metrics.isolated_labels(X, labels, batch, iso_threshold=iso_threshold, engine=start()))
    return np.float32(score if rescale else 2 * score - 1)


def _pcr_comparison(start: Start, X_pre: Any, X_post: Any, covariate: Any, scale: bool, kwargs: dict[str, Any]) -> Any:
    """Compare PC regression before and after integration; warn and return 0 for a negative score, as scib-metrics."""
    other = {name: value for name, value in kwargs.items() if name != "categorical" and value is not None}
    if other:
        raise NotCovered(f"the parameters {other}")
    check_matrix(X_pre, "X_pre")
    check_matrix(X_post, "X_post")
    check_column(covariate)
    engine, categorical = start(), kwargs.get("categorical", False)
    before, after = (
        _defined(metrics.principal_component_regression(X, covariate, categorical=categorical, engine=engine))
        for X in (X_pre, X_post)
    )
    if not scale:
        return after - before
    if before == 0:
        raise InputError("the covariate explains nothing of X_pre")
    if after > before:
        warnings.warn(
            "PCR comparison is negative: the covariate explains more after integration; it is 0", stacklevel=4
        )
        return 0
    return (before - after) / before


def _pynndescent(start: Start, X: Any, n_neighbors: int, random_state: int, n_jobs: int) -> Any:
    """Find nearest neighbours, each cell itself first; the search is exact up to a few hundred thousand cells."""
    from scib_metrics.nearest_neighbors import NeighborsResults

    check_matrix(X)
    if not 2 <= n_neighbors <= len(X):
        raise NotCovered(f"n_neighbors={n_neighbors} of {len(X):,} cells")
    engine = start(exact=False)
    knn = engine.knn(engine.put(without_large_offsets(X)), n_neighbors - 1)
    n = len(X)
    indices = np.column_stack([np.arange(n, dtype=np.int32), engine.to_host(knn.indices)])
    distances = np.column_stack([np.zeros(n, np.float32), engine.to_host(knn.distances)])
    return NeighborsResults(indices=indices, distances=distances)


def _lisi_knn(start: Start, X: Any, labels: Any, perplexity: float | None) -> NDArray[np.float32]:
    return _lisi(start, X, labels, perplexity)[0].astype(np.float32)


def _ilisi_knn(start: Start, X: Any, batches: Any, perplexity: float | None, scale: bool) -> np.float32:
    lisi, n_batches = _lisi(start, X, batches, perplexity)
    median = np.median(lisi)
    return np.float32((median - 1) / (n_batches - 1) if scale else median)


def _clisi_knn(start: Start, X: Any, labels: Any, perplexity: float | None, scale: bool) -> np.float32:
    lisi, n_labels = _lisi(start, X, labels, perplexity)
    median = np.median(lisi)
    return np.float32((n_labels - median) / (n_labels - 1) if scale else median)


def _lisi(start: Start, X: Any, labels: Any, perplexity: float | None) -> tuple[NDArray[np.float64], int]:
    """Return the LISI of each cell and the number of labels; by default the perplexity is a third of k."""
    _check_neighbors(X, self_needed=False)  # LISI ignores the cell itself among its neighbours
    n_labels = _count_labels(labels)
    engine = start()
    used = X.indices.shape[1] // 3 if perplexity is None else float(perplexity)
    return metrics.lisi_knn(_to_knn(engine, X), labels, perplexity=used, engine=engine), n_labels


def _kbet(
    start: Start, X: Any, batches: Any, alpha: float
) -> tuple[np.float64, NDArray[np.float32], NDArray[np.float32]]:
    """Return the acceptance rate of kBET, and the chi-square statistic and p-value of each cell."""
    _check_neighbors(X)  # kBET counts a cell among its own neighbours
    _count_labels(batches, "batches")
    engine = start()
    tests = metrics.kbet_tests(_to_knn(engine, X), batches, engine=engine)
    p_values = tests.p_values.astype(np.float32)
    return (p_values >= alpha).mean(), tests.statistics.astype(np.float32), p_values


def _kbet_per_label(
    start: Start, X: Any, batches: Any, labels: Any, alpha: float, diffusion_n_comps: int, return_df: bool
) -> Any:
    import pandas as pd

    _check_neighbors(X)
    _count_labels(batches, "batches")
    check_column(labels)
    engine = start()
    values, codes = np.unique(np.asarray(labels), return_inverse=True)
    label = Labels(codes.astype(np.int32), tuple(map(str, values)), "labels")
    if np.bincount(codes).min() <= diffusion_n_comps:
        dispatcher.warn_once(
            "scib_metrics.kbet_per_label",
            f"a label has no more than {diffusion_n_comps} cells; scib-metrics takes fewer diffusion components for all"
            " labels after it, gpubench for that label alone",
        )
    scores = metrics.kbet_of_labels(
        _to_knn(engine, X), batches, label, alpha=alpha, diffusion_n_comps=diffusion_n_comps, engine=engine
    )
    table = pd.DataFrame({"cluster": values, "kBET": [float(score) for score in scores.values()]})
    mean = np.nanmean(table["kBET"])
    return (mean, table) if return_df else mean


def _graph_connectivity(start: Start, X: Any, labels: Any) -> np.float64:
    _check_neighbors(X, self_needed=False)  # a loop connects nothing
    check_column(labels)
    engine = start()
    return np.float64(metrics.graph_connectivity(_to_knn(engine, X), labels, engine=engine))


def _nmi_ari_leiden(
    start: Start, X: Any, labels: Any, optimize_resolution: bool, resolution: float, n_jobs: int, seed: int
) -> dict[str, Any]:
    """Return NMI and ARI of labels and Leiden clusters, at the best resolution or at the given one."""
    if not isinstance(seed, int):
        raise NotCovered(f"seed={seed!r}; gpubench needs a number")
    _check_neighbors(X)  # UMAP's graph counts a cell among its own neighbours
    check_column(labels)
    engine = start(seed=seed)
    knn = _to_knn(engine, X)
    if optimize_resolution:
        clusters: Any = metrics.best_leiden_clusters(knn, labels, engine=engine)[0]
        return {name: np.float64(value) for name, value in _agreement(engine, labels, clusters).items()}
    return _agreement(engine, labels, engine.leiden(engine.fuzzy_graph(knn), resolution))


def _nmi_ari_kmeans(start: Start, X: Any, labels: Any) -> dict[str, Any]:
    """Return NMI and ARI of labels and k-means clusters, with as many clusters as labels."""
    check_matrix(X)
    n_clusters = _count_labels(labels)
    engine = start()
    return _agreement(engine, labels, metrics.kmeans_clusters(X, n_clusters, engine=engine))


def _agreement(engine: Engine, labels: Any, clusters: Any) -> dict[str, Any]:
    return {
        "nmi": float(metrics.normalized_mutual_info(labels, clusters, engine=engine)),
        "ari": float(metrics.adjusted_rand_index(labels, clusters, engine=engine)),
    }


def _count_labels(labels: Any, name: str = "labels") -> int:
    """Return the number of distinct values of a column; raise `NotCovered` for fewer than two."""
    check_column(labels, name)
    n_labels = len(np.unique(labels))
    if n_labels < 2:
        raise NotCovered(f"{name} has one value")
    return n_labels


def _check_neighbors(X: Any, *, self_needed: bool = True) -> None:
    indices, distances = getattr(X, "indices", None), getattr(X, "distances", None)
    if not isinstance(indices, np.ndarray) or not isinstance(distances, np.ndarray) or indices.ndim != 2:
        raise NotCovered(f"X is a {type(X).__name__} without arrays of neighbours")
    n, k = indices.shape
    if k < 3 or indices.dtype.kind not in "iu" or indices.min() < 0 or indices.max() >= n:
        raise NotCovered("X lacks neighbours")
    times = (indices == np.arange(n)[:, None]).sum(axis=1)
    if (times != 1).any() and (self_needed or times.any()):
        raise NotCovered("a cell is not once among its own neighbours")


def _to_knn(engine: Engine, X: Any) -> Knn:
    """Convert scib-metrics' neighbours to a graph on the engine: by ascending distance, without the cell itself."""
    n, k = X.indices.shape
    others = X.indices != np.arange(n)[:, None]
    n_others = k - 1 if not others.all() else k
    indices, distances = X.indices[others].reshape(n, n_others), X.distances[others].reshape(n, n_others)
    if (np.diff(distances, axis=1) < 0).any():
        order = np.argsort(distances, axis=1, kind="stable")
        indices, distances = np.take_along_axis(indices, order, 1), np.take_along_axis(distances, order, 1)
    xp = engine.xp
    return Knn(xp.asarray(indices, dtype=np.int32), xp.asarray(distances, dtype=np.float32))


def _patch(module: str, attribute: str, ours: Function, package: str = "scib_metrics") -> Patch:
    """Return a patch of `module`.`attribute`, which is reported under its public name `package`.`attribute`."""
    return Patch(module, attribute, ours, f"{package}.{attribute}")


SKLEARN_PATCHES = (
    # which silhouette_score calls
    _patch("sklearn.metrics.cluster._unsupervised", "silhouette_samples", _sklearn_samples, "sklearn.metrics"),
)
# czbenchmarks uses these as well
SILHOUETTE_PATCHES = (
    _patch("scib_metrics.utils._silhouette", "silhouette_samples", _silhouette_samples, "scib_metrics.utils"),
    _patch("scib_metrics.metrics._silhouette", "silhouette_label", _silhouette_label),
    _patch("scib_metrics.metrics._silhouette", "silhouette_batch", _silhouette_batch),
)
PATCHES = (
    *SILHOUETTE_PATCHES,
    _patch(
        "scib_metrics.nearest_neighbors._pynndescent", "pynndescent", _pynndescent, "scib_metrics.nearest_neighbors"
    ),
    _patch("scib_metrics.metrics._silhouette", "bras", _bras),
    _patch("scib_metrics.metrics._isolated_labels", "isolated_labels", _isolated_labels),
    _patch("scib_metrics.metrics._lisi", "lisi_knn", _lisi_knn),
    _patch("scib_metrics.metrics._lisi", "ilisi_knn", _ilisi_knn),
    _patch("scib_metrics.metrics._lisi", "clisi_knn", _clisi_knn),
    _patch("scib_metrics.metrics._kbet", "kbet", _kbet),
    _patch("scib_metrics.metrics._kbet", "kbet_per_label", _kbet_per_label),
    _patch("scib_metrics.metrics._graph_connectivity", "graph_connectivity", _graph_connectivity),
    _patch("scib_metrics.metrics._nmi_ari", "nmi_ari_cluster_labels_leiden", _nmi_ari_leiden),
    _patch("scib_metrics.metrics._nmi_ari", "nmi_ari_cluster_labels_kmeans", _nmi_ari_kmeans),
    _patch("scib_metrics.metrics._pcr_comparison", "pcr_comparison", _pcr_comparison),
    LocalName("scib_metrics.benchmark._core", "Benchmarker.prepare", collect_own_garbage),
    LocalName("scib_metrics.benchmark._core", "Benchmarker.benchmark", collect_own_garbage),
)

"""scib_metrics, apart from its silhouettes, with the numbers and types of the originals."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench import metrics
from gpubench.accel._inputs import column_reason, first_reason, is_categorical, matrix_reason
from gpubench.accel.calls import Function, Start, dispatcher
from gpubench.accel.patching import LocalName, Patch
from gpubench.accel.silhouettes import BRAS_PATCH, defined
from gpubench.accel.startup import collect_own_garbage
from gpubench.core.errors import InputError
from gpubench.core.types import Knn, Labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.base import Engine


def _isolated_labels(
    start: Start, X: Any, labels: Any, batch: Any, rescale: bool, iso_threshold: int | None
) -> np.float32:
    score = defined(metrics.isolated_labels(X, labels, batch, iso_threshold=iso_threshold, engine=start()))
    return np.float32(score if rescale else 2 * score - 1)


def _covers_isolated(X: Any, labels: Any, batch: Any) -> str | None:
    reason = first_reason(matrix_reason(X), column_reason(labels), column_reason(batch, "batch"))
    if reason is None and any(is_categorical(column) for column in (labels, batch)):
        return "categories, of which scib-metrics counts those without cells; give strings"
    return reason


def _pcr_comparison(start: Start, X_pre: Any, X_post: Any, covariate: Any, scale: bool, kwargs: dict[str, Any]) -> Any:
    """Warn and return 0 where the score is below 0, as scib-metrics does."""
    engine, categorical = start(), kwargs.get("categorical", False)
    before, after = (
        defined(metrics.principal_component_regression(X, covariate, categorical=categorical, engine=engine))
        for X in (X_pre, X_post)
    )
    if not scale:
        return after - before
    if before == 0:
        raise InputError("the covariate explains nothing of X_pre")
    if after > before:
        warnings.warn(
            "PCR comparison is negative: the covariate explains more after integration; it is 0", stacklevel=5
        )
        return 0
    return (before - after) / before


def _covers_pcr(X_pre: Any, X_post: Any, covariate: Any, kwargs: dict[str, Any]) -> str | None:
    other = {name: value for name, value in kwargs.items() if name != "categorical" and value is not None}
    if other:
        return f"the parameters {other}"
    return first_reason(matrix_reason(X_pre, "X_pre"), matrix_reason(X_post, "X_post"), column_reason(covariate))


def _pynndescent(start: Start, X: Any, n_neighbors: int, random_state: int, n_jobs: int) -> Any:
    """Find neighbours, exactly up to a few hundred thousand cells; each cell comes first among its own."""
    from scib_metrics.nearest_neighbors import NeighborsResults

    engine = start(exact=False)
    knn = engine.knn(engine.put(X), n_neighbors - 1)
    n = len(X)
    indices = np.column_stack([np.arange(n, dtype=np.int32), engine.to_host(knn.indices)])
    distances = np.column_stack([np.zeros(n, np.float32), engine.to_host(knn.distances)])
    return NeighborsResults(indices=indices, distances=distances)


def _covers_pynndescent(X: Any, n_neighbors: Any) -> str | None:
    reason = matrix_reason(X)
    if reason is None and not 2 <= n_neighbors <= len(X):
        return f"n_neighbors={n_neighbors} of {len(X):,} cells"
    return reason


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
    """Return the index of each cell, and the number of labels; the default perplexity is a third of the columns."""
    engine = start()
    used = X.indices.shape[1] // 3 if perplexity is None else float(perplexity)
    lisi = metrics.lisi_knn(_to_knn(engine, X), labels, perplexity=used, engine=engine)
    return lisi, len(np.unique(labels))


def _covers_lisi(X: Any, labels: Any) -> str | None:
    # LISI ignores the cell itself among its neighbours
    return first_reason(_neighbors_reason(X, self_needed=False), _several_reason(labels, "labels"))


def _covers_ilisi(X: Any, batches: Any) -> str | None:
    return _covers_lisi(X, batches)


def _kbet(
    start: Start, X: Any, batches: Any, alpha: float
) -> tuple[np.float64, NDArray[np.float32], NDArray[np.float32]]:
    """Return the acceptance rate, the statistics and the p-values."""
    engine = start()
    tests = metrics.kbet_tests(_to_knn(engine, X), batches, engine=engine)
    p_values = tests.p_values.astype(np.float32)
    return (p_values >= alpha).mean(), tests.statistics.astype(np.float32), p_values


def _covers_kbet(X: Any, batches: Any) -> str | None:
    # kBET counts a cell among its own neighbours
    return first_reason(_neighbors_reason(X), _several_reason(batches, "batches"))


def _kbet_per_label(
    start: Start, X: Any, batches: Any, labels: Any, alpha: float, diffusion_n_comps: int, return_df: bool
) -> Any:
    import pandas as pd

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


def _covers_kbet_per_label(X: Any, batches: Any, labels: Any) -> str | None:
    return first_reason(_covers_kbet(X, batches), column_reason(labels))


def _graph_connectivity(start: Start, X: Any, labels: Any) -> np.float64:
    engine = start()
    return np.float64(metrics.graph_connectivity(_to_knn(engine, X), labels, engine=engine))


def _covers_connectivity(X: Any, labels: Any) -> str | None:
    # a loop connects nothing, so the cell itself may be among its neighbours or not
    return first_reason(_neighbors_reason(X, self_needed=False), column_reason(labels))


def _nmi_ari_leiden(
    start: Start, X: Any, labels: Any, optimize_resolution: bool, resolution: float, n_jobs: int, seed: int
) -> dict[str, Any]:
    """Return the agreement with the clusters of the best resolution, or of the given one."""
    engine = start(seed=seed)
    knn = _to_knn(engine, X)
    if optimize_resolution:
        clusters: Any = metrics.best_leiden_clusters(knn, labels, engine=engine)[0]
        return {name: np.float64(value) for name, value in _agreement(engine, labels, clusters).items()}
    return _agreement(engine, labels, engine.leiden(engine.fuzzy_graph(knn), resolution))


def _covers_leiden(X: Any, labels: Any, seed: Any) -> str | None:
    if not isinstance(seed, int):
        return f"seed={seed!r}; gpubench needs a number"
    # UMAP's graph counts a cell among its own neighbours
    return first_reason(_neighbors_reason(X), column_reason(labels))


def _nmi_ari_kmeans(start: Start, X: Any, labels: Any) -> dict[str, Any]:
    """Return the agreement with as many k-means clusters as there are labels."""
    engine = start()
    n_clusters = len(np.unique(labels))
    return _agreement(engine, labels, metrics.kmeans_clusters(X, n_clusters, engine=engine))


def _covers_kmeans(X: Any, labels: Any) -> str | None:
    return first_reason(matrix_reason(X), _several_reason(labels, "labels"))


def _agreement(engine: Engine, labels: Any, clusters: Any) -> dict[str, Any]:
    return {
        "nmi": float(metrics.normalized_mutual_info(labels, clusters, engine=engine)),
        "ari": float(metrics.adjusted_rand_index(labels, clusters, engine=engine)),
    }


def _several_reason(labels: Any, name: str) -> str | None:
    reason = column_reason(labels, name)
    return f"{name} has one value" if reason is None and len(np.unique(labels)) < 2 else reason


def _neighbors_reason(X: Any, *, self_needed: bool = True) -> str | None:
    indices, distances = getattr(X, "indices", None), getattr(X, "distances", None)
    if not isinstance(indices, np.ndarray) or not isinstance(distances, np.ndarray) or indices.ndim != 2:
        return f"X is a {type(X).__name__} without arrays of neighbours"
    n, k = indices.shape
    if k < 3 or indices.dtype.kind not in "iu" or indices.min() < 0 or indices.max() >= n:
        return "X lacks neighbours"
    times = (indices == np.arange(n)[:, None]).sum(axis=1)
    if (times == 1).all() or (not self_needed and (times == 0).all()):
        return None
    return "a cell is not once among its own neighbours"


def _to_knn(engine: Engine, X: Any) -> Knn:
    """Convert scib-metrics' neighbours to a graph on the engine: ascending, without the cell itself."""
    n, k = X.indices.shape
    others = X.indices != np.arange(n)[:, None]
    n_others = k - 1 if not others.all() else k
    indices, distances = X.indices[others].reshape(n, n_others), X.distances[others].reshape(n, n_others)
    if (np.diff(distances, axis=1) < 0).any():
        order = np.argsort(distances, axis=1, kind="stable")
        indices, distances = np.take_along_axis(indices, order, 1), np.take_along_axis(distances, order, 1)
    xp = engine.xp
    return Knn(xp.asarray(indices, dtype=np.int32), xp.asarray(distances, dtype=np.float32))


def _patch(module: str, attribute: str, ours: Function, covers: Function) -> Patch:
    return Patch(f"scib_metrics.metrics.{module}", attribute, ours, covers, f"scib_metrics.{attribute}")


PATCHES = (
    Patch(
        "scib_metrics.nearest_neighbors._pynndescent",
        "pynndescent",
        _pynndescent,
        _covers_pynndescent,
        "scib_metrics.nearest_neighbors.pynndescent",
    ),
    BRAS_PATCH,
    _patch("_isolated_labels", "isolated_labels", _isolated_labels, _covers_isolated),
    _patch("_lisi", "lisi_knn", _lisi_knn, _covers_lisi),
    _patch("_lisi", "ilisi_knn", _ilisi_knn, _covers_ilisi),
    _patch("_lisi", "clisi_knn", _clisi_knn, _covers_lisi),
    _patch("_kbet", "kbet", _kbet, _covers_kbet),
    _patch("_kbet", "kbet_per_label", _kbet_per_label, _covers_kbet_per_label),
    _patch("_graph_connectivity", "graph_connectivity", _graph_connectivity, _covers_connectivity),
    _patch("_nmi_ari", "nmi_ari_cluster_labels_leiden", _nmi_ari_leiden, _covers_leiden),
    _patch("_nmi_ari", "nmi_ari_cluster_labels_kmeans", _nmi_ari_kmeans, _covers_kmeans),
    _patch("_pcr_comparison", "pcr_comparison", _pcr_comparison, _covers_pcr),
    LocalName("scib_metrics.benchmark._core", "Benchmarker.prepare", collect_own_garbage),
    LocalName("scib_metrics.benchmark._core", "Benchmarker.benchmark", collect_own_garbage),
)

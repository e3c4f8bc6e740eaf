"""scib_metrics: what is counted among neighbours, which come as its `NeighborsResults`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench import metrics
from gpubench.accel._inputs import column_reason, first_reason, matrix_reason
from gpubench.accel.calls import Start, tell
from gpubench.core.types import Knn, Labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.base import Engine


def pynndescent(start: Start, X: Any, n_neighbors: int, random_state: int, n_jobs: int) -> Any:
    """Nearest neighbours, exact up to a few hundred thousand cells; each cell comes first among its own."""
    from scib_metrics.nearest_neighbors import NeighborsResults

    engine = start(exact=False)
    knn = engine.knn(engine.put(X), n_neighbors - 1)
    n = len(X)
    indices = np.column_stack([np.arange(n, dtype=np.int32), engine.to_host(knn.indices)])
    distances = np.column_stack([np.zeros(n, np.float32), engine.to_host(knn.distances)])
    return NeighborsResults(indices=indices, distances=distances)


def covers_pynndescent(X: Any, n_neighbors: Any, random_state: Any, n_jobs: Any) -> str | None:
    """Say what only pynndescent has."""
    reason = matrix_reason(X)
    if reason is None and not 2 <= n_neighbors <= len(X):
        return f"n_neighbors={n_neighbors} of {len(X):,} cells"
    return reason


def lisi_knn(start: Start, X: Any, labels: Any, perplexity: float | None) -> NDArray[np.float32]:
    """Effective number of labels around each cell."""
    return _lisi(start, X, labels, perplexity)[0].astype(np.float32)


def ilisi_knn(start: Start, X: Any, batches: Any, perplexity: float | None, scale: bool) -> np.float32:
    """Median of the effective number of batches."""
    lisi, n_batches = _lisi(start, X, batches, perplexity)
    median = np.median(lisi)
    return np.float32((median - 1) / (n_batches - 1) if scale else median)


def clisi_knn(start: Start, X: Any, labels: Any, perplexity: float | None, scale: bool) -> np.float32:
    """Median of the effective number of labels, turned around."""
    lisi, n_labels = _lisi(start, X, labels, perplexity)
    median = np.median(lisi)
    return np.float32((n_labels - median) / (n_labels - 1) if scale else median)


def covers_lisi(X: Any, labels: Any, perplexity: Any, scale: Any = True) -> str | None:
    """LISI leaves a cell out of its own neighbours, so it does not matter whether it is among them."""
    return first_reason(_neighbors_reason(X, self_needed=False), _several_reason(labels, "labels"))


def covers_ilisi(X: Any, batches: Any, perplexity: Any, scale: Any) -> str | None:
    """As `covers_lisi`."""
    return covers_lisi(X, batches, perplexity)


def kbet(
    start: Start, X: Any, batches: Any, alpha: float
) -> tuple[np.float64, NDArray[np.float32], NDArray[np.float32]]:
    """Acceptance rate, statistics and p-values."""
    engine = start()
    tests = metrics.kbet_tests(_to_knn(engine, X), batches, engine=engine)
    p_values = tests.p_values.astype(np.float32)
    return (p_values >= alpha).mean(), tests.statistics.astype(np.float32), p_values


def covers_kbet(X: Any, batches: Any, alpha: Any) -> str | None:
    """KBET counts a cell among its own neighbours."""
    return first_reason(_neighbors_reason(X), _several_reason(batches, "batches"))


def kbet_per_label(
    start: Start, X: Any, batches: Any, labels: Any, alpha: float, diffusion_n_comps: int, return_df: bool
) -> Any:
    """Mean over labels, and with `return_df` a table of them."""
    import pandas as pd

    engine = start()
    values, codes = np.unique(np.asarray(labels), return_inverse=True)
    label = Labels(codes.astype(np.int32), tuple(map(str, values)), "labels")
    if np.bincount(codes).min() <= diffusion_n_comps:
        tell(
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


def covers_kbet_per_label(
    X: Any, batches: Any, labels: Any, alpha: Any, diffusion_n_comps: Any, return_df: Any
) -> str | None:
    """As `covers_kbet`."""
    return first_reason(_neighbors_reason(X), _several_reason(batches, "batches"), column_reason(labels))


def graph_connectivity(start: Start, X: Any, labels: Any) -> np.float64:
    """Share of each label's cells in its largest component, mean over labels."""
    engine = start()
    return np.float64(metrics.graph_connectivity(_to_knn(engine, X), labels, engine=engine))


def covers_connectivity(X: Any, labels: Any) -> str | None:
    """A loop connects nothing, so it does not matter whether a cell is among its own neighbours."""
    return first_reason(_neighbors_reason(X, self_needed=False), column_reason(labels))


def nmi_ari_leiden(
    start: Start, X: Any, labels: Any, optimize_resolution: bool, resolution: float, n_jobs: int, seed: int
) -> dict[str, Any]:
    """Agreement with the clusters of the best resolution, or of the one given."""
    engine = start(seed=seed)
    knn = _to_knn(engine, X)
    if optimize_resolution:
        clusters: Any = metrics.best_leiden_clusters(knn, labels, engine=engine)[0]
        return {name: np.float64(value) for name, value in _agreement(engine, labels, clusters).items()}
    return _agreement(engine, labels, engine.leiden(engine.fuzzy_graph(knn), resolution))


def covers_leiden(X: Any, labels: Any, optimize_resolution: Any, resolution: Any, n_jobs: Any, seed: Any) -> str | None:
    """UMAP's graph counts a cell among its own neighbours."""
    if not isinstance(seed, int):
        return f"seed={seed!r}; gpubench needs a number"
    return first_reason(_neighbors_reason(X), column_reason(labels))


def nmi_ari_kmeans(start: Start, X: Any, labels: Any) -> dict[str, Any]:
    """Agreement with as many k-means clusters."""
    engine = start()
    n_clusters = len(np.unique(labels))
    return _agreement(engine, labels, metrics.kmeans_clusters(X, n_clusters, engine=engine))


def covers_kmeans(X: Any, labels: Any) -> str | None:
    """Dense cells and columns of labels."""
    return first_reason(matrix_reason(X), _several_reason(labels, "labels"))


def _agreement(engine: Engine, labels: Any, clusters: Any) -> dict[str, Any]:
    return {
        "nmi": float(metrics.normalized_mutual_info(labels, clusters, engine=engine)),
        "ari": float(metrics.adjusted_rand_index(labels, clusters, engine=engine)),
    }


def _lisi(start: Start, X: Any, labels: Any, perplexity: float | None) -> tuple[NDArray[np.float64], int]:
    """Index of each cell, and the number of labels; by default a third of the columns is the perplexity."""
    engine = start()
    used = X.indices.shape[1] // 3 if perplexity is None else float(perplexity)
    lisi = metrics.lisi_knn(_to_knn(engine, X), labels, perplexity=used, engine=engine)
    return lisi, len(np.unique(labels))


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
    """Neighbours without the cell itself, ascending, on the engine."""
    n, k = X.indices.shape
    others = X.indices != np.arange(n)[:, None]
    kept = k - 1 if not others.all() else k
    indices, distances = X.indices[others].reshape(n, kept), X.distances[others].reshape(n, kept)
    if (np.diff(distances, axis=1) < 0).any():
        order = np.argsort(distances, axis=1, kind="stable")
        indices, distances = np.take_along_axis(indices, order, 1), np.take_along_axis(distances, order, 1)
    xp = engine.xp
    return Knn(xp.asarray(indices, dtype=np.int32), xp.asarray(distances, dtype=np.float32))

"""scib_metrics: what gpubench answers, with the numbers and the types of scib-metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.accel._inputs import column_reason, first_reason, is_categorical, matrix_reason
from gpubench.accel.calls import Start, tell
from gpubench.accel.patching import Patch
from gpubench.data import encode_labels
from gpubench.metrics import silhouette_batch, silhouette_label
from gpubench.metrics._checks import check_groups
from gpubench.types import Labels

if TYPE_CHECKING:
    from numpy.typing import NDArray


def _silhouette_label(start: Start, X: Any, labels: Any, rescale: bool, chunk_size: int, metric: Any) -> np.float32:
    score = float(silhouette_label(X, labels, metric=metric, engine=start()))
    return np.float32(score if rescale else 2 * score - 1)


def _covers_label(X: Any, labels: Any, rescale: Any, chunk_size: Any, metric: Any) -> str | None:
    return _covers_samples(X, labels, chunk_size, metric, "nearest")


def _silhouette_samples(
    start: Start, X: Any, labels: Any, chunk_size: int, metric: Any, between_cluster_distances: str
) -> NDArray[np.float32]:
    engine = start()
    encoded = encode_labels(labels, "labels", len(X))
    check_groups(encoded)
    return engine.silhouette_widths(engine.put(X), encoded.codes, metric=metric).astype(np.float32)


def _covers_samples(X: Any, labels: Any, chunk_size: Any, metric: Any, between_cluster_distances: Any) -> str | None:
    reason = first_reason(
        matrix_reason(X), column_reason(labels), _distance_reason(chunk_size, metric, between_cluster_distances)
    )
    if reason is None and is_categorical(labels) and _skips_a_category(labels):
        return "labels has categories without cells, which scib-metrics counts; drop them for the score without"
    return reason or _origin_reason(X, metric)


def _silhouette_batch(
    start: Start,
    X: Any,
    labels: Any,
    batch: Any,
    rescale: bool,
    chunk_size: int,
    metric: Any,
    between_cluster_distances: str,
) -> np.float32:
    label = encode_labels(labels, "labels", len(X))
    scored, skipping = _labels_of_batches(label, batch)
    if not skipping.any():
        value = float(silhouette_batch(X, labels, batch, metric=metric, engine=start()))
        return np.float32(value if rescale else 1 - value)
    tell(
        "scib_metrics.silhouette_batch",
        "some labels lack a category of batch; scib-metrics counts them as perfectly mixed, and so does gpubench in its"
        " place; give batch as strings for the score without",
    )
    mixed = float(skipping.sum())
    if (scored & ~skipping).any():
        rows = ~skipping[label.codes]
        of_others = silhouette_batch(
            X[rows], np.asarray(labels)[rows], np.asarray(batch)[rows], metric=metric, engine=start()
        )
        mixed += float(of_others) * (scored & ~skipping).sum()
    value = mixed / scored.sum()
    return np.float32(value if rescale else 1 - value)


def _covers_batch(
    X: Any,
    labels: Any,
    batch: Any,
    rescale: Any,
    chunk_size: Any,
    metric: Any,
    between_cluster_distances: Any,
) -> str | None:
    return first_reason(
        matrix_reason(X),
        column_reason(labels),
        column_reason(batch, "batch"),
        _distance_reason(chunk_size, metric, between_cluster_distances),
    ) or _origin_reason(X, metric)


def _labels_of_batches(label: Labels, batch: Any) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(L,) which labels have batches to compare, and in which of them a category before the last that occurs is empty.

    scib-metrics takes the distance to such a category as NaN, and the widths of all cells of the label as 0.
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


def _skips_a_category(labels: Any) -> bool:
    """Whether a category before the last that occurs has no cells."""
    import pandas as pd

    codes = pd.Categorical(labels).codes
    return bool(len(np.unique(codes)) <= codes.max(initial=-1))


def _distance_reason(chunk_size: Any, metric: Any, between_cluster_distances: Any) -> str | None:
    if metric not in ("euclidean", "cosine"):
        return f"metric={metric!r}; there are 'euclidean' and 'cosine'"
    if between_cluster_distances != "nearest":
        return f"between_cluster_distances={between_cluster_distances!r}; gpubench has 'nearest'"
    if not isinstance(chunk_size, int) or chunk_size < 1:
        return f"chunk_size={chunk_size!r}"
    return None


def _origin_reason(X: Any, metric: str) -> str | None:
    """scib-metrics has NaN for the cosine with a cell at the origin."""
    return "cells at the origin have no cosine" if metric == "cosine" and not X.any(axis=1).all() else None


def _pynndescent(start: Start, X: Any, n_neighbors: int, random_state: int, n_jobs: int) -> Any:
    """Each cell comes first among its neighbours."""
    from scib_metrics.nearest_neighbors import NeighborsResults

    engine = start()
    x = engine.put(X)
    knn = engine.knn(x, n_neighbors - 1)
    n = len(X)
    indices = np.column_stack([np.arange(n, dtype=np.int32), engine.to_host(knn.indices)])
    distances = np.column_stack([np.zeros(n, np.float32), engine.to_host(knn.distances)])
    return NeighborsResults(indices=indices, distances=distances)


def _covers_pynndescent(X: Any, n_neighbors: Any, random_state: Any, n_jobs: Any) -> str | None:
    reason = matrix_reason(X)
    if reason is None and not 2 <= n_neighbors <= len(X):
        return f"n_neighbors={n_neighbors} of {len(X):,} cells"
    return reason


SILHOUETTES = (
    Patch(
        "scib_metrics.utils._silhouette",
        "silhouette_samples",
        _silhouette_samples,
        _covers_samples,
        "scib_metrics.utils.silhouette_samples",
    ),
    Patch(
        "scib_metrics.metrics._silhouette",
        "silhouette_label",
        _silhouette_label,
        _covers_label,
        "scib_metrics.silhouette_label",
    ),
    Patch(
        "scib_metrics.metrics._silhouette",
        "silhouette_batch",
        _silhouette_batch,
        _covers_batch,
        "scib_metrics.silhouette_batch",
    ),
)
PATCHES = (
    Patch(
        "scib_metrics.nearest_neighbors._pynndescent",
        "pynndescent",
        _pynndescent,
        _covers_pynndescent,
        "scib_metrics.nearest_neighbors.pynndescent",
    ),
)

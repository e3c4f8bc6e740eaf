"""Silhouettes of scib_metrics and scikit-learn, with the numbers and types of the originals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from gpubench import metrics
from gpubench.accel._inputs import column_reason, first_reason, is_categorical, labels_reason, matrix_reason
from gpubench.accel.calls import Start, dispatcher
from gpubench.accel.patching import Patch
from gpubench.core.errors import InputError
from gpubench.core.types import Labels
from gpubench.data import encode_labels
from gpubench.engines.base import Distance
from gpubench.metrics._metric import check_groups
from gpubench.metrics.silhouette import silhouette_widths

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.base import Engine


def _sklearn_samples(start: Start, X: Any, labels: Any, *, metric: str, kwds: dict[str, Any]) -> Any:
    X = _as_array(X)
    dtype = X.dtype if X.dtype in (np.float32, np.float64) else np.float64
    # scikit-learn computes in the precision of X; float32 suffices once cells are centred, which leaves widths the same
    cells = X - X.mean(axis=0) if metric == "euclidean" and X.dtype == np.float64 else X
    return _widths(start(), cells, labels, metric).astype(dtype)


def _covers_sklearn(X: Any, labels: Any, metric: Any, kwds: dict[str, Any]) -> str | None:
    if metric not in ("euclidean", "cosine"):
        return f"metric={metric!r}; gpubench has 'euclidean' and 'cosine'"
    if kwds:
        return f"the parameters {', '.join(kwds)} of the distance"
    return first_reason(matrix_reason(_as_array(X)), labels_reason(labels))


def _as_array(X: Any) -> Any:
    import pandas as pd

    return np.asarray(X) if isinstance(X, list | tuple | pd.DataFrame) else X


def _widths(engine: Engine, X: Any, labels: Any, metric: str) -> NDArray[np.floating[Any]]:
    encoded = encode_labels(labels, "labels", len(X))
    check_groups(encoded)
    return silhouette_widths(engine, engine.put(X), encoded.codes, metric=cast("Distance", metric))


def _silhouette_label(start: Start, X: Any, labels: Any, rescale: bool, chunk_size: int, metric: Any) -> np.float32:
    score = float(metrics.silhouette_label(X, labels, metric=metric, engine=start()))
    return np.float32(score if rescale else 2 * score - 1)


def _silhouette_samples(
    start: Start, X: Any, labels: Any, chunk_size: int, metric: Any, between_cluster_distances: str
) -> NDArray[np.float32]:
    return _widths(start(), X, labels, metric).astype(np.float32)


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
    if between_cluster_distances == "mean_other":
        value = defined(metrics.bras(X, labels, batch, metric=metric, engine=start()))
        return np.float32(value if rescale else 1 - value)
    label = encode_labels(labels, "labels", len(X))
    scored, skipping = _labels_of_batches(label, batch)
    if not scored.any():
        raise InputError("no label has two batches and more cells than batches")
    if not skipping.any():
        value = float(metrics.silhouette_batch(X, labels, batch, metric=metric, engine=start()))
        return np.float32(value if rescale else 1 - value)
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
    value = mixed / scored.sum()
    return np.float32(value if rescale else 1 - value)


def _labels_of_batches(label: Labels, batch: Any) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return (L,) which labels have batches to compare, and which of them lack a category before their last one.

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


def _bras(
    start: Start, X: Any, labels: Any, batch: Any, chunk_size: int, metric: Any, between_cluster_distances: str
) -> np.float32:
    return _silhouette_batch(start, X, labels, batch, True, chunk_size, metric, between_cluster_distances)


def _covers_label(X: Any, labels: Any, chunk_size: Any, metric: Any) -> str | None:
    return _covers_samples(X, labels, chunk_size, metric, "nearest")


def _covers_samples(X: Any, labels: Any, chunk_size: Any, metric: Any, between_cluster_distances: Any) -> str | None:
    reason = first_reason(
        matrix_reason(X), column_reason(labels), _distance_reason(chunk_size, metric, between_cluster_distances)
    )
    if reason is None and is_categorical(labels) and _skips_a_category(labels):
        return "labels has categories without cells, which scib-metrics counts; drop them for the score without"
    return reason or _origin_reason(X, metric)


def _covers_batch(
    X: Any, labels: Any, batch: Any, chunk_size: Any, metric: Any, between_cluster_distances: Any
) -> str | None:
    # a category without cells does not change the mean over all other batches, which BRAS takes
    between = "nearest" if between_cluster_distances == "mean_other" else between_cluster_distances
    return first_reason(
        matrix_reason(X),
        column_reason(labels),
        column_reason(batch, "batch"),
        _distance_reason(chunk_size, metric, between),
    ) or _origin_reason(X, metric)


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
    """Refuse cells at the origin, whose cosine is NaN in scib-metrics."""
    return "cells at the origin have no cosine" if metric == "cosine" and not X.any(axis=1).all() else None


def defined(score: float) -> float:
    """Return a score as a float; raise InputError with its note where it is NaN."""
    if np.isnan(score):
        raise InputError(getattr(score, "note", "the score is undefined"))
    return float(score)


_MODULE = "scib_metrics.metrics._silhouette"

SKLEARN_PATCHES = (
    Patch(
        "sklearn.metrics.cluster._unsupervised",
        "silhouette_samples",  # which silhouette_score calls
        _sklearn_samples,
        _covers_sklearn,
        "sklearn.metrics.silhouette_samples",
    ),
)
# czbenchmarks uses these as well
SCIB_PATCHES = (
    Patch(
        "scib_metrics.utils._silhouette",
        "silhouette_samples",
        _silhouette_samples,
        _covers_samples,
        "scib_metrics.utils.silhouette_samples",
    ),
    Patch(_MODULE, "silhouette_label", _silhouette_label, _covers_label, "scib_metrics.silhouette_label"),
    Patch(_MODULE, "silhouette_batch", _silhouette_batch, _covers_batch, "scib_metrics.silhouette_batch"),
)
BRAS_PATCH = Patch(_MODULE, "bras", _bras, _covers_batch, "scib_metrics.bras")

"""scib_metrics: what gpubench answers, with the numbers and the types of scib-metrics."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench import metrics
from gpubench.accel import _scib_neighbors as neighbors
from gpubench.accel import garbage
from gpubench.accel._inputs import column_reason, first_reason, is_categorical, matrix_reason
from gpubench.accel.calls import Function, Start, tell
from gpubench.accel.patching import LocalName, Patch
from gpubench.core.errors import InputError
from gpubench.core.types import Labels
from gpubench.data import encode_labels
from gpubench.metrics._metric import check_groups
from gpubench.metrics.silhouette import silhouette_widths

if TYPE_CHECKING:
    from numpy.typing import NDArray


def _silhouette_label(start: Start, X: Any, labels: Any, rescale: bool, chunk_size: int, metric: Any) -> np.float32:
    score = float(metrics.silhouette_label(X, labels, metric=metric, engine=start()))
    return np.float32(score if rescale else 2 * score - 1)


def _covers_label(X: Any, labels: Any, rescale: Any, chunk_size: Any, metric: Any) -> str | None:
    return _covers_samples(X, labels, chunk_size, metric, "nearest")


def _silhouette_samples(
    start: Start, X: Any, labels: Any, chunk_size: int, metric: Any, between_cluster_distances: str
) -> NDArray[np.float32]:
    engine = start()
    encoded = encode_labels(labels, "labels", len(X))
    check_groups(encoded)
    return silhouette_widths(engine, engine.put(X), encoded.codes, metric=metric).astype(np.float32)


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
    if between_cluster_distances == "mean_other":
        value = _defined(metrics.bras(X, labels, batch, metric=metric, engine=start()))
        return np.float32(value if rescale else 1 - value)
    label = encode_labels(labels, "labels", len(X))
    scored, skipping = _labels_of_batches(label, batch)
    if not scored.any():
        raise InputError("no label has two batches and more cells than batches")
    if not skipping.any():
        value = float(metrics.silhouette_batch(X, labels, batch, metric=metric, engine=start()))
        return np.float32(value if rescale else 1 - value)
    tell(
        "scib_metrics.silhouette_batch",
        "some labels lack a category of batch; scib-metrics counts them as perfectly mixed, and so does gpubench in its"
        " place; give batch as strings for the score without",
    )
    mixed = float(skipping.sum())
    if (scored & ~skipping).any():
        rows = ~skipping[label.codes]
        of_others = metrics.silhouette_batch(
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
    # the mean over all other batches, as of BRAS, is not moved by a category without cells
    between = "nearest" if between_cluster_distances == "mean_other" else between_cluster_distances
    return first_reason(
        matrix_reason(X),
        column_reason(labels),
        column_reason(batch, "batch"),
        _distance_reason(chunk_size, metric, between),
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


def _bras(
    start: Start, X: Any, labels: Any, batch: Any, chunk_size: int, metric: Any, between_cluster_distances: str
) -> np.float32:
    return _silhouette_batch(start, X, labels, batch, True, chunk_size, metric, between_cluster_distances)


def _covers_bras(
    X: Any, labels: Any, batch: Any, chunk_size: Any, metric: Any, between_cluster_distances: Any
) -> str | None:
    return _covers_batch(X, labels, batch, True, chunk_size, metric, between_cluster_distances)


def _isolated_labels(
    start: Start, X: Any, labels: Any, batch: Any, rescale: bool, iso_threshold: int | None
) -> np.float32:
    score = _defined(metrics.isolated_labels(X, labels, batch, iso_threshold=iso_threshold, engine=start()))
    return np.float32(score if rescale else 2 * score - 1)


def _covers_isolated(X: Any, labels: Any, batch: Any, rescale: Any, iso_threshold: Any) -> str | None:
    reason = first_reason(matrix_reason(X), column_reason(labels), column_reason(batch, "batch"))
    if reason is None and any(is_categorical(column) for column in (labels, batch)):
        return "categories, of which scib-metrics counts those without cells; give strings"
    return reason


def _pcr_comparison(start: Start, X_pre: Any, X_post: Any, covariate: Any, scale: bool, kwargs: dict[str, Any]) -> Any:
    """scib-metrics warns where the score is below 0, and returns 0; so does this."""
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


def _covers_pcr(X_pre: Any, X_post: Any, covariate: Any, scale: Any, kwargs: dict[str, Any]) -> str | None:
    other = {name: value for name, value in kwargs.items() if name != "categorical" and value is not None}
    if other:
        return f"the parameters {other}"
    return first_reason(matrix_reason(X_pre, "X_pre"), matrix_reason(X_post, "X_post"), column_reason(covariate))


def _defined(score: float) -> float:
    if np.isnan(score):
        raise InputError(getattr(score, "note", "the score is undefined"))
    return float(score)


def _patch(module: str, attribute: str, ours: Function, covers: Function) -> Patch:
    return Patch(f"scib_metrics.metrics.{module}", attribute, ours, covers, f"scib_metrics.{attribute}")


SILHOUETTES = (
    Patch(
        "scib_metrics.utils._silhouette",
        "silhouette_samples",
        _silhouette_samples,
        _covers_samples,
        "scib_metrics.utils.silhouette_samples",
    ),
    _patch("_silhouette", "silhouette_label", _silhouette_label, _covers_label),
    _patch("_silhouette", "silhouette_batch", _silhouette_batch, _covers_batch),
)
PATCHES = (
    Patch(
        "scib_metrics.nearest_neighbors._pynndescent",
        "pynndescent",
        neighbors.pynndescent,
        neighbors.covers_pynndescent,
        "scib_metrics.nearest_neighbors.pynndescent",
    ),
    _patch("_silhouette", "bras", _bras, _covers_bras),
    _patch("_isolated_labels", "isolated_labels", _isolated_labels, _covers_isolated),
    _patch("_lisi", "lisi_knn", neighbors.lisi_knn, neighbors.covers_lisi),
    _patch("_lisi", "ilisi_knn", neighbors.ilisi_knn, neighbors.covers_ilisi),
    _patch("_lisi", "clisi_knn", neighbors.clisi_knn, neighbors.covers_lisi),
    _patch("_kbet", "kbet", neighbors.kbet, neighbors.covers_kbet),
    _patch("_kbet", "kbet_per_label", neighbors.kbet_per_label, neighbors.covers_kbet_per_label),
    _patch("_graph_connectivity", "graph_connectivity", neighbors.graph_connectivity, neighbors.covers_connectivity),
    _patch("_nmi_ari", "nmi_ari_cluster_labels_leiden", neighbors.nmi_ari_leiden, neighbors.covers_leiden),
    _patch("_nmi_ari", "nmi_ari_cluster_labels_kmeans", neighbors.nmi_ari_kmeans, neighbors.covers_kmeans),
    _patch("_pcr_comparison", "pcr_comparison", _pcr_comparison, _covers_pcr),
    LocalName("scib_metrics.benchmark._core", "Benchmarker.prepare", garbage.of_its_own),
    LocalName("scib_metrics.benchmark._core", "Benchmarker.benchmark", garbage.of_its_own),
)

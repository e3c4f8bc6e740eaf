"""czbenchmarks: its metrics, and the steps of its tasks that take long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench import metrics
from gpubench.accel import _czbenchmarks_clustering, _czbenchmarks_perturbation
from gpubench.accel._inputs import first_reason, labels_reason, matrix_reason
from gpubench.accel.calls import Function, Start
from gpubench.accel.patching import LocalName, Patch

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

REGISTRY = "czbenchmarks.metrics.implementations"


def _entropy_per_cell(start: Start, X: Any, labels: Any, n_neighbors: int, random_seed: int) -> np.float64:
    return np.float64(metrics.entropy_per_cell(X, labels, n_neighbors=n_neighbors, engine=start(exact=False)))


def _covers_entropy(X: Any, labels: Any, n_neighbors: Any, random_seed: Any) -> str | None:
    return first_reason(matrix_reason(X), labels_reason(labels))


def _sequential_alignment(
    start: Start, X: Any, labels: Any, k: int, normalize: bool, adaptive_k: bool
) -> float | np.float64:
    score = metrics.sequential_alignment(X, labels, k=k, normalize=normalize, adaptive_k=adaptive_k, engine=start())
    return float(score) if normalize or len(np.unique(labels)) == 1 else np.float64(score)


def _covers_sequential(X: Any, labels: Any, k: Any, normalize: Any, adaptive_k: Any) -> str | None:
    return first_reason(matrix_reason(X), labels_reason(labels))


def _spearman(start: Start, a: ArrayLike, b: ArrayLike) -> np.float64 | int:
    score = metrics.spearman_correlation(a, b, engine=start())
    return 0 if np.isnan(score) else np.float64(score)  # czbenchmarks has 0 where no correlation is defined


def _covers_vectors(a: Any, b: Any) -> str | None:
    return first_reason(*map(_vector_reason, (a, b), ("a", "b")))


def _vector_reason(values: Any, name: str) -> str | None:
    array = np.asarray(values)
    return None if array.ndim == 1 and array.dtype.kind in "fiu" else f"{name} is not a vector of numbers"


def _clustering_score(score: Function) -> Function:
    def ours(start: Start, labels_true: Any, labels_pred: Any) -> float:
        return float(score(labels_true, labels_pred, engine=start()))

    return ours


def _covers_partitions(labels_true: Any, labels_pred: Any) -> str | None:
    return first_reason(labels_reason(labels_true, "labels_true"), labels_reason(labels_pred, "labels_pred"))


def _mean_squared_error(
    start: Start, y_true: ArrayLike, y_pred: ArrayLike, *, sample_weight: Any, multioutput: Any
) -> float:
    return float(metrics.mean_squared_error(y_true, y_pred))


def _covers_mean_squared_error(y_true: Any, y_pred: Any, *, sample_weight: Any, multioutput: Any) -> str | None:
    if sample_weight is not None or multioutput != "uniform_average":
        return "sample_weight or multioutput"
    return first_reason(_vector_reason(y_true, "y_true"), _vector_reason(y_pred, "y_pred"))


def _normalized_mutual_info(start: Start, labels_true: Any, labels_pred: Any, *, average_method: str) -> float:
    return float(metrics.normalized_mutual_info(labels_true, labels_pred, engine=start()))


def _covers_mutual_info(labels_true: Any, labels_pred: Any, *, average_method: Any) -> str | None:
    if average_method != "arithmetic":
        return f"average_method={average_method!r}; gpubench has 'arithmetic'"
    return _covers_partitions(labels_true, labels_pred)


def _accuracy(start: Start, y_true: Any, y_pred: Any, *, normalize: bool, sample_weight: Any) -> float:
    return float(metrics.accuracy_calculation(y_true, y_pred, engine=start()))


def _covers_accuracy(y_true: Any, y_pred: Any, *, normalize: Any, sample_weight: Any) -> str | None:
    if sample_weight is not None or normalize is not True:
        return "sample_weight or normalize"
    return _classes_reason(y_true, y_pred)


def _of_labels(score: Function) -> Function:
    def ours(start: Start, y_true: Any, y_pred: Any, kwargs: dict[str, Any]) -> float:
        return float(score(y_true, y_pred, engine=start()))

    return ours


def _covers_averages(y_true: Any, y_pred: Any, kwargs: dict[str, Any]) -> str | None:
    """Of gpubench: it takes the second of two classes as the positive one, and averages over more."""
    average = kwargs.get("average", "binary")
    if set(kwargs) - {"average"} or average not in ("binary", "macro"):
        return f"the parameters {kwargs}"
    reason = _classes_reason(y_true, y_pred)
    if reason is None:
        classes = np.union1d(y_true, y_pred)
        fits = np.array_equal(classes, [0, 1]) if average == "binary" else len(classes) > 2
        reason = None if fits else f"average={average!r} of {len(classes)} classes"
    return reason


def _classes_reason(y_true: Any, y_pred: Any) -> str | None:
    kinds = {np.asarray(values).dtype.kind for values in (y_true, y_pred)}
    if len(kinds) > 1 or not kinds <= set("iuU"):
        return "labels that are not all text or all whole numbers"
    return _covers_partitions(y_true, y_pred)


def _registered(metric_id: str, ours: Function, covers: Function) -> Patch:
    return Patch(REGISTRY, f"metrics_registry[{metric_id}]", ours, covers, f"czbenchmarks {metric_id}")


def _pipeline(_: Any) -> type:
    from gpubench.accel._czbenchmarks_classifiers import AcceleratedPipeline

    return AcceleratedPipeline


PATCHES: tuple[Patch | LocalName, ...] = (
    Patch("czbenchmarks.metrics.utils", "compute_entropy_per_cell", _entropy_per_cell, _covers_entropy),
    Patch("czbenchmarks.metrics.utils", "sequential_alignment", _sequential_alignment, _covers_sequential),
    _registered("adjusted_rand_index", _clustering_score(metrics.adjusted_rand_index), _covers_partitions),
    _registered("normalized_mutual_info", _normalized_mutual_info, _covers_mutual_info),
    _registered("spearman_correlation_calculation", _spearman, _covers_vectors),
    _registered("mean_squared_error", _mean_squared_error, _covers_mean_squared_error),
    _registered("accuracy_calculation", _accuracy, _covers_accuracy),
    _registered("f1_calculation", _of_labels(metrics.f1_calculation), _covers_averages),
    _registered("precision_calculation", _of_labels(metrics.precision_calculation), _covers_averages),
    _registered("recall_calculation", _of_labels(metrics.recall_calculation), _covers_averages),
    Patch(
        "czbenchmarks.tasks.utils",
        "cluster_embedding",
        _czbenchmarks_clustering.cluster_embedding,
        _czbenchmarks_clustering.covers,
    ),
    LocalName("czbenchmarks.tasks.label_prediction", "Pipeline", _pipeline),
    LocalName("czbenchmarks.tasks.single_cell.cross_species_label_prediction", "Pipeline", _pipeline),
    Patch(
        "czbenchmarks.tasks.single_cell.perturbation_expression_prediction",
        "PerturbationExpressionPredictionTask._run_task",
        _czbenchmarks_perturbation.run_task,
        _czbenchmarks_perturbation.covers,
        "czbenchmarks perturbation",
    ),
)

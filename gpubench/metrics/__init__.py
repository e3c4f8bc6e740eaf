"""What is measured: one published number is one function, written once against the engine's operations."""

from __future__ import annotations

from gpubench.metrics._metric import Metric, MetricSpec
from gpubench.metrics.classification import OF_LABELS, OF_ONE_TEST_SET, OVER_FOLDS
from gpubench.metrics.clustering import adjusted_rand_index, leiden_clusters, normalized_mutual_info
from gpubench.metrics.correlation import jaccard, mean_squared_error, pearson_correlation, spearman_correlation
from gpubench.metrics.integration import entropy_per_cell
from gpubench.metrics.sequential import sequential_alignment
from gpubench.metrics.silhouette import silhouette_batch, silhouette_label

accuracy, f1, precision, recall, auroc = OF_ONE_TEST_SET
accuracy_calculation, f1_calculation, precision_calculation, recall_calculation = OF_LABELS
mean_fold_accuracy, mean_fold_f1, mean_fold_precision, mean_fold_recall, mean_fold_auroc = OVER_FOLDS

__all__ = [
    "METRICS",
    "Metric",
    "MetricSpec",
    "accuracy",
    "accuracy_calculation",
    "adjusted_rand_index",
    "auroc",
    "entropy_per_cell",
    "f1",
    "f1_calculation",
    "jaccard",
    "leiden_clusters",
    "mean_fold_accuracy",
    "mean_fold_auroc",
    "mean_fold_f1",
    "mean_fold_precision",
    "mean_fold_recall",
    "mean_squared_error",
    "normalized_mutual_info",
    "pearson_correlation",
    "precision",
    "precision_calculation",
    "recall",
    "recall_calculation",
    "sequential_alignment",
    "silhouette_batch",
    "silhouette_label",
    "spearman_correlation",
]

_PUBLISHED: tuple[Metric[...], ...] = (
    adjusted_rand_index,
    normalized_mutual_info,
    silhouette_label,
    silhouette_batch,
    entropy_per_cell,
    sequential_alignment,
    spearman_correlation,
    pearson_correlation,
    mean_squared_error,
    jaccard,
    *OF_ONE_TEST_SET,
    *OF_LABELS,
    *OVER_FOLDS,
)

METRICS: dict[str, Metric[...]] = {metric.spec.id: metric for metric in _PUBLISHED}
"""Every metric by its id."""

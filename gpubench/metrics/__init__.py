"""What is measured: one published number is one function, written once against the engine's operations."""

from __future__ import annotations

from gpubench.metrics._metric import Metric, MetricSpec
from gpubench.metrics.aggregate import batch_correction, bio_conservation, total
from gpubench.metrics.classification import OF_LABELS, OF_ONE_TEST_SET, OVER_FOLDS
from gpubench.metrics.clustering import (
    adjusted_rand_index,
    best_leiden_clusters,
    kmeans_clusters,
    leiden_clusters,
    nmi_ari_cluster_labels_kmeans_ari,
    nmi_ari_cluster_labels_kmeans_nmi,
    nmi_ari_cluster_labels_leiden_ari,
    nmi_ari_cluster_labels_leiden_nmi,
    normalized_mutual_info,
)
from gpubench.metrics.correlation import jaccard, mean_squared_error, pearson_correlation, spearman_correlation
from gpubench.metrics.entropy import entropy_per_cell
from gpubench.metrics.graph_connectivity import graph_connectivity
from gpubench.metrics.kbet import kbet, kbet_of_labels, kbet_per_label, kbet_tests
from gpubench.metrics.lisi import clisi_knn, ilisi_knn, lisi_knn
from gpubench.metrics.pcr import pcr_comparison, principal_component_regression
from gpubench.metrics.sequential_alignment import sequential_alignment
from gpubench.metrics.silhouette import bras, isolated_labels, silhouette_batch, silhouette_label

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
    "batch_correction",
    "best_leiden_clusters",
    "bio_conservation",
    "bras",
    "clisi_knn",
    "entropy_per_cell",
    "f1",
    "f1_calculation",
    "graph_connectivity",
    "ilisi_knn",
    "isolated_labels",
    "jaccard",
    "kbet",
    "kbet_of_labels",
    "kbet_per_label",
    "kbet_tests",
    "kmeans_clusters",
    "leiden_clusters",
    "lisi_knn",
    "mean_fold_accuracy",
    "mean_fold_auroc",
    "mean_fold_f1",
    "mean_fold_precision",
    "mean_fold_recall",
    "mean_squared_error",
    "nmi_ari_cluster_labels_kmeans_ari",
    "nmi_ari_cluster_labels_kmeans_nmi",
    "nmi_ari_cluster_labels_leiden_ari",
    "nmi_ari_cluster_labels_leiden_nmi",
    "normalized_mutual_info",
    "pcr_comparison",
    "pearson_correlation",
    "precision",
    "precision_calculation",
    "principal_component_regression",
    "recall",
    "recall_calculation",
    "sequential_alignment",
    "silhouette_batch",
    "silhouette_label",
    "spearman_correlation",
    "total",
]

_PUBLISHED: tuple[Metric[...], ...] = (
    adjusted_rand_index,
    normalized_mutual_info,
    silhouette_label,
    silhouette_batch,
    entropy_per_cell,
    sequential_alignment,
    isolated_labels,
    nmi_ari_cluster_labels_leiden_nmi,
    nmi_ari_cluster_labels_leiden_ari,
    nmi_ari_cluster_labels_kmeans_nmi,
    nmi_ari_cluster_labels_kmeans_ari,
    clisi_knn,
    bras,
    ilisi_knn,
    kbet,
    kbet_per_label,
    graph_connectivity,
    pcr_comparison,
    bio_conservation,
    batch_correction,
    total,
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

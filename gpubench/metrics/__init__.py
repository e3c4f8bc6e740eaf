"""Metrics: one function for each, written once with operations that every engine has.

A new metric is a function with the decorator `gpubench.metrics._metric.metric`, imported here and named in `__all__`.
"""

from __future__ import annotations

from gpubench.metrics._metric import Metric, MetricSpec
from gpubench.metrics.aggregate import batch_correction, bio_conservation, total
from gpubench.metrics.classification import (
    accuracy,
    accuracy_calculation,
    auroc,
    f1,
    f1_calculation,
    mean_fold_accuracy,
    mean_fold_auroc,
    mean_fold_f1,
    mean_fold_precision,
    mean_fold_recall,
    precision,
    precision_calculation,
    recall,
    recall_calculation,
)
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
from gpubench.metrics.differential_expression import (
    benjamini_hochberg,
    differential_expression,
    expression_means,
    log2_fold_changes,
    mann_whitney_p,
)
from gpubench.metrics.entropy import entropy_per_cell
from gpubench.metrics.graph_connectivity import graph_connectivity
from gpubench.metrics.kbet import kbet, kbet_of_labels, kbet_per_label, kbet_tests
from gpubench.metrics.lisi import clisi_knn, ilisi_knn, lisi_knn
from gpubench.metrics.pcr import pcr_comparison, principal_component_regression
from gpubench.metrics.sequential_alignment import sequential_alignment
from gpubench.metrics.silhouette import bras, isolated_labels, silhouette_batch, silhouette_label

__all__ = [  # noqa: RUF022 - metrics in the order in which they are listed, then what they are made with
    "adjusted_rand_index",
    "normalized_mutual_info",
    "silhouette_label",
    "silhouette_batch",
    "entropy_per_cell",
    "sequential_alignment",
    "isolated_labels",
    "nmi_ari_cluster_labels_leiden_nmi",
    "nmi_ari_cluster_labels_leiden_ari",
    "nmi_ari_cluster_labels_kmeans_nmi",
    "nmi_ari_cluster_labels_kmeans_ari",
    "clisi_knn",
    "bras",
    "ilisi_knn",
    "kbet",
    "kbet_per_label",
    "graph_connectivity",
    "pcr_comparison",
    "bio_conservation",
    "batch_correction",
    "total",
    "spearman_correlation",
    "pearson_correlation",
    "mean_squared_error",
    "jaccard",
    "accuracy",
    "f1",
    "precision",
    "recall",
    "auroc",
    "accuracy_calculation",
    "f1_calculation",
    "precision_calculation",
    "recall_calculation",
    "mean_fold_accuracy",
    "mean_fold_f1",
    "mean_fold_precision",
    "mean_fold_recall",
    "mean_fold_auroc",
    "METRICS",
    "Metric",
    "MetricSpec",
    "benjamini_hochberg",
    "best_leiden_clusters",
    "differential_expression",
    "expression_means",
    "kbet_of_labels",
    "kbet_tests",
    "kmeans_clusters",
    "leiden_clusters",
    "lisi_knn",
    "log2_fold_changes",
    "mann_whitney_p",
    "principal_component_regression",
]

METRICS: dict[str, Metric[...]] = {
    function.spec.id: function
    for function in (globals()[name] for name in __all__ if name != "METRICS")
    if hasattr(function, "spec")
}
"""Metric id -> function, for every metric."""

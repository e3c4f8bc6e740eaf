"""What is measured: one published number is one function, written once against the engine's operations."""

from __future__ import annotations

from gpubench.metrics._metric import Metric, MetricSpec
from gpubench.metrics.clustering import adjusted_rand_index, leiden_clusters, normalized_mutual_info
from gpubench.metrics.correlation import jaccard, mean_squared_error, pearson_correlation, spearman_correlation
from gpubench.metrics.integration import entropy_per_cell
from gpubench.metrics.sequential import sequential_alignment
from gpubench.metrics.silhouette import silhouette_batch, silhouette_label

__all__ = [
    "METRICS",
    "Metric",
    "MetricSpec",
    "adjusted_rand_index",
    "entropy_per_cell",
    "jaccard",
    "leiden_clusters",
    "mean_squared_error",
    "normalized_mutual_info",
    "pearson_correlation",
    "sequential_alignment",
    "silhouette_batch",
    "silhouette_label",
    "spearman_correlation",
]

METRICS: dict[str, Metric] = {
    function.spec.id: function  # type: ignore[attr-defined, misc]
    for function in (
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
    )
}

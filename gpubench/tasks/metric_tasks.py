"""Tasks whose metrics score an embedding by its columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from gpubench.core.errors import quoted
from gpubench.core.scores import CLUSTER, CellColumn, MetricResult, Score
from gpubench.core.types import Labels
from gpubench.metrics._metric import BATCH, BIO
from gpubench.metrics._neighborhoods import search_params
from gpubench.metrics.aggregate import batch_correction, bio_conservation, total
from gpubench.metrics.clustering import (
    adjusted_rand_index,
    leiden_clusters,
    nmi_ari_cluster_labels_kmeans_ari,
    nmi_ari_cluster_labels_kmeans_nmi,
    normalized_mutual_info,
)
from gpubench.metrics.entropy import entropy_per_cell
from gpubench.metrics.graph_connectivity import graph_connectivity
from gpubench.metrics.kbet import kbet_per_label
from gpubench.metrics.lisi import clisi_knn, ilisi_knn
from gpubench.metrics.pcr import pcr_comparison
from gpubench.metrics.sequential_alignment import sequential_alignment
from gpubench.metrics.silhouette import bras, isolated_labels, silhouette_batch, silhouette_label
from gpubench.tasks._task import (
    Options,
    Task,
    TaskInput,
    measure,
    require,
    score_metric,
    task_of_metrics,
    to_row,
    with_note,
)

EMBEDDING = task_of_metrics(
    "embedding", "Embedding", "Are labels separated in the embedding?", metrics=(silhouette_label,)
)
BATCH_INTEGRATION = task_of_metrics(
    "batch_integration",
    "Batch integration",
    "Are batches mixed within labels?",
    metrics=(entropy_per_cell, silhouette_batch),
)
CROSS_SPECIES_INTEGRATION = task_of_metrics(
    "cross_species_integration",
    "Cross-species integration",
    "Are species aligned in the embedding?",
    metrics=(entropy_per_cell, silhouette_batch),
    roles={"batch": "species"},
    baseline=None,
)
SEQUENTIAL_ORGANIZATION = task_of_metrics(
    "sequential_organization",
    "Sequential organization",
    "Is the order of time points kept in the embedding?",
    metrics=(silhouette_label, sequential_alignment),
    roles={"label": "time_label"},
)


def _score_clusters(given: TaskInput) -> Iterator[MetricResult]:
    """Compare given clusters, or else Leiden clusters, with the labels."""
    embedding, label, options = require(given.embedding), require(given.label), given.options
    if given.clusters is not None:
        yield from _score_given_clusters(given, label, given.clusters)
        return
    clusters = leiden_clusters(
        embedding,
        n_neighbors=options.n_cluster_neighbors,
        resolution=options.resolution,
        n_iterations=options.n_iterations,
    )
    used = min(options.n_cluster_neighbors, embedding.n)
    knn = embedding.knn(used - 1)  # the graph that the clusters were found in
    given.cells.columns.append(CellColumn(given.name, CLUSTERING.id, CLUSTER, clusters.codes, names=clusters.names))
    cut = f"n_cluster_neighbors cut from {options.n_cluster_neighbors} to {used}, the number of cells"
    for metric in (adjusted_rand_index, normalized_mutual_info):
        row = measure(given, CLUSTERING.id, metric, label, clusters, engine=given.engine)
        row = replace(row, params={**row.params, **search_params(knn)}, approximate=not knn.exact)
        row = with_note(row, embedding.neighbors_note)
        yield row if used == options.n_cluster_neighbors else with_note(row, cut)


def _score_given_clusters(given: TaskInput, label: Labels, clusters: Labels) -> Iterator[MetricResult]:
    given.cells.columns.append(CellColumn(given.name, CLUSTERING.id, CLUSTER, clusters.codes, names=clusters.names))
    for metric in (adjusted_rand_index, normalized_mutual_info):
        row = measure(given, CLUSTERING.id, metric, label, clusters, engine=given.engine)
        row = replace(row, params={**row.params, "clusters": clusters.key})
        yield with_note(row, f"{clusters.n_classes:,} given clusters, not found in this embedding")


def _graph_neighbors(options: Options) -> int:
    return options.n_cluster_neighbors - 1


CLUSTERING = Task(
    id="clustering",
    title="Clustering",
    question="Do clusters of the embedding match known labels?",
    needs=("label",),
    metrics=("adjusted_rand_index", "normalized_mutual_info"),
    run=_score_clusters,
    operations=lambda _: ("leiden",),
    neighbors=_graph_neighbors,
    costs=lambda model, sizes, options: {"leiden": model.leiden(sizes.n, min(_graph_neighbors(options), sizes.n - 1))},
)

CLUSTERING_GIVEN = replace(CLUSTERING, neighbors=lambda _: 0, operations=lambda _: (), costs=lambda *_: {})
"""The task `CLUSTERING` with given clusters, which needs no graph."""

_SCIB_METRICS = (
    isolated_labels,
    nmi_ari_cluster_labels_kmeans_nmi,
    nmi_ari_cluster_labels_kmeans_ari,
    silhouette_label,
    clisi_knn,
    bras,
    ilisi_knn,
    kbet_per_label,
    graph_connectivity,
    pcr_comparison,
)
_NOT_GIVEN = "undefined: pre_integrated is not given; name the embedding before integration in it"


def _score_integration(given: TaskInput) -> Iterator[MetricResult]:
    """Compute each score, then their means; nothing is rescaled between embeddings."""
    rows: dict[str, list[MetricResult]] = {BIO: [], BATCH: []}
    for metric in _SCIB_METRICS:
        row = _compare_pcr(given) if metric is pcr_comparison else score_metric(given, SCIB.id, metric, {})
        yield row
        _, kind = require(metric.spec.scib)
        rows[kind].append(row)
    bio, batch = ([row.value for row in rows[kind]] for kind in (BIO, BATCH))
    yield _describe_mean(rows[BIO], measure(given, SCIB.id, bio_conservation, bio))
    yield _describe_mean(rows[BATCH], measure(given, SCIB.id, batch_correction, batch))
    yield _describe_mean(rows[BIO] + rows[BATCH], measure(given, SCIB.id, total, bio, batch))


def _compare_pcr(given: TaskInput) -> MetricResult:
    embedding = require(given.embedding)
    if given.pre_integrated is None:
        return to_row(given.name, SCIB.id, pcr_comparison.spec.id, Score(np.nan, n=embedding.n, note=_NOT_GIVEN))
    return measure(given, SCIB.id, pcr_comparison, given.pre_integrated, embedding, require(given.batch))


def _describe_mean(rows: Sequence[MetricResult], mean: MetricResult) -> MetricResult:
    """Set the number of cells of a mean score, and note which undefined scores it does not contain."""
    undefined = [row.metric for row in rows if np.isnan(row.value)]
    note = f"without {quoted(undefined)}, which is undefined" if undefined else ""
    return replace(mean, n=max(row.n for row in rows), note=note, approximate=any(row.approximate for row in rows))


SCIB = task_of_metrics(
    "scib",
    "Integration",
    "Are batches integrated, and is biology kept, by the scores of scib-metrics?",
    metrics=(*_SCIB_METRICS, bio_conservation, batch_correction, total),
    run=_score_integration,
    in_auto=False,
)

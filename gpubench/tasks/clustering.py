"""Do clusters of the embedding match known labels?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from gpubench.core.scores import CLUSTER, CellColumn, MetricResult
from gpubench.engines.steps import leiden_step
from gpubench.metrics._neighborhoods import search_params
from gpubench.metrics.clustering import adjusted_rand_index, leiden_clusters, normalized_mutual_info
from gpubench.tasks._task import Options, Task, TaskInput, measure, require, with_note

ID = "clustering"


def _run(given: TaskInput) -> Iterator[MetricResult]:
    embedding, label, options = require(given.embedding), require(given.label), given.options
    clusters = leiden_clusters(
        embedding,
        n_neighbors=options.n_cluster_neighbors,
        resolution=options.resolution,
        n_iterations=options.n_iterations,
    )
    used = min(options.n_cluster_neighbors, embedding.n)
    knn = embedding.knn(used - 1)  # the graph that the clusters were found in
    given.cells.columns.append(CellColumn(given.name, ID, CLUSTER, clusters.codes, names=clusters.names))
    cut = f"n_cluster_neighbors cut from {options.n_cluster_neighbors} to {used}, the number of cells"
    for metric in (adjusted_rand_index, normalized_mutual_info):
        row = measure(given, ID, metric, label, clusters, engine=given.engine)
        row = replace(row, params={**row.params, **search_params(knn)}, approximate=not knn.exact)
        yield row if used == options.n_cluster_neighbors else with_note(row, cut)


def _knn_k(options: Options) -> int:
    return options.n_cluster_neighbors - 1


TASK = Task(
    id=ID,
    title="Clustering",
    question="Do clusters of the embedding match known labels?",
    needs=("label",),
    metrics=("adjusted_rand_index", "normalized_mutual_info"),
    run=_run,
    operations=lambda _: ("leiden",),
    knn_k=_knn_k,
    steps=lambda sizes, options: (leiden_step(sizes, min(_knn_k(options), sizes.n - 1)),),
)

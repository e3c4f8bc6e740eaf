"""How well are batches integrated, by the default scores of scib-metrics' Benchmarker?"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace

import numpy as np

from gpubench.core.errors import quoted
from gpubench.core.scores import MetricResult, Score
from gpubench.metrics import lisi
from gpubench.metrics.aggregate import batch_correction, bio_conservation, total
from gpubench.metrics.clustering import nmi_ari_cluster_labels_kmeans_ari, nmi_ari_cluster_labels_kmeans_nmi
from gpubench.metrics.graph_connectivity import graph_connectivity
from gpubench.metrics.kbet import kbet_per_label
from gpubench.metrics.lisi import clisi_knn, ilisi_knn
from gpubench.metrics.pcr import pcr_comparison
from gpubench.metrics.silhouette import bras, isolated_labels, silhouette_label
from gpubench.tasks._task import Options, Task, TaskInput, measure, require, to_row

ID = "scib"

BIO = (
    isolated_labels,
    nmi_ari_cluster_labels_kmeans_nmi,
    nmi_ari_cluster_labels_kmeans_ari,
    silhouette_label,
    clisi_knn,
)
BATCH = (bras, ilisi_knn, kbet_per_label, graph_connectivity, pcr_comparison)

_NOT_GIVEN = "undefined: pre_integrated is not given; name the embedding before integration in it"


def _run(given: TaskInput) -> Iterator[MetricResult]:
    """Each score, then their means; nothing is rescaled between embeddings."""
    bio = yield from _kept(_bio_conservation(given))
    batch = yield from _kept(_batch_correction(given))
    of_bio, of_batch = [row.value for row in bio], [row.value for row in batch]
    yield _mean_of(bio, measure(given, ID, bio_conservation, of_bio))
    yield _mean_of(batch, measure(given, ID, batch_correction, of_batch))
    yield _mean_of([*bio, *batch], measure(given, ID, total, of_bio, of_batch))


def _bio_conservation(given: TaskInput) -> Iterator[MetricResult]:
    embedding, label, batch = require(given.embedding), require(given.label), require(given.batch)
    yield measure(given, ID, isolated_labels, embedding, label, batch)
    yield measure(given, ID, nmi_ari_cluster_labels_kmeans_nmi, embedding, label)
    yield measure(given, ID, nmi_ari_cluster_labels_kmeans_ari, embedding, label)
    yield measure(given, ID, silhouette_label, embedding, label)
    yield measure(given, ID, clisi_knn, embedding, label)


def _batch_correction(given: TaskInput) -> Iterator[MetricResult]:
    embedding, label, batch = require(given.embedding), require(given.label), require(given.batch)
    yield measure(given, ID, bras, embedding, label, batch)
    yield measure(given, ID, ilisi_knn, embedding, batch)
    yield measure(given, ID, kbet_per_label, embedding, batch, label)
    yield measure(given, ID, graph_connectivity, embedding, label)
    if given.pre_integrated is None:
        yield to_row(given.name, ID, pcr_comparison.spec.id, Score(np.nan, n=embedding.n, note=_NOT_GIVEN))
    else:
        yield measure(given, ID, pcr_comparison, given.pre_integrated, embedding, batch)


def _kept(rows: Iterable[MetricResult]) -> Generator[MetricResult, None, list[MetricResult]]:
    """Pass rows on and return them all."""
    kept = []
    for row in rows:
        yield row
        kept.append(row)
    return kept


def _mean_of(rows: list[MetricResult], mean: MetricResult) -> MetricResult:
    """Say of how many cells a mean is, and which scores it lacks."""
    undefined = [row.metric for row in rows if np.isnan(row.value)]
    note = f"without {quoted(undefined)}, which is undefined" if undefined else ""
    approximate = any(row.approximate for row in rows)
    return replace(mean, n=max(row.n for row in rows), note=note, approximate=approximate)


def _knn_k(_: Options) -> int:
    return lisi.NEIGHBORS - 1


TASK = Task(
    id=ID,
    title="Integration",
    question="Are batches integrated, and is biology kept, by the scores of scib-metrics?",
    needs=("label", "batch"),
    metrics=tuple(metric.spec.id for metric in (*BIO, *BATCH, bio_conservation, batch_correction, total)),
    run=_run,
    knn_k=_knn_k,
    in_auto=False,
)

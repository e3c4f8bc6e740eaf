"""What batch_integration and cross_species_integration share: the same two metrics over a different column."""

from __future__ import annotations

from collections.abc import Iterator

from gpubench.metrics.integration import entropy_per_cell
from gpubench.metrics.silhouette import silhouette_batch
from gpubench.tasks._task import Options, TaskInput, measure, require
from gpubench.types import Labels, MetricResult

METRICS = ("entropy_per_cell", "batch_silhouette")


def score_mixing(given: TaskInput, task: str, batch: Labels | None) -> Iterator[MetricResult]:
    """Yield both metrics of how `batch` is mixed, in neighbourhoods and within labels."""
    embedding, label, batch = require(given.embedding), require(given.label), require(batch)
    yield measure(given, task, entropy_per_cell, embedding, batch, n_neighbors=given.options.n_neighbors)
    yield measure(given, task, silhouette_batch, embedding, label, batch)


def knn_k(options: Options) -> int:
    """Neighbours that entropy_per_cell asks for."""
    return options.n_neighbors - 1

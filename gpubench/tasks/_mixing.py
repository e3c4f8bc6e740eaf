"""What batch_integration and cross_species_integration share: the same two metrics over a different column."""

from __future__ import annotations

from collections.abc import Iterator

from gpubench.core.scores import MetricResult
from gpubench.core.types import Labels
from gpubench.engines.steps import Sizes, Step, neighborhoods_step, silhouette_step
from gpubench.metrics.entropy import entropy_per_cell
from gpubench.metrics.silhouette import silhouette_batch
from gpubench.tasks._task import Options, TaskInput, measure, require

METRICS = ("entropy_per_cell", "batch_silhouette")


def score_mixing(given: TaskInput, task: str, batch: Labels | None) -> Iterator[MetricResult]:
    """Yield both metrics of how `batch` is mixed, in neighbourhoods and within labels."""
    embedding, label, batch = require(given.embedding), require(given.label), require(batch)
    yield measure(given, task, entropy_per_cell, embedding, batch, n_neighbors=given.options.n_neighbors)
    yield measure(given, task, silhouette_batch, embedding, label, batch)


def steps(sizes: Sizes, options: Options, role: str) -> tuple[Step, ...]:
    """Both metrics, of the column of this role."""
    return (
        neighborhoods_step("entropy_per_cell", sizes, min(options.n_neighbors, sizes.n) - 1),
        silhouette_step("batch_silhouette", sizes, role, within="label"),
    )


def knn_k(options: Options) -> int:
    """Neighbours that entropy_per_cell asks for."""
    return options.n_neighbors - 1

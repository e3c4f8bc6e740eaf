"""Is the order of time points kept?"""

from __future__ import annotations

from collections.abc import Iterator

from gpubench.core.scores import MetricResult
from gpubench.engines.steps import Sizes, Step, look_up_step, silhouette_step
from gpubench.metrics.sequential_alignment import DENSITY_NEIGHBORS, sequential_alignment
from gpubench.metrics.silhouette import silhouette_label
from gpubench.tasks._task import Options, Task, TaskInput, measure, require, with_note

ID = "sequential_organization"


def _run(given: TaskInput) -> Iterator[MetricResult]:
    embedding, options = require(given.embedding), given.options
    yield measure(given, ID, silhouette_label, embedding, require(given.time_label))
    k = min(options.k, embedding.n - 1)
    row = measure(
        given,
        ID,
        sequential_alignment,
        embedding,
        require(given.time),
        k=k,
        normalize=options.normalize,
        adaptive_k=options.adaptive_k,
    )
    yield row if k == options.k else with_note(row, f"k cut from {options.k} to {k}, the number of other cells")


def _knn_k(options: Options) -> int:
    return max(DENSITY_NEIGHBORS, 2 * options.k) if options.adaptive_k else options.k


def _steps(sizes: Sizes, options: Options) -> tuple[Step, ...]:
    return (
        silhouette_step("silhouette_score", sizes, "time_label"),
        look_up_step("sequential_alignment", sizes, min(_knn_k(options), sizes.n - 1)),
    )


TASK = Task(
    id=ID,
    title="Sequential organization",
    question="Is the order of time points kept in the embedding?",
    needs=("time",),
    metrics=("silhouette_score", "sequential_alignment"),
    run=_run,
    knn_k=_knn_k,
    steps=_steps,
)

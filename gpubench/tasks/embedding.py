"""Are labels separated in the embedding?"""

from __future__ import annotations

from collections.abc import Iterator

from gpubench.core.scores import MetricResult
from gpubench.engines.steps import silhouette_step
from gpubench.metrics.silhouette import silhouette_label
from gpubench.tasks._task import Task, TaskInput, measure, require

ID = "embedding"


def _run(given: TaskInput) -> Iterator[MetricResult]:
    yield measure(given, ID, silhouette_label, require(given.embedding), require(given.label))


TASK = Task(
    id=ID,
    title="Embedding",
    question="Are labels separated in the embedding?",
    needs=("label",),
    metrics=("silhouette_score",),
    run=_run,
    steps=lambda sizes, _: (silhouette_step("silhouette_score", sizes, "label"),),
)

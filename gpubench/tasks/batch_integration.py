"""Are batches mixed within labels?"""

from __future__ import annotations

from collections.abc import Iterator

from gpubench.core.scores import MetricResult
from gpubench.tasks._mixing import METRICS, knn_k, score_mixing, steps
from gpubench.tasks._task import Task, TaskInput

ID = "batch_integration"


def _run(given: TaskInput) -> Iterator[MetricResult]:
    yield from score_mixing(given, ID, given.batch)


TASK = Task(
    id=ID,
    title="Batch integration",
    question="Are batches mixed within labels?",
    needs=("label", "batch"),
    metrics=METRICS,
    run=_run,
    knn_k=knn_k,
    estimated=True,
    steps=lambda sizes, options: steps(sizes, options, "batch"),
)

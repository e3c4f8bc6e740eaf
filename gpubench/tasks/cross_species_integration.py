"""Are species aligned?"""

from __future__ import annotations

from collections.abc import Iterator

from gpubench.core.scores import MetricResult
from gpubench.tasks._mixing import METRICS, knn_k, score_mixing, steps
from gpubench.tasks._task import Task, TaskInput

ID = "cross_species_integration"


def _run(given: TaskInput) -> Iterator[MetricResult]:
    yield from score_mixing(given, ID, given.species)


TASK = Task(
    id=ID,
    title="Cross-species integration",
    question="Are species aligned in the embedding?",
    needs=("label", "species"),
    metrics=METRICS,
    run=_run,
    knn_k=knn_k,
    estimated=True,
    steps=lambda sizes, options: steps(sizes, options, "species"),
    baseline=None,
)

"""Which metrics answer which question: the tasks of cz-benchmarks, and the scores of scib-metrics as one task."""

from __future__ import annotations

from gpubench.tasks import (
    batch_integration,
    clustering,
    cross_species_integration,
    cross_species_label_prediction,
    embedding,
    label_prediction,
    perturbation_expression_prediction,
    scib,
    sequential_organization,
)
from gpubench.tasks._task import Options, Task, TaskInput

__all__ = ["TASKS", "Options", "Task", "TaskInput"]

TASKS: dict[str, Task] = {
    module.TASK.id: module.TASK
    for module in (
        clustering,
        embedding,
        label_prediction,
        batch_integration,
        cross_species_integration,
        cross_species_label_prediction,
        sequential_organization,
        perturbation_expression_prediction,
        scib,
    )
}

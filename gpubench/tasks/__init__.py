"""Tasks: those of cz-benchmarks, the scores of scib-metrics as one task, and predictions of perturbations."""

from __future__ import annotations

from gpubench.tasks import label_prediction, metric_tasks, perturbation_expression_prediction, perturbation_prediction
from gpubench.tasks._task import Options, Task, TaskInput

__all__ = ["TASKS", "Options", "Task", "TaskInput"]

TASKS: dict[str, Task] = {
    task.id: task
    for task in (
        metric_tasks.CLUSTERING,
        metric_tasks.EMBEDDING,
        label_prediction.LABEL_PREDICTION,
        metric_tasks.BATCH_INTEGRATION,
        metric_tasks.CROSS_SPECIES_INTEGRATION,
        label_prediction.CROSS_SPECIES_LABEL_PREDICTION,
        metric_tasks.SEQUENTIAL_ORGANIZATION,
        perturbation_expression_prediction.TASK,
        perturbation_prediction.TASK,
        metric_tasks.SCIB,
    )
}
"""Task id -> task, in the order in which tasks run."""

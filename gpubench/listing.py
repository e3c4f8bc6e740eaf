"""What exists, as text: tasks, metrics, and what the metrics of a result mean."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict


def tasks_text() -> str:
    """Each task with its question, what it needs and what it gives; then the parameters of all."""
    from gpubench.tasks import TASKS, Options

    blocks = [
        f"{task.id}\n  {task.question}\n  needs: {', '.join(task.needs)}\n  gives: {', '.join(task.metrics)}"
        for task in TASKS.values()
    ]
    defaults = (f"  {name}={value}" for name, value in asdict(Options()).items())
    return "\n".join([*blocks, "", "Parameters for --option, with their defaults:", *defaults])


def metrics_text() -> str:
    """Each metric with its range and what it says."""
    from gpubench.metrics import METRICS

    specs = [metric.spec for metric in METRICS.values()]
    return "\n".join(f"{s.id}  [{s.bounds[0]:g}, {s.bounds[1]:g}]\n  {s.description}" for s in specs)


def meanings_text(metrics: Iterable[str]) -> str:
    """A line for each of some metrics: what it says, and which end is better."""
    from gpubench.metrics import METRICS

    better = {True: "Higher is better.", False: "Lower is better.", None: ""}
    specs = [METRICS[metric].spec for metric in dict.fromkeys(metrics)]
    return "\n".join(f"  {s.id}: {s.description} {better[s.higher_is_better]}".rstrip() for s in specs)

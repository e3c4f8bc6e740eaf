"""Lists of tasks and metrics, as text and as JSON values."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable
from typing import Any

_WIDTH = 74


def tasks_text() -> str:
    """Format each task with its question, inputs and metrics; then the parameters of all tasks."""
    from gpubench.tasks import TASKS, Options

    blocks = [
        f"{task.id}\n  {task.question}\n  needs: {', '.join(task.needs)}\n  gives: {', '.join(task.metrics)}"
        for task in TASKS.values()
    ]
    defaults = (f"  {name}={_written(value)}" for name, value in Options().to_dict().items())
    return "\n".join([*blocks, "", "Parameters for --option, with their defaults:", *defaults])


def _written(value: Any) -> str:
    """Format a value as --option takes it."""
    return ",".join(value) if isinstance(value, list) else str(value)


def tasks_data() -> dict[str, Any]:
    """Return the tasks and their parameters as JSON values."""
    from gpubench.tasks import TASKS, Options

    tasks = [
        {
            "id": task.id,
            "title": task.title,
            "question": task.question,
            "needs": list(task.needs),
            "metrics": list(task.metrics),
            "baseline": task.baseline,
            "in_auto": task.in_auto,
        }
        for task in TASKS.values()
    ]
    return {"tasks": tasks, "options": Options().to_dict()}


def tasks_table() -> str:
    """Return the Markdown table of the tasks and their metrics, as the README has it."""
    from gpubench.tasks import TASKS

    rows = [("task", "asks", "needs", "metrics"), ("---",) * 4]
    for task in TASKS.values():
        metrics = ", ".join(f"`{metric}`" for metric in task.metrics)
        rows.append((f"`{task.id}`", task.question, ", ".join(task.needs), metrics))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows).replace("| --- | --- | --- | --- |", "|---|---|---|---|")


def metrics_data() -> list[dict[str, Any]]:
    """Return the metrics as JSON values; an infinite end of a range is null."""
    from gpubench.metrics import METRICS

    return [
        {
            "id": spec.id,
            "title": spec.title,
            "bounds": [end if math.isfinite(end) else None for end in spec.bounds],
            "higher_is_better": spec.higher_is_better,
            "description": spec.description,
            "mean_over": spec.mean_over,
        }
        for spec in (metric.spec for metric in METRICS.values())
    ]


def metrics_text() -> str:
    """Format each metric with its range and description."""
    from gpubench.metrics import METRICS

    specs = [metric.spec for metric in METRICS.values()]
    return "\n".join(f"{s.id}  [{s.bounds[0]:g}, {s.bounds[1]:g}]\n  {s.description}" for s in specs)


def meanings_text(metrics: Iterable[str]) -> str:
    """Format the descriptions of some metrics, wrapped, with the direction that is better."""
    from gpubench.metrics import METRICS

    better = {True: "Higher is better.", False: "Lower is better.", None: ""}
    specs = [METRICS[metric].spec for metric in dict.fromkeys(metrics)]
    blocks = []
    for spec in specs:
        text = f"{spec.description} {better[spec.higher_is_better]}".rstrip()
        blocks.append(f"  {spec.id}\n{textwrap.indent(textwrap.fill(text, _WIDTH), '    ')}")
    return "\n".join(blocks)

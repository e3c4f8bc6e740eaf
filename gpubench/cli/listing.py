"""List the tasks and the metrics, as text or as JSON-ready values."""

from __future__ import annotations

import inspect
import math
import textwrap
from collections.abc import Iterable
from typing import Any

from gpubench.core.errors import InputError, close_matches
from gpubench.core.scores import plain
from gpubench.metrics import METRICS, MetricSpec
from gpubench.metrics.perturbation import PERTURBATION_METRICS
from gpubench.metrics.published import published_spec
from gpubench.tasks import TASKS, Options

_WIDTH = 74


def tasks_text() -> str:
    """Return text on each task (question, inputs, metrics), and then on the parameters of all tasks."""
    blocks = [
        f"{task.id}\n  {task.question}\n  needs: {', '.join(task.needs)}\n  gives: {', '.join(task.metrics)}"
        for task in TASKS.values()
    ]
    options = Options().to_dict().items()
    defaults = (f"  {name}={','.join(value) if isinstance(value, list) else value}" for name, value in options)
    return "\n".join([*blocks, "", "Parameters for --option, with their defaults:", *defaults])


def tasks_data() -> dict[str, Any]:
    """Return the tasks, and the parameters of all tasks, as a JSON-ready dictionary."""
    shown = ("id", "title", "question", "needs", "metrics", "baseline", "in_auto")
    tasks = [{name: plain(getattr(task, name)) for name in shown} for task in TASKS.values()]
    return {"tasks": tasks, "options": Options().to_dict()}


MAX_LISTED = 12
"""Largest number of metrics that the table of the README lists for a task."""


def tasks_table() -> str:
    """Return a Markdown table of the tasks and their metrics, for the README."""
    rows = ["| task | asks | needs | metrics |", "|---|---|---|---|"]
    for task in TASKS.values():
        metrics = ", ".join(f"`{metric}`" for metric in task.metrics[:MAX_LISTED])
        if len(task.metrics) > MAX_LISTED:
            metrics += f" and {len(task.metrics) - MAX_LISTED} more"
        rows.append(f"| `{task.id}` | {task.question} | {', '.join(task.needs)} | {metrics} |")
    return "".join(f"{row}\n" for row in rows)


def metrics_data() -> list[dict[str, Any]]:
    """Return the metrics as JSON-ready dictionaries; infinite bounds are None."""
    shown = ("id", "title", "bounds", "higher_is_better", "description", "mean_over")
    found = []
    for spec in _specs():
        bounds = [end if math.isfinite(end) else None for end in spec.bounds]
        found.append({name: getattr(spec, name) for name in shown} | {"bounds": bounds})
    return found


def _specs() -> list[MetricSpec]:
    """Return the declarations of all metrics, those of predicted perturbations last."""
    return [spec for spec in map(published_spec, [*METRICS, *PERTURBATION_METRICS]) if spec]


def metrics_text() -> str:
    """Return text on each metric: its id, range and description."""
    specs = _specs()
    return "\n".join(f"{s.id}  [{s.bounds[0]:g}, {s.bounds[1]:g}]\n  {s.description}" for s in specs)


METRIC_ALIASES = {
    "ari": "adjusted_rand_index",
    "nmi": "normalized_mutual_info",
    "asw": "silhouette_score",
    "silhouette": "silhouette_score",
    "asw_batch": "batch_silhouette",
    "ilisi": "ilisi_knn",
    "clisi": "clisi_knn",
    "pcr": "pcr_comparison",
    "entropy": "entropy_per_cell",
}
"""Short names, in lower case -> ids."""


def find_metric(name: str) -> str:
    """Return the id of a metric that is named by its id, its title or a short name, in any case."""
    by_name = {metric.spec.title.lower(): id_ for id_, metric in METRICS.items()}
    by_name |= {id_.lower(): id_ for id_ in METRICS} | METRIC_ALIASES
    if name.lower() not in by_name:
        raise InputError(f"metric {name!r} is unknown{close_matches(name, METRICS)}; gpubench metrics lists all")
    return by_name[name.lower()]


def metric_text(id_: str) -> str:
    """Format a metric with its range and direction, its formula and its reference."""
    function = METRICS[id_]
    spec = function.spec
    better = {True: "higher is better", False: "lower is better", None: "neither end is better"}
    text = inspect.getdoc(function) or spec.description
    description, _, rest = text.partition("\nParameters\n---")
    reference = rest.partition("\nReferences\n----------\n")[2].partition("\n\n")[0]
    head = f"{spec.title} ({id_})\n[{spec.bounds[0]:g}, {spec.bounds[1]:g}], {better[spec.higher_is_better]}"
    return "\n\n".join(filter(None, (head, description.replace(".. math:: ", "").strip(), reference.strip())))


def meanings_text(metrics: Iterable[str]) -> str:
    """Return text on some metrics: the id and description of each, and whether higher or lower is better."""
    better = {True: "Higher is better.", False: "Lower is better.", None: ""}
    blocks = []
    for metric in dict.fromkeys(metrics):
        spec = published_spec(metric)
        if spec is None:  # a scorer of the user
            continue
        text = f"{spec.description} {better[spec.higher_is_better]}".rstrip()
        blocks.append(f"  {spec.id}\n{textwrap.indent(textwrap.fill(text, _WIDTH), '    ')}")
    return "\n".join(blocks)

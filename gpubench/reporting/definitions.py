"""What tasks and metrics mean, from what stands beside their code."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import inf

from gpubench.metrics import METRICS
from gpubench.table import printable
from gpubench.tasks import TASKS

_DOI = re.compile(r"doi:(10\.\d{4,}/[^\s,;]*[^\s,;.)])")
_BETTER = {True: "higher is better", False: "lower is better", None: "neither end is better"}


@dataclass(frozen=True, slots=True)
class TaskText:
    """A task in words; one that this version does not know has its id for a title and no question."""

    id: str
    title: str
    question: str


@dataclass(frozen=True, slots=True)
class MetricText:
    """A metric in words.

    Attributes
    ----------
    id, title : as in `MetricSpec`; a scorer of the user's has its id for a title
    definition : one sentence on what it is
    scale : one sentence on its range and its better end
    dois : of the papers that define it
    """

    id: str
    title: str
    definition: str
    scale: str
    dois: tuple[str, ...]


def describe_task(task: str) -> TaskText:
    """The title and question of a task."""
    if task not in TASKS:
        return TaskText(printable(task), printable(task), "")
    return TaskText(task, TASKS[task].title, TASKS[task].question)


def describe_metric(metric: str) -> MetricText:
    """The definition of a metric."""
    if metric not in METRICS:
        name = printable(metric)
        return MetricText(
            name, name, "A score that this version of gpubench does not define, such as your own.", "", ()
        )
    published = METRICS[metric]
    spec, (low, high) = published.spec, published.spec.bounds
    bounds = f"At least {low:g}" if high == inf else f"From {low:g} to {high:g}".replace("-", "−")
    scale = f"{bounds}; {_BETTER[spec.higher_is_better]}."
    dois = tuple(dict.fromkeys(_DOI.findall(published.__doc__ or "")))
    return MetricText(spec.id, spec.title, spec.description, scale, dois)

"""The directives `metric` and `perturbation-metrics`: what the declarations and docstrings say of the metrics.

The texts on what a metric can and cannot tell stand in the pages themselves.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sphinx.util.docutils import SphinxDirective

from gpubench.metrics import METRICS
from gpubench.metrics.perturbation import PERTURBATION_METRICS, PROFILES
from gpubench.tasks import TASKS, Options

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx

SCALE = Path(__file__).parents[2] / "benchmarks" / "results" / "scale.json"
"""Measured seconds of the stages of runs of growing size."""

BETTER = {True: "higher is better", False: "lower is better", None: "neither end is better"}


def sections(function: Any) -> dict[str, str]:
    """Split a numpydoc docstring into its sections; the text before the first one has the name ''."""
    text = inspect.getdoc(function) or ""
    pieces = re.split(r"^(\w[\w ]*)\n-{3,}$", text, flags=re.MULTILINE)
    return {"": pieces[0].strip()} | {name: body.strip() for name, body in zip(pieces[1::2], pieces[2::2], strict=True)}


def number(value: float) -> str:
    """Return a bound as text."""
    return f"{value:g}" if math.isfinite(value) else ("∞" if value > 0 else "−∞")


def measured(metric: str) -> str:
    """Return the recorded seconds of the stages of a metric, or "" if there are none."""
    rows = json.loads(SCALE.read_text())["rows"]
    seconds = {
        row["n"]: [stage["seconds"] for stage in row["stages"] if stage["stage"].rpartition("/")[2] == metric]
        for row in rows
    }
    shown = [
        f"{n:,} cells {max(found):.2g} s" for n, found in seconds.items() if found and n in (10_000, 100_000, 1_000_000)
    ]
    return "; ".join(shown)


def facts(metric: str) -> Iterator[tuple[str, str]]:
    """Yield the rows of the table of a metric: what, and its text in reStructuredText."""
    function = METRICS[metric]
    spec = function.spec
    yield "Id", f"``{metric}``"
    yield "In Python", f":func:`gpubench.metrics.{function.__name__}`"
    yield "Range", f"{number(spec.bounds[0])} to {number(spec.bounds[1])}, {BETTER[spec.higher_is_better]}"
    if spec.needs:
        yield "Needs", ", ".join(("embedding", *spec.needs))
    tasks = [f"``{task.id}``" for task in TASKS.values() if metric in task.metrics]
    if tasks:
        yield "Tasks", ", ".join(tasks)
    if spec.options:
        yield "Options", ", ".join(f"``{option}``" for option in spec.options)
    if spec.neighbors:
        yield (
            "Neighbours",
            f"{spec.neighbors(Options())} by default, from the graph that all metrics share",
        )
    seconds = measured(metric)
    if seconds:
        yield "Time", f"{seconds} (50 dimensions, two CPU cores, the shared graph not counted)"


def metric_page(metric: str, *others: str) -> str:
    """Return reStructuredText on a metric of embeddings or vectors, and the names of others that differ in little."""
    text = sections(METRICS[metric])
    similar = [f"``{other}`` (:func:`gpubench.metrics.{METRICS[other].__name__}`)" for other in others]
    given = [*facts(metric), *([("Similar", ", ".join(similar))] if similar else [])]
    rows = "".join(f"   * - {name}\n     - {value}\n" for name, value in given)
    parts = [
        f".. list-table::\n   :widths: 20 80\n\n{rows}",
        text[""],
        f"*Value.* {value_text(text.get('Returns', ''))}",
    ]
    parts += [text[name] for name in ("Notes",) if name in text]
    parts += [f"*Papers.* {text['References']}"] if "References" in text else []
    return "\n\n".join(parts)


def value_text(returns: str) -> str:
    """Return the description of what is returned, without the type."""
    return " ".join(line.strip() for line in returns.splitlines()[1:])


def perturbation_page(name: str) -> str:
    """Return reStructuredText on the metrics of predicted perturbations that one function computes."""
    found = [metric for metric in PERTURBATION_METRICS.values() if metric.function.__name__ == name]
    if not found:
        raise ValueError(f"no metric of perturbations is computed by {name!r}")
    best = {"low": "0 is best", "high": f"{found[0].bounds[1]:g} is best", "open": "more is better", "none": "neither"}
    rows = "".join(
        f"   * - ``{m.id}``\n     - {number(m.bounds[0])} to {number(m.bounds[1])}, {best[m.best]}\n"
        f"     - {', '.join(f'``{profile}``' for profile, ids in PROFILES.items() if m.id in ids) or 'by name'}\n"
        f"     - {m.description}\n"
        for m in found
    )
    head = "   * - id\n     - range\n     - profiles\n     - what\n"
    text = sections(found[0].function)
    table = f".. list-table::\n   :header-rows: 1\n   :widths: 28 16 20 36\n\n{head}{rows}"
    papers = f"*Papers.* {text['References']}" if "References" in text else ""
    return "\n\n".join(filter(None, (text[""], table, papers)))


class MetricText(SphinxDirective):
    """Insert what is declared of a metric."""

    required_arguments = 1
    optional_arguments = 5

    def run(self) -> list[nodes.Node]:
        """Return the nodes."""
        self.env.note_dependency(str(SCALE))
        text = metric_page(*self.arguments) if self.name == "metric" else perturbation_page(*self.arguments)
        return self.parse_text_to_nodes(f"````{{eval-rst}}\n{text}\n````")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("metric", MetricText)
    app.add_directive("perturbation-metrics", MetricText)
    return {"parallel_read_safe": True}

"""Render the HTML page of a report, with content, figures and style in one file."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from gpubench.comparison.perturbation_models import TASK as PERTURBATION_PREDICTION
from gpubench.metrics.perturbation.effects import MAX_EXAMPLE_GENES
from gpubench.reporting.cell_groups import Breakdown, Confusion, breakdowns, confusions
from gpubench.reporting.cell_views import cell_views
from gpubench.reporting.content import ComparableRuns, TaskContent, comparable_runs
from gpubench.reporting.figures import (
    MAX_GROUPS,
    confusion_figure,
    quantiles_figure,
    scores_figure,
    stages,
    timeline_figure,
)
from gpubench.reporting.perturbation_views import PerturbationView, perturbation_view
from gpubench.results.result import Result
from gpubench.results.runs import mean_of
from gpubench.results.table import format_value, printable

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

Facts = list[tuple[str, str]]


def facts(provenance: Mapping[str, Any]) -> Facts:
    """Return the provenance as a flat list of (name, value) texts.

    Names of nested entries are joined by a blank; all packages are one entry.
    """
    packages = [f"{name} {version}" for name, version in provenance.get("packages", {}).items()]
    flat = _flat({**{key: value for key, value in provenance.items() if key != "packages"}, "packages": packages})
    return [(printable(name), printable(text)) for name, text in flat]


def _flat(values: Mapping[str, Any], outer: str = "") -> Facts:
    flat: Facts = []
    for key, value in values.items():
        name = f"{outer} {key if outer == 'options' else key.replace('_', ' ')}".strip()
        if isinstance(value, Mapping):
            flat += _flat(value, name)
        elif value not in (None, "", []):
            flat.append((name.removesuffix(" bytes"), _text(key, value)))
    return flat


def _text(key: str, value: Any) -> str:
    if key == "memory_bytes":
        return f"{value / 1e9:.1f} GB"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


MAX_COLUMNS = 6
"""Maximum number of embeddings shown as columns of a table; more are shown as rows, with metrics as columns."""

MAX_DRAWN = 8
"""Maximum number of embeddings in a figure, as many as there are colours: those with the best mean ranks."""

MAX_VIEWS = 12
"""Maximum number of views on a page; a file with more would be slow to open."""

_FOLDED_ABOVE = 24
"""Maximum number of rows of a task that the page shows at first; of more only the means, the others on request."""


@dataclass(frozen=True, slots=True)
class TaskSection:
    """Section of the page about one task."""

    anchor: str  # HTML id of the section
    task: TaskContent  # the task with all embeddings, for the summary
    own: TaskContent  # the task with the embeddings that it scored
    embeddings: tuple[str, ...]  # names of the embeddings that it scored
    figure: Markup | None  # figure of the scores; None for too few scores
    breakdowns: list[tuple[Breakdown, Markup | None]]  # scores by group, each with its figure
    confusions: list[tuple[Confusion, Markup | None]]  # confusion matrices, each with a figure if too large for a table
    drawn: tuple[str, ...]  # names of the embeddings in the figures
    order: tuple[int, ...]  # positions in `embeddings`, sorted by mean rank, the best first
    perturbations: PerturbationView | None = None  # values of each perturbation, for predictions of them

    @property
    def folded(self) -> bool:
        """Whether the section shows only the means at first, and all rows on request."""
        return len(self.task.defined) > _FOLDED_ABOVE and bool(self.task.headlines)


def render(runs: Mapping[str, Result]) -> str:
    """Return the HTML of a report of several results; `runs` maps a name to each result.

    Text from the data is escaped, and the page forbids scripts and network requests.
    """
    from markupsafe import Markup

    environment = page_environment("gpubench.reporting")
    comparable = comparable_runs(runs)
    max_views = min(6, max(1, MAX_VIEWS // max(1, len(comparable))))
    return environment.get_template("report.html.jinja").render(
        css=Markup(resources.files("gpubench.reporting").joinpath("report.css").read_text()),  # noqa: S704 - our own
        datasets=[_runs_section(found, f"data-{i}", max_views) for i, found in enumerate(comparable, 1)],
        overview=_overview(comparable) if len(comparable) > 1 else [],
        runs=[_run_section(printable(name), result, i) for i, (name, result) in enumerate(runs.items(), 1)],
    )


def page_environment(package: str) -> Environment:
    """Return the environment of Jinja for the templates in a package, which escapes all text from the data."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(package, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"code": _code, "trusted": trusted, "breakable": _breakable, "score": _score}
    environment.globals |= {
        "max_groups": MAX_GROUPS,
        "max_columns": MAX_COLUMNS,
        "max_example_genes": MAX_EXAMPLE_GENES,
    }
    return environment


def _overview(datasets: Sequence[ComparableRuns]) -> list[dict[str, Any]]:
    """Return a row per embedding, the best first: its mean rank on each dataset, and shades from 0 (worst) to 1."""
    names = dict.fromkeys(name for runs in datasets for name in runs.ranks if len(runs.ranks) > 1)
    rows = []
    for name in names:
        ranks = [runs.ranks.get(name) if len(runs.ranks) > 1 else None for runs in datasets]
        shades = [
            None if rank is None else 1 - (rank - 1) / (len(runs.ranks) - 1)
            for rank, runs in zip(ranks, datasets, strict=True)
        ]
        rows.append({"name": name, "mean": mean_of(ranks), "cells": list(zip(ranks, shades, strict=True))})
    return sorted(rows, key=lambda row: row["mean"])


def _runs_section(runs: ComparableRuns, anchor: str, max_views: int) -> dict[str, Any]:
    """Return the template's values for comparable runs: the sections of their tasks, and the views of their cells."""
    sections = [_task_section(runs, task, f"{anchor}-task-{i}") for i, task in enumerate(runs.tasks, 1)]
    ordered = [runs.cells[i] for i in runs.order]
    views, not_drawn = cell_views(ordered, runs.seed, f"{anchor}-look", max_views)
    return {"anchor": anchor, "comparison": runs, "sections": sections, "views": views, "not_drawn": not_drawn}


def _task_section(runs: ComparableRuns, task: TaskContent, anchor: str) -> TaskSection:
    own, embeddings = task.narrowed(runs.embeddings)
    order = [embeddings.index(runs.embeddings[i]) for i in runs.order if runs.embeddings[i] in embeddings]
    cells = [cells for cells in runs.cells if cells.name in embeddings]
    chosen = sorted(order[:MAX_DRAWN])
    drawn = tuple(embeddings[i] for i in chosen)
    by_group = [
        (breakdown, trusted(quantiles_figure(breakdown.narrowed(chosen), drawn, f"{anchor}-spreads-{i}")))
        for i, breakdown in enumerate(breakdowns(task.id, cells))
    ]
    by_class = []
    for i, confusion in enumerate(confusions(task.id, cells)):
        figure = None if confusion.fits_a_table else confusion_figure(confusion, f"{anchor}-matrix-{i}")
        by_class.append((confusion, trusted(figure)))
    points = own if len(chosen) == len(embeddings) else own.choose(chosen)
    figure = trusted(scores_figure(points, drawn, f"{anchor}-scores"))
    view = perturbation_view(runs.results, f"{anchor}-perturbations") if task.id == PERTURBATION_PREDICTION else None
    return TaskSection(anchor, task, own, embeddings, figure, by_group, by_class, drawn, tuple(order), view)


def _run_section(name: str, result: Result, number: int) -> dict[str, Any]:
    """Return the template's values for one run: stages, time, memory, command and provenance."""
    own = stages(result)
    figure = trusted(timeline_figure(own, f"timeline-{number}"))
    about = {key: value for key, value in result.provenance.items() if key != "command"}
    return {
        "name": name,
        "stages": own,
        "seconds": max((stage.start_s + stage.seconds for stage in own), default=0.0),
        "figure": figure,
        "command": printable(result.provenance.get("command") or ""),
        "facts": facts(about),
    }


def _score(value: float | None) -> str:
    """Format a score; a dash if there is none."""
    return "—" if value is None or math.isnan(value) else format_value(value)


def _breakable(text: str) -> Markup:
    """Escape a name and allow line breaks in it, after underscores, dashes, dots and slashes only."""
    from markupsafe import Markup, escape

    parts = re.split(r"(?<=[_./-])(?=\w)", text)
    return Markup("<wbr>").join(map(escape, parts))


def trusted(svg: str | None) -> Markup | None:
    """Mark text as safe HTML: a style, or an SVG element made by `to_svg`, in which text from the data is escaped."""
    from markupsafe import Markup

    return None if svg is None else Markup(svg)  # noqa: S704 - see the docstring


def _code(text: str) -> Markup:
    """Escape text, and format parts between backticks as code."""
    from markupsafe import Markup, escape

    parts = re.split(r"`([^`]*)`", text)
    marked = (Markup("<code>{}</code>").format(part) if i % 2 else escape(part) for i, part in enumerate(parts))
    return Markup().join(marked)

"""HTML page of a report: its content, figures and style in one file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpubench.core.errors import InputError
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
from gpubench.results.result import Result
from gpubench.results.table import printable

if TYPE_CHECKING:
    from markupsafe import Markup

Facts = list[tuple[str, str]]


def facts(provenance: Mapping[str, Any]) -> Facts:
    """Return name and value of each entry of the provenance, with nested names joined; the packages are one entry."""
    packages = [f"{name} {version}" for name, version in provenance.get("packages", {}).items()]
    flat = _flat({**{key: value for key, value in provenance.items() if key != "packages"}, "packages": packages})
    return [(printable(name), printable(text)) for name, text in flat]


def _flat(values: Mapping[str, Any], outer: str = "") -> Facts:
    flat: Facts = []
    for key, value in values.items():
        name = f"{outer} {key.replace('_', ' ')}".strip()
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


_NAME = "results.json"


def read_runs(place: Path) -> dict[str, Result]:
    """Read a result file, or all files of a folder: its `*.json`, or else each `results.json` below it.

    Returns names, which distinguish a file from the others, with the results.
    """
    if not place.is_dir():
        return {place.stem: Result.from_json(place)}
    files = sorted(place.glob("*.json")) or sorted(place.rglob(_NAME))
    if not files:
        raise InputError(f"{str(place)!r} holds no result; give a results.json, or a folder that --out named")
    return {_name(file, place): Result.from_json(file) for file in files}


def _name(file: Path, folder: Path) -> str:
    within = file.relative_to(folder)
    return within.parent.as_posix() if within.name == _NAME and len(within.parts) > 1 else within.stem


_FOLDED_ABOVE = 24
"""Tasks with more rows show their means, and the other rows on request."""


@dataclass(frozen=True, slots=True)
class TaskSection:
    """Task on the page."""

    anchor: str  # its id
    task: TaskContent  # with all embeddings, for the summary
    own: TaskContent  # with the embeddings that it scored
    embeddings: tuple[str, ...]  # names of these
    figure: Markup | None  # of the scores; None for too few
    breakdowns: list[tuple[Breakdown, Markup | None]]  # with their figures
    confusions: list[tuple[Confusion, Markup | None]]

    @property
    def folded(self) -> bool:
        """Whether only the means are shown at first."""
        return len(self.task.defined) > _FOLDED_ABOVE and bool(self.task.headlines)


def render(runs: Mapping[str, Result]) -> str:
    """Render the HTML of a report: text from data is escaped, and the page forbids scripts and requests."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    loader = PackageLoader("gpubench.reporting", ".")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"code": _code, "trusted": _trusted}
    environment.globals["max_groups"] = MAX_GROUPS
    return environment.get_template("report.html.jinja").render(
        css=Markup(resources.files("gpubench.reporting").joinpath("report.css").read_text()),  # noqa: S704 - our own
        datasets=[_runs_section(found, f"data-{i}") for i, found in enumerate(comparable_runs(runs), 1)],
        runs=[_run_section(printable(name), result, i) for i, (name, result) in enumerate(runs.items(), 1)],
    )


def _runs_section(runs: ComparableRuns, anchor: str) -> dict[str, Any]:
    """Return comparable runs with the sections of their tasks."""
    sections = [_task_section(runs, task, f"{anchor}-task-{i}") for i, task in enumerate(runs.tasks, 1)]
    views = cell_views(runs.cells, runs.seed, f"{anchor}-look")
    return {"anchor": anchor, "comparison": runs, "sections": sections, "views": views}


def _task_section(runs: ComparableRuns, task: TaskContent, anchor: str) -> TaskSection:
    own, embeddings = task.narrowed(runs.embeddings)
    cells = [cells for cells in runs.cells if cells.name in embeddings]
    by_group = [
        (breakdown, _trusted(quantiles_figure(breakdown, embeddings, f"{anchor}-spreads-{i}")))
        for i, breakdown in enumerate(breakdowns(task.id, cells))
    ]
    by_class = []
    for i, confusion in enumerate(confusions(task.id, cells)):
        figure = None if confusion.fits_a_table else confusion_figure(confusion, f"{anchor}-matrix-{i}")
        by_class.append((confusion, _trusted(figure)))
    figure = _trusted(scores_figure(own, embeddings, f"{anchor}-scores"))
    return TaskSection(anchor, task, own, embeddings, figure, by_group, by_class)


def _run_section(name: str, result: Result, number: int) -> dict[str, Any]:
    """Return time, memory and provenance of one run."""
    own = stages(result)
    figure = _trusted(timeline_figure(own, f"timeline-{number}"))
    return {"name": name, "stages": own, "figure": figure, "facts": facts(result.provenance)}


def _trusted(svg: str | None) -> Markup | None:
    """Mark an SVG of ours as safe; text from data is escaped in it already."""
    from markupsafe import Markup

    return None if svg is None else Markup(svg)  # noqa: S704 - see the docstring


def _code(text: str) -> Markup:
    """Format text between backticks as code."""
    from markupsafe import Markup, escape

    parts = re.split(r"`([^`]*)`", text)
    marked = (Markup("<code>{}</code>").format(part) if i % 2 else escape(part) for i, part in enumerate(parts))
    return Markup().join(marked)

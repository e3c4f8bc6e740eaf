"""HTML page of a report: its content, figures and style in one file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpubench.core.errors import InputError
from gpubench.reporting.breakdowns import Breakdown, breakdowns
from gpubench.reporting.cell_views import ReportedView, cell_views
from gpubench.reporting.confusions import Confusion, confusions
from gpubench.reporting.content import ComparableRuns, TaskContent, comparable_runs
from gpubench.reporting.figures import MAX_GROUPS, confusion_figure, quantiles_figure, scores_figure, timeline_figure
from gpubench.reporting.stages import ReportedStage, stages
from gpubench.results.result import Result
from gpubench.results.table import printable

if TYPE_CHECKING:
    from markupsafe import Markup


Facts = list[tuple[str, str]]

_BYTES = "memory_bytes"


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
    if key == _BYTES:
        return f"{value / 1e9:.1f} GB"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


_NAME = "results.json"


def read_runs(place: Path) -> dict[str, Result]:
    """Read a result file, or all files of a folder: its `*.json`, or else each `results.json` below it.

    Returns
    -------
    Name -> result; the name distinguishes the file from the others.

    Raises
    ------
    InputError
        If there is no result, or a file is not a result.
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
    """Task on the page.

    Attributes
    ----------
    anchor : its id
    task : with all embeddings, for the summary
    own : with the embeddings that it scored
    embeddings : names of these
    figure : of the scores; None for too few
    breakdowns, confusions : with their figures
    """

    anchor: str
    task: TaskContent
    own: TaskContent
    embeddings: tuple[str, ...]
    figure: Markup | None
    breakdowns: list[tuple[Breakdown, Markup | None]]
    confusions: list[tuple[Confusion, Markup | None]]

    @property
    def folded(self) -> bool:
        """Whether only the means are shown at first."""
        return len(self.task.defined) > _FOLDED_ABOVE and bool(self.task.headlines)


@dataclass(frozen=True, slots=True)
class RunsSection:
    """Comparable runs on the page, with the sections of their tasks."""

    anchor: str
    comparison: ComparableRuns
    sections: list[TaskSection]
    views: list[ReportedView]


@dataclass(frozen=True, slots=True)
class RunSection:
    """Time, memory and provenance of one run."""

    name: str
    stages: list[ReportedStage]
    figure: Markup | None
    facts: Facts


def render(runs: Mapping[str, Result]) -> str:
    """Render the HTML of a report.

    All text from data is escaped, and the page forbids scripts and requests of any kind.

    Parameters
    ----------
    runs : name -> result
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("gpubench.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = _code
    environment.filters["trusted"] = _trusted
    environment.globals["max_groups"] = MAX_GROUPS
    return environment.get_template("report.html.jinja").render(
        css=Markup(resources.files("gpubench.reporting").joinpath("report.css").read_text()),  # noqa: S704 - our own
        datasets=[_runs_section(found, f"data-{i}") for i, found in enumerate(comparable_runs(runs), 1)],
        runs=[_run_section(printable(name), result, i) for i, (name, result) in enumerate(runs.items(), 1)],
    )


def _runs_section(runs: ComparableRuns, anchor: str) -> RunsSection:
    sections = [_task_section(runs, task, f"{anchor}-task-{i}") for i, task in enumerate(runs.tasks, 1)]
    return RunsSection(anchor, runs, sections, cell_views(runs.cells, runs.seed, f"{anchor}-look"))


def _task_section(runs: ComparableRuns, task: TaskContent, anchor: str) -> TaskSection:
    own, embeddings = task.narrowed(runs.embeddings)
    cells = [cells for cells in runs.cells if cells.name in embeddings]
    by_group = []
    for i, breakdown in enumerate(breakdowns(task.id, cells)):
        by_group.append((breakdown, _trusted(quantiles_figure(breakdown, embeddings, f"{anchor}-spreads-{i}"))))
    by_class = []
    for i, confusion in enumerate(confusions(task.id, cells)):
        figure = None if confusion.fits_a_table else confusion_figure(confusion, f"{anchor}-matrix-{i}")
        by_class.append((confusion, _trusted(figure)))
    figure = _trusted(scores_figure(own, embeddings, f"{anchor}-scores"))
    return TaskSection(anchor, task, own, embeddings, figure, by_group, by_class)


def _run_section(name: str, result: Result, number: int) -> RunSection:
    own = stages(result)
    figure = _trusted(timeline_figure(own, f"timeline-{number}"))
    return RunSection(name, own, figure, facts(result.provenance))


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

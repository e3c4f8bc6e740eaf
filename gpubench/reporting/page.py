"""The page: what is said, drawn and styled, in one file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from gpubench.core.errors import InputError
from gpubench.reporting.breakdowns import Breakdown, breakdowns
from gpubench.reporting.cell_views import Look, looks
from gpubench.reporting.confusions import Confusion, confusions
from gpubench.reporting.content import Comparison, TaskPart, comparisons
from gpubench.reporting.figures import MAX_GROUPS, confusion_figure, scores_figure, spreads_figure, timeline_figure
from gpubench.reporting.stages import Stage, stages
from gpubench.results.result import Result
from gpubench.results.table import printable

if TYPE_CHECKING:
    from markupsafe import Markup


Facts = list[tuple[str, str]]

_BYTES = "memory_bytes"


def facts(provenance: Mapping[str, Any]) -> Facts:
    """Name and value of everything that a run says of itself, nested names joined, but for the packages."""
    return [
        (printable(name), printable(text))
        for name, text in _flat({key: value for key, value in provenance.items() if key != "packages"})
    ]


def packages(provenance: Mapping[str, Any]) -> list[str]:
    """Name and version of each package that a number may depend on."""
    return [printable(f"{name} {version}") for name, version in provenance.get("packages", {}).items()]


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
    """Read a result file, or all of a folder: its `*.json`, or else each `results.json` in the folders below.

    Returns
    -------
    Name -> result; the name is what tells the file from the others.

    Raises
    ------
    InputError
        There is no result, or one of the files is none.
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
"""Rows of a task that are shown at once; of more the means are shown, and the others when asked for."""


@dataclass(frozen=True, slots=True)
class Section:
    """A task on the page: its anchor, the embeddings that it scored, its content, its figures, the rows shown at once.

    Of `task` all embeddings are known, for the summary, of `own` those that it scored.
    """

    anchor: str
    task: TaskPart
    own: TaskPart
    embeddings: tuple[str, ...]
    figure: Markup | None
    breakdowns: list[tuple[Breakdown, Markup]]
    confusions: list[tuple[Confusion, Markup | None]]

    @property
    def folded(self) -> bool:
        """Whether only the means are shown at once."""
        return len(self.task.defined) > _FOLDED_ABOVE and bool(self.task.headlines)


@dataclass(frozen=True, slots=True)
class Dataset:
    """Runs that stand side by side, and their sections."""

    anchor: str
    comparison: Comparison
    sections: list[Section]
    looks: list[Look]


@dataclass(frozen=True, slots=True)
class Run:
    """Where the time and memory of one run went, and where it comes from."""

    name: str
    stages: list[Stage]
    figure: Markup | None
    facts: Facts
    packages: list[str]


def render(runs: Mapping[str, Result]) -> str:
    """Make the HTML of a report.

    Everything that comes from data is escaped, and the page forbids scripts and requests of any kind.

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
    environment.globals["most_groups"] = MAX_GROUPS
    environment.filters["trusted"] = _trusted
    found = comparisons(runs)
    return environment.get_template("report.html.jinja").render(
        css=Markup(resources.files("gpubench.reporting").joinpath("report.css").read_text()),  # noqa: S704 - our own
        datasets=[_dataset(comparison, i) for i, comparison in enumerate(found, 1)],
        runs=[_run(printable(name), result, i) for i, (name, result) in enumerate(runs.items(), 1)],
    )


def _dataset(comparison: Comparison, number: int) -> Dataset:
    anchor = f"data-{number}"
    sections = [_section(comparison, task, f"{anchor}-task-{i}") for i, task in enumerate(comparison.tasks, 1)]
    return Dataset(anchor, comparison, sections, looks(comparison.cells, comparison.seed, f"{anchor}-look"))


def _section(comparison: Comparison, task: TaskPart, anchor: str) -> Section:
    own, embeddings = task.narrowed(comparison.embeddings)
    cells = [cells for cells in comparison.cells if cells.name in embeddings]
    by_group = breakdowns(task.text.id, cells)
    by_class = confusions(task.text.id, cells)
    return Section(
        anchor,
        task,
        own,
        embeddings,
        _trusted(scores_figure(own, embeddings, f"{anchor}-scores")),
        [
            (breakdown, _trusted(spreads_figure(breakdown, embeddings, f"{anchor}-spreads-{i}")))
            for i, breakdown in enumerate(by_group)
        ],
        [
            (
                confusion,
                None if confusion.fits_a_table else _trusted(confusion_figure(confusion, f"{anchor}-matrix-{i}")),
            )
            for i, confusion in enumerate(by_class)
        ],
    )


def _run(name: str, result: Result, number: int) -> Run:
    all_stages = stages(result)
    figure = _trusted(timeline_figure(all_stages, f"timeline-{number}"))
    return Run(name, all_stages, figure, facts(result.provenance), packages(result.provenance))


@overload
def _trusted(svg: str) -> Markup: ...
@overload
def _trusted(svg: None) -> None: ...
def _trusted(svg: str | None) -> Markup | None:
    """An SVG of ours, in which text from data is escaped already."""
    from markupsafe import Markup

    return None if svg is None else Markup(svg)  # noqa: S704 - see the docstring


def _code(text: str) -> Markup:
    """Text with what stands between backticks as code."""
    from markupsafe import Markup, escape

    parts = re.split(r"`([^`]*)`", text)
    marked = (Markup("<code>{}</code>").format(part) if i % 2 else escape(part) for i, part in enumerate(parts))
    return Markup().join(marked)

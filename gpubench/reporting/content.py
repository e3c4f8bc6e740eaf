"""What a report says, as plain data: runs that may be compared, their tasks, and a row for each number."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Any

from gpubench.metrics import METRICS
from gpubench.reporting.scores import ScoreRow, score_rows
from gpubench.results.table import printable
from gpubench.tasks import TASKS

if TYPE_CHECKING:
    from gpubench.core.scores import CellColumn, CellScores, MetricResult
    from gpubench.results.result import Result


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


_NOT_SCORING = frozenset({"tasks", "embeddings", "pre_integrated"})
"""Options in which runs may differ whose numbers are still comparable."""


@dataclass(frozen=True, slots=True)
class TaskPart:
    """One task: what it asks, what its metrics mean, and its numbers.

    Attributes
    ----------
    text : its title and question
    metrics : the definition of each metric that it reported
    rows : one for each number, embeddings side by side
    """

    text: TaskText
    metrics: tuple[MetricText, ...]
    rows: tuple[ScoreRow, ...]

    def narrowed(self, embeddings: Sequence[str]) -> tuple[TaskPart, tuple[str, ...]]:
        """The task without the embeddings that it did not score, and the names of the others."""
        scored = [i for i in range(len(embeddings)) if any(row.cells[i] is not None for row in self.rows)]
        rows = tuple(replace(row, cells=tuple(row.cells[i] for i in scored)) for row in self.rows)
        return replace(self, rows=rows), tuple(embeddings[i] for i in scored)

    @property
    def headlines(self) -> list[ScoreRow]:
        """Rows that stand for a metric in the summary: means of several rows, and single ones that are defined."""
        return [row for row in self.rows if row.headline and row.defined]

    @property
    def defined(self) -> list[ScoreRow]:
        """Rows with a number for some embedding."""
        return [row for row in self.rows if row.defined]

    @property
    def notes(self) -> list[str]:
        """The distinct notes of the rows with a number."""
        return list(dict.fromkeys(note for row in self.defined for note in row.notes))

    @property
    def undefined(self) -> list[tuple[str, list[str]]]:
        """Each reason for which rows have no number at all, and the names of those rows."""
        reasons: dict[str, list[str]] = {}
        for row in self.rows:
            if not row.defined:
                reason = "; ".join(row.notes) or "no reason was recorded"
                reasons.setdefault(reason, []).append(f"{row.metric} ({row.setting})" if row.params else row.metric)
        return list(reasons.items())


@dataclass(frozen=True, slots=True)
class CellsOf:
    """What is known of the cells of one embedding.

    Attributes
    ----------
    name : of its column
    scores : of the run that scored it; empty where the run kept nothing of its cells
    embedding : its name there
    """

    name: str
    scores: CellScores
    embedding: str

    def of_task(self, task: str) -> list[CellColumn]:
        """The columns that a task left."""
        return self.scores.select(embedding=self.embedding, task=task)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs on the same cells with the same options, whose numbers may stand side by side.

    Attributes
    ----------
    source : the data as the user named it
    seed : of the runs
    n_cells : None where predictions alone were scored
    embeddings : names of the columns
    cells : what is known of the cells of each embedding
    tasks : with at least one number or note
    skipped : tasks left out of every run, {"task", "reason"}
    failures : {"task", "embedding", "error"}
    interrupted : whether a run was stopped before its end
    """

    source: str
    seed: int | None
    n_cells: int | None
    embeddings: tuple[str, ...]
    cells: tuple[CellsOf, ...]
    tasks: tuple[TaskPart, ...]
    skipped: tuple[dict[str, str], ...]
    failures: tuple[dict[str, str], ...]
    interrupted: bool

    @property
    def without_cells(self) -> list[str]:
        """Embeddings of which nothing is known cell by cell, though their cells were scored."""
        known = {cells.name for cells in self.cells if cells.scores.columns}
        return [] if self.n_cells is None else [name for name in self.embeddings if name not in known]


def comparisons(runs: Mapping[str, Result]) -> list[Comparison]:
    """Put runs together whose data and options are the same, in the order in which they first appear."""
    groups: dict[str, dict[str, Result]] = {}
    for name, result in runs.items():
        groups.setdefault(_comparable(result, name), {})[name] = result
    return [_comparison(group) for group in groups.values()]


def _comparable(result: Result, name: str) -> str:
    """A key that runs share whose numbers may be compared: those of cells of the same columns, whatever their files."""
    dataset, options = _dataset(result), result.provenance.get("options", {})
    cells = dataset.get("columns") or dataset.get("source") or dataset.get("fingerprint") or name
    scoring = {key: value for key, value in options.items() if key not in _NOT_SCORING}
    return json.dumps([cells, dataset.get("n_cells"), scoring], sort_keys=True, default=str)


def _dataset(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = result.provenance.get("dataset", {})
    return found


def _comparison(runs: Mapping[str, Result]) -> Comparison:
    columns = _columns(runs)
    of_columns = [[row for row in result.results if row.embedding == name] for _, result, name in columns]
    scored = dict.fromkeys(row.task for rows in of_columns for row in rows)
    first = next(iter(runs.values()))
    dataset = _dataset(first)
    skipped = {
        (item["task"], item["reason"]): item
        for result in runs.values()
        for item in result.skipped
        if item["task"] not in scored
    }
    return Comparison(
        source=printable(
            ", ".join(dict.fromkeys(str(_dataset(result).get("source") or "arrays") for result in runs.values()))
        ),
        seed=first.provenance.get("seed"),
        n_cells=dataset.get("n_cells"),
        embeddings=tuple(printable(name) for name, _, _ in columns),
        cells=tuple(CellsOf(printable(name), result.cells, embedding) for name, result, embedding in columns),
        tasks=tuple(_task(task, of_columns) for task in scored),
        skipped=tuple({key: printable(text) for key, text in item.items()} for item in skipped.values()),
        failures=tuple(
            {key: printable(text) for key, text in item.items()} for result in runs.values() for item in result.failures
        ),
        interrupted=any(result.interrupted for result in runs.values()),
    )


def _columns(runs: Mapping[str, Result]) -> list[tuple[str, Result, str]]:
    """The embeddings of all runs, each with the run it is from; the name says which run where several have it."""
    found = [
        (run, result, name)
        for run, result in runs.items()
        for name in dict.fromkeys(row.embedding for row in result.results)
    ]
    names = [name for _, _, name in found]
    return [(name if names.count(name) == 1 else f"{name} ({run})", result, name) for run, result, name in found]


def _task(task: str, columns: Sequence[Sequence[MetricResult]]) -> TaskPart:
    of_task = [[row for row in rows if row.task == task] for rows in columns]
    metrics = dict.fromkeys(row.metric for rows in of_task for row in rows)
    rows = [
        row
        for metric in metrics
        for row in score_rows(metric, [[row for row in rows if row.metric == metric] for rows in of_task])
    ]
    return TaskPart(
        text=describe_task(task),
        metrics=tuple(map(describe_metric, metrics)),
        rows=tuple(rows),
    )

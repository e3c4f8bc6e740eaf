"""Content of a report as plain data: comparable runs, their tasks, and a row for each score."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
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
class MetricText:
    """Definition of a metric.

    Attributes
    ----------
    id, title : as in `MetricSpec`; a scorer of the user's has its id as title
    definition : one sentence
    scale : one sentence on its range and which end is better
    dois : of the papers that define it
    """

    id: str
    title: str
    definition: str
    scale: str
    dois: tuple[str, ...]


def describe_metric(metric: str) -> MetricText:
    """Return the definition of a metric."""
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
"""Options in which comparable runs may differ."""


@dataclass(frozen=True, slots=True)
class TaskContent:
    """One task: its question, the definitions of its metrics, and its scores.

    Attributes
    ----------
    id, title, question : of the task; one that this version does not know has its id as title and no question
    metrics : definition of each metric that it reported
    rows : one for each score, embeddings side by side
    """

    id: str
    title: str
    question: str
    metrics: tuple[MetricText, ...]
    rows: tuple[ScoreRow, ...]

    def narrowed(self, embeddings: Sequence[str]) -> tuple[TaskContent, tuple[str, ...]]:
        """Return the task without the embeddings that it did not score, and the names of the others."""
        scored = [i for i in range(len(embeddings)) if any(row.cells[i] is not None for row in self.rows)]
        rows = tuple(replace(row, cells=tuple(row.cells[i] for i in scored)) for row in self.rows)
        return replace(self, rows=rows), tuple(embeddings[i] for i in scored)

    @property
    def headlines(self) -> list[ScoreRow]:
        """Rows that represent a metric in the summary: means of several rows, and single ones that are defined."""
        return [row for row in self.rows if row.headline and row.defined]

    @property
    def defined(self) -> list[ScoreRow]:
        """Rows with a score on some embedding."""
        return [row for row in self.rows if row.defined]

    @property
    def notes(self) -> list[str]:
        """Distinct notes of the defined rows."""
        return list(dict.fromkeys(note for row in self.defined for note in row.notes))

    @property
    def undefined(self) -> list[tuple[str, list[str]]]:
        """Reasons why rows have no score on any embedding, each with the names of its rows."""
        reasons: dict[str, list[str]] = {}
        for row in self.rows:
            if not row.defined:
                reason = "; ".join(row.notes) or "no reason was recorded"
                reasons.setdefault(reason, []).append(f"{row.metric} ({row.setting})" if row.params else row.metric)
        return list(reasons.items())


@dataclass(frozen=True, slots=True)
class EmbeddingCells:
    """Values of the cells of one embedding.

    Attributes
    ----------
    name : of its column on the page
    scores : of the run that scored it; empty where the run stored no values of cells
    embedding : its name in that run
    """

    name: str
    scores: CellScores
    embedding: str

    def columns(self, task: str) -> list[CellColumn]:
        """Return the columns of a task."""
        return self.scores.select(embedding=self.embedding, task=task)


@dataclass(frozen=True, slots=True)
class ComparableRuns:
    """Runs on the same cells with the same options, whose scores are comparable.

    Attributes
    ----------
    source : the data as the user named it
    seed : of the runs
    n_cells : None where only predictions were scored
    embeddings : names of the columns
    cells : values of the cells of each embedding
    tasks : with at least one score or note
    skipped : tasks left out of every run, {"task", "reason"}
    failures : {"task", "embedding", "error"}
    interrupted : whether a run was stopped before its end
    """

    source: str
    seed: int | None
    n_cells: int | None
    embeddings: tuple[str, ...]
    cells: tuple[EmbeddingCells, ...]
    tasks: tuple[TaskContent, ...]
    skipped: tuple[dict[str, str], ...]
    failures: tuple[dict[str, str], ...]
    interrupted: bool

    @property
    def without_cells(self) -> list[str]:
        """Embeddings whose cells were scored, but without stored values of cells."""
        known = {cells.name for cells in self.cells if cells.scores.columns}
        return [] if self.n_cells is None else [name for name in self.embeddings if name not in known]


def comparable_runs(runs: Mapping[str, Result]) -> list[ComparableRuns]:
    """Group runs with the same data and options, in the order in which they first appear."""
    groups: dict[str, dict[str, Result]] = {}
    for name, result in runs.items():
        groups.setdefault(_group_key(result, name), {})[name] = result
    return [_comparable_runs(group) for group in groups.values()]


def _group_key(result: Result, name: str) -> str:
    """Return a key that is equal for runs on cells with the same columns, whatever their files."""
    dataset, options = _dataset(result), result.provenance.get("options", {})
    cells = dataset.get("columns") or dataset.get("source") or dataset.get("fingerprint") or name
    scoring = {key: value for key, value in options.items() if key not in _NOT_SCORING}
    return json.dumps([cells, dataset.get("n_cells"), scoring], sort_keys=True, default=str)


def _dataset(result: Result) -> dict[str, Any]:
    dataset: dict[str, Any] = result.provenance.get("dataset", {})
    return dataset


def _comparable_runs(runs: Mapping[str, Result]) -> ComparableRuns:
    columns = _columns(runs)
    by_column = [[row for row in result.results if row.embedding == name] for _, result, name in columns]
    tasks = list(dict.fromkeys(row.task for rows in by_column for row in rows))
    results = list(runs.values())
    sources = dict.fromkeys(str(_dataset(result).get("source") or "arrays") for result in results)
    skipped = [item for result in results for item in result.skipped if item["task"] not in tasks]
    return ComparableRuns(
        source=printable(", ".join(sources)),
        seed=results[0].provenance.get("seed"),
        n_cells=_dataset(results[0]).get("n_cells"),
        embeddings=tuple(printable(name) for name, _, _ in columns),
        cells=tuple(EmbeddingCells(printable(name), result.cells, embedding) for name, result, embedding in columns),
        tasks=tuple(_task_content(task, by_column) for task in tasks),
        skipped=_printable_items({(item["task"], item["reason"]): item for item in skipped}.values()),
        failures=_printable_items(item for result in results for item in result.failures),
        interrupted=any(result.interrupted for result in results),
    )


def _printable_items(items: Iterable[Mapping[str, str]]) -> tuple[dict[str, str], ...]:
    return tuple({key: printable(text) for key, text in item.items()} for item in items)


def _columns(runs: Mapping[str, Result]) -> list[tuple[str, Result, str]]:
    """Return column name, run and embedding of each column; names include the run where several share an embedding."""
    found = [
        (run, result, name)
        for run, result in runs.items()
        for name in dict.fromkeys(row.embedding for row in result.results)
    ]
    names = [name for _, _, name in found]
    return [(name if names.count(name) == 1 else f"{name} ({run})", result, name) for run, result, name in found]


def _task_content(task: str, columns: Sequence[Sequence[MetricResult]]) -> TaskContent:
    own = [[row for row in rows if row.task == task] for rows in columns]
    metrics = dict.fromkeys(row.metric for rows in own for row in rows)
    by_metric = {metric: [[row for row in rows if row.metric == metric] for rows in own] for metric in metrics}
    known = TASKS.get(task)
    return TaskContent(
        id=printable(task),
        title=known.title if known else printable(task),
        question=known.question if known else "",
        metrics=tuple(map(describe_metric, metrics)),
        rows=tuple(row for metric, found in by_metric.items() for row in score_rows(metric, found)),
    )

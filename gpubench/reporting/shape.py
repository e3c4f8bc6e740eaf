"""What a report says, as plain data: runs that may be compared, their tasks, and a row for each number."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpubench.reporting.definitions import MetricText, TaskText, describe_metric, describe_task
from gpubench.reporting.scores import ScoreRow, score_rows
from gpubench.table import printable

if TYPE_CHECKING:
    from gpubench.result import Result
    from gpubench.types import MetricResult

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
class Comparison:
    """Runs on the same cells with the same options, whose numbers may stand side by side.

    Attributes
    ----------
    source : the data as the user named it
    n_cells : None where predictions alone were scored
    embeddings : names of the columns
    tasks : with at least one number or note
    skipped : tasks left out of every run, {"task", "reason"}
    failures : {"task", "embedding", "error"}
    interrupted : whether a run was stopped before its end
    """

    source: str
    n_cells: int | None
    embeddings: tuple[str, ...]
    tasks: tuple[TaskPart, ...]
    skipped: tuple[dict[str, str], ...]
    failures: tuple[dict[str, str], ...]
    interrupted: bool


def comparisons(runs: Mapping[str, Result]) -> list[Comparison]:
    """Put runs together whose data and options are the same, in the order in which they first appear."""
    groups: dict[str, dict[str, Result]] = {}
    for name, result in runs.items():
        groups.setdefault(_comparable(result, name), {})[name] = result
    return [_comparison(group) for group in groups.values()]


def _comparable(result: Result, name: str) -> str:
    """A key that runs share whose numbers may be compared; arrays have no name, so their content counts."""
    dataset, options = _dataset(result), result.provenance.get("options", {})
    cells = dataset.get("source") or dataset.get("fingerprint") or name
    scoring = {key: value for key, value in options.items() if key not in _NOT_SCORING}
    return json.dumps([cells, dataset.get("n_cells"), scoring], sort_keys=True, default=str)


def _dataset(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = result.provenance.get("dataset", {})
    return found


def _comparison(runs: Mapping[str, Result]) -> Comparison:
    columns = _columns(runs)
    tasks = dict.fromkeys(row.task for rows in columns.values() for row in rows)
    scored = {row.task for result in runs.values() for row in result.results}
    dataset = _dataset(next(iter(runs.values())))
    skipped = {
        (item["task"], item["reason"]): item
        for result in runs.values()
        for item in result.skipped
        if item["task"] not in scored
    }
    return Comparison(
        source=printable(str(dataset.get("source") or "arrays")),
        n_cells=dataset.get("n_cells"),
        embeddings=tuple(map(printable, columns)),
        tasks=tuple(_task(task, columns) for task in tasks),
        skipped=tuple({key: printable(text) for key, text in item.items()} for item in skipped.values()),
        failures=tuple(
            {key: printable(text) for key, text in item.items()} for result in runs.values() for item in result.failures
        ),
        interrupted=any(result.interrupted for result in runs.values()),
    )


def _columns(runs: Mapping[str, Result]) -> dict[str, list[MetricResult]]:
    """Rows by embedding; where several runs have one of that name, it says which run."""
    names = [name for result in runs.values() for name in dict.fromkeys(row.embedding for row in result.results)]
    columns: dict[str, list[MetricResult]] = {}
    for run, result in runs.items():
        for row in result.results:
            column = row.embedding if names.count(row.embedding) == 1 else f"{row.embedding} ({run})"
            columns.setdefault(column, []).append(row)
    return columns


def _task(task: str, columns: Mapping[str, Sequence[MetricResult]]) -> TaskPart:
    of_task = [[row for row in rows if row.task == task] for rows in columns.values()]
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

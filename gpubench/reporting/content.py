"""Content of a report as plain data: comparable runs, their tasks, and a row for each score on all embeddings."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gpubench.comparison.best import default_resampler, mark_best
from gpubench.core.scores import CellScores
from gpubench.metrics import METRICS
from gpubench.metrics.published import published_spec
from gpubench.results.runs import columns_of, comparable_groups, dataset_of, named_rows, source_of
from gpubench.results.score_table import mean_ranks
from gpubench.results.table import format_value, mean_text, printable, telling_params
from gpubench.tasks import TASKS

if TYPE_CHECKING:
    from gpubench.core.scores import CellColumn, MetricResult
    from gpubench.results.result import Result

_DOI = re.compile(r"doi:(10\.\d{4,}/[^\s,;]*[^\s,;.)])")
_BETTER = {True: "higher is better", False: "lower is better", None: "neither end is better"}


@dataclass(frozen=True, slots=True)
class MetricText:
    """Definition of a metric."""

    id: str
    title: str  # of a scorer of the user's, its id
    definition: str  # one sentence
    scale: str  # one sentence on its range and which end is better
    dois: tuple[str, ...]  # of the papers that define it


def describe_metric(metric: str) -> MetricText:
    """Return the definition of a metric."""
    spec = published_spec(metric)
    if spec is None:
        unknown = "A score that this version of gpubench does not define, such as your own."
        return MetricText(printable(metric), printable(metric), unknown, "", ())
    low, high = spec.bounds
    bounds = (
        "Any number"
        if low == -math.inf
        else f"At least {low:g}"
        if high == math.inf
        else f"From {low:g} to {high:g}".replace("-", "−")
    )
    scale = f"{bounds}; {_BETTER[spec.higher_is_better]}."
    dois = tuple(dict.fromkeys(_DOI.findall(METRICS[metric].__doc__ or "" if metric in METRICS else "")))
    return MetricText(spec.id, spec.title, spec.description, scale, dois)


_Key = tuple[tuple[tuple[str, str], ...], int]
"""Distinguishing parameters with their values, and the number of earlier rows with the same."""


@dataclass(frozen=True, slots=True)
class ScoreCell:
    """One score."""

    value: float  # as in `MetricResult`
    stderr: float | None
    text: str  # the formatted value
    approximate: bool  # whether an approximate method was used
    note: str  # what was left out and why; may be empty
    # start and length of a bar from zero, as shares of the metric's range; None for an infinite range
    bar: tuple[float, float] | None
    best: bool = False  # whether it is better than any other embedding's beyond noise


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One metric with one set of parameters, on every embedding."""

    metric: str  # id
    title: str
    # name and value of the parameters that distinguish it from other rows of the metric
    params: tuple[tuple[str, str], ...]
    cells: tuple[ScoreCell | None, ...]  # one for each embedding, None where it was not scored
    n: str  # cells used, as a range where embeddings differ
    headline: bool  # whether it represents its metric in a summary
    higher_is_better: bool | None = None  # None where neither end is better, or nobody knows

    @property
    def defined(self) -> bool:
        """Whether any embedding has a defined score."""
        return any(cell is not None and not math.isnan(cell.value) for cell in self.cells)

    @property
    def shades(self) -> list[float | None]:
        """Where each score is between the worst (0) and the best (1); None where that says nothing."""
        values = [cell.value for cell in self.cells if cell is not None and not math.isnan(cell.value)]
        if self.higher_is_better is None or not values or min(values) == max(values):
            return [None] * len(self.cells)
        worst, best = (min(values), max(values)) if self.higher_is_better else (max(values), min(values))
        return [
            None if cell is None or math.isnan(cell.value) else (cell.value - worst) / (best - worst)
            for cell in self.cells
        ]

    @property
    def notes(self) -> list[str]:
        """Distinct notes of its scores."""
        return list(dict.fromkeys(cell.note for cell in self.cells if cell is not None and cell.note))

    @property
    def setting(self) -> str:
        """Values of the parameters."""
        return ", ".join(value for _, value in self.params)


def score_rows(
    metric: str, columns: Sequence[Sequence[MetricResult]], cells: Sequence[CellScores] = ()
) -> list[ScoreRow]:
    """Put the rows of one metric of one task on each embedding side by side where distinguishing parameters agree.

    The best are marked as by `gpubench.compare`, from the values of the `cells` of each column.
    """
    telling = tuple(dict.fromkeys(name for rows in columns for name in _telling(rows)))
    keyed = [dict(_keyed(rows, telling)) for rows in columns]
    keys = dict.fromkeys(key for column in keyed for key in column)
    spec = published_spec(metric)
    every = [[column.get(key) for column in keyed] for key in keys]
    known = list(cells) or [CellScores()] * len(columns)
    marked = mark_best(every, known, resampler=default_resampler(max(one.n_cells for one in known)))
    lined_up = []
    for (params, _), found, best in zip(keys, every, marked, strict=True):
        scored = [row for row in found if row is not None]
        low, high = min(row.n for row in scored), max(row.n for row in scored)
        shown = [None if row is None else _cell(row, best=i in best) for i, row in enumerate(found)]
        lined_up.append(
            ScoreRow(
                metric=printable(metric),
                title=spec.title if spec else printable(metric),
                params=tuple((printable(name), printable(mean_text(value))) for name, value in params),
                cells=tuple(shown),
                higher_is_better=spec.higher_is_better if spec else None,
                n=f"{low:,}" if low == high else f"{low:,}–{high:,}",
                headline=len(keys) == 1 or any(row.aggregate for row in scored),
            )
        )
    return lined_up


def _telling(rows: Sequence[MetricResult]) -> list[str]:
    """Return the parameters that distinguish rows, without numbers that follow from others."""
    names = list(telling_params(rows))
    for name in telling_params(rows):
        rest = [other for other in names if other != name]
        is_number = all(isinstance(row.params.get(name), int | float | None) for row in rows)
        if is_number and rest and len({tuple(repr(row.params.get(key)) for key in rest) for row in rows}) == len(rows):
            names = rest
    return names


def _keyed(rows: Sequence[MetricResult], telling: Sequence[str]) -> Iterator[tuple[_Key, MetricResult]]:
    """Yield each row with its key."""
    seen: Counter[tuple[tuple[str, str], ...]] = Counter()
    for row in rows:
        params = tuple((name, str(row.params[name])) for name in telling if name in row.params)
        yield (params, seen[params]), row
        seen[params] += 1


def _cell(row: MetricResult, *, best: bool) -> ScoreCell:
    return ScoreCell(
        value=row.value,
        stderr=row.stderr,
        text=format_value(row.value),
        approximate=row.approximate and not math.isnan(row.value),
        note=printable(row.note),
        bar=_bar(row.metric, row.value),
        best=best,
    )


def _bar(metric: str, value: float) -> tuple[float, float] | None:
    """Return the bar from zero to the value within the bounds of the metric."""
    spec = published_spec(metric)
    low, high = spec.bounds if spec else (0.0, math.inf)
    if math.isnan(value) or math.isinf(high - low):
        return None
    zero, end = ((min(max(x, low), high) - low) / (high - low) for x in (0.0, value))
    return min(zero, end), abs(end - zero)


@dataclass(frozen=True, slots=True)
class TaskContent:
    """One task: its question, the definitions of its metrics, and its scores."""

    id: str
    title: str  # of a task that this version does not know, its id
    question: str  # of such a task, empty
    metrics: tuple[MetricText, ...]  # definition of each metric that it reported
    rows: tuple[ScoreRow, ...]  # one for each score, embeddings side by side

    def narrowed(self, embeddings: Sequence[str]) -> tuple[TaskContent, tuple[str, ...]]:
        """Return the task without the embeddings that it did not score, and the names of the others."""
        scored = [i for i in range(len(embeddings)) if any(row.cells[i] is not None for row in self.rows)]
        return self.choose(scored), tuple(embeddings[i] for i in scored)

    def choose(self, columns: Sequence[int]) -> TaskContent:
        """Return the task with these embeddings only."""
        return replace(self, rows=tuple(replace(row, cells=tuple(row.cells[i] for i in columns)) for row in self.rows))

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
    """Values of the cells of one embedding."""

    name: str  # of its column on the page
    scores: CellScores  # of the run that scored it; empty where the run stored no values of cells
    embedding: str  # its name in that run

    def columns(self, task: str) -> list[CellColumn]:
        """Return the columns of a task."""
        return self.scores.select(embedding=self.embedding, task=task)


@dataclass(frozen=True, slots=True)
class ComparableRuns:
    """Runs on the same cells with the same options, whose scores are comparable."""

    source: str  # the data as the user named it
    seed: int | None  # of the runs
    n_cells: int | None  # None where only predictions were scored
    embeddings: tuple[str, ...]  # names of the columns
    cells: tuple[EmbeddingCells, ...]  # values of the cells of each embedding
    tasks: tuple[TaskContent, ...]  # with at least one score or note
    skipped: tuple[dict[str, str], ...]  # tasks left out of every run, {"task", "reason"}
    failures: tuple[dict[str, str], ...]  # {"task", "embedding", "error"}
    interrupted: bool  # whether a run was stopped before its end
    ranks: dict[str, float]  # mean rank of each embedding over the metrics, the best first

    @property
    def order(self) -> list[int]:
        """Numbers of the embeddings, those with the best mean rank first."""
        unranked = [name for name in self.embeddings if name not in self.ranks]
        return [self.embeddings.index(name) for name in [*self.ranks, *unranked]]

    @property
    def without_cells(self) -> list[str]:
        """Embeddings whose cells were scored, but without stored values of cells."""
        known = {cells.name for cells in self.cells if cells.scores.columns}
        return [] if self.n_cells is None else [name for name in self.embeddings if name not in known]


def comparable_runs(runs: Mapping[str, Result]) -> list[ComparableRuns]:
    """Group runs with the same data and options, in the order in which they first appear."""
    return [_comparable_runs(group) for group in comparable_groups(runs)]


def _comparable_runs(runs: Mapping[str, Result]) -> ComparableRuns:
    columns = columns_of(runs)
    by_column = [[row for row in result.results if row.embedding == name] for _, result, name in columns]
    tasks = list(dict.fromkeys(row.task for rows in by_column for row in rows))
    results = list(runs.values())
    skipped = [item for result in results for item in result.skipped if item["task"] not in tasks]
    return ComparableRuns(
        source=printable(source_of(runs)),
        seed=results[0].provenance.get("seed"),
        n_cells=dataset_of(results[0]).get("n_cells"),
        embeddings=tuple(printable(name) for name, _, _ in columns),
        cells=tuple(EmbeddingCells(printable(name), result.cells, embedding) for name, result, embedding in columns),
        tasks=tuple(_task_content(task, by_column, [result.cells for _, result, _ in columns]) for task in tasks),
        skipped=_printable_items({(item["task"], item["reason"]): item for item in skipped}.values()),
        failures=_printable_items(item for result in results for item in result.failures),
        interrupted=any(result.interrupted for result in results),
        ranks={printable(name): rank for name, rank in mean_ranks(named_rows(runs)).items()},
    )


def _printable_items(items: Iterable[Mapping[str, str]]) -> tuple[dict[str, str], ...]:
    return tuple({key: printable(text) for key, text in item.items()} for item in items)


def _task_content(task: str, columns: Sequence[Sequence[MetricResult]], cells: Sequence[CellScores]) -> TaskContent:
    own = [[row for row in rows if row.task == task] for rows in columns]
    metrics = dict.fromkeys(row.metric for rows in own for row in rows)
    by_metric = {metric: [[row for row in rows if row.metric == metric] for rows in own] for metric in metrics}
    known = TASKS.get(task)
    return TaskContent(
        id=printable(task),
        title=known.title if known else printable(task),
        question=known.question if known else "",
        metrics=tuple(map(describe_metric, metrics)),
        rows=tuple(row for metric, found in by_metric.items() for row in score_rows(metric, found, cells)),
    )

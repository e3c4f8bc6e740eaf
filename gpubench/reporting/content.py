"""Content of a report as plain data: comparable runs, their tasks, and rows with a score on every embedding."""

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
    from gpubench.core.scores import CellColumn, MetricResult, PerturbationTable
    from gpubench.results.result import Result

_DOI = re.compile(r"doi:(10\.\d{4,}/[^\s,;]*[^\s,;.)])")
_BETTER = {True: "higher is better", False: "lower is better", None: "neither end is better"}


@dataclass(frozen=True, slots=True)
class MetricText:
    """Text that explains a metric to readers of the report."""

    id: str
    title: str  # title of the metric; the id for a scorer of the user
    definition: str  # one sentence
    scale: str  # one sentence on the range of the metric and which end is better
    dois: tuple[str, ...]  # DOIs of the papers that define the metric


def describe_metric(metric: str) -> MetricText:
    """Return the text that explains a metric, given the metric's id."""
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
"""Names and values of a row's distinguishing parameters, and the number of earlier rows with the same values."""


@dataclass(frozen=True, slots=True)
class ScoreCell:
    """One score of one embedding."""

    value: float  # see `MetricResult`
    stderr: float | None  # see `MetricResult`
    text: str  # the formatted value
    approximate: bool  # whether an approximate method was used
    note: str  # message on what was left out and why; may be empty
    # start and length of a bar from zero to the value, as shares of the metric's range; None for an infinite range
    bar: tuple[float, float] | None
    best: bool = False  # whether the score is better than that of any other embedding beyond noise


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """Scores of all embeddings by one metric with one set of parameters."""

    metric: str  # id of the metric
    title: str  # title of the metric
    # names and values of the parameters that distinguish this row from other rows of the metric
    params: tuple[tuple[str, str], ...]
    cells: tuple[ScoreCell | None, ...]  # score of each embedding; None if the embedding was not scored
    n: str  # number of cells used; a range if embeddings differ
    headline: bool  # whether the row represents its metric in a summary
    higher_is_better: bool | None = None  # None if neither end is better, or if it is unknown

    @property
    def defined(self) -> bool:
        """Whether any embedding has a defined score."""
        return any(cell is not None and not math.isnan(cell.value) for cell in self.cells)

    @property
    def shades(self) -> list[float | None]:
        """Position of each score between the worst (0) and the best score (1) of the row.

        A position is None if the score is undefined, if all scores are equal, or if neither end is better.
        """
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
        """Distinct notes of the scores in the row."""
        return list(dict.fromkeys(cell.note for cell in self.cells if cell is not None and cell.note))

    @property
    def setting(self) -> str:
        """Values of the distinguishing parameters, as text."""
        return ", ".join(value for _, value in self.params)


def score_rows(
    metric: str,
    columns: Sequence[Sequence[MetricResult]],
    cells: Sequence[CellScores] = (),
    tables: Sequence[PerturbationTable] = (),
) -> list[ScoreRow]:
    """Put the scores of several embeddings by one metric side by side, in a row for each set of parameters.

    The best scores are marked as by `gpubench.compare`.

    Parameters
    ----------
    metric : id of the metric
    columns : rows of this metric and of one task, for each embedding
    cells : per-cell values of the run of each embedding, for comparing scores; may be empty
    tables : values of each perturbation of these runs, for the same; may be empty
    """
    telling = tuple(dict.fromkeys(name for rows in columns for name in _telling(rows)))
    keyed = [dict(_keyed(rows, telling)) for rows in columns]
    keys = dict.fromkeys(key for column in keyed for key in column)
    spec = published_spec(metric)
    every = [[column.get(key) for column in keyed] for key in keys]
    known = list(cells) or [CellScores()] * len(columns)
    resampler = default_resampler(max(one.n_cells for one in known))
    marked = mark_best(every, known, resampler=resampler, tables=tables)
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
    """Return the names of the parameters that distinguish rows, without numbers that others already determine."""
    names = list(telling_params(rows))
    for name in telling_params(rows):
        rest = [other for other in names if other != name]
        is_number = all(isinstance(row.params.get(name), int | float | None) for row in rows)
        if is_number and rest and len({tuple(repr(row.params.get(key)) for key in rest) for row in rows}) == len(rows):
            names = rest
    return names


def _keyed(rows: Sequence[MetricResult], telling: Sequence[str]) -> Iterator[tuple[_Key, MetricResult]]:
    """Yield the key and the row of each row; `telling` are the names of the distinguishing parameters."""
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
    """Return start and length of a bar from zero to a value, as shares of the metric's range; None if unbounded."""
    spec = published_spec(metric)
    low, high = spec.bounds if spec else (0.0, math.inf)
    if math.isnan(value) or math.isinf(high - low):
        return None
    zero, end = ((min(max(x, low), high) - low) / (high - low) for x in (0.0, value))
    return min(zero, end), abs(end - zero)


@dataclass(frozen=True, slots=True)
class TaskContent:
    """One task: its question, the definitions of its metrics, and the scores of all embeddings."""

    id: str
    title: str  # title of the task; the id if this version of gpubench does not know the task
    question: str  # question that the task answers; empty for an unknown task
    metrics: tuple[MetricText, ...]  # explanation of each metric that was scored
    rows: tuple[ScoreRow, ...]  # scores, with embeddings side by side

    def narrowed(self, embeddings: Sequence[str]) -> tuple[TaskContent, tuple[str, ...]]:
        """Return the task with only the embeddings that have a score, and the names of these embeddings.

        `embeddings` are the names of the embeddings in the rows.
        """
        scored = [i for i in range(len(embeddings)) if any(row.cells[i] is not None for row in self.rows)]
        return self.choose(scored), tuple(embeddings[i] for i in scored)

    def choose(self, columns: Sequence[int]) -> TaskContent:
        """Return the task with only some embeddings; `columns` are their positions in the rows."""
        return replace(self, rows=tuple(replace(row, cells=tuple(row.cells[i] for i in columns)) for row in self.rows))

    @property
    def headlines(self) -> list[ScoreRow]:
        """Rows with a score that represent a metric in the summary: its mean row, or its only row."""
        return [row for row in self.rows if row.headline and row.defined]

    @property
    def defined(self) -> list[ScoreRow]:
        """Rows in which at least one embedding has a defined score."""
        return [row for row in self.rows if row.defined]

    @property
    def notes(self) -> list[str]:
        """Distinct notes of the defined rows."""
        return list(dict.fromkeys(note for row in self.defined for note in row.notes))

    @property
    def undefined(self) -> list[tuple[str, list[str]]]:
        """Reasons why rows have no score on any embedding, each with the names of the rows that it concerns."""
        reasons: dict[str, list[str]] = {}
        for row in self.rows:
            if not row.defined:
                reason = "; ".join(row.notes) or "no reason was recorded"
                reasons.setdefault(reason, []).append(f"{row.metric} ({row.setting})" if row.params else row.metric)
        return list(reasons.items())


@dataclass(frozen=True, slots=True)
class EmbeddingCells:
    """Per-cell values of one embedding."""

    name: str  # name of the embedding on the page
    scores: CellScores  # per-cell values of the run that scored the embedding; may be empty
    embedding: str  # name of the embedding in that run

    def columns(self, task: str) -> list[CellColumn]:
        """Return the per-cell values that a task computed, one column for each metric and set of parameters."""
        return self.scores.select(embedding=self.embedding, task=task)


@dataclass(frozen=True, slots=True)
class ComparableRuns:
    """Runs on the same cells with the same options, whose scores are comparable."""

    source: str  # the data as the user named it
    seed: int | None  # random seed of the runs
    n_cells: int | None  # number of cells; None if only predictions were scored
    embeddings: tuple[str, ...]  # names of the embeddings, unique on the page
    cells: tuple[EmbeddingCells, ...]  # per-cell values of each embedding
    tasks: tuple[TaskContent, ...]  # tasks with at least one row
    skipped: tuple[dict[str, str], ...]  # tasks that no run scored, with the keys "task" and "reason"
    failures: tuple[dict[str, str], ...]  # failed tasks, with the keys "task", "embedding" and "error"
    interrupted: bool  # whether Ctrl-C stopped any of the runs
    ranks: dict[str, float]  # mean rank of each embedding over the metrics, the best first
    results: Mapping[str, Result]  # the runs themselves, by name

    @property
    def order(self) -> list[int]:
        """Positions of the embeddings in `embeddings`, sorted by mean rank, the best first."""
        unranked = [name for name in self.embeddings if name not in self.ranks]
        return [self.embeddings.index(name) for name in [*self.ranks, *unranked]]

    @property
    def without_cells(self) -> list[str]:
        """Names of the embeddings whose run stored no per-cell values."""
        known = {cells.name for cells in self.cells if cells.scores.columns}
        return [] if self.n_cells is None else [name for name in self.embeddings if name not in known]


def comparable_runs(runs: Mapping[str, Result]) -> list[ComparableRuns]:
    """Group results of the same data and options; `runs` maps a name to each result, and sets the order."""
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
        tasks=tuple(_task_content(task, by_column, [result for _, result, _ in columns]) for task in tasks),
        skipped=_printable_items({(item["task"], item["reason"]): item for item in skipped}.values()),
        failures=_printable_items(item for result in results for item in result.failures),
        interrupted=any(result.interrupted for result in results),
        ranks={printable(name): rank for name, rank in mean_ranks(named_rows(runs)).items()},
        results=runs,
    )


def _printable_items(items: Iterable[Mapping[str, str]]) -> tuple[dict[str, str], ...]:
    return tuple({key: printable(text) for key, text in item.items()} for item in items)


def _task_content(task: str, columns: Sequence[Sequence[MetricResult]], results: Sequence[Result]) -> TaskContent:
    own = [[row for row in rows if row.task == task] for rows in columns]
    metrics = dict.fromkeys(row.metric for rows in own for row in rows)
    by_metric = {metric: [[row for row in rows if row.metric == metric] for rows in own] for metric in metrics}
    known = TASKS.get(task)
    cells, tables = [result.cells for result in results], [result.perturbations for result in results]
    return TaskContent(
        id=printable(task),
        title=known.title if known else printable(task),
        question=known.question if known else "",
        metrics=tuple(map(describe_metric, metrics)),
        rows=tuple(row for metric, found in by_metric.items() for row in score_rows(metric, found, cells, tables)),
    )

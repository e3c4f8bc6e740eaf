"""Tables that compare the scores of embeddings: one column per embedding or, if these do not fit, one per metric."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpubench.core.scores import MetricResult, names_mean
from gpubench.metrics.published import is_aggregate, published_spec
from gpubench.results.table import Lines, TextTable, format_value, mean_text, printable, shortened, telling_params

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_NAME = 24
"""Largest number of characters of the name of an embedding in a table."""

NOISE = "* best beyond noise: the 95% interval of its difference from the next best excludes 0."

_GAP = 2


@dataclass(frozen=True, slots=True)
class SummaryRow:
    """Scores of all embeddings for one metric with one set of parameters."""

    task: str
    metric: str
    setting: str  # values of the parameters that distinguish it from other rows of the metric, without means
    cells: tuple[MetricResult | None, ...]  # one for each embedding; None if not scored
    mean_of: str = ""  # text such as "mean of knn, lr, rf"; empty if it is no mean

    @property
    def name(self) -> str:
        """Metric and setting, as shown in tables."""
        return f"{self.metric} ({self.setting})" if self.setting else self.metric


@dataclass(frozen=True, slots=True)
class Summary:
    """Scores of a result in brief, without the rows over which a mean was taken."""

    embeddings: tuple[str, ...]
    rows: tuple[SummaryRow, ...]
    n_others: int = 0  # number of result rows that are left out, since a mean represents them


def summarize(results: Sequence[MetricResult], *, all_rows: bool = False) -> Summary:
    """Bring the scores of all embeddings for the same metric and parameters together in one row.

    Rows over which a mean was taken are left out, unless `all_rows`.
    """
    embeddings = tuple(dict.fromkeys(row.embedding for row in results))
    rows: list[SummaryRow] = []
    n_others = 0
    for task, metric in dict.fromkeys((row.task, row.metric) for row in results):
        own = [row for row in results if (row.task, row.metric) == (task, metric)]
        means = [row for row in own if row.aggregate]
        shown = own if all_rows or not means else means
        n_others += len(own) - len(shown)
        rows += _side_by_side(task, metric, shown, embeddings)
    return Summary(embeddings, tuple(rows), n_others)


def _side_by_side(task: str, metric: str, rows: Sequence[MetricResult], embeddings: Sequence[str]) -> list[SummaryRow]:
    per_embedding = [[row for row in rows if row.embedding == name] for name in embeddings]
    keys = list(dict.fromkeys(key for own in per_embedding if len(own) > 1 for key in telling_params(own)))
    means = [key for key in dict.fromkeys(key for row in rows for key in row.params) if _has_mean(rows, key)]
    lined: dict[tuple[Any, ...], dict[str, MetricResult]] = {}
    for own in per_embedding:
        seen: Counter[tuple[Any, ...]] = Counter()
        for row in own:
            setting = tuple(str(row.params[key]) for key in keys if key in row.params)
            seen[setting] += 1
            lined.setdefault((setting, seen[setting]), {})[row.embedding] = row
    return [
        SummaryRow(
            printable(task),
            printable(metric),
            printable(", ".join(_mean_text(value) for value in setting)),
            tuple(found.get(name) for name in embeddings),
            _mean_of(next(iter(found.values())), means),
        )
        for (setting, _), found in lined.items()
    ]


def _has_mean(rows: Sequence[MetricResult], key: str) -> bool:
    return any(names_mean(row.params.get(key, "")) for row in rows)


def _mean_text(value: str) -> str:
    return "mean" if names_mean(value) else value


def _mean_of(row: MetricResult, keys: Sequence[str]) -> str:
    """Describe a row that is a mean: "mean of knn, lr, rf", "mean over conditions"."""
    for key in keys:
        value = str(row.params.get(key, ""))
        if names_mean(value):
            return mean_text(value) if "(" in value else f"mean over {key}s"
    return ""


def score_blocks(
    summary: Summary, *, width: int | None = None, best: Sequence[Collection[int]] = (), limit: int | None = None
) -> list[TextTable | Lines]:
    """Format a summary as tables, with notes below.

    Parameters
    ----------
    summary : scores to show
    width : largest width in characters; None for no limit
    best : for each row, the indices of the best embeddings, which are marked
    limit : largest number of rows to show of each metric; None for all
    """
    shown, hidden = first_rows(summary.rows, limit)
    notes = notes_of([summary.rows[i] for i in shown])
    marks = [best[i] if best else () for i in shown]
    lines = [f"[{i}] {note}" for i, note in enumerate(notes, 1)]
    lines += [f"and {count:,} more rows of {metric}" for metric, count in hidden.items()]
    lines += [NOISE] if any(marks) else []
    rows = [summary.rows[i] for i in shown]
    texts = [
        [_cell(cell, marked=j in marked, any_marked=any(marks)) for j, cell in enumerate(row.cells)]
        for row, marked in zip(rows, marks, strict=True)
    ]
    return side_by_side(summary.embeddings, rows, texts, width=width, notes=list(notes), lines=lines)


def side_by_side(
    names: Sequence[str],
    rows: Sequence[SummaryRow],
    texts: Sequence[Sequence[str]],
    *,
    width: int | None,
    notes: Sequence[str] = (),
    lines: Sequence[str] = (),
) -> list[TextTable | Lines]:
    """Format texts as tables with rows `rows` and columns `names`, or transposed if they exceed `width` characters.

    `texts` has a text for each row and column. `notes` are numbered and listed below, followed by `lines`.
    """
    if not rows:
        return [Lines(lines)] if lines else []
    marked = any(text.endswith(("*", " ")) for row in texts for text in row)
    short = [name + " " * marked for name in shortened(list(map(printable, names)), MAX_NAME)]
    refs = [references(row, notes) for row in rows]
    table = _metrics_by_embeddings(short, rows, texts, refs)
    if width is None or table.width <= width:
        return [table, Lines(lines)] if lines else [table]
    means = [f"{heading(row).replace(', ', ': ', 1)}." for row in rows if row.mean_of]
    blocks = _embeddings_by_metrics(short, rows, texts, refs, width)
    below = [*dict.fromkeys(means), *lines]
    return [*blocks, Lines(below)] if below else [*blocks]


def _metrics_by_embeddings(
    names: Sequence[str], rows: Sequence[SummaryRow], texts: Sequence[Sequence[str]], refs: Sequence[str]
) -> TextTable:
    body: list[tuple[str, ...]] = []
    styles = {}
    for i, row in enumerate(rows):
        if i == 0 or heading(row) != heading(rows[i - 1]):
            styles[(len(body), 0)] = "bold"
            body.append((heading(row), *[""] * len(names)))
        styles |= {(len(body), j): "bold green" for j, text in enumerate(texts[i], 1) if "*" in text}
        body.append((f"  {row.name}{refs[i]}", *texts[i]))
    return TextTable("", ("", *names), tuple(body), numbers=frozenset(names), styles=styles)


def heading(row: SummaryRow) -> str:
    """Return the line above the rows of a task, with what they are means of."""
    return f"{row.task}, {row.mean_of}" if row.mean_of else row.task


def _embeddings_by_metrics(
    names: Sequence[str], rows: Sequence[SummaryRow], texts: Sequence[Sequence[str]], refs: Sequence[str], width: int
) -> list[TextTable]:
    """Return tables with embeddings in rows and as many metrics in columns as fit into `width`.

    Long names of metrics are broken after underscores.
    """
    ambiguous = {name for name, count in Counter(row.name for row in rows).items() if count > 1}
    room = width - max(map(len, names)) - _GAP
    tables: list[TextTable] = []
    chosen: list[tuple[str, list[str]]] = []
    used = 0
    for row, cells, ref in zip(rows, texts, refs, strict=True):
        title = f"{row.task} {row.name}" if row.name in ambiguous else row.name
        column = _stacked(title + ref, max(map(len, cells)))
        size = max(len(text) for text in (*column.split("\n"), *cells)) + _GAP
        if chosen and used + size > room:
            tables.append(_block(names, chosen))
            chosen, used = [], 0
        chosen.append((column, list(cells)))
        used += size
    return [*tables, _block(names, chosen)]


def _block(names: Sequence[str], columns: Sequence[tuple[str, Sequence[str]]]) -> TextTable:
    body = tuple((name, *(cells[i] for _, cells in columns)) for i, name in enumerate(names))
    styles = {(i, j): "bold green" for i, row in enumerate(body) for j, text in enumerate(row) if j and "*" in text}
    header = ("", *(title for title, _ in columns))
    return TextTable("", header, body, numbers=frozenset(header[1:]), styles=styles)


def _stacked(title: str, room: int) -> str:
    """Break a title after underscores and spaces into lines of at most `room` characters, or of one longer word."""
    lines = [""]
    for word in title.replace("_", "_ ").split(" "):
        joined = f"{lines[-1]}{'' if lines[-1].endswith('_') or not lines[-1] else ' '}{word}"
        if lines[-1] and len(joined) > room:
            lines.append(word)
        else:
            lines[-1] = joined
    return "\n".join(lines)


def _cell(row: MetricResult | None, *, marked: bool, any_marked: bool) -> str:
    if row is None:
        return "-" + " " * any_marked
    text = ("~" if row.approximate and not math.isnan(row.value) else "") + format_value(row.value)
    return text + ("*" if marked else " " * any_marked)


def notes_of(rows: Sequence[SummaryRow]) -> dict[str, None]:
    """Return the distinct notes of the rows, as keys in order of appearance."""
    return dict.fromkeys(printable(cell.note) for row in rows for cell in row.cells if cell is not None and cell.note)


def references(row: SummaryRow, notes: Collection[str]) -> str:
    """Return references to the notes of a row, as numbers in the list of notes."""
    known = list(notes)
    own = dict.fromkeys(printable(cell.note) for cell in row.cells if cell is not None and cell.note)
    return "".join(f" [{known.index(note) + 1}]" for note in own if note in known)


def first_rows(rows: Sequence[SummaryRow], limit: int | None) -> tuple[list[int], dict[str, int]]:
    """Return the indices of the first `limit` rows of each metric, and metric -> number of further rows."""
    seen: Counter[tuple[str, str]] = Counter()
    hidden: Counter[str] = Counter()
    shown = []
    for i, row in enumerate(rows):
        seen[row.task, row.metric] += 1
        if limit is None or seen[row.task, row.metric] <= limit:
            shown.append(i)
        else:
            hidden[row.metric] += 1
    return shown, dict(hidden)


def mean_ranks(results: Iterable[MetricResult]) -> dict[str, float]:
    """Return embedding -> mean of its ranks over all metrics, the best first; rank 1 is the best.

    Each metric counts once, by its row that is a mean if there is one. Equal values share the mean of their ranks.
    Undefined values rank last. Metrics of which neither high nor low values are better are left out, and aggregates,
    which are means of other metrics, unless there are only those.
    """
    summary = summarize(list(results))
    ranks: dict[str, list[float]] = {name: [] for name in summary.embeddings}
    for row in [row for row in summary.rows if not is_aggregate(row.metric)] or summary.rows:
        spec = published_spec(row.metric)
        higher_is_better = spec.higher_is_better if spec else None
        if higher_is_better is None or all(cell is None for cell in row.cells):
            continue
        for name, rank in zip(summary.embeddings, _ranks(row.cells, higher_is_better=higher_is_better), strict=True):
            if rank is not None:
                ranks[name].append(rank)
    means = {name: sum(own) / len(own) for name, own in ranks.items() if own}
    return dict(sorted(means.items(), key=lambda item: item[1]))


def _ranks(cells: Sequence[MetricResult | None], *, higher_is_better: bool) -> list[float | None]:
    """Return the rank of each score; None where there is no score."""
    sign = -1 if higher_is_better else 1
    keys = [None if cell is None else math.inf if math.isnan(cell.value) else sign * cell.value for cell in cells]
    present = sorted(key for key in keys if key is not None)
    return [None if key is None else present.index(key) + (present.count(key) + 1) / 2 for key in keys]


def stage_seconds(timeline: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return stage -> seconds summed over all embeddings, the longest first, and "total" for the whole run.

    Only stages directly inside the stage of an embedding, and outer stages without inner ones, are counted, so that no
    time is counted twice.
    """
    stages = list(timeline)
    outer = {stage["path"].partition("/")[0] for stage in stages if "/" in stage["path"]}
    seconds: Counter[str] = Counter()
    for stage in stages:
        name, slash, rest = stage["path"].partition("/")
        if (slash and "/" not in rest) or (not slash and name not in outer):
            seconds[rest or name] += stage["seconds"]
    total = max((stage["start_s"] + stage["seconds"] for stage in stages), default=0.0)
    return {**dict(seconds.most_common()), "total": total}

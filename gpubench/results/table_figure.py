"""Figure of all scores as a table: a row per embedding, a coloured column per metric, and bars for aggregates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpubench.core.errors import InputError
from gpubench.metrics import METRICS
from gpubench.metrics._metric import AGGREGATE
from gpubench.results.figures import MAX_NAME, new_figure, theme
from gpubench.results.score_table import SummaryRow, mean_ranks, summarize
from gpubench.results.table import shortened
from gpubench.tasks import TASKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gpubench.core.scores import MetricResult
    from gpubench.results.shown_figure import ShownFigure

_ROW_IN, _COLUMN_IN, _NAME_IN, _HEAD_IN, _FOOT_IN = 0.33, 0.4, 0.075, 1.5, 0.2
_CMAPS = ("viridis", "cividis", "YlGnBu_r", "PuBuGn_r", "BuPu_r")
_BAR = "#9ecae1"


@dataclass(frozen=True, slots=True)
class _Column:
    """One column of the figure: a metric or an aggregate."""

    title: str
    task: str
    values: tuple[float, ...]  # value of each embedding; NaN if undefined
    higher_is_better: bool | None
    bar: bool  # whether it is an aggregate, drawn as a bar


def table_figure(results: Sequence[MetricResult]) -> ShownFigure:
    """Draw a table with a row for each embedding, the best first, and a column for each metric.

    Each score is a coloured cell; colours range from the worst to the best value in the column. Bars show aggregates:
    those of the task `scib` and, if there are several embeddings, the mean rank over all metrics. Embeddings are sorted
    by the total score of scib if it was computed, else by the mean rank.
    """
    summary = summarize(list(results))
    if not summary.rows:
        raise InputError("plot: no number is left to show; choose another task, metric or embedding")
    columns = [_column(row) for row in summary.rows]
    columns = [column for column in columns if any(not math.isnan(value) for value in column.values)]
    ranks = mean_ranks(results)
    if len(summary.embeddings) > 1 and ranks:
        own = tuple(ranks.get(name, math.nan) for name in summary.embeddings)
        columns.append(_Column("Mean rank", "all", own, higher_is_better=False, bar=True))
    columns.sort(key=lambda column: column.bar)
    order = _order(summary.embeddings, summary.rows, ranks)
    names = shortened([summary.embeddings[i] for i in order], MAX_NAME + 8)
    with theme(7, axes_spines_left=False, axes_spines_bottom=False):
        left = 0.25 + _NAME_IN * max(map(len, names))
        width = left + _COLUMN_IN * len(columns) + 0.45  # the last title leans over the edge
        height = _HEAD_IN + _ROW_IN * len(order) + _FOOT_IN
        figure = new_figure(width, height, dpi=200)
        figure.set_layout_engine("none")
        size = (_COLUMN_IN * len(columns) / width, _ROW_IN * len(order) / height)
        axes = figure.add_axes((left / width, _FOOT_IN / height, *size))
        for x, column in enumerate(columns):
            _draw(axes, x, column, [column.values[i] for i in order], columns)
        _label(axes, columns, names)
        return figure  # type: ignore[return-value]


def _column(row: SummaryRow) -> _Column:
    spec = METRICS[row.metric].spec if row.metric in METRICS else None
    title = spec.title if spec else row.metric
    return _Column(
        f"{title} ({row.setting})" if row.setting else title,
        row.task,
        tuple(math.nan if cell is None else cell.value for cell in row.cells),
        spec.higher_is_better if spec else None,
        bar=bool(spec and spec.scib and spec.scib[1] == AGGREGATE),
    )


def _order(embeddings: Sequence[str], rows: Sequence[SummaryRow], ranks: dict[str, float]) -> list[int]:
    """Return the indices of the embeddings, the best first."""
    total = next((row for row in rows if row.metric == "total"), None)
    if total is not None:
        values = [math.nan if cell is None else cell.value for cell in total.cells]
        return sorted(range(len(embeddings)), key=lambda i: math.inf if math.isnan(values[i]) else -values[i])
    return sorted(range(len(embeddings)), key=lambda i: ranks.get(embeddings[i], math.inf))


def _draw(axes: Axes, x: int, column: _Column, values: Sequence[float], columns: Sequence[_Column]) -> None:
    """Draw the cells of one column at position x, from top to bottom."""
    from matplotlib import colormaps
    from matplotlib.patches import Circle, Rectangle

    tasks = list(dict.fromkeys(one.task for one in columns))
    colours = colormaps[_CMAPS[tasks.index(column.task) % len(_CMAPS)]]
    known = [value for value in values if not math.isnan(value)]
    low, high = min(known), max(known)
    for y, value in enumerate(values):
        if math.isnan(value):
            axes.text(x + 0.5, y, "–", ha="center", va="center", color="#888888")
            continue
        share = 0.5 if low == high else (value - low) / (high - low)
        share = 1 - share if column.higher_is_better is False else share
        text = f"{value:.1f}" if column.title == "Mean rank" else f"{value:.2f}"
        if column.bar:
            longest = high if column.title != "Mean rank" else len(values)
            axes.add_patch(Rectangle((x + 0.06, y - 0.3), 0.88 * max(0.0, value) / max(longest, 1e-9), 0.6, color=_BAR))
            axes.text(x + 0.12, y, text, ha="left", va="center", color="black")
            continue
        colour = colours(0.05 + 0.9 * share)
        axes.add_patch(Circle((x + 0.5, y), 0.42, color=colour, transform=axes.transData))
        bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 0.55
        axes.text(x + 0.5, y, text, ha="center", va="center", fontsize=5.5, color="black" if bright else "white")


def _label(axes: Axes, columns: Sequence[_Column], names: Sequence[str]) -> None:
    """Write the names of rows and columns, and of the tasks above their columns."""
    axes.set_xlim(0, len(columns))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xticks([])
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    for label in axes.get_yticklabels():
        label.set(parse_math=False)
    for x, column in enumerate(columns):
        axes.text(
            x + 0.35, -0.65, short_title(column.title), rotation=45, ha="left", va="bottom", rotation_mode="anchor",
            parse_math=False,
        )  # fmt: skip
        if x and (column.task, column.bar) != (columns[x - 1].task, columns[x - 1].bar):
            axes.axvline(x, color="#bbbbbb", linewidth=0.6)
    for task in dict.fromkeys(column.task for column in columns if not column.bar):
        places = [x for x, column in enumerate(columns) if column.task == task and not column.bar]
        title = TASKS[task].title if task in TASKS else task
        axes.text(
            (places[0] + places[-1] + 1) / 2, len(names) - 0.42, title, ha="center", va="top", fontsize=6,
            color="#555555", parse_math=False, clip_on=False,
        )  # fmt: skip


def short_title(title: str) -> str:
    """Shorten the title of a metric so that it fits above a column."""
    return shortened([title.replace(", mean over folds", "")], 30)[0]

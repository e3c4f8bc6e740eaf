"""Figures of a result for papers: vector graphics of Matplotlib in colours that colour-blind people tell apart."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError
from gpubench.core.scores import CLUSTER, CellColumn, CellScores, MetricResult, names_mean
from gpubench.core.types import Labels
from gpubench.metrics import METRICS
from gpubench.results.intervals import half_width
from gpubench.results.rows import telling_params
from gpubench.tasks import TASKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray


QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, slots=True)
class Spread:
    """The values of a group's cells: how many, their mean, and `QUANTILES` of them."""

    n: int
    mean: float
    quantiles: tuple[float, ...]


def spreads(column: CellColumn, labels: Labels) -> dict[str, Spread]:
    """The spread of each group that has cells that count."""
    counted = np.flatnonzero(~np.isnan(column.values))
    codes, values = labels.codes[counted], column.values[counted]
    order = np.lexsort((values, codes))
    sizes = np.bincount(codes, minlength=labels.n_classes)
    ascending = np.split(values[order].astype(np.float64), np.cumsum(sizes)[:-1])
    return {
        name: Spread(len(own), float(own.mean()), tuple(_quantiles(own)))
        for name, own in zip(labels.names, ascending, strict=True)
        if len(own)
    }


def standard_error(column: CellColumn, labels: Labels | None) -> float | None:
    r"""Standard error of a score over cells drawn anew, from the scatter of the values that it is the mean of.

    .. math:: SE^2 = \frac{s^2}{n}, \qquad SE^2 = \frac{1}{L^2} \sum_l \frac{s_l^2}{n_l}

    of a mean over cells, and of a mean over labels, to which a label of one cell adds nothing, since its scatter is not
    known. None where a mean over labels comes without them, and for fewer than two values.
    """
    if column.mean_over == "labels" and labels is None:
        return None
    counted = np.flatnonzero(~np.isnan(column.values))
    if len(counted) < 2:
        return None
    values = column.values[counted].astype(np.float64)
    if column.mean_over == "cells" or labels is None:
        return float(values.std(ddof=1) / np.sqrt(len(values)))
    codes = labels.codes[counted]
    sizes = np.bincount(codes)
    n = np.maximum(sizes, 1)
    deviations = values - (np.bincount(codes, weights=values) / n)[codes]
    variances = np.bincount(codes, weights=deviations**2) / np.maximum(n - 1, 1)
    return float(np.sqrt((variances / n)[sizes > 0].sum()) / np.count_nonzero(sizes))


def _quantiles(ascending: NDArray[np.float64]) -> list[float]:
    places = np.array(QUANTILES) * (len(ascending) - 1)
    return np.interp(places, np.arange(len(ascending)), ascending).tolist()  # type: ignore[no-any-return]


COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#F0E442")
"""Okabe and Ito (2008), doi:10.1038/nmeth.1618 for their use."""

WIDTH_IN = 3.5
"""Of a column of a journal."""

_ROW_IN = 0.14
_LONGEST = 28


def plot(
    results: Sequence[MetricResult],
    cells: CellScores,
    kind: str,
    *,
    embedding: str | None = None,
    task: str | None = None,
    metric: str | None = None,
    by: str = "label",
) -> Figure:
    """Draw one kind of figure; see `Result.plot`."""
    given = {"embedding": embedding, "task": task, "metric": metric}
    chosen = {name: value for name, value in given.items() if value is not None}
    if kind == "scores":
        rows = [row for row in results if all(getattr(row, name) == value for name, value in chosen.items())]
        return scores_figure(rows, cells)
    if kind == "breakdown":
        columns = [column for column in cells.select(**chosen) if column.names is None]
        _only_one({(column.task, column.metric) for column in columns}, "task and metric")
        labels = _groups(cells, by)
        return breakdown_figure(columns, labels, by, _in_time(labels, cells.times) if by == "time" else None)
    if kind == "view":
        _only_one(names := {row.embedding for row in results} if embedding is None else {embedding}, "embedding")
        return view_figure(cells, names.pop(), by)
    raise InputError(f"kind={kind!r} is unknown; use 'scores', 'breakdown' or 'view'")


def _only_one(found: Collection[Any], what: str) -> None:
    if len(found) != 1:
        listed = ", ".join(sorted(map(str, found))) or "none; score again, or keep cells.parquet beside the JSON"
        raise InputError(f"plot: one {what} can be drawn; name it, of: {listed}")


@contextmanager
def _style() -> Iterator[None]:
    """Matplotlib's own defaults, whatever the user has set, in the size of print."""
    from matplotlib import style

    bare = {f"axes.spines.{side}": False for side in ("top", "right")}
    with style.context(["default", {**bare, "font.size": 7, "legend.frameon": False, "axes.linewidth": 0.6}]):
        yield


def scores_figure(rows: Sequence[MetricResult], cells: CellScores) -> Figure:
    """Bars for each metric and embedding, with intervals of 95%.

    They follow by Student's t from the standard errors of the rows, else from the scatter of the cells.
    Of a metric with rows for several parameters the means are shown, where there are any.
    """
    embeddings = list(dict.fromkeys(row.embedding for row in rows))
    lines = _lines(rows)
    if not any(of_line for _, of_line in lines):
        raise InputError("plot: no number is left to show; choose another task, metric or embedding")
    with _style():
        figure, axes = _new(_ROW_IN * (len(embeddings) + 0.8) * len(lines) + 0.55 + 0.15 * (len(embeddings) > 1))
        height = 0.8 / len(embeddings)
        for i, embedding in enumerate(embeddings):
            found = [(y, of_line[embedding]) for y, (_, of_line) in enumerate(lines) if embedding in of_line]
            axes.barh(
                [y + (i - (len(embeddings) - 1) / 2) * height for y, _ in found],
                [row.value for _, row in found],
                height,
                xerr=[_half_width(row, cells) for _, row in found],
                color=COLORS[i % len(COLORS)],
                error_kw={"elinewidth": 0.6, "ecolor": "#444444"},
                label=str(i),
            )
        axes.axvline(0, color="black", linewidth=0.6)
        _name(axes, [name for name, _ in lines])
        for label, (_, of_line) in zip(axes.get_yticklabels(), lines, strict=True):
            label.set_fontweight("normal" if of_line else "bold")
        axes.set_xlabel("score")
        _legend(figure, axes, embeddings)
        return figure


def _lines(rows: Sequence[MetricResult]) -> list[tuple[str, dict[str, MetricResult]]]:
    """What stands side by side: a name, and the row of each embedding that has a number; none under a task's name."""
    lines: list[tuple[str, dict[str, MetricResult]]] = []
    tasks = list(dict.fromkeys(row.task for row in rows))
    for task in tasks:
        own = [row for row in rows if row.task == task]
        if len(tasks) > 1:
            lines.append((TASKS[task].title if task in TASKS else task, {}))
        for metric in dict.fromkeys(row.metric for row in own):
            lines += _lines_of_metric(metric, [row for row in own if row.metric == metric])
    return lines


def _lines_of_metric(metric: str, rows: Sequence[MetricResult]) -> list[tuple[str, dict[str, MetricResult]]]:
    telling = telling_params(rows) if len({row.embedding for row in rows}) < len(rows) else ()
    means = [row for row in rows if row.aggregate]
    title = METRICS[metric].spec.title if metric in METRICS else metric
    lines: dict[str, dict[str, MetricResult]] = {}
    for row in means or rows:
        params = [str(row.params[key]) for key in telling if key in row.params]
        setting = ", ".join(value for value in params if not names_mean(value))
        if not math.isnan(row.value):
            lines.setdefault(f"{title} ({setting})" if setting else title, {})[row.embedding] = row
    return list(lines.items())


def _half_width(row: MetricResult, cells: CellScores) -> float:
    """Half of the interval of a row; 0 where nothing tells."""
    if row.stderr is not None:
        return half_width(row.stderr, row.stderr_df)
    columns = cells.select(embedding=row.embedding, task=row.task, metric=row.metric)
    found = standard_error(columns[0], cells.groups.get("label")) if len(columns) == 1 else None
    return 0.0 if found is None else half_width(found, None)


def _in_time(labels: Labels, times: NDArray[np.float64] | None) -> list[str] | None:
    """Time points in order of time, which is not that of their names: "10" comes before "9"."""
    if times is None:
        return None
    of_code = np.empty(labels.n_classes)
    of_code[labels.codes] = times
    return [labels.names[code] for code in np.argsort(of_code)]


def breakdown_figure(
    columns: Sequence[CellColumn], labels: Labels, by: str, order: Sequence[str] | None = None
) -> Figure:
    """How the values of cells spread in each group: nine tenths of them, half of them, and the median.

    Groups stand in `order`, or else the lowest mean comes first.
    """
    embeddings = [column.embedding for column in columns]
    found = [spreads(column, labels) for column in columns]
    means = {
        name: np.mean([of[name].mean for of in found if name in of])
        for name in labels.names
        if any(name in of for of in found)
    }
    names = [name for name in order or sorted(means, key=lambda name: means[name]) if name in means]
    step = _ROW_IN * (len(columns) + 0.5)
    with _style():
        figure, axes = _new(step * len(names) + 0.55 + 0.15 * (len(columns) > 1))
        for i, of_groups in enumerate(found):
            shift = (i - (len(columns) - 1) / 2) * _ROW_IN / step
            _boxes(axes, [(y + shift, of_groups[name]) for y, name in enumerate(names) if name in of_groups], i)
        _name(axes, names)
        axes.set_xlabel(METRICS[columns[0].metric].spec.title)
        axes.set_ylabel(by)
        _legend(figure, axes, embeddings)
        return figure


def _boxes(axes: Axes, places: Sequence[tuple[float, Spread]], i: int) -> None:
    color, y = COLORS[i % len(COLORS)], [place for place, _ in places]
    low, lower, middle, upper, high = np.array([spread.quantiles for _, spread in places]).reshape(-1, 5).T
    axes.hlines(y, low, high, color=color, linewidth=0.7)
    axes.hlines(y, lower, upper, color=color, linewidth=2.5)
    axes.plot(middle, y, "o", color="white", markeredgecolor=color, markersize=3.5, label=str(i))


def view_figure(cells: CellScores, embedding: str, by: str) -> Figure:
    """The cells in two dimensions, coloured by their group, by time, or by cluster; the largest groups have names."""
    view = cells.views.get(embedding, cells.views.get(""))
    if view is None:
        raise InputError(f"plot: there is no view of {embedding!r}; score again, or keep cells.parquet beside the JSON")
    order = np.random.default_rng(0).permutation(len(view.rows))
    rows, (x, y) = view.rows[order], view.xy[order].T
    size = float(np.clip(6_000 / max(len(rows), 1), 0.5, 8))
    with _style():
        figure, axes = _new(WIDTH_IN * 0.85)
        axes.set_axis_off()
        if by == "time" and cells.times is not None:
            drawn = axes.scatter(x, y, size, cells.times[rows], cmap="viridis", linewidths=0, rasterized=True)
            figure.colorbar(drawn, ax=axes, label="time", fraction=0.04)
            return figure
        labels = _clusters(cells, embedding) if by == CLUSTER else _groups(cells, by)
        color_of, named = _colors(labels)
        axes.scatter(x, y, size, color_of[labels.codes[rows]], linewidths=0, rasterized=True)
        for code in named:
            axes.scatter([], [], 12, color_of[code], label=str(code))
        _legend(figure, axes, [labels.names[code] for code in named], beside=True)
        return figure


def _clusters(cells: CellScores, embedding: str) -> Labels:
    column = cells.find(CLUSTER, embedding=embedding)
    return Labels(column.values.astype(np.int32), column.names or ())


def _groups(cells: CellScores, by: str) -> Labels:
    if by not in cells.groups:
        known = ", ".join(map(repr, cells.groups)) or "none"
        raise InputError(f"plot: by={by!r} is not known of the cells; there are: {known}")
    return cells.groups[by]


def _colors(labels: Labels) -> tuple[NDArray[Any], list[int]]:
    """A colour for each group, and those that are not grey: no more than can be told apart."""
    largest = np.argsort(-np.bincount(labels.codes, minlength=labels.n_classes), kind="stable")[: len(COLORS)]
    color_of = np.full(labels.n_classes, "#BBBBBB")
    color_of[largest] = COLORS[: len(largest)]
    return color_of, largest.tolist()


def _new(height_in: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained", dpi=200)
    return figure, figure.subplots()


def _name(axes: Axes, names: Sequence[str]) -> None:
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), ["\n".join(textwrap.wrap(name, _LONGEST)) for name in names])
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=True, axis="x", linewidth=0.4, color="#DDDDDD")
    axes.set_axisbelow(True)


def _legend(figure: Figure, axes: Axes, names: Sequence[str], *, beside: bool = False) -> None:
    if len(names) < 2:
        return
    handles, labels = axes.get_legend_handles_labels()
    legend = figure.legend(
        handles, labels, loc="outside right upper" if beside else "outside upper left", ncols=1 if beside else 2
    )
    # the names come in afterwards: Matplotlib hides labels that begin with an underscore, and reads $ as mathematics
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set(text=textwrap.shorten(name, _LONGEST, placeholder="…") or name[:_LONGEST], parse_math=False)

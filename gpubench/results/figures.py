"""Figures of a result for papers, and the theme and drawing functions that all figures share."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gpubench.core.errors import InputError, close_matches
from gpubench.core.scores import CLUSTER, CellColumn, CellScores, MetricResult, PerturbationTable, names_mean
from gpubench.core.types import Labels
from gpubench.metrics import METRICS
from gpubench.metrics.published import published_spec
from gpubench.results import table
from gpubench.results.statistics import GroupStatistics, group_statistics, group_times, half_width, standard_error
from gpubench.results.table import telling_params
from gpubench.tasks import TASKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#F0E442")
"""Palette of Okabe and Ito (2008), safe for colour-blind readers; see doi:10.1038/nmeth.1618."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GRID_COLOR = "#DDDDDD"
MAX_NAME = 24
"""Largest number of characters of a name in a figure."""


@contextmanager
def theme(font_size: float, **settings: Any) -> Iterator[None]:
    """Use Matplotlib's default style without a frame in a `with` statement, whatever style the user has set.

    `settings` are further rcParams, with "_" in place of ".".
    """
    from matplotlib import style

    names = {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "axes.axisbelow": True}
    given = {name.replace("_", "."): value for name, value in settings.items()}
    with style.context(["default", {**names, "font.size": font_size, "grid.color": GRID_COLOR, **given}]):
        yield


def new_figure(width_in: float, height_in: float, **options: Any) -> Figure:
    """Return an empty figure with constrained layout, so that its parts do not overlap; notebooks show the figure."""
    from gpubench.results.shown_figure import ShownFigure

    return ShownFigure(figsize=(width_in, height_in), layout="constrained", **options)


def name_lines(axes: Axes, names: Sequence[str], *, fontsize: float | None = None) -> None:
    """Label the ticks y = 0, 1, ... with names, which are shown literally rather than parsed as mathematics."""
    axes.set_yticks(range(len(names)), names)
    for label in axes.get_yticklabels():
        label.set(parse_math=False)
        if fontsize is not None:
            label.set(fontsize=fontsize)
    axes.tick_params(axis="y", length=0)


def add_legend(figure: Figure, axes: Axes, names: Sequence[str], *, right: bool = False, columns: int = 2) -> None:
    """Add a legend with `names` for the drawn artists, above the axes or to their right; none if there is one name."""
    if len(names) < 2:
        return
    handles, labels = axes.get_legend_handles_labels()
    location: Literal["outside right upper", "outside upper left"]
    location, columns = ("outside right upper", 1) if right else ("outside upper left", columns)
    legend = figure.legend(handles, labels, loc=location, ncols=columns)
    # Names are set afterwards: Matplotlib hides labels that begin with an underscore, and reads $ as mathematics.
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set(text=name, parse_math=False)


def offset(i: int, n: int, height: float) -> float:
    """Return the offset in y at which the i-th of n items on the same line is drawn, so that they do not overlap."""
    return (i - (n - 1) / 2) * height


def draw_quantiles(
    axes: Axes,
    groups: Sequence[tuple[float, GroupStatistics]],
    color: str,
    *,
    face: str = "white",
    marker: str = "o",
    scale: float = 1.0,
    label: str = "",
) -> None:
    """Draw quantiles of groups: 5-95% as a thin line, 25-75% as a thick line, and the median as a marker.

    `groups` has the y coordinate and the statistics of each group.
    """
    y = [height for height, _ in groups]
    low, lower, median, upper, high = np.array([own.quantiles for _, own in groups]).reshape(-1, 5).T
    axes.hlines(y, low, high, color=color, linewidth=0.8 * scale)
    axes.hlines(y, lower, upper, color=color, linewidth=3 * scale)
    axes.plot(median, y, marker, color=face, markeredgecolor=color, markersize=4.5 * scale, label=label)


def scatter_cells(
    axes: Axes, xy: NDArray[np.float32], colors: NDArray[Any], *, scale: float = 1.0, **options: Any
) -> PathCollection:
    """Draw cells as points, in random order so that no group covers another, and rasterized to keep files small."""
    order = np.random.default_rng(0).permutation(len(xy))
    size = scale * float(np.clip(12_000 / max(len(xy), 1), 1.2, 14))
    axes.set_axis_off()
    x, y = xy[order].T
    return axes.scatter(x, y, size, colors[order], linewidths=0, rasterized=True, **options)


def short(text: str, longest: int = MAX_NAME) -> str:
    """Cut a text to at most `longest` characters, the length of names in figures."""
    return table.short(text, longest)


def two_lines(text: str) -> str:
    """Break text into at most two lines of `MAX_NAME` characters, and cut the rest."""
    first, *more = textwrap.wrap(text, MAX_NAME, break_long_words=False) or [""]
    return "\n".join(short(line) for line in (first, " ".join(more)) if line)


def shortened(names: Sequence[str], longest: int = MAX_NAME) -> list[str]:
    """Cut names to at most `longest` characters, the length of names in figures, and keep them distinct."""
    return table.shortened(names, longest)


WIDTH_IN = 3.5
"""Width of a journal column in inches."""

_ROW_IN = 0.14
_OTHER_COLOR = "#BBBBBB"
_MAX_NAME = 28


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
    """Draw the figure of this kind; parameters as in `Result.plot`."""
    given = {"embedding": embedding, "task": task, "metric": metric}
    chosen = {name: value for name, value in given.items() if value is not None}
    rows = [row for row in results if all(getattr(row, name) == value for name, value in chosen.items())]
    if kind == "scores":
        return scores_figure(rows, cells)
    if kind == "breakdown":
        columns = [column for column in cells.select(**chosen) if column.names is None]
        _check_one({(column.task, column.metric) for column in columns}, "task and metric")
        labels = _groups(cells, by)
        order = list(group_times(labels, cells.times)) if by == "time" and cells.times is not None else None
        return breakdown_figure(columns, labels, by, order)
    if kind == "view":
        _check_one(names := {row.embedding for row in results} if embedding is None else {embedding}, "embedding")
        return view_figure(cells, names.pop(), by)
    raise InputError(f"kind={kind!r} is unknown; use 'table', 'scores', 'breakdown' or 'view'")


def _check_one(found: Collection[Any], what: str) -> None:
    if len(found) != 1:
        listed = ", ".join(sorted(map(str, found))) or "none; score again, or keep cells.parquet next to the JSON"
        raise InputError(f"plot: one {what} can be drawn; name it, of: {listed}")


def _print_theme() -> AbstractContextManager[None]:
    return theme(7, axes_linewidth=0.6, grid_linewidth=0.4)


def scores_figure(rows: Sequence[MetricResult], cells: CellScores) -> Figure:
    """Draw a bar with 95% interval for each metric and embedding.

    Intervals follow by Student's t from the standard error of a row or, if it has none, from the scatter of its
    per-cell values. If a metric has rows that are means over other rows, only these are shown.
    """
    embeddings = list(dict.fromkeys(row.embedding for row in rows))
    lines = _lines(rows)
    if not any(scored for _, scored in lines):
        raise InputError("plot: no number is left to show; choose another task, metric or embedding")
    n = len(embeddings)
    height = 0.8 / n
    with _print_theme():
        figure = new_figure(WIDTH_IN, _ROW_IN * (n + 0.8) * len(lines) + 0.55 + 0.15 * (n > 1), dpi=200)
        axes = figure.subplots()
        for i, embedding in enumerate(embeddings):
            found = [(y, scored[embedding]) for y, (_, scored) in enumerate(lines) if embedding in scored]
            axes.barh(
                [y + offset(i, n, height) for y, _ in found],
                [row.value for _, row in found],
                height,
                xerr=[_half_width(row, cells) for _, row in found],
                color=COLORS[i % len(COLORS)],
                error_kw={"elinewidth": 0.6, "ecolor": "#444444"},
                label=str(i),
            )
        axes.axvline(0, color="black", linewidth=0.6)
        axes.set_ylim(len(lines) - 0.4, -0.6)
        name_lines(axes, [_wrapped(name) for name, _ in lines])
        for label, (_, scored) in zip(axes.get_yticklabels(), lines, strict=True):
            label.set_fontweight("normal" if scored else "bold")
        axes.grid(visible=True, axis="x")
        axes.set_xlabel("score")
        add_legend(figure, axes, list(map(_shortened, embeddings)))
        return figure


def _wrapped(name: str) -> str:
    return "\n".join(textwrap.wrap(name, _MAX_NAME))


def _shortened(name: str) -> str:
    return textwrap.shorten(name, _MAX_NAME, placeholder="…") or name[:_MAX_NAME]


def _lines(rows: Sequence[MetricResult]) -> list[tuple[str, dict[str, MetricResult]]]:
    """Return the lines of a figure as (name, embedding -> row); the title of a task is a line without rows."""
    lines: list[tuple[str, dict[str, MetricResult]]] = []
    tasks = list(dict.fromkeys(row.task for row in rows))
    for task in tasks:
        own = [row for row in rows if row.task == task]
        if len(tasks) > 1:
            lines.append((TASKS[task].title if task in TASKS else task, {}))
        for metric in dict.fromkeys(row.metric for row in own):
            lines += _metric_lines(metric, [row for row in own if row.metric == metric])
    return lines


def _metric_lines(metric: str, rows: Sequence[MetricResult]) -> list[tuple[str, dict[str, MetricResult]]]:
    telling = telling_params(rows) if len({row.embedding for row in rows}) < len(rows) else ()
    means = [row for row in rows if row.aggregate]
    spec = published_spec(metric)
    title = spec.title if spec else metric
    lines: dict[str, dict[str, MetricResult]] = {}
    for row in means or rows:
        params = [str(row.params[key]) for key in telling if key in row.params]
        setting = ", ".join(value for value in params if not names_mean(value))
        if not math.isnan(row.value):
            lines.setdefault(f"{title} ({setting})" if setting else title, {})[row.embedding] = row
    return list(lines.items())


def _half_width(row: MetricResult, cells: CellScores) -> float:
    """Return half the width of the 95% interval of a row; 0 if it is not known."""
    if row.stderr is not None:
        return half_width(row.stderr, row.stderr_df)
    columns = cells.select(embedding=row.embedding, task=row.task, metric=row.metric)
    stderr = standard_error(columns[0], cells.groups.get("label")) if len(columns) == 1 else None
    return 0.0 if stderr is None else half_width(stderr, None)


def breakdown_figure(
    columns: Sequence[CellColumn], labels: Labels, by: str, order: Sequence[str] | None = None
) -> Figure:
    """Draw the quantiles of per-cell values in each group of cells.

    Parameters
    ----------
    columns : columns of values of the same metric, one for each embedding
    labels : group of each cell
    by : name of the grouping, for the axis
    order : order of the groups; if None, the group with the lowest mean is first
    """
    groups = [group_statistics(column, labels) for column in columns]
    means = {
        name: np.mean([own[name].mean for own in groups if name in own])
        for name in labels.names
        if any(name in own for own in groups)
    }
    names = [name for name in order or sorted(means, key=lambda name: means[name]) if name in means]
    n = len(columns)
    step = _ROW_IN * (n + 0.5)
    with _print_theme():
        figure = new_figure(WIDTH_IN, step * len(names) + 0.55 + 0.15 * (n > 1), dpi=200)
        axes = figure.subplots()
        for i, own in enumerate(groups):
            y = {name: line + offset(i, n, _ROW_IN / step) for line, name in enumerate(names) if name in own}
            found = [(height, own[name]) for name, height in y.items()]
            draw_quantiles(axes, found, COLORS[i % len(COLORS)], scale=0.8, label=str(i))
        axes.set_ylim(len(names) - 0.4, -0.6)
        name_lines(axes, list(map(_wrapped, names)))
        axes.grid(visible=True, axis="x")
        axes.set_xlabel(METRICS[columns[0].metric].spec.title)
        axes.set_ylabel(by)
        add_legend(figure, axes, [_shortened(column.embedding) for column in columns])
        return figure


def perturbations_figure(results: Sequence[MetricResult], table: PerturbationTable, metric: str | None) -> Figure:
    """Draw the value of a metric for each perturbation, sorted by the values of the first prediction.

    Aggregate scores of baselines and of the replicate or ceiling are vertical lines with the 95% interval as a band.
    """
    known = dict.fromkeys(table.metric)
    if metric is None or metric not in known:
        raise InputError(f"plot: metric={metric!r} has no values of perturbations{close_matches(str(metric), known)}")
    contexts, predictions = dict.fromkeys(table.context), dict.fromkeys(table.prediction)
    shown = [name for name in predictions if not name.startswith("baseline_")] or list(predictions)
    values = {
        name: {(c, p): v for c in contexts for p, v in table.values_of(name, metric, c).items()} for name in shown
    }
    first = values[shown[0]]
    order = sorted(first, key=lambda key: (math.isnan(first[key]), -first[key]))
    lines = [row for row in results if row.metric == metric and row.embedding not in shown]
    if len(contexts) > 1:
        lines = [row for row in lines if row.aggregate]
    with _print_theme():
        figure = new_figure(WIDTH_IN, _ROW_IN * len(order) + 0.9, dpi=200)
        axes = figure.subplots()
        for i, name in enumerate(shown):
            color, marker = COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]
            x = [values[name].get(key, math.nan) for key in order]
            axes.plot(x, range(len(order)), marker, color=color, markersize=3, label=str(i))
        for i, row in enumerate(lines):
            color = COLORS[(len(shown) + i) % len(COLORS)]
            axes.axvline(row.value, color=color, linestyle="--", linewidth=0.8, label=str(len(shown) + i))
            half = _half_width(row, CellScores())
            axes.axvspan(row.value - half, row.value + half, color=color, alpha=0.12, linewidth=0)
        axes.set_ylim(len(order) - 0.4, -0.6)
        name_lines(axes, [_shortened(f"{p} ({c})" if c else p) for c, p in order])
        axes.grid(visible=True, axis="x")
        spec = published_spec(metric)
        axes.set_xlabel(spec.title if spec else metric)
        add_legend(figure, axes, [_shortened(name) for name in (*shown, *(row.embedding for row in lines))])
        return figure


def view_figure(cells: CellScores, embedding: str, by: str) -> Figure:
    """Draw the cells of an embedding in two dimensions, coloured by group, time or cluster; name the largest groups."""
    view = cells.views.get(embedding, cells.views.get(""))
    if view is None:
        raise InputError(
            f"plot: there is no view of {embedding!r}; score again, or keep cells.parquet next to the JSON"
        )
    with _print_theme():
        figure = new_figure(WIDTH_IN, WIDTH_IN * 0.85, dpi=200)
        axes = figure.subplots()
        if by == "time" and cells.times is not None:
            points = scatter_cells(axes, view.xy, cells.times[view.rows], scale=0.5, cmap="viridis")
            figure.colorbar(points, ax=axes, label="time", fraction=0.04)
            return figure
        if by == CLUSTER:
            column = cells.find(CLUSTER, embedding=embedding)
            labels = Labels(column.values.astype(np.int32), column.names or ())
        else:
            labels = _groups(cells, by)
        by_size = np.argsort(-np.bincount(labels.codes, minlength=labels.n_classes), kind="stable")
        named = by_size[: len(COLORS)].tolist()
        color_of = np.full(labels.n_classes, _OTHER_COLOR)
        color_of[named] = COLORS[: len(named)]
        scatter_cells(axes, view.xy, color_of[labels.codes[view.rows]], scale=0.5)
        for code in named:
            axes.scatter([], [], 12, color_of[code], label=str(code))
        add_legend(figure, axes, [_shortened(labels.names[code]) for code in named], right=True)
        return figure


def _groups(cells: CellScores, by: str) -> Labels:
    if by not in cells.groups:
        known = ", ".join(map(repr, cells.groups)) or "none"
        raise InputError(f"plot: by={by!r} is not known of the cells; there are: {known}")
    return cells.groups[by]

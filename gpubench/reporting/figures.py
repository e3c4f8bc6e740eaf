"""The figures of a report, drawn by Matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gpubench.reporting.breakdowns import Breakdown
from gpubench.reporting.confusions import Confusion
from gpubench.reporting.drawing import (
    MARKERS,
    SERIES,
    add_legend,
    ink,
    new_figure,
    short,
    shortened,
    style,
    to_svg,
    two_lines,
)
from gpubench.reporting.stages import Stage, longest, memory_over_time
from gpubench.results.plots import Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gpubench.reporting.content import TaskPart
    from gpubench.reporting.scores import ScoreRow


MAX_GROUPS = 30
"""Groups that a figure has room for; the table has all."""

_NAMED = 60
"""Labels whose names fit beside a matrix."""

SHADE = "#0072b2"
"""The colour of the largest share of a confusion matrix; smaller ones are more transparent."""


def spreads_figure(breakdown: Breakdown, embeddings: Sequence[str], key: str) -> str:
    """A box for each group: the middle half of its cells thick, nine tenths thin, and a marker at the median."""
    groups = breakdown.groups[:MAX_GROUPS]
    step = 0.16 * len(embeddings) + 0.08
    with style():
        figure = new_figure(step * len(groups) + 0.75 + 0.2 * (len(embeddings) > 1))
        axes = figure.subplots()
        for i in range(len(embeddings)):
            places = [(y + (i - (len(embeddings) - 1) / 2) * 0.16 / step, g.spreads[i]) for y, g in enumerate(groups)]
            _boxes(axes, [(y, spread) for y, spread in places if spread is not None], i)
        axes.set_ylim(len(groups) - 0.5, -0.5)
        _name_lines(axes, [group.name for group in groups])
        if breakdown.middle is not None:
            axes.axvline(breakdown.middle, color=ink("muted"), linewidth=0.8, linestyle="--", zorder=0)
        axes.grid(visible=True, axis="x", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_xlabel(breakdown.title, parse_math=False)
        add_legend(figure, axes, embeddings)
        medians = ", ".join(f"{group.name} {_medians(group.spreads)}" for group in groups)
        said = f"Medians by {breakdown.role}: {medians}. The table has the means of all groups."
        return to_svg(figure, key, f"{breakdown.title} by {breakdown.role}", said)


def _boxes(axes: Axes, places: Sequence[tuple[float, Spread]], i: int) -> None:
    color, y = ink(f"series-{i % SERIES + 1}"), [place for place, _ in places]
    low, lower, middle, upper, high = np.array([spread.quantiles for _, spread in places]).reshape(-1, 5).T
    axes.hlines(y, low, high, color=color, linewidth=0.8)
    axes.hlines(y, lower, upper, color=color, linewidth=3)
    axes.plot(
        middle,
        y,
        MARKERS[i % len(MARKERS)],
        color=ink("page"),
        markeredgecolor=color,
        markersize=4.5,
        label=str(i),
    )


def _name_lines(axes: Axes, names: Sequence[str], fontsize: int = 8) -> None:
    axes.set_yticks(range(len(names)), shortened(names))
    for label in axes.get_yticklabels():
        label.set(parse_math=False, fontsize=fontsize)
    axes.tick_params(axis="y", length=0)


def _medians(spreads: Sequence[Spread | None]) -> str:
    return " and ".join("none" if spread is None else f"{spread.quantiles[2]:.2f}" for spread in spreads)


def confusion_figure(confusion: Confusion, key: str) -> str:
    """The shares of a matrix that is too large for a table, as an image; labels have names as far as they fit."""
    from matplotlib.colors import LinearSegmentedColormap

    n_rows, n_columns = confusion.counts.shape
    named = n_rows <= _NAMED
    with style():
        figure = new_figure(min(9.0, max(2.5, 0.11 * n_rows)) + 0.4, 6.5)
        axes = figure.subplots()
        shades = LinearSegmentedColormap.from_list("shares", [f"{SHADE}00", f"{SHADE}ff"])
        axes.imshow(confusion.shares, cmap=shades, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        _name_lines(axes, confusion.rows if named else [], fontsize=6)
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.set_xlabel("predicted label, in the same order" if confusion.of_labels else f"{n_columns} clusters")
        axes.set_ylabel("" if named else f"{n_rows} labels")
        said = f"Shares of the cells of each of {n_rows} labels in {n_columns} classes; darker is more."
        return to_svg(figure, key, f"{confusion.what} of {confusion.embedding}", said)


_ROW_IN, _STAGE_IN = 0.2, 0.34
_MAX_ROWS = 40
_MIN_POINTS = 4


def scores_figure(task: TaskPart, embeddings: Sequence[str], key: str) -> str | None:
    """The numbers of a task as points with standard errors; many rows of one metric as a curve in order of value.

    Of many rows of several metrics only the means are drawn, as many as there is room for. Returns None where there
    are too few numbers to see anything in.
    """
    rows = task.defined
    points = [cell for row in rows for cell in row.cells if cell is not None and not math.isnan(cell.value)]
    if len(points) < _MIN_POINTS:
        return None
    with style():
        if len(rows) > _MAX_ROWS and len({row.metric for row in rows}) == 1:
            figure = _ranked(rows, embeddings)
            what = "Values of every row, from the lowest to the highest"
        else:
            shown = rows if len(rows) <= _MAX_ROWS else task.headlines
            figure = _points(shown[:_MAX_ROWS], embeddings)
            what = "Values as points, with standard errors where there are"
        description = f"{what}, for {', '.join(embeddings)}. The table beside the figure has the same numbers."
        return to_svg(figure, key, f"Scores of {task.text.title}", description)


def timeline_figure(all_stages: list[Stage], key: str) -> str | None:
    """When each of the longest stages ran, and the most memory in use at each moment. None where no stage is known."""
    if not all_stages:
        return None
    shown = longest(all_stages)
    with style():
        figure = new_figure(_STAGE_IN * len(shown) + 1.9)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[_STAGE_IN * len(shown), 1.1])
        _gantt(above, shown)
        _memory(below, all_stages)
        named = ", ".join(f"{stage.path} {stage.seconds:.2f} seconds" for stage in shown)
        description = f"The longest stages: {named}. The table with all stages has the same numbers."
        return to_svg(figure, key, "Time and memory of the stages of the run", description)


def _points(rows: Sequence[ScoreRow], embeddings: Sequence[str]) -> Figure:
    """One line a row, under the title of its metric."""
    metrics = [row.metric for row in rows]
    lines: list[tuple[str, ScoreRow | None]] = []
    for i, row in enumerate(rows):
        several = metrics.count(row.metric) > 1
        if several and row.metric not in metrics[:i]:
            lines.append((row.title, None))
        lines.append((row.setting or "all" if several else row.title, row))
    names = [two_lines(text) for text, _ in lines]
    height_in = _ROW_IN * (1.5 if any("\n" in name for name in names) else 1)
    figure = new_figure(height_in * (len(lines) + (len(embeddings) > 1)) + 0.45)
    axes = figure.subplots()
    of_rows = [(y, row) for y, (_, row) in enumerate(lines) if row is not None]
    for y, _ in of_rows:
        axes.axhline(y, color=ink("line"), linewidth=0.6, zorder=0)
    for i in range(len(embeddings)):
        found = [(y, row.cells[i]) for y, row in of_rows]
        drawn = [(y, cell) for y, cell in found if cell is not None and not math.isnan(cell.value)]
        axes.errorbar(
            [cell.value for _, cell in drawn],
            [y for y, _ in drawn],
            xerr=[cell.stderr or 0.0 for _, cell in drawn],
            fmt=MARKERS[i % len(MARKERS)],
            color=ink(f"series-{i % SERIES + 1}"),
            markersize=5.5,
            elinewidth=1.2,
            label=str(i),
        )
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_yticks(range(len(lines)), names)
    for label, (_, heading) in zip(axes.get_yticklabels(), lines, strict=True):
        label.set(parse_math=False, weight="bold" if heading is None else "normal")
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=5)
    axes.grid(visible=True, axis="x", linewidth=0.6)
    axes.set_axisbelow(True)
    add_legend(figure, axes, embeddings)
    return figure


def _ranked(rows: Sequence[ScoreRow], embeddings: Sequence[str]) -> Figure:
    """The values of each embedding in ascending order."""
    figure = new_figure(2.6)
    axes = figure.subplots()
    for i in range(len(embeddings)):
        cells = [row.cells[i] for row in rows if not row.headline]
        values = sorted(cell.value for cell in cells if cell is not None and not math.isnan(cell.value))
        axes.plot(
            range(1, len(values) + 1),
            values,
            marker=MARKERS[i % len(MARKERS)],
            markersize=3,
            linewidth=1,
            color=ink(f"series-{i % SERIES + 1}"),
            label=str(i),
        )
    axes.set_xlabel("rows in order of value")
    axes.set_ylabel(short(rows[0].title), parse_math=False)
    axes.grid(visible=True, linewidth=0.6)
    add_legend(figure, axes, embeddings)
    return figure


def _gantt(axes: Axes, shown: Sequence[Stage]) -> None:
    """A bar a stage, its name and duration above it."""
    for y, stage in enumerate(shown):
        color = ink("series-2" if stage.depth else "series-1")
        axes.barh(y + 0.22, stage.seconds, left=stage.start_s, height=0.28, color=color)
        label = f"{'· ' * stage.depth}{short(stage.name, 36)}"
        for x, text, side in ((0.0, label, "left"), (1.0, f"{stage.seconds:.2f} s", "right")):
            axes.text(x, y - 0.17, text, transform=axes.get_yaxis_transform(), ha=side, va="center", parse_math=False)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_yticks([])
    axes.set_xlim(left=0)
    axes.grid(visible=True, axis="x", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", labelbottom=False, length=0)


def _memory(axes: Axes, all_stages: list[Stage]) -> None:
    """The peak of the stage that ran, over time."""
    peaks, edges = memory_over_time(all_stages)
    axes.stairs(peaks / 1e6, edges, fill=True, color=ink("series-3"))
    axes.set_ylim(bottom=0)
    axes.set_title("peak memory, MB", loc="left", fontsize=8)
    axes.set_xlabel("seconds since the run began")
    axes.grid(visible=True, linewidth=0.6)
    axes.set_axisbelow(True)

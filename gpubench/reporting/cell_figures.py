"""Figures of cells: how their values spread in groups, where they lie, what their labels were taken for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gpubench.reporting.breakdowns import Breakdown
from gpubench.reporting.confusions import Confusion
from gpubench.reporting.drawing import MARKERS, add_legend, new_figure, shortened, style
from gpubench.reporting.svg import SERIES, ink, to_svg
from gpubench.spread import Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_GROUPS = 30
"""Groups that a figure has room for; the table has all."""

_NAMED = 60
"""Labels whose names fit beside a matrix."""

SHADE = "#0072b2"
"""The colour of the largest share of a confusion matrix; smaller ones are more transparent."""


def spreads_figure(breakdown: Breakdown, embeddings: Sequence[str], key: str) -> str:
    """A box for each group: the middle half of its cells thick, nine tenths thin, and a marker at the median."""
    groups = breakdown.groups[:MOST_GROUPS]
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

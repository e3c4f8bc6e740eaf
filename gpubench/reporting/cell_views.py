"""Figures of the cells in two dimensions, coloured by groups, clusters and time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gpubench.core.scores import CLUSTER
from gpubench.core.types import Labels
from gpubench.reporting.content import EmbeddingCells
from gpubench.reporting.figures import ink, page_theme, to_svg
from gpubench.results.figures import new_figure, scatter_cells
from gpubench.results.table import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from gpubench.core.scores import CellScores, CellView

_HUES = ("#0072b2", "#d55e00", "#009e73", "#c06a9a", "#8a7400", "#7a5fb5", "#2f9fc4", "#a05a3c")
_OTHER_COLOR = "#87919b"
_MAX_NAMED = 40
_SIDE_IN = 3.2
_MIN_DISTANCE = 0.05
"""Minimum distance between the signs of groups in a figure, as a share of the figure's width."""


class LegendEntry(NamedTuple):
    """Group in a legend: its sign (a number or its name) and colour in the figure, its name, its number of cells."""

    sign: str
    name: str
    color: str
    n: int


@dataclass(frozen=True, slots=True)
class Panel:
    """Figure of the cells, coloured by one property."""

    title: str  # name of the property
    svg: str  # SVG element of the figure
    legend: tuple[LegendEntry, ...] = ()  # groups, the largest first; empty if the figure has a colour scale
    others: int = 0  # number of groups that are drawn in grey


@dataclass(frozen=True, slots=True)
class ReportedView:
    """Figures of the cells at the same two-dimensional coordinates."""

    name: str  # name of the embedding, or of the coordinates if they are not those of one embedding
    caption: str  # text on the coordinates and on the number of cells that are drawn
    panels: tuple[Panel, ...]  # a figure for each property


def cell_views(
    embeddings: Sequence[EmbeddingCells], seed: int | None, key: str, max_views: int = 6
) -> tuple[list[ReportedView], list[str]]:
    """Draw the cells of embeddings; embeddings with the same coordinates share a view.

    Parameters
    ----------
    embeddings : per-cell values of the embeddings, those to be drawn first at the front
    seed : random seed of the run, with which the cells to draw were sampled, for captions
    key : prefix of the ids of figures, unique on the page
    max_views : maximum number of views

    Returns
    -------
    views, not_drawn
        The views, and the names of the embeddings beyond the first `max_views` views.
    """
    sharing: dict[tuple[int, str], list[EmbeddingCells]] = {}
    for cells in embeddings:
        name = cells.embedding if cells.embedding in cells.scores.views else ""
        if name in cells.scores.views:
            sharing.setdefault((id(cells.scores), name), []).append(cells)
    views: list[ReportedView] = []
    not_drawn: list[str] = []
    for i, ((_, name), members) in enumerate(sharing.items()):
        if i >= max_views:
            not_drawn += [member.name for member in members]
            continue
        scores = members[0].scores
        view = scores.views[name]
        m, n = len(view.rows), scores.n_cells
        drawn = f"{m:,} cells" if m == n else f"{m:,} of {n:,} cells, drawn at random (seed {seed})"
        title = members[0].name if name else printable(view.title)
        caption = f"{printable(view.title).capitalize() if name else 'Coordinates of the data'}; {drawn}."
        views.append(ReportedView(title, caption, tuple(_panels(view, scores, members, f"{key}-{i}"))))
    return views, not_drawn


def _panels(view: CellView, scores: CellScores, members: Sequence[EmbeddingCells], key: str) -> Iterator[Panel]:
    for role, labels in scores.groups.items():
        if role == "time" and scores.times is not None:
            yield _time_panel(view, scores.times[view.rows], f"{key}-time")
        elif role != "sample":
            yield _group_panel(view, labels, role, f"{key}-{role}")
    for j, cells in enumerate(members):
        for column in cells.columns("clustering"):
            if column.metric == CLUSTER and column.names is not None:
                title = "cluster" if len(members) == 1 else f"cluster of {cells.name}"
                clusters = Labels(column.values.astype(np.int32), column.names)
                yield _group_panel(view, clusters, title, f"{key}-cluster-{j}", numbered=False)


def _group_panel(view: CellView, labels: Labels, title: str, key: str, *, numbered: bool = True) -> Panel:
    """Draw the cells coloured by group, with a number or a name in the middle of each, for colour-blind readers."""
    sizes = np.bincount(labels.codes, minlength=labels.n_classes)
    order = np.argsort(-sizes, kind="stable")
    named = order[:_MAX_NAMED]
    color_of = np.full(labels.n_classes, _OTHER_COLOR, dtype="<U7")
    color_of[named] = [_color(i) for i in range(len(named))]
    legend = []
    for i, code in enumerate(named, 1):
        name = printable(labels.names[code])
        signed = (str(i), name) if numbered else (name, "")
        legend.append(LegendEntry(*signed, color_of[code], int(sizes[code])))
    codes = labels.codes[view.rows]
    with page_theme():
        figure = new_figure(_SIDE_IN, _SIDE_IN)
        axes = figure.subplots()
        scatter_cells(axes, view.xy, color_of[codes], antialiased=False)
        _draw_signs(axes, view.xy, [(entry.sign, codes == code) for entry, code in zip(legend, named, strict=True)])
        listed = ", ".join(f"{entry.sign} {entry.name} ({entry.n:,} cells)" for entry in legend)
        svg = to_svg(figure, key, f"Cells by {title}", f"Groups by size: {listed}.")
    return Panel(title, svg, tuple(legend), len(order) - len(named))


def _time_panel(view: CellView, times: NDArray[np.float64], key: str) -> Panel:
    """Draw the cells coloured by time, from blue to orange, which are visible on light and on dark pages."""
    from matplotlib.colors import LinearSegmentedColormap

    with page_theme():
        figure = new_figure(_SIDE_IN, _SIDE_IN + 0.45)
        axes = figure.subplots()
        scale = LinearSegmentedColormap.from_list("time", ["#2f62c9", "#8a6f9e", "#ef8a1d"])
        points = scatter_cells(axes, view.xy, times, cmap=scale, antialiased=False)
        figure.colorbar(points, ax=axes, location="bottom", fraction=0.05, aspect=30).outline.set_visible(False)
        description = f"From {times.min():g} to {times.max():g}, blue to orange."
        return Panel("time", to_svg(figure, key, "Cells by time", description))


def _draw_signs(axes: Axes, xy: NDArray[np.float32], groups: Sequence[tuple[str, NDArray[np.bool_]]]) -> None:
    """Write each group's sign at its median cell, unless the sign of an earlier group is too close."""
    plate = {"boxstyle": "round,pad=0.12", "facecolor": ink("page"), "edgecolor": "none"}
    min_distance = _MIN_DISTANCE * np.ptp(xy, axis=0).max(initial=0)
    taken = np.empty((0, 2))
    for sign, members in groups:
        own = xy[members].astype(np.float64)
        if len(own):
            middle = own[np.square(own - np.median(own, axis=0)).sum(axis=1).argmin()]
            if (np.hypot(*(taken - middle).T) > min_distance).all():
                text = axes.text(middle[0], middle[1], sign, ha="center", va="center", bbox=plate, parse_math=False)
                text.set(fontsize=7, weight="bold", in_layout=False)
                taken = np.vstack([taken, middle])


def _color(i: int) -> str:
    """Return the colour of group i: eight hues for colour-blind readers, repeated lighter and then darker."""
    hue = np.array([int(_HUES[i % len(_HUES)][j : j + 2], 16) for j in (1, 3, 5)])
    shade = (hue, hue + (255 - hue) * 0.35, hue * 0.65)[i // len(_HUES) % 3]
    return "#" + "".join(f"{round(c):02x}" for c in shade)

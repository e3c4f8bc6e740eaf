"""The cells in two dimensions, coloured by what is known of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpubench.core.scores import CLUSTER
from gpubench.core.types import Labels
from gpubench.reporting.content import CellsOf
from gpubench.reporting.drawing import ink, new_figure, style, to_svg
from gpubench.results.table import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.colors import Colormap
    from numpy.typing import NDArray

    from gpubench.core.scores import CellScores, CellView

MAX_EMBEDDINGS = 6
"""Embeddings that are drawn; a file of more would be slow to open."""

_HUES = ("#0072b2", "#d55e00", "#009e73", "#c06a9a", "#8a7400", "#7a5fb5", "#2f9fc4", "#a05a3c")
_OTHER = "#87919b"
_NAMED = 40
_SIDE_IN = 3.2
_APART = 0.05
"""Distance between signs at least, as a share of the width."""


@dataclass(frozen=True, slots=True)
class Key:
    """A line of a legend: the sign and colour of a group in the figure, its name, its cells."""

    sign: str
    name: str
    color: str
    n: int


@dataclass(frozen=True, slots=True)
class Panel:
    """The cells coloured by one thing.

    Attributes
    ----------
    title : what they are coloured by
    svg : the figure
    keys : its legend, the largest group first; empty where a scale stands in the figure
    others : groups that are drawn in grey
    """

    title: str
    svg: str
    keys: tuple[Key, ...] = ()
    others: int = 0


@dataclass(frozen=True, slots=True)
class Look:
    """One set of coordinates with its panels.

    Attributes
    ----------
    name : the embedding, or what the coordinates are called
    caption : what the dimensions are and how many cells are drawn
    """

    name: str
    caption: str
    panels: tuple[Panel, ...]


def looks(columns: Sequence[CellsOf], seed: int | None, key: str) -> list[Look]:
    """The views of some embeddings; those that share coordinates share a look.

    Parameters
    ----------
    columns : what is known of the cells of each embedding
    seed : with which cells were drawn, for the caption
    key : letters and digits that no other figures of the page have
    """
    sharing: dict[tuple[int, str], list[CellsOf]] = {}
    for cells in columns:
        own = cells.embedding if cells.embedding in cells.scores.views else ""
        if own in cells.scores.views:
            sharing.setdefault((id(cells.scores), own), []).append(cells)
    found = []
    for i, ((_, name), members) in enumerate(sharing.items()):
        if i >= MAX_EMBEDDINGS:
            found.append(Look(members[0].name, f"Not drawn: a page has {MAX_EMBEDDINGS} views.", ()))
            continue
        scores = members[0].scores
        view = scores.views[name]
        m, n = len(view.rows), scores.n_cells
        drawn = f"{m:,} cells" if m == n else f"{m:,} of {n:,} cells, drawn at random (seed {seed})"
        title = members[0].name if name else printable(view.title)
        caption = f"{printable(view.title).capitalize() if name else 'Coordinates of the data'}; {drawn}."
        found.append(Look(title, caption, tuple(_panels(view, scores, members, f"{key}-{i}"))))
    return found


def _panels(view: CellView, scores: CellScores, members: Sequence[CellsOf], key: str) -> Iterator[Panel]:
    for role, labels in scores.groups.items():
        if role == "time" and scores.times is not None:
            yield _scale(view, scores.times[view.rows], f"{key}-time")
        elif role != "sample":
            yield _groups(view, labels, role, f"{key}-{role}")
    for j, cells in enumerate(members):
        for column in cells.of_task("clustering"):
            if column.metric == CLUSTER and column.names is not None:
                title = "cluster" if len(members) == 1 else f"cluster of {cells.name}"
                clusters = Labels(column.values.astype(np.int32), column.names)
                yield _groups(view, clusters, title, f"{key}-cluster-{j}", numbered=False)


def _groups(view: CellView, labels: Labels, title: str, key: str, *, numbered: bool = True) -> Panel:
    """Groups by size, signed with numbers or else their names at their middles: colours alone need not tell them."""
    sizes = np.bincount(labels.codes, minlength=labels.n_classes)
    order = np.argsort(-sizes, kind="stable")
    named = order[:_NAMED]
    color_of = np.full(labels.n_classes, _OTHER, dtype="<U7")
    color_of[named] = [_color(i) for i in range(len(named))]
    codes = labels.codes[view.rows]
    keys = [_key(i, labels.names[c], color_of[c], int(sizes[c]), numbered=numbered) for i, c in enumerate(named, 1)]
    with style():
        figure = new_figure(_SIDE_IN, _SIDE_IN)
        axes = figure.subplots()
        _points(axes, view.xy, color_of[codes])
        _sign(axes, view.xy, [(group.sign, codes == code) for group, code in zip(keys, named, strict=True)])
        said = ", ".join(f"{group.sign} {group.name} ({group.n:,} cells)" for group in keys)
        svg = to_svg(figure, key, f"Cells by {title}", f"Groups by size: {said}.")
    return Panel(title, svg, tuple(keys), len(order) - len(named))


def _key(number: int, name: str, color: str, n: int, *, numbered: bool) -> Key:
    return Key(str(number), printable(name), color, n) if numbered else Key(printable(name), "", color, n)


def _scale(view: CellView, times: NDArray[np.float64], key: str) -> Panel:
    """Numbers from blue to orange, which stand out from light and from dark."""
    from matplotlib.colors import LinearSegmentedColormap

    with style():
        figure = new_figure(_SIDE_IN + 0.45, _SIDE_IN)
        axes = figure.subplots()
        scale = LinearSegmentedColormap.from_list("time", ["#2f62c9", "#8a6f9e", "#ef8a1d"])
        points = _points(axes, view.xy, times, scale)
        figure.colorbar(points, ax=axes, location="bottom", fraction=0.05, aspect=30).outline.set_visible(False)
        said = f"From {times.min():g} to {times.max():g}, blue to orange."
        return Panel("time", to_svg(figure, key, "Cells by time", said))


def _points(
    axes: Axes, xy: NDArray[np.float32], colors: NDArray[np.str_] | NDArray[np.float64], cmap: Colormap | None = None
) -> PathCollection:
    """Points in random order, so that no group lies on top; as an image, which is smaller than so many shapes."""
    order = np.random.default_rng(0).permutation(len(xy))
    size = float(np.clip(12_000 / max(len(xy), 1), 1.2, 14))
    axes.set_axis_off()
    x, y = xy[order].T
    return axes.scatter(x, y, c=colors[order], s=size, linewidths=0, rasterized=True, cmap=cmap, antialiased=False)


def _sign(axes: Axes, xy: NDArray[np.float32], groups: Sequence[tuple[str, NDArray[np.bool_]]]) -> None:
    """Write each group's sign at the cell in its middle, unless one of a larger group is there."""
    plate = {"boxstyle": "round,pad=0.12", "facecolor": ink("page"), "edgecolor": "none"}
    nearest = _APART * np.ptp(xy, axis=0).max(initial=0)
    taken = np.empty((0, 2))
    for sign, members in groups:
        own = xy[members].astype(np.float64)
        if len(own):
            place = own[np.square(own - np.median(own, axis=0)).sum(axis=1).argmin()]
            if (np.hypot(*(taken - place).T) > nearest).all():
                text = axes.text(place[0], place[1], sign, ha="center", va="center", bbox=plate, parse_math=False)
                text.set(fontsize=7, weight="bold", in_layout=False)
                taken = np.vstack([taken, place])


def _color(i: int) -> str:
    """Hues that colour-blind people tell apart; those after the eighth come again lighter, then darker."""
    hue = np.array([int(_HUES[i % len(_HUES)][j : j + 2], 16) for j in (1, 3, 5)])
    shade = (hue, hue + (255 - hue) * 0.35, hue * 0.65)[i // len(_HUES) % 3]
    return "#" + "".join(f"{round(c):02x}" for c in shade)

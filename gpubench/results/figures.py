"""Look of all figures of results, reports and profiles, and the drawing helpers that they share."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from gpubench.results.group_statistics import GroupStatistics

COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#F0E442")
"""Colours that colour-blind people distinguish: Okabe and Ito (2008), doi:10.1038/nmeth.1618 for their use."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GRID_COLOR = "#DDDDDD"
MAX_NAME = 24
"""Characters of a name in a figure."""


@contextmanager
def theme(font_size: float, **settings: Any) -> Iterator[None]:
    """Use Matplotlib's defaults, whatever the user has set, without a frame.

    Parameters
    ----------
    font_size : in points
    settings : of Matplotlib, with "_" for "."
    """
    from matplotlib import style

    names = {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "axes.axisbelow": True}
    given = {name.replace("_", "."): value for name, value in settings.items()}
    with style.context(["default", {**names, "font.size": font_size, "grid.color": GRID_COLOR, **given}]):
        yield


def new_figure(width_in: float, height_in: float, **options: Any) -> Figure:
    """Make a figure whose parts do not overlap; it is not shown by itself."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), layout="constrained", **options)


def name_lines(axes: Axes, names: Sequence[str], *, fontsize: float | None = None) -> None:
    """Name the lines y = 0, 1, ... from top to bottom; names are shown as they are, not as mathematics."""
    axes.set_yticks(range(len(names)), names)
    for label in axes.get_yticklabels():
        label.set(parse_math=False)
        if fontsize is not None:
            label.set(fontsize=fontsize)
    axes.tick_params(axis="y", length=0)


def add_legend(figure: Figure, axes: Axes, names: Sequence[str], *, right: bool = False, columns: int = 2) -> None:
    """Add a legend of what was drawn, above the axes or to the right; none for a single name."""
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
    """Return how far below the middle of a line the i-th of n things is drawn that share the line."""
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
    """Draw nine tenths of a group's values as a thin line, half of them as a thick one, and the median as a marker."""
    y = [height for height, _ in groups]
    low, lower, median, upper, high = np.array([own.quantiles for _, own in groups]).reshape(-1, 5).T
    axes.hlines(y, low, high, color=color, linewidth=0.8 * scale)
    axes.hlines(y, lower, upper, color=color, linewidth=3 * scale)
    axes.plot(median, y, marker, color=face, markeredgecolor=color, markersize=4.5 * scale, label=label)


def scatter_cells(
    axes: Axes, xy: NDArray[np.float32], colors: NDArray[Any], *, scale: float = 1.0, **options: Any
) -> PathCollection:
    """Draw cells as points in random order, so that no group covers another; as an image, which is smaller."""
    order = np.random.default_rng(0).permutation(len(xy))
    size = scale * float(np.clip(12_000 / max(len(xy), 1), 1.2, 14))
    axes.set_axis_off()
    x, y = xy[order].T
    return axes.scatter(x, y, size, colors[order], linewidths=0, rasterized=True, **options)


def short(text: str, longest: int = MAX_NAME) -> str:
    """Cut text that is too long for a figure."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def two_lines(text: str) -> str:
    """Break text into up to two lines that fit."""
    first, *more = textwrap.wrap(text, MAX_NAME, break_long_words=False) or [""]
    return "\n".join(short(line) for line in (first, " ".join(more)) if line)


def shortened(names: Sequence[str], longest: int = MAX_NAME) -> list[str]:
    """Cut names at the end, or in the middle where that keeps more of them distinct; else number them."""
    by_end = [short(name, longest) for name in names]
    if len(set(by_end)) == len(set(names)):
        return by_end
    head, tail = longest - 1 - longest // 2, longest // 2
    by_middle = [name if len(name) <= longest else f"{name[:head]}…{name[-tail:]}" for name in names]
    if len(set(by_middle)) == len(set(names)):
        return by_middle
    return [f"{i}. {short(name, longest - 4)}" for i, name in enumerate(names, 1)]

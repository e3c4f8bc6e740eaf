"""Figures of a report, as SVG elements that take the colours of the page."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import numpy as np

from gpubench.results.figures import (
    MARKERS,
    add_legend,
    draw_quantiles,
    name_lines,
    new_figure,
    offset,
    short,
    shortened,
    theme,
    two_lines,
)
from gpubench.results.table import printable

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from gpubench.reporting.cell_groups import Breakdown, Confusion
    from gpubench.reporting.content import ScoreCell, ScoreRow, TaskContent
    from gpubench.results.result import Result
    from gpubench.results.statistics import GroupStatistics

WIDTH_IN = 3.9

MAX_GROUPS = 30
"""Groups that fit in a figure; the table has all."""

SHADE = "#0072b2"
"""Colour of the largest share of a confusion matrix; smaller ones are more transparent."""

_MAX_NAMED = 60
"""Labels whose names fit next to a matrix."""

_ROW_IN, _STAGE_IN = 0.2, 0.34
_MAX_ROWS = 40
_MIN_POINTS = 4
_MAX_STAGES, _MIN_SHARE, _MAX_DEPTH = 16, 0.005, 2

SERIES = 8
"""Colours of embeddings, as --series-1 ... in report.css; combined with markers they suffice for any comparison."""

_IMAGE_DPI = 160
"""Resolution of images inside a figure: sharp on screens of twice the usual density."""

_THEME = ("page", "text", "muted", "line", *(f"series-{i}" for i in range(1, SERIES + 1)))
_FIRST_INK = 0x0000A0
_INK = re.compile(r"#0000([ab][0-9a-f])\b")
_LINK = re.compile(r"url\(#([^)]+)\)")
_DROPPED = {"metadata", "style"}


def ink(name: str) -> str:
    """Return the placeholder, "#rrggbb", for a colour of the page: "page", "text", "line", "series-1" ...

    `to_svg` replaces the placeholder by the page's CSS variable of that name.
    """
    return f"#{_FIRST_INK + _THEME.index(name):06x}"


def to_svg(figure: Figure, key: str, title: str, description: str) -> str:
    """Convert a figure to an SVG element.

    Parameters
    ----------
    figure : figure drawn with colours of `ink`
    key : prefix of the element's ids, unique on the page
    title, description : text for screen readers
    """
    from matplotlib import rc_context

    buffer = io.StringIO()
    # Text remains text: small, searchable and in the font of the page. The salt makes ids reproducible.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": key}), warnings.catch_warnings():
        # the browser has fonts for characters that Matplotlib has none for
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        figure.savefig(buffer, format="svg", transparent=True, dpi=_IMAGE_DPI, metadata={"Date": None})
    root = ET.fromstring(buffer.getvalue())  # noqa: S314 - Matplotlib has just written it
    for element in root.iter():  # names lose their namespaces, which HTML implies
        element.tag = element.tag.rpartition("}")[2]
        for name in list(element.attrib):
            _set(element, name.rpartition("}")[2], element.attrib.pop(name), key)
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag in _DROPPED]:  # a style would apply to the whole page
            parent.remove(child)
    size = float(root.attrib.pop("width").removesuffix("pt"))
    root.attrib.pop("height")
    root.attrib |= {
        "role": "img",
        "aria-labelledby": f"{key}-title {key}-description",
        "style": f"max-width: {size * 1.6:.0f}px",
    }
    for index, (tag, name, text) in enumerate((("title", "title", title), ("desc", "description", description))):
        element = ET.Element(tag, {"id": f"{key}-{name}"})
        element.text = text
        root.insert(index, element)
    return ET.tostring(root, encoding="unicode")


def _set(element: ET.Element, name: str, value: str, key: str) -> None:
    """Set an attribute of an SVG element, with `key` in front of ids and colours replaced by those of the page."""
    if name == "id":
        value = f"{key}-{value}"
    elif name == "href" and not value.startswith("data:"):
        value = f"#{key}-{value.removeprefix('#')}"
    elif name == "style":
        value = re.sub(r"font: [^;]*?(\d[\d.]*)px[^;]*", r"font-size: \1px", value)
    value = _LINK.sub(rf"url(#{key}-\1)", value)
    element.set(name, _INK.sub(lambda found: f"var(--{_THEME[int(found[1], 16) - _FIRST_INK]})", value))


def page_theme() -> AbstractContextManager[None]:
    """Return a context in which figures are drawn with the colours of the page."""
    texts = dict.fromkeys(("text_color", "axes_labelcolor", "xtick_color", "ytick_color"), ink("text"))
    lines = dict.fromkeys(("axes_edgecolor", "grid_color"), ink("line"))
    return theme(8, axes_spines_left=False, grid_linewidth=0.6, **texts, **lines)


def look(i: int) -> tuple[str, str]:
    """Return the colour and the marker of the embedding at position i."""
    return ink(f"series-{i % SERIES + 1}"), MARKERS[i % len(MARKERS)]


def add_names(figure: Figure, axes: Axes, embeddings: Sequence[str]) -> None:
    """Draw the legend above the axes; the label of an artist is the position of its embedding."""
    names = [short(name) for name in embeddings]
    add_legend(figure, axes, names, columns=_legend_columns(embeddings))


def _legend_columns(embeddings: Sequence[str]) -> int:
    longest = max((len(short(name)) for name in embeddings), default=0)
    return max(1, min(len(embeddings), 60 // (longest + 6)))


def legend_height(embeddings: Sequence[str]) -> float:
    """Return the height of the legend above the axes in inches."""
    return 0.18 * math.ceil(len(embeddings) / _legend_columns(embeddings)) if len(embeddings) > 1 else 0.0


def quantiles_figure(breakdown: Breakdown, embeddings: Sequence[str], key: str) -> str:
    """Draw quantiles of the per-cell scores of each group on each embedding; return an SVG element."""
    groups, n = breakdown.groups[:MAX_GROUPS], len(embeddings)
    step = 0.16 * n + 0.08
    with page_theme():
        figure = new_figure(WIDTH_IN, step * len(groups) + 0.75 + legend_height(embeddings))
        axes = figure.subplots()
        for i in range(n):
            lines = [(y + offset(i, n, 0.16 / step), group.by_embedding[i]) for y, group in enumerate(groups)]
            found = [(y, own) for y, own in lines if own is not None]
            color, marker = look(i)
            draw_quantiles(axes, found, color, face=ink("page"), marker=marker, label=str(i))
        axes.set_ylim(len(groups) - 0.5, -0.5)
        name_lines(axes, shortened([group.name for group in groups]), fontsize=8)
        if breakdown.middle is not None:
            axes.axvline(breakdown.middle, color=ink("muted"), linewidth=0.8, linestyle="--", zorder=0)
        axes.grid(visible=True, axis="x")
        axes.set_xlabel(breakdown.title, parse_math=False)
        add_names(figure, axes, embeddings)
        medians = ", ".join(f"{group.name} {_medians(group.by_embedding)}" for group in groups)
        description = f"Medians by {breakdown.role}: {medians}. The table has the means of all groups."
        return to_svg(figure, key, f"{breakdown.title} by {breakdown.role}", description)


def _medians(groups: Sequence[GroupStatistics | None]) -> str:
    return " and ".join("none" if group is None else f"{group.quantiles[2]:.2f}" for group in groups)


def confusion_figure(confusion: Confusion, key: str) -> str:
    """Draw the shares of a confusion matrix as an image, with names of labels if they fit; return an SVG element."""
    from matplotlib.colors import LinearSegmentedColormap

    n_rows, n_columns = confusion.counts.shape
    named = n_rows <= _MAX_NAMED
    with page_theme():
        figure = new_figure(6.5, min(9.0, max(2.5, 0.11 * n_rows)) + 0.4)
        axes = figure.subplots()
        shades = LinearSegmentedColormap.from_list("shares", [f"{SHADE}00", f"{SHADE}ff"])
        axes.imshow(confusion.shares, cmap=shades, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        name_lines(axes, shortened(confusion.rows) if named else [], fontsize=6)
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.set_xlabel("predicted label, in the same order" if confusion.predicts_labels else f"{n_columns} clusters")
        axes.set_ylabel("" if named else f"{n_rows} labels")
        description = f"Shares of the cells of each of {n_rows} labels in {n_columns} classes; darker is more."
        return to_svg(figure, key, f"{confusion.what} of {confusion.embedding}", description)


def scores_figure(task: TaskContent, embeddings: Sequence[str], key: str) -> str | None:
    """Draw the scores of a task; return an SVG element, or None if there are too few scores for a figure.

    Scores are points with standard errors. Many rows of a single metric are drawn as a curve for each embedding; of
    many rows of several metrics only the means are drawn.
    """
    rows = task.defined
    if sum(len(_defined(row.cells)) for row in rows) < _MIN_POINTS:
        return None
    with page_theme():
        if len(rows) > _MAX_ROWS and len({row.metric for row in rows}) == 1:
            figure = _ranked_figure(rows, embeddings)
            what = "Values of every row, from the lowest to the highest"
        else:
            shown = rows if len(rows) <= _MAX_ROWS else task.headlines
            figure = _points_figure(shown[:_MAX_ROWS], embeddings)
            what = "Values as points, with standard errors where there are"
        description = f"{what}, for {', '.join(embeddings)}. The table next to the figure has the same numbers."
        return to_svg(figure, key, f"Scores of {task.title}", description)


def _defined(cells: Sequence[ScoreCell | None]) -> list[ScoreCell]:
    return [cell for cell in cells if cell is not None and not math.isnan(cell.value)]


def _points_figure(rows: Sequence[ScoreRow], embeddings: Sequence[str]) -> Figure:
    lines = _titled_lines(rows)
    names = [two_lines(text) for text, _ in lines]
    height_in = _ROW_IN * (1.5 if any("\n" in name for name in names) else 1)
    figure = new_figure(WIDTH_IN, height_in * len(lines) + 0.5 + legend_height(embeddings))
    axes = figure.subplots()
    scored = [(y, row) for y, (_, row) in enumerate(lines) if row is not None]
    for y, _ in scored:
        axes.axhline(y, color=ink("line"), linewidth=0.6, zorder=0)
    for i in range(len(embeddings)):
        points = [(y, cell) for y, row in scored for cell in _defined([row.cells[i]])]
        color, marker = look(i)
        axes.errorbar(
            [cell.value for _, cell in points],
            [y for y, _ in points],
            xerr=[cell.stderr or 0.0 for _, cell in points],
            fmt=marker,
            color=color,
            markersize=5.5,
            elinewidth=1.2,
            label=str(i),
        )
    axes.set_ylim(len(lines) - 0.4, -0.6)
    name_lines(axes, names)
    for label, (_, row) in zip(axes.get_yticklabels(), lines, strict=True):
        label.set_fontweight("bold" if row is None else "normal")
    axes.locator_params(axis="x", nbins=5)
    axes.grid(visible=True, axis="x")
    add_names(figure, axes, embeddings)
    return figure


def _titled_lines(rows: Sequence[ScoreRow]) -> list[tuple[str, ScoreRow | None]]:
    """Return the name and row of each line; a line with the title and no row precedes several rows of one metric."""
    metrics = [row.metric for row in rows]
    lines: list[tuple[str, ScoreRow | None]] = []
    for i, row in enumerate(rows):
        if metrics.count(row.metric) == 1:
            lines.append((row.title, row))
            continue
        if row.metric not in metrics[:i]:
            lines.append((row.title, None))
        lines.append((row.setting or "all", row))
    return lines


def _ranked_figure(rows: Sequence[ScoreRow], embeddings: Sequence[str]) -> Figure:
    """Draw the scores of each embedding in ascending order, as a curve."""
    figure = new_figure(WIDTH_IN, 2.5 + legend_height(embeddings))
    axes = figure.subplots()
    for i in range(len(embeddings)):
        values = sorted(cell.value for cell in _defined([row.cells[i] for row in rows if not row.headline]))
        color, marker = look(i)
        ranks = range(1, len(values) + 1)
        axes.plot(ranks, values, marker=marker, markersize=3, linewidth=1, color=color, label=str(i))
    axes.set_xlabel("rows in order of value")
    axes.set_ylabel(short(rows[0].title), parse_math=False)
    axes.grid(visible=True)
    add_names(figure, axes, embeddings)
    return figure


@dataclass(frozen=True, slots=True)
class ReportedStage:
    """Stage of a run, as the report shows it."""

    name: str  # name of the stage alone
    path: str  # names of the containing stages and of the stage itself, joined by "/"
    depth: int  # number of containing stages
    start_s: float  # seconds since the run began
    seconds: float  # duration
    share: float  # duration as a share of the whole run's
    peak_bytes: int | None  # see `gpubench.core.timeline.Span`
    put_bytes: int  # see `gpubench.core.timeline.Span`

    @property
    def peak_text(self) -> str:
        """Peak memory in megabytes, as text; empty if unknown."""
        return "" if self.peak_bytes is None else f"{self.peak_bytes / 1e6:,.0f}"


def stages(result: Result) -> list[ReportedStage]:
    """Return all stages of a run in the order in which they began."""
    total = max((stage["start_s"] + stage["seconds"] for stage in result.timeline), default=0.0)
    return [
        ReportedStage(
            name=printable(stage["path"].rpartition("/")[2]),
            path=printable(stage["path"]),
            depth=stage["path"].count("/"),
            start_s=stage["start_s"],
            seconds=stage["seconds"],
            share=stage["seconds"] / total if total else 0.0,
            peak_bytes=stage["peak_bytes"],
            put_bytes=stage["put_bytes"],
        )
        for stage in result.timeline
    ]


def longest(all_stages: list[ReportedStage]) -> list[ReportedStage]:
    """Return the longest stages, as many as fit in a figure and none very short, in the order in which they began."""
    chosen = [stage for stage in all_stages if stage.share >= _MIN_SHARE and stage.depth <= _MAX_DEPTH] or all_stages
    chosen = sorted(chosen, key=lambda stage: -stage.seconds)[:_MAX_STAGES]
    return sorted(chosen, key=lambda stage: (stage.start_s, stage.depth))


def memory_over_time(all_stages: list[ReportedStage]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return peak memory as a step function of time.

    Returns
    -------
    peaks, edges
        (m,) peak bytes of the innermost stage that runs in each interval, NaN if unknown, and the (m + 1,) ends of the
        intervals in seconds.
    """
    edges = np.unique([[stage.start_s, stage.start_s + stage.seconds] for stage in all_stages])
    middles = (edges[1:] + edges[:-1]) / 2
    peaks = np.full(len(middles), np.nan)
    for stage in sorted(all_stages, key=lambda stage: stage.depth):
        if stage.peak_bytes is not None:
            peaks[(middles >= stage.start_s) & (middles <= stage.start_s + stage.seconds)] = stage.peak_bytes
    return peaks, edges


def timeline_figure(stages: list[ReportedStage], key: str) -> str | None:
    """Draw when each of the longest stages ran, and the peak memory over time.

    Returns an SVG element; None if there are no stages.
    """
    if not stages:
        return None
    shown = longest(stages)
    with page_theme():
        figure = new_figure(WIDTH_IN, _STAGE_IN * len(shown) + 1.9)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[_STAGE_IN * len(shown), 1.1])
        _draw_stages(above, shown)
        _draw_memory(below, stages)
        named = ", ".join(f"{stage.path} {stage.seconds:.2f} seconds" for stage in shown)
        description = f"The longest stages: {named}. The table with all stages has the same numbers."
        return to_svg(figure, key, "Time and memory of the stages of the run", description)


def _draw_stages(axes: Axes, shown: Sequence[ReportedStage]) -> None:
    """Draw a bar for each stage, with its name and duration above it."""
    for y, stage in enumerate(shown):
        color = ink("series-2" if stage.depth else "series-1")
        axes.barh(y + 0.22, stage.seconds, left=stage.start_s, height=0.28, color=color)
        label = f"{'· ' * stage.depth}{short(stage.name, 36)}"
        for x, text, side in ((0.0, label, "left"), (1.0, f"{stage.seconds:.2f} s", "right")):
            axes.text(x, y - 0.17, text, transform=axes.get_yaxis_transform(), ha=side, va="center", parse_math=False)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_yticks([])
    axes.set_xlim(left=0)
    axes.grid(visible=True, axis="x")
    axes.tick_params(axis="x", labelbottom=False, length=0)


def _draw_memory(axes: Axes, stages: list[ReportedStage]) -> None:
    """Draw the peak memory of the innermost running stage over time."""
    peaks, edges = memory_over_time(stages)
    axes.stairs(peaks / 1e6, edges, fill=True, color=ink("series-3"))
    axes.set_ylim(bottom=0)
    axes.set_title("peak memory, MB", loc="left", fontsize=8)
    axes.set_xlabel("seconds since the run began")
    axes.grid(visible=True)

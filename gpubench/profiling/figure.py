"""Figure of a profile: time, memory, and the share of the machine's limits of each stage."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gpubench.core.files import write_atomically
from gpubench.profiling.profile import WHOLE, fit_scaling
from gpubench.profiling.table import power

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gpubench.profiling.profile import Profile, Run

MAX_STAGES = 7
MIN_SHARE = 0.01

# colours of Okabe and Ito, which colour-blind people can distinguish; markers differ as well
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
TOTAL_COLOR = "#222222"
WIDTH_IN, ROW_IN = 10.0, 3.5


def write_figure(profile: Profile, path: str | os.PathLike[str]) -> None:
    """Draw a profile with at least one run to a file, in the format of its suffix, such as .svg or .png.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    from matplotlib import rc_context

    kind = os.fspath(path).rpartition(".")[2].lower()
    buffer = io.BytesIO()
    with _style(), rc_context({"svg.hashsalt": "gpubench"}):
        metadata = {"Date": None} if kind == "svg" else None
        draw(profile).savefig(buffer, format=kind, dpi=160, metadata=metadata)
    write_atomically(path, lambda file: file.write(buffer.getvalue()))


@contextmanager
def _style() -> Iterator[None]:
    """Use Matplotlib's defaults instead of the user's settings."""
    from matplotlib import style

    bare = {f"axes.spines.{side}": False for side in ("top", "right")}
    with style.context(["default", {**bare, "font.size": 8, "axes.grid": True, "grid.color": "#dddddd"}]):
        yield


def draw(profile: Profile) -> Figure:
    """Draw a row for each number of dimensions: time and memory by cells, and shares of the limits at the largest."""
    from matplotlib.figure import Figure

    rows = [
        sorted((run for run in profile.runs if run.dims == dims), key=lambda run: run.cells)
        for dims in sorted({run.dims for run in profile.runs})
    ]
    paths = _longest(rows)
    figure = Figure(figsize=(WIDTH_IN, ROW_IN * len(rows) + 0.5), layout="constrained")
    limits, provenance = profile.limits, profile.provenance
    figure.suptitle(
        f"{provenance['cpu']}: {provenance['engine']['device']}\n{limits}",
        fontsize=9,
        parse_math=False,
    )
    for runs, part in zip(rows, figure.subfigures(len(rows), 1, squeeze=False)[:, 0], strict=True):
        times, memory, shares = part.subplots(1, 3, width_ratios=(1.3, 1, 1.1))
        _draw_times(times, runs, paths)
        _draw_memory(memory, runs)
        _draw_shares(shares, profile, runs[-1], paths)
        part.legend(*times.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def _longest(columns: Sequence[Sequence[Run]]) -> list[str]:
    """Return the stages that take longest at the largest sizes, without the stages inside them."""
    seconds: dict[str, float] = {}
    for runs in columns:
        for stage in runs[-1].stages:
            if stage.path != WHOLE and stage.own_s >= MIN_SHARE * runs[-1].whole.seconds:
                seconds[stage.path] = max(seconds.get(stage.path, 0.0), stage.own_s)
    return sorted(seconds, key=lambda path: -seconds[path])[:MAX_STAGES]


def _name(path: str) -> str:
    """Shorten a path to its outermost and innermost names."""
    names = path.split("/")
    return " · ".join(names if len(names) < 2 else (names[0], names[-1]))


def _look(path: str, paths: Sequence[str]) -> tuple[str, str]:
    """Return the colour and the marker of a stage."""
    if path == WHOLE:
        return TOTAL_COLOR, "o"
    i = paths.index(path)
    return COLORS[i], MARKERS[i]


def _draw_times(axes: Axes, runs: Sequence[Run], paths: Sequence[str]) -> None:
    """Draw the seconds of each stage by cells; the legend has the scaling exponents."""
    from matplotlib.ticker import FuncFormatter

    for path in (WHOLE, *paths):
        found = [(run, stage) for run in runs if (stage := run.stage(path)) is not None and stage.seconds > 0]
        color, marker = _look(path, paths)
        grown = fit_scaling(runs, path).seconds_by_cells
        label = _name(path) if grown is None else f"{_name(path)}, n^({power(grown)})"
        cells, seconds = [run.cells for run, _ in found], [stage.seconds for _, stage in found]
        axes.plot(cells, seconds, marker=marker, color=color, markersize=4, linewidth=1, label=label)
    _by_cells(axes, runs)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_title(f"{runs[0].dims:,} dimensions: seconds", fontsize=9, loc="left")


def _draw_memory(axes: Axes, runs: Sequence[Run]) -> None:
    """Draw the peak memory of the whole run by cells, and that of the cells themselves."""
    cells = [run.cells for run in runs]
    peaks = [(run.whole.peak_bytes or 0) / 1e6 for run in runs]
    axes.plot(cells, peaks, marker="o", color=TOTAL_COLOR, markersize=4, linewidth=1, label="whole run")
    matrices = [4 * run.cells * run.dims / 1e6 for run in runs]
    axes.plot(cells, matrices, color="#777777", linestyle="dashed", linewidth=1, label="the cells, float32")
    _by_cells(axes, runs)
    axes.set_ylim(bottom=0)
    axes.set_title("peak memory, MB", fontsize=9, loc="left")
    axes.legend(frameon=False)


def _by_cells(axes: Axes, runs: Sequence[Run]) -> None:
    """Set up a logarithmic axis of cells with a tick at each size."""
    axes.set_xscale("log")
    cells = [run.cells for run in runs]
    axes.set_xticks(cells, [f"{n:,}" for n in cells])
    axes.minorticks_off()
    margin = max(cells[-1] / cells[0], 2.0) ** 0.08
    axes.set_xlim(cells[0] / margin, cells[-1] * margin)
    axes.set_xlabel("cells")


def _draw_shares(axes: Axes, profile: Profile, run: Run, paths: Sequence[str]) -> None:
    """Draw a bar for each stage that counts its work, below its name and share."""
    shares = {
        path: stage for path in paths if (stage := run.stage(path)) and stage.fraction(profile.limits) is not None
    }
    for place, (path, stage) in enumerate(shares.items()):
        share = stage.fraction(profile.limits) or 0.0
        axes.barh(place + 0.18, share, color=_look(path, paths)[0], height=0.32)
        text = f"{_name(path)}: {share:.1%}, {stage.bound(profile.limits)}"
        axes.text(0.01, place - 0.16, text, transform=axes.get_yaxis_transform(), va="center", fontsize=7)
    axes.axvline(1.0, color=TOTAL_COLOR, linewidth=0.8)
    axes.set_yticks([])
    axes.set_ylim(max(len(shares), 1) - 0.5, -0.5)
    axes.set_xlim(0, max([1.0, *(stage.fraction(profile.limits) or 0.0 for stage in shares.values())]) * 1.05)
    axes.set_title(f"share of the machine's limit, {run.cells:,} cells", fontsize=9, loc="left")

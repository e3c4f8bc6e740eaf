"""Figure of a profile: time, memory and the share of the machine's limits, by stage."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpubench.core.files import write_atomically
from gpubench.profiling.profile import WHOLE, fit_scaling
from gpubench.profiling.table import power
from gpubench.results.figures import COLORS, MARKERS, new_figure, theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gpubench.profiling.profile import Profile, Run

MIN_SHARE = 0.01
STAGE_COLORS = (*COLORS[:6], "#8C6D31")
MAX_STAGES = len(STAGE_COLORS)
TOTAL_COLOR = "#222222"
WIDTH_IN, ROW_IN = 10.0, 3.5


def write_figure(profile: Profile, path: str | os.PathLike[str]) -> None:
    """Draw a profile with at least one run to a file in the format of its ending, such as .svg or .png.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    kind = os.fspath(path).rpartition(".")[2].lower()
    buffer = io.BytesIO()
    with theme(8, axes_grid=True, svg_hashsalt="gpubench"):
        metadata = {"Date": None} if kind == "svg" else None
        draw(profile).savefig(buffer, format=kind, dpi=160, metadata=metadata)
    write_atomically(path, lambda file: file.write(buffer.getvalue()))


def draw(profile: Profile) -> Figure:
    """Draw a row for each number of dimensions: time and memory by cells, and the limits at the largest size."""
    rows = [
        sorted((run for run in profile.runs if run.dims == dims), key=lambda run: run.cells)
        for dims in sorted({run.dims for run in profile.runs})
    ]
    paths = _longest_stages(rows)
    figure = new_figure(WIDTH_IN, ROW_IN * len(rows) + 0.5)
    title = f"{profile.provenance['cpu']}: {profile.provenance['engine']['device']}\n{profile.limits}"
    figure.suptitle(title, fontsize=9, parse_math=False)
    for runs, part in zip(rows, figure.subfigures(len(rows), 1, squeeze=False)[:, 0], strict=True):
        times, memory, shares = part.subplots(1, 3, width_ratios=(1.3, 1, 1.1))
        _draw_times(times, runs, paths)
        _draw_memory(memory, runs)
        _draw_shares(shares, profile, runs[-1], paths)
        part.legend(*times.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _longest_stages(rows: Sequence[Sequence[Run]]) -> list[str]:
    """Return the stages that take longest at the largest sizes, without the stages inside them."""
    seconds: dict[str, float] = {}
    for runs in rows:
        for stage in runs[-1].stages:
            if stage.path != WHOLE and stage.own_s >= MIN_SHARE * runs[-1].whole.seconds:
                seconds[stage.path] = max(seconds.get(stage.path, 0.0), stage.own_s)
    return sorted(seconds, key=lambda path: -seconds[path])[:MAX_STAGES]


def _name(path: str) -> str:
    """Return the outermost and the innermost name of a stage, which distinguish stages."""
    names = path.split("/")
    return " · ".join(names if len(names) < 2 else (names[0], names[-1]))


def _draw_times(axes: Axes, runs: Sequence[Run], paths: Sequence[str]) -> None:
    """Draw the seconds of each stage by cells; its exponent is in the legend."""
    from matplotlib.ticker import FuncFormatter

    looks = [(TOTAL_COLOR, "o"), *zip(STAGE_COLORS, MARKERS, strict=True)]
    for path, (color, marker) in zip((WHOLE, *paths), looks, strict=False):
        found = [(run.cells, stage.seconds) for run in runs if (stage := run.stage(path)) and stage.seconds > 0]
        exponent = fit_scaling(runs, path).seconds_by_cells
        label = _name(path) if exponent is None else f"{_name(path)}, n^({power(exponent)})"
        cells, seconds = [n for n, _ in found], [s for _, s in found]
        axes.plot(cells, seconds, marker=marker, color=color, markersize=4, linewidth=1, label=label)
    _by_cells(axes, runs)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_title(f"{runs[0].dims:,} dimensions: seconds", fontsize=9, loc="left")


def _draw_memory(axes: Axes, runs: Sequence[Run]) -> None:
    """Draw the peak memory of the whole run by cells, and the memory of the cells themselves."""
    cells = [run.cells for run in runs]
    peaks = [(run.whole.peak_bytes or 0) / 1e6 for run in runs]
    axes.plot(cells, peaks, marker="o", color=TOTAL_COLOR, markersize=4, linewidth=1, label="whole run")
    matrices = [4 * run.cells * run.dims / 1e6 for run in runs]
    axes.plot(cells, matrices, color="#777777", linestyle="dashed", linewidth=1, label="the cells, float32")
    _by_cells(axes, runs)
    axes.set_ylim(bottom=0)
    axes.set_title("peak memory, MB", fontsize=9, loc="left")
    axes.legend()


def _by_cells(axes: Axes, runs: Sequence[Run]) -> None:
    """Set up a logarithmic axis with a tick for each number of cells."""
    axes.set_xscale("log")
    cells = [run.cells for run in runs]
    axes.set_xticks(cells, [f"{n:,}" for n in cells])
    axes.minorticks_off()
    margin = max(cells[-1] / cells[0], 2.0) ** 0.08
    axes.set_xlim(cells[0] / margin, cells[-1] * margin)
    axes.set_xlabel("cells")


def _draw_shares(axes: Axes, profile: Profile, run: Run, paths: Sequence[str]) -> None:
    """Draw a bar for each stage with counted operations, its name and share above it."""
    stages = [(path, stage) for path in paths if (stage := run.stage(path))]
    shares = [(path, stage, share) for path, stage in stages if (share := stage.fraction(profile.limits)) is not None]
    for y, (path, stage, share) in enumerate(shares):
        axes.barh(y + 0.18, share, color=STAGE_COLORS[paths.index(path)], height=0.32)
        text = f"{_name(path)}: {share:.1%}, {stage.bound(profile.limits)}"
        axes.text(0.01, y - 0.16, text, transform=axes.get_yaxis_transform(), va="center", fontsize=7)
    axes.axvline(1.0, color=TOTAL_COLOR, linewidth=0.8)
    axes.set_yticks([])
    axes.set_ylim(max(len(shares), 1) - 0.5, -0.5)
    axes.set_xlim(0, max([1.0, *(share for *_, share in shares)]) * 1.05)
    axes.set_title(f"share of the machine's limit, {run.cells:,} cells", fontsize=9, loc="left")

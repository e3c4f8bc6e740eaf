"""Tables and figures of a profile: seconds, memory and rates by stage, how they scale, and shares of the limits."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from gpubench.core.files import write_atomically
from gpubench.profiling.profile import MIN_SECONDS, MIN_SPAN, WHOLE, fit_scaling
from gpubench.results.figures import COLORS, MARKERS, new_figure, theme
from gpubench.results.table import Lines, TextTable, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gpubench.profiling.profile import Exponent, Profile, ProfiledStage, Run

MIN_SHARE = 0.01
"""Smallest share of the largest run's time that a shown stage takes; shorter stages are only in the JSON file."""

STAGE_COLORS = (*COLORS[:6], "#8C6D31")
MAX_STAGES = len(STAGE_COLORS)
TOTAL_COLOR = "#222222"
WIDTH_IN, ROW_IN = 10.0, 3.5

LEGEND = (
    "Peak: memory of the process, or of the GPU.",
    "GFLOP/s and GB/s: counted operations, and bytes to read and write, per second.",
    "Of the limit: the shortest time in which this machine can do both, as a share of the measured time.",
    "Scaling exponents ± standard errors are of the runs in which a stage is long enough.",
)


def blocks(profile: Profile) -> list[TextTable | Lines]:
    """Return the text of a profile: the machine, a table per number of dimensions, scaling exponents, and warnings."""
    limits, provenance = profile.limits, profile.provenance
    heading = (
        printable(f"gpubench {provenance['gpubench']} on {provenance['cpu']}: {provenance['engine']['device']}"),
        f"Limits, measured in {limits.seconds:.1f} s: {limits}",
    )
    tables = [_stage_table(profile, runs) for runs in _by_dims(profile)]
    scaling = _scaling_table(profile)
    warnings = Lines(_warnings(profile, scaling), style="bold yellow")
    return [Lines(heading), *tables, *([scaling] if scaling else []), Lines(LEGEND, style="dim"), warnings]


def _by_dims(profile: Profile) -> list[list[Run]]:
    """Group runs by number of dimensions; groups are in ascending order of dimensions, their runs of cells."""
    runs = sorted(profile.runs, key=lambda run: run.cells)
    return [[run for run in runs if run.dims == dims] for dims in sorted({run.dims for run in runs})]


def _warnings(profile: Profile, scaling: TextTable | None) -> list[str]:
    """Return lines of text about failures, notes of the runs, missing scaling exponents, and an interruption."""
    lines = [f"{failure.cells:,} x {failure.dims} failed: {failure.error}" for failure in profile.failures]
    for run in profile.runs:
        lines += [f"{run.cells:,} x {run.dims}: {line}" for line in (*run.failures, *run.notes)]
    if len(profile.runs) > 1 and scaling is None:
        lines.append(f"No scaling exponents: stages must take {MIN_SECONDS} s at sizes a factor {MIN_SPAN:g} apart.")
    if profile.interrupted:
        lines.append("Interrupted: the sizes finished by then are above.")
    return [printable(line) for line in lines]


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> TextTable:
    styles = {(i, j): "bold" for i, row in enumerate(rows) if row[0] == WHOLE for j in range(len(row))}
    return TextTable(title, tuple(header), tuple(map(tuple, rows)), numbers=frozenset(header[1:]), styles=styles)


def _stage_table(profile: Profile, runs: Sequence[Run]) -> TextTable:
    """Make a table of the seconds of each stage in each run, and of memory and rates in the largest run, the last."""
    largest, limits = runs[-1], profile.limits
    rows = []
    for stage in largest.stages:
        if stage.seconds >= MIN_SHARE * largest.whole.seconds:
            fraction = stage.fraction(limits)
            cells = [
                _indented(stage.path),
                *(_seconds(run.stage(stage.path)) for run in runs),
                _number(stage.peak_bytes, 1e6),
                _number(stage.rate(stage.flop), 1e9),
                _number(stage.rate(stage.moved_bytes), 1e9),
                "" if fraction is None else f"{fraction:.1%} {stage.bound(limits)}",
            ]
            rows.append(cells)
    header = ("seconds of", *(f"{run.cells:,}" for run in runs), "peak MB", "GFLOP/s", "GB/s", "of the limit")
    return _table(f"{largest.dims:,} dimensions; rates of {largest.cells:,} cells", header, rows)


def _scaling_table(profile: Profile) -> TextTable | None:
    """Make the table of the scaling exponents of each stage; return None if no exponent is known."""
    if not profile.runs:
        return None
    largest = max(profile.runs, key=lambda run: run.whole.seconds)
    rows = []
    for path, exponents in profile.growth.items():
        stage = largest.stage(path)
        if stage is not None and stage.seconds >= MIN_SHARE * largest.whole.seconds:
            rows.append((_indented(path), *(power(getattr(exponents, field.name)) for field in fields(exponents))))
    header = ("exponents of", "time by cells", "time by dims", "memory by cells", "memory by dims")
    shown = [i for i in range(1, len(header)) if any(row[i] for row in rows)]
    if not shown:
        return None
    first, *others = ([row[i] for i in (0, *shown)] for row in (header, *rows))
    return _table("Scaling exponents", first, others)


def power(exponent: Exponent | None) -> str:
    """Format an exponent with its standard error; an exponent of None becomes empty text."""
    if exponent is None:
        return ""
    return f"{exponent.value:.2f}" if exponent.stderr is None else f"{exponent.value:.2f} ± {exponent.stderr:.2f}"


def _indented(path: str) -> str:
    if path == WHOLE:
        return path
    *outer, name = path.split("/")
    return "  " * (len(outer) + 1) + printable(name)


def _seconds(stage: ProfiledStage | None) -> str:
    if stage is None:
        return ""
    return f"{stage.seconds:.3f}" if stage.seconds < 10 else f"{stage.seconds:,.1f}"


def _number(value: float | None, unit: float) -> str:
    if value is None:
        return ""
    value /= unit
    if value < 0.001:
        return "<0.001"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def write_figure(profile: Profile, path: str | os.PathLike[str]) -> None:
    """Draw a profile, which has at least one run, to a file; its suffix, such as .svg or .png, gives the format."""
    kind = os.fspath(path).rpartition(".")[2].lower()
    buffer = io.BytesIO()
    with theme(8, axes_grid=True, svg_hashsalt="gpubench"):
        metadata = {"Date": None} if kind == "svg" else None
        draw(profile).savefig(buffer, format=kind, dpi=160, metadata=metadata)
    write_atomically(path, lambda file: file.write(buffer.getvalue()))


def draw(profile: Profile) -> Figure:
    """Draw a row of axes for each number of dimensions: time and memory by cells, and the shares of the limits.

    The shares are those of the run with the most cells.
    """
    rows = _by_dims(profile)
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
    """Return the paths of the stages with the largest own time in the largest run of each row."""
    seconds: dict[str, float] = {}
    for runs in rows:
        for stage in runs[-1].stages:
            if stage.path != WHOLE and stage.own_s >= MIN_SHARE * runs[-1].whole.seconds:
                seconds[stage.path] = max(seconds.get(stage.path, 0.0), stage.own_s)
    return sorted(seconds, key=lambda path: -seconds[path])[:MAX_STAGES]


def _name(path: str) -> str:
    """Return a short name of a stage: the first and the last name in its path."""
    names = path.split("/")
    return " · ".join(names if len(names) < 2 else (names[0], names[-1]))


def _draw_times(axes: Axes, runs: Sequence[Run], paths: Sequence[str]) -> None:
    """Draw the seconds of each stage by number of cells; the legend has its scaling exponent."""
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
    """Draw the peak memory of the whole run by number of cells, and the size of the embedding itself."""
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
    """Set up a logarithmic x axis of the number of cells, with a tick for each run."""
    axes.set_xscale("log")
    cells = [run.cells for run in runs]
    axes.set_xticks(cells, [f"{n:,}" for n in cells])
    axes.minorticks_off()
    margin = max(cells[-1] / cells[0], 2.0) ** 0.08
    axes.set_xlim(cells[0] / margin, cells[-1] * margin)
    axes.set_xlabel("cells")


def _draw_shares(axes: Axes, profile: Profile, run: Run, paths: Sequence[str]) -> None:
    """Draw a bar for each stage whose operations were counted, with its name and share above the bar."""
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

"""Tables of a profile: seconds, memory and rates by stage, and how they scale."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from gpubench.profiling.profile import MIN_SECONDS, MIN_SPAN, WHOLE
from gpubench.results.table import Lines, TextTable, printable

if TYPE_CHECKING:
    from gpubench.profiling.profile import Exponent, Profile, ProfiledStage, Run

MIN_SHARE = 0.01
"""Of the largest run; shorter stages are in the JSON file only."""

LEGEND = (
    "Peak: memory of the process, or of the GPU.",
    "GFLOP/s and GB/s: counted operations, and bytes to read and write, per second.",
    "Of the limit: the shortest time in which this machine can do both, as a share of the measured time.",
    "Scaling exponents ± standard errors are of the runs in which a stage is long enough.",
)


def blocks(profile: Profile) -> list[TextTable | Lines]:
    """Lay a profile out: the machine, a table for each number of dimensions, scaling exponents, and warnings."""
    limits, provenance = profile.limits, profile.provenance
    heading = (
        printable(f"gpubench {provenance['gpubench']} on {provenance['cpu']}: {provenance['engine']['device']}"),
        f"Limits, measured in {limits.seconds:.1f} s: {limits}",
    )
    tables = list(_tables(profile))
    return [Lines(heading), *tables, Lines(LEGEND, style="dim"), Lines(_warnings(profile), style="bold yellow")]


def _warnings(profile: Profile) -> list[str]:
    """Return lines on failures, notes of the runs, missing exponents, and an interrupt."""
    lines = [f"{failure.cells:,} x {failure.dims} failed: {failure.error}" for failure in profile.failures]
    for run in profile.runs:
        lines += [f"{run.cells:,} x {run.dims}: {line}" for line in (*run.failures, *run.notes)]
    if len(profile.runs) > 1 and _scaling_table(profile) is None:
        lines.append(f"No scaling exponents: stages must take {MIN_SECONDS} s at sizes a factor {MIN_SPAN:g} apart.")
    if profile.interrupted:
        lines.append("Interrupted: the sizes finished by then are above.")
    return [printable(line) for line in lines]


def _tables(profile: Profile) -> Iterator[TextTable]:
    for dims in dict.fromkeys(sorted(run.dims for run in profile.runs)):
        runs = sorted((run for run in profile.runs if run.dims == dims), key=lambda run: run.cells)
        yield _stage_table(profile, runs)
    scaling = _scaling_table(profile)
    if scaling is not None:
        yield scaling


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> TextTable:
    styles = {(i, j): "bold" for i, row in enumerate(rows) if row[0] == WHOLE for j in range(len(row))}
    return TextTable(title, tuple(header), tuple(map(tuple, rows)), numbers=frozenset(header[1:]), styles=styles)


def _stage_table(profile: Profile, runs: Sequence[Run]) -> TextTable:
    """Make the table of seconds at each size, and of memory and rates at the largest size."""
    largest, limits = runs[-1], profile.limits
    columns: dict[str, Callable[[ProfiledStage], float | None]] = {
        "peak MB": lambda stage: None if stage.peak_bytes is None else stage.peak_bytes / 1e6,
        "GFLOP/s": lambda stage: _giga(stage.rate(stage.flop)),
        "GB/s": lambda stage: _giga(stage.rate(stage.moved_bytes)),
    }
    rows = []
    for stage in largest.stages:
        if stage.seconds < MIN_SHARE * largest.whole.seconds:
            continue
        times = [_seconds(run.stage(stage.path)) for run in runs]
        fraction = stage.fraction(limits)
        share = "" if fraction is None else f"{fraction:.1%} {stage.bound(limits)}"
        rows.append((_indented(stage.path), *times, *(_number(value(stage)) for value in columns.values()), share))
    header = ("seconds of", *(f"{run.cells:,}" for run in runs), *columns, "of the limit")
    return _table(f"{largest.dims:,} dimensions; rates of {largest.cells:,} cells", header, rows)


def _scaling_table(profile: Profile) -> TextTable | None:
    """Make the table of exponents of each stage; None if there are none."""
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
    """Format an exponent with its standard error."""
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


def _giga(rate: float | None) -> float | None:
    return None if rate is None else rate / 1e9


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if value < 0.001:
        return "<0.001"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

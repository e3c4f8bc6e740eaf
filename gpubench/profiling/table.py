"""Tables of a profile: with lines and colour on a terminal, as plain text in a pipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TextIO

from gpubench.core.terminal import Terminal
from gpubench.profiling.profile import MIN_SECONDS, MIN_SPAN, WHOLE
from gpubench.results.table import printable

if TYPE_CHECKING:
    from gpubench.profiling.profile import Exponent, Profile, ProfiledStage, Run

MIN_SHARE = 0.01
"""Share of the largest run; shorter stages are only in the JSON file."""

LEGEND = (
    "Peak: memory of the process, or of the GPU. GFLOP/s and GB/s: counted arithmetic, and bytes read and written, per",
    "second. Of the limit: the least time that those take on this machine, as a share of the measured time.",
    "Scaling exponents ± standard errors: of the runs in which a stage is long enough.",
)


@dataclass(frozen=True, slots=True)
class Section:
    """Table of text."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def to_text(profile: Profile) -> str:
    """Format a profile as plain text."""
    blocks = ["\n".join(headings(profile))]
    for section in sections(profile):
        widths = [max(map(len, column)) for column in zip(section.header, *section.rows, strict=True)]
        lines = [section.title]
        for first, *others in (section.header, *section.rows):
            numbers = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
            lines.append("  ".join(["", first.ljust(widths[0]), *numbers]).rstrip())
        blocks.append("\n".join(lines))
    return "\n\n".join([*blocks, "\n".join(LEGEND), *filter(None, ["\n".join(remarks(profile))])])


def show(profile: Profile, stream: TextIO) -> None:
    """Print a profile to a terminal or a pipe."""
    if not stream.isatty():
        stream.write(f"{to_text(profile)}\n")
        return
    terminal = Terminal(stream)
    terminal.lines(headings(profile))
    for section in sections(profile):
        styled = [(row, ["bold" if row[0] == WHOLE else ""] * len(row)) for row in section.rows]
        terminal.table(section.title, section.header, styled, numbers=True)
    terminal.lines(LEGEND, "dim")
    terminal.lines(remarks(profile), "bold yellow")


def headings(profile: Profile) -> list[str]:
    """Describe the machine and its limits."""
    limits, provenance = profile.limits, profile.provenance
    return [
        printable(f"gpubench {provenance['gpubench']} on {provenance['cpu']}: {provenance['engine']['device']}"),
        f"Limits, measured in {limits.seconds:.1f} s: {limits}",
    ]


def remarks(profile: Profile) -> list[str]:
    """List failures, notes of the engine, missing scaling exponents, and an interrupt."""
    lines = [f"{failure.cells:,} x {failure.dims} failed: {failure.error}" for failure in profile.failures]
    for run in profile.runs:
        lines += [f"{run.cells:,} x {run.dims}: {line}" for line in (*run.failures, *run.notes)]
    if len(profile.runs) > 1 and _scaling_table(profile) is None:
        lines.append(f"No scaling exponents: stages must take {MIN_SECONDS} s at sizes a factor {MIN_SPAN:g} apart.")
    if profile.interrupted:
        lines.append("Interrupted: the sizes finished by then are above.")
    return [printable(line) for line in lines]


def sections(profile: Profile) -> Iterator[Section]:
    """Yield a table for each number of dimensions, and one of the scaling exponents."""
    for dims in dict.fromkeys(sorted(run.dims for run in profile.runs)):
        runs = sorted((run for run in profile.runs if run.dims == dims), key=lambda run: run.cells)
        yield _stage_table(profile, runs)
    scaling = _scaling_table(profile)
    if scaling is not None:
        yield scaling


def _stage_table(profile: Profile, runs: Sequence[Run]) -> Section:
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
    title = f"{largest.dims:,} dimensions; rates of {largest.cells:,} cells"
    return Section(title, header, tuple(rows))


def _scaling_table(profile: Profile) -> Section | None:
    """Return the scaling exponents of each stage; None if there are none."""
    if not profile.runs:
        return None
    largest = max(profile.runs, key=lambda run: run.whole.seconds)
    rows = []
    for path, exponents in profile.growth.items():
        stage = largest.stage(path)
        if stage is None or stage.seconds < MIN_SHARE * largest.whole.seconds:
            continue
        rows.append((_indented(path), *(power(getattr(exponents, field.name)) for field in fields(exponents))))
    header = ("exponents of", "time by cells", "time by dims", "memory by cells", "memory by dims")
    columns = [0, *(i for i in range(1, len(header)) if any(row[i] for row in rows))]
    if len(columns) == 1:
        return None
    names, *shown = (tuple(row[i] for i in columns) for row in (header, *rows))
    return Section("Scaling exponents", names, tuple(shown))


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

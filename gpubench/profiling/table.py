"""A profile as tables for people: with lines and colour on a terminal, as plain text in a pipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from gpubench.core.terminal import Terminal
from gpubench.profiling.profile import MIN_SPAN, SHORTEST_S, WHOLE
from gpubench.results.table import printable

if TYPE_CHECKING:
    from gpubench.profiling.profile import Exponent, Profile, Run, Stage

MIN_SHARE = 0.01
"""Of the largest run; shorter stages are in the JSON file only."""

LEGEND = (
    "Peak: memory of the process, or of the GPU. GFLOP/s and GB/s: counted arithmetic, and bytes to be read and",
    "written, a second. Of the limit: the least time that those take on this machine, as a share of the time that the",
    "stage took. Growth, where it is told: exponents ± standard errors, of the runs in which a stage is long enough.",
)


@dataclass(frozen=True, slots=True)
class Section:
    """A table of text."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def to_text(profile: Profile) -> str:
    """Lay a profile out as plain text."""
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
    """Write a profile to a terminal or a pipe."""
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
    """The machine and its limits."""
    limits, provenance = profile.limits, profile.provenance
    return [
        printable(f"gpubench {provenance['gpubench']} on {provenance['cpu']}: {provenance['engine']['device']}"),
        f"Limits, measured in {limits.seconds:.1f} s: {limits}",
    ]


def remarks(profile: Profile) -> list[str]:
    """What failed, what ran otherwise than asked, what does not show, and whether the profile ended early."""
    lines = [f"{failure.cells:,} x {failure.dims} failed: {failure.error}" for failure in profile.failures]
    for run in profile.runs:
        lines += [f"{run.cells:,} x {run.dims}: {line}" for line in (*run.failures, *run.notes)]
    if len(profile.runs) > 1 and _of_growth(profile) is None:
        lines.append(f"No growth is told: it takes stages of {SHORTEST_S} s at sizes {MIN_SPAN:g} times apart.")
    if profile.interrupted:
        lines.append("Interrupted: the sizes finished by then are above.")
    return [printable(line) for line in lines]


def sections(profile: Profile) -> Iterator[Section]:
    """A table for each number of dimensions, and one of the growth."""
    for dims in dict.fromkeys(sorted(run.dims for run in profile.runs)):
        runs = sorted((run for run in profile.runs if run.dims == dims), key=lambda run: run.cells)
        yield _of_dims(profile, runs)
    growth = _of_growth(profile)
    if growth is not None:
        yield growth


def _of_dims(profile: Profile, runs: Sequence[Run]) -> Section:
    largest, limits = runs[-1], profile.limits
    columns: dict[str, Callable[[Stage], float | None]] = {
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
        rows.append((_indented(stage.path), *times, *(_number(of(stage)) for of in columns.values()), share))
    header = ("seconds of", *(f"{run.cells:,}" for run in runs), *columns, "of the limit")
    title = f"{largest.dims:,} dimensions; rates of {largest.cells:,} cells"
    return Section(title, header, tuple(rows))


def _of_growth(profile: Profile) -> Section | None:
    """Exponents of each stage; None where no size tells any."""
    if not profile.runs:
        return None
    largest = max(profile.runs, key=lambda run: run.whole.seconds)
    rows = []
    for path, growth in profile.growth.items():
        stage = largest.stage(path)
        if stage is None or stage.seconds < MIN_SHARE * largest.whole.seconds:
            continue
        exponents = growth.seconds_by_cells, growth.seconds_by_dims, growth.memory_by_cells, growth.memory_by_dims
        rows.append((_indented(path), *map(power, exponents)))
    header = ("growth of", "time by cells", "time by dims", "memory by cells", "memory by dims")
    varies = [True, *(any(row[i] for row in rows) for i in range(1, len(header)))]
    if not any(varies[1:]):
        return None
    kept = [tuple(cell for cell, keep in zip(row, varies, strict=True) if keep) for row in (header, *rows)]
    return Section("Growth", kept[0], tuple(kept[1:]))


def power(exponent: Exponent | None) -> str:
    """An exponent with its standard error."""
    if exponent is None:
        return ""
    return f"{exponent.value:.2f}" if exponent.stderr is None else f"{exponent.value:.2f} ± {exponent.stderr:.2f}"


def _indented(path: str) -> str:
    if path == WHOLE:
        return path
    *outer, name = path.split("/")
    return "  " * (len(outer) + 1) + printable(name)


def _seconds(stage: Stage | None) -> str:
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

"""A comparison as a table for people: with lines and colour on a terminal, as plain text in a pipe."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TextIO

from gpubench.intervals import half_width
from gpubench.rows import telling_params
from gpubench.table import format_value, printable
from gpubench.terminal import Terminal

if TYPE_CHECKING:
    from gpubench.comparison import ComparedRow, Comparison
    from gpubench.difference import Difference
    from gpubench.types import MetricResult

LEGEND = (
    "* best value. ± is half of a 95% interval by Student's t, of a difference from the standard errors of both.",
    "A difference is beyond noise where its interval does not hold 0; where there is no interval, nothing tells.",
)


def to_text(comparison: Comparison) -> str:
    """Lay a comparison out as plain text: the files, a table for each embedding and task, warnings."""
    blocks = ["\n".join(_files(comparison))]
    for title, lines in _sections(comparison):
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        rows = ("  ".join(cell.ljust(size) for cell, size in zip(line, widths, strict=True)) for line in lines)
        blocks.append("\n".join([title, *(f"  {row}".rstrip() for row in rows)]))
    blocks += ["\n".join(_legend(comparison)), *filter(None, ["\n".join(_warnings(comparison))])]
    return "\n\n".join(blocks)


def show(comparison: Comparison, stream: TextIO) -> None:
    """Write a comparison to a terminal or a pipe."""
    if not stream.isatty():
        stream.write(f"{to_text(comparison)}\n")
        return
    terminal = Terminal(stream)
    terminal.lines(_files(comparison))
    for title, (header, *rows) in _sections(comparison):
        styled = [(row, ["bold green" if cell.endswith("*") else "" for cell in row]) for row in rows]
        terminal.table(title, header, styled, numbers=False)
    terminal.lines(_legend(comparison), "dim")
    terminal.lines(_warnings(comparison), "bold yellow")


def _files(comparison: Comparison) -> list[str]:
    return [f"[{i}] {printable(name)}" for i, name in enumerate(comparison.names, 1)]


def _legend(comparison: Comparison) -> list[str]:
    used = {apart.method for row in comparison.rows for apart in row.differences if apart is not None}
    of_donors = any(one.of_donors for row in comparison.rows for one in row.drawn.values())
    what = comparison.draws if of_donors else "for the agreement of clusters with labels"
    told = {
        "bootstrap": f"[low, high]: 95% interval of the difference by a paired bootstrap, {comparison.draws}.",
        "jackknife": f"(low, high): 95% interval by a paired jackknife, {what}.",
    }
    return [*LEGEND, *(printable(line) for method, line in told.items() if method in used)]


def _warnings(comparison: Comparison) -> list[str]:
    return [f"Warning: {printable(line)}" for line in comparison.warnings]


def _sections(comparison: Comparison) -> list[tuple[str, list[tuple[str, ...]]]]:
    """Title and lines of each table, the header first."""
    groups: dict[str, list[ComparedRow]] = {}
    for row in comparison.rows:
        groups.setdefault(printable(f"{row.embedding}: {row.task}"), []).append(row)
    return [(title, _lines(rows, len(comparison.names))) for title, rows in groups.items()]


def _lines(rows: list[ComparedRow], n_files: int) -> list[tuple[str, ...]]:
    compared = [(f"[{i}] - [1]", "") for i in range(2, n_files + 1)]
    header = ("metric", *(f"[{i}]" for i in range(1, n_files + 1)), *(cell for pair in compared for cell in pair))
    lines = [header]
    for row in rows:
        best = row.best()
        values = [_value(result) + (" *" if i in best else "") for i, result in enumerate(row.results)]
        apart = [
            cell for i in range(1, n_files) for cell in _difference(row.results[0], row.results[i], row.differences[i])
        ]
        lines.append((_name(row, rows), *values, *apart))
    return lines


def _name(row: ComparedRow, rows: list[ComparedRow]) -> str:
    alike = [next(filter(None, other.results)) for other in rows if other.metric == row.metric]
    told = [f"{key}={row.params[key]}" for key in telling_params(alike) if key in row.params]
    return printable(" ".join([row.metric, *told]))


def _value(row: MetricResult | None) -> str:
    if row is None:
        return "-"
    spread = "" if row.stderr is None or math.isnan(row.value) else f" ± {half_width(row.stderr, row.stderr_df):.2g}"
    return f"{'~' if row.approximate else ''}{format_value(row.value)}{spread}"


def _difference(
    first: MetricResult | None, other: MetricResult | None, difference: Difference | None
) -> tuple[str, str]:
    """The difference with its interval, and what it means."""
    if difference is None:
        return "", "in neither" if first is other else "only in [1]" if other is None else "not in [1]"
    if math.isnan(difference.value):
        return "", "undefined"
    return f"{difference.value:+z.4f}{_interval(difference)}", _verdict(difference)


def _interval(difference: Difference) -> str:
    if difference.interval is None:
        return ""
    low, high = difference.interval
    if difference.method == "standard errors":
        return f" ± {(high - low) / 2:.2g}"
    return f" [{low:+z.4f}, {high:+z.4f}]" if difference.method == "bootstrap" else f" ({low:+z.4f}, {high:+z.4f})"


def _verdict(difference: Difference) -> str:
    if difference.equal:
        return "equal"
    if difference.beyond_noise is False:
        return "within noise"
    word = {True: "better", False: "worse", None: "differs; neither end is known to be better"}[difference.better]
    return f"{word}, beyond noise" if difference.beyond_noise else f"{word}; no interval: {difference.reason}"

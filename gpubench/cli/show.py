"""A result on standard output: with lines and colour on a terminal, as plain text in a pipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from gpubench.results import table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from gpubench.results.result import Result

ROWS_ON_TERMINAL = 40
"""Rows of one metric that a terminal shows of a task; a pipe and the files get all."""


def show(result: Result, lines: Sequence[str], stream: TextIO) -> None:
    """Write the table of a result, what was left out and why, and then some lines, such as where files are."""
    if stream.isatty():
        _show_rich(result, lines, stream)
        return
    text = table.to_text(result.results, result.skipped, result.failures)
    stream.write("\n\n".join(part for part in (text, "\n".join(lines)) if part) + "\n")


def stages_text(result: Result) -> str:
    """The timeline as text: each stage indented below the one that it runs inside."""
    rows = [("stage", "seconds", "put MB", "peak MB")]
    for stage in result.timeline:
        *outer, name = stage["path"].split("/")
        peak = "" if stage["peak_bytes"] is None else f"{stage['peak_bytes'] / 1e6:,.0f}"
        rows.append(("  " * len(outer) + name, f"{stage['seconds']:.3f}", f"{stage['put_bytes'] / 1e6:,.1f}", peak))
    width = max(len(row[0]) for row in rows)
    return "\n".join(
        f"{name:<{width}}  {seconds:>9}  {put:>9}  {peak:>9}".rstrip() for name, seconds, put, peak in rows
    )


def _show_rich(result: Result, lines: Sequence[str], stream: TextIO) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(file=stream, highlight=False)
    for section in table.sections(result.results, ROWS_ON_TERMINAL):
        console.print(Text.assemble((section.embedding, "bold"), ": ", (section.task, "bold")))
        console.print(_rich_table(section))
        for line in table.footnotes(section):
            console.print(Text(line, "dim"))
        console.print()
    for heading, *items in table.remarks(result.skipped, result.failures):
        console.print(Text(heading, "bold red" if heading == table.FAILED else "bold"))
        for item in items:
            console.print(Text(item))
        console.print()
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def _rich_table(section: table.Section) -> RenderableType:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=SIMPLE_HEAD, pad_edge=True)
    for column in section.header:
        drawn.add_column(
            column,
            justify="right" if section.right_aligned(column) else "left",
            style="bold" if column == "value" else "",
            overflow="fold",
        )
    for row in section.rows:
        drawn.add_row(*map(Text, row))
    return drawn

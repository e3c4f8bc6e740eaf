"""Print a result on standard output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from gpubench.results.table import Lines, TextTable, print_blocks, result_blocks

if TYPE_CHECKING:
    from gpubench.results.result import Result

ROWS_ON_TERMINAL = 40
"""Rows of one metric in a table on a terminal; pipes and files get all."""


def print_result(result: Result, lines: Sequence[str], stream: TextIO) -> None:
    """Write the tables of a result, what failed and was left out, and then some lines, such as paths of files."""
    limit = ROWS_ON_TERMINAL if stream.isatty() else None
    blocks = result_blocks(result.results, result.skipped, result.failures, limit=limit)
    print_blocks([*blocks, Lines(lines, wrap=False)], stream)


def stages_text(result: Result) -> str:
    """Lay the timeline out as text, each stage indented below the one that it runs inside."""
    rows = []
    for stage in result.timeline:
        *outer, name = stage["path"].split("/")
        peak = "" if stage["peak_bytes"] is None else f"{stage['peak_bytes'] / 1e6:,.0f}"
        rows.append(("  " * len(outer) + name, f"{stage['seconds']:.3f}", f"{stage['put_bytes'] / 1e6:,.1f}", peak))
    header = ("stage", "seconds", "put MB", "peak MB")
    return TextTable("", header, tuple(rows), numbers=frozenset(header[1:])).to_text()

"""Tables on a terminal, with lines and colour; what a pipe gets is plain text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TextIO


class Terminal:
    """A terminal to which headings, tables and lines are written; their text is shown as it is, never as markup.

    Parameters
    ----------
    stream : is a terminal
    """

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console

        self._console = Console(file=stream, highlight=False)

    def lines(self, lines: Iterable[str], style: str = "") -> None:
        """Write lines in a style of rich."""
        from rich.text import Text

        for line in lines:
            self._console.print(Text(line, style))

    def table(
        self, title: str, header: Sequence[str], rows: Iterable[tuple[Sequence[str], Sequence[str]]], *, numbers: bool
    ) -> None:
        """Write a table under its title.

        Parameters
        ----------
        rows : cells of each row, and their styles
        numbers : whether all columns but the first hold numbers, which stand to the right
        """
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        self.lines([f"\n{title}"], "bold")
        drawn = Table(box=SIMPLE_HEAD)
        for i, column in enumerate(header):
            right = numbers and i > 0
            drawn.add_column(
                Text(column), justify="right" if right else "left", no_wrap=numbers and i == 0, overflow="fold"
            )
        for cells, styles in rows:
            drawn.add_row(*map(Text, cells, styles))
        self._console.print(drawn)

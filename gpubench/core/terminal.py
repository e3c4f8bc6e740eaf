"""Output on a terminal with rich: live displays, tables and styled lines. Pipes get plain text elsewhere."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Self, TextIO

if TYPE_CHECKING:
    from rich.console import Console


class Drawing(ABC):
    """Live display on standard error while a `with` statement runs; nothing is drawn unless it is a terminal.

    Parameters
    ----------
    stream : where to draw; None: standard error
    shown : False to draw nothing even on a terminal
    """

    def __init__(self, stream: TextIO | None = None, *, shown: bool = True) -> None:
        self._stream = stream or sys.stderr
        self._shown = shown and self._stream.isatty()

    @abstractmethod
    def _live(self, console: Console) -> Any:
        """Return a live display of rich, with `start` and `stop`."""

    def __enter__(self) -> Self:
        if self._shown:
            from rich.console import Console

            self._drawn = self._live(Console(file=self._stream))
            self._drawn.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            self._drawn.stop()


class Terminal:
    """Terminal to which lines and tables are written; text is shown verbatim, never interpreted as markup."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console

        self._console = Console(file=stream, highlight=False)

    def lines(self, lines: Iterable[str], style: str = "") -> None:
        """Write lines in one of rich's styles."""
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
        numbers : whether to right-align all columns but the first
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

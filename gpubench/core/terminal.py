"""Live displays on a terminal."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Self, TextIO

if TYPE_CHECKING:
    from rich.console import Console


def terminal_width(stream: TextIO) -> int:
    """Return the width for printed text in characters: that of the terminal or in `COLUMNS`, else 80, as in a pipe."""
    if stream.isatty():
        from rich.console import Console

        return Console(file=stream).width
    named = os.environ.get("COLUMNS", "")
    return int(named) if named.isdecimal() and int(named) else 80


class Drawing(ABC):
    """Base class of live displays, which draw on a terminal while a `with` statement runs.

    They draw on a given stream, or on standard error if it is None, and only if that is a terminal.
    """

    def __init__(self, stream: TextIO | None = None, *, shown: bool = True) -> None:
        self._stream = stream or sys.stderr
        self._shown = shown and self._stream.isatty()

    @abstractmethod
    def _live(self, console: Console) -> Any:
        """Return the display to draw: an object of rich that has the methods `start` and `stop`."""

    def __enter__(self) -> Self:
        if self._shown:
            from rich.console import Console

            self._drawn = self._live(Console(file=self._stream))
            self._drawn.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            self._drawn.stop()

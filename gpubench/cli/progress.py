"""Progress line on the terminal: the running stage, a progress bar, and the elapsed time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TextIO

from gpubench.core.terminal import Drawing

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live


class Progress(Drawing):
    """`Listener` that draws the running stage on the terminal; a context manager, see `Drawing`.

    The methods only store the state, and another thread draws it a few times per second, so that the run never waits
    for the terminal.
    """

    _DRAWN_PER_SECOND = 8

    def __init__(self, stream: TextIO | None = None, *, shown: bool = True) -> None:
        super().__init__(stream, shown=shown)
        self._begin = time.monotonic()
        # replaced at once, so that a drawing never mixes two stages
        self._state: tuple[str, int, int] = ("starting", 0, 0)

    def _live(self, console: Console) -> Live:
        from rich.live import Live

        self._begin = time.monotonic()
        return Live(self, console=console, refresh_per_second=self._DRAWN_PER_SECOND, transient=True)

    def started(self, path: str) -> None:
        """See `gpubench.core.timeline.Listener.started`."""
        self._state = (path, 0, 0)

    def advanced(self, path: str, done: int, total: int) -> None:
        """See `gpubench.core.timeline.Listener.advanced`."""
        self._state = (path, done, total)

    def ended(self, path: str, seconds: float) -> None:  # noqa: ARG002 - part of the protocol
        """See `gpubench.core.timeline.Listener.ended`."""
        self._state = (path.rpartition("/")[0], 0, 0)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the stage, a progress bar if the number of its parts is known, and the elapsed time."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        path, done, total = self._state
        line = Table.grid(padding=(0, 2))
        line.add_column(no_wrap=True, overflow="ellipsis")
        stage = Text(path.replace("/", " > ") or "finishing")
        elapsed = Text(_clock(time.monotonic() - self._begin))
        if total:
            line.add_row(stage, ProgressBar(total, min(done, total), width=24), Text(f"{done:,}/{total:,}"), elapsed)
        else:
            line.add_row(stage, elapsed)
        yield line


def _clock(seconds: float) -> str:
    """Format seconds as m:ss, or h:mm:ss."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

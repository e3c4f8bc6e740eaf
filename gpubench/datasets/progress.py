"""A line on the terminal that shows how far a download is and how fast."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from rich.progress import TaskID


class Transfer:
    """A `Listener` that draws what is fetched on standard error while it is a terminal, and nothing in a pipe.

    Use it in a `with` statement.

    Parameters
    ----------
    stream : where to draw; None: standard error
    shown : False to draw nothing even on a terminal
    """

    def __init__(self, stream: TextIO | None = None, *, shown: bool = True) -> None:
        self._stream = stream or sys.stderr
        self._shown = shown and self._stream.isatty()
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        if self._shown:
            from rich import progress
            from rich.console import Console

            self._progress = progress.Progress(
                progress.TextColumn("{task.description}", markup=False),
                progress.BarColumn(),
                progress.DownloadColumn(),
                progress.TransferSpeedColumn(),
                progress.TimeRemainingColumn(),
                console=Console(file=self._stream),
                transient=True,
            )
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._shown:
            self._progress.stop()

    def started(self, path: str) -> None:
        """See `gpubench.timeline.Listener.started`."""
        if self._shown:
            self._tasks[path] = self._progress.add_task(path, total=None)

    def advanced(self, path: str, done: int, total: int) -> None:
        """See `gpubench.timeline.Listener.advanced`; here in bytes."""
        if self._shown:
            self._progress.update(self._tasks[path], completed=done, total=total)

    def ended(self, path: str, seconds: float) -> None:  # noqa: ARG002 - part of the protocol
        """See `gpubench.timeline.Listener.ended`."""
        if self._shown:
            self._progress.remove_task(self._tasks.pop(path))

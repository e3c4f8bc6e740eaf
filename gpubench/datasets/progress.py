"""A line on the terminal that shows how far a download is and how fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from gpubench.core.terminal import Drawing

if TYPE_CHECKING:
    from rich import progress
    from rich.console import Console


class Transfer(Drawing["progress.Progress"]):
    """A `Listener` that draws what is fetched, see `Drawing`."""

    def __init__(self, stream: TextIO | None = None, *, shown: bool = True) -> None:
        super().__init__(stream, shown=shown)
        self._tasks: dict[str, progress.TaskID] = {}

    def _live(self, console: Console) -> progress.Progress:
        from rich import progress

        return progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
            console=console,
            transient=True,
        )

    def started(self, path: str) -> None:
        """See `gpubench.core.timeline.Listener.started`."""
        if self._shown:
            self._tasks[path] = self._drawn.add_task(path, total=None)

    def advanced(self, path: str, done: int, total: int) -> None:
        """See `gpubench.core.timeline.Listener.advanced`; here in bytes."""
        if self._shown:
            self._drawn.update(self._tasks[path], completed=done, total=total)

    def ended(self, path: str, seconds: float) -> None:  # noqa: ARG002 - part of the protocol
        """See `gpubench.core.timeline.Listener.ended`."""
        if self._shown:
            self._drawn.remove_task(self._tasks.pop(path))

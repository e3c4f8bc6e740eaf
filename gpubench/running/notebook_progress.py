"""A progress bar in notebooks, which goes when the run ends."""

from __future__ import annotations

import io
import sys
import time
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.progress import Progress

FIRST_S = 0.7
"""Seconds of a run before the bar appears: short runs have none."""

AGAIN_S = 0.25
"""Seconds from one drawing to the next."""

_WIDTH = 90
_FORMAT = '<pre style="margin:0;background:transparent;color:var(--jp-content-font-color1,inherit)">{code}</pre>'


def in_notebook() -> bool:
    """Whether the program runs in a notebook: in a kernel of IPython, or in Colab."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and (type(shell).__name__ == "ZMQInteractiveShell" or "google.colab" in str(type(shell)))


class NotebookProgress:
    """`Listener` that shows the running stage below a notebook's cell; a context manager.

    Drawn with `rich.progress` and displayed as HTML, which needs no widgets and is empty when the run has ended.
    """

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._drawn = self._begin + FIRST_S - AGAIN_S
        self._lock = Lock()
        self._handle: Any = None
        self._progress: Progress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._display("")

    def started(self, path: str) -> None:
        """See `gpubench.core.timeline.Listener.started`."""
        self._draw(path, 0, 0)

    def advanced(self, path: str, done: int, total: int) -> None:
        """See `gpubench.core.timeline.Listener.advanced`."""
        self._draw(path, done, total)

    def ended(self, path: str, seconds: float) -> None:  # noqa: ARG002 - part of the protocol
        """See `gpubench.core.timeline.Listener.ended`."""
        self._draw(path.rpartition("/")[0], 0, 0)

    def _draw(self, path: str, done: int, total: int) -> None:
        """Draw the state, unless another thread is drawing or has just drawn."""
        if time.monotonic() - self._drawn < AGAIN_S or not self._lock.acquire(blocking=False):
            return
        try:
            self._display(self._html(path.replace("/", " > ") or "finishing", done, total))
            self._drawn = time.monotonic()
        finally:
            self._lock.release()

    def _html(self, stage: str, done: int, total: int) -> str:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

        console = Console(file=io.StringIO(), record=True, width=_WIDTH, force_jupyter=False, force_terminal=True)
        if self._progress is None:
            columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
            elapsed = time.monotonic() - self._begin
            self._progress = Progress(*columns, console=console, auto_refresh=False)
            self._progress.add_task(stage)
            self._progress.tasks[0].start_time = self._progress.get_time() - elapsed
        task = self._progress.tasks[0]
        self._progress.update(task.id, description=stage, completed=min(done, total))
        task.total = total or None  # `update` takes None as no change
        console.print(self._progress.get_renderable())
        return console.export_html(inline_styles=True, code_format=_FORMAT)

    def _display(self, text: str) -> None:
        from IPython.display import HTML, display

        if self._handle is None:
            self._handle = display(HTML(text), display_id=True)
        else:
            self._handle.update(HTML(text))

"""Ctrl-C stops a run at once, even while a library computes, which blocks the thread that called it.

Python handles a signal only between two instructions of its main thread. So the work runs in its own thread while the
main thread waits. On Ctrl-C the work is asked to stop, which it does at the next stage or tile; if it does not stop
soon, it is abandoned. Only a library that holds the interpreter's lock is waited for, as scikit-learn-intelex does
while a forest grows.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from gpubench.core.timeline import Timeline

T = TypeVar("T")

PATIENCE_S = 0.5
"""Time for the work to stop after it was asked to."""

POLL_S = 0.05
"""Interval at which the main thread checks for a signal: not every system wakes a thread that waits without end."""


class _WorkThread(threading.Thread, Generic[T]):
    """A thread that computes a value, and may be abandoned."""

    def __init__(self, work: Callable[[], T], timeline: Timeline) -> None:
        super().__init__(name="gpubench", daemon=True)
        self.done = threading.Event()
        self.abandoned = False
        self._work = work
        self._timeline = timeline
        # settings of the caller's thread, such as numpy.errstate, apply to the work
        self._context = contextvars.copy_context()
        self._set_up = timeline.thread_setup()
        self._returned: list[T] = []
        self._raised: list[BaseException] = []

    def run(self) -> None:
        """Compute the value."""
        try:
            self._set_up()
            self._returned.append(self._context.run(self._work))
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            self._raised.append(error)
        finally:
            self._timeline.cancel_token.clear(threading.get_ident())
            self.done.set()

    def result(self) -> T:
        """Return the value, or raise the error of the work."""
        if self._raised:
            raise self._raised[0]
        return self._returned[0]


def run_interruptible(work: Callable[[], T], timeline: Timeline) -> T:
    """Run some work in its own thread while this one handles Ctrl-C.

    In any thread but the main one, which signals do not reach, the work runs in place.

    Parameters
    ----------
    timeline : its `cancel_token` asks the work to stop

    Raises
    ------
    KeyboardInterrupt
        Ctrl-C; the work may still run in a thread that nobody waits for.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    thread = _WorkThread(work, timeline)
    try:
        thread.start()
        while not thread.done.wait(POLL_S):
            pass
    except KeyboardInterrupt:
        timeline.cancel_token.cancel(thread)
        try:
            thread.done.wait(PATIENCE_S)
        finally:  # a second Ctrl-C ends the waiting
            thread.abandoned = not thread.done.is_set()
        raise
    return thread.result()


def has_abandoned_work() -> bool:
    """Whether abandoned work still runs; the process should then end without waiting for it."""
    return any(isinstance(thread, _WorkThread) and thread.abandoned for thread in threading.enumerate())

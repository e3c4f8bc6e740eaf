"""Stop a run on Ctrl-C at once, even while a library blocks the thread that called it.

Python handles a signal only between two instructions of its main thread. So the work runs in its own thread while the
main thread waits. On Ctrl-C the work is asked to stop, which it does at the next stage or tile. If it does not stop
soon, its thread is abandoned. A library that holds the interpreter's lock delays all this until it releases the lock.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from gpubench.core.timeline import Timeline

T = TypeVar("T")

PATIENCE_S = 0.5
"""Time for the work to stop after it was asked to."""

POLL_S = 0.05
"""Interval at which the main thread checks for a signal: not every system wakes a thread that waits without end."""


class _WorkThread(threading.Thread, Generic[T]):
    """Thread that computes a value; on Ctrl-C it may be left running without anyone waiting for it."""

    def __init__(self, work: Callable[[], T], timeline: Timeline) -> None:
        super().__init__(name="gpubench", daemon=True)
        self.future: Future[T] = Future()
        self.abandoned = False
        self._work = work
        self._timeline = timeline
        # settings of the caller's thread, such as numpy.errstate, apply to the work
        self._context = contextvars.copy_context()
        self._set_up = timeline.thread_setup()

    def run(self) -> None:
        """Compute the value and store it, or the exception that was raised, in `future`."""
        try:
            try:
                self._set_up()
                value = self._context.run(self._work)
            finally:
                self._timeline.cancel_token.clear(threading.get_ident())
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            self.future.set_exception(error)
        else:
            self.future.set_result(value)


def run_interruptible(work: Callable[[], T], timeline: Timeline) -> T:
    """Call a function in its own thread while the main thread handles Ctrl-C; return the function's value.

    Ctrl-C raises KeyboardInterrupt here and cancels the `cancel_token` of the timeline, which asks the function to
    stop. If it does not stop soon, it continues in the background. When called from another thread than the main one,
    which does not receive signals, the function runs in that thread.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    thread = _WorkThread(work, timeline)
    try:
        thread.start()
        while not wait([thread.future], POLL_S).done:
            pass
    except KeyboardInterrupt:
        timeline.cancel_token.cancel(thread)
        try:
            wait([thread.future], PATIENCE_S)
        finally:  # a second Ctrl-C ends the waiting
            thread.abandoned = not thread.future.done()
        raise
    return thread.future.result()


def has_abandoned_work() -> bool:
    """Whether work that did not stop after Ctrl-C still runs; the process should then exit without waiting for it."""
    return any(isinstance(thread, _WorkThread) and thread.abandoned for thread in threading.enumerate())

"""Ctrl-C is answered while a library computes, which holds the thread that called it until it is done.

Python hears of a signal only between two instructions of its main thread. So the work is done in a thread of its own,
and the main thread waits. The work is asked to stop, which it does at the next stage or tile; what does not is soon
left behind. Only a library that keeps the interpreter's lock is waited for, as scikit-learn-intelex does while a forest
grows.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from gpubench.core.timeline import Timeline

T = TypeVar("T")

PATIENCE_S = 0.5
"""How long the work may go on after it was asked to stop."""

LOOK_S = 0.05
"""How often the main thread looks for a signal: not every system wakes a thread that waits without end."""

_left_behind: list[threading.Thread] = []


def answering(work: Callable[[], T], timeline: Timeline) -> T:
    """Do some work in a thread of its own while this one answers Ctrl-C.

    In any other than the main thread, which no signal reaches, the work is done at once.

    Parameters
    ----------
    timeline : through which the work is asked to stop, see `CancelToken`

    Raises
    ------
    KeyboardInterrupt
        Ctrl-C; the work may still go on in a thread that nobody waits for.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    returned: list[T] = []
    raised: list[BaseException] = []
    done = threading.Event()

    def run() -> None:
        try:
            returned.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            raised.append(error)
        finally:
            timeline.cancel_token.clear(threading.get_ident())
            done.set()

    # what a caller has set for his thread, such as NumPy's handling of errors, holds for the work
    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), name="gpubench", daemon=True)
    try:
        thread.start()
        while not done.wait(LOOK_S):
            pass
    except KeyboardInterrupt:
        timeline.cancel_token.cancel(thread)
        try:
            done.wait(PATIENCE_S)
        finally:  # a second Ctrl-C ends the waiting
            if not done.is_set():
                _left_behind.append(thread)
        raise
    if raised:
        raise raised[0]
    return returned[0]


def is_work_left_behind() -> bool:
    """Whether some work has not stopped yet; the process should then end without waiting for it."""
    return any(thread.is_alive() for thread in _left_behind)

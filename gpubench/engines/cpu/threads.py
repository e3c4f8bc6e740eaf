"""Worker threads for the CPU engine: one Python thread a core, one BLAS thread inside each.

NumPy, BLAS and our compiled kernels release the interpreter lock, so plain threads keep every core busy. BLAS's own
threads would only fight over the same cores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from threading import Lock
from typing import TYPE_CHECKING, Generic, TypeVar

from gpubench.engines.common.blas import one_blas_thread

if TYPE_CHECKING:
    from gpubench.core.timeline import Timeline, Work

T = TypeVar("T")


class WorkerThreads:
    """Runs independent pieces of work on threads.

    Attributes
    ----------
    n_threads : how many threads run at a time
    """

    def __init__(self, n_threads: int, timeline: Timeline) -> None:
        self.n_threads = n_threads
        self._timeline = timeline

    def run(self, items: Sequence[T], make_worker: Callable[[], Callable[[T], None]]) -> None:
        """Hand each item to a worker; each thread makes one worker of its own, with the buffers it reuses.

        Which thread takes which item is left open, so workers must not let the order of items reach the result.
        The first exception stops the others after their current item.
        """
        if not items:
            return
        queue = _Queue(items)
        with one_blas_thread():
            if self.n_threads == 1 or len(items) == 1:
                worker = make_worker()
                while (item := queue.take()) is not None:
                    worker(item[0])
                    self._timeline.advance(queue.taken, len(items))
                return
            self._run_threads(queue, make_worker)

    def report(self, done: int, total: int) -> None:
        """Tell the progress of work that a library spreads over threads itself."""
        self._timeline.advance(done, total)

    def count(self, work: Work) -> None:
        """Tell how much work is being done."""
        self._timeline.count(work)

    def _run_threads(self, queue: _Queue[T], make_worker: Callable[[], Callable[[T], None]]) -> None:
        def loop() -> None:
            worker = make_worker()
            while (item := queue.take()) is not None:
                worker(item[0])

        n_threads = min(self.n_threads, queue.total)
        with ThreadPoolExecutor(n_threads, thread_name_prefix="gpubench") as pool:
            waiting: set[Future[None]] = {pool.submit(loop) for _ in range(n_threads)}
            try:
                while waiting:
                    done, waiting = wait(waiting, timeout=0.1, return_when=FIRST_EXCEPTION)
                    for future in done:
                        future.result()
                    self._timeline.advance(queue.taken, queue.total)
            finally:
                queue.close()


class _Queue(Generic[T]):
    """Items in order, taken by any thread."""

    def __init__(self, items: Sequence[T]) -> None:
        self._items = items
        self._lock = Lock()
        self.taken = 0
        self.total = len(items)

    def take(self) -> tuple[T] | None:
        """Return the next item in a tuple, or None when nothing is left."""
        with self._lock:
            if self.taken == self.total:
                return None
            self.taken += 1
            return (self._items[self.taken - 1],)

    def close(self) -> None:
        """Leave the rest undone."""
        with self._lock:
            self.taken = self.total

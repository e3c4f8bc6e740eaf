"""Worker threads of the CPU engine: one Python thread per core, each of which uses one BLAS thread.

NumPy, BLAS and our compiled functions release the interpreter lock, so Python threads keep every core busy; further
threads of BLAS would only compete for the same cores.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from gpubench.engines.common.blas import one_blas_thread
from gpubench.engines.cpu.tuning import DEFAULT, CpuTuning

if TYPE_CHECKING:
    from gpubench.core.timeline import Timeline

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class WorkerThreads:
    """Threads that process independent pieces of work, and the settings for the sizes of the pieces."""

    n_threads: int
    timeline: Timeline
    tuning: CpuTuning = DEFAULT

    def run(self, items: Sequence[T], make_worker: Callable[[], Callable[[T], None]]) -> None:
        """Process items on all threads; each thread calls `make_worker` once and the returned function with each item.

        So a worker function can reuse buffers. Items may be processed in any order and by any thread, so results must
        not depend on these. The first exception stops the other threads after their current item.
        """
        if not items:
            return
        queue, n, alone = deque(items), len(items), self.n_threads == 1 or len(items) == 1

        def loop() -> None:
            worker = make_worker()
            while True:
                try:
                    item = queue.popleft()
                except IndexError:  # nothing is left
                    return
                worker(item)
                if alone:
                    self.timeline.advance(n - len(queue), n)

        with one_blas_thread():
            if alone:
                loop()
                return
            n_threads = min(self.n_threads, n)
            with ThreadPoolExecutor(n_threads, thread_name_prefix="gpubench") as pool:
                waiting: set[Future[None]] = {pool.submit(loop) for _ in range(n_threads)}
                try:
                    while waiting:
                        done, waiting = wait(waiting, timeout=0.1, return_when=FIRST_EXCEPTION)
                        for future in done:
                            future.result()
                        self.timeline.advance(n - len(queue), n)
                finally:
                    queue.clear()

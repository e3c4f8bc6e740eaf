"""Code that runs on a Dask worker: the engine of a task, a cache of objects, and a record of the times of tasks.

Tasks receive small descriptions of large objects, and look up or make these objects on their worker. So a task can run
on any worker, even on one that has just replaced another.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from gpubench.core.errors import GpubenchError
from gpubench.engines.common.blas import one_blas_thread
from gpubench.engines.cpu.engine import CpuEngine

if TYPE_CHECKING:
    from numpy.typing import NDArray

T = TypeVar("T")

TYPE_KEY = "gpubench type"
"""Key of a dictionary that stands for what this type or function makes of the other entries."""

MAX_CACHED = 8
"""Number of objects that a worker caches: matrices on its GPU, and objects derived from these."""

SORTED = "sorted"
"""First word of the keys of cells sorted for one column. They are as large as the matrix, so only one is cached."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Settings of the engine that workers compute with.

    Attributes
    ----------
    seed, knn, exact : arguments of `gpubench.get_engine`
    memory_bytes : memory that one task may use beyond the matrix
    threads : number of threads of a task that has a worker to itself
    engine : "cpu", or "cuda" if every worker has a GPU
    """

    seed: int
    knn: str
    exact: bool
    memory_bytes: int
    threads: int = 1
    engine: str = "cpu"

    def start(self, threads: int | None = None) -> WorkerEngine:
        """Make a CPU engine for one task, with `threads` threads; if None, with the number in these settings.

        An engine holds no data, so tasks need not share one.
        """
        _set_blas_threads()
        return WorkerEngine(self, threads or self.threads)


class WorkerEngine(CpuEngine):
    """CPU engine of one task, pickled as its settings, so that objects that refer to it can move between workers."""

    def __init__(self, settings: EngineSettings, threads: int) -> None:
        super().__init__(
            seed=settings.seed,
            threads=threads,
            memory_bytes=settings.memory_bytes,
            knn=settings.knn,
            exact=settings.exact,
        )
        self._arguments = settings, threads

    def __reduce__(self) -> tuple[Any, ...]:
        return WorkerEngine, self._arguments


@cache
def _set_blas_threads() -> None:
    """Limit BLAS to one thread for the rest of the process, because several tasks may run in it."""
    one_blas_thread().__enter__()


@dataclass(frozen=True, slots=True)
class TransferredArray:
    """An array that the client has written to a file that all workers can read."""

    path: str

    def load(self) -> NDArray[Any]:
        """Return the array as a memory map, whose pages the workers of a machine share."""
        return np.asarray(np.load(self.path, mmap_mode="r"))


@dataclass(slots=True)
class TaskTimes:
    """Times of the tasks of one stage on a worker: first start and last end in seconds since the epoch, busy time."""

    first_s: float
    last_s: float
    busy_s: float = 0.0
    tasks: int = 0


class WorkerState:
    """Cached objects of a worker process, in order of last use, and the times of its tasks."""

    def __init__(self) -> None:
        self._made: OrderedDict[Any, Future[Any]] = OrderedDict()
        self._times: dict[str, TaskTimes] = {}
        self._lock = Lock()

    def cached(self, key: tuple[str, ...], make: Callable[[], T]) -> T:
        """Return the object cached under a key; the first thread to request it calls `make`, others wait."""
        while True:
            with self._lock:
                entry = self._made.get(key)
                is_new = entry is None
                if entry is None:
                    if key[0] == SORTED:
                        self._drop_sorted()
                    entry = self._made[key] = Future()
                    while len(self._made) > MAX_CACHED:
                        self._made.popitem(last=False)
                self._made.move_to_end(key)
            if is_new:
                self._fill(entry, key, make)
            with suppress(CancelledError):  # another thread failed to make it: try here, to raise the error here too
                made: T = entry.result()
                return made

    def _fill(self, entry: Future[T], key: Any, make: Callable[[], T]) -> None:
        """Compute the cached value; wake all waiters even on failure."""
        try:
            entry.set_result(make())
        finally:
            if not entry.done():
                with self._lock:
                    if self._made.get(key) is entry:
                        del self._made[key]
                entry.cancel()

    def _drop_sorted(self) -> None:
        for key in [key for key, entry in self._made.items() if key[0] == SORTED and entry.done()]:
            del self._made[key]

    def forget(self, word: str) -> None:
        """Drop all objects whose key contains `word`: for the key of a matrix, also all objects derived from it."""
        with self._lock:
            for key in [key for key in self._made if word in key]:
                del self._made[key]

    def record(self, stage: str, begin: float, end: float) -> None:
        """Record that a task of a stage ran from `begin` to `end`, in seconds since the epoch."""
        with self._lock:
            times = self._times.setdefault(stage, TaskTimes(begin, end))
            times.last_s = end
            times.busy_s += end - begin
            times.tasks += 1

    def take_times(self) -> dict[str, TaskTimes]:
        """Return the times of tasks since the last call, by stage."""
        with self._lock:
            taken, self._times = self._times, {}
        return taken


state = WorkerState()
"""State of this worker process, for the functions that Dask's workers call by name."""


cached = state.cached


def forget(word: str) -> None:
    """Drop all objects whose key contains `word` from this worker's cache."""
    state.forget(word)


def take_times() -> dict[str, TaskTimes]:
    """Return the times of this worker's tasks since the last call, by stage."""
    return state.take_times()


def decode(given: Any) -> Any:
    """Replace objects encoded by `Cluster.encode_args`, also inside containers, by the original objects.

    Arrays received from another worker may be unaligned in memory. NumPy then uses other code, whose results differ in
    the last bits, so such arrays are copied.
    """
    if isinstance(given, TransferredArray):
        return given.load()
    if isinstance(given, list | tuple):
        return type(given)(map(decode, given))
    if isinstance(given, dict):
        values = {name: decode(value) for name, value in given.items() if name != TYPE_KEY}
        return given[TYPE_KEY](**values) if TYPE_KEY in given else values
    if isinstance(given, np.ndarray) and not given.flags.aligned:
        return given.copy()
    return given


def call(function: Callable[..., T], stage: str, args: Any, kwargs: Any) -> T:
    """Run a task: call a function on its decoded arguments and record how long that took."""
    begin = time.time()
    try:
        return function(*decode(args), **decode(kwargs))
    except GpubenchError as error:  # the cause may not be picklable, and may show secrets that the message leaves out
        error.__cause__ = error.__context__ = None
        raise
    finally:
        state.record(stage, begin, time.time())


def quiet() -> None:
    """Silence Dask's log messages on workers that stop; the run reports relevant failures as errors."""
    for name in ("distributed.nanny", "distributed.scheduler", "distributed.worker", "distributed.core"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # a lost scheduler is an error of the run; Dask adds a traceback of its attempts to connect again
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)


def dask_setup(_: Any) -> None:
    """Prepare a worker started by the client: ignore Ctrl-C and do not log errors, which the client handles."""
    quiet()
    logging.getLogger("distributed.worker").setLevel(logging.CRITICAL)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)

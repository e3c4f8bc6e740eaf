"""What Dask workers hold and do for every operation: matrices that each has once, an engine, and how long tasks took.

A task is given small descriptions and finds, or makes, what they stand for on its worker. So it can run on any worker,
also on one that has just taken the place of another.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from gpubench.core.errors import GpubenchError
from gpubench.engines.common.blas import one_blas_thread
from gpubench.engines.cpu.engine import CpuEngine

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.data.locations import Location

T = TypeVar("T")

MADE_OF = "gpubench made of"
"""Key of a dictionary that stands for an object of that type with the other keys as its fields."""

KEPT = 8
"""Things that a worker keeps: matrices, and what was derived from them."""

SORTED = "sorted"
"""First word of the key of sorted cells, of which a worker keeps those of one column."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """The engine that workers compute with.

    Attributes
    ----------
    memory_bytes : what one task may use beyond the matrix
    threads : of a task that has a worker for itself
    engine : "cpu", or "cuda" where every worker has a GPU
    """

    seed: int
    knn: str
    exact: bool
    memory_bytes: int
    threads: int = 1
    engine: str = "cpu"

    def start(self, threads: int | None = None) -> WorkerEngine:
        """Make the engine; it holds nothing, so that every task has its own."""
        _settle_blas()
        return WorkerEngine(self, threads or self.threads)


class WorkerEngine(CpuEngine):
    """The CPU engine of one task. What refers to it can move to another worker, where it is made again."""

    def __init__(self, recipe: Recipe, threads: int) -> None:
        super().__init__(
            seed=recipe.seed,
            threads=threads,
            memory_bytes=recipe.memory_bytes,
            knn=recipe.knn,
            exact=recipe.exact,
        )
        self._made_by = recipe, threads

    def __reduce__(self) -> tuple[Any, ...]:
        return WorkerEngine, self._made_by


@cache
def _settle_blas() -> None:
    """Tasks of several threads share a process, so BLAS stays at one thread from now on."""
    one_blas_thread().__enter__()


@dataclass(frozen=True, slots=True)
class Held:
    """A matrix, (n, d) float32, that each worker reads for itself and keeps.

    Attributes
    ----------
    key : tells it from every other
    place : where it is stored
    name : for messages
    """

    key: str
    place: Location
    name: str
    recipe: Recipe = field(repr=False)

    def load(self) -> NDArray[np.float32]:
        """Read it in blocks of rows, and refuse what cannot be scored; see `Engine.put`."""
        return self.recipe.start().put(self.place.open(), self.name)


class Description(ABC):
    """Stands for something in the arguments of a task."""

    __slots__ = ()

    @abstractmethod
    def load(self) -> Any:
        """What it stands for on this worker."""


@dataclass(frozen=True, slots=True)
class Handed(Description):
    """An array that the client has left in a folder that workers see."""

    path: str

    def load(self) -> NDArray[Any]:
        """Map it; its pages are shared by the workers of a machine."""
        return np.asarray(np.load(self.path, mmap_mode="r"))


class _Kept:
    """What was made last, by key; each is made once, whichever thread asks first."""

    def __init__(self) -> None:
        self._made: OrderedDict[Any, Future[Any]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Any, make: Callable[[], T]) -> T:
        """What is kept under the key, made now where there is nothing."""
        while True:
            with self._lock:
                found = self._made.get(key)
                mine = found is None
                if found is None:
                    if key[0] == SORTED:
                        self._let_go_of_sorted()
                    found = self._made[key] = Future()
                    while len(self._made) > KEPT:
                        self._made.popitem(last=False)
                self._made.move_to_end(key)
            if mine:
                self._fill(found, key, make)
            with suppress(CancelledError):  # whoever was making it has failed: try here, and say why it fails
                made: T = found.result()
                return made

    def _fill(self, empty: Future[T], key: Any, make: Callable[[], T]) -> None:
        """Make what is to be kept; whatever happens, nobody waits for it for ever."""
        try:
            empty.set_result(make())
        finally:
            if not empty.done():
                with self._lock:
                    if self._made.get(key) is empty:
                        del self._made[key]
                empty.cancel()

    def _let_go_of_sorted(self) -> None:
        """Cells are sorted anew for each column: what was sorted for another is as large as the matrix."""
        for key in [key for key, made in self._made.items() if key[0] == SORTED and made.done()]:
            del self._made[key]

    def forget(self, key: str) -> None:
        """Let go of a matrix and of what was derived from it."""
        with self._lock:
            for kept in [kept for kept in self._made if key in kept]:
                del self._made[kept]


_kept = _Kept()


def kept(key: tuple[str, ...], make: Callable[[], T]) -> T:
    """What this worker keeps under a key, made by the first task that asks."""
    return _kept.get(key, make)


def forget(key: str) -> None:
    """Let go of a matrix and of all that was derived from it."""
    _kept.forget(key)


def value_of(given: Any) -> Any:
    """What a description stands for on this worker; containers are looked through.

    Arrays that came from another worker may begin at any byte. NumPy and scikit-learn-intelex then take other ways,
    whose last bits differ, so such arrays are copied; all else is as it is.
    """
    if isinstance(given, Held):
        return kept(("matrix", given.key), given.load)
    if isinstance(given, Description):
        return given.load()
    if isinstance(given, list | tuple):
        return type(given)(map(value_of, given))
    if isinstance(given, dict):
        values = {name: value_of(value) for name, value in given.items() if name != MADE_OF}
        return given[MADE_OF](**values) if MADE_OF in given else values
    if isinstance(given, np.ndarray) and not given.flags.aligned:
        return given.copy()
    return given


def quiet() -> None:
    """Workers that end are told of where it matters; Dask's own lines about them are for its log."""
    for name in ("distributed.nanny", "distributed.scheduler", "distributed.worker", "distributed.core"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # a scheduler that is lost is an error of the run; Dask adds a traceback of its attempts to connect again
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)


def dask_setup(_: Any) -> None:
    """What a worker that the client started does first: Ctrl-C, and what tasks raise, are for the client alone."""
    quiet()
    logging.getLogger("distributed.worker").setLevel(logging.CRITICAL)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass(slots=True)
class Busy:
    """What a worker did for one stage, in seconds since the epoch."""

    first_s: float
    last_s: float
    busy_s: float = 0.0
    tasks: int = 0


_busy: dict[str, Busy] = {}
_busy_lock = Lock()


def timed(stage: str, function: Callable[..., T], *args: Any) -> T:
    """Run a task and note how long it took."""
    begin = time.time()
    try:
        return function(*args)
    except GpubenchError as error:  # what it came from may not travel, and may show what the message leaves out
        error.__cause__ = error.__context__ = None
        raise
    finally:
        end = time.time()
        with _busy_lock:
            of_stage = _busy.setdefault(stage, Busy(begin, end))
            of_stage.last_s = end
            of_stage.busy_s += end - begin
            of_stage.tasks += 1


def take_busy() -> dict[str, tuple[float, float, float, int]]:
    """What this worker did since it was asked last, by stage."""
    with _busy_lock:
        taken = {stage: (own.first_s, own.last_s, own.busy_s, own.tasks) for stage, own in _busy.items()}
        _busy.clear()
    return taken


def call(function: Callable[..., T], args: Any, kwargs: Any) -> T:
    """Call a function on what the descriptions stand for."""
    return function(*value_of(args), **value_of(kwargs))


def checked(x: NDArray[Any], name: str, recipe: Recipe) -> NDArray[np.float32]:
    """Cells as an engine takes them; see `Engine.put`."""
    return recipe.start().put(x, name)


def on_engine(recipe: Recipe, operation: str, args: Any, kwargs: Any) -> Any:
    """Run an operation of the worker's engine."""
    return getattr(recipe.start(), operation)(*value_of(args), **value_of(kwargs))

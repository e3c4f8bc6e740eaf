"""Patches: a call runs on gpubench where that covers it, else by the original; both are counted and logged."""

from __future__ import annotations

import functools
import inspect
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from gpubench.core.errors import GpubenchError
from gpubench.data.matrices import comes_from
from gpubench.engines import get_engine

if TYPE_CHECKING:
    import pandas as pd

    from gpubench.engines.base import Engine

logger = logging.getLogger("gpubench.accel")

Function: TypeAlias = Callable[..., Any]

COLUMNS = ("call", "ran", "engine", "seconds", "fell_back", "fallback_seconds", "why")

Start: TypeAlias = Callable[..., "Engine"]
"""Starts the engine of a call: `start(seed=7)`; `exact=False` allows approximation, where the original approximates."""


class NotCovered(GpubenchError):
    """gpubench does not cover a call; the original then computes it, or raises its own error."""


@dataclass(slots=True)
class Calls:
    """Counts of the calls of one function.

    Attributes
    ----------
    ran : calls that gpubench computed
    seconds : their total time
    engines : names of the engines that computed them
    fallback_seconds : total time of the calls that the original computed
    reasons : reason for calling the original -> how often
    """

    ran: int = 0
    seconds: float = 0.0
    engines: set[str] = field(default_factory=set)
    fallback_seconds: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)


class Report(dict[str, Calls]):
    """Counts of the calls of all patched functions in this process, by name; safe to use from several threads."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = Lock()

    def ran(self, name: str, engine: str, seconds: float, *, calls: int = 1) -> None:
        """Count a call that gpubench computed; `calls=0` adds time to one that is counted already."""
        with self._lock:
            entry = self.setdefault(name, Calls())
            entry.ran += calls
            entry.seconds += seconds
            entry.engines.add(engine)

    def fell_back(self, name: str, reason: str, seconds: float) -> None:
        """Count a call that the original computed."""
        with self._lock:
            entry = self.setdefault(name, Calls())
            entry.reasons[reason] += 1
            entry.fallback_seconds += seconds

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield the values of `COLUMNS` for each function that was called."""
        with self._lock:
            calls = dict(self)
        for name, entry in calls.items():
            times = [f"{reason} ({count} times)" if count > 1 else reason for reason, count in entry.reasons.items()]
            engines, n_fell_back = ", ".join(sorted(entry.engines)), entry.reasons.total()
            yield name, entry.ran, engines, entry.seconds, n_fell_back, entry.fallback_seconds, "; ".join(times)

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas DataFrame with one row per function that was called."""
        import pandas as pd

        return pd.DataFrame(list(self.rows()), columns=list(COLUMNS))

    def __str__(self) -> str:
        if not self:
            return "gpubench.accel: no patched function was called"
        lines = ["gpubench.accel:"]
        for name, ran, engine, seconds, fell_back, fallback_seconds, why in self.rows():
            if ran:
                lines.append(f"  {name}: {ran:,} on {engine}, {seconds:.3g} s")
            if fell_back:
                lines.append(f"  {name}: {fell_back:,} by the original, {fallback_seconds:.3g} s: {why}")
        return "\n".join(lines)

    __repr__ = __str__


class Dispatcher:
    """Decides for each patched call whether gpubench or the original computes it.

    Every call starts an engine of its own, so that threads do not share one and nothing of a call outlives it.

    Attributes
    ----------
    engine : name of the engine; None: nothing is installed, and every call goes to the original
    verbose : whether each call is logged
    report : counts of the calls
    """

    def __init__(self) -> None:
        self.engine: str | None = None
        self.verbose = False
        self.report = Report()
        self._warned: set[tuple[str, str]] = set()

    def reset(self) -> None:
        """Clear the report, and repeat warnings that were already given."""
        self.report.clear()
        self._warned.clear()

    def run(self, name: str, ours: Callable[[Start], Any], original: Callable[[], Any]) -> tuple[Any, bool]:
        """Answer a call, and return whether gpubench computed the answer.

        Parameters
        ----------
        name : of the call in the report
        ours : computes it; where gpubench does not cover the call or refuses its input (`GpubenchError`) the original
            is called, which has its own answer or its own error
        original : the call without gpubench
        """
        engine = self.engine
        if engine is None:
            return original(), False
        began = time.perf_counter()
        try:
            answer = ours(partial(get_engine, engine, exact=True))
        except GpubenchError as error:
            reason = str(error)
        else:
            seconds = time.perf_counter() - began
            self.report.ran(name, engine, seconds)
            if self.verbose:
                logger.info("%s: %s, %.3g s", name, engine, seconds)
            return answer, True
        self.warn_once(name, f"computed by the original: {reason}")
        began = time.perf_counter()
        try:
            return original(), False
        finally:
            self.report.fell_back(name, reason, time.perf_counter() - began)

    def warn_once(self, name: str, message: str) -> None:
        """Log a warning, each text once in a process."""
        if (name, message) not in self._warned:
            self._warned.add((name, message))
            logger.warning("%s: %s", name, message)

    @contextmanager
    def add_time(self, name: str) -> Iterator[None]:
        """Add the time of the block to a call that is counted already."""
        began = time.perf_counter()
        yield
        if self.engine is not None:
            self.report.ran(name, self.engine, time.perf_counter() - began, calls=0)


dispatcher = Dispatcher()
"""The dispatcher of all patches of this process."""


@dataclass(frozen=True, slots=True)
class Patch:
    """Function of another package, and its replacement.

    Attributes
    ----------
    module, attribute : where it is defined; the attribute may be a method, "Class.method", or an entry of a registry,
        "registry[key]", see `gpubench.accel.installation.registries`
    ours : takes a `Start` and the arguments of the original, by name; raises `NotCovered` where it does not cover them
    name : in the report; by default module and attribute
    """

    module: str
    attribute: str
    ours: Function
    name: str = ""

    @property
    def title(self) -> str:
        """The name in the report."""
        return self.name or f"{self.module}.{self.attribute}"

    @property
    def everywhere(self) -> bool:
        """Whether other names of the function are patched too; methods and entries of registries have none."""
        return self.attribute.isidentifier()

    def replace(self, original: Any) -> Any:
        """Make the replacement; None where the parameters of the original are not the known ones.

        It has the name, the module, the signature and the docstring of the original, so that it is pickled by
        reference: a process that unpickles it gets whatever is in the original's place there.
        """
        signature = inspect.signature(original)
        _, *known = inspect.signature(self.ours).parameters
        if set(known) != set(signature.parameters):
            return None

        @functools.wraps(original)
        def replaced(*args: Any, **kwargs: Any) -> Any:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError:
                return original(*args, **kwargs)  # raises its own error about the arguments
            bound.apply_defaults()
            ours = partial(self.ours, **{name: _by_position(value) for name, value in bound.arguments.items()})
            return dispatcher.run(self.title, ours, lambda: original(*args, **kwargs))[0]

        return replaced


def _by_position(value: Any) -> Any:
    """Return a Series or DataFrame without its index: the originals ignore it, where gpubench matches rows by it."""
    has_index = type(value).__name__ in ("Series", "DataFrame") and comes_from(value, "pandas")
    return value.reset_index(drop=True) if has_index else value


class LocalName(Patch):
    """Name in one module that is bound to what `ours` makes of the original, in that module only."""

    __slots__ = ()
    everywhere = False

    def replace(self, original: Any) -> Any:
        """Make the replacement."""
        return self.ours(original)


def check_matrix(X: Any, name: str = "X") -> None:
    """Accept dense numeric arrays only."""
    if not isinstance(X, np.ndarray) or isinstance(X, np.matrix):
        raise NotCovered(f"{name} is a {type(X).__name__}, not a NumPy array")
    if X.ndim != 2 or X.dtype.kind not in "fiu":
        raise NotCovered(f"{name} has {X.ndim} dimensions of {X.dtype}, not 2 of numbers")


def check_column(labels: Any, name: str = "labels", *, lists: bool = False) -> None:
    """Accept columns whose values have one type: gpubench compares labels as text, where 1 equals "1".

    `lists` accepts lists and tuples as well, where the original does.
    """
    import pandas as pd

    if not lists and isinstance(labels, list | tuple):
        raise NotCovered(f"{name} is a {type(labels).__name__}")
    if not isinstance(labels, np.ndarray | pd.Series | pd.Categorical | pd.Index | list | tuple):
        raise NotCovered(f"{name} is a {type(labels).__name__}, not a column")
    if (n_dims := getattr(labels, "ndim", 1)) != 1:
        raise NotCovered(f"{name} has {n_dims} dimensions")
    dtype = getattr(labels, "dtype", None)
    values = dtype.categories if isinstance(dtype, pd.CategoricalDtype) else labels
    if getattr(getattr(values, "dtype", None), "kind", "O") == "O":
        kind = pd.api.types.infer_dtype(values, skipna=False)
        if kind not in ("string", "integer", "floating", "boolean"):
            raise NotCovered(f"{name} holds values of several types ({kind})")


def is_categorical(labels: Any) -> bool:
    """Whether a column is a pandas categorical."""
    import pandas as pd

    return isinstance(getattr(labels, "dtype", None), pd.CategoricalDtype)

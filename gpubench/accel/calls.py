"""Patches of functions: gpubench computes the calls that it covers, the original function all others.

Both kinds of calls are counted and logged.
"""

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
"""Function that starts the engine for a call, as `start(seed=7)`.

`exact=False` allows approximate neighbours, for functions whose original approximates too.
"""


class NotCovered(GpubenchError):
    """Raised where gpubench does not cover a call; the original function is then called instead."""


@dataclass(slots=True)
class Calls:
    """Counts of the calls of one patched function.

    Attributes
    ----------
    ran : number of calls that gpubench computed
    seconds : total time of the calls that gpubench computed
    engines : names of the engines that computed them
    fallback_seconds : total time of the calls that the original computed
    reasons : reason for calling the original -> number of calls
    """

    ran: int = 0
    seconds: float = 0.0
    engines: set[str] = field(default_factory=set)
    fallback_seconds: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)


class Report(dict[str, Calls]):
    """Name of each patched function -> counts of its calls in this process; safe to use from several threads."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = Lock()

    def ran(self, name: str, engine: str, seconds: float, *, calls: int = 1) -> None:
        """Count a call that gpubench computed in some seconds; `calls=0` only adds seconds to an earlier call."""
        with self._lock:
            entry = self.setdefault(name, Calls())
            entry.ran += calls
            entry.seconds += seconds
            entry.engines.add(engine)

    def fell_back(self, name: str, reason: str, seconds: float) -> None:
        """Count a call that the original computed in some seconds, and the reason why gpubench did not."""
        with self._lock:
            entry = self.setdefault(name, Calls())
            entry.reasons[reason] += 1
            entry.fallback_seconds += seconds

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield a tuple for each function that was called, with a value for each of `COLUMNS`."""
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
    """Dispatch each call of a patched function to gpubench or to the original.

    Every call starts its own engine, so that threads do not share an engine and no memory is held between calls.

    Attributes
    ----------
    engine : name of the engine. If None, nothing is installed, and every call goes to the original
    verbose : whether each call is logged
    report : counts of the calls
    """

    def __init__(self) -> None:
        self.engine: str | None = None
        self.verbose = False
        self.report = Report()
        self._warned: set[tuple[str, str]] = set()

    def reset(self) -> None:
        """Clear the report, and forget which warnings were logged, so that they are logged again."""
        self.report.clear()
        self._warned.clear()

    def run(self, name: str, ours: Callable[[Start], Any], original: Callable[[], Any]) -> tuple[Any, bool]:
        """Compute a call by `ours` or, if that raises `GpubenchError`, by `original`.

        Parameters
        ----------
        name : name of the function in the report
        ours : function that computes the call on gpubench, given a `Start`
        original : function without arguments that makes the same call without gpubench

        Returns
        -------
        value, by_gpubench
            The value of the call, and whether gpubench computed it.
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
        """Log a warning about a function, unless the same text was logged before."""
        if (name, message) not in self._warned:
            self._warned.add((name, message))
            logger.warning("%s: %s", name, message)

    @contextmanager
    def add_time(self, name: str) -> Iterator[None]:
        """Add the time of a `with` block to the calls counted under a name."""
        began = time.perf_counter()
        yield
        if self.engine is not None:
            self.report.ran(name, self.engine, time.perf_counter() - began, calls=0)


dispatcher = Dispatcher()
"""The dispatcher of all patches of this process."""


@dataclass(frozen=True, slots=True)
class Patch:
    """Function of another package, and gpubench's replacement for it.

    Attributes
    ----------
    module : module that defines the original function
    attribute : name of the original in the module: a function, a method as "Class.method", or an entry of a registry as
        "registry[key]", see `gpubench.accel.installation.registries`
    ours : function that computes the same on gpubench. It takes a `Start`, then the arguments of the original by name,
        and raises `NotCovered` if gpubench does not cover these arguments
    name : name of the function in the report. If empty, "module.attribute"
    """

    module: str
    attribute: str
    ours: Function
    name: str = ""

    @property
    def title(self) -> str:
        """Name of the function in the report."""
        return self.name or f"{self.module}.{self.attribute}"

    @property
    def everywhere(self) -> bool:
        """Whether to patch the function under every name in every module, not just the attribute.

        This is False for methods and entries of registries.
        """
        return self.attribute.isidentifier()

    def replace(self, original: Any) -> Any:
        """Return the function to put in the place of the original; None if the original has unknown parameters.

        The replacement has the name, module, signature and docstring of the original and so is pickled by reference: a
        process that unpickles it gets the function that has this name there, patched or not.
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
    """Return a Series or DataFrame without its index, which the originals ignore but gpubench matches rows by."""
    has_index = type(value).__name__ in ("Series", "DataFrame") and comes_from(value, "pandas")
    return value.reset_index(drop=True) if has_index else value


class LocalName(Patch):
    """Patch of a name in a single module: the name is rebound to `ours(original)`, other modules are left alone."""

    __slots__ = ()
    everywhere = False

    def replace(self, original: Any) -> Any:
        """Return `ours(original)`."""
        return self.ours(original)


def check_matrix(X: Any, name: str = "X") -> None:
    """Raise `NotCovered` unless X is a two-dimensional NumPy array of numbers; `name` is its name in the message."""
    if not isinstance(X, np.ndarray) or isinstance(X, np.matrix):
        raise NotCovered(f"{name} is a {type(X).__name__}, not a NumPy array")
    if X.ndim != 2 or X.dtype.kind not in "fiu":
        raise NotCovered(f"{name} has {X.ndim} dimensions of {X.dtype}, not 2 of numbers")


def check_column(labels: Any, name: str = "labels", *, lists: bool = False) -> None:
    """Raise `NotCovered` unless labels are a one-dimensional column with values of one type.

    Mixed types are refused because gpubench compares labels as text, where 1 equals "1". `lists` accepts lists and
    tuples too; `name` is the column's name in the message.
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

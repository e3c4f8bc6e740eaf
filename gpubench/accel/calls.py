"""Running a patched call: on gpubench where it is covered, else on the original, and never in silence."""

from __future__ import annotations

import functools
import inspect
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from gpubench.accel.report import Report
from gpubench.core.errors import GpubenchError
from gpubench.engines import get_engine

if TYPE_CHECKING:
    from gpubench.engines.base import Engine

logger = logging.getLogger("gpubench.accel")
report = Report()

Function = Callable[..., Any]


class Start(Protocol):
    """Starts the engine of a call: `start(seed=7)`."""

    def __call__(self, *, seed: int = 42, exact: bool = True) -> Engine:
        """Start it; `exact=False` where the original is approximate too, so that many cells may be."""


@dataclass(frozen=True, slots=True)
class Session:
    """What `install` was told.

    Attributes
    ----------
    engine : name of the engine that every call starts; an engine of its own, so that threads do not share one and
        nothing of a call is held after it
    verbose : whether each call is logged
    """

    engine: str
    verbose: bool

    def start(self, *, seed: int = 42, exact: bool = True) -> Engine:
        """See `Start`."""
        return get_engine(self.engine, seed=seed, exact=exact)


class _State:
    """The session that is installed, None where there is none, and what was said already."""

    session: Session | None = None
    told: set[tuple[str, str]] = set()  # noqa: RUF012 - one for the process


def new_session(engine: str, *, verbose: bool) -> Session:
    """Make a session.

    Raises
    ------
    InputError, EngineUnavailable
        As `get_engine`.
    """
    return Session(get_engine(engine).name, verbose)


def begin(session: Session) -> None:
    """Let a session answer calls."""
    _State.session = session
    if session.verbose:
        logger.setLevel(logging.INFO)
        if not logger.hasHandlers():
            logger.addHandler(logging.StreamHandler())


def end() -> None:
    """End the session: replacements that are still held somewhere go to the original."""
    _State.session = None


def run(
    name: str, covers: Callable[[], str | None], ours: Callable[[Start], Any], original: Callable[[], Any]
) -> tuple[Any, bool]:
    """Answer a call.

    Parameters
    ----------
    name : of the call in the report
    covers : says why gpubench does not cover it, or None
    ours : computes it; where gpubench refuses its input (`GpubenchError`) the original is asked, which has its own
        answer or its own error
    original : the call as it was

    Returns
    -------
    The answer, and whether it is ours.
    """
    session = _State.session
    if session is None:
        return original(), False
    began = time.perf_counter()
    reason = covers()
    if reason is None:
        try:
            answer = ours(session.start)
        except GpubenchError as error:
            reason = str(error)
        else:
            seconds = time.perf_counter() - began
            report.ran(name, session.engine, seconds)
            if session.verbose:
                logger.info("%s: %s, %.3g s", name, session.engine, seconds)
            return answer, True
    tell(name, f"computed by the original: {reason}")
    began = time.perf_counter()
    try:
        return original(), False
    finally:
        report.fell_back(name, reason, time.perf_counter() - began)


def tell(name: str, what: str) -> None:
    """Log a warning once."""
    if (name, what) not in _State.told:
        _State.told.add((name, what))
        logger.warning("%s: %s", name, what)


@contextmanager
def more_of(name: str) -> Iterator[None]:
    """Add the time of what runs inside to a call that is counted already."""
    began = time.perf_counter()
    yield
    if _State.session is not None:
        report.ran(name, _State.session.engine, time.perf_counter() - began, calls=0)


def stand_in(name: str, original: Function, ours: Function, covers: Function) -> Function:
    """Make the function that takes the place of another.

    It has the name, the module, the signature and the docstring of the original, so that it is pickled by reference: a
    process that loads it gets what stands in its place there.

    Parameters
    ----------
    name : of the call in the report
    original : what is replaced
    ours : takes a `Start` and the arguments of the original, by name
    covers : takes the arguments of the original; says why `ours` does not cover them, or None
    """
    signature = inspect.signature(original)

    @functools.wraps(original)
    def replacement(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return original(*args, **kwargs)  # which says in its own words what is wrong with the arguments
        bound.apply_defaults()
        given = bound.arguments
        return run(
            name,
            lambda: covers(**given),
            lambda start: ours(start, **given),
            lambda: original(*args, **kwargs),
        )[0]

    return replacement


def same_parameters(original: Function, ours: Function) -> bool:
    """Whether `ours` takes the parameters of the original, in any order, after its `Start`."""
    return set(inspect.signature(original).parameters) == set(list(inspect.signature(ours).parameters)[1:])

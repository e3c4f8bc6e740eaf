"""Run a patched call on gpubench where it is covered, else by the original, and count and log which of them it was."""

from __future__ import annotations

import functools
import inspect
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from gpubench.accel.report import Report
from gpubench.core.errors import GpubenchError
from gpubench.engines import get_engine

if TYPE_CHECKING:
    from gpubench.engines.base import Engine

logger = logging.getLogger("gpubench.accel")

Function: TypeAlias = Callable[..., Any]

Start: TypeAlias = Callable[..., "Engine"]
"""Starts the engine of a call: `start(seed=7)`; `exact=False` allows approximation, where the original approximates."""


class Installed(Protocol):
    """Installation of patches, see `gpubench.accel.installation.Installation`."""

    targets: list[str]
    engine: str
    verbose: bool

    def remove(self) -> None:
        """Restore all originals."""


class Dispatcher:
    """Decides for each patched call whether gpubench or the original computes it.

    Every call starts an engine of its own, so that threads do not share one and nothing of a call outlives it.

    Attributes
    ----------
    installation : the patches that are in place; without them every call goes to the original
    report : counts of the calls
    """

    def __init__(self) -> None:
        self.installation: Installed | None = None
        self.report = Report()
        self._warned: set[tuple[str, str]] = set()

    def reset(self) -> None:
        """Clear the report, and repeat warnings that were already given."""
        self.report.clear()
        self._warned.clear()

    def run(
        self, name: str, covers: Callable[[], str | None], ours: Callable[[Start], Any], original: Callable[[], Any]
    ) -> tuple[Any, bool]:
        """Answer a call.

        Parameters
        ----------
        name : of the call in the report
        covers : returns why gpubench does not cover the call, or None
        ours : computes it; where gpubench refuses its input (`GpubenchError`) the original is called, which has its own
            answer or its own error
        original : the call without gpubench

        Returns
        -------
        The answer, and whether gpubench computed it.
        """
        installation = self.installation
        if installation is None:
            return original(), False
        began = time.perf_counter()
        reason = covers()
        if reason is None:
            try:
                answer = ours(partial(get_engine, installation.engine, exact=True))
            except GpubenchError as error:
                reason = str(error)
            else:
                seconds = time.perf_counter() - began
                self.report.ran(name, installation.engine, seconds)
                if installation.verbose:
                    logger.info("%s: %s, %.3g s", name, installation.engine, seconds)
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
        if self.installation is not None:
            self.report.ran(name, self.installation.engine, time.perf_counter() - began, calls=0)

    def replacement(self, name: str, original: Function, ours: Function, covers: Function) -> Function:
        """Make the function that replaces another.

        It has the name, the module, the signature and the docstring of the original, so that it is pickled by
        reference: a process that unpickles it gets whatever is in the original's place there.

        Parameters
        ----------
        name : of the call in the report
        original : the function to replace
        ours : takes a `Start` and the arguments of the original, by name
        covers : takes some of the arguments of the original, by name; returns why `ours` does not cover them, or None
        """
        signature = inspect.signature(original)
        checked = list(inspect.signature(covers).parameters)

        @functools.wraps(original)
        def replaced(*args: Any, **kwargs: Any) -> Any:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError:
                return original(*args, **kwargs)  # raises its own error about the arguments
            bound.apply_defaults()
            given = bound.arguments
            return self.run(
                name,
                lambda: covers(**{argument: given[argument] for argument in checked}),
                lambda start: ours(start, **given),
                lambda: original(*args, **kwargs),
            )[0]

        return replaced


dispatcher = Dispatcher()
"""The dispatcher of all patches of this process."""


def same_parameters(original: Function, ours: Function) -> bool:
    """Whether `ours` takes the parameters of the original, in any order, after its `Start`."""
    return set(inspect.signature(original).parameters) == set(list(inspect.signature(ours).parameters)[1:])

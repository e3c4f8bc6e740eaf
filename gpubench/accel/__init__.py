"""Drop-in: code written for czbenchmarks, scib_metrics or sklearn.metrics runs on gpubench, unchanged.

>>> import gpubench.accel
>>> gpubench.accel.install()  # doctest: +SKIP

From then on gpubench answers the functions in the tables of `PATCHES`. What it does not cover goes to
the original, with the reason logged once and counted in `report()`. `python -m gpubench.accel script.py` does the
same for a script, `%load_ext gpubench.accel` in a notebook, `pytest -p gpubench.accel.pytest_plugin` for a test suite.

A patch holds for the process that installed it, and for processes forked from it. Patched functions are pickled by
reference, so a worker that starts afresh (spawn, joblib's loky) computes with the originals: the numbers as without
gpubench. Call `install()` in the worker to speed it up as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from gpubench.accel import calls
from gpubench.accel.installation import Installation
from gpubench.accel.report import Report

__all__ = ["accelerated", "install", "report", "uninstall"]

_installed: list[Installation] = []
"""The one that is in place, if any."""


def install(targets: Iterable[str] | None = None, engine: str = "auto", verbose: bool = False) -> None:
    """Patch packages, those that are imported and those that will be; again: with other options.

    Nothing is imported for it. Names that were imported before, as by `from scib_metrics import silhouette_label`, are
    patched too; of references that cannot be (in lists, partials, closures) a warning tells.

    Parameters
    ----------
    targets : "czbenchmarks", "scib_metrics", "sklearn"; None: all of them
    engine : "auto" (the best that works here), "cpu" or "cuda"
    verbose : log each call

    Raises
    ------
    InputError
        An unknown target or engine.
    EngineUnavailable
        The named engine cannot start here.
    """
    installation = Installation(targets, engine, verbose=verbose)
    session = calls.new_session(engine, verbose=verbose)
    uninstall()
    calls.begin(session)
    installation.put_in_place()
    _installed.append(installation)


def uninstall() -> None:
    """Take all patches out; nothing happens where there are none."""
    while _installed:
        _installed.pop().take_out()
    calls.end()


@contextmanager
def accelerated(
    targets: Iterable[str] | None = None, engine: str = "auto", *, verbose: bool = False
) -> Iterator[Report]:
    """Install for the length of a block; then what was installed before is in place again. Yields the report."""
    before = list(_installed)
    install(targets, engine, verbose)
    try:
        yield calls.report
    finally:
        uninstall()
        for installation in before:
            install(installation.targets, installation.engine, installation.verbose)


def report() -> Report:
    """Return what became of the patched calls so far, over all installs of this process; print it to read it."""
    return calls.report


def load_ipython_extension(_: Any) -> None:
    """Install, on `%load_ext gpubench.accel`."""
    install()


def unload_ipython_extension(_: Any) -> None:
    """Uninstall, on `%unload_ext gpubench.accel`."""
    uninstall()

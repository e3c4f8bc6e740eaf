"""Run code written for czbenchmarks, scib_metrics, sklearn.metrics, cell_eval or cell_eval2 on gpubench, unchanged.

>>> import gpubench.accel
>>> gpubench.accel.install(engine="cpu")

From then on gpubench computes the functions listed in the `PATCHES` of its modules. Calls that it does not cover go to
the original; the reason is logged once and counted in `report()`. `python -m gpubench.accel script.py` does the same
for a script, `%load_ext gpubench.accel` in a notebook, `pytest -p gpubench.accel.pytest_plugin` for a test suite.

>>> gpubench.accel.uninstall()

A patch applies to the process that installed it, and to processes forked from it. Patched functions are pickled by
reference, so a worker in a new process (spawn, joblib's loky) computes with the originals, and returns the numbers that
it returns without gpubench. Call `install()` in the worker to speed it up as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from gpubench.accel.calls import Report, dispatcher
from gpubench.accel.installation import Installation

__all__ = ["accelerated", "install", "report", "uninstall"]


def install(targets: Iterable[str] | None = None, engine: str = "auto", verbose: bool = False) -> None:
    """Replace functions of other packages by gpubench's, in modules imported already and in those imported later.

    The packages themselves are not imported. Names imported earlier, as by `from scib_metrics import silhouette_label`,
    are patched too; a warning names references that cannot be patched (in lists, partials, closures). A second call
    replaces the targets and options of the first.

    Parameters
    ----------
    targets : names of the packages to patch: "czbenchmarks", "scib_metrics", "sklearn", "cell_eval" or "cell_eval2". If
        None, patch all of them
    engine : "auto" (the fastest engine that works on this machine), "cpu" or "cuda"
    verbose : whether to log every call of a patched function

    Raises
    ------
    InputError
        If a target or the engine is unknown.
    EngineUnavailable
        If the engine cannot start on this machine.

    Examples
    --------
    >>> import gpubench.accel
    >>> gpubench.accel.install("sklearn", engine="cpu")
    >>> from sklearn.metrics import silhouette_score
    >>> round(silhouette_score([[0.0], [1.0], [5.0], [6.0]], [0, 0, 1, 1]), 3)
    0.798
    >>> gpubench.accel.report()["sklearn.metrics.silhouette_samples"].engines
    {'cpu'}
    >>> gpubench.accel.uninstall()
    """
    installation = Installation(targets, engine, verbose=verbose)
    uninstall()
    installation.apply()


def uninstall() -> None:
    """Restore the original functions; do nothing if no patches are installed."""
    if Installation.current is not None:
        Installation.current.remove()


@contextmanager
def accelerated(
    targets: Iterable[str] | None = None, engine: str = "auto", *, verbose: bool = False
) -> Iterator[Report]:
    """Install patches for the duration of a `with` block, then restore the patches that were installed before.

    Parameters
    ----------
    targets, engine, verbose : see `install`

    Yields
    ------
    Report
        Counts of all calls in this process, updated during the block; see `report`.

    Examples
    --------
    >>> from gpubench.accel import accelerated
    >>> with accelerated("sklearn", engine="cpu") as report:
    ...     from sklearn.metrics import silhouette_score
    ...
    ...     score = silhouette_score([[0.0], [1.0], [5.0], [6.0]], [0, 0, 1, 1])
    >>> "sklearn.metrics.silhouette_samples" in report
    True
    """
    before = Installation.current
    install(targets, engine, verbose)
    try:
        yield dispatcher.report
    finally:
        uninstall()
        if before is not None:
            install(before.targets, before.engine, before.verbose)


def report() -> Report:
    """Return how often each patched function ran on gpubench or fell back to the original, and why it fell back.

    It counts all calls in this process. Print it to read it; its method `to_frame()` returns a pandas DataFrame.
    """
    return dispatcher.report


def load_ipython_extension(_: Any) -> None:
    """Install all patches when IPython runs `%load_ext gpubench.accel`."""
    install()


def unload_ipython_extension(_: Any) -> None:
    """Remove all patches when IPython runs `%unload_ext gpubench.accel`."""
    uninstall()

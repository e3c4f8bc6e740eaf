"""Profile the tasks at growing sizes, each size in a fresh process, so that a failure does not lose finished sizes."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpubench.core.errors import InputError, close_matches
from gpubench.core.machine import lacked_memory, why_ended
from gpubench.profiling.profile import Failure, Limits, Profile, Run, stages_of
from gpubench.tasks import TASKS

if TYPE_CHECKING:
    from gpubench.core.timeline import Listener

CELLS = (10_000, 30_000, 100_000)
DIMS = (50,)

DEFAULT_TASKS = ("clustering", "embedding", "batch_integration", "sequential_organization")
"""Tasks without classifiers: random forests on a million cells take hours, in which other stages would disappear."""

CHILD = (sys.executable, "-m", "gpubench.profiling.child")

MIN_CELLS = 200
"""Minimum number of cells: with fewer, some labels would have no cells."""


def profile(
    cells: Sequence[int] = CELLS,
    dims: Sequence[int] = DIMS,
    *,
    tasks: Sequence[str] = DEFAULT_TASKS,
    engine: str = "auto",
    seed: int = 42,
    threads: int | None = None,
    memory: int | None = None,
    knn: str = "auto",
    options: Mapping[str, Any] | None = None,
    listener: Listener | None = None,
    keep: Callable[[Profile], None] | None = None,
) -> Profile:
    """Measure time and memory of every stage on synthetic cells of several sizes.

    Sizes run from the smallest to the largest, each in a fresh process.

    Parameters
    ----------
    cells, dims : numbers of cells and numbers of dimensions; every combination is run
    tasks : ids of the tasks to run; tasks that need predictions cannot be profiled
    engine, seed, threads, memory, knn : as in `gpubench.score`
    options : parameters of the tasks, see `gpubench.tasks.Options`
    listener : receives the size that is running, and its stages
    keep : function called after each size with the profile of all sizes so far

    Returns
    -------
    Profile
        The stages of every size, and the sizes that failed. After Ctrl-C, the profile of the sizes finished so far.

    Raises
    ------
    InputError
        If a size or a task cannot be profiled, or the engine cannot start.
    KeyboardInterrupt
        If Ctrl-C is pressed before the limits of the machine are measured.
    """
    sizes = _sizes(cells, dims)
    _check_tasks(tasks)
    settings: dict[str, Any] = {
        "engine": {"name": engine, "seed": seed, "threads": threads, "memory_bytes": memory, "knn": knn},
        "tasks": list(tasks),
        "options": dict(options or {}),
    }
    asked = {"cells": sorted(set(cells)), "dims": sorted(set(dims)), "tasks": list(tasks), **settings["options"]}
    measured = _answer("limits", {"engine": settings["engine"], "asked": asked}, _report_to(listener, "machine limits"))
    if "error" in measured:
        raise InputError(measured["error"])
    done = Profile(Limits(**measured["limits"]), measured["provenance"])
    for n, d in sizes:
        try:
            request = {"cells": n, "dims": d, **settings}
            answer = _answer("score_cells", request, _report_to(listener, f"{n:,} x {d}"))
        except KeyboardInterrupt:
            return replace(done, interrupted=True)
        if "error" in answer:
            done = replace(done, failures=(*done.failures, Failure(n, d, answer["error"])))
        else:
            run = Run(n, d, stages=stages_of(answer.pop("timeline")), **answer)
            done = replace(done, runs=(*done.runs, run))
        if keep is not None:
            keep(done)
    return done


def _sizes(cells: Sequence[int], dims: Sequence[int]) -> list[tuple[int, int]]:
    """Return all pairs of numbers of cells and dimensions, the smallest matrix first."""
    for name, values, least in (("cells", cells, MIN_CELLS), ("dims", dims, 1)):
        bad = [value for value in values if value < least]
        if bad or not values:
            raise InputError(
                f"{name}={list(values)} cannot be profiled; give numbers of at least {least}", argument=name
            )
    return sorted({(n, d) for n in cells for d in dims}, key=lambda size: (size[0] * size[1], size))


def _check_tasks(tasks: Sequence[str]) -> None:
    known = [task.id for task in TASKS.values() if "predictions" not in task.needs]
    for task in tasks:
        if task not in known:
            raise InputError(f"task {task!r} cannot be profiled{close_matches(task, known)}; use one that can")


def _report_to(listener: Listener | None, what: str) -> Callable[[str], None]:
    """Return a function that reports a child process's stage to the listener, as the stage "what/stage"."""
    if listener is None:
        return lambda _: None
    listener.started(what)
    return lambda stage: listener.started(f"{what}/{stage}")


def _answer(what: str, request: Mapping[str, Any], report: Callable[[str], None]) -> dict[str, Any]:
    """Run a request in a fresh process and return its answer, which is {"error": message} if the process fails."""
    with tempfile.TemporaryDirectory(prefix="gpubench-") as folder, tempfile.TemporaryFile("w+") as stderr:
        answer = Path(folder, "answer.json")
        command = [*CHILD, json.dumps({what: request}), str(answer)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    report(line.strip())
                process.wait()
            finally:
                if process.poll() is None:  # Ctrl-C, or the listener has failed
                    process.kill()
        if answer.exists():
            return dict(json.loads(answer.read_text(encoding="utf-8")))
        stderr.seek(0)
        text = stderr.read()
        remedy = "; use fewer cells" if lacked_memory(process.returncode, text) else ""
        return {"error": f"the process {why_ended(process.returncode, text)}{remedy}"}

"""Code that runs in a fresh process: it measures the limits of the machine, or scores synthetic cells.

    python -m gpubench.profiling.child REQUEST ANSWER

REQUEST is JSON: {"limits": arguments} or {"score_cells": arguments}. The answer is written as JSON to the file ANSWER.
Each line on standard output names a stage that begins.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpubench.core import scores
from gpubench.core.errors import GpubenchError, message_of
from gpubench.core.machine import usable_cores
from gpubench.core.timeline import Timeline
from gpubench.engines import get_engine
from gpubench.engines.base import Engine
from gpubench.profiling.limits import measure_limits
from gpubench.profiling.profile import EMBEDDING
from gpubench.profiling.synthetic import Cells, make
from gpubench.results.result import Result
from gpubench.running import score
from gpubench.running.provenance import provenance

WARM_UP_CELLS = 600
"""Enough cells of every label for every fold; takes a second or two, most of it imports."""


def main(request: str, answer: str) -> int:
    """Run the request and return the exit code."""
    functions: dict[str, Callable[..., dict[str, Any]]] = {"limits": limits, "score_cells": score_cells}
    ((name, arguments),) = json.loads(request).items()
    try:
        content = functions[name](**arguments)
    except (GpubenchError, MemoryError) as error:
        content = {"error": message_of(error)}
    except KeyboardInterrupt:  # reported by the process that started this one
        return 130
    Path(answer).write_text(json.dumps(content), encoding="utf-8")
    return 0


def limits(engine: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Measure and describe the machine; `asked` are the user's options, for the provenance."""
    started = get_engine(**engine)
    measured = measure_limits(started, engine["threads"] or usable_cores())
    return {"limits": asdict(measured), "provenance": provenance(started, options=asked)}


def score_cells(
    cells: int, dims: int, tasks: Sequence[str], engine: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Score synthetic cells, after a warm-up on few cells that imports every package."""
    few = _score(make(WARM_UP_CELLS, dims), tasks, options, get_engine(**engine))
    many = _score(make(cells, dims), tasks, options, get_engine(**engine, timeline=Timeline(Announcer())))
    if few.interrupted or many.interrupted:
        raise KeyboardInterrupt
    return {
        "warm_up_s": sum(stage["seconds"] for stage in few.timeline if "/" not in stage["path"]),
        "base_bytes": max((stage["peak_bytes"] or 0 for stage in few.timeline), default=0),
        "timeline": many.timeline,
        "scores": [
            {"task": row.task, "metric": row.metric, "value": scores.plain(row.value)}
            for row in many.results
            if row.aggregate or "classifier" not in row.params
        ],
        "failures": [f"{failure['task']}: {failure['error']}" for failure in many.failures],
        "notes": many.provenance["engine"]["notes"],
    }


def _score(cells: Cells, tasks: Sequence[str], options: Mapping[str, Any], engine: Engine) -> Result:
    """Score one embedding; even and odd batches are two species."""
    return score.score(
        {EMBEDDING: cells.x},
        label=cells.label,
        batch=cells.batch,
        time=cells.time,
        species=cells.batch % 2,
        tasks=tasks,
        engine=engine,
        **options,
    )


class Announcer:
    """`Listener` that prints each stage as it begins."""

    def started(self, path: str) -> None:
        """See `gpubench.core.timeline.Listener.started`."""
        sys.stdout.write(f"{path}\n")
        sys.stdout.flush()

    def advanced(self, path: str, done: int, total: int) -> None:
        """See `gpubench.core.timeline.Listener.advanced`."""

    def ended(self, path: str, seconds: float) -> None:
        """See `gpubench.core.timeline.Listener.ended`."""


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))

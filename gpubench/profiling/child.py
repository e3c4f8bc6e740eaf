"""What runs in a fresh process: the limits of the machine, or the suite on so many cells.

    python -m gpubench.profiling.child REQUEST ANSWER

REQUEST is JSON: the arguments of `limits` or of `score_cells`, under that name. The answer is written as JSON to the
file ANSWER. Lines on standard output name the stage that begins.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
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
"""Enough for every label to have cells in every fold; a second or two, most of it imports."""


def main(request: str, answer: str) -> int:
    """Do what is asked for; returns the exit code."""
    asked = json.loads(request)
    try:
        content = limits(**asked["limits"]) if "limits" in asked else score_cells(**asked["score_cells"])
    except (GpubenchError, MemoryError) as error:
        content = {"error": message_of(error)}
    except KeyboardInterrupt:  # the process that started this one says so
        return 130
    Path(answer).write_text(json.dumps(content), encoding="utf-8")
    return 0


def limits(engine: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Measure the machine, and describe it; `asked` is what the user chose."""
    started = get_engine(**engine)
    measured = measure_limits(started, engine["threads"] or usable_cores())
    return {"limits": asdict(measured), "provenance": provenance(started, options=asked)}


def score_cells(
    cells: int, dims: int, tasks: Sequence[str], engine: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Score synthetic cells, after a few others that bring in every package; their time is not that of the stages."""
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
    """Score one embedding; half of the batches are one species, half another."""
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
    """A `Listener` that names each stage as it begins."""

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

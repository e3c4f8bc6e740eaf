"""Program for a fresh process that measures the limits of the machine, or scores synthetic cells.

    python -m gpubench.profiling.child REQUEST ANSWER

REQUEST is JSON, {"limits": arguments} or {"score_cells": arguments}, with the arguments of the function of that name.
ANSWER is the file to which what the function returns is written, as JSON. Each line on standard output names a stage
that begins.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from gpubench.core import scores
from gpubench.core.errors import GpubenchError, message_of
from gpubench.core.machine import usable_cores
from gpubench.core.timeline import Timeline
from gpubench.engines import get_engine
from gpubench.engines.base import Engine
from gpubench.engines.common import flop_counts
from gpubench.profiling.profile import EMBEDDING, Limits
from gpubench.profiling.synthetic import Cells, make
from gpubench.results.result import Result
from gpubench.running import score
from gpubench.running.provenance import provenance

WARM_UP_CELLS = 600
"""Cells of the warm-up: enough for every fold to have every label; it takes a second or two, mostly imports."""

SECONDS = 0.4
"""Seconds for which each of the three measurements is repeated; the fastest repeat counts."""

EDGES = (1024, 2048, 4096, 8192)
LONG_ENOUGH_S = 0.05
"""Matrices are enlarged until a product takes this long, because small products do not use the whole machine."""

DISTANCES = 4096, 512
"""Numbers of cells and dimensions for measuring the rate of distances."""

COPY_BYTES = 1 << 28
"""Size of the copied array, larger than any cache."""


def main(request: str, answer: str) -> int:
    """Call the function that `request` names (see the module) and return the exit code of the process.

    What the function returns is written as JSON to the file `answer`.
    """
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
    """Measure the limits of an engine, and describe the machine.

    Parameters
    ----------
    engine : arguments of `gpubench.get_engine`
    asked : options of the user, to be recorded in the provenance

    Returns
    -------
    dict
        "limits", the fields of `Limits`, and "provenance".
    """
    started = get_engine(**engine)
    measured = measure_limits(started, engine["threads"] or usable_cores())
    return {"limits": asdict(measured), "provenance": provenance(started, options=asked)}


def score_cells(
    cells: int, dims: int, tasks: Sequence[str], engine: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Score synthetic cells, after a warm-up on a few cells that imports all packages.

    Parameters
    ----------
    cells, dims : numbers of cells and dimensions
    tasks : ids of the tasks
    engine : arguments of `gpubench.get_engine`
    options : further arguments of `gpubench.score`

    Returns
    -------
    dict
        "timeline", and the fields of `Run` except its size and stages.
    """
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
    """Score the cells as one embedding; batches with even and with odd codes are the two species."""
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
    """`Listener` that prints the path of each stage when it begins."""

    def started(self, path: str) -> None:
        """See `gpubench.core.timeline.Listener.started`."""
        sys.stdout.write(f"{path}\n")
        sys.stdout.flush()

    def advanced(self, path: str, done: int, total: int) -> None:
        """See `gpubench.core.timeline.Listener.advanced`."""

    def ended(self, path: str, seconds: float) -> None:
        """See `gpubench.core.timeline.Listener.ended`."""


def measure_limits(engine: Engine, n_threads: int) -> Limits:
    """Measure the rates of matrix products, distances and copies in about two seconds.

    `n_threads` is the number of CPU threads for products and copies.
    """
    begin = time.perf_counter()
    rates = _product_rate(engine, n_threads), _distance_rate(engine), _copy_rate(engine, n_threads)
    return Limits(*rates, time.perf_counter() - begin)


def _product_rate(engine: Engine, n_threads: int) -> float:
    xp = engine.xp

    def multiply() -> None:
        engine.to_host((left @ right)[:1])  # waits until a device is done

    with threadpool_limits(n_threads, user_api="blas"):
        for edge in EDGES:
            left, right = (xp.full((edge, edge), value, np.float32) for value in (1.0, 0.5))
            if _fastest(multiply, 0) >= LONG_ENOUGH_S:
                break
        return 2 * edge**3 / _fastest(multiply, SECONDS)


def _distance_rate(engine: Engine) -> float:
    n, d = DISTANCES
    x = engine.put(np.random.default_rng(0).random((n, d), np.float32))
    clusters = np.arange(n, dtype=np.int32) % 2
    return flop_counts.silhouettes([(n, 2)], d).flop / _fastest(lambda: engine.cluster_distances(x, clusters), SECONDS)


def _copy_rate(engine: Engine, n_threads: int) -> float:
    xp = engine.xp
    size = min(COPY_BYTES, engine.memory_bytes // 4) // 4 * 4
    source, target = (xp.full(size // 4, value, np.float32) for value in (1.0, 0.0))
    # a CPU needs several cores to saturate its memory, a GPU one call
    edges = np.linspace(0, len(source), (n_threads if xp is np else 1) + 1).astype(int)
    pieces = [slice(start, stop) for start, stop in pairwise(edges.tolist())]
    with ThreadPoolExecutor(len(pieces), initializer=engine.timeline.thread_setup()) as pool:

        def copy() -> None:
            list(pool.map(lambda piece: xp.copyto(target[piece], source[piece]), pieces))
            engine.to_host(target[-1:])

        return 2 * size / _fastest(copy, SECONDS)


def _fastest(call: Callable[[], object], seconds: float) -> float:
    """Call a function once, then repeatedly for some seconds; return the shortest duration of the repeats."""
    call()
    end, best = time.perf_counter() + seconds, math.inf
    while best == math.inf or time.perf_counter() < end:
        begin = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - begin)
    return best


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))

"""The Dask engine on workers of this machine: speed, what crosses to the client, and what kills leave behind.

    python benchmarks/cluster.py speed --n 100000 --repeats 3
    python benchmarks/cluster.py bytes --n 1000000
    python benchmarks/cluster.py kills --n 200000 --kills 10
    python benchmarks/cluster.py speed --n 20000 --repeats 1 --out /tmp/try

Writes results/cluster.json, one entry for each of the three. Speed compares 2 workers of one thread with 1 worker and
with the CPU engine on 2 threads, in turn; processor time tells the overhead where the machine is not idle.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import measure
import numpy as np

import gpubench as gb
from gpubench.core import machine
from gpubench.engines import get_engine
from gpubench.metrics.silhouette import silhouette_widths
from gpubench.profiling.synthetic import make

D, K, N_LABELS, N_BATCHES = 50, 15, 30, 8
PACKAGES = ("gpubench", "numpy", "dask", "distributed")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure one of the three; 1 if its goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "bytes", "kills"))
    parser.add_argument("--n", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=measure.HERE / "results")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        cells = make(given.n, D, n_labels=N_LABELS, n_batches=N_BATCHES, seed=given.seed)
        np.save(Path(folder) / "cells.npy", cells.x)
        measured = {"speed": speed, "bytes": crossing, "kills": kills}[given.what](given, cells, folder)
    measured |= {"n": given.n, "d": D, "date": datetime.now(UTC).isoformat(timespec="seconds")}
    measured |= {"machine": measure.machine_facts()}
    measured |= {"versions": {name: machine.package_version(name) for name in PACKAGES}}
    path = given.out / "cluster.json"
    rows = json.loads(path.read_text()) if path.exists() else {}
    given.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows | {given.what: measured}, indent=2) + "\n")
    print(json.dumps(measured, indent=2))
    return 0 if measured["holds"] else 1


def speed(given: argparse.Namespace, cells: Any, folder: str) -> dict[str, Any]:
    """Neighbours and silhouettes on 1 and 2 workers, and on the CPU engine with 2 threads; medians of runs in turn."""
    engines = {
        "cpu_2": get_engine("cpu", threads=2),
        "workers_1": get_engine("dask", cluster=1),
        "workers_2": get_engine("dask", cluster=2),
    }
    x = {name: engine.put(np.load(f"{folder}/cells.npy", mmap_mode="r")) for name, engine in engines.items()}
    operations: dict[str, Callable[[Any, Any], Any]] = {
        "knn": lambda engine, x: engine.knn(x, K),
        "silhouette": lambda engine, x: silhouette_widths(engine, x, cells.label),
    }
    runs: dict[str, dict[str, list[dict[str, float]]]] = {}
    for _ in range(given.repeats):
        for operation, compute in operations.items():
            for name, engine in engines.items():
                run = timed(engine, lambda engine=engine, compute=compute, name=name: compute(engine, x[name]))
                runs.setdefault(operation, {}).setdefault(name, []).append(run)
    summary = {operation: _summary(by_engine) for operation, by_engine in runs.items()}
    holds = all(s["speed_up"] >= 1.7 and s["overhead"] < 0.2 for s in summary.values())
    return {"summary": summary, "runs": runs, "holds": holds}


def _summary(by_engine: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    def median(name: str, what: str) -> float:
        return statistics.median(run[what] for run in by_engine[name])

    return {
        "speed_up": median("workers_1", "wall_s") / median("workers_2", "wall_s"),
        "overhead": median("workers_2", "wall_s") / median("cpu_2", "wall_s") - 1,
        "overhead_of_processor_time": median("workers_2", "processor_s") / median("cpu_2", "processor_s") - 1,
    }


def timed(engine: Any, compute: Callable[[], object]) -> dict[str, float]:
    """Seconds on the clock, and of processors: of this process and of the workers."""
    before, begin = _processor_s(engine), time.perf_counter()
    compute()
    wall_s = time.perf_counter() - begin
    return {"wall_s": wall_s, "processor_s": _processor_s(engine) - before}


def _processor_s(engine: Any) -> float:
    worker_s = sum(engine.cluster.run_on_all(time.process_time).values()) if engine.name == "dask" else 0.0
    return time.process_time() + worker_s


BYTES_PER_CELL = 32
"""Float64 values of each cell in `crossing`: two distances of a silhouette, an entropy, and a distance in time."""


def crossing(given: argparse.Namespace, cells: Any, folder: str) -> dict[str, Any]:
    """Count the bytes that the process of the client and the scheduler reads from its connections during a run.

    Values of cells come to the client; neither the embedding does, nor the table of neighbours.
    """
    with counted_bytes() as counted:
        engine = get_engine("dask", cluster=2)
        begin = time.perf_counter()
        path = f"{folder}/cells.npy"
        batches = {"label": cells.label.astype(str), "batch": cells.batch.astype(str)}
        result = gb.score(path, tasks=["batch_integration"], engine=engine, **batches)
        gb.metrics.sequential_alignment(np.load(path, mmap_mode="r"), cells.time, k=K, engine=engine)
        seconds = time.perf_counter() - begin
    embedding, values = 4 * given.n * D, BYTES_PER_CELL * given.n
    return {
        "seconds": seconds,
        "embedding_bytes": embedding,
        "values_of_cells_bytes": values,
        "received_bytes": counted[0],
        "received_beyond_values_bytes": counted[0] - values,
        "share_beyond_values": (counted[0] - values) / embedding,
        "failures": result.failures,
        "holds": counted[0] - values < 0.03 * embedding and not result.failures,
    }


@contextmanager
def counted_bytes() -> Iterator[list[int]]:
    """Count what Dask reads from connections in this process, in which the scheduler runs as well."""
    from distributed.comm import tcp

    counted, read = [0], tcp.read_bytes_rw

    async def counting(stream: Any, n: int) -> memoryview:
        counted[0] += n
        return await read(stream, n)

    tcp.read_bytes_rw = counting
    try:
        yield counted
    finally:
        tcp.read_bytes_rw = read


def kills(given: argparse.Namespace, cells: Any, folder: str) -> dict[str, Any]:
    """A run whose workers are killed at random moments, against one on the CPU engine."""
    options = {
        "label": cells.label.astype(str),
        "batch": cells.batch.astype(str),
        "time": cells.time,
        "tasks": ["embedding", "batch_integration", "sequential_organization"],
    }
    path = f"{folder}/cells.npy"
    begin = time.perf_counter()
    expected = gb.score(path, engine="cpu", **options)
    cpu_s = time.perf_counter() - begin
    engine: Any = get_engine("dask", cluster=2)
    rng, stop, at = np.random.default_rng(given.seed), threading.Event(), []

    def kill() -> None:
        for _ in range(given.kills):
            if stop.wait(rng.uniform(0.5, 2.0) * cpu_s / given.kills):
                return
            pids = list(engine.cluster.run_on_all(os.getpid).values())
            if pids:
                os.kill(int(rng.choice(pids)), signal.SIGKILL)
                at.append(time.perf_counter() - begin)

    begin = time.perf_counter()
    killer = threading.Thread(target=kill)
    killer.start()
    found = gb.score(path, engine=engine, **options)
    stop.set()
    killer.join()
    same = [a.value == b.value for a, b in zip(expected.results, found.results, strict=True)]
    for column in expected.cells.columns:
        own = found.cells.find(column.metric, task=column.task)
        same.append(np.array_equal(column.values, own.values, equal_nan=True))
    return {
        "seconds": time.perf_counter() - begin,
        "cpu_engine_s": cpu_s,
        "killed_at_s": at,
        "same_bits": same,
        "failures": found.failures,
        "holds": all(same) and not found.failures and len(at) == given.kills,
    }


if __name__ == "__main__":
    raise SystemExit(main())

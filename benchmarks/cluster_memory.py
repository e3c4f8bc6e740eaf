"""Measure what a worker of the Dask engine holds at most.

    python benchmarks/cluster_memory.py --n 200000 --d 256
    python benchmarks/cluster_memory.py --n 20000 --d 64 --workers 2 --out /tmp/try

Writes results/cluster_memory.json. Memory is that of the worker processes' own pages (RssAnon), looked at every 20 ms;
the memory before it was given cells is listed next to it. All workers are on this machine, with one thread each.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import measure
import numpy as np

from gpubench.engines import get_engine
from gpubench.metrics.silhouette import silhouette_widths
from gpubench.profiling.synthetic import make

LOOK_S = 0.02
N_LABELS, N_BATCHES = 30, 8
SAMPLED, K = 2000, 15


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure with each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=200_000)
    parser.add_argument("--d", type=int, default=256)
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--limit", type=float, default=400, help="MB that a worker may hold")
    parser.add_argument("--knn", action="store_true", help="exact neighbours of all cells as well")
    parser.add_argument("--out", type=Path, default=measure.HERE / "results")
    given = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        cells = make(given.n, given.d, n_labels=N_LABELS, n_batches=N_BATCHES, seed=0)
        path = Path(folder) / "cells.npy"
        np.save(path, cells.x)
        for n_workers in given.workers:
            rows.append(_measured(path, cells, n_workers, int(given.limit * 1e6), all_neighbors=given.knn))
            print(json.dumps(rows[-1]))
    report = {"n": given.n, "d": given.d, "embedding_bytes": 4 * given.n * given.d, "rows": rows}
    report |= {"date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": measure.machine_facts()}
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "cluster_memory.json").write_text(json.dumps(report, indent=2) + "\n")


def _measured(path: Path, cells: Any, n_workers: int, limit: int, *, all_neighbors: bool) -> dict[str, Any]:
    engine: Any = get_engine("dask", cluster=n_workers)
    engine.placement.worker_bytes = limit
    pids = list(engine.cluster.run_on_all(os.getpid).values())
    before = [_own_bytes(pid) for pid in pids]
    begin = time.monotonic()
    with _peaks(pids) as peaks:
        x = engine.put(np.load(path, mmap_mode="r"))
        widths = silhouette_widths(engine, x, cells.batch, cells.label)
        np.asarray(widths.mean())
        some = np.random.default_rng(0).choice(len(cells.label), SAMPLED, replace=False)
        np.asarray(silhouette_widths(engine, x, cells.label, cells=some))
        np.asarray(engine.knn_between(x[some], x, K).distances)
        if all_neighbors:
            np.asarray(engine.knn(x, K).distances[0])
    seconds = time.monotonic() - begin
    engine.close()
    grown = [peak - start for peak, start in zip(peaks, before, strict=True)]
    return {
        "workers": n_workers,
        "limit_bytes": limit,
        "seconds": seconds,
        "before_bytes": max(before),
        "peak_bytes": max(peaks),
        "grown_bytes": max(grown),
        "grown_embeddings": max(grown) / (4 * cells.x.size),
    }


@contextmanager
def _peaks(pids: list[int]) -> Iterator[list[int]]:
    """The most that each process holds while the block runs."""
    peaks, done = [0] * len(pids), threading.Event()

    def look() -> None:
        while not done.wait(LOOK_S):
            for i, pid in enumerate(pids):
                peaks[i] = max(peaks[i], _own_bytes(pid))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield peaks
    finally:
        done.set()
        looking.join()


def _own_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main()

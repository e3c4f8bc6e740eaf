"""What a run would take on many workers: a model of time and memory, fed by the rates of benchmarks/cluster.py.

    python benchmarks/cluster_model.py

Writes results/cluster_model.json and prints a table for 13 million, 100 million and a billion cells on 8, 64 and 512
workers: on machines of 16 cores at the measured rate, and on GPUs at an assumed one. No GPU was measured: those rows
say what the cut of the work would allow if tiles were computed at that rate.

The model: a stage that compares all cells costs n^2 d / 2 differences of two values, one that compares SAMPLED cells
with all n SAMPLED d, in tasks that are cut as the engine cuts them. Its time is the largest of what the workers
compute, what they bring each other and what the scheduler hands out, plus what they read and sort. Each worker has
blocks, and of parts on their way to tasks a few.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import measure

from gpubench.engines.cuda.workspace import CudaTuning
from gpubench.engines.dask.gpu_engine import MAX_PIECES, SHARES_AT_A_TIME
from gpubench.engines.dask.placement import part_bytes as largest_part
from gpubench.engines.dask.placement import worker_needs
from gpubench.engines.dask.remote import WHOLE_COPIES, block_edges
from gpubench.engines.dask.shuffle import max_parts, n_tasks
from gpubench.engines.dask.silhouette import MAX_PARTS, TASK_PRODUCTS, TASKS_PER_SLOT

RESULTS = measure.HERE / "results"

CELLS = (13_000_000, 100_000_000, 1_000_000_000)
WORKERS = (8, 64, 512)
D = 512

SCHEDULED_S = 1e-3
"""Assumed, of the scheduler for each task: it hands them out one after another."""

READ_BYTES_S, STORAGE_BYTES_S = 1e9, 2e10
"""Assumed: what one worker reads, and what a shared file system gives all of them together."""

SORTED_BYTES_S = 1e9
"""Assumed: sorting and centring a copy, on one core."""

WIRE_BYTES_S = 1e9
"""Assumed: what one worker receives from others."""

MAX_HOURS, MAX_TASKS = 24, 100_000
"""Beyond which a run is not worth it, and a graph is too large for one scheduler."""

FOUND_BYTES = 32
"""What a silhouette task answers for each row of both sides: two means, and sums to two clusters that are cut."""


@dataclass(frozen=True)
class Worker:
    """A kind of worker.

    Attributes
    ----------
    products_s : differences of two values in a second
    memory_bytes : what it may use
    assumed : whether the rate was assumed rather than measured
    """

    name: str
    products_s: float
    memory_bytes: float
    assumed: bool


CLUSTERS = 30
"""To which GPUs add up the distances of every cell."""

SAMPLED = 60_000
"""Cells that an estimate with a standard error of 0.002 draws, of labels with much scatter."""


def predict(n: int, d: int, n_workers: int, worker: Worker, *, sampled: bool = False) -> dict[str, Any]:
    """Seconds and bytes of one Euclidean silhouette of all cells, or of a sample among all."""
    part_bytes = largest_part(int(worker.memory_bytes), 1)
    products = float(SAMPLED) * n * d if sampled else n * n / 2 * d
    memory = float(worker_needs(n, d, n_workers, part_bytes, 1))
    n_blocks = len(block_edges(n, d, n_workers, part_bytes)) - 1
    at_most = max_parts(n_blocks, MAX_PARTS)
    largest = part_bytes / (4 * d)
    a_task = min(TASK_PRODUCTS, products / (TASKS_PER_SLOT * n_workers))
    rows = min(max((min(TASK_PRODUCTS, n * n / 2 * d) / d) ** 0.5, n / at_most, 1.0), n, largest)
    parts = -(-n // int(rows))
    n_compared = max(parts, int(products / a_task)) if sampled else parts * (parts + 1) // 2
    task_s = products / n_compared / worker.products_s
    moved = n_compared * (1 if sampled else 2) * 4 * rows * d
    answers = n_compared * (FOUND_BYTES * SAMPLED / max(1, n_compared // parts) if sampled else 2 * rows * FOUND_BYTES)
    shuffled = n_tasks(n_blocks, parts)
    stages = {
        "read_s": max(4 * n * d / n_workers / READ_BYTES_S, 4 * n * d / STORAGE_BYTES_S),
        "sort_s": 4 * n * d / n_workers / SORTED_BYTES_S + shuffled * SCHEDULED_S,
        "compute_s": max(products / worker.products_s / n_workers, task_s * -(-n_compared // n_workers)),
        "schedule_s": n_compared * SCHEDULED_S,
        "transfer_s": (moved + answers) / n_workers / WIRE_BYTES_S,
    }
    busiest = max(stages[name] for name in ("compute_s", "schedule_s", "transfer_s"))
    seconds = stages["read_s"] + stages["sort_s"] + busiest
    fits = memory <= worker.memory_bytes
    return _row((n, d, n_workers), worker, stages, seconds) | {
        "compares": "a sample" if sampled else "all",
        "placed": "blocks",
        "tasks": n_compared + shuffled,
        "task_s": task_s,
        "efficiency": products / worker.products_s / n_workers / seconds,
        "memory_bytes": memory,
        "fits": fits,
        "limit": _limit(stages, n_compared + shuffled, fits=fits, hours=seconds / 3600),
    }


def predict_gpus(n: int, d: int, n_workers: int, worker: Worker) -> dict[str, Any]:
    """The same of all cells on GPUs: each adds up rows of tiles, and sums are put together in ranges of cells."""
    products = n * n / 2 * d
    n_rows = -(-n // CudaTuning().max_tile_rows)
    share = -(-n_rows // n_workers) / n_rows  # rows of tiles are not cut
    sums, pieces = 8.0 * n * CLUSTERS, min(n_workers, MAX_PIECES)
    merges = -(-n_workers // SHARES_AT_A_TIME)
    received = n_workers * sums / min(n_workers, pieces * merges) + merges * sums / pieces + sums
    stages = {
        "read_s": max(4 * n * d / READ_BYTES_S, n_workers * 4 * n * d / STORAGE_BYTES_S),
        "sort_s": 4 * n * d / WIRE_BYTES_S,
        "compute_s": products / worker.products_s * share,
        "schedule_s": n_workers * (1 + pieces) * SCHEDULED_S,
        "transfer_s": received / WIRE_BYTES_S,
    }
    seconds, memory = sum(stages.values()), WHOLE_COPIES * 4.0 * n * d
    fits = memory <= worker.memory_bytes
    limit = "the file system" if stages["read_s"] > stages["compute_s"] else _limit(stages, 0, fits=fits, hours=0)
    return _row((n, d, n_workers), worker, stages, seconds) | {
        "compares": "all",
        "placed": "whole",
        "tasks": n_workers * (1 + pieces),
        "task_s": stages["compute_s"],
        "efficiency": products / worker.products_s / n_workers / seconds,
        "memory_bytes": memory,
        "fits": fits,
        "limit": limit if fits else "workers with GPUs hold all cells",
    }


def _row(size: tuple[int, int, int], worker: Worker, stages: dict[str, float], seconds: float) -> dict[str, Any]:
    """What is computed, by whom, and how long it takes."""
    who = dict(zip(("n", "d", "workers"), size, strict=True)) | {"worker": worker.name, "assumed": worker.assumed}
    return {**who, **stages, "seconds": seconds}


def _limit(stages: dict[str, float], tasks: int, *, fits: bool, hours: float) -> str:
    """What stands in the way first."""
    if not fits:
        return "blocks and sorted parts do not fit a worker"
    if tasks > MAX_TASKS:
        return f"more than {MAX_TASKS:,} tasks"
    slowest = max(stages, key=lambda stage: stages[stage])
    reasons = {
        "read_s": "the file system",
        "sort_s": "sorting: a task for each block of each part",
        "schedule_s": "the scheduler hands out one task after another",
        "transfer_s": "parts on their way to tasks",
    }
    return reasons.get(slowest, "arithmetic") + ("; compare a sample" if hours > MAX_HOURS else "")


def check(measured: dict[str, Any]) -> tuple[float, list[dict[str, Any]]]:
    """The rate of one worker from its own runs, and how far the model is from those on two.

    The rate is of processor time, which other processes of the machine disturb least.
    """
    n, d = measured["n"], measured["d"]
    rows = []
    rate = n * n / 2 * d / min(run["processor_s"] for run in measured["runs"]["silhouette"]["workers_1"])
    for name, n_workers in (("workers_1", 1), ("workers_2", 2)):
        runs = measured["runs"]["silhouette"][name]
        predicted = predict(n, d, n_workers, Worker("core", rate, 1e10, assumed=False))
        seconds = predicted["seconds"] - predicted["read_s"]  # what was timed begins when cells are there
        best = min(run["wall_s"] for run in runs)
        rows.append({"workers": n_workers, "predicted_s": seconds, "measured_s": best, "ratio": best / seconds})
    return rate, rows


def main() -> None:
    """Print and write the table."""
    measured = json.loads((RESULTS / "cluster.json").read_text())["speed"]
    rate, checked = check(measured)
    machine, gpu = (
        Worker("16-core machine", 16 * rate, 1.2e11, assumed=False),
        Worker("GPU", 5e13, 1.2e11, assumed=True),
    )
    sizes = [(n, D, n_workers) for n in CELLS for n_workers in WORKERS]
    rows = [
        *(predict(*size, machine) for size in sizes),
        *(predict_gpus(*size, gpu) for size in sizes),
        *(predict(*size, machine, sampled=True) for size in sizes),
    ]
    kinds = machine, gpu
    report = {"kinds": [asdict(kind) for kind in kinds], "checked": checked, "rows": rows}
    (RESULTS / "cluster_model.json").write_text(json.dumps(report, indent=2) + "\n")
    for row in checked:
        print(f"{row['workers']} workers: {row['measured_s']:.1f} s, predicted {row['predicted_s']:.1f} s")
    print("\n| cells x 512 | compared | workers | tasks | a task | time | memory of a worker | what takes longest |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        kind = f"{row['worker']}s (assumed)" if row["assumed"] else f"{row['worker']}s"
        time = f"{row['seconds'] / 3600:.2g} h" if row["fits"] else "does not fit"
        memory = f"{row['memory_bytes'] / 1e9:.0f} GB, {row['placed']}"
        shown = (
            f"{row['n']:,}",
            row["compares"],
            f"{row['workers']} {kind}",
            f"{row['tasks']:,}",
            f"{row['task_s']:.2g} s",
            time,
            memory,
        )
        print(f"| {' | '.join(shown)} | {row['limit']} |")


if __name__ == "__main__":
    main()

"""What a run would take on many workers: a model of time and memory, fed by the rates of benchmarks/cluster.py.

    python benchmarks/cluster_model.py

Writes results/cluster_model.json and prints a table for 13 million, 100 million and a billion cells on 8, 64 and 512
workers: on machines of 16 cores at the measured rate, and on GPUs at an assumed one. No GPU was measured, and the Dask
engine does not use GPUs yet: those rows say what the cut of the work would allow if its tasks ran at that rate.

The model: a stage that compares all cells costs n^2 d / 2 differences of two values, in tasks that are cut as the
engine cuts them. Its time is the larger of what the workers compute and what the scheduler hands out, plus what each
worker reads and sorts for itself, plus one task at the end. A worker holds COPIES times the embedding.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import measure

from gpubench.engines.dask_parts import MOST_PARTS, TASK_PRODUCTS, TASKS_A_SLOT
from gpubench.engines.dask_put import COPIES

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


def predict(n: int, d: int, n_workers: int, worker: Worker) -> dict[str, Any]:
    """Seconds and bytes of one Euclidean silhouette of all cells."""
    products = n * n / 2 * d
    a_task = min(TASK_PRODUCTS, products / (TASKS_A_SLOT * n_workers))
    rows = min(max((a_task / d) ** 0.5, n / MOST_PARTS, 1.0), n)
    parts = -(-n // int(rows))
    n_tasks = parts * (parts + 1) // 2
    task_s = products / n_tasks / worker.products_s
    stages = {
        "read_s": max(4 * n * d / READ_BYTES_S, n_workers * 4 * n * d / STORAGE_BYTES_S),
        "sort_s": 4 * n * d / SORTED_BYTES_S,
        "compute_s": max(products / worker.products_s / n_workers, task_s * -(-n_tasks // n_workers)),
        "schedule_s": n_tasks * SCHEDULED_S,
        "transfer_s": n_tasks * 2 * rows * FOUND_BYTES / n_workers / WIRE_BYTES_S,
    }
    seconds = (
        stages["read_s"] + stages["sort_s"] + max(stages["compute_s"], stages["schedule_s"]) + stages["transfer_s"]
    )
    memory = COPIES * 4 * n * d
    return {
        "n": n,
        "d": d,
        "workers": n_workers,
        "worker": worker.name,
        "assumed": worker.assumed,
        "tasks": n_tasks,
        "task_s": task_s,
        **stages,
        "seconds": seconds,
        "efficiency": products / worker.products_s / n_workers / seconds,
        "memory_bytes": memory,
        "fits": memory <= worker.memory_bytes,
        "limit": _limit(stages, fits=memory <= worker.memory_bytes),
    }


def _limit(stages: dict[str, float], *, fits: bool) -> str:
    """Why more workers would not help much; the first thing that stands in the way."""
    if not fits:
        return "a worker cannot hold the embedding"
    slowest = max(stages, key=lambda stage: stages[stage])
    reasons = {
        "read_s": "every worker reads the whole embedding",
        "sort_s": "every worker sorts all cells",
        "schedule_s": "the scheduler hands out one task after another",
        "transfer_s": "answers are merged",
    }
    return reasons.get(slowest, "nothing yet")


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
    kinds = (Worker("16-core machine", 16 * rate, 1.2e11, assumed=False), Worker("GPU", 5e13, 1.2e11, assumed=True))
    rows = [predict(n, D, n_workers, kind) for kind in kinds for n in CELLS for n_workers in WORKERS]
    report = {"kinds": [asdict(kind) for kind in kinds], "checked": checked, "rows": rows}
    (RESULTS / "cluster_model.json").write_text(json.dumps(report, indent=2) + "\n")
    for row in checked:
        print(f"{row['workers']} workers: {row['measured_s']:.1f} s, predicted {row['predicted_s']:.1f} s")
    print("\n| cells x 512 | workers | tasks | a task | time | memory of a worker | what stops it |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        kind = f"{row['worker']}s (assumed)" if row["assumed"] else f"{row['worker']}s"
        time = f"{row['seconds'] / 3600:.2g} h" if row["fits"] else "does not fit"
        memory = f"{row['memory_bytes'] / 1e9:.0f} GB"
        told = (
            f"{row['n']:,}",
            f"{row['workers']} {kind}",
            f"{row['tasks']:,}",
            f"{row['task_s']:.2g} s",
            time,
            memory,
        )
        print(f"| {' | '.join(told)} | {row['limit']} |")


if __name__ == "__main__":
    main()

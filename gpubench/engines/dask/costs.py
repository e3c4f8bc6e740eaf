"""What operations of the Dask engine cost: bytes on the worker that holds most, and seconds of all workers together.

They follow from what the CPU engine takes on one worker (`cpu_costs`), by what is shared out and what is not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gpubench.core.machine import cpu_model, usable_cores
from gpubench.core.units import bytes_text
from gpubench.engines import planner
from gpubench.engines.cpu import costs
from gpubench.engines.cpu.costs import Cost
from gpubench.engines.cpu.rates import Rates, measure_rates
from gpubench.engines.cpu.top_k import CandidateStore
from gpubench.engines.dask import knn, silhouette_parts
from gpubench.engines.dask import worker as dask_worker
from gpubench.engines.dask.blocks import rows as blocks_rows
from gpubench.engines.dask.placement import COPIES

if TYPE_CHECKING:
    from gpubench.engines.cpu.engine import CpuEngine
    from gpubench.engines.dask.cluster import Cluster
    from gpubench.engines.dask.engine import DaskEngine
    from gpubench.engines.dask.placement import Placement, Placing
    from gpubench.engines.dask.worker import Recipe
    from gpubench.engines.steps import Step

BEGIN_S = 0.05
"""Until the first task of an operation runs, and its answer is here."""

ORDER_BYTES = 40
"""For each cell on the worker that brings values into the order of the cells."""

TASK_S = 0.004
"""Of the scheduler for each task; it hands them out one after another."""

SHARED_OUT = ("look_up", "estimate", "silhouette_widths")
"""Operations that are cut into tasks for all workers, as exact neighbours are; others run on one."""

FOLDS = ("lr", "knn_votes", "rf")
"""Operations of each fold, several of which are on the workers at a time, unless one graph serves all."""


@dataclass(frozen=True, slots=True)
class Workers:
    """The workers of a cluster, as plans see them.

    Attributes
    ----------
    count : how many there are
    threads : of each; the fewest
    at_a_time : how many compute at their full speed at a time, where their machines have fewer cores than they threads
    worker_bytes : what one may use
    placing : where cells are placed as was asked for, see `dask_put`
    started : whether they were started for this run
    engine : one like that of a worker
    """

    count: int
    threads: int
    at_a_time: float
    worker_bytes: int
    placing: Placing
    started: bool
    engine: CpuEngine

    def option(self, needs: int) -> str:
        """What makes room for so many bytes on a worker."""
        fit = int(self.count * self.worker_bytes / max(needs, 1))
        if not self.started:
            limit = math.ceil(needs / planner.SHARE_OF_FREE / 1e9)
            return f"start workers with --memory-limit {limit}GB"
        return f"use --workers {fit}" if fit else f"raise `memory` above {bytes_text(self.count * needs)}"

    def in_blocks(self, n: int, d: int) -> bool:
        """Whether each has some of the cells."""
        fits = COPIES * 4 * n * d <= self.worker_bytes
        return self.placing == "blocks" or (self.placing == "auto" and not fits)

    def beside_blocks(self, n: int, d: int) -> int:
        """What one holds of cells that are cut into tasks, beside its blocks."""
        part_bytes = blocks_rows.part_bytes(self.worker_bytes, self.threads)
        needs = blocks_rows.worker_needs(n, d, self.count, part_bytes, self.threads)
        return needs - 4 * n * d // self.count


@dataclass(frozen=True, slots=True)
class DaskCostModel:
    """See `CostModel`."""

    engine: DaskEngine
    beside: str = "on a worker"

    @property
    def memory_bytes(self) -> int:
        """See `CostModel`."""
        return self.engine.worker_bytes

    @property
    def n_workers(self) -> int:
        """See `CostModel`."""
        return self.engine.of_workers.count

    @property
    def machine(self) -> tuple[str, str]:
        """See `CostModel`."""
        model = min(self.engine.cluster.on_each(cpu_model).values())
        return model, f"worker: {self.engine.of_workers.engine.device}"

    def cost(self, step: Step, memory_bytes: int, rates: Rates) -> Cost:
        """See `CostModel`."""
        return cost(step, self.engine.of_workers, memory_bytes, rates)

    def option(self, needs: int) -> str:
        """See `CostModel`."""
        return self.engine.of_workers.option(needs)

    def measure_rates(self) -> Rates:
        """See `CostModel`."""
        return self.engine.measure_rates()


def look(cluster: Cluster, recipe: Recipe, placement: Placement, *, started: bool) -> Workers:
    """Ask a cluster what plans need to know."""
    workers = cluster.workers()
    cores = cluster.on_each(usable_cores)
    on_host: dict[str, tuple[int, int]] = {}
    for address, worker in workers.items():
        threads, known = on_host.get(worker["host"], (0, 0))
        on_host[worker["host"]] = threads + int(worker["nthreads"]), max(known, cores.get(address, 0))
    at_a_time = sum(min(threads, known) for threads, known in on_host.values()) / recipe.threads
    engine = dask_worker.WorkerEngine(recipe, recipe.threads)
    return Workers(len(workers), recipe.threads, at_a_time, placement.worker_bytes, placement.wanted, started, engine)


def rates_on(cluster: Cluster, recipe: Recipe) -> Rates:
    """The rates of one worker, measured there while the others rest."""
    rates: Rates = cluster.fetch(cluster.submit("rates", _measured, recipe))
    return rates


def _measured(recipe: Recipe) -> Rates:
    return measure_rates(recipe.start())


def cost(step: Step, workers: Workers, memory_bytes: int, rates: Rates) -> Cost:
    """What a step takes on a worker, and of the time, where `memory_bytes` are left to it."""
    alone = costs.cost(step, workers.engine, memory_bytes, rates)
    if step.operation == "put":
        return _put(step, workers, alone)
    if step.operation == "knn" and alone.how == "exact":
        return _exact_knn(step, workers, alone)
    if step.operation in SHARED_OUT:
        return _shared_out(step, workers, alone)
    brought = 8 * step.sizes["n"] * step.sizes["k"] if step.operation == "leiden" else 0
    if "d" in step.sizes and workers.in_blocks(int(step.sizes["n"]), int(step.sizes["d"])):
        brought += int(blocks_rows.WHOLE_COPIES * 4 * step.sizes["n"] * step.sizes["d"])
    where, seconds = "one worker", alone.seconds + BEGIN_S
    if step.operation in FOLDS and not (step.operation == "knn_votes" and alone.how != "exact"):
        folds = int(step.sizes["folds"])
        rounds = math.ceil(folds / max(1, min(workers.count, int(workers.at_a_time))))
        where, seconds = "a fold on each worker", alone.seconds * rounds / folds + folds * BEGIN_S
    how = f"{alone.how}, {where}" if alone.how else where
    return replace(alone, how=how, scratch_bytes=alone.scratch_bytes + brought, seconds=seconds)


def _put(step: Step, workers: Workers, alone: Cost) -> Cost:
    """Every worker reads the cells; those of a machine at the same time, so that they do not wait for each other."""
    n, d = int(step.sizes["n"]), int(step.sizes["d"])
    matrix = 4 * n * d
    if workers.in_blocks(n, d):
        beside = max(min(alone.scratch_bytes, 3 * matrix // workers.count), workers.beside_blocks(n, d))
        return Cost("blocks", matrix // workers.count, beside, seconds=alone.seconds / workers.at_a_time + BEGIN_S)
    return Cost(
        "each worker",
        matrix,
        max(alone.scratch_bytes, int((COPIES - 1) * matrix)),
        seconds=alone.seconds * workers.count / workers.at_a_time + BEGIN_S,
    )


def _exact_knn(step: Step, workers: Workers, alone: Cost) -> Cost:
    n, d, k = (int(step.sizes[name]) for name in ("n", "d", "k"))
    rows = min(knn.part_rows(n, d, workers.count * workers.threads), n)
    parts = -(-n // rows)
    a_task = 2 * rows * (4 * d + 8 * d + CandidateStore.bytes_per_row(k, max(n - 1, 1)))
    graph = 12 * n * k // workers.count
    if workers.in_blocks(n, d):
        scratch = workers.beside_blocks(n, d) + 4 * graph  # what is found has ids and distances in two precisions
        return Cost("exact", graph, scratch, seconds=_seconds(alone.seconds, parts * (parts + 1) // 2, workers))
    scratch = 16 * n + 4 * n * d + 2 * graph + workers.threads * a_task  # near cells are looked for in a scaled copy
    return Cost(
        "exact",
        graph,
        scratch,
        seconds=_seconds(alone.seconds, parts * (parts + 1) // 2 + parts, workers),
    )


def _shared_out(step: Step, workers: Workers, alone: Cost) -> Cost:
    sizes: dict[str, Any] = dict(step.sizes)
    held, scratch, n_tasks = alone.held_bytes, alone.scratch_bytes, silhouette_parts.TASKS_PER_SLOT * workers.count
    if step.operation != "look_up" and workers.in_blocks(sizes["n"], sizes["d"]):
        scratch = workers.beside_blocks(sizes["n"], sizes["d"]) + ORDER_BYTES * sizes["n"]
    elif step.operation == "silhouette_widths":
        held += 4 * sizes["n"] * sizes["d"]  # sorted and centred; a worker keeps it for the next silhouette
        scratch += workers.threads * min(16 * sizes["sums"], silhouette_parts.SUM_BYTES)
        n_tasks *= silhouette_parts.TASKS_PER_SLOT
    return replace(
        alone,
        held_bytes=held,
        scratch_bytes=scratch,
        block_bytes=0,
        seconds=_seconds(alone.seconds, n_tasks, workers),
    )


def _seconds(alone_s: float, n_tasks: int, workers: Workers) -> float:
    """Of tasks that take so long on one worker."""
    return BEGIN_S + max(alone_s / workers.at_a_time, n_tasks * TASK_S)

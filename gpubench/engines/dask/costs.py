"""Costs of the Dask engine's operations: memory of the worker that needs most, and time until all have finished.

They are derived from the costs of the CPU engine, according to how each operation is divided among workers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gpubench.core import machine
from gpubench.core.units import bytes_text
from gpubench.engines import planner
from gpubench.engines.costs import Cost, CostModel, Rates, Sizes
from gpubench.engines.cpu.rates import measure_rates
from gpubench.engines.dask import knn, rank_sums, silhouette
from gpubench.engines.dask import worker as dask_worker
from gpubench.engines.dask.placement import part_bytes, worker_needs
from gpubench.engines.dask.remote import WHOLE_COPIES

if TYPE_CHECKING:
    from gpubench.engines.base import ClassifierKind
    from gpubench.engines.dask.cluster import Cluster
    from gpubench.engines.dask.placement import Placement
    from gpubench.engines.dask.worker import EngineSettings

START_S = 0.05
"""Seconds until the first task of an operation runs, and its result is back."""

ORDER_BYTES = 40
"""Bytes per cell on the worker that reorders values from sorted order to the order of the cells."""

TASK_S = 0.004
"""Seconds of the scheduler per task; it submits one after another."""


@dataclass(frozen=True)
class DaskCosts(CostModel):
    """Cost model of the operations of a cluster of workers on CPUs; see `CostModel`.

    Attributes
    ----------
    engine : CPU engine with the settings of a worker
    threads : smallest number of threads of a worker
    speed : number of workers that can compute at full speed; smaller than the number of workers if their threads exceed
        the cores of their machines
    worker_bytes : memory of a worker in bytes
    started : whether the run started the workers
    cluster, settings : cluster and engine settings for measuring rates; None in tests
    """

    threads: int = 1
    speed: float = 1.0
    worker_bytes: int = 0
    started: bool = True
    cluster: Cluster | None = None
    settings: EngineSettings | None = None

    @classmethod
    def of(cls, cluster: Cluster, settings: EngineSettings, placement: Placement) -> DaskCosts:
        """Make the cost model of a cluster from the threads, cores and memory of its workers."""
        workers = cluster.workers()
        cores = cluster.run_on_all(machine.usable_cores)
        hosts: dict[str, tuple[int, int]] = {}
        for address, worker in workers.items():
            threads, known = hosts.get(worker["host"], (0, 0))
            hosts[worker["host"]] = threads + int(worker["nthreads"]), max(known, cores.get(address, 0))
        speed = sum(min(threads, known) for threads, known in hosts.values()) / settings.threads
        engine = dask_worker.WorkerEngine(settings, settings.threads)
        size = len(workers), settings.threads, speed, placement.worker_bytes
        return cls(engine, *size, cluster.started is not None, cluster, settings)

    @property
    def budget_bytes(self) -> int:
        """See `CostModel`."""
        return self.worker_bytes

    @property
    def machine(self) -> tuple[str, ...]:
        """See `CostModel`."""
        assert self.cluster
        return min(self.cluster.run_on_all(machine.cpu_model).values()), f"worker: {self.engine.device}"

    def measure_rates(self) -> Rates:
        """See `CostModel.measure_rates`; measured on one worker while the others rest."""
        assert self.cluster
        rates: Rates = self.cluster.fetch(self.cluster.submit("rates", _measure, self.settings))
        return rates

    def option(self, needed_bytes: int) -> str:
        """See `CostModel.option`."""
        if not self.started:
            limit = math.ceil(needed_bytes / planner.SHARE_OF_FREE / 1e9)
            return f"start workers with --memory-limit {limit}GB"
        fit = int(self.n_workers * self.worker_bytes / max(needed_bytes, 1))
        return f"use --workers {fit}" if fit else f"raise `memory` above {bytes_text(self.n_workers * needed_bytes)}"

    def put(self, n: int, d: int, itemsize: int, *, copied: bool) -> Cost:
        """See `CostModel.put`; every worker reads its own blocks of rows."""
        alone, matrix = super().put(n, d, itemsize, copied=copied), 4 * n * d
        scratch = max(min(alone.scratch_bytes, 3 * matrix // self.n_workers), self._besides_blocks(n, d))
        shared = replace(alone, how="blocks", held_bytes=matrix // self.n_workers, scratch_bytes=scratch)
        return replace(shared, speedup=self.speed, overhead_s=START_S)

    def view(self, n: int, d: int) -> Cost:
        """See `CostModel.view`."""
        return self._on_one(super().view(n, d), self._whole_bytes(n, d))

    def knn(self, n: int, d: int, k: int) -> Cost:
        """See `CostModel.knn`."""
        alone = super().knn(n, d, k)
        if alone.how != "exact":
            return self._on_one(alone, self._whole_bytes(n, d))
        rows = min(knn.part_rows(n, d, self.n_workers * self.threads), n)
        parts = -(-n // rows)
        graph = 12 * n * k // self.n_workers
        scratch = self._besides_blocks(n, d) + 4 * graph  # ids and distances in two precisions
        return self._shared(replace(alone, held_bytes=graph), scratch, parts * (parts + 1) // 2)

    def leiden(self, n: int, k: int) -> Cost:
        """See `CostModel.leiden`."""
        return self._on_one(super().leiden(n, k), 8 * n * k)

    def look_up(self, n: int, k: int) -> Cost:
        """See `CostModel.look_up`."""
        alone = super().look_up(n, k)
        return self._shared(alone, alone.scratch_bytes)

    def rank_sums(self, n: int, n_genes: int, n_stored: int, n_groups: int) -> Cost:
        """See `CostModel.rank_sums`; each worker receives only the values of its genes."""
        alone = super().rank_sums(n, n_genes, n_stored, n_groups)
        n_tasks = max(1, rank_sums.count_tasks(n_stored, self.n_workers * self.threads))
        return self._shared(alone, alone.scratch_bytes + self.threads * 24 * n_stored // n_tasks, n_tasks)

    def neighborhoods(self, n: int, d: int, k: int) -> Cost:
        """See `CostModel.neighborhoods`."""
        alone = super().neighborhoods(n, d, k)
        if alone.how != "estimated":
            return alone  # which is `look_up` of this class
        return self._shared(alone, self._order_bytes(n, d))

    def silhouette(self, sizes: Sizes, role: str, within: str | None = None) -> Cost:
        """See `CostModel.silhouette`."""
        return self._shared(super().silhouette(sizes, role, within), self._order_bytes(sizes.n, sizes.d))

    def classifier(self, kind: ClassifierKind, n: int, d: int, n_folds: int, n_classes: int) -> Cost:
        """See `CostModel.classifier`; workers train folds at the same time, unless one k-NN graph serves all folds."""
        alone, whole = super().classifier(kind, n, d, n_folds, n_classes), self._whole_bytes(n, d)
        if kind == "knn" and alone.how != "exact":
            return self._on_one(alone, whole)
        rounds = math.ceil(n_folds / max(1, min(self.n_workers, int(self.speed))))
        shared = self._on_one(alone, whole, "a fold on each worker")
        return replace(shared, speedup=n_folds / rounds, overhead_s=n_folds * START_S)

    def _on_one(self, alone: Cost, brought_bytes: int, where: str = "one worker") -> Cost:
        """Return the cost of an operation on one worker, to which `brought_bytes` are transferred."""
        how = f"{alone.how}, {where}" if alone.how else where
        return replace(alone, how=how, scratch_bytes=alone.scratch_bytes + brought_bytes, overhead_s=START_S)

    def _shared(self, alone: Cost, scratch_bytes: int, n_tasks: int | None = None) -> Cost:
        """Return the cost of an operation that is divided into tasks for all workers."""
        n_tasks = silhouette.TASKS_PER_SLOT * self.n_workers if n_tasks is None else n_tasks
        shared = replace(alone, scratch_bytes=scratch_bytes, block_bytes=0)
        return replace(shared, speedup=self.speed, overhead_s=START_S, least_s=n_tasks * TASK_S)

    def _whole_bytes(self, n: int, d: int) -> int:
        """Return the memory of the whole matrix on a worker, in addition to its own blocks."""
        return int(WHOLE_COPIES * 4 * n * d) - 4 * n * d // self.n_workers

    def _order_bytes(self, n: int, d: int) -> int:
        return self._besides_blocks(n, d) + ORDER_BYTES * n

    def _besides_blocks(self, n: int, d: int) -> int:
        """Return the memory of a worker for sorted parts of the cells, in addition to its own blocks."""
        largest = part_bytes(self.worker_bytes, self.threads)
        needed = worker_needs(n, d, self.n_workers, largest, self.threads)
        return needed - 4 * n * d // self.n_workers


def _measure(settings: EngineSettings) -> Rates:
    return measure_rates(settings.start())

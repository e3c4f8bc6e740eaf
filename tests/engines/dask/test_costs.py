"""Plans of the Dask engine: what is shared out takes less time with more workers, and what cannot fit is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import plan_case
import pytest
from shared_dask import shared_client

pytest.importorskip("distributed", reason="Dask is not installed")

import gpubench as gb
from gpubench.core.errors import InputError
from gpubench.core.machine import usable_cores
from gpubench.core.types import Labels
from gpubench.engines.base import ClassifierKind
from gpubench.engines.costs import Cost, CostModel, Sizes
from gpubench.engines.cpu.engine import CpuEngine
from gpubench.engines.dask import costs
from gpubench.engines.dask.costs import START_S, DaskCosts
from gpubench.engines.dask.engine import DaskEngine
from gpubench.engines.dask.placement import COPIES
from gpubench.engines.dask.worker import EngineSettings

FAST = {
    "search": (5e-12, 1e-8, 1e-9),
    "queries": (5e-12, 1e-8, 1e-9),
    "silhouette": (5e-12, 0, 1e-9),
    "leiden": (0, 0, 1e-6),
    "look_up": (0, 0, 1e-8),
    "rank_sums": (0, 0, 2e-8),
    "lr": (1e-10, 0, 0),
    "rf": (0, 0, 1e-6),
    "copy": (0, 1e-9, 0),
}
N = 250_000
SIZES = Sizes(N, 50, {"label": Labels(np.arange(N, dtype=np.int32) % 8, tuple("abcdefgh"))})


def workers(count: int, **changed: Any) -> DaskCosts:
    engine = CpuEngine(threads=1, memory_bytes=10**10)
    return replace(DaskCosts(engine, count, speed=float(count), worker_bytes=10**10), **changed)


OPERATIONS: dict[str, Callable[[CostModel], Cost]] = {
    "put": lambda model: model.put(N, 50, 4, copied=True),
    "knn": lambda model: model.knn(N, 50, 15),
    "silhouette": lambda model: model.silhouette(SIZES, "label"),
    "look_up": lambda model: model.look_up(10**8, 15),
    "leiden": lambda model: model.leiden(N, 15),
    "rank_sums": lambda model: model.rank_sums(N, 2000, 10**9, 40),
}


@pytest.mark.parametrize(
    ("operation", "at_least"),
    [("knn", 3.5), ("silhouette", 3.5), ("look_up", 3.5), ("rank_sums", 3.5), ("leiden", 1.0), ("put", 1.5)],
)
def test_divided_operations_take_less_time_with_more_workers(operation: str, at_least: float) -> None:
    def seconds(count: int, **changed: Any) -> float:
        return OPERATIONS[operation](workers(count, **changed)).seconds(FAST)

    assert at_least <= seconds(1) / seconds(4) < at_least + 0.6
    assert seconds(4, speed=2.0) >= seconds(4), "four workers on two cores are no faster than two"


def test_operations_hold_a_share_on_each_worker() -> None:
    def cost(operation: str, count: int) -> Cost:
        return OPERATIONS[operation](workers(count))

    matrix = 4 * N * 50
    put = cost("put", 4)
    assert put.held_bytes + put.scratch_bytes >= int(COPIES * matrix / 4)
    assert cost("knn", 4).held_bytes < cost("knn", 1).held_bytes, "neighbours are divided"
    silhouette = cost("silhouette", 4)
    assert silhouette.held_bytes + silhouette.scratch_bytes >= matrix / 4, "each worker has its share of sorted cells"
    assert cost("leiden", 4).how == "igraph, one worker"


def test_block_placement_divides_the_cells() -> None:
    """Each holds less the more there are; what needs all cells takes them whole."""
    matrix = 4 * N * 50

    def held(operation: str, count: int) -> int:
        cost = OPERATIONS[operation](workers(count, worker_bytes=matrix))
        return cost.held_bytes + cost.scratch_bytes

    assert OPERATIONS["put"](workers(8, worker_bytes=matrix)).how == "blocks"
    for operation in ("put", "knn", "silhouette"):
        assert held(operation, 64) < held(operation, 8) < matrix
    training = workers(64, worker_bytes=matrix).classifier("lr", N, 50, 5, 8)
    assert training.held_bytes + training.scratch_bytes > 2 * matrix


def test_folds_run_in_rounds_on_the_workers() -> None:
    """Of five folds two workers have two at a time, so three in turn; from five on all are under way at once."""

    def seconds(kind: ClassifierKind, count: int, n: int = N) -> float:
        return workers(count).classifier(kind, n, 50, 5, 8).seconds(FAST) - 5 * START_S

    alone = seconds("rf", 1)
    for count, rounds in ((2, 3), (4, 2), (5, 1), (9, 1)):
        assert seconds("rf", count) == pytest.approx(alone * rounds / 5)
    assert seconds("knn", 5, n=20_000) < seconds("knn", 1, n=20_000)
    assert seconds("knn", 5, n=10**7) == seconds("knn", 1, n=10**7), "one graph serves all folds"


def test_option_names_what_makes_room() -> None:
    assert workers(4).option(2 * 10**10) == "use --workers 2"
    assert workers(4).option(10**11).startswith("raise `memory` above 400")
    assert workers(4, started=False).option(2 * 10**10) == "start workers with --memory-limit 25GB"


def test_plan_of_a_cluster_reports_a_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("GPUBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(DaskCosts, "measure_rates", lambda _: FAST)
    engine = DaskEngine(cluster=shared_client())
    given: dict[str, Any] = {**plan_case.cells(3000, 20), "engine": engine, "tasks": ["clustering", "embedding"]}
    plan = gb.plan(**given)
    assert plan.workers == 2
    assert plan.memory_bytes == engine.placement.worker_bytes
    assert [stage.path for stage in plan.stages][:3] == ["X/put", "X/view", "X/knn"]
    assert "on 2 workers of a Dask cluster" in str(plan)
    assert "MB on a worker (limit " in str(plan)
    engine.placement.worker_bytes = 200_000
    engine.__dict__["cost_model"] = replace(engine.cost_model, worker_bytes=200_000)
    with pytest.raises(InputError, match=r"^X/put takes .* on a worker, but .*; start workers with --memory-limit 1GB"):
        gb.score(**given)
    assert gb.plan(**given).refusal.startswith("X/put takes")


def test_measure_rates_runs_on_one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    class Here:
        """Runs what is submitted."""

        submit = staticmethod(lambda _, function, *args: function(*args))
        fetch = staticmethod(lambda answer: answer)

    monkeypatch.setattr(costs, "measure_rates", lambda engine: {"lr": (engine.n_threads,)})
    settings = EngineSettings(0, "auto", False, 10**9, threads=3)
    assert workers(1, cluster=Here(), settings=settings).measure_rates() == {"lr": (3,)}


def test_speed_of_workers_is_limited_by_the_cores() -> None:
    found = DaskEngine(cluster=shared_client()).cost_model
    assert isinstance(found, DaskCosts)
    assert (found.n_workers, found.threads, found.started) == (2, 1, False)
    assert found.speed == min(2, usable_cores())

"""Plans of the Dask engine: what is shared out takes less time with more workers, and what cannot fit is refused."""

from __future__ import annotations

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
from gpubench.engines.cpu.engine import CpuEngine
from gpubench.engines.cpu.rates import Rates
from gpubench.engines.dask import costs
from gpubench.engines.dask.costs import BEGIN_S, Workers, cost
from gpubench.engines.dask.engine import DaskEngine
from gpubench.engines.dask.placement import COPIES
from gpubench.engines.dask.worker import Recipe
from gpubench.engines.steps import Sizes, Step, knn_step, leiden_step, look_up_step, put_step, silhouette_step

FAST = Rates((1e-9, 1e-11, 1e-7, 1e-9), (1e-9, 1e-11, 1e-7), (1e-9, 1e-11), 1e6, 1e8, 1e10, 1e6, 1e9)
N = 250_000
SIZES = Sizes(N, 50, 15, {"label": Labels(np.arange(N, dtype=np.int32) % 8, tuple("abcdefgh"))})


def workers(count: int, **changed: Any) -> Workers:
    engine = CpuEngine(threads=1, memory_bytes=10**10)
    return replace(Workers(count, 1, float(count), 10**10, "auto", started=True, engine=engine), **changed)


def seconds(step: Step, count: int, **changed: Any) -> float:
    return cost(step, workers(count, **changed), 10**10, FAST).seconds


@pytest.mark.parametrize(
    ("step", "at_least"),
    [
        (knn_step(SIZES), 3.5),
        (silhouette_step("silhouette", SIZES, "label"), 3.5),
        (look_up_step("entropy", Sizes(10**8, 50), 15), 3.5),
        (leiden_step(SIZES, 15), 1.0),
        (put_step(SIZES, 4, copied=True), 1.0),
    ],
    ids=lambda given: given.operation if isinstance(given, Step) else "",
)
def test_what_is_shared_out_takes_less_time_with_more_workers(step: Step, at_least: float) -> None:
    ratio = seconds(step, 1) / seconds(step, 4)
    assert at_least <= ratio < at_least + 0.6
    assert seconds(step, 4, at_a_time=2.0) >= seconds(step, 4), "four workers on two cores are no faster than two"


def test_memory_of_a_worker() -> None:
    def held(step: Step, count: int) -> tuple[int, int]:
        expected = cost(step, workers(count), 10**10, FAST)
        return expected.held_bytes, expected.scratch_bytes

    matrix = 4 * N * 50
    assert sum(held(put_step(SIZES, 4, copied=True), 4)) >= int(COPIES * matrix)
    assert held(knn_step(SIZES), 4)[0] < held(knn_step(SIZES), 1)[0], "neighbours are shared out"
    assert held(silhouette_step("silhouette", SIZES, "label"), 4)[0] >= matrix, "cells are sorted on each worker"
    assert cost(leiden_step(SIZES, 15), workers(4), 10**10, FAST).how == "igraph, one worker"


def test_memory_of_a_worker_of_blocks() -> None:
    """Where all cells do not fit one, each holds less the more there are; what needs all takes them whole."""
    matrix = 4 * N * 50
    silhouettes = silhouette_step("silhouette", SIZES, "label")

    def held(step: Step, count: int) -> int:
        expected = cost(step, workers(count, worker_bytes=matrix), 10**10, FAST)
        return expected.held_bytes + expected.scratch_bytes

    assert cost(put_step(SIZES, 4, copied=True), workers(8, worker_bytes=matrix), 10**10, FAST).how == "blocks"
    for step in (put_step(SIZES, 4, copied=True), knn_step(SIZES), silhouettes):
        assert held(step, 64) < held(step, 8) < matrix
    assert held(Step("kmeans", "lr", {"n": N, "d": 50, "folds": 5, "classes": 8}), 64) > 2 * matrix


def test_time_of_folds() -> None:
    """Of five folds two workers have two at a time, so three in turn; from five on all are under way at once."""

    def seconds(operation: str, count: int, n: int = N) -> float:
        step = Step("folds", operation, {"n": n, "d": 50, "folds": 5, "classes": 8})
        return cost(step, workers(count), 10**11, FAST).seconds - 5 * BEGIN_S

    alone = seconds("rf", 1)
    for count, rounds in ((2, 3), (4, 2), (5, 1), (9, 1)):
        assert seconds("rf", count) == pytest.approx(alone * rounds / 5)
    assert seconds("knn_votes", 5, n=20_000) < seconds("knn_votes", 1, n=20_000)
    assert seconds("knn_votes", 5, n=10**7) == seconds("knn_votes", 1, n=10**7), "one graph serves all folds"


def test_the_option_that_makes_it_fit() -> None:
    assert workers(4).option(2 * 10**10) == "use --workers 2"
    assert workers(4).option(10**11).startswith("raise `memory` above 400")
    assert workers(4, started=False).option(2 * 10**10) == "start workers with --memory-limit 25GB"


def test_a_plan_of_workers(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("GPUBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(costs, "rates_on", lambda *_: FAST)
    engine = DaskEngine(cluster=shared_client())
    given: dict[str, Any] = {**plan_case.cells(3000, 20), "engine": engine, "tasks": ["clustering", "embedding"]}
    plan = gb.plan(**given)
    assert plan.workers == 2
    assert plan.memory_bytes == engine.worker_bytes
    assert [stage.path for stage in plan.stages][:3] == ["X/put", "X/view", "X/knn"]
    assert "on 2 workers of a Dask cluster" in str(plan)
    assert "on a worker at most" in str(plan)
    engine.worker_bytes, engine.__dict__["of_workers"] = 200_000, replace(engine.of_workers, worker_bytes=200_000)
    with pytest.raises(InputError, match=r"^X/put takes .* on a worker, but .*; start workers with --memory-limit 1GB"):
        gb.score(**given)
    assert gb.plan(**given).refusal.startswith("X/put takes")


def test_rates_are_measured_by_a_worker_with_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    class Here:
        """Runs what is submitted."""

        submit = staticmethod(lambda _, function, *args: function(*args))
        fetch = staticmethod(lambda answer: answer)

    monkeypatch.setattr(costs, "measure_rates", lambda engine: replace(FAST, graph_cells=engine.n_threads))
    here: Any = Here()
    assert costs.rates_on(here, Recipe(0, "auto", False, 10**9, threads=3)).graph_cells == 3


def test_workers_of_one_machine_share_its_cores() -> None:
    found = DaskEngine(cluster=shared_client()).of_workers
    assert (found.count, found.threads, found.started) == (2, 1, False)
    assert found.at_a_time == min(2, usable_cores())

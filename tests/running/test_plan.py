"""Plans: memory that holds, times from rates that are measured once, and runs that cannot fit."""

from __future__ import annotations

import doctest
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import plan_case
import pytest
from resume_cases import SMALL_FORESTS
from scipy import sparse

import gpubench as gb
from gpubench.cli.main import main
from gpubench.core.errors import InputError
from gpubench.core.memory import resident_bytes
from gpubench.core.types import Labels
from gpubench.engines import costs, get_engine
from gpubench.engines.base import ClassifierKind
from gpubench.engines.costs import Cost, CostModel, Sizes
from gpubench.engines.cpu import compiled
from gpubench.engines.cpu.engine import CpuEngine
from gpubench.engines.cpu.rates import FEATURES, measure_rates
from gpubench.engines.planner import MIN_BUDGET_BYTES, Budget
from gpubench.running import plan as running_plan
from gpubench.running.plan import rates_of
from gpubench.tasks import label_prediction

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


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own, and rates that nobody waits for."""
    monkeypatch.setenv("GPUBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(costs, "measure_rates", lambda _: FAST)
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def given() -> dict[str, Any]:
    return {**plan_case.cells(3000, 20), "engine": "cpu"}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs a peak memory that can be reset")
@pytest.mark.parametrize(
    ("asked", "tiles"),
    [
        (("30000", "50", "clustering", "embedding", "batch_integration"), "compiled"),
        (("8000", "300", "embedding", "batch_integration"), "compiled"),
        (("8000", "300", "embedding", "batch_integration"), compiled.NUMPY),
        (("30000", "50", "label_prediction"), "compiled"),
    ],
    ids=["graph", "wide", "numpy", "prediction"],
)
def test_plan_peak_memory_is_one_to_two_times_the_measured(
    asked: tuple[str, ...], tiles: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tiles == compiled.NUMPY:
        monkeypatch.setenv(compiled.VARIABLE, compiled.NUMPY)
    elif not compiled.available():
        pytest.skip("the tiles are not compiled here")
    rates_of(CostModel(CpuEngine(threads=2)), [])  # measured here: measuring imports what a run does
    here = Path(__file__).parents[1]
    environment = {
        **os.environ,
        "GPUBENCH_CACHE": str(cache),
        # the package that is tested here: a checkout that it was installed from has no compiled tiles
        "PYTHONPATH": os.pathsep.join([str(Path(gb.__file__).parents[1]), str(here)]),
    }
    command = [sys.executable, str(here / "plan_case.py"), *asked]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    found = json.loads(done.stdout)
    assert found["measured"] <= found["expected"] <= 2 * found["measured"]
    assert found["expected"] > found["before"]


def test_plan_docstring_example_is_true() -> None:
    assert doctest.testmod(running_plan).attempted > 0
    assert doctest.testmod(running_plan).failed == 0


def test_plan_has_every_stage_of_a_run(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_prediction, "SETTINGS", SMALL_FORESTS)
    plan = gb.plan(**given, n_folds=3)
    result = gb.score(**given, n_folds=3)
    planned = {stage.path.replace("knn_votes", "knn") for stage in plan.stages}
    ran = {stage["path"] for stage in result.timeline}
    assert planned <= ran
    heaviest = [stage["path"] for stage in result.timeline if stage["seconds"] > 0.2]
    assert all(any(path.startswith(stage) or stage.startswith(path) for stage in planned) for path in heaviest)
    assert plan.not_known == []


def test_plan_totals_follow_from_its_stages(given: dict[str, Any]) -> None:
    plan = gb.plan(**given)
    assert plan.seconds == pytest.approx(sum(stage.seconds for stage in plan.stages))
    assert plan.used_bytes == max(stage.used_bytes for stage in plan.stages)
    assert plan.peak_bytes > plan.used_bytes + plan.process_bytes
    assert plan.refusal == ""
    content = json.loads(json.dumps(plan.to_dict()))
    assert content["peak_bytes"] == plan.peak_bytes
    assert [stage["path"] for stage in content["stages"]] == [stage.path for stage in plan.stages]
    text = str(plan)
    assert all(stage.path in text for stage in plan.stages)
    assert f"calibrated {plan.measured}" in text


def test_plan_names_tasks_of_unknown_cost(given: dict[str, Any]) -> None:
    plan = gb.plan(**given, tasks=["embedding", "scib"])
    assert plan.not_known == ["scib"]
    assert str(plan).endswith("Not in this plan, because their cost is unknown: scib.")


def test_knn_cost_grows_with_cells_dimensions_and_neighbours() -> None:
    engine = CpuEngine(threads=1, memory_bytes=10**10)

    def of(n: int, d: int, k: int) -> tuple[float, int]:
        expected = CostModel(engine).knn(n, d, k)
        return expected.seconds(FAST), expected.held_bytes + expected.scratch_bytes

    for n in (50_000, 5_000_000):  # exact and in leaves
        for more in ((2 * n, 50, 15), (n, 100, 15), (n, 50, 30)):
            assert of(n, 50, 15)[0] < of(*more)[0]
            assert of(n, 50, 15)[1] < of(*more)[1]
    assert CostModel(engine).knn(5_000_000, 50, 15).how == engine.policy.knn_method_for(5_000_000, 50)


@pytest.mark.parametrize("tiles", [None, compiled.NUMPY])
def test_rank_sums_cost_has_the_work_that_the_engine_counts(tiles: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if tiles:
        monkeypatch.setenv(compiled.VARIABLE, tiles)
    engine = CpuEngine(threads=1)
    x = sparse.random_array((300, 40), density=0.2, format="csr", dtype=np.float32, rng=np.random.default_rng(0))
    with engine.timeline.stage("tests"):
        engine.rank_sums(x, np.arange(300) % 7, 7, 0)
    (counted,) = engine.timeline.spans()
    cost = CostModel(engine).rank_sums(300, 40, x.nnz, 7)
    assert cost.work["rank_sums"].moved_bytes == counted.moved_bytes > 0
    assert cost.held_bytes == 2 * 8 * 7 * 40


def test_classifier_cost_of_very_many_cells_follows_the_policy() -> None:
    quick, exact = (
        CpuEngine(threads=1, memory_bytes=10**11, knn=knn, exact=knn == "exact") for knn in ("auto", "exact")
    )

    def of(engine: CpuEngine, n: int) -> dict[str, Cost]:
        return {kind: CostModel(engine).classifier(kind, n, 50, 5, 30) for kind in get_args(ClassifierKind)}

    few, many = of(quick, 60_000), of(quick, 10_000_000)
    assert (few["knn"].how, many["knn"].how) == ("exact", quick.policy.knn_method_for(10_000_000, 50))
    assert few == of(exact, 60_000)
    assert of(exact, 10_000_000)["knn"].how == "exact"
    for kind in ("lr", "knn", "rf"):
        assert few[kind].seconds(FAST) < many[kind].seconds(FAST) < of(exact, 10_000_000)[kind].seconds(FAST)
        assert few[kind].scratch_bytes < many[kind].scratch_bytes
    assert few["lr"].remedy == "choose classifiers without lr"


def test_score_that_cannot_fit_is_refused_before_computing(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def computed(*_: Any, **__: Any) -> None:
        raise AssertionError("something was computed")

    monkeypatch.setattr(CpuEngine, "put", computed)
    too_many = {
        **given,
        "tasks": ["clustering", "batch_integration"],
        "n_neighbors": 3000,
        "memory": MIN_BUDGET_BYTES,
    }
    message = (
        r"X/knn takes 72\.7 MB beyond the data, but 67\.1 MB may be used; raise `memory`, or ask for fewer neighbours"
    )
    with pytest.raises(InputError, match=message):
        gb.score(**too_many)
    plan = gb.plan(**too_many)
    assert plan.refusal.startswith("X/knn takes ")


def test_budget_counts_arrays_until_they_are_deleted(given: dict[str, Any]) -> None:
    budget = Budget(10**9)
    held = budget.hold(np.zeros(10**6))
    part = held[5:]
    assert budget.left == 10**9 - 8 * 10**6
    del held
    assert budget.left == 10**9 - 8 * 10**6
    del part
    assert budget.left == 10**9
    assert Budget(1).left == MIN_BUDGET_BYTES
    engine = CpuEngine(threads=1, memory_bytes=10**9)
    x = engine.put(given["data"].astype(np.float64))
    knn = engine.knn(x, 15)
    assert engine.budget.held_bytes == x.nbytes + knn.indices.nbytes + knn.distances.nbytes


def test_rates_of_measures_each_machine_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []
    monkeypatch.setattr(costs, "measure_rates", lambda engine: (measured.append(engine.n_threads), FAST)[1])
    for threads, again in ((1, False), (1, False), (2, False), (1, False), (1, True)):
        rates, date = rates_of(CostModel(CpuEngine(threads=threads)), [], measure_again=again)
        assert {kind: tuple(rate) for kind, rate in rates.items()} == FAST
        assert len(date) == len("2026-01-31")
    assert measured == [1, 2, 1]
    for damage in ("{", "[]", '{"x": 1}', json.dumps({"x": {"date": "", "rates": {"search": []}}})):
        (cache / running_plan.RATES).write_text(damage)
        rates_of(CostModel(CpuEngine(threads=1)), [])
    assert measured == [1, 2, 1, 1, 1, 1, 1]


def test_rates_of_unwritable_cache_adds_a_note(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GPUBENCH_CACHE", str(tmp_path / "file"))
    notes: list[str] = []
    assert rates_of(CostModel(CpuEngine(threads=1)), notes)[0] == FAST
    assert "so rates are measured each time" in notes[0]
    assert str(gb.plan(**given)).endswith("cannot be written, so rates are measured each time.")


@pytest.mark.slow
def test_measure_rates_is_plausible_for_this_machine() -> None:
    model = CostModel(CpuEngine(threads=1))
    rates = measure_rates(model.engine)
    assert rates.keys() == FEATURES.keys()
    assert all(sum(rate) > 0 and min(rate) >= 0 for rate in rates.values())
    assert 1e-5 < model.knn(1400, 50, 15).seconds(rates) < 60
    assert model.knn(2000, 50, 15).seconds(rates) >= model.knn(1400, 50, 15).seconds(rates)
    assert 1e-5 < model.rank_sums(1400, 1000, 400_000, 8).seconds(rates) < 60
    labels = Labels(np.arange(1400, dtype=np.int32) % 8, tuple("abcdefgh"))
    assert 1e-6 < model.silhouette(Sizes(1400, 50, {"label": labels}), "label").seconds(rates) < 60


def test_plan_of_an_engine_without_costs_is_refused(given: dict[str, Any]) -> None:
    class Other(CpuEngine):
        name = "other"
        cost_model = None

    with pytest.raises(InputError, match="engine='other' has no plan; use 'cpu'"):
        gb.plan(**{**given, "engine": Other(threads=1)})
    assert get_engine("cpu").name == "cpu"


def test_plan_flag_prints_the_plan_and_computes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(CpuEngine, "cluster_distances")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(500, 4)))
    (tmp_path / "obs.csv").write_text("label\n" + "a\nb\n" * 250)
    files = [str(tmp_path / "x.npy"), "--obs", str(tmp_path / "obs.csv")]
    command = ["score", *files, "--label", "label", "--engine", "cpu"]
    assert main([*command, "--plan", "--out", str(tmp_path / "out")]) == 0
    assert "x/embedding/silhouette_score" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(CostModel, "put", lambda model, *_, **__: model.knn(10**8, 10, 300))
    assert main([*command, "--plan", "--memory", "1GB"]) == 2
    printed = capsys.readouterr()
    assert "569 GB" in printed.out
    assert "beyond the data, but 1.0 GB may be used; raise --memory, or" in printed.err


@pytest.mark.slow
def test_resident_bytes_grows_with_an_array() -> None:
    before = resident_bytes()
    if before is not None:
        ballast = np.ones(50_000_000)
        assert resident_bytes() >= before + 300e6  # type: ignore[operator]
        del ballast

"""benchmarks/gpu_visit.py from end to end, with the kernels on the host; no GPU is used."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from emulated import StartOn

from gpubench.core.timeline import Timeline
from gpubench.engines.cuda.workspace import CudaTuning
from gpubench.profiling import child

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


@pytest.fixture
def tuning() -> CudaTuning:
    return CudaTuning(max_tile_rows=32)


@pytest.fixture
def gpu_visit(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    if not BENCHMARKS.is_dir():
        pytest.skip("the benchmarks are not here")
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("gpu_visit")


@pytest.fixture
def visit(gpu_visit: ModuleType, start_on: StartOn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "test_nothing.py").write_text("def test_nothing() -> None: ...\n")
    methods = gpu_visit.gpu_operations.BenchSizes(n=90, d=4, k=5, n_labels=3, forest_cells=60, table=(4, 30))
    for name, value in {"SECONDS": 0.01, "COPY_BYTES": 1 << 16, "DISTANCES": (64, 8), "EDGES": (64,)}.items():
        monkeypatch.setattr(child, name, value)
    monkeypatch.setattr(gpu_visit.gpu_operations, "REPEATS", 0)
    sizes = gpu_visit.Sizes(
        methods=methods,
        widths=(8, 16),
        parity_cells=90,
        graph_cells=90,
        whole=((90, 4),),
        shares=((300, 4),),
        k=5,
        seconds=0.0,
        edge=64,
    )
    monkeypatch.setattr(gpu_visit.benchmark, "LABELS", 3)
    monkeypatch.setattr(gpu_visit, "REPEATED_LEIDENS", 2)
    engine = start_on(timeline=Timeline())
    return gpu_visit.Visit(engine, tmp_path / "out", sizes, (str(tmp_path), "-p", "no:cacheprovider"), "cpu")


@pytest.mark.slow
def test_visit_writes_each_stage_and_continues_later(gpu_visit: ModuleType, visit: Any) -> None:
    first = gpu_visit.run(visit, 0.7)
    names = ["doctor", "parity", "products", "libraries", "suite_90x4", "share_300x4", "tests"]
    assert list(first) == names
    assert first["doctor"] == "done"
    assert first["libraries"].startswith("no time: takes up to 1 minutes")
    second = gpu_visit.run(visit, 60)
    assert second == {name: "done before" if first[name] == "done" else "done" for name in names}
    found = {name: json.loads((visit.out / f"{name}.json").read_text())["result"] for name in names}
    assert found["doctor"]["works"] is True
    assert {row["operation"] for row in found["doctor"]["methods"] if row["seconds"]} >= {"knn", "silhouettes", "rank"}
    assert found["doctor"]["findings"][0]["about"] == "gpubench"
    assert found["parity"]["failures"] == []
    assert max(found["parity"]["differences"].values()) < 2e-3
    assert found["libraries"]["leiden_results"] == 1
    assert found["suite_90x4"]["failures"] == []
    for part in (found["share_300x4"]["silhouette"], found["share_300x4"]["knn"]):
        assert 0 < part["share"] < 1
        assert part["estimated_seconds"] > part["seconds"]
    assert found["tests"]["code"] in (0, 4), found["tests"]


@pytest.mark.slow
def test_failed_and_torn_stages_are_run_again(
    gpu_visit: ModuleType, visit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(gpu_visit, "stages", lambda _: [("a", 0.1, fail), ("b", 0.1, lambda *_: 1)])
    assert gpu_visit.run(visit, 1) == {"a": "failed: RuntimeError: no such kernel", "b": "done"}
    (visit.out / "b.json").write_text("{")
    monkeypatch.setattr(gpu_visit, "stages", lambda _: [("a", 0.1, lambda *_: 2), ("b", 0.1, lambda *_: 1)])
    assert gpu_visit.run(visit, 1) == {"a": "done", "b": "done"}

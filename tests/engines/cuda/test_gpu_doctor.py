"""`gpubench doctor --gpu` on the host emulation of the CUDA engine. No GPU is used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import strict_cupy
from engines.cuda.test_runs import fake_module
from engines.cuda.test_verdicts import Faulty

from gpubench.cli import gpu_doctor
from gpubench.cli.main import main
from gpubench.core.errors import EngineUnavailable
from gpubench.engines.cuda import checks, verdicts
from gpubench.engines.cuda.checks import METHODS
from gpubench.profiling import child, gpu_operations
from gpubench.profiling.gpu_operations import BenchSizes, Measured
from gpubench.results.table import to_text

SMALL = BenchSizes(n=90, d=4, k=5, n_labels=3, forest_cells=60, table=(4, 30))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits of the machine are measured in no time, each call once."""
    monkeypatch.setattr(verdicts, "_records", {})
    monkeypatch.setattr(gpu_operations, "REPEATS", 0)
    for name, value in {"SECONDS": 0.01, "COPY_BYTES": 1 << 16, "DISTANCES": (64, 8), "EDGES": (64,)}.items():
        monkeypatch.setattr(child, name, value)


def trust_all_but(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    """Check only the operation that is wrong; the others take the emulation long."""
    trusting = {name: check if name == wrong else (lambda *_: "") for name, check in checks.CHECKS.items()}
    monkeypatch.setattr(gpu_operations, "CHECKS", trusting)


def run(device: Faulty, monkeypatch: pytest.MonkeyPatch, *more: str, sizes: BenchSizes = SMALL) -> int:
    """Run the command on this device."""
    monkeypatch.setattr(gpu_doctor.Device, "find", lambda: device)
    monkeypatch.setattr(gpu_doctor, "BenchSizes", lambda: sizes)
    monkeypatch.setattr(gpu_doctor, "FULL", sizes)
    return main(["doctor", "--gpu", *more])


def test_table_shows_every_method_in_80_columns(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    trust_all_but(monkeypatch, "rank")
    assert run(Faulty(), monkeypatch) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80, max(lines, key=len)
    assert lines[0] == "Stand-in, compute capability 9.0"
    assert lines[1].startswith("limits: float32 products ")
    table = [line.split() for line in lines[4:]]
    for operation, methods in METHODS.items():
        for method in methods:
            row = next(row for row in table if row[0] == operation and " ".join(row[1:]).startswith(method))
            assert ("right" in row) == ((operation, method) not in gpu_operations.LIBRARIES), row
    assert "leiden by cugraph: pylibcugraph is not installed" in lines
    assert "knn by cuvs: cuvs is not installed" in lines
    assert lines[-1] == "All methods that can be used here are right."


def test_wrong_method_is_shown_and_exits_with_1(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    trust_all_but(monkeypatch, "rank")
    assert run(Faulty("rank"), monkeypatch) == 1
    shown = capsys.readouterr()
    assert "rank                     kernel         WRONG\n" in shown.out
    assert "rank by kernel: " in shown.out
    assert "Something is wrong, and is not used" in shown.out
    assert shown.err == "", "the table says it"


def test_json_has_rates_and_shares_of_the_limits(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    trust_all_but(monkeypatch, "")
    assert run(Faulty(), monkeypatch, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["works"] is True
    rows = {(row["operation"], row["method"]): row for row in found["methods"]}
    silhouettes = rows["silhouettes", "exact"]
    assert silhouettes["unit"] == "TFLOP/s"
    flop = 90 * 89 * 4
    assert silhouettes["rate"] == pytest.approx(flop / silhouettes["seconds"] / 1e12)
    assert silhouettes["share"] == pytest.approx(
        flop / silhouettes["seconds"] / max(found["limits"][name] for name in ("blas_flop_s", "tiles_flop_s"))
    )
    assert rows["rank", "kernel"]["unit"] == "GB/s"
    assert rows["rank", "kernel"]["rate"] == pytest.approx(24 * 120 / rows["rank", "kernel"]["seconds"] / 1e9)
    assert found["combination"]["gpu"] == "Stand-in"


def test_verdicts_are_found_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    device = Faulty(folder=tmp_path)
    trust_all_but(monkeypatch, "")
    run(device, monkeypatch)
    trust_all_but(monkeypatch, "rank")
    device.wrong = "rank"
    assert run(device, monkeypatch) == 1


@pytest.mark.slow
def test_full_examination_scores_all_tasks_and_writes_memory(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    sizes = BenchSizes(**{**vars(SMALL), "whole": (150, 4), "memory_share": 1e-4})
    trust_all_but(monkeypatch, "")
    assert run(Faulty(), monkeypatch, "--full", sizes=sizes) == 0
    shown = capsys.readouterr().out
    assert "written and read" in shown
    assert "a run of all tasks\n  stage" in shown
    assert "\n    clustering  " in shown


def test_memory_that_loses_values_is_wrong() -> None:
    device = Faulty()
    full = device.xp.full
    device.xp.full = lambda size, value, dtype: full(size, value + (value == 2), dtype)
    found = gpu_doctor.Examination({}, [], memory=gpu_operations.fill_memory(device, 1e-4))
    assert found.works, "there is one piece only"
    gpu_operations.PIECE_BYTES, before = 1 << 16, gpu_operations.PIECE_BYTES
    try:
        memory = gpu_operations.fill_memory(device, 1e-4)
    finally:
        gpu_operations.PIECE_BYTES = before
    assert memory["wrong_values"] == 1 << 14
    assert not gpu_doctor.Examination({}, [], memory=memory).works
    assert "16,384 values were WRONG" in to_text([gpu_doctor.Lines([gpu_doctor._memory_line(memory)])])


def test_wrong_copies_leave_nothing_to_time(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    trust_all_but(monkeypatch, "copies")
    monkeypatch.setattr(strict_cupy.ndarray, "set", lambda self, host, stream: None)  # noqa: ARG005
    assert run(Faulty(), monkeypatch) == 1
    assert "copies by pinned memory: " in capsys.readouterr().out


def test_operation_that_cannot_be_timed_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = gpu_operations.Bench(Faulty(), SMALL)

    def fail(*_: object) -> None:
        raise MemoryError("an array does not fit the GPU")

    monkeypatch.setitem(gpu_operations._TIMED, "rank", fail)  # type: ignore[arg-type]
    assert bench.time(Measured("rank", "kernel", is_right=True)).text.startswith("out of memory (an array does not fit")


def test_tensor_cores_that_are_missing_are_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    trust_all_but(monkeypatch, "")
    device = Faulty()
    device.has_tensor_cores = False
    found = {(row.operation, row.method): row for row in gpu_operations.check_all(device)}
    assert found["products", "split"].is_right is None
    assert found["products", "float32"].is_right is True


@pytest.mark.parametrize("module", ["cuml", "pylibcugraph"])
def test_libraries_are_checked_where_they_are_installed(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    trust_all_but(monkeypatch, "")
    fake_module(monkeypatch, module)
    found = {
        gpu_operations.LIBRARIES.get((row.operation, row.method)): row for row in gpu_operations.check_all(Faulty())
    }
    assert found[module].is_right is True


def test_without_a_gpu_there_is_one_line(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise EngineUnavailable("engine 'cuda' needs an NVIDIA GPU, but this machine has no NVIDIA driver")

    monkeypatch.setattr(gpu_doctor.Device, "find", fail)
    assert main(["doctor", "--gpu"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "gpubench: engine 'cuda' needs an NVIDIA GPU, but this machine has no NVIDIA driver\n"
    assert main(["doctor", "--full"]) == 2
    assert capsys.readouterr().err == "gpubench: --full needs --gpu; use both, or neither\n"


def test_no_method_is_wrong_because_its_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_operations, "METHODS", {name: METHODS[name] for name in ("leiden", "rf", "cuml")})
    found = list(gpu_operations.check_all(Faulty()))
    assert len(found) == 5
    assert [row for row in found if row.is_right is not None or not row.text.endswith("is not installed")] == []

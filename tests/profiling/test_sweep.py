"""Profiles: a real one in fresh processes, and what remains when a size fails, is killed or is interrupted."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from gpubench.cli.main import main
from gpubench.core.errors import InputError
from gpubench.profiling import profile, sweep
from gpubench.profiling.presentation import blocks
from gpubench.profiling.profile import WHOLE, Profile, stages_of
from gpubench.results.table import to_text

SPAN = {"start_s": 0.0, "seconds": 1.0, "put_bytes": 0, "peak_bytes": 1000, "flop": 0, "moved_bytes": 0}
LIMITS = {"limits": {"blas_flop_s": 1e9, "tiles_flop_s": 5e8, "bytes_s": 1e8, "seconds": 2.0}}
PROVENANCE = {"gpubench": "0.1.0", "cpu": "a processor", "engine": {"device": "CPU, 2 threads", "notes": []}}


def answer_of(cells: int, dims: int) -> dict[str, Any]:
    """Answer of a process whose time grows with the square of the cells."""
    timeline = [
        {**SPAN, "path": "read"},
        {**SPAN, "path": "view"},
        {**SPAN, "path": "X", "seconds": 1e-6 * cells**2, "flop": cells**2 * dims, "peak_bytes": 300_000_000},
        {**SPAN, "path": "X/knn", "seconds": 0.9e-6 * cells**2, "flop": cells**2 * dims, "moved_bytes": 4 * cells},
        {**SPAN, "path": "X/task", "seconds": 0.1e-6 * cells**2},
        {**SPAN, "path": "X/task/lr", "seconds": 0.04e-6 * cells**2, "moved_bytes": 10},
        {**SPAN, "path": "X/task/lr", "seconds": 0.06e-6 * cells**2, "moved_bytes": 20, "peak_bytes": None},
    ]
    rest: dict[str, Any] = {"scores": [], "failures": [], "notes": ["Leiden ran on the CPU"] if cells > 1000 else []}
    return {"warm_up_s": 1.0, "base_bytes": 100_000_000, "timeline": timeline, **rest}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The sizes that were asked for; 666 cells fail, 777 are interrupted."""
    sizes: list[tuple[int, int]] = []

    def answer(what: str, request: dict[str, Any], heard: Any) -> dict[str, Any]:
        heard("stage")
        if what == "limits":
            return {**LIMITS, "provenance": {**PROVENANCE, "options": request["asked"]}}
        sizes.append((request["cells"], request["dims"]))
        if request["cells"] == 777:
            raise KeyboardInterrupt
        return {"error": "out of memory"} if request["cells"] == 666 else answer_of(*sizes[-1])

    monkeypatch.setattr(sweep, "_answer", answer)
    return sizes


@pytest.mark.slow
def test_profile_command_writes_json_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--task", "embedding", "--engine", "cpu", "--threads", "1", "--out", str(tmp_path / "out")]
    assert main(["profile", "--cells", "0.3k,1k", "--dims", "4", *flags]) == 0
    printed = capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "profile.json").read_text())
    assert [(run["cells"], run["dims"]) for run in content["runs"]] == [(300, 4), (1000, 4)]
    assert content["provenance"]["options"] == {"cells": [300, 1000], "dims": [4], "tasks": ["embedding"]}
    assert content["limits"]["flop_s"] > 1e8
    stages = {stage["path"]: stage for stage in content["runs"][1]["stages"]}
    assert set(stages) >= {WHOLE, "put", "embedding", "embedding/silhouette_score"}
    (widths,) = [stage for stage in stages.values() if stage["innermost"] and stage["flop"]]
    assert widths["path"].startswith("embedding/silhouette_score")
    assert widths["flop"] == 1000 * 999 * 4
    assert widths["flop_s"] == pytest.approx(widths["flop"] / widths["seconds"])
    least_s = max(widths["flop"] / content["limits"]["flop_s"], widths["moved_bytes"] / content["limits"]["bytes_s"])
    assert widths["fraction_of_limit"] == pytest.approx(least_s / widths["seconds"])
    assert stages["put"]["put_bytes"] == 1000 * 4 * 4
    assert stages["embedding"]["fraction_of_limit"] is None, "stages inside it may count nothing"
    assert content["runs"][1]["base_bytes"] > 10_000_000
    assert content["runs"][0]["scores"] == [
        {"task": "embedding", "metric": "silhouette_score", "value": pytest.approx(0.5, abs=0.2)}
    ]
    assert ET.parse(tmp_path / "out" / "profile.svg").getroot().tag.endswith("svg")
    assert (tmp_path / "out" / "profile.png").read_bytes().startswith(b"\x89PNG")
    for text in ("4 dimensions", "whole run", "silhouette_score", "Wrote "):
        assert text in printed


def test_profile_runs_each_size_once_smallest_first(asked: list[tuple[int, int]]) -> None:
    profiles: list[Profile] = []
    found = profile([1500, 500, 500], [50, 2], keep=profiles.append)
    assert asked == [(500, 2), (1500, 2), (500, 50), (1500, 50)]
    assert [len(done.runs) for done in profiles] == [1, 2, 3, 4]
    assert found.growth["knn"].seconds_by_cells.value == pytest.approx(2.0)
    assert found.growth["knn"].seconds_by_dims.value == pytest.approx(0.0, abs=1e-9)


@pytest.mark.usefixtures("asked")
def test_scaling_exponents_need_a_large_enough_span() -> None:
    assert "\n\nScaling exponents\n" in to_text(blocks(profile([500, 1500])))
    text = to_text(blocks(profile([500, 1000])))
    assert "\n\nScaling exponents\n" not in text
    assert text.endswith("No scaling exponents: stages must take 0.05 s at sizes a factor 3 apart.")


def test_stages_of_the_same_path_are_added_up() -> None:
    whole, knn, task, lr = stages_of(answer_of(1000, 3)["timeline"])
    assert [stage.path for stage in (whole, knn, task, lr)] == [WHOLE, "knn", "task", "task/lr"]
    assert [stage.innermost for stage in (whole, knn, task, lr)] == [False, True, False, True]
    assert [stage.own_s for stage in (whole, knn, task, lr)] == pytest.approx([0.0, 0.9, 0.0, 0.1])
    assert (lr.seconds, lr.moved_bytes, lr.peak_bytes) == (pytest.approx(0.1), 30, 1000)


def test_shares_of_the_limits_and_tables(asked: list[tuple[int, int]]) -> None:
    found = profile([500, 2000], [2])
    knn = found.runs[1].stage("knn")
    # 2000 * 2000 * 2 operations at 1e9 a second, in 3.6 s; 8000 bytes at 1e8 a second are less
    assert knn.fraction(found.limits) == pytest.approx(8e6 / 1e9 / 3.6)
    assert knn.bound(found.limits) == "arithmetic"
    lr = found.runs[1].stage("task/lr")
    assert lr.bound(found.limits) == "memory"
    text = re.sub(" +", " ", to_text(blocks(found)))
    assert "knn 0.225 3.600 0.001 0.00222 <0.001 0.2% arithmetic" in text
    assert "2,000 x 2: Leiden ran on the CPU" in text
    assert "2.00 ± 0.00" not in text, "two points have no standard error"


def test_profile_failed_size_is_reported_among_the_others(
    asked: list[tuple[int, int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", "--cells", "500,666,1000", "--out", str(tmp_path)]) == 1
    assert "666 x 50 failed: out of memory" in capsys.readouterr().out
    content = json.loads((tmp_path / "profile.json").read_text())
    assert [run["cells"] for run in content["runs"]] == [500, 1000]
    assert content["failures"] == [{"cells": 666, "dims": 50, "error": "out of memory"}]


def test_profile_interrupted_writes_the_finished_sizes(
    asked: list[tuple[int, int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", "--cells", "500,777,1000", "--out", str(tmp_path)]) == 130
    assert "Interrupted: the sizes finished by then are above." in capsys.readouterr().out
    content = json.loads((tmp_path / "profile.json").read_text())
    assert ([run["cells"] for run in content["runs"]], content["interrupted"]) == ([500], True)
    assert (tmp_path / "profile.svg").exists()
    assert main(["profile", "--cells", "1000", "--out", str(tmp_path)]) == 2
    assert "holds profile.json, profile.svg, profile.png; choose another folder" in capsys.readouterr().err
    assert main(["profile", "--cells", "500", "--force", "--out", str(tmp_path)]) == 0
    assert main(["profile", "--cells", "777", "--out", str(tmp_path / "none")]) == 130
    assert not (tmp_path / "none").exists()


CHILDREN = {
    "says why": ("sys.exit('no such thing')", "exit code 1: no such thing"),
    "says nothing": ("sys.exit(3)", "exit code 3: it said nothing"),
    "is killed": (
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "killed, as a system does that is out of memory",
    ),
    "refuses": ("open(sys.argv[2], 'w').write('{\"error\": \"refused\"}')", "refused"),
}


@pytest.mark.parametrize(("code", "why"), CHILDREN.values(), ids=CHILDREN.keys())
def test_profile_process_without_answer_is_an_error(code: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "CHILD", (sys.executable, "-c", f"import sys; {code}"))
    with pytest.raises(InputError, match=why):
        profile([500])


def test_profile_interrupt_kills_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys, time; print('knn', flush=True); time.sleep(60)"
    monkeypatch.setattr(sweep, "CHILD", (sys.executable, "-c", code))
    heard: list[str] = []

    def interrupt(stage: str) -> None:
        heard.append(stage)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep._answer("score_cells", {}, interrupt)
    assert heard == ["knn"]


BAD = {
    "cells": (["--cells", "10x"], "--cells '10x' is not a whole number above 0; write numbers such as 10k,100k,1M"),
    "half a cell": (["--cells", "1.5"], "--cells '1.5' is not a whole number"),
    "few cells": (["--cells", "10"], r"--cells \[10\] cannot be profiled; give numbers of at least 200"),
    "dims": (["--dims", ""], "--dims '' is not a whole number"),
    "task": (["--task", "clusterin"], "task 'clusterin' cannot be profiled .*did you mean 'clustering'"),
    "predictions": (
        ["--task", "perturbation_expression_prediction"],
        "cannot be profiled .*'clustering'.*; use one that can",
    ),
    "memory": (["--memory", "much"], "--memory 'much' is not an amount"),
}


@pytest.mark.parametrize(("flags", "message"), BAD.values(), ids=BAD.keys())
def test_profile_wrong_usage_is_one_line(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    assert main(["profile", *flags, "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(rf"gpubench: .*{message}.*\n", printed.err), printed.err

"""The command line as shells and programs use it: completion, JSON, and no colours where they are not wanted."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from typing import Any

import pytest

from gpubench.cli.main import main
from gpubench.datasets import demo_path
from gpubench.metrics import METRICS
from gpubench.metrics.perturbation import PERTURBATION_METRICS
from gpubench.tasks import TASKS

COLOUR = re.compile(rb"\x1b\[(?:[\d;]*;)?(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;[\d;]*)?m")


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("gpubench da", ["datasets"]),
        ("gpubench datasets fe", ["fetch"]),
        ("gpubench datasets fetch tsv2_bl", ["tsv2_bladder", "tsv2_blood"]),
        ("gpubench score tsv2_blo", ["tsv2_blood"]),
        ("gpubench score cells.h5ad --task sequ", ["sequential_organization"]),
        ("gpubench score cells.h5ad --option reso", ["resolution="]),
        ("gpubench score cells.h5ad --pre", ["--pre-integrated", "--predictions", "--precision"]),
        (f"gpubench score {demo_path()} --label cell", ["cell_type"]),
        (f"gpubench score {demo_path()} --batch ", ["cell_type", "batch"]),
        (f"gpubench score {demo_path()} -e X", ["X_pca"]),
        ("gpubench score missing.h5ad --label c", []),
        (f"gpubench score {demo_path()} --obs missing.csv --label c", []),
    ],
)
def test_shells_complete_what_exists(
    words: str, completed: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Completions that bash gets for a line that ends like this."""
    monkeypatch.setenv("_GPUBENCH_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 0
    assert sorted(capsys.readouterr().out.split()) == sorted(completed)


def printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> Any:
    assert main(arguments) == 0
    return json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_lists_are_there_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    tasks = printed(["tasks", "--json"], capsys)
    assert [task["id"] for task in tasks["tasks"]] == list(TASKS)
    assert tasks["options"]["resolution"] == 1.0
    assert [metric["id"] for metric in printed(["metrics", "--json"], capsys)] == [*METRICS, *PERTURBATION_METRICS]
    doctor = printed(["doctor", "--json"], capsys)
    assert doctor["works"]
    assert {"about", "state", "text"} == set(doctor["findings"][0])


def on_terminal(*arguments: str, **environment: str) -> bytes:
    """What a command draws on a terminal."""
    ours, theirs = pty.openpty()
    inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "gpubench", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**inherited, "TERM": "xterm-256color", **environment},
    )
    os.close(theirs)
    drawn = b""
    try:
        while piece := os.read(ours, 65536):
            drawn += piece
    except OSError:  # what Linux says at the end of a terminal whose other end is closed
        pass
    os.close(ours)
    assert process.wait() == 0
    return drawn


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [["score", "--help"], ["score", demo_path(), "-e", "X_pca", "--label", "cell_type", "-t", "embedding"]]
)
def test_no_color_is_honoured(arguments: list[str]) -> None:
    plain = on_terminal(*map(str, arguments), NO_COLOR="1")
    assert plain
    assert not COLOUR.search(plain)


def test_colours_are_detected() -> None:
    assert COLOUR.search(on_terminal("score", "--help"))

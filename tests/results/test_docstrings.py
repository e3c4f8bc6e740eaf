"""Examples in docstrings are true."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import gpubench as gb
from gpubench import accel

MODULES = ("accel", "comparison.compare", "reporting", "results.statistics", "results.result")


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings_are_true(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    accel.report().clear()
    label = np.repeat(["a", "b"], 50)
    cells = np.random.default_rng(0).normal(size=(100, 5)) + 5 * (label == "b")[:, None]
    result = gb.score({"X": cells.astype("float32")}, label=label, tasks=["embedding"], engine="cpu")
    done = doctest.testmod(import_module(f"gpubench.{name}"), extraglobs={"gb": gb, "result": result})
    assert done.attempted > 0
    assert done.failed == 0

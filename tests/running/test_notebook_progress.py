"""The progress bar of notebooks: HTML that is updated a few times per second and empty at the end."""

from __future__ import annotations

import re
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import gpubench as gb
from gpubench.running import notebook_progress
from gpubench.running.notebook_progress import NotebookProgress, in_notebook


class ZMQInteractiveShell:
    """A notebook's shell, by the name by which it is recognised."""


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The HTML that a notebook is given to display, one after the other."""
    texts: list[str] = []

    class Handle:
        def update(self, text: str) -> None:
            texts.append(text)

    def display(text: str, *, display_id: bool) -> Handle:
        assert display_id
        assert not texts, "displayed twice"
        texts.append(text)
        return Handle()

    package, module = ModuleType("IPython"), ModuleType("IPython.display")
    package.get_ipython = ZMQInteractiveShell  # type: ignore[attr-defined]
    module.HTML, module.display = str, display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr(notebook_progress, "FIRST_S", 0.0)
    monkeypatch.setattr(notebook_progress, "AGAIN_S", 0.0)
    return texts


def score(**more: Any) -> gb.Result:
    label = np.repeat(["a", "b"], 50)
    cells = np.random.default_rng(0).normal(size=(100, 5)) + 5 * (label == "b")[:, None]
    return gb.score(cells, label=label, tasks="embedding", engine="cpu", **more)


def test_a_run_in_a_notebook_shows_its_stages(shown: list[str]) -> None:
    score()
    assert any("X &gt; embedding &gt; silhouette_score" in text or "X &gt; embedding" in text for text in shown)
    assert shown[-1] == ""
    assert all(text.startswith("<pre ") for text in shown[:-1])


def test_bar_has_the_share_that_is_done(shown: list[str]) -> None:
    with NotebookProgress() as progress:
        progress.started("X/knn")
        progress.advanced("X/knn", 1, 4)
        assert "25%" in shown[-1]
        progress.ended("X/knn", 1.0)
        assert "%" not in re.sub("<.*?>", "", shown[-1]), "the next stage has no number of parts yet"
    assert "X &gt; knn" in shown[0]


def test_a_run_that_fails_leaves_no_bar(shown: list[str]) -> None:
    with pytest.raises(gb.InputError):
        score(batch=["b"] * 99)
    assert shown[-1] == ""


def test_short_runs_show_nothing(shown: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook_progress, "FIRST_S", 60.0)
    score()
    assert shown == []


def test_a_listener_takes_the_place_of_the_bar(shown: list[str]) -> None:
    class Quiet:
        def started(self, path: str) -> None: ...
        def advanced(self, path: str, done: int, total: int) -> None: ...
        def ended(self, path: str, seconds: float) -> None: ...

    score(listener=Quiet())
    assert shown == []


def test_outside_of_notebooks_there_is_no_bar() -> None:
    assert not in_notebook()

"""Classifiers on a cluster: folds are trained side by side, with the numbers of the CPU engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cells import Cells, make_cells

pytest.importorskip("distributed", reason="Dask is not installed")

from pathlib import Path

from shared_dask import shared_client

import gpubench as gb
from gpubench.core.checkpoint import Checkpoint
from gpubench.engines import get_engine
from gpubench.engines.dask.classifiers import ClusterClassifier
from gpubench.engines.dask.engine import DaskEngine

N_FOLDS = 3


@pytest.fixture(scope="module")
def cells() -> Cells:
    return make_cells(600, 8, n_labels=4, duplicates=0, seed=1)


@pytest.fixture
def engine() -> DaskEngine:
    return DaskEngine(cluster=shared_client())


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls of classifiers, in order."""
    heard: list[str] = []
    fit, note = ClusterClassifier.fit, ClusterClassifier.note

    def heard_fit(self: ClusterClassifier, *args: Any) -> ClusterClassifier:
        heard.append("fit")
        return fit(self, *args)

    def heard_note(self: ClusterClassifier) -> str:
        heard.append("note")
        return str(note.fget(self))  # type: ignore[attr-defined]

    monkeypatch.setattr(ClusterClassifier, "fit", heard_fit)
    monkeypatch.setattr(ClusterClassifier, "note", property(heard_note))
    return heard


def score(cells: Cells, engine: Any, *classifiers: str, **more: Any) -> list[Any]:
    result = gb.score(
        cells.x,
        label=cells.label,
        tasks=["label_prediction"],
        engine=engine,
        n_folds=N_FOLDS,
        classifiers=classifiers,
        **more,
    )
    assert not result.failures
    return [(row.metric, row.params, row.value, row.note) for row in result.results]


@pytest.mark.slow
def test_classifiers_have_cpu_values(cells: Cells, engine: DaskEngine) -> None:
    kinds = "lr", "knn", "rf"
    assert score(cells, engine, *kinds) == score(cells, get_engine("cpu"), *kinds)


@pytest.mark.slow
def test_folds_train_on_all_workers_at_a_time(cells: Cells, engine: DaskEngine, events: list[str]) -> None:
    assert engine.n_workers == 2
    score(cells, engine, "lr")
    assert events == ["fit", "fit", "note", "fit", "note", "note"]


@pytest.mark.slow
def test_resume_does_not_train_finished_folds(
    cells: Cells, engine: DaskEngine, events: list[str], tmp_path: Path
) -> None:
    with Checkpoint(tmp_path) as checkpoint:
        whole = score(cells, engine, "lr", checkpoint=checkpoint)
    folds = sorted(file for file in tmp_path.glob(".checkpoint/*.json") if "scores" in file.read_text())
    assert len(folds) == N_FOLDS
    for fold in folds[1:]:
        fold.unlink()
    events.clear()
    with Checkpoint(tmp_path) as checkpoint:
        assert score(cells, engine, "lr", checkpoint=checkpoint) == whole
    assert events == ["fit", "fit", "note", "note"]


@pytest.mark.slow
def test_training_error_becomes_the_note_of_its_scores(engine: DaskEngine, events: list[str]) -> None:
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    result = gb.score(
        x,
        label=["a", "b"] * 3,
        min_class_size=1,
        tasks=["label_prediction"],
        engine=engine,
        n_folds=N_FOLDS,
        classifiers=("knn",),
    )
    assert all(
        np.isnan(row.value) and "5 neighbours vote, but there are 4 training cells" in row.note
        for row in result.results
    )
    assert events.count("fit") == N_FOLDS

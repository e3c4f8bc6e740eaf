"""What a run keeps of each cell makes up its numbers, outlives the embedding, and comes back from its file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from cells import make_cells

import gpubench as gb
from gpubench.core.errors import InputError
from gpubench.core.scores import CLUSTER, FOLD, PREDICTED, CellColumn, CellScores, CellView, MetricResult
from gpubench.core.types import Labels
from gpubench.data import encode_labels
from gpubench.engines.base import Engine
from gpubench.metrics import METRICS
from gpubench.results.cells_file import read_cells, write_cells
from gpubench.results.result import Result

CELLS = make_cells(400, 6, n_labels=4, n_batches=3, seed=1)
LABEL = np.array(["B", "T", "NK", "mono"])[CELLS.label]
SPECIES = np.where(np.arange(400) % 2, "human", "mouse")
TASKS = ["clustering", "embedding", "batch_integration", "sequential_organization", "scib"]


@pytest.fixture(scope="module")
def result() -> Result:
    columns = {"label": LABEL, "batch": CELLS.batch, "time": CELLS.time, "species": SPECIES}
    tasks = [*TASKS, "cross_species_integration", "cross_species_label_prediction"]
    return gb.score({"X_pca": CELLS.x}, **columns, tasks=tasks, engine="cpu")


def group_of(column: CellColumn) -> np.ndarray:
    return LABEL if column.mean_over == "labels" else np.zeros(400, int)


@pytest.mark.slow
def test_each_number_is_the_mean_of_its_cells(result: Result) -> None:
    columns = [column for column in result.cells.columns if column.names is None]
    for column in columns:
        values = pd.Series(column.values.astype(float))
        assert column.values.shape == (400,)
        assert column.values.dtype == np.float32
        mean = values.groupby(group_of(column)).mean().mean()
        assert mean == pytest.approx(result.value(column.metric, task=column.task), abs=1e-6), column.metric
    columns_of_scores = {(column.task, column.metric) for column in columns}
    assert columns_of_scores == {
        ("embedding", "silhouette_score"),
        ("batch_integration", "entropy_per_cell"),
        ("batch_integration", "batch_silhouette"),
        ("cross_species_integration", "entropy_per_cell"),
        ("cross_species_integration", "batch_silhouette"),
        ("sequential_organization", "silhouette_score"),
        ("sequential_organization", "sequential_alignment"),
        ("scib", "isolated_labels"),
        ("scib", "silhouette_score"),
        ("scib", "bras"),
    }


def test_clusters_are_those_that_were_scored(result: Result) -> None:
    column = result.cells.find(CLUSTER, task="clustering")
    assert column.names is not None
    ari = METRICS["adjusted_rand_index"](LABEL, np.array(column.names)[column.values])
    assert float(ari) == result.value("adjusted_rand_index")


@pytest.mark.slow
def test_predictions_are_those_that_were_scored() -> None:
    label = np.repeat(["a", "b", "c", "rare"], [150, 120, 125, 5])
    x = np.random.default_rng(0).normal(size=(400, 4)) + 2 * np.eye(4)[np.unique(label, return_inverse=True)[1]]
    result = gb.score({"X": x.astype(np.float32)}, label=label, tasks="label_prediction", engine="cpu")
    for classifier in ("lr", "knn", "rf"):
        column = result.cells.find(PREDICTED, classifier=classifier)
        assert column.names == ("a", "b", "c", "rare")
        assert set(np.flatnonzero(column.values == -1)) == set(np.flatnonzero(label == "rare")), "left out of the task"
        right = np.array(column.names)[column.values] == label
        accuracy = right[label != "rare"].mean()  # the folds have 79 cells each
        assert accuracy == pytest.approx(result.value("mean_fold_accuracy", classifier=classifier), abs=1e-12)
    folds = result.cells.find(FOLD)
    assert folds.names == ("1", "2", "3", "4", "5")
    assert np.bincount(folds.values + 1).tolist() == [(label == "rare").sum(), *[79] * 5]


def test_predictions_between_species(result: Result) -> None:
    columns = result.cells.select(task="cross_species_label_prediction", metric=PREDICTED)
    assert [dict(column.params) for column in columns] == [
        {"train_species": train, "classifier": kind} for train in ("human", "mouse") for kind in ("lr", "knn", "rf")
    ]
    for column in columns:
        train = column.params["train_species"]
        tested = train != SPECIES
        assert (column.values >= 0).all()
        accuracy = (np.array(column.names)[column.values] == LABEL)[tested].mean()
        assert accuracy == pytest.approx(result.value("accuracy", **column.params), abs=1e-12)


def test_merged_samples_record_no_cells() -> None:
    sample = np.arange(400) // 4
    columns = {"label": np.array(["a", "b"])[sample % 2], "species": SPECIES[sample], "sample": sample}
    result = gb.score({"X": CELLS.x}, **columns, tasks="cross_species_label_prediction", engine="cpu")
    assert result.results
    assert result.cells.columns == []


def test_cells_that_do_not_count_are_nan(engine: Engine) -> None:
    batch = np.where(LABEL == "T", 0, CELLS.batch)  # a label of one batch has nothing to compare
    for score in (
        gb.metrics.silhouette_batch(CELLS.x, LABEL, batch, engine=engine),
        gb.metrics.bras(CELLS.x, LABEL, batch, engine=engine),
    ):
        assert np.array_equal(np.isnan(score.cells), LABEL == "T")


def test_cells_that_were_not_drawn_are_nan(start_engine: Callable[..., Engine]) -> None:
    cells = make_cells(6000, 5, n_labels=4, n_batches=3, seed=1)
    exact, sampled = start_engine(), start_engine()
    sampled.policy = replace(sampled.policy, max_exact_pair_dims=0)
    for metric, groups in (("silhouette_label", ()), ("silhouette_batch", (cells.batch,))):
        score = getattr(gb.metrics, metric)
        whole = score(cells.x, cells.label, *groups, engine=exact)
        some = score(cells.x, cells.label, *groups, engine=sampled)
        drawn = ~np.isnan(some.cells)
        assert drawn.sum() == some.n < whole.n
        assert np.allclose(some.cells[drawn], whole.cells[drawn], atol=1e-5)


@pytest.mark.slow
def test_columns_hold_no_other_memory(result: Result) -> None:
    for column in result.cells.columns:
        base: Any = column.values
        while base.base is not None:
            base = base.base
        assert base.nbytes == 400 * 4


def test_find_selects_by_task_and_embedding(result: Result) -> None:
    assert result.cells.find("silhouette_score", task="embedding").embedding == "X_pca"
    with pytest.raises(InputError, match=r"find\('silhouette_score'\): 3 columns of cells match; tell them apart by"):
        result.cells.find("silhouette_score")
    with pytest.raises(InputError, match="0 columns of cells match; there are: cluster"):
        result.cells.find("no such metric")


def test_groups_of_the_run_are_stored(result: Result) -> None:
    cells = result.cells
    assert cells.n_cells == 400
    assert list(cells.groups) == ["label", "batch", "species", "time"]
    assert np.array_equal(np.array(cells.groups["label"].names)[cells.groups["label"].codes], LABEL)
    assert np.array_equal(cells.times, CELLS.time)


def same(a: CellScores, b: CellScores) -> None:
    assert a.n_cells == b.n_cells
    assert a.groups.keys() == b.groups.keys()
    for role, labels in a.groups.items():
        assert (labels.names, labels.key) == (b.groups[role].names, b.groups[role].key)
        assert np.array_equal(labels.codes, b.groups[role].codes)
    for one, other in zip(a.columns, b.columns, strict=True):
        assert one.values.dtype == other.values.dtype
        assert np.array_equal(one.values, other.values, equal_nan=True)
        for field in ("embedding", "task", "metric", "names", "mean_over"):
            assert getattr(one, field) == getattr(other, field)
        assert dict(one.params) == dict(other.params)
    assert a.views.keys() == b.views.keys()
    for key, view in a.views.items():
        assert view.title == b.views[key].title
        assert np.array_equal(view.rows, b.views[key].rows)
        assert np.array_equal(view.xy, b.views[key].xy)


def test_files_restore_all_columns(result: Result, tmp_path: Path) -> None:
    result.to_json(tmp_path / "results.json")
    result.cells_to_parquet(tmp_path / "cells.parquet")
    read = Result.from_json(tmp_path / "results.json")
    same(read.cells, result.cells)
    assert np.array_equal(read.cells.times, CELLS.time)
    assert Result.from_json(tmp_path / "results.json", cells=False).cells.columns == []
    frame = pd.read_parquet(tmp_path / "cells.parquet")
    assert list(frame["label"]) == list(LABEL)
    mean = frame["X_pca/embedding/silhouette_score"].mean()
    assert mean == pytest.approx(result.value("silhouette_score", task="embedding"), abs=1e-6)


def test_names_of_any_kind_are_restored(tmp_path: Path) -> None:
    names = ("b", "\udc80 damaged", "", "no cell has it", "\u00fc \U0001f9ec")
    codes = np.array([4, 1, 0, 2, 0], np.int32)
    column = CellColumn("X", "t", CLUSTER, np.array([-1, 3, 3, 0, -1], np.int32), {"classifier": "lr"}, names)
    number = CellColumn("X\udc80", "t", "m", np.array([np.nan, 1, 2, 3, 4], np.float32), mean_over="labels")
    view = CellView("X_umap", np.array([1, 2, 4]), np.ones((3, 2), np.float32))
    cells = CellScores(5, {"label": Labels(codes, names, "key")}, None, [column, number, number], {"": view})
    write_cells(cells, [], tmp_path / "c.parquet")
    read = read_cells(tmp_path / "c.parquet", [])
    assert read is not None
    same(read, cells)


def test_cells_file_of_other_results_is_ignored(tmp_path: Path) -> None:
    cells = CellScores(2, {"label": encode_labels(["a", "b"], "label")})
    row = MetricResult("X", "embedding", "silhouette_score", 0.5)
    write_cells(cells, [row], tmp_path / "cells.parquet")
    assert read_cells(tmp_path / "cells.parquet", [row]) is not None
    assert read_cells(tmp_path / "cells.parquet", []) is None
    assert read_cells(tmp_path / "none.parquet", [row]) is None


def test_damaged_file_raises_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "cells.parquet").write_bytes(b"PAR1 damaged")
    with pytest.raises(InputError, match=r"cells.parquet' cannot be read .*score again, or move it away"):
        read_cells(tmp_path / "cells.parquet", [])

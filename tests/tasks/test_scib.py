"""scib: the scores of scib-metrics' Benchmarker, their aggregates, and what it needs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from cells import Cells

import gpubench as gb
from gpubench.core.errors import InputError
from gpubench.results.result import Result
from gpubench.tasks import TASKS

BIO = (
    "isolated_labels",
    "nmi_ari_cluster_labels_kmeans_nmi",
    "nmi_ari_cluster_labels_kmeans_ari",
    "silhouette_score",
    "clisi_knn",
)
BATCH = ("bras", "ilisi_knn", "kbet_per_label", "graph_connectivity", "pcr_comparison")


@pytest.fixture
def cells(small_cells: Cells) -> AnnData:
    obs = pd.DataFrame({"label": small_cells.label.astype(str), "batch": small_cells.batch.astype(str)})
    obs.index = [f"cell {i}" for i in range(len(obs))]
    before = small_cells.x + 2 * small_cells.batch[:, None].astype(np.float32)
    return AnnData(obs=obs, obsm={"X_after": small_cells.x, "X_before": before})


def score(cells: Any, **given: Any) -> Result:
    return gb.score(cells, ["X_after"], label="label", batch="batch", tasks="scib", engine="cpu", **given)


def test_aggregates_are_means_of_the_scores(cells: AnnData) -> None:
    result = score(cells, pre_integrated="X_before")
    assert [row.metric for row in result.results] == list(TASKS["scib"].metrics)
    assert not result.failures
    bio, batch = (np.mean([result.value(metric) for metric in metrics]) for metrics in (BIO, BATCH))
    assert result.value("bio_conservation") == pytest.approx(bio)
    assert result.value("batch_correction") == pytest.approx(batch)
    assert result.value("total") == pytest.approx(0.6 * bio + 0.4 * batch)
    assert {row.n for row in result.results if row.metric in ("bio_conservation", "total")} == {400}
    assert result.provenance["options"]["pre_integrated"] == "X_before"


def test_scores_equal_those_of_the_metrics(cells: AnnData) -> None:
    result = score(cells, pre_integrated=cells.obsm["X_before"])
    x, label, batch = cells.obsm["X_after"], cells.obs["label"], cells.obs["batch"]
    assert result.value("bras") == gb.metrics.bras(x, label, batch, engine="cpu")
    assert result.value("kbet_per_label") == gb.metrics.kbet_per_label(x, batch, label, engine="cpu")
    assert result.value("ilisi_knn") == gb.metrics.ilisi_knn(x, batch, engine="cpu")
    assert result.value("graph_connectivity") == gb.metrics.graph_connectivity(x, label, engine="cpu")
    pcr = gb.metrics.pcr_comparison(cells.obsm["X_before"], x, batch, engine="cpu")
    assert result.value("pcr_comparison") == pcr > 0


def test_pcr_without_pre_integrated_is_undefined(cells: AnnData) -> None:
    result = score(cells)
    rows = {row.metric: row for row in result.results}
    assert math.isnan(rows["pcr_comparison"].value)
    assert "pre_integrated is not given" in rows["pcr_comparison"].note
    assert rows["batch_correction"].value == pytest.approx(np.mean([result.value(metric) for metric in BATCH[:-1]]))
    assert "'pcr_comparison'" in rows["batch_correction"].note
    assert "'pcr_comparison'" in rows["total"].note
    assert not rows["bio_conservation"].note


def test_task_runs_only_if_named(cells: AnnData) -> None:
    result = gb.score(cells, ["X_after"], label="label", batch="batch", engine="cpu", n_folds=2)
    assert "scib" not in {row.task for row in result.results} | {left_out["task"] for left_out in result.skipped}


def test_pre_integrated_may_be_a_file(cells: AnnData, tmp_path: Path) -> None:
    np.save(tmp_path / "before.npy", cells.obsm["X_before"])
    by_path = score(cells, pre_integrated=str(tmp_path / "before.npy"))
    assert by_path.value("pcr_comparison") == score(cells, pre_integrated="X_before").value("pcr_comparison")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pre_integrated": "X_befor"}, "'X_befor' is not in .*did you mean 'X_before'"),
        ({"pre_integrated": np.zeros((3, 2))}, "pre_integrated has 3 rows but the data has 400"),
        ({"pre_integrated": np.full((400, 2), np.nan)}, "pre_integrated: 400 of 400 rows"),
        ({"pre_integrated": "X_before", "tasks": "embedding"}, "pre_integrated is used by the task 'scib' only"),
    ],
)
def test_unusable_pre_integrated_raises(cells: AnnData, given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        gb.score(cells, ["X_after"], label="label", batch="batch", engine="cpu", **{"tasks": "scib", **given})


def test_pre_integrated_key_of_an_array_raises(small_cells: Cells) -> None:
    with pytest.raises(InputError, match="pre_integrated='X_pca' is not a file, and data has no keys"):
        gb.score(
            small_cells.x,
            label=small_cells.label,
            batch=small_cells.batch,
            tasks="scib",
            pre_integrated="X_pca",
            engine="cpu",
        )

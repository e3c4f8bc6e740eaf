"""Results as the objects of cz-benchmarks and of scib-metrics."""

from __future__ import annotations

import sys
import types
from enum import Enum
from typing import Any

import numpy as np
import pytest
from cells import make_cells

import gpubench as gb
from gpubench.core.errors import InputError
from gpubench.core.scores import MetricResult
from gpubench.results.result import Result


class MetricType(Enum):
    """A few members of czbenchmarks' enumeration, so that the test runs without it."""

    MEAN_FOLD_F1_SCORE = "mean_fold_f1"
    MEAN_FOLD_AUROC = "mean_fold_auroc"
    SPEARMAN = "spearman_correlation_calculation"
    F1 = "f1"


class CzResult:
    def __init__(self, metric_type: MetricType, value: float, params: dict[str, Any]) -> None:
        self.row = (metric_type, value, params)


@pytest.fixture(autouse=True)
def _czbenchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = types.ModuleType("czbenchmarks.metrics.types")
    stand_in.MetricType, stand_in.MetricResult = MetricType, CzResult  # type: ignore[attr-defined]
    for name in ("czbenchmarks", "czbenchmarks.metrics"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "czbenchmarks.metrics.types", stand_in)


def row(metric: str, value: float, task: str = "label_prediction", embedding: str = "X", **params: Any) -> MetricResult:
    return MetricResult(embedding, task, metric, value, params=params)


def result(*rows: MetricResult) -> Result:
    return Result(list(rows), {}, [], [], [])


def test_to_czbenchmarks_puts_means_first_with_its_parameters() -> None:
    ours = result(
        row("mean_fold_f1", 0.1, classifier="lr", n_neighbors=3),
        row("mean_fold_auroc", 0.2, classifier="lr"),
        row("mean_fold_users_own", 0.5, classifier="lr"),
        row("mean_fold_f1", 0.3, classifier="MEAN(knn,lr,rf)"),
        row("spearman_correlation_calculation", np.nan, "perturbation", condition="a", effect="ratio"),
        row("spearman_correlation_calculation", 0.4, "perturbation", condition="MEAN"),
    )
    first, second, third, last = [one.row for one in ours.to_czbenchmarks()]
    assert first == (MetricType.MEAN_FOLD_F1_SCORE, 0.3, {"classifier": "MEAN(knn,lr,rf)"})
    assert second == (MetricType.MEAN_FOLD_F1_SCORE, 0.1, {"classifier": "lr"})
    assert third == (MetricType.MEAN_FOLD_AUROC, 0.2, {"classifier": "lr"})
    assert last[0] is MetricType.SPEARMAN
    assert np.isnan(last[1])
    assert last[2] == {"condition": "a"}


def test_to_czbenchmarks_sorts_pairs_of_species_by_name() -> None:
    pairs = [("mouse", "human"), ("human", "mouse"), ("human", "human")]
    rows = [
        row("f1", 0.0, "cross_species_label_prediction", train_species=a, test_species=b, classifier=classifier)
        for a, b in pairs
        for classifier in ("lr", "MEAN(lr,knn,rf)")
    ]
    found = [tuple(one.row[2].values()) for one in result(*rows).to_czbenchmarks()]
    expected = [(name, a, b) for a, b in sorted(pairs) for name in ("MEAN(lr,knn,rf)", "lr")]
    assert found == expected


def test_to_czbenchmarks_returns_the_chosen_embedding() -> None:
    ours = result(row("f1", 0.1, embedding="X_pca"), row("f1", 0.2, embedding="X_scvi"))
    (one,) = ours.to_czbenchmarks("X_scvi")
    assert one.row[1] == 0.2
    with pytest.raises(InputError, match="X_pca, X_scvi; choose one"):
        ours.to_czbenchmarks()
    with pytest.raises(InputError, match="no embedding 'X_umap'"):
        ours.to_czbenchmarks("X_umap")


def test_to_czbenchmarks_without_czbenchmarks_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "czbenchmarks.metrics.types", None)
    with pytest.raises(InputError, match="needs czbenchmarks"):
        result().to_czbenchmarks()


def test_to_scib_table_equals_that_of_scib_metrics() -> None:
    cells = make_cells(200, 5, n_labels=3, n_batches=2, seed=1)
    scored = gb.score(
        {"a": cells.x, "b": cells.x[:, :3]}, label=cells.label, batch=cells.batch, tasks=["scib"], engine="cpu"
    )
    table = scored.to_scib_table()
    assert list(table.index) == ["a", "b", "Metric Type"]
    assert table.index.name == "Embedding"
    assert table.columns[-3:].tolist() == ["Batch correction", "Bio conservation", "Total"]
    assert table.loc["a", "Silhouette label"] == scored.value("silhouette_score", embedding="a")
    kinds = table.loc["Metric Type"]
    bio_columns = table.loc["b", kinds == "Bio conservation"].astype(float)
    assert bio_columns.mean() == pytest.approx(table.loc["b", "Bio conservation"])
    assert kinds["Total"] == "Aggregate score"
    assert len(table.columns) == len({one.metric for one in scored.results})


def test_to_scib_table_without_the_task_scib_raises() -> None:
    with pytest.raises(InputError, match="tasks=\\['scib'\\]"):
        result(row("f1", 0.1)).to_scib_table()

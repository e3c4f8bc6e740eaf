"""A plain metric is one function, one entry in a list, and one oracle; everything else follows from its declaration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
from cells import Cells, make_cells
from metric_cases import plain
from numpy.testing import assert_allclose
from numpy.typing import ArrayLike

import gpubench as gb
from gpubench.cli import listing
from gpubench.core.scores import Score
from gpubench.data import encode_labels
from gpubench.engines.base import Engine
from gpubench.engines.embedding import on_engine
from gpubench.metrics import METRICS
from gpubench.metrics._metric import metric, per_cell_values
from gpubench.metrics._neighborhoods import search_params
from gpubench.tasks import TASKS
from gpubench.tasks._task import task_of_metrics


@metric(
    "label_purity",
    "Label purity",
    bounds=(0, 1),
    needs=("label",),
    options=("k",),
    neighbors=lambda options: options.k,
)
def label_purity(X: Any, labels: Any, *, k: int = 15, engine: Engine | str | None = None) -> Score:
    """Return the mean share of a cell's neighbours that have its label."""
    embedding = on_engine(X, engine)
    codes = embedding.engine.xp.asarray(encode_labels(labels, "labels", embedding.n).codes)
    knn = embedding.knn(k)
    shares = embedding.engine.to_host((codes[knn.indices] == codes[:, None]).mean(axis=1))
    cells = per_cell_values(shares)
    params = {"k": k, **search_params(knn)}
    return Score(float(shares.mean()), n=embedding.n, params=params, approximate=not knn.exact, cells=cells)


def oracle(x: ArrayLike, labels: ArrayLike, k: int = 15) -> float:
    labels = np.asarray(labels)
    return float(np.mean([(labels[row] == labels[i]).mean() for i, row in enumerate(reference.knn(x, k)[0])]))


@pytest.fixture(autouse=True)
def _entries(monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of_metrics("purity", "Purity", "Do neighbours share labels?", metrics=(label_purity,))
    monkeypatch.setitem(METRICS, "label_purity", label_purity)
    monkeypatch.setitem(TASKS, "purity", task)


@pytest.fixture(scope="module")
def cells() -> Cells:
    """Cells whose values are multiples of 1/256: they keep all their bits where they are shifted and scaled."""
    drawn = make_cells(400, 8, n_labels=5, n_batches=3, duplicates=0, seed=2)
    return Cells((drawn.x * 256).round() / np.float32(256), drawn.label, drawn.batch, drawn.time)


def test_listings_and_tables_have_the_metric() -> None:
    assert "label_purity  [0, 1]\n  Return the mean share of a cell's neighbours" in listing.metrics_text()
    assert [metric["id"] for metric in listing.metrics_data()].count("label_purity") == 1
    assert listing.tasks_data()["tasks"][-1]["needs"] == ["label"]
    assert "| `purity` | Do neighbours share labels? | label | `label_purity` |\n" in listing.tasks_table()


def test_cases_of_the_invariance_tests_follow_from_the_declaration(engine: Engine, cells: Cells) -> None:
    for case in plain("label_purity", oracle, {"k": 5}, {"k": 30}):
        args = case.args(cells)
        score = case.score(engine, args)
        assert score == pytest.approx(case.exact(args), abs=case.tolerance)
        assert 0 < score < 1
        names = [change.__name__ for change in case.unchanged_by]
        assert names == ["permute", "rotate X", "mirror X", "shrink X", "enlarge X", "shift X", "rename labels"]
        for change in case.unchanged_by:
            assert_allclose(case.score(engine, change(args)), score, atol=case.tolerance)


def test_a_task_scores_the_metric_with_its_column_and_options_on_the_shared_graph(cells: Cells) -> None:
    result = gb.score({"X": cells.x}, label=cells.label, tasks=["clustering", "purity"], engine="cpu", k=20)
    (row,) = (row for row in result.results if row.task == "purity")
    assert row.value == pytest.approx(oracle(cells.x, cells.label, 20), abs=1e-12)
    assert row.params == {"k": 20}
    assert [stage["path"] for stage in result.timeline if stage["path"].endswith("knn")] == ["X/knn"]


def test_neighbors_beyond_the_number_of_cells_are_cut_with_a_note(cells: Cells) -> None:
    few = {"X": cells.x[:12]}
    (row,) = gb.score(few, label=np.arange(12) % 2, tasks="purity", engine="cpu").results
    assert row.params == {"k": 11}
    assert row.note == "k cut from 15 to 11, the number of other cells"


def test_the_plan_has_the_metric(cells: Cells) -> None:
    text = str(gb.plan({"X": cells.x}, label=cells.label, tasks="purity", engine="cpu"))
    assert "label_purity" in text


def test_comparisons_have_its_interval_over_cells(cells: Cells) -> None:
    noise = np.random.default_rng(0).normal(size=cells.x.shape).astype(np.float32)
    given = {"label": cells.label, "tasks": "purity", "engine": "cpu"}
    results = [gb.score({"X": x}, **given) for x in (cells.x, cells.x + 3 * noise)]
    (row,) = gb.compare(results).rows
    difference = row.differences[1]
    assert (row.metric, difference.method) == ("label_purity", "bootstrap")
    assert difference.interval[0] < difference.value < difference.interval[1] < 0

"""The integration metrics: what is undefined, left out, shared or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference_integration as integration
from cells import Cells

from gpubench import metrics
from gpubench.core.errors import InputError
from gpubench.engines.base import Engine
from gpubench.engines.embedding import on_engine

X = np.array([[0.0], [1.0], [3.0], [6.0], [10.0], [15.0]])
BATCH = ["u", "v", "u", "v", "u", "v"]


def test_bras_equals_values_by_hand(engine: Engine) -> None:
    # Cells 0, 2 of batch u and 1, 4 of v: a = 2, 3, 2, 3; b = 5/2, 1, 3/2, 3.
    x, batch = np.array([[0.0], [1.0], [2.0], [4.0]]), ["u", "v", "u", "v"]
    widths = np.array([1 - 2 / 2.5, 1 / 3 - 1, 1.5 / 2 - 1, 1 - 3 / 3])
    score = metrics.bras(x, ["a"] * 4, batch, metric="euclidean", engine=engine)
    assert score == pytest.approx((1 - np.abs(widths)).mean())


def test_labels_without_batches_to_compare_are_left_out(engine: Engine, small_cells: Cells) -> None:
    score = metrics.bras(small_cells.x, small_cells.label, small_cells.label, engine=engine)
    assert np.isnan(score)
    assert "no label has cells of two batches" in score.note
    every = np.where(small_cells.label == 0, 0, small_cells.batch)
    assert "left out" in metrics.bras(small_cells.x, small_cells.label, every, engine=engine).note


def test_isolated_labels_depend_on_the_threshold(engine: Engine, small_cells: Cells) -> None:
    c = small_cells
    batch = np.where(c.label < 2, 0, c.batch)
    for threshold in (None, 1, 3):
        score = metrics.isolated_labels(c.x, c.label, batch, iso_threshold=threshold, engine=engine)
        assert score == pytest.approx(integration.isolated_labels(c.x, c.label, batch, threshold), abs=1e-6)
    none = metrics.isolated_labels(c.x, c.label, batch, iso_threshold=0, engine=engine)
    assert np.isnan(none)
    assert "more than 0 batches" in none.note


@pytest.mark.slow
def test_graph_gives_the_scores_of_the_cells(engine: Engine, small_cells: Cells) -> None:
    cells = on_engine(small_cells.x, engine)
    knn = cells.knn(29)
    for metric in (metrics.ilisi_knn, metrics.kbet, metrics.graph_connectivity):
        assert metric(knn, small_cells.batch, engine=engine) == metric(cells, small_cells.batch, n_neighbors=30)
    ours = metrics.kbet_per_label(knn, small_cells.batch, small_cells.label, engine=engine)
    assert ours == metrics.kbet_per_label(cells, small_cells.batch, small_cells.label, n_neighbors=30)
    with pytest.raises(InputError, match="n_neighbors=31: X holds 30"):
        metrics.kbet(knn, small_cells.batch, n_neighbors=31, engine=engine)


def test_neighbors_are_cut_to_the_number_of_cells_with_a_note(engine: Engine) -> None:
    score = metrics.ilisi_knn(X, BATCH, engine=engine)
    assert score.params == {"n_neighbors": 6, "perplexity": 2}
    assert "cut from 90 to 6" in score.note


@pytest.mark.slow
def test_kbet_of_labels_averages_to_kbet_per_label(engine: Engine, small_cells: Cells) -> None:
    c = small_cells
    label = np.array(["large", "medium", "small"])[np.where(c.label < 2, c.label, 2)]
    label[:5] = "few"
    batch = np.where(label == "small", 0, c.batch)
    scores = metrics.kbet_of_labels(c.x, batch, label, engine=engine)
    assert list(scores) == ["few", "large", "medium", "small"]
    assert np.isnan([scores["few"], scores["small"]]).all()
    mean = metrics.kbet_per_label(c.x, batch, label, engine=engine)
    assert mean == pytest.approx((scores["large"] + scores["medium"]) / 2)
    assert "2 of 4 labels left out" in mean.note
    assert "'few', 'small'" in mean.note


def test_kbet_of_a_label_in_small_components_is_zero(engine: Engine, rng: np.random.Generator) -> None:
    # 10 cells at each of 8 places: no piece has three times as many cells as are tested.
    x = rng.normal(size=(80, 2)) + 1000 * np.repeat(np.arange(8), 10)[:, None]
    batch = np.arange(80) % 2
    score = metrics.kbet_per_label(x, batch, ["a"] * 80, n_neighbors=5, engine=engine)
    assert score == 0
    assert "falls apart" in score.note


def test_pcr_without_explained_variance_is_undefined(engine: Engine) -> None:
    batch = ["u", "u", "u", "v", "v", "v"]
    worse = metrics.pcr_comparison(X + np.array([0, 9, 3, 0, 9, 3])[:, None], X, batch, engine=engine)
    assert worse == 0
    assert "explains more of X_post" in worse.note
    for before, why in ((np.zeros((6, 1)), "X_pre: undefined: all cells"), (np.array([[1], [0], [2]] * 2), "nothing")):
        undefined = metrics.pcr_comparison(before, X, batch, engine=engine)
        assert np.isnan(undefined)
        assert why in undefined.note
    with pytest.raises(InputError, match="X_pre has 3 rows but X_post has 6"):
        metrics.pcr_comparison(X[:3], X, batch, engine=engine)


def test_aggregates_leave_out_undefined_scores() -> None:
    score = metrics.bio_conservation([0.5, np.nan, 1.0])
    assert (score, score.n) == (0.75, 2)
    assert "1 of 3 scores left out" in score.note
    assert np.isnan(metrics.total([0.5], [np.nan]))
    with pytest.raises(InputError, match="scores is empty"):
        metrics.batch_correction([])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: metrics.ilisi_knn(X, ["u"] * 6, engine=e), "batches has one value"),
        (lambda e: metrics.clisi_knn(X, BATCH, n_neighbors=2, engine=e), "n_neighbors=2 leaves a perplexity below 1"),
        (lambda e: metrics.lisi_knn(X, BATCH, perplexity=0.5, engine=e), "perplexity=0.5 leaves"),
        (lambda e: metrics.kbet(X, BATCH, alpha=1.5, engine=e), "alpha=1.5"),
        (lambda e: metrics.kbet_per_label(X, BATCH, BATCH, diffusion_n_comps=0, engine=e), "diffusion_n_comps=0"),
        (lambda e: metrics.graph_connectivity(X, BATCH, n_neighbors=1, engine=e), "n_neighbors=1"),
        (lambda e: metrics.kmeans_clusters(X, 7, engine=e), "n_clusters=7"),
        (lambda e: metrics.bras(X, BATCH, BATCH, metric="manhattan", engine=e), "metric='manhattan'"),
    ],
)
def test_bad_input_raises(engine: Engine, call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(engine)

"""silhouette_label and silhouette_batch: real cells, values by hand, edge cases."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import reference
from cells import Cells, read_embedding

from gpubench.core.errors import InputError
from gpubench.engines.base import Engine
from gpubench.engines.embedding import on_engine
from gpubench.metrics import silhouette_batch, silhouette_label

# One dimension, so that widths can be worked out by hand: two labels of two cells, 3 apart.
X = np.array([[0.0], [1.0], [4.0], [5.0]])
LABELS = ["a", "a", "b", "b"]


@pytest.mark.parametrize(
    ("file", "column", "published"),
    [
        ("pbmc3k", "cell_type", 0.535146),
        ("celllines_5batch", "cell_type", 0.640919),
        ("worm_embryo", "cell_type", 0.453607),
        ("worm_embryo", "time_rank", 0.444814),
    ],
)
def test_labels_of_real_cells_have_the_published_score(
    engine: Engine, shared_data: Path, file: str, column: str, published: float
) -> None:
    x, columns = read_embedding(shared_data / f"{file}.h5ad", column)
    score = silhouette_label(x, columns[column], engine=engine)
    assert score == pytest.approx(reference.silhouette_label(x, columns[column]), abs=1e-6)
    assert score == pytest.approx(published, abs=1e-5)
    assert (score.n, score.note, score.stderr, score.approximate) == (len(x), "", None, False)


@pytest.mark.parametrize(
    ("file", "batch", "published"),
    [
        ("celllines_5batch", "batch", 0.899418),
        ("worm_embryo", "batch", 0.859856),
        ("pancreas_human_mouse", "species", 0.630989),
    ],
)
def test_batches_of_real_cells_have_the_published_score(
    engine: Engine, shared_data: Path, file: str, batch: str, published: float
) -> None:
    x, columns = read_embedding(shared_data / f"{file}.h5ad", "cell_type", batch)
    score = silhouette_batch(x, columns["cell_type"], columns[batch], engine=engine)
    assert score == pytest.approx(reference.silhouette_batch(x, columns["cell_type"], columns[batch]), abs=1e-6)
    assert score == pytest.approx(published, abs=1e-5)


def test_labels_equal_values_by_hand(engine: Engine) -> None:
    # a = 1 everywhere; b = 4.5, 3.5, 3.5, 4.5
    widths = [3.5 / 4.5, 2.5 / 3.5, 2.5 / 3.5, 3.5 / 4.5]
    assert silhouette_label(X, LABELS, engine=engine) == pytest.approx((np.mean(widths) + 1) / 2, abs=1e-7)


def test_batches_equal_values_by_hand(engine: Engine) -> None:
    # Label p holds the four cells and their widths from above; label q two batches at the same place, width -1/2 and 0.
    x = np.concatenate([X, [[7.0], [7.0], [8.0]]])
    labels, batch = list("ppppqqq"), ["a", "a", "b", "b", "a", "b", "b"]
    p = 1 - np.mean([3.5 / 4.5, 2.5 / 3.5, 2.5 / 3.5, 3.5 / 4.5])
    # a's cell is alone in its batch: 0. b at 7: a = 1, b = 0: -1. b at 8: a = 1, b = 1: 0.
    q = 1 - np.mean([0, 1, 0])
    score = silhouette_batch(x, labels, batch, engine=engine)
    assert score == pytest.approx((p + q) / 2, abs=1e-6)
    assert score.n == 7


def test_cosine_depends_only_on_directions(engine: Engine) -> None:
    x = np.array([[1, 0], [5, 0], [0, 2], [0, 9]])
    score = silhouette_label(x, LABELS, metric="cosine", engine=engine)
    assert score == 1
    assert score.params == {"metric": "cosine"}


def test_a_cell_alone_in_its_label_counts_as_zero(engine: Engine) -> None:
    x = np.concatenate([X, [[1000.0]]])
    expected = (4 * (2 * silhouette_label(X, LABELS, engine=engine) - 1) / 5 + 1) / 2
    assert silhouette_label(x, [*LABELS, "alone"], engine=engine) == pytest.approx(expected, abs=1e-6)


def test_labels_without_batches_to_compare_are_left_out_and_named(engine: Engine, small_cells: Cells) -> None:
    c = small_cells
    batch = c.batch.copy()
    batch[c.label == 1] = 0
    rare = np.flatnonzero(c.label == 4)[:3]
    x, label = np.concatenate([c.x, c.x[rare] + 50]), np.concatenate([c.label, [9, 9, 9]])
    batch = np.concatenate([batch, [0, 1, 2]])
    score = silhouette_batch(x, label, batch, engine=engine)
    assert score == pytest.approx(reference.silhouette_batch(x, label, batch), abs=1e-6)
    usable = ~np.isin(label, [1, 9])
    assert score == silhouette_batch(x[usable], label[usable], batch[usable], engine=engine)
    assert score.n == usable.sum()
    assert "2 of 7 labels left out" in score.note
    assert score.note.endswith(": 1, 9")


@pytest.mark.parametrize("batch", [["u", "u", "v", "v"], ["u", "v", "u", "v"], list("uuuu")])
def test_score_without_comparable_batches_is_undefined(engine: Engine, batch: list[str]) -> None:
    score = silhouette_batch(X, LABELS, batch, engine=engine)
    assert math.isnan(score)
    assert score.note.startswith("undefined")
    assert score.n == 0


def test_empty_categories_are_ignored(engine: Engine, small_cells: Cells) -> None:
    c = small_cells
    label = pd.Categorical(c.label.astype(str), categories=["none", *map(str, range(9))])
    batch = pd.Series(pd.Categorical(c.batch, categories=[7, 1, 2, 0]))
    assert silhouette_label(c.x, label, engine=engine) == silhouette_label(c.x, c.label, engine=engine)
    assert silhouette_batch(c.x, label, batch, engine=engine) == silhouette_batch(c.x, c.label, c.batch, engine=engine)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a"] * 4, "labels has one value"),
        (list("abcd"), "labels has a different value in each"),
        (["a", "a", "b"], "labels has 3 values"),
        (["a", None, "b", "b"], "labels"),
        ([1.0, np.nan, 2.0, 2.0], "labels"),
    ],
)
def test_bad_labels_raise(engine: Engine, labels: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        silhouette_label(X, labels, engine=engine)


@pytest.mark.parametrize(
    ("labels", "batch", "message"),
    [
        (LABELS, ["u", "v", "u"], "batch has 3 values"),
        (LABELS, ["u", None, "u", "v"], "batch"),
        (["a", None, "b", "b"], ["u", "v", "u", "v"], "labels"),
    ],
)
def test_bad_batches_raise(engine: Engine, labels: list, batch: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        silhouette_batch(X, labels, batch, engine=engine)


def test_unknown_distance_raises(engine: Engine) -> None:
    for score in (silhouette_label, lambda *args, **kwargs: silhouette_batch(*args, LABELS, **kwargs)):
        with pytest.raises(InputError, match="metric='manhattan' is unknown; use 'euclidean' or 'cosine'"):
            score(X, LABELS, metric="manhattan", engine=engine)


def test_embedding_is_transferred_once(engine: Engine, small_cells: Cells) -> None:
    c = small_cells
    embedding = on_engine(c.x, engine)
    with engine.timeline.stage("metrics") as stage:
        assert silhouette_label(embedding, c.label) == silhouette_label(c.x.copy(), c.label, engine=engine)
        put_by_the_copy = stage.put_bytes
        silhouette_batch(embedding, c.label, c.batch)
    assert put_by_the_copy == stage.put_bytes == c.x.nbytes

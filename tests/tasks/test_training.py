"""What classifiers are trained on: cells drawn in the shares of their classes, with the scaling of just those."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cells import Cells, make_cells
from hypothesis import given
from hypothesis import strategies as st

from gpubench.data import encode_labels
from gpubench.engines.cpu import compiled, forest
from gpubench.engines.cpu.engine import CpuEngine, CpuPolicy
from gpubench.tasks._classifiers import ColumnScaling, ScaledClassifier, TrainingCells
from gpubench.tasks._folds import draw_in_shares


@pytest.fixture(scope="module")
def cells() -> Cells:
    return make_cells(1500, 12, n_labels=5, seed=3)


def train(engine: CpuEngine, kind: Any, cells: Cells, rows: np.ndarray | None = None) -> ScaledClassifier:
    """Train as the tasks do, on every second of some rows."""
    labels = encode_labels(cells.label if rows is None else cells.label[rows], "label")
    training = TrainingCells(engine, cells.x, labels, rows, lambda: np.arange(0, len(labels), 2), centre=True)
    params = {"rf": {"n_estimators": 3}}.get(kind, {})
    return ScaledClassifier(engine, kind, training, params, scaled=kind != "rf")


@pytest.mark.parametrize("kind", ["lr", "knn", "rf"])
@pytest.mark.parametrize("rows", [None, np.arange(7, 900)], ids=["all", "some"])
def test_training_equals_training_by_hand(cells: Cells, kind: Any, rows: np.ndarray | None) -> None:
    engine, before = CpuEngine(threads=1), cells.x.copy()
    trained = train(engine, kind, cells, rows)
    chosen = (np.arange(cells.n) if rows is None else rows)[::2]
    scaling = ColumnScaling(engine, cells.x[chosen], centre=True)
    ready = cells.x[chosen] if kind == "rf" else scaling.apply(cells.x[chosen])
    by_hand = engine.classifier(kind, **({"n_estimators": 3} if kind == "rf" else {}))
    by_hand.fit(ready, cells.label[chosen], 5)
    tested = cells.x[1::2].copy() if kind == "rf" else scaling.apply(cells.x[1::2].copy())
    np.testing.assert_array_equal(trained.predict_proba(cells.x[1::2]), by_hand.predict_proba(tested))
    np.testing.assert_array_equal(cells.x, before)
    assert "trained on" not in trained.note


@pytest.mark.parametrize("package", [forest.SKLEARN, forest.OURS])
def test_forests_of_many_cells_are_trained_on_a_sample_unless_exact(
    cells: Cells, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if package == forest.SKLEARN:
        monkeypatch.setenv(compiled.VARIABLE, compiled.NUMPY)
    elif not compiled.available():
        pytest.skip("no compiled tiles")
    monkeypatch.setitem(forest.MAX_FOREST_CELLS, package, 100)
    capped, exact = (train(CpuEngine(threads=1, exact=exact), "rf", cells) for exact in (False, True))
    drawn = 2 * draw_in_shares(cells.label[::2], 100, seed=42)
    by_hand = CpuEngine(threads=1).classifier("rf", n_estimators=3).fit(cells.x[drawn], cells.label[drawn], 5)
    np.testing.assert_array_equal(capped.predict_proba(cells.x), by_hand.predict_proba(cells.x))
    assert capped.note == f"{forest.NOTES[package]}, trained on 100 of 750 cells; exact=True trains on all"
    assert exact.note == forest.NOTES[package]


def test_logistic_regression_of_many_cells_is_trained_and_scaled_on_a_sample(cells: Cells) -> None:
    engine = CpuEngine(threads=1)
    engine.policy = CpuPolicy(max_lr_cells=300)
    capped, exact = train(engine, "lr", cells), train(CpuEngine(threads=1, exact=True), "lr", cells)
    drawn = 2 * draw_in_shares(cells.label[::2], 300, seed=42)
    scaling = ColumnScaling(engine, cells.x[drawn], centre=True)
    by_hand = engine.classifier("lr").fit(scaling.apply(cells.x[drawn]), cells.label[drawn], 5)
    np.testing.assert_array_equal(capped.predict_proba(cells.x), by_hand.predict_proba(scaling.apply(cells.x.copy())))
    assert capped.note == "trained on 300 of 750 cells; exact=True trains on all"
    assert exact.note == ""
    test = np.arange(1, cells.n, 2)
    right = [(one.predict_proba(cells.x[test]).argmax(axis=1) == cells.label[test]).mean() for one in (capped, exact)]
    assert right[0] == pytest.approx(right[1], abs=0.03)


@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(lambda sizes: sum(sizes) > len(sizes)),
    share=st.floats(0, 1),
    seed=st.integers(0, 5),
)
def test_cells_are_drawn_in_the_shares_of_their_classes(sizes: list[int], share: float, seed: int) -> None:
    codes = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes)).astype(np.int32)
    n, least = len(codes), np.count_nonzero(sizes)
    m = int(least + share * (n - 1 - least))
    rows = draw_in_shares(codes, m, seed)
    assert len(rows) == m
    assert (np.diff(rows) > 0).all()
    drawn = np.bincount(codes[rows], minlength=len(sizes))
    assert ((drawn > 0) == (np.array(sizes) > 0)).all()
    shares = np.array(sizes) * m / n
    if (shares[np.array(sizes) > 0] >= 1).all():
        assert (np.abs(drawn - shares) < 1 + 1e-9).all()


def test_cells_of_a_class_are_drawn_with_equal_chances() -> None:
    codes = np.repeat(np.arange(2, dtype=np.int32), [30, 10])
    counts = np.zeros(40)
    for seed in range(2000):
        counts[draw_in_shares(codes, 8, seed)] += 1
    # 2,000 draws of 8 in 40: 400 times each, give or take four standard deviations
    assert np.abs(counts - 400).max() < 4 * np.sqrt(400 * 0.8)

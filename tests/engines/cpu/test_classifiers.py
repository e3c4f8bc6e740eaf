"""The classifiers of the CPU engine against scikit-learn, the same bits for any number of threads, and bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cells import Cells, make_cells
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from gpubench.core.errors import InputError
from gpubench.engines.cpu import classifiers, compiled
from gpubench.engines.cpu.classifiers import CpuLogisticRegression
from gpubench.engines.cpu.engine import CpuEngine, CpuPolicy
from gpubench.engines.cpu.tuning import CpuTuning

SMALL_TILES = CpuTuning(classifier_values=0)
"""Several tiles, so that threads have something to share."""


@pytest.fixture(scope="module")
def cells() -> Cells:
    return make_cells(1500, 12, n_labels=5, seed=3)


@pytest.fixture(scope="module")
def cpu() -> CpuEngine:
    return CpuEngine(threads=2)


def halves(cells: Cells) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    half = cells.n // 2
    return cells.x[:half], cells.label[:half], cells.x[half:]


@pytest.mark.parametrize("n_classes", [2, 3, 5])
@pytest.mark.parametrize("C", [1.0, 0.01])
def test_lr_finds_sklearns_probabilities(cells: Cells, cpu: CpuEngine, n_classes: int, C: float) -> None:
    x, codes, test = halves(cells)
    codes = np.minimum(codes, n_classes - 1)
    x, test = x / x.std(axis=0), test / x.std(axis=0)
    ours = cpu.classifier("lr", C=C).fit(x, codes, n_classes)
    peer = SklearnLogisticRegression(C=C).fit(x.astype(np.float64), codes)
    # Both stop where the gradient is below 1e-4; rounding in float32 moves the stopping point a little.
    np.testing.assert_allclose(ours.predict_proba(test), peer.predict_proba(test.astype(np.float64)), atol=2e-3)
    assert abs(ours.n_iter - peer.n_iter_[0]) <= 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("tuning", [CpuTuning(), SMALL_TILES], ids=["one-tile", "three-tiles"])
def test_lr_reaches_the_minimum(cells: Cells, tuning: CpuTuning) -> None:
    """At the minimum the gradient vanishes; here in float64, by the definition of the objective."""
    x, codes, _ = halves(cells)
    model = CpuLogisticRegression(max_iter=1000, tuning=tuning).fit(x, codes, 5)
    weights = model._weights.astype(np.float64)
    proba = model.predict_proba(x)
    residual = proba - np.eye(5)[codes]
    gradient = residual.T @ x.astype(np.float64) / len(x) + weights / len(x)
    assert model.converged
    assert np.abs(gradient).max() < 2e-4
    assert np.abs(residual.mean(axis=0)).max() < 2e-4


@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_gradient_is_the_derivative_of_the_loss(shift: float) -> None:
    from concurrent.futures import ThreadPoolExecutor

    rng = np.random.default_rng(0)
    x = (rng.normal(size=(700, 4)) + shift).astype(np.float32)
    y = rng.integers(0, 3, 700)
    with ThreadPoolExecutor(1) as pool:
        objective = classifiers.ThreadedObjective(x, y, 3, 0.01, 256, pool, 1)
        at = rng.normal(size=objective.n_parameters).astype(np.float32).astype(np.float64)
        _, gradient = objective(at)
        for i in range(len(at)):
            step = np.zeros(len(at))
            step[i] = 1e-2
            slope = (objective(at + step)[0] - objective(at - step)[0]) / 2e-2
            assert slope == pytest.approx(gradient[i], abs=2e-3 * (1 + shift))


def test_lr_notes_that_it_did_not_converge(cells: Cells, cpu: CpuEngine) -> None:
    x, codes, _ = halves(cells)
    model = cpu.classifier("lr", max_iter=3).fit(x, codes, 5)
    assert model.note == "stopped after 3 iterations, before it converged"


def test_lr_of_one_class_is_refused(cpu: CpuEngine) -> None:
    with pytest.raises(InputError, match="two classes"):
        cpu.classifier("lr").fit(np.ones((9, 2), np.float32), np.zeros(9, np.int32), 2)


def test_lr_large_logits_give_finite_probabilities(cpu: CpuEngine) -> None:
    x = np.array([[-3000.0], [-2999.0], [2999.0], [3000.0]], np.float32)
    proba = cpu.classifier("lr").fit(x, np.array([0, 0, 1, 1], np.int32), 2).predict_proba(x)
    assert np.isfinite(proba).all()
    assert proba.argmax(axis=1).tolist() == [0, 0, 1, 1]


def test_knn_votes_as_sklearn(cells: Cells, cpu: CpuEngine) -> None:
    # Without copies of cells: scikit-learn leaves open which of several equally near cells votes.
    x, first = np.unique(cells.x, axis=0, return_index=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, codes = x[order], cells.label[first][order]
    ours = cpu.classifier("knn").fit(x[:900], codes[:900], 5).predict_proba(x[900:])
    peer = KNeighborsClassifier().fit(x[:900].astype(np.float64), codes[:900])
    np.testing.assert_allclose(ours, peer.predict_proba(x[900:].astype(np.float64)), rtol=0, atol=1e-15)
    assert (ours.argmax(axis=1) == peer.predict(x[900:].astype(np.float64))).all()


def test_knn_needs_as_many_cells_as_voters(cpu: CpuEngine) -> None:
    with pytest.raises(InputError, match="5 neighbours vote, but there are 4 training cells"):
        cpu.classifier("knn").fit(np.ones((4, 2), np.float32), np.zeros(4, np.int32), 2)


@pytest.mark.parametrize("kind", ["lr", "knn", "rf"])
def test_a_class_without_cells_gets_probability_zero(cells: Cells, cpu: CpuEngine, kind: Any) -> None:
    x, codes, test = halves(cells)
    codes = codes + (codes >= 2)  # no cells of class 2
    proba = cpu.classifier(kind).fit(x, codes.astype(np.int32), 7).predict_proba(test)
    assert proba.shape == (len(test), 7)
    assert proba.dtype == np.float64
    assert (proba[:, [2, 6]] == 0).all()
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "tuning"),
    [("lr", SMALL_TILES), ("knn", CpuTuning()), ("rf", CpuTuning())],
    ids=["lr", "knn", "rf"],
)
def test_same_bits_for_any_number_of_threads(cells: Cells, kind: Any, tuning: CpuTuning) -> None:
    x, codes, test = halves(cells)
    params = {"n_estimators": 20} if kind == "rf" else {}
    one, three, again = (
        CpuEngine(threads=n, tuning=tuning).classifier(kind, **params).fit(x, codes, 5).predict_proba(test)
        for n in (1, 3, 3)
    )
    assert (one == three).all()
    assert (three == again).all()


def test_parts_cover_all_cells_once() -> None:
    for n in (1, 255, 256, 257, 100_000, 1_000_003):
        parts = classifiers.split_tiles(n, 256)
        assert [start for part in parts for start in part] == list(range(0, n, 256))
        assert len(parts) <= classifiers.MAX_PARTS


def test_an_unknown_kind_is_refused(cpu: CpuEngine) -> None:
    with pytest.raises(ValueError, match="svm"):
        cpu.classifier("svm")  # type: ignore[arg-type]


@pytest.mark.parametrize("tiles", [compiled.NUMPY, *compiled.available()[:1]])
def test_rf_predicts_blocks_of_cells(cells: Cells, tiles: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compiled.VARIABLE, tiles)
    x, codes, test = halves(cells)
    whole, in_blocks = (
        CpuEngine(tuning=tuning).classifier("rf", n_estimators=5).fit(x, codes, 5).predict_proba(test)
        for tuning in (CpuTuning(), CpuTuning(predicted_rows=100, rows_per_task=64))
    )
    np.testing.assert_array_equal(in_blocks, whole)


def test_training_cells_are_limited_unless_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "load", lambda: None)
    many = 10**7
    quick, exact = CpuEngine(threads=1), CpuEngine(threads=1, exact=True)
    assert [quick.policy.max_training_cells(kind, many) for kind in ("lr", "knn", "rf")] == [1_000_000, many, 100_000]
    assert [quick.policy.max_training_cells(kind, 1000) for kind in ("lr", "knn", "rf")] == [1000] * 3
    assert [exact.policy.max_training_cells(kind, many) for kind in ("lr", "knn", "rf")] == [many] * 3
    assert CpuPolicy(compiled=True).max_training_cells("rf", many) == 300_000

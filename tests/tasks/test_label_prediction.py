"""label_prediction: the numbers of cz-benchmarks and of scikit-learn, the user's scorers, and inputs that are hard."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from cells import Cells, make_cells
from prediction_inputs import (
    FIVE,
    FOREST_SEEDS,
    assert_like_forests,
    few_trees,
    peer_scorers,
    pipelines,
    read,
    table,
    task_input,
    tolerances,
)
from sklearn.metrics import balanced_accuracy_score, log_loss, make_scorer, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_validate
from sklearn.preprocessing import StandardScaler

import gpubench as gb
from gpubench.core.checkpoint import Checkpoint
from gpubench.core.errors import InputError
from gpubench.core.scores import PREDICTED
from gpubench.engines.base import Engine
from gpubench.engines.cpu import compiled
from gpubench.engines.cpu.engine import CpuEngine
from gpubench.tasks import Options, _classifiers, label_prediction
from gpubench.tasks.label_prediction import LABEL_PREDICTION as TASK

PUBLISHED = {
    ("pbmc3k", "lr"): (0.922281, 0.920127, 0.944056, 0.909003, 0.996092),
    ("pbmc3k", "knn"): (0.695227, 0.697762, 0.853217, 0.658654, 0.918556),
    ("pbmc3k", "rf"): (0.936691, 0.918121, 0.958829, 0.895687, 0.996691),
    ("pbmc3k", "MEAN(knn,lr,rf)"): (0.851400, 0.845337, 0.918700, 0.821115, 0.970446),
    ("celllines_5batch", "lr"): (1.000000, 1.000000, 1.000000, 1.000000, 1.000000),
    ("celllines_5batch", "knn"): (0.989220, 0.988736, 0.987517, 0.990420, 0.999543),
    ("celllines_5batch", "rf"): (1.000000, 1.000000, 1.000000, 1.000000, 1.000000),
    ("celllines_5batch", "MEAN(knn,lr,rf)"): (0.996407, 0.996245, 0.995839, 0.996807, 0.999848),
    ("worm_embryo", "lr"): (0.913688, 0.881903, 0.881277, 0.884900, 0.990164),
    ("worm_embryo", "knn"): (0.853558, 0.824065, 0.830749, 0.830945, 0.964149),
    ("worm_embryo", "rf"): (0.930952, 0.901671, 0.908793, 0.897975, 0.992280),
    ("worm_embryo", "MEAN(knn,lr,rf)"): (0.899399, 0.869213, 0.873606, 0.871273, 0.982198),
}
"""What cz-benchmarks 0.15.1 answers: mean over folds of accuracy, F1, precision, recall, AUROC."""

FOREST_DEVIATIONS = {
    "pbmc3k": (0.00243, 0.00969, 0.01233, 0.01005, 0.00011),
    "celllines_5batch": (0.0, 0.0, 0.0, 0.0, 0.0),
    "worm_embryo": (0.00257, 0.00356, 0.00450, 0.00331, 0.00044),
}
"""Standard deviations of the same numbers of scikit-learn's forests over six seeds, on the same folds."""


@pytest.fixture(scope="module")
def cells() -> Cells:
    """Every label has more than 10 cells."""
    return make_cells(420, 8, n_labels=4, duplicates=0, seed=1)


def run(engine: Engine, cells: Cells, **more: Any) -> dict[str, dict[str, Any]]:
    """Rows by classifier and metric; with small forests."""
    with patch.object(label_prediction, "SETTINGS", few_trees(label_prediction.SETTINGS)):
        rows = list(TASK.run(task_input(engine, cells.x, label=cells.label, **more)))
    return {classifier: found for (classifier,), found in table(rows, "classifier").items()}


def score_forests(x: np.ndarray, codes: np.ndarray, scoring: dict[str, Any]) -> dict[str, list[float]]:
    """Scores of scikit-learn's small forests of several seeds, means over the folds of seed 42."""
    folds = StratifiedKFold(5, shuffle=True, random_state=42)
    forests = [pipelines(centre=False, max_iter=100, seed=seed)["rf"] for seed in range(FOREST_SEEDS)]
    scored = [cross_validate(forest, x, codes, cv=folds, scoring=scoring) for forest in forests]
    return {name: [float(scores[f"test_{name}"].mean()) for scores in scored] for name in scoring}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pbmc3k", "celllines_5batch", "worm_embryo"])
def test_agrees_with_cz_benchmarks(engine: Engine, shared_data: Path, name: str) -> None:
    x, label = read(shared_data / f"{name}.h5ad", "cell_type")
    rows = table(TASK.run(task_input(engine, x, label=label)), "classifier")
    assert list(rows) == [("lr",), ("knn",), ("rf",), ("MEAN(knn,lr,rf)",)]
    for (classifier,), found in rows.items():
        allowed = tolerances(classifier, FOREST_DEVIATIONS[name])
        for metric, expected, tolerance in zip(FIVE, PUBLISHED[name, classifier], allowed, strict=True):
            assert found[metric].value == pytest.approx(expected, abs=tolerance), (classifier, metric)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_agrees_with_scikit_learn(engine: Engine, cells: Cells, n_classes: int) -> None:
    codes = np.minimum(cells.label, n_classes - 1)
    ours = run(engine, Cells(cells.x, codes, cells.batch, cells.time))
    folds = StratifiedKFold(5, shuffle=True, random_state=42)
    for name, pipeline in pipelines(centre=False, max_iter=100, seed=42).items():
        scored = cross_validate(pipeline, cells.x, codes, cv=folds, scoring=peer_scorers(n_classes))
        for metric in FIVE:
            row = ours[name][metric]
            assert row.n == cells.n
            if name == "rf":
                continue
            fold_scores = scored[f"test_{metric}"]
            assert row.value == pytest.approx(fold_scores.mean(), abs=2e-3), (name, metric)
            assert row.stderr == pytest.approx(fold_scores.std(ddof=1) / np.sqrt(5), abs=2e-3)
    forests = score_forests(cells.x, codes, peer_scorers(n_classes))
    for metric in FIVE:
        assert_like_forests(ours["rf"][metric].value, forests[metric])
    means = [ours[name]["f1"].value for name in ("knn", "lr", "rf")]
    assert ours["MEAN(knn,lr,rf)"]["f1"].value == pytest.approx(np.mean(means))


@pytest.mark.slow
def test_rows_have_the_declared_metric_ids(engine: Engine, cells: Cells) -> None:
    rows = list(TASK.run(task_input(engine, cells.x, label=cells.label)))
    assert [row.metric for row in rows] == [*TASK.metrics] * 4
    assert TASK.metrics == tuple(f"mean_fold_{name}" for name in FIVE)
    assert all(row.task == "label_prediction" and row.embedding == "X" for row in rows)


def test_each_classifier_is_reported_before_the_next_begins(engine: Engine, cells: Cells) -> None:
    given = task_input(engine, cells.x, label=cells.label)
    before = len(engine.timeline.spans())
    first = list(islice(TASK.run(given), 5))
    assert {row.params["classifier"] for row in first} == {"lr"}
    assert [span.path for span in engine.timeline.spans()[before:]] == ["lr", *(f"lr/fold {i}" for i in range(1, 6))]


def test_small_labels_are_left_out_and_named(engine: Engine, cells: Cells) -> None:
    label = np.array(["a", "b", "c", "d"], object)[cells.label]
    label[:9] = "rare"
    with_rare = TASK.run(task_input(engine, cells.x, label=label))
    without = TASK.run(task_input(engine, cells.x[9:], label=label[9:]))
    for row, expected in islice(zip(with_rare, without, strict=True), 10):
        assert row.value == expected.value
        assert row.n == cells.n - 9
        assert row.note == "left out, with fewer than 10 cells: 1 label: 'rare' (9)"


def test_one_label_of_sufficient_size_raises(engine: Engine) -> None:
    given = task_input(engine, np.random.default_rng(0).normal(size=(30, 3)), label=["a"] * 21 + ["b"] * 9)
    with pytest.raises(InputError, match="label: 1 of 2 values have at least 10 cells"):
        next(iter(TASK.run(given)))


def test_more_folds_than_cells_of_any_label_raise(engine: Engine, cells: Cells) -> None:
    given = task_input(engine, cells.x, label=cells.label, options={"n_folds": 300})
    with pytest.raises(InputError, match="has fewer cells than the 300 folds in 4 labels"):
        next(iter(TASK.run(given)))


@pytest.mark.filterwarnings("ignore:The least populated class")  # of our own call of scikit-learn below
def test_auroc_leaves_out_folds_that_lack_a_label(engine: Engine, cells: Cells) -> None:
    """scikit-learn cannot score such a fold, and cz-benchmarks averages over the others."""
    codes = cells.label.copy()
    codes[:3] = 4
    ours = run(engine, Cells(cells.x, codes, cells.batch, cells.time), options={"min_class_size": 1})
    folds = list(StratifiedKFold(5, shuffle=True, random_state=42).split(codes, codes))
    lacking = [i for i, (_, test) in enumerate(folds) if 4 not in codes[test]]
    assert 0 < len(lacking) < 5
    pipeline = pipelines(centre=False, max_iter=100, seed=42)["lr"]
    expected = []
    for train, test in (fold for i, fold in enumerate(folds) if i not in lacking):
        proba = pipeline.fit(cells.x[train], codes[train]).predict_proba(cells.x[test])
        expected.append(roc_auc_score(codes[test], proba, multi_class="ovr"))
    row = ours["lr"]["auroc"]
    assert row.value == pytest.approx(np.mean(expected), abs=2e-3)
    assert f"no test cells of '4' ({len(lacking)} of 5 folds)" in row.note
    assert "1 label: '4' (3)" in row.note
    assert not np.isnan(ours["lr"]["f1"].value)


def test_auroc_is_undefined_where_training_lacks_a_label(engine: Engine, cells: Cells) -> None:
    codes = cells.label.copy()
    codes[0] = 4
    ours = run(engine, Cells(cells.x, codes, cells.batch, cells.time), options={"min_class_size": 1})
    row = ours["lr"]["auroc"]
    assert np.isnan(row.value)
    assert "no test cells of '4' (4 of 5 folds)" in row.note
    assert "no training cells of '4' (1 of 5 folds)" in row.note


def test_column_constant_up_to_rounding_is_not_scaled(engine: Engine) -> None:
    x = np.ones((3_000_000, 1), np.float32)
    x[0] = np.nextafter(np.float32(1), np.float32(2))
    scaled = _classifiers.ColumnScaling(engine, x, centre=False).apply(x.copy())
    assert (engine.to_host(scaled) == x).all()
    assert (StandardScaler(with_mean=False).fit(x).scale_ == 1).all()


def test_classifier_that_fails_makes_only_its_scores_undefined(engine: Engine) -> None:
    x = np.random.default_rng(0).normal(size=(4, 3))
    given = task_input(engine, x, label=["a", "b"] * 2, options={"min_class_size": 1, "n_folds": 2})
    rows = table(TASK.run(given), "classifier")
    assert np.isnan(rows["knn",]["accuracy"].value)
    assert "5 neighbours vote, but there are 2 training cells" in rows["knn",]["accuracy"].note
    assert not np.isnan(rows["lr",]["accuracy"].value)
    assert np.isnan(rows["MEAN(knn,lr,rf)",]["accuracy"].value)


@pytest.mark.parametrize("centre", [False, True])
def test_scaling_equals_scikit_learn(
    engine: Engine, cells: Cells, centre: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_classifiers, "SCALED_VALUES", 1000)  # several blocks
    x = np.hstack([cells.x, cells.x[:, :1] + 100, np.full((cells.n, 1), 0.1, np.float32)]).astype(np.float32)
    peer = StandardScaler(with_mean=centre).fit(x)
    scaled = _classifiers.ColumnScaling(engine, engine.put(x), centre=centre).apply(engine.put(x.copy()))
    # scikit-learn rounds the means to float32
    np.testing.assert_allclose(engine.to_host(scaled), peer.transform(x), rtol=1e-6, atol=1e-5)


# Chosen classifiers


def test_chosen_classifiers_name_their_mean(engine: Engine, cells: Cells) -> None:
    every = run(engine, cells)
    some = run(engine, cells, options={"classifiers": ("knn", "lr")})
    assert list(some) == ["lr", "knn", "MEAN(knn,lr)"]
    for name in ("lr", "knn"):
        assert [some[name][metric].value for metric in FIVE] == [every[name][metric].value for metric in FIVE]
    mean = some["MEAN(knn,lr)"]["f1"].value
    assert mean == pytest.approx((some["lr"]["f1"].value + some["knn"]["f1"].value) / 2)
    assert list(run(engine, cells, options={"classifiers": "lr"})) == ["lr", "MEAN(lr)"]


@pytest.mark.parametrize("given", ["", (), "svm", ("lr", "svm"), 3, None, "lr, knn"])
def test_unknown_classifiers_raise(given: Any) -> None:
    with pytest.raises(InputError, match=r"classifiers.*; name one or several of: 'lr', 'knn', 'rf'"):
        Options(classifiers=given)


# One graph for all folds


@pytest.fixture(scope="module")
def many() -> Cells:
    """All meet in one leaf, so that all neighbours are found."""
    return make_cells(1000, 8, n_labels=4, duplicates=30, seed=2)


def knn_only(cells: Cells, engine: Engine, **given: Any) -> dict[str, Any]:
    return run(engine, cells, options={"classifiers": "knn"}, **given)["knn"]


@pytest.fixture(scope="module")
def leaves() -> CpuEngine:
    if not compiled.available():
        pytest.skip("leaves need the compiled tiles")
    return CpuEngine(threads=2, knn="leaves")


def test_one_graph_agrees_with_the_search_of_each_fold(many: Cells, leaves: CpuEngine) -> None:
    """The folds are scaled a little apart, and the recall is measured."""
    ours, exact = knn_only(many, leaves), knn_only(many, CpuEngine(threads=2, knn="exact"))
    for metric in FIVE:
        row = ours[metric]
        assert row.params["knn"] == "leaves"
        assert row.params["recall"] == 1
        assert row.approximate
        assert row.note.startswith(
            "neighbours from one graph of all cells, scaled together (leaves, recall 1.000); exact"
        )
        assert row.value == pytest.approx(exact[metric].value, abs=5e-3)
        assert row.stderr == pytest.approx(exact[metric].stderr, abs=5e-3)
        assert (exact[metric].params, exact[metric].note) == ({"classifier": "knn"}, "")
        assert not exact[metric].approximate


def test_one_graph_of_scaled_cells_gives_the_same_predictions(
    many: Cells, leaves: CpuEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_classifiers.ColumnScaling, "apply", lambda _, x: x)
    given = [
        task_input(engine, many.x, label=many.label, options={"classifiers": "knn"}) for engine in (leaves, CpuEngine())
    ]
    rows = [list(TASK.run(one)) for one in given]
    assert [row.value for row in rows[0]] == [row.value for row in rows[1]]
    answers = [one.cells.select(metric=PREDICTED)[0].values for one in given]
    np.testing.assert_array_equal(*answers)


def test_graph_that_does_not_fit_makes_only_its_scores_undefined(many: Cells, leaves: CpuEngine) -> None:
    def refuse(*_: Any) -> None:
        raise InputError("the candidates take 9 GB")

    with patch.object(leaves, "knn", refuse):
        rows = run(leaves, many, options={"classifiers": ("lr", "knn")})
    assert rows["knn"]["f1"].note == "knn cannot be trained: the candidates take 9 GB"
    assert not np.isnan(rows["lr"]["f1"].value)


def test_scorers_use_one_graph(many: Cells, leaves: CpuEngine) -> None:
    found = knn_only(many, leaves, scorers={"balanced": balanced_accuracy_score})
    assert found["balanced"].value == pytest.approx(found["recall"].value, abs=1e-12)


def test_graph_is_read_from_the_checkpoint(many: Cells, leaves: CpuEngine, tmp_path: Path) -> None:
    with Checkpoint(tmp_path) as checkpoint:
        first = gb.score(
            many.x, label=many.label, tasks="label_prediction", classifiers="knn", engine=leaves, checkpoint=checkpoint
        )
    for folds in tmp_path.glob(".checkpoint/*codes_0.npy"):
        folds.unlink()  # the folds are damaged, the graph is not
    engine = CpuEngine(threads=2, knn="leaves")
    with Checkpoint(tmp_path) as checkpoint:
        again = gb.score(
            many.x, label=many.label, tasks="label_prediction", classifiers="knn", engine=engine, checkpoint=checkpoint
        )
    assert any(stage["path"].endswith("knn/fold 1/graph (resumed)") for stage in again.timeline)
    assert any(stage["path"].endswith("knn/fold 1") for stage in again.timeline)
    assert [row.value for row in again.results] == [row.value for row in first.results]


# The user's scorers


def fails(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    raise RuntimeError("no luck")


SCORERS: dict[str, Any] = {
    "balanced": balanced_accuracy_score,
    "by_name": "balanced_accuracy",
    "log_loss": make_scorer(log_loss, greater_is_better=False, response_method="predict_proba", labels=range(4)),
    "from_logits": make_scorer(
        lambda y, logits: roc_auc_score(y, np.exp(logits) / np.exp(logits).sum(axis=1)[:, None], multi_class="ovr"),
        response_method=("decision_function", "predict_proba"),
    ),
    "broken": fails,
    "nothing": lambda *_: np.nan,
}


@pytest.mark.slow
def test_scorers_equal_scikit_learn(engine: Engine, cells: Cells) -> None:
    ours = run(engine, cells, scorers=SCORERS)
    folds = StratifiedKFold(5, shuffle=True, random_state=42)
    peers = {name: SCORERS[name] for name in ("log_loss", "from_logits")} | {"balanced": "balanced_accuracy"}
    for classifier, pipeline in pipelines(centre=False, max_iter=100, seed=42).items():
        assert ours[classifier]["by_name"].value == ours[classifier]["balanced"].value
        if classifier == "rf":
            continue
        scored = cross_validate(pipeline, cells.x, cells.label, cv=folds, scoring=peers)
        for name in peers:
            found = ours[classifier][name].value
            assert found == pytest.approx(scored[f"test_{name}"].mean(), abs=5e-3), (classifier, name)
    forests = score_forests(cells.x, cells.label, {"balanced": "balanced_accuracy"})
    assert_like_forests(ours["rf"]["balanced"].value, forests["balanced"])
    assert ours["lr"]["log_loss"].value < 0  # greater_is_better=False turns the sign


def test_scorers_work_on_two_labels(engine: Engine, cells: Cells) -> None:
    codes = np.minimum(cells.label, 1)
    ours = run(engine, Cells(cells.x, codes, cells.batch, cells.time), scorers={"auc": "roc_auc"})
    for found in ours.values():
        assert found["auc"].value == pytest.approx(found["auroc"].value, abs=1e-12)


def test_scorer_that_fails_makes_only_its_scores_undefined(engine: Engine, cells: Cells) -> None:
    ours = run(engine, cells, scorers=SCORERS)
    for found in ours.values():
        assert np.isnan(found["broken"].value)
        assert "the scorer failed: RuntimeError: no luck" in found["broken"].note
        assert np.isnan(found["nothing"].value)
        assert "returned NaN" in found["nothing"].note
        assert not np.isnan(found["f1"].value)


@pytest.mark.parametrize(
    ("scorers", "message"),
    [
        ({"f1": balanced_accuracy_score}, "'f1' is a metric of this task already"),
        ({"mine": "balanced_acuracy"}, "did you mean 'balanced_accuracy'"),
        ({"mine": 3}, "'mine' is a int"),
    ],
)
def test_bad_scorers_raise(engine: Engine, cells: Cells, scorers: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        next(iter(TASK.run(task_input(engine, cells.x, label=cells.label, scorers=scorers))))

"""cross_species_label_prediction: the numbers of cz-benchmarks, aggregation, and species with different labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from prediction_inputs import (
    FIVE,
    FOREST_SEEDS,
    assert_like_forests,
    few_trees,
    pipelines,
    read,
    table,
    task_input,
    tolerances,
)
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from gpubench.data import encode_labels
from gpubench.engines.base import Engine
from gpubench.tasks import label_prediction
from gpubench.tasks._folds import stratified_folds
from gpubench.tasks.label_prediction import CROSS_SPECIES_LABEL_PREDICTION as TASK

PUBLISHED = {
    ("human", "human", "lr"): (0.920000, 0.920938, 0.931032, 0.920000, 0.977755),
    ("human", "human", "knn"): (0.908571, 0.906944, 0.923476, 0.908571, 0.986224),
    ("human", "human", "rf"): (0.977143, 0.976846, 0.981111, 0.977143, 0.996837),
    ("human", "human", "MEAN(lr,knn,rf)"): (0.935238, 0.934909, 0.945206, 0.935238, 0.986939),
    ("human", "mouse", "lr"): (0.405229, 0.366267, 0.465573, 0.373626, 0.694621),
    ("human", "mouse", "knn"): (0.450980, 0.368139, 0.335286, 0.432967, 0.729511),
    ("human", "mouse", "rf"): (0.156863, 0.143133, 0.428154, 0.262857, 0.773341),
    ("human", "mouse", "MEAN(lr,knn,rf)"): (0.337691, 0.292513, 0.409671, 0.356484, 0.732491),
    ("mouse", "human", "lr"): (0.411429, 0.290180, 0.361939, 0.411429, 0.813224),
    ("mouse", "human", "knn"): (0.211429, 0.089583, 0.240936, 0.211429, 0.569245),
    ("mouse", "human", "rf"): (0.485714, 0.475374, 0.687619, 0.485714, 0.834898),
    ("mouse", "human", "MEAN(lr,knn,rf)"): (0.369524, 0.285046, 0.430165, 0.369524, 0.739122),
    ("mouse", "mouse", "lr"): (0.967742, 0.966418, 0.973571, 0.963810, 0.996667),
    ("mouse", "mouse", "knn"): (0.785161, 0.729017, 0.791801, 0.736190, 0.963628),
    ("mouse", "mouse", "rf"): (0.954409, 0.954901, 0.962619, 0.952381, 0.998075),
    ("mouse", "mouse", "MEAN(lr,knn,rf)"): (0.902437, 0.883445, 0.909330, 0.884127, 0.986123),
}
"""What cz-benchmarks 0.15.1 answers on the pancreas of two species, without aggregation."""

FOREST_DEVIATIONS = {
    ("human", "human"): (0.00529, 0.00512, 0.00588, 0.00529, 0.00078),
    ("human", "mouse"): (0.03105, 0.04138, 0.18983, 0.02715, 0.05993),
    ("mouse", "human"): (0.07774, 0.09601, 0.12654, 0.07774, 0.04085),
    ("mouse", "mouse"): (0.00604, 0.00652, 0.00476, 0.00727, 0.00054),
}
"""Standard deviations of the same numbers of scikit-learn's forests over eight seeds."""


@pytest.fixture(scope="module")
def cells() -> dict[str, np.ndarray]:
    """Two species with labels a, b, c; their cells are shifted. Each cell belongs to one of 24 samples of one label."""
    rng = np.random.default_rng(4)
    species = np.repeat(["fly", "worm"], 120)
    label = np.tile(np.repeat(["a", "b", "c"], 40), 2)
    sample = np.array([f"{s} {x} {i % 4}" for i, (s, x) in enumerate(zip(species, label, strict=True))])
    centre = rng.normal(size=(3, 6))[np.unique(label, return_inverse=True)[1]]
    x = centre + 0.4 * (species == "worm")[:, None] + rng.normal(scale=0.7, size=(240, 6))
    order = rng.permutation(240)
    return {
        "x": x[order].astype(np.float32),
        "species": species[order],
        "label": label[order],
        "sample": sample[order],
    }


def run(engine: Engine, cells: dict[str, Any], **options: Any) -> dict[tuple[str, ...], dict[str, Any]]:
    """Rows by species, classifier and metric; with small forests."""
    with patch.object(label_prediction, "SPECIES_SETTINGS", few_trees(label_prediction.SPECIES_SETTINGS)):
        rows = list(TASK.run(task_input(engine, **cells, options=options)))
    return table(rows, "train_species", "test_species", "classifier")


@pytest.mark.slow
def test_agrees_with_cz_benchmarks(engine: Engine, shared_data: Path) -> None:
    x, label, species = read(shared_data / "pancreas_human_mouse.h5ad", "cell_type", "species")
    given = task_input(engine, x, label=label, species=species, options={"aggregation": "none"})
    rows = table(TASK.run(given), "train_species", "test_species", "classifier")
    assert set(rows) == set(PUBLISHED)
    for key, found in rows.items():
        allowed = tolerances(key[2], FOREST_DEVIATIONS[key[:2]])
        for metric, expected, tolerance in zip(FIVE, PUBLISHED[key], allowed, strict=True):
            assert found[metric].value == pytest.approx(expected, abs=tolerance), (key, metric)


@pytest.mark.slow
def test_metric_ids_distinguish_folds_from_transfer(engine: Engine, cells: dict[str, np.ndarray]) -> None:
    rows = list(TASK.run(task_input(engine, **cells, options={"aggregation": "none"})))
    for row in rows:
        within = row.params["train_species"] == row.params["test_species"]
        assert row.metric.startswith("mean_fold_") == within
        if "undefined" not in row.note:  # older versions of scikit-learn make folds that lack a label
            assert (row.stderr is not None) == within
        assert row.n == 120
    assert {row.metric for row in rows} == set(TASK.metrics)
    assert len(rows) == 2 * 2 * 4 * 5


@pytest.mark.parametrize("aggregation", ["mean", "median"])
def test_cells_are_merged_by_sample(engine: Engine, cells: dict[str, np.ndarray], aggregation: str) -> None:
    # Samples of several labels are merged by label, so here labels and samples are unrelated.
    cells = cells | {"sample": np.random.default_rng(1).permutation(np.arange(240) % 24).astype(str)}
    cells["sample"] = np.char.add(cells["species"], cells["sample"])
    ours = run(engine, cells, aggregation=aggregation)
    frame = pd.DataFrame(cells["x"].astype(np.float64)).assign(**{k: cells[k] for k in ("sample", "label", "species")})
    merged = frame.groupby(["sample", "label"]).agg({**dict.fromkeys(range(6), aggregation), "species": "first"})
    merged = merged.reset_index()
    worm = (merged["species"] == "worm").to_numpy()
    x, label = merged[list(range(6))].to_numpy(np.float32), merged["label"].to_numpy()
    for name, pipeline in pipelines(centre=True, max_iter=1000, seed=42).items():
        row = ours["fly", "worm", name]["accuracy"]
        if name != "rf":
            expected = accuracy_score(label[worm], pipeline.fit(x[~worm], label[~worm]).predict(x[worm]))
            assert row.value == pytest.approx(expected), name
        assert row.n == worm.sum() < 75
        assert f"{aggregation} of the cells of each sample and label: 120 cells became {worm.sum()}, as" in row.note
    forests = [pipelines(centre=True, max_iter=1000, seed=seed)["rf"] for seed in range(FOREST_SEEDS)]
    predicted = [forest.fit(x[~worm], label[~worm]).predict(x[worm]) for forest in forests]
    peers = [accuracy_score(label[worm], classes) for classes in predicted]
    assert_like_forests(ours["fly", "worm", "rf"]["accuracy"].value, peers)


def test_samples_stay_whole_in_the_folds(engine: Engine, cells: dict[str, np.ndarray]) -> None:
    fly = cells["species"] == "fly"
    label, sample = encode_labels(cells["label"][fly], "label"), encode_labels(cells["sample"][fly], "sample")
    folds, _ = stratified_folds(label, 3, 42, sample)
    peer = StratifiedGroupKFold(3, shuffle=True, random_state=42).split(label.codes, label.codes, cells["sample"][fly])
    for fold, (train, test) in enumerate(peer):
        assert (folds[train] != fold).all()
        assert (folds[test] == fold).all()
        assert not set(sample.codes[train]) & set(sample.codes[test])
    assert folds.max() == 2
    by_sample = run(engine, cells, aggregation="none", n_folds=3)
    without = {name: values for name, values in cells.items() if name != "sample"}
    freely = run(engine, without, aggregation="none", n_folds=3)
    assert by_sample["fly", "fly", "lr"]["auroc"].value != freely["fly", "fly", "lr"]["auroc"].value
    assert by_sample["fly", "worm", "lr"]["auroc"].value == freely["fly", "worm", "lr"]["auroc"].value


@pytest.mark.slow
def test_without_samples_cells_are_scored_as_they_are(engine: Engine, cells: dict[str, np.ndarray]) -> None:
    without = {name: values for name, values in cells.items() if name != "sample"}
    ours, expected = run(engine, without, aggregation="mean"), run(engine, without, aggregation="none")
    for key, found in ours.items():
        assert found["f1"].value == expected[key]["f1"].value
        assert "no samples given, so cells are not aggregated" in found["f1"].note


def test_labels_of_one_species_only_are_left_out(engine: Engine, cells: dict[str, np.ndarray]) -> None:
    """The worm lacks "c" and has "d" instead: a and b are scored, by classifiers that know c."""
    label = np.where((cells["species"] == "worm") & (cells["label"] == "c"), "d", cells["label"])
    ours = run(engine, cells | {"label": label}, aggregation="none")
    fly, worm = cells["species"] == "fly", (cells["species"] == "worm") & (label != "d")

    def peer_scores(pipeline: Any) -> dict[str, float]:
        pipeline.fit(cells["x"][fly], label[fly])
        truth, predicted = label[worm], pipeline.predict(cells["x"][worm])
        proba = pipeline.predict_proba(cells["x"][worm])
        average: dict[str, Any] = {"labels": ["a", "b"], "average": "macro", "zero_division": 0}
        return {
            "accuracy": accuracy_score(truth, predicted),
            "f1": f1_score(truth, predicted, **average),
            "precision": precision_score(truth, predicted, **average),
            "recall": recall_score(truth, predicted, **average),
            "auroc": np.mean([roc_auc_score(truth == "a", proba[:, 0]), roc_auc_score(truth == "b", proba[:, 1])]),
        }

    forests = [peer_scores(pipelines(centre=True, max_iter=1000, seed=seed)["rf"]) for seed in range(FOREST_SEEDS)]
    for name, pipeline in pipelines(centre=True, max_iter=1000, seed=42).items():
        found, expected = ours["fly", "worm", name], peer_scores(pipeline)
        for metric in FIVE:
            if name == "rf":
                assert_like_forests(found[metric].value, [scores[metric] for scores in forests])
            else:
                assert found[metric].value == pytest.approx(expected[metric], abs=2e-3), (name, metric)
            assert found[metric].n == 80
            assert "left out, as fly lacks them: 1 label: 'd' (40)" in found[metric].note
            assert "not scored, as worm lacks them: 'c'" in found[metric].note


def test_species_that_share_one_label_are_not_scored(engine: Engine, cells: dict[str, np.ndarray]) -> None:
    label = np.where((cells["species"] == "worm") & (cells["label"] != "c"), "d", cells["label"])
    ours = run(engine, cells | {"label": label}, aggregation="none")
    for classifier in ("lr", "knn", "rf", "MEAN(lr,knn,rf)"):
        row = ours["fly", "worm", classifier]["accuracy"]
        assert np.isnan(row.value)
        assert "fly and worm have 1 of the two labels in common that prediction needs" in row.note
        assert not np.isnan(ours["fly", "fly", classifier]["accuracy"].value)


def test_a_species_with_one_label_is_not_cross_validated(engine: Engine, cells: dict[str, np.ndarray]) -> None:
    label = np.where(cells["species"] == "worm", "a", cells["label"])
    ours = run(engine, cells | {"label": label}, aggregation="none")
    row = ours["worm", "worm", "lr"]["f1"]
    assert np.isnan(row.value)
    assert row.note == "worm: label has one value ('a'), and prediction needs two"


def test_too_few_samples_make_only_cross_validation_undefined(engine: Engine, cells: dict[str, np.ndarray]) -> None:
    """With two samples a label, five folds are too many and a species has six samples to train on."""
    sample = np.char.add(np.char.add(cells["species"], cells["label"]), np.where(np.arange(240) % 2, "x", "y"))
    ours = run(engine, cells | {"sample": sample}, aggregation="mean")
    row = ours["fly", "fly", "knn"]["accuracy"]
    assert np.isnan(row.value)
    assert "fewer cells than the 5 folds in 3 labels: 'a' (2), 'b' (2), 'c' (2)" in row.note
    assert not np.isnan(ours["fly", "worm", "knn"]["accuracy"].value)


@pytest.mark.slow
def test_three_species_are_trained_on_once_each(engine: Engine, cells: dict[str, np.ndarray]) -> None:
    species = cells["species"].copy()
    species[:80] = "yeast"
    ours = run(engine, cells | {"species": species, "sample": None}, aggregation="none")
    assert len(ours) == 3 * 3 * 4
    pair = run(engine, {n: v[80:] for n, v in cells.items() if n != "sample"}, aggregation="none")
    for key, found in pair.items():
        assert found["auroc"].value == ours[key]["auroc"].value


@pytest.mark.slow
def test_scorers_are_applied_within_and_across_species(engine: Engine, cells: dict[str, np.ndarray]) -> None:
    given = task_input(
        engine,
        **cells,
        options={"aggregation": "none", "n_folds": 3},
        scorers={"mine": "accuracy", "own": accuracy_score},
    )
    rows = list(TASK.run(given))
    assert {"mean_fold_mine", "mine", "mean_fold_own", "own"} <= {row.metric for row in rows}
    for found in table(rows, "train_species", "test_species", "classifier").values():
        assert found["mine"].value == found["own"].value == found["accuracy"].value

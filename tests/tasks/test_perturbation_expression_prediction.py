"""The perturbation task: known correlations, both effects, what is missing, real cells end to end."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from perturbed import CONTROL, make_screen, predict
from scipy import stats
from scipy.sparse import csc_matrix, csr_matrix

from gpubench.core.errors import InputError
from gpubench.core.scores import MetricResult
from gpubench.data import PerturbationData, prepare_perturbation, read_perturbation
from gpubench.data import expression as expression_module
from gpubench.data.perturbation.prepare import Preparation
from gpubench.engines.base import Engine
from gpubench.tasks import TASKS, Options, TaskInput

TASK = TASKS["perturbation_expression_prediction"]
CELLS = ["a1", "a2", "b1", "b2", "c1", "c2"]
GENES = ["g0", "g1", "g2", "g3", "other"]


def make_layout(**uns: Any) -> ad.AnnData:
    """Two conditions A and B of two cells; both are paired with c1 and c2. The masked genes are g0 to g3."""
    table = pd.DataFrame(
        {
            "condition": np.repeat(["A", "B"], 4),
            "gene_id": GENES[:4] * 2,
            "logfoldchange": [1.0, 2, 3, 4, -4, -3, -2, -1],
        }
    )
    return ad.AnnData(
        obs=pd.DataFrame(index=CELLS),
        uns={
            "de_results": table,
            "control_cells_map": {"A": {"a1": "c1", "a2": "c2"}, "B": {"b1": "c2", "b2": "c1"}},
            "target_conditions_dict": {"A": GENES[:4], "B": GENES[:4]},
            **uns,
        },
    )


def predictions(a: list[float], b: list[float], control: list[float]) -> ad.AnnData:
    """Predictions whose means over the cells of A, of B and of the controls are these; cells scatter around them."""
    scatter = np.array([[0.5], [-0.5]]) * np.array([1, 0.5, 0.25, 0, 0])
    values = np.concatenate([np.array([*means, 9.0]) + scatter for means in (a, b, control)])
    return ad.AnnData(values, obs=pd.DataFrame(index=CELLS), var=pd.DataFrame(index=GENES))


def run(engine: Engine, dataset: Any, predicted: Any, **options: Any) -> dict[str, MetricResult]:
    given = TaskInput(engine, Options(**options), "model", perturbation=read_perturbation(dataset, predicted))
    rows = list(TASK.run(given))
    assert {(row.embedding, row.task, row.metric) for row in rows} == {("model", TASK.id, *TASK.metrics)}
    assert list({row.params["condition"]: 0 for row in rows})[-1] == "MEAN"
    return {row.params["condition"]: row for row in rows}


def test_scores_equal_known_correlations(engine: Engine) -> None:
    """A is predicted in the right order; B in the order 2, 1, 4, 3, whose correlation is 1 - 6 * 4 / (4 * 15)."""
    rows = run(engine, make_layout(), predictions([3, 6, 12, 24], [2, 1, 4, 3], [2, 2, 2, 2]))
    assert rows["A"].value == pytest.approx(1, abs=1e-15)
    assert rows["B"].value == pytest.approx(0.6, abs=1e-15)
    assert rows["MEAN"].value == pytest.approx(0.8, abs=1e-15)
    assert (rows["A"].n, rows["MEAN"].n) == (4, 6)
    assert rows["A"].params == {"condition": "A", "effect": "ratio", "n_genes": 4}
    assert (rows["A"].note, rows["MEAN"].note) == ("", "mean of 2 conditions; masked genes as stored in the dataset")


def test_ratio_and_difference_order_genes_differently(engine: Engine) -> None:
    """Ratios 4, 3, 2, 1.5 fall where differences 3, 4, 5, 5.5 rise."""
    predicted = predictions([4, 6, 10, 16.5], [1, 1, 1, 2], [1, 2, 5, 11])
    assert run(engine, make_layout(), predicted)["A"].value == pytest.approx(-1)
    by_difference = run(engine, make_layout(), predicted, effect="difference")
    assert by_difference["A"].value == pytest.approx(1)
    assert by_difference["A"].params["effect"] == "difference"


def test_means_that_are_not_positive_have_no_ratio(engine: Engine) -> None:
    predicted = predictions([4, 6, 10, 16.5], [0, 1, 1, 2], [1, 2, 5, 11])
    rows = run(engine, make_layout(), predicted)
    assert (rows["A"].params["effect"], rows["A"].note) == ("ratio", "")
    assert rows["B"].params["effect"] == "difference"
    assert rows["B"].note == "difference of means, for some are not positive and have no ratio"
    assert rows["B"].value == run(engine, make_layout(), predicted, effect="difference")["B"].value


def test_a_constant_prediction_has_no_correlation(engine: Engine) -> None:
    rows = run(engine, make_layout(), predictions([2, 2, 2, 2], [1, 2, 3, 4], [1, 1, 1, 1]))
    assert math.isnan(rows["A"].value)
    assert rows["A"].note == "undefined: b constant (a is the true, b the predicted change)"
    assert rows["MEAN"].value == rows["B"].value
    assert "mean of 1 conditions; 1 undefined: 'A'" in rows["MEAN"].note


def test_conditions_without_predictions_are_undefined(engine: Engine) -> None:
    full = predictions([3, 6, 12, 24], [2, 1, 4, 3], [2, 2, 2, 2])
    rows = run(engine, make_layout(), full[["b1", "c2", "c1", "b2"]])
    assert math.isnan(rows["A"].value)
    assert rows["A"].note == (
        "undefined: nothing of this condition is in the predictions; 2 of 2 pairs of cells are not in the predictions"
    )
    assert rows["MEAN"].value == rows["B"].value == pytest.approx(0.6)
    rows = run(engine, make_layout(), full[:, ["g3", "g1"]])
    assert rows["A"].note.startswith("undefined: the predictions have 2 of 4 masked genes, and 4 are needed")
    assert rows["A"].params["n_genes"] == 2
    assert math.isnan(rows["MEAN"].value)
    assert rows["MEAN"].note.startswith("undefined: no condition could be scored")


def test_predictions_of_one_side_of_the_pairs_are_refused_by_that_side(engine: Engine) -> None:
    full = predictions([3, 6, 12, 24], [2, 1, 4, 3], [2, 2, 2, 2])
    with pytest.raises(InputError, match="have 4 of the 4 perturbed cells to score, but none of the 2 control cells"):
        run(engine, make_layout(), full[["a1", "a2", "b1", "b2"]])
    with pytest.raises(InputError, match="have 2 control cells, but none of the 4 perturbed cells to score"):
        run(engine, make_layout(), full[["c1", "c2"]])


def test_conditions_with_few_genes_are_left_out(engine: Engine) -> None:
    rows = run(engine, make_layout(target_conditions_dict={}), predictions([1] * 4, [1] * 4, [1] * 4))
    assert list(rows) == ["MEAN"]
    assert math.isnan(rows["MEAN"].value)
    assert "2 conditions with fewer than 5 masked genes left out: 'A', 'B'" in rows["MEAN"].note


def test_predictions_that_are_not_finite_raise(engine: Engine) -> None:
    predicted = predictions([3, 6, 12, 24], [2, 1, 4, 3], [2, 2, 2, 2])
    predicted.X[0, 4] = np.nan  # of a gene that is not scored
    assert run(engine, make_layout(), predicted)["A"].value == pytest.approx(1)
    predicted.X[2, 0] = np.inf
    for x in (predicted.X, csr_matrix(predicted.X)):
        predicted.X = x
        with pytest.raises(InputError, match=r"predictions: 1 of 6 rows hold NaN or infinite values .*: 2\)"):
            run(engine, make_layout(), predicted)


def naive_scores(prepared: Preparation, predicted: ad.AnnData, data: PerturbationData) -> dict[str, float]:
    """Pair by pair and gene by gene, by name."""
    frame = predicted.to_df().astype(np.float64)
    change = prepared.table.set_index(["condition", "gene_id"])["logfoldchange"]
    scores = {}
    for condition in data.conditions:
        genes = [gene for gene in condition.genes if gene in frame.columns]
        pairs = prepared.control_map[condition.name].items()
        pairs = [(t, c) for t, c in pairs if t in frame.index and c in frame.index]
        treated = frame.loc[[t for t, _ in pairs], genes].mean()
        control = frame.loc[[c for _, c in pairs], genes].mean()
        predicted_change = np.log((treated + 1e-8) / (control + 1e-8))
        scores[condition.name] = stats.spearmanr(change[condition.name][genes], predicted_change).statistic
    return scores


def test_shuffled_and_incomplete_predictions_score_the_same_in_blocks(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = make_screen()
    path = tmp_path / "prepared.h5ad"
    prepared = prepare_perturbation(screen, path, condition="knock_down", control=CONTROL)
    rng = np.random.default_rng(0)
    predicted = predict(screen)[rng.permutation(screen.n_obs)[:170]][:, rng.permutation(screen.n_vars)[:50]].copy()
    expected = naive_scores(prepared, predicted, read_perturbation(path, screen))
    assert len(expected) == 2
    monkeypatch.setattr(expression_module, "_BLOCK_VALUES", 50 * 33)
    for x in (predicted.X, csr_matrix(predicted.X), csc_matrix(predicted.X), predicted.X.astype(np.float64)):
        predicted.X = x
        predicted.write_h5ad(tmp_path / "predicted.h5ad")
        for given in (predicted, tmp_path / "predicted.h5ad"):
            rows = run(engine, path, given)
            assert {name: rows[name].value for name in expected} == pytest.approx(expected, abs=1e-12)
            assert rows["MEAN"].value == pytest.approx(np.mean(list(expected.values())), abs=1e-12)


@pytest.mark.slow
def test_real_cells_equal_a_naive_computation(engine: Engine, shared_data: Path, tmp_path: Path) -> None:
    """Prepared, masked, predicted for some cells and genes in another order, and scored."""
    source = ad.read_h5ad(shared_data / "papalexi_knockout.h5ad")
    path = tmp_path / "prepared.h5ad"
    prepared = prepare_perturbation(source, path, condition="perturbation", control=CONTROL)
    rng = np.random.default_rng(0)
    predicted = source[rng.permutation(source.n_obs)[:12_000]][:, rng.permutation(source.n_vars)[:280]].copy()
    predicted.X = np.log1p(predicted.X.toarray()) + rng.gamma(0.3, 1.0, predicted.shape).astype(np.float32)
    rows = run(engine, path, predicted)
    expected = naive_scores(prepared, predicted, read_perturbation(path, source))
    assert list(rows) == ["IFNGR1", "IFNGR2", "JAK2", "SMAD4", "STAT1", "MEAN"]
    assert {name: rows[name].value for name in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("effect", "published"),
    [
        ("ratio", {"IFNGR1": 0.942857, "IFNGR2": 0.942857, "JAK2": 0.607143, "SMAD4": 1.0, "STAT1": 0.964286}),
        ("difference", {"IFNGR1": 0.085714, "IFNGR2": 0.371429, "JAK2": 0.785714, "SMAD4": 0.6, "STAT1": 0.785714}),
    ],
)
def test_real_cells_that_predict_themselves_score_well(
    engine: Engine, shared_data: Path, effect: str, published: dict[str, float]
) -> None:
    """As cz-benchmarks 0.15.1 scores the prepared file with its own counts as predictions."""
    path = shared_data / "papalexi_knockout.h5ad"
    data = read_perturbation(path, path, condition="perturbation", control=CONTROL)
    *rows, mean = TASK.run(TaskInput(engine, Options(effect=effect), "counts", perturbation=data))
    assert {row.params["condition"]: row.value for row in rows} == pytest.approx(published, abs=1e-6)
    assert mean.value == pytest.approx(np.mean(list(published.values())), abs=1e-6)

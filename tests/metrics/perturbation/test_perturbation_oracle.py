"""Every metric of predicted perturbations has the value of its definition, and keeps it where it must."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import reference_perturbation as oracle
from numpy.testing import assert_allclose
from perturbation_cases import CONTROL, GENES, Sides, log_values, make_sides

from gpubench.engines.base import Engine
from gpubench.metrics.perturbation import (
    PERTURBATION_METRICS,
    PROFILES,
    PerturbationScores,
    evaluate,
    perturbed_cells,
    prepare,
)

CLUSTERS = "clustering_agreement"
"""Has tests of its own: a definition of Leiden communities is the algorithm."""

TOLERANCE = {"pearson_edistance": 1e-6, "cell_cov_corr": 1e-6, "cell_cov_eig_ratio": 1e-6, "cell_cov_ccc": 1e-6}


@cache
def sides() -> Sides:
    return make_sides()


@cache
def exact() -> dict[str, dict[str, float]]:
    given = sides()
    data = [
        [oracle.Data(change(x), labels, GENES, CONTROL) for x, labels in
         ((given.real, given.real_labels), (given.predicted, given.predicted_labels))]
        for change in (log_values, lambda x: x)
    ]  # fmt: skip
    return oracle.first_generation(*data[0]) | oracle.second_generation(*data[1])


@pytest.fixture(scope="module")
def scores(engine: Engine) -> PerturbationScores:
    return every_metric(sides(), engine)


def every_metric(given: Sides, engine: Engine, *, sparse: bool = True) -> PerturbationScores:
    first = evaluate(*given.cells(log=True, sparse=sparse), control=CONTROL, profile="cell_eval", engine=engine)
    second = evaluate(*given.cells(sparse=sparse), control=CONTROL, profile="full", engine=engine)
    return PerturbationScores(first.perturbations, first.values | second.values)


def test_every_metric_but_the_clusters_has_a_definition_here() -> None:
    assert set(PERTURBATION_METRICS) - {CLUSTERS} == set(exact())
    assert len(PROFILES["cell_eval"]) == 28
    assert len(PROFILES["full"]) == 57


@pytest.mark.parametrize("metric", [m for m in PERTURBATION_METRICS if m != CLUSTERS])
def test_metric_has_the_value_of_its_definition(metric: str, scores: PerturbationScores) -> None:
    want, got = exact()[metric], scores.values[metric]
    if "" in want:
        assert got.whole == pytest.approx(want[""], abs=1e-9)
        return
    for name, value, reason in zip(scores.perturbations, got.values, got.reasons, strict=True):
        if name not in want or math.isnan(want[name]):
            assert math.isnan(value), name
            assert reason
        else:
            assert value == pytest.approx(want[name], abs=TOLERANCE.get(metric, 1e-9)), name
            assert reason is None


def test_the_data_reach_every_branch(scores: PerturbationScores) -> None:
    """Where all values were 0, 1 or undefined, agreement would say little."""
    plain = [m for m, v in scores.values.items() if len(np.unique(v.values[~np.isnan(v.values)])) < 2]
    assert set(plain) <= {"de_spearman_sig", "de_wilcoxon_nsig_spearman", "pearson_edistance", CLUSTERS,
                          "expr_mse_unbiased_capped_norm", "expr_real_mass_ratio"}  # fmt: skip
    undefined = {reason for values in scores.values.values() for reason in values.reasons if reason}
    assert len(undefined) >= 7


@pytest.mark.parametrize("metric", PERTURBATION_METRICS)
def test_values_are_inside_the_bounds(metric: str, scores: PerturbationScores) -> None:
    low, high = PERTURBATION_METRICS[metric].bounds
    values = scores.values[metric].values
    assert (np.isnan(values) | ((values >= low - 1e-12) & (values <= high + 1e-12))).all()


def assert_same(a: PerturbationScores, b: PerturbationScores, names: dict[str, str] | None = None) -> None:
    order = [b.perturbations.index((names or {}).get(p, p)) for p in a.perturbations]
    for metric, values in a.values.items():
        if metric != CLUSTERS:  # the order of perturbations decides among equally good communities
            assert_allclose(b.values[metric].values[order], values.values, atol=1e-6, err_msg=metric)
            if values.whole is not None:
                assert_allclose(b.values[metric].whole, values.whole, atol=1e-6, err_msg=metric)


def without_draws(scores: PerturbationScores) -> PerturbationScores:
    """Without metrics on as many cells of both sides, whose draws depend on the name and the order of the cells."""
    kept = {metric: values for metric, values in scores.values.items() if not metric.startswith("cell_cov")}
    return PerturbationScores(scores.perturbations, kept)


def test_order_of_cells_changes_nothing(engine: Engine, scores: PerturbationScores) -> None:
    random, given = np.random.default_rng(1), sides()
    i, j = random.permutation(len(given.real)), random.permutation(len(given.predicted))
    moved = Sides(given.real[i], given.real_labels[i], given.predicted[j], given.predicted_labels[j])
    assert_same(without_draws(scores), every_metric(moved, engine))


def test_dense_values_are_scored_like_sparse_ones(engine: Engine, scores: PerturbationScores) -> None:
    assert_same(scores, every_metric(sides(), engine, sparse=False))


def test_order_of_genes_changes_nothing_and_the_prediction_is_aligned(
    engine: Engine, scores: PerturbationScores
) -> None:
    order = np.random.default_rng(2).permutation(len(GENES))
    genes, out = [GENES[i] for i in order], {}
    for profile, log in (("cell_eval", True), ("full", False)):
        real, predicted = sides().cells(log=log)
        moved = perturbed_cells(real.x[:, order], sides().real_labels, genes)
        out[profile] = evaluate(moved, predicted, control=CONTROL, profile=profile, engine=engine)
    both = PerturbationScores(scores.perturbations, out["cell_eval"].values | out["full"].values)
    assert_same(scores, both)


def test_names_of_perturbations_matter_only_as_genes(engine: Engine, scores: PerturbationScores) -> None:
    names = {"drug A": "Z2", "drug B": "Z1", CONTROL: CONTROL}
    given = sides()
    labels = [
        np.array([names.get(name, name) for name in side]) for side in (given.real_labels, given.predicted_labels)
    ]
    renamed = every_metric(Sides(given.real, labels[0], given.predicted, labels[1]), engine)
    assert_same(without_draws(scores), renamed, names)


def test_prepared_real_data_give_the_same_values(engine: Engine, scores: PerturbationScores) -> None:
    real, predicted = sides().cells(log=True)
    side = prepare(real, control=CONTROL, engine=engine)
    for _ in range(2):
        again = evaluate(side, predicted, profile="cell_eval")
        for metric, values in again.values.items():
            assert_allclose(values.values, scores.values[metric].values, rtol=0, atol=0, err_msg=metric)

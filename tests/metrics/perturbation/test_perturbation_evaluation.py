"""What predictions whose score is known get, what is refused, and that results do not depend on the machine."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from numpy.testing import assert_allclose
from perturbation_cases import CONTROL, GENES, PERTURBATIONS, make_sides
from scipy.spatial.distance import cdist

import gpubench as gb
from gpubench.core.errors import InputError
from gpubench.core.types import Labels
from gpubench.metrics.perturbation import (
    PERTURBATION_METRICS,
    PROFILES,
    CellEval2Settings,
    PerturbationScores,
    PerturbedCells,
    RealSide,
    control_baseline,
    dispersed_mean_baseline,
    evaluate,
    expression_table,
    halves,
    mean_baseline,
    perturbed_cells,
    prepare,
    replicates,
    resampled_cells,
)
from gpubench.metrics.perturbation.energy_distance import energy_distances


@cache
def real(*, log: bool) -> PerturbedCells:
    return make_sides().cells(log=log)[0]


@cache
def side(*, log: bool) -> RealSide:
    return prepare(real(log=log), control=CONTROL, engine="cpu")


@cache
def scores(kind: str, *, log: bool) -> PerturbationScores:
    predicted = {
        "perfect": lambda: real(log=log),
        "control": lambda: control_baseline(side(log=log)),
        "mean": lambda: mean_baseline(side(log=log)) if log else dispersed_mean_baseline(side(log=log)),
        "shuffled": lambda: shuffled(real(log=log)),
    }[kind]()
    return evaluate(side(log=log), predicted, profile="cell_eval" if log else "full")


def shuffled(cells: PerturbedCells) -> PerturbedCells:
    """Every perturbation gets the cells of another; the control keeps its own."""
    others = [name for name in cells.names if name != CONTROL]
    next_name = dict(zip(others, others[1:] + others[:1], strict=True)) | {CONTROL: CONTROL}
    codes = np.array([cells.names.index(next_name[name]) for name in cells.names], np.int32)
    return PerturbedCells(cells.x, Labels(codes[cells.labels.codes], cells.names), cells.genes)


PERFECT = {"low": 0.0, "high": 1.0}

NOT_THE_BEST = {
    "expr_mse_unbiased_capped_norm": "the noise of both sides is subtracted, although it is the same",
    "de_wilcoxon_direction_fidelity": "0 where all genes change in one direction: a guess is as good",
    "de_wilcoxon_direction_fidelity_yield": "the same",
    "de_wilcoxon_model_direction_match": "0 where nothing is significant",
    "de_wilcoxon_direction_precision": "the same",
}


@pytest.mark.parametrize(
    "metric", [m for m, d in PERTURBATION_METRICS.items() if d.best in PERFECT and m not in NOT_THE_BEST]
)
def test_perfect_prediction_has_the_best_value_wherever_it_is_defined(metric: str) -> None:
    declared = PERTURBATION_METRICS[metric]
    values = scores("perfect", log=declared.generation == 1).values[metric].values
    expected = np.full(len(values), PERFECT[declared.best])
    if metric.removeprefix("de_wilcoxon_").startswith(("overlap", "precision")):
        worst = -1.0 if metric == "de_wilcoxon_precision_adjusted" else 0.0
        expected[n_significant(declared.generation) == 0] = worst  # by definition
    defined = ~np.isnan(values)
    assert defined.any()
    assert_allclose(values[defined], expected[defined], atol=1e-6)


@pytest.mark.parametrize("metric", NOT_THE_BEST)
def test_perfect_prediction_can_have_another_value_by_definition(metric: str) -> None:
    values = scores("perfect", log=False).values[metric]
    if metric == "expr_mse_unbiased_capped_norm":
        assert values.whole is not None
        assert values.whole < 0
    else:
        assert set(np.unique(values.values[~np.isnan(values.values)])) == {0.0, 1.0}


def n_significant(generation: int) -> np.ndarray:
    metric = "de_nsig_counts_real" if generation == 1 else "de_wilcoxon_nsig_counts_real"
    return scores("perfect", log=generation == 1).values[metric].values


def test_constant_prediction_without_effect_has_no_correlation_and_finds_nothing() -> None:
    control = real(log=True).rows_of(CONTROL)
    mean = np.asarray(real(log=True).x[control].mean(axis=0)).ravel()
    predicted = real(log=True).with_values(np.tile(mean, (real(log=True).n, 1)))
    got = evaluate(side(log=True), predicted)
    assert np.isnan(got.values["pearson_delta"].values).all()
    assert math.isnan(got.mean("pearson_delta"))
    assert got.mean("overlap_at_N") == got.mean("de_sig_genes_recall") == 0
    areas = got.values["roc_auc"].values
    assert set(areas[~np.isnan(areas)]) == {0.5}
    share = n_significant(1) / len(GENES)
    defined = ~np.isnan(areas)
    assert_allclose(got.values["pr_auc"].values[defined], share[defined])
    assert math.isnan(got.mean("pr_auc", strict=True)) == (not defined.all())
    # the effect 0 is at the same cosine distance from all: half of the others count as nearer
    n = len(PERTURBATIONS)
    assert_allclose(got.values["discrimination_score_cosine"].values, 1 - (n - 1) / 2 / n)


def test_control_cells_as_the_prediction_score_as_no_effect_does() -> None:
    got = scores("control", log=False)
    assert 0.7 < got.mean("expr_mse_unbiased_capped_norm") < 1.3
    assert got.mean("de_wilcoxon_direction_fidelity_yield_raw") < 0.2
    assert got.mean("de_wilcoxon_lfc_nmae") > 0.8


def test_mean_prediction_is_the_same_for_all_and_ranks_at_random() -> None:
    got = scores("mean", log=True)
    assert math.isnan(got.mean("pearson_edistance"))
    assert got.undefined()["pearson_edistance"] == {"constant: no correlation is defined": len(PERTURBATIONS)}
    options = {"discrimination_score_l1": {"exclude_target_gene": False}}
    got = evaluate(side(log=True), mean_baseline(side(log=True)), metrics=list(options), options=options)
    n = len(PERTURBATIONS)  # the distances of one point to all: each rank once
    assert_allclose(np.sort(got.values["discrimination_score_l1"].values), np.arange(1, n + 1) / n)


def test_shuffled_prediction_is_never_nearest_but_has_the_right_spread() -> None:
    got = scores("shuffled", log=True)
    assert got.mean("discrimination_score_l1") < 0.75
    assert got.values["discrimination_score_l1"].values.max() < 1
    assert got.mean("de_spearman_sig") < 0.9
    assert got.mean("de_nsig_counts_pred") == got.mean("de_nsig_counts_real")


def test_undefined_values_are_named_and_skipped_unless_strict() -> None:
    got = evaluate(side(log=True), make_sides().cells(log=True)[1], metrics=["pr_auc", "de_direction_match"])
    assert got.undefined() == {
        "pr_auc": {"none or all genes are significant in the real data": 1},
        "de_direction_match": {"no significant gene in the real data": 1},
    }
    assert not math.isnan(got.mean("pr_auc"))
    assert math.isnan(got.mean("pr_auc", strict=True))
    # a row that is not there is not NaN
    assert got.mean("de_direction_match", strict=True) == pytest.approx(got.mean("de_direction_match"))
    rows = [row for row in got.rows() if row[3]]
    assert [(name, metric) for name, metric, _, _ in rows] == [("drug B", "pr_auc"), ("drug B", "de_direction_match")]


def test_one_perturbation_has_no_values_over_perturbations() -> None:
    cells = real(log=True)
    keep = np.isin(cells.labels.codes, [cells.names.index(CONTROL), cells.names.index("drug A")])
    got = evaluate(cells.select(keep), cells.select(keep), control=CONTROL, engine="cpu")
    assert got.perturbations == ("drug A",)
    assert math.isnan(got.mean("pearson_edistance"))
    assert math.isnan(got.mean("clustering_agreement"))
    assert got.mean("discrimination_score_l1") == 1


def test_a_perturbation_of_one_cell_is_scored() -> None:
    cells = real(log=False)
    mine = cells.rows_of("drug A")
    kept = np.setdiff1d(np.arange(cells.n), mine[1:])
    got = evaluate(cells.select(kept), cells.select(kept), control=CONTROL, profile="full", engine="cpu")
    assert got.mean("expr_mae") == 0


def test_energy_distances_are_those_of_all_pairs_also_where_cells_repeat(engine: gb.engines.base.Engine) -> None:
    random = np.random.default_rng(0)
    x = random.normal(3, 1, (90, 30)).astype(np.float32)
    labels = np.repeat([CONTROL, "a", "b"], 30)
    x[5:20] = x[5]  # repeated cells in the control
    x[40:60] = x[40] + 1e-4 * random.normal(size=(20, 30)).astype(np.float32)  # a collapsed prediction
    x[60:] = x[60]
    got = energy_distances(perturbed_cells(x, labels, [str(i) for i in range(30)]), CONTROL, engine)
    groups = {name: x[labels == name].astype(float) for name in (CONTROL, "a", "b")}
    c = groups[CONTROL]
    for name in ("a", "b"):
        g = groups[name]
        want = 2 * cdist(g, c).mean() - cdist(g, g).mean() - cdist(c, c).mean()
        assert got[name] == pytest.approx(want, rel=2e-6)
    assert len(np.unique(x[60:], axis=0)) == 1


def test_blocks_and_tiles_do_not_change_energy_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = gb.get_engine("cpu")
    whole = energy_distances(real(log=True), CONTROL, engine)
    monkeypatch.setattr("gpubench.engines.cpu.mean_distances.ROWS_PER_TASK", 64)
    monkeypatch.setattr("gpubench.engines.cpu.mean_distances.COLUMNS_PER_TASK", 48)
    monkeypatch.setattr("gpubench.engines.common.mean_distances.VALUES_PER_BATCH", 100 * len(GENES))
    assert energy_distances(real(log=True), CONTROL, engine) == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("profile", ["cell_eval", "full"])
def test_bits_are_the_same_for_any_number_of_threads(profile: str) -> None:
    cells = make_sides().cells(log=profile == "cell_eval")
    one, two = (
        evaluate(*cells, control=CONTROL, profile=profile, engine=gb.get_engine("cpu", threads=n)) for n in (1, 2)
    )
    for metric, values in one.values.items():
        assert values.values.tobytes() == two.values[metric].values.tobytes(), metric


def message(*args: object, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        evaluate(*args, **{"engine": "cpu", **options})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_compared_is_refused_with_names_and_counts() -> None:
    a, b = make_sides().cells(log=True)
    without = b.select(np.flatnonzero(b.labels.codes != b.code("drug A")))
    assert message(a, without, control=CONTROL) == (
        "perturbations differ (1 only in the real data: 'drug A'); predict the same ones"
    )
    assert message(without, b, control=CONTROL) == (
        "perturbations differ (1 only in the prediction: 'drug A'); predict the same ones"
    )
    alone = b.select(np.flatnonzero(b.labels.codes != b.code(CONTROL)))
    assert message(a, alone, control=CONTROL).startswith(f"predicted: none of {alone.n:,} cells is labelled 'control'")
    fewer = perturbed_cells(b.x[:, :50], make_sides().predicted_labels, GENES[:50])
    assert message(a, fewer, control=CONTROL) == (
        "genes differ: 10 of the real data only ('G50', 'G51', 'G52', 'G53', 'G54', 'G55', 'G56', 'G57', 'G58', 'G59');"
        " give both sides the same 60 genes"
    )
    assert message(a, b, control="ctrl").startswith("control='ctrl': no cell has this label (did you mean 'control'?)")
    assert message(a, b) == "control: give the label of the control cells"
    assert message(a, b, control=CONTROL, profile="ful") == "profile='ful' is unknown (did you mean 'full'?)"
    assert message(a, b, control=CONTROL, metrics=["maee"]).startswith("metrics: 'maee' is unknown (did you mean 'mae'")
    assert (
        message(a, b, control=CONTROL, options={"mae": {"k": 3}}, metrics=["mae"]) == "options: mae has no option 'k'"
    )
    assert message(side(log=True), b, control=CONTROL) == "control: was given to `prepare` already; leave it out"
    counts = make_sides().cells()[0]
    assert message(counts, b, control=CONTROL, profile="vcc2026").startswith(
        "predicted: the real data are counts, the prediction log values"
    )


def test_values_that_are_no_expression_are_refused() -> None:
    for x, labels, genes, text in (
        ([[1.0, math.nan]], ["a"], ["x", "y"], "x: 1 values are NaN or infinite; give finite expression"),
        ([[1.0, 2.0]], ["a"], ["x", "x"], "genes: 1 names occur again ('x'); make them unique"),
        ([[1.0, 2.0]], ["a"], ["x"], "genes: 1 names for values of shape (1, 2); give one for each column"),
        ([[1.0, 2.0]], [None], ["x", "y"], "labels"),
    ):
        with pytest.raises(InputError) as caught:
            perturbed_cells(x, labels, genes)
        assert str(caught.value).startswith(text)
    one = perturbed_cells([[1.0], [2.0]], ["c", "c"], ["x"])
    with pytest.raises(InputError, match="is the label of all 2 cells"):
        prepare(one, control="c", engine="cpu")
    negative = perturbed_cells([[-0.5], [2.25]], ["c", "a"], ["x"])
    assert message(negative, negative, control="c").startswith("x: 1 values are negative")
    large = perturbed_cells([[0.5], [20.25]], ["c", "a"], ["x"])
    assert message(large, large, control="c").startswith("x: 1 values of 15 and more among fractions")


def test_own_tables_are_refused_where_a_pair_or_a_column_is_wrong() -> None:
    rows = {"target": ["A", "A"], "feature": ["x", "x"], "log2_fold_change": [1, 2], "p_value": [1, 1], "fdr": [1, 1]}
    with pytest.raises(InputError, match="1 pairs of target and feature occur twice"):
        expression_table(rows)
    del rows["p_value"]
    with pytest.raises(InputError, match="no column 'p_value'"):
        expression_table(rows)


def test_target_genes_come_from_names_or_from_the_map() -> None:
    def own(**targets: str | None) -> list[int]:
        settings = CellEval2Settings(target_gene_map={name.replace("_", " "): gene for name, gene in targets.items()})
        prepared = prepare(real(log=False), control=CONTROL, cell_eval2=settings, engine="cpu")
        return prepared.own_columns().tolist()[-3:]

    assert own() == [39, -1, -1]
    assert own(drug_A="G01") == [39, 1, -1]
    assert own(G39=None) == [-1, -1, -1]
    assert prepare(
        real(log=False), control=CONTROL, cell_eval2=CellEval2Settings(target_gene_map={"*": None}), engine="cpu"
    ).own_columns().tolist() == [-1] * len(PERTURBATIONS)


def test_halves_split_every_group_evenly_without_shared_cells() -> None:
    cells = real(log=False)
    marked = cells.with_values(np.arange(cells.n, dtype=float)[:, None] * np.ones((1, len(GENES))))
    a, b = halves(marked, seed=3)
    assert a.names == b.names == cells.names
    assert_allclose(a.n_cells, cells.n_cells // 2)
    assert_allclose(b.n_cells, cells.n_cells // 2)
    assert not set(a.x[:, 0]) & set(b.x[:, 0])
    again, _ = halves(marked, seed=3)
    assert_allclose(again.x, a.x)
    assert not np.array_equal(halves(marked, seed=4)[0].x, a.x)


def test_replicates_are_near_the_best_values_and_keep_their_seeds() -> None:
    got = replicates(side(log=False), ["pds_cosine", "de_wilcoxon_lfc_nmae", "mae"], n_splits=2)
    assert len(set(got.seeds)) == 2
    means = got.means()
    assert means["pds_cosine"] > 0.8
    assert 0 < means["mae"] < 0.5
    assert set(got.splits[0].values) == {"pds_cosine", "de_wilcoxon_lfc_nmae", "mae"}


def test_baselines_have_the_sizes_and_controls_of_the_real_data() -> None:
    given = side(log=False)
    control = given.cells.x[given.cells.rows_of(CONTROL)].toarray()
    for predicted in (control_baseline(given), dispersed_mean_baseline(given)):
        assert_allclose(predicted.n_cells, given.cells.n_cells)
        assert_allclose(predicted.x[predicted.rows_of(CONTROL)].toarray(), control)
        assert predicted.has_counts
    spread = dispersed_mean_baseline(given)
    wanted = np.mean([given.cells.x[given.cells.rows_of(p)].mean(axis=0) for p in PERTURBATIONS], axis=0)
    got = np.mean([spread.x[spread.rows_of(p)].mean(axis=0) for p in PERTURBATIONS], axis=0)
    common = control.mean(axis=0) > 1
    assert_allclose(got[common], wanted[common], rtol=0.25)
    log = side(log=True)
    few = mean_baseline(log, n_cells=dict.fromkeys(PERTURBATIONS, 2))
    assert few.n_cells.tolist()[:-1].count(2) == len(PERTURBATIONS) - (few.names[-1] != CONTROL)


def test_resampled_cells_are_drawn_within_their_group() -> None:
    cells = real(log=False)
    drawn = resampled_cells(cells, seed=1)
    assert_allclose(drawn.n_cells, cells.n_cells)
    mine = {row.tobytes() for row in cells.x[cells.rows_of("drug A")].toarray()}
    assert {row.tobytes() for row in drawn.x[drawn.rows_of("drug A")].toarray()} < mine


def test_profiles_name_metrics_of_one_generation() -> None:
    for name, generation in (("cell_eval", 1), ("full", 2), ("vcc2026", 2), ("vcc2025", 1), ("minimal", 1)):
        assert {PERTURBATION_METRICS[metric].generation for metric in PROFILES[name]} == {generation}

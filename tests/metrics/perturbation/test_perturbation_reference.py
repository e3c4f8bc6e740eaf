"""Agreement with the values that cell-eval 0.8.2 and cell-eval2 0.20.0 returned for small data sets."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
from perturbation_cases import assert_means, largest_difference

import gpubench as gb
from gpubench.engines.base import Engine
from gpubench.metrics.perturbation import (
    PROFILES,
    CellEval2Settings,
    CellEvalSettings,
    ExpressionTable,
    PerturbationScores,
    PerturbedCells,
    RealSide,
    ceiling,
    dispersed_mean_baseline,
    evaluate,
    expression_table,
    mean_baseline,
    mean_profile,
    perturbed_cells,
    prepare,
    replicates,
    score_fixed,
    score_from_baseline,
    score_from_replicate,
)

CONTROL = "non-targeting"
FOLDER = Path(__file__).resolve().parents[4] / "shared" / "perturbation" / "reference"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"reference values not found: no folder {FOLDER}")


@cache
def reference(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text())


@cache
def cells(
    name: str, column: str = "target_gene", dtype: str | None = None, cell_type: str | None = None
) -> PerturbedCells:
    data = ad.read_h5ad(FOLDER / f"{name}.h5ad")
    if cell_type:
        data = data[data.obs["cell_type"] == cell_type]
    x = data.X if dtype is None else data.X.toarray().astype(dtype)
    embeddings = {key: np.asarray(data.obsm[key]) for key in data.obsm}
    return perturbed_cells(x, data.obs[column].astype(str).to_numpy(), list(data.var_names), embeddings)


@cache
def engine() -> Engine:
    """With the seed that scanpy takes for neighbours and communities."""
    return gb.get_engine("cpu", seed=0)


@cache
def real_side(name: str = "real", column: str = "target_gene") -> RealSide:
    return prepare(cells(name, column), control=CONTROL, engine=engine())


def by_perturbation(values: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Metric -> perturbation -> value, the other way round."""
    out: dict[str, dict[str, Any]] = {}
    for metric, row in values.items():
        for name, value in row.items():
            out.setdefault(name, {})[metric] = value
    return out


def first(name: str, settings: CellEvalSettings | None = None, **options: Any) -> PerturbationScores:
    return evaluate(
        cells(f"{name}real"), cells(f"{name}pred"), control=CONTROL, cell_eval=settings, engine=engine(), **options
    )


def test_cell_eval_agrees_for_every_perturbation_and_in_the_means() -> None:
    want, got = reference("reference")["main_variant"], first("")
    assert largest_difference(want["per_perturbation"], got) < 1e-6
    assert_means(want["aggregate"]["mean"], got.means(strict=True), 1e-6)
    assert math.isnan(got.mean("pr_auc", strict=True))
    assert 0 < got.mean("pr_auc") < 1


EXACT = ("overlap", "precision", "discrimination", "de_nsig", "de_direction", "de_sig")


def test_ranks_counts_and_sets_of_cell_eval_agree_exactly() -> None:
    want, got = reference("reference")["main_variant"]["per_perturbation"], first("")
    values = {metric: v for metric, v in got.values.items() if metric.startswith(EXACT)}
    assert largest_difference(want, PerturbationScores(got.perturbations, values)) < 1e-15


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dense_values_agree(dtype: str) -> None:
    got = evaluate(cells("real", dtype=dtype), cells("pred", dtype=dtype), control=CONTROL, engine=engine())
    assert largest_difference(reference("reference")[f"dense{dtype[-2:]}"]["per_perturbation"], got) < 1e-6


@pytest.mark.parametrize(
    ("name", "settings"), [("counts", CellEvalSettings()), ("counts_discrete", CellEvalSettings(allow_discrete=True))]
)
def test_counts_agree_normalised_or_as_they_are(name: str, settings: CellEvalSettings) -> None:
    got = first("counts_", settings)
    assert largest_difference(reference("reference")[name]["per_perturbation"], got) < 1e-6


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("cpm_filter=5", CellEvalSettings(cpm_filter=5)),
        ("epsilon=1e-9", CellEvalSettings(epsilon=1e-9)),
        ("geometric_mean=False", CellEvalSettings(geometric_mean=False)),
    ],
)
def test_settings_of_the_tests_agree(name: str, settings: CellEvalSettings) -> None:
    want = reference("reference")["pdex_settings"][name]
    got = first("", settings, metrics=want["columns"][1:])
    assert largest_difference(want["per_perturbation"], got) < 1e-14


@pytest.mark.parametrize("name", ["embedding", "everything_in_embedding"])
def test_metrics_in_an_embedding_agree(name: str) -> None:
    want = reference("reference")[name]
    metrics = want["columns"][1:]
    embedded = metrics if name.startswith("every") else ["discrimination_score_l2", "discrimination_score_cosine"]
    # cell-eval computes this one on expression whatever it is asked for
    options = {metric: {"embed_key": "X_emb"} for metric in embedded if metric != "discrimination_score_l1"}
    assert largest_difference(want["per_perturbation"], first("", metrics=metrics, options=options)) < 1e-6


def changed_options() -> list[str]:
    if not FOLDER.is_dir():
        return []
    return [
        name for name in reference("reference")["variants_of_settings"] if " with " in name and "clusters" not in name
    ]


@pytest.mark.parametrize("name", changed_options())
def test_options_of_metrics_agree(name: str) -> None:
    metric, _, option = name.partition(" with ")
    key, _, text = option.partition("=")
    value: Any = {"False": False, "15": 15, "4": 4, "0.01": 0.01, "0.2": 0.2}.get(text, text)
    key = "distance" if metric == "pearson_edistance" else key
    want = reference("reference")["variants_of_settings"][name]
    got = evaluate(real_side(), cells("pred"), metrics=[metric], options={metric: {key: value}})
    if isinstance(want, dict):
        assert largest_difference({p: {metric: v} for p, v in want.items()}, got) < 1e-14
    else:
        assert got.mean(metric) == pytest.approx(float(want), abs=1e-6)


@pytest.mark.parametrize("cell_type", ["typeA", "typeB"])
def test_cell_types_agree(cell_type: str) -> None:
    want = reference("reference")["cell_types"][cell_type]
    real, predicted = (cells(side, cell_type=cell_type) for side in ("real", "pred"))
    side = prepare(real, control=CONTROL, engine=engine())
    # their E-distances of float32 values are as far from those of float64 values
    assert largest_difference(want["per_perturbation"], evaluate(side, predicted)) < 1.2e-6
    ceilings, _ = ceiling(side, PROFILES["cell_eval"], strict=True)
    assert_means(want["ceiling"], ceilings, 1e-6)


def test_energy_distances_agree_with_float64() -> None:
    for name in ("real", "pred"):
        side = prepare(cells(name), control=CONTROL, engine=engine())
        for p, value in side.energies(None, "euclidean").items():
            assert value == pytest.approx(reference("reference")["pairs_of_distances"][name][p], rel=1e-6)


def table_of(name: str, adjusted: str) -> ExpressionTable:
    text = gzip.decompress((FOLDER / f"{name}.csv.gz").read_bytes()).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    numbers = ("log2_fold_change", "p_value", adjusted)
    columns: dict[str, Any] = {key: [row[key] for row in rows] for key in ("target", "feature")}
    return expression_table(columns | {key: [float(row[key]) for row in rows] for key in numbers})


@pytest.mark.parametrize("name", ["real", "pred"])
def test_tables_of_tests_agree(name: str) -> None:
    want = table_of(f"de_{name}", "fdr").to_float32()
    side = prepare(cells(name), control=CONTROL, engine=engine())
    got = side.cell_eval_table.on(want.perturbations, want.genes)
    np.testing.assert_allclose(got.p_value, want.p_value, rtol=3e-7)
    np.testing.assert_allclose(got.p_adjusted, want.p_adjusted, rtol=3e-7)
    # theirs are of means in float32
    np.testing.assert_allclose(got.log2_fold_change, want.log2_fold_change, atol=2e-5)


def test_own_tables_give_the_values_of_computed_ones() -> None:
    want = reference("reference")["main_variant"]["per_perturbation"]
    side = prepare(cells("real"), control=CONTROL, table=table_of("de_real", "fdr"), engine=engine())
    got = evaluate(side, cells("pred"), predicted_table=table_of("de_pred", "fdr"))
    assert largest_difference(want, got) < 1e-6


@pytest.mark.parametrize("name", ["main_variant", "counts"])
def test_ceiling_of_cell_eval_agrees(name: str) -> None:
    want = reference("reference")[name]["ceiling"]
    side = real_side("real" if name == "main_variant" else "counts_real")
    got, scores = ceiling(side, PROFILES["cell_eval"], strict=True)
    assert largest_difference(want["per_perturbation"], scores) < 1e-6
    assert_means(want["aggregate"], got, 1e-6)


def without_energies(values: Mapping[str, Any]) -> dict[str, Any]:
    """The baseline's E-distances are all the same: their correlation is that of the rounding errors of the package."""
    return {metric: value for metric, value in values.items() if metric != "pearson_edistance"}


def test_baseline_and_score_of_cell_eval_agree() -> None:
    want = reference("reference")["baseline"]
    np.testing.assert_allclose(mean_profile(real_side())[:20], want["baseline_vector_first_20_genes"], atol=1e-6)
    delta = mean_profile(real_side(), as_delta=True)[:20]
    np.testing.assert_allclose(delta, want["baseline_vector_as_delta_first_20_genes"], atol=1e-6)
    baseline = evaluate(real_side(), mean_baseline(real_side()))
    values = PerturbationScores(baseline.perturbations, without_energies(baseline.values))
    assert largest_difference(want["baseline"]["per_perturbation"], values) < 1e-6
    assert math.isnan(baseline.mean("pearson_edistance"))
    user = evaluate(real_side(), cells("pred"))
    scores = score_from_baseline(user.means(strict=True), baseline.means(strict=True)).scores
    assert_means(without_energies(want["score_of_pred_against_baseline"]), scores, 1e-6)


def test_score_of_the_challenge_of_2025_agrees() -> None:
    want = reference("reference")["vcc"]["score"]
    sides = cells("pred"), mean_baseline(real_side())
    user, baseline = (evaluate(real_side(), side, profile="vcc2025").means(strict=True) for side in sides)
    scores = score_from_baseline(user, baseline)
    assert_means(want, scores.scores | {"avg_score": scores.average}, 1e-6)


def second(settings: CellEval2Settings | None = None, **options: Any) -> PerturbationScores:
    return evaluate(
        cells("v2_real", "target"),
        cells("v2_pred", "target"),
        control=CONTROL,
        cell_eval2=settings,
        engine=engine(),
        **options,
    )


def test_cell_eval2_agrees_for_every_perturbation_and_in_the_means() -> None:
    want, cell = reference("reference_v2")["full"], reference("reference_v2")["cell_metrics"]
    got = second(profile="full")
    values = {m: v for m, v in got.values.items() if not m.startswith("cell_")}
    table = by_perturbation(want["per_perturbation"] | cell["per_perturbation"])
    assert largest_difference(table, PerturbationScores(got.perturbations, values)) < 1e-9
    assert largest_difference(table, got) < 1e-6
    assert_means(want["aggregate"]["mean"], got.means(), 1e-9)
    assert_means(cell["aggregate"]["mean"], got.means(), 1e-6)


SETTINGS = {
    "control_source_pred": CellEval2Settings(control_source="pred"),
    "exclusion_scope_row": CellEval2Settings(exclusion_scope="row"),
    "exclude_target_gene_off": CellEval2Settings(exclude_target_gene=False),
    "rank_denominator_n": CellEval2Settings(rank_denominator="n"),
    "tie_policy_position": CellEval2Settings(tie_policy="position"),
    "min_abs_log2fc_0.5": CellEval2Settings(min_abs_log2fc=0.5),
    "mean_calc_geometric": CellEval2Settings(mean_calc="geometric"),
    "fdr_scope_global": CellEval2Settings(fdr_scope="global"),
    "p_adj_threshold_0.001": CellEval2Settings(p_adj_threshold=0.001),
    "sort_by_p_adj": CellEval2Settings(sort_by="p_adj"),
    "no_cpm_filter": CellEval2Settings(min_control_cpm=None),
    "target_sum_1e4": CellEval2Settings(target_sum=1e4),
    "target_sum_none": CellEval2Settings(target_sum=None),
    "bulk_target_sum_1e4": CellEval2Settings(bulk_target_sum=1e4),
    "auc_floor_clip": CellEval2Settings(auc_pval_floor="clip"),
    "drugs_mapped": CellEval2Settings(target_gene_map={"drugA": "G001", "drugB": None}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_cell_eval2_agree(name: str) -> None:
    want = reference("reference_v2")["settings"][name]
    got = second(SETTINGS[name], metrics=list(want["aggregate"]["mean"]))
    table = by_perturbation(want["per_perturbation"])
    if name == "sort_by_p_adj":
        # three genes share the adjusted p value at the end of this list; the package's sort is not stable
        table["G123"]["de_wilcoxon_overlap"] += 1 / 46
    assert largest_difference(table, got) < 1e-9


def test_settings_of_the_package_are_all_here() -> None:
    assert SETTINGS.keys() == reference("reference_v2")["settings"].keys()


def repeated(share: float) -> PerturbedCells:
    """The prediction with the first part of the cells of every perturbation replaced by the same control cells."""
    given = cells("v2_pred", "target")
    x, labels = given.x.toarray(), np.array(given.names)[given.labels.codes]
    controls = np.flatnonzero(labels == CONTROL)
    for name in given.names:
        if name != CONTROL:
            mine = np.flatnonzero(labels == name)
            mine = mine[: round(len(mine) * share)]
            x[mine] = x[controls[np.arange(len(mine)) % 50]]
    return perturbed_cells(x, labels, given.genes)


@pytest.mark.parametrize("name", ["pred_is_real", "same_cells_in_every_perturbation", "four_fifths_same_cells"])
def test_other_predictions_agree(name: str) -> None:
    want = reference("reference_v2")["inputs"][name]
    real = cells("v2_real", "target")
    predicted = {
        "pred_is_real": lambda: real,
        "same_cells_in_every_perturbation": lambda: repeated(1.0),
        "four_fifths_same_cells": lambda: repeated(0.8),
    }[name]()
    metrics = [metric for metric in PROFILES["full"] if not metric.startswith("cell_")]
    got = evaluate(real, predicted, control=CONTROL, metrics=metrics, engine=engine())
    assert largest_difference(by_perturbation(want["per_perturbation"]), got) < 1e-9
    assert_means(want["aggregate"]["mean"], got.means(), 1e-9)


def test_predictions_without_control_cells_are_scored() -> None:
    """The package refuses them, although it does not use these cells."""
    predicted = cells("v2_pred", "target")
    alone = predicted.select(np.flatnonzero(predicted.labels.codes != predicted.code(CONTROL)))
    want = second(profile="full")
    got = evaluate(cells("v2_real", "target"), alone, control=CONTROL, profile="full", engine=engine())
    for metric, values in want.values.items():
        np.testing.assert_allclose(got.values[metric].values, values.values, rtol=1e-12, atol=1e-12, err_msg=metric)


def test_log_values_agree() -> None:
    want = reference("reference_v2")["parity_presets"]["v2_lognorm"]
    metrics = [metric for metric in PROFILES["full"] if not metric.startswith("cell_")]
    got = evaluate(real_side(), cells("pred"), metrics=metrics)
    assert largest_difference(by_perturbation(want["per_perturbation"]), got) < 1e-6


def rows_of(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = reference("reference_v2")["scoring"]["tables"][name]
    return rows


def test_baseline_replicates_ceiling_and_scores_of_cell_eval2_agree() -> None:
    real, metrics = real_side("v2_real", "target"), PROFILES["vcc2026"]
    baseline = evaluate(real, dispersed_mean_baseline(real), metrics=metrics)
    want: dict[str, dict[str, Any]] = {}
    for row in rows_of("base/baseline_results.csv"):
        want.setdefault(row["perturbation"], {})[row["metric"]] = row["value"]
    assert largest_difference(want, baseline) < 1e-8  # counts are rounded to float32

    repeats = replicates(real, metrics).means()
    for row in rows_of("user/anchor_agg.parquet"):
        assert repeats[row["metric"]] == pytest.approx(row["replicate"], abs=1e-12), row["metric"]
    ceilings, _ = ceiling(real, metrics)
    for row in rows_of("user/ceiling_agg.csv"):
        assert ceilings[row["metric"]] == pytest.approx(float(row["ceiling"]), abs=1e-12, nan_ok=True)

    user = evaluate(real, cells("v2_pred", "target"), metrics=metrics).means()
    columns = {
        "from_baseline": score_from_baseline(user, baseline.means()),
        "from_replicate": score_from_replicate(user, baseline.means(), repeats),
        "low-random_high-1_v10": score_fixed(user),
    }
    for name in ("scored.csv", "scored_scale.csv"):
        for row in rows_of(name):
            for column in row.keys() & columns.keys():
                scores = columns[column].scores | {"avg_score": columns[column].average}
                assert scores[row["metric"]] == pytest.approx(row[column], abs=1e-8), (row["metric"], column)

"""The task perturbation_prediction from files to files, against the values of cell-eval and cell-eval2."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pyarrow.parquet as pq
import pytest
import screens
from scipy.sparse import csc_matrix
from screens import COLUMN, CONTROL, PERTURBATIONS

import gpubench as gb
from gpubench.cli.main import main
from gpubench.metrics.perturbation import PROFILES

REFERENCE = Path(__file__).resolve().parents[3] / "shared/perturbation/reference"
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"needs the reference values in {REFERENCE}")
TASK = "perturbation_prediction"


def number(value: Any) -> float:
    return math.nan if value is None else float(value)


def score_files(real: Path, predicted: list[str], out: Path, *flags: str, control: str = CONTROL) -> dict[str, Any]:
    """Run the command; return embedding -> (metric, one) -> value."""
    predictions = [flag for one in predicted for flag in ("--predictions", one)]
    given = [*predictions, "--task", TASK, "--control", control, "--seed", "0", "--engine", "cpu", "--out", str(out)]
    assert main(["score", str(real), *given, *flags, "--quiet"]) == 0
    values: dict[str, Any] = {}
    for row in json.loads((out / "results.json").read_text())["results"]:
        key = row["metric"], row["params"].get("one", "")
        values.setdefault(row["embedding"], {})[key] = number(row["value"])
    return values


def plain(values: dict[tuple[str, str], float], end: str = "", one: str = "") -> dict[str, float]:
    """Metric -> value of the rows of one kind."""
    kept = {m: v for (m, o), v in values.items() if o == one and m.endswith(end) and m != "avg_score"}
    return {metric.removesuffix(end): value for metric, value in kept.items()}


def table_of(path: Path) -> dict[tuple[str, str, str], float]:
    rows = pq.read_table(path).to_pylist()
    return {(r["prediction"], r["perturbation"], r["metric"]): number(r["value"]) for r in rows}


@needs_reference
def test_cell_eval_profile_agrees_with_its_values(tmp_path: Path) -> None:
    reference = json.loads((REFERENCE / "reference.json").read_text())
    flags = ["--condition", "target_gene", "--option", "profile=cell_eval", "--option", "strict_mean=true"]
    flags += ["--baseline", "mean", "--baseline", "ceiling"]
    values = score_files(REFERENCE / "real.h5ad", [str(REFERENCE / "pred.h5ad")], tmp_path, *flags)
    wanted = reference["main_variant"]
    means = {metric: number(value) for metric, value in wanted["aggregate"]["mean"].items()}
    assert plain(values["pred"]) == pytest.approx(means, abs=1e-6, nan_ok=True)
    ceilings = {metric: number(value) for metric, value in wanted["ceiling"]["aggregate"].items()}
    ceilings |= dict.fromkeys(means.keys() - ceilings.keys(), math.nan)
    assert plain(values["ceiling"]) == pytest.approx(ceilings, abs=1e-6, nan_ok=True)
    unlike = {"pearson_edistance"}  # of equal cells: rounding noise there, undefined here
    base = {m: number(v) for m, v in reference["baseline"]["baseline"]["aggregate"]["mean"].items() if m not in unlike}
    found = {m: v for m, v in plain(values["baseline_mean"]).items() if m not in unlike}
    assert found == pytest.approx(base, abs=1e-6, nan_ok=True)
    scores = {m: s for m, s in reference["baseline"]["score_of_pred_against_baseline"].items() if m not in unlike}
    scores.pop("avg_score")
    scaled = {m: s for m, s in plain(values["pred"], "_scaled", "perfect").items() if m not in unlike}
    assert scaled == pytest.approx(scores, abs=1e-6)
    rows = table_of(tmp_path / "perturbations.parquet")
    for perturbation, own in wanted["per_perturbation"].items():
        for metric, value in own.items():
            assert rows["pred", perturbation, metric] == pytest.approx(number(value), abs=1e-6, nan_ok=True), metric


@needs_reference
def test_vcc2025_profile_agrees_with_the_challenge(tmp_path: Path) -> None:
    score = json.loads((REFERENCE / "reference.json").read_text())["vcc"]["score"]
    flags = ["--condition", "target_gene", "--option", "profile=vcc2025", "--baseline", "mean"]
    values = score_files(REFERENCE / "real.h5ad", [f"mine={REFERENCE / 'pred.h5ad'}"], tmp_path, *flags)["mine"]
    assert values["avg_score", "perfect"] == pytest.approx(score["avg_score"], abs=1e-6)


@needs_reference
def test_counts_are_normalised_as_cell_eval_does(tmp_path: Path) -> None:
    wanted = json.loads((REFERENCE / "reference.json").read_text())["counts"]["aggregate"]["mean"]
    flags = ["--condition", "target_gene", "--option", "profile=cell_eval", "--option", "strict_mean=true"]
    values = score_files(REFERENCE / "counts_real.h5ad", [str(REFERENCE / "counts_pred.h5ad")], tmp_path, *flags)
    found = plain(values["counts_pred"])
    means = {metric: number(value) for metric, value in wanted.items()}
    assert found == pytest.approx(means, abs=1e-6, nan_ok=True)


@needs_reference
def test_full_profile_agrees_with_cell_eval2(tmp_path: Path) -> None:
    wanted = json.loads((REFERENCE / "reference_v2.json").read_text())["full"]
    flags = ["--condition", "target", "--option", "profile=full"]
    found = score_files(REFERENCE / "v2_real.h5ad", [str(REFERENCE / "v2_pred.h5ad")], tmp_path, *flags)
    values = plain(found["v2_pred"])
    means = {metric: number(value) for metric, value in wanted["aggregate"]["mean"].items()}
    assert {metric: values[metric] for metric in means} == pytest.approx(means, abs=1e-9, nan_ok=True)
    rows = table_of(tmp_path / "perturbations.parquet")
    for metric, own in wanted["per_perturbation"].items():
        for perturbation, value in own.items():
            one = rows["v2_pred", perturbation, metric]
            assert one == pytest.approx(number(value), abs=1e-9, nan_ok=True), (metric, perturbation)


@needs_reference
def test_vcc2026_profile_agrees_with_the_challenge(tmp_path: Path) -> None:
    flags = ["--condition", "target", "--option", "profile=vcc2026", "--baseline", "mean", "--baseline", "replicate"]
    values = score_files(REFERENCE / "v2_real.h5ad", [str(REFERENCE / "v2_pred.h5ad")], tmp_path, *flags)
    assert values["v2_pred"]["avg_score", "replicate"] == pytest.approx(0.7299424070050993, abs=1e-9)
    assert values["v2_pred"]["avg_score", "perfect"] == pytest.approx(0.5761672121238752, abs=1e-9)
    assert values["baseline_mean"]["expr_mse_unbiased_capped_norm", ""] == pytest.approx(0.9225263198820244, abs=1e-6)
    assert values["replicate"]["de_wilcoxon_sig_jaccard", ""] == pytest.approx(0.5493442962653274, abs=1e-9)


@pytest.fixture(scope="module")
def pair() -> tuple[anndata.AnnData, anndata.AnnData]:
    real = screens.make_screen(0)
    return real, screens.predict(real)


def score(real: Any, predictions: Any, **given: Any) -> gb.Result:
    options = {"condition": COLUMN, "control": CONTROL, "tasks": TASK, "engine": "cpu", **given}
    return gb.score(real, predictions=predictions, **options)


def values_of(result: gb.Result) -> dict[tuple[str, str], float]:
    return {(row.embedding, row.metric): row.value for row in result.results}


@pytest.mark.parametrize("profile", ["cell_eval", "full"])
def test_order_of_genes_and_storage_change_no_bit(pair: tuple[Any, Any], profile: str) -> None:
    real, predicted = pair
    turned = predicted[:, ::-1].copy()
    stored = anndata.AnnData(csc_matrix(turned.X), turned.obs, turned.var)
    result = score(real, {"a": predicted, "b": turned, "c": stored}, profile=profile)
    values = values_of(result)
    for metric in PROFILES[profile]:
        assert values["a", metric] == values["b", metric] == values["c", metric] or math.isnan(values["a", metric])
    table = result.perturbations
    assert [v for p, v in zip(table.prediction, table.value, strict=True) if p == "a"] == pytest.approx(
        [v for p, v in zip(table.prediction, table.value, strict=True) if p == "b"], rel=0, abs=0, nan_ok=True
    )


def test_order_of_cells_changes_only_rounding(pair: tuple[Any, Any]) -> None:
    real, predicted = pair
    order = np.random.default_rng(3).permutation(predicted.n_obs)
    result = score(real, {"a": predicted, "b": predicted[order].copy()})
    values = values_of(result)
    for metric in PROFILES["cell_eval"]:
        assert values["a", metric] == pytest.approx(values["b", metric], rel=1e-6, nan_ok=True)


def test_several_predictions_get_the_values_of_each_alone(pair: tuple[Any, Any], tmp_path: Path) -> None:
    real, predicted = pair
    other = screens.predict(real, 2, effects=0.5)
    both = score(real, {"good": predicted, "weak": other}, profile="minimal", baseline="mean")
    assert list(dict.fromkeys(row.embedding for row in both.results)) == ["good", "weak", "baseline_mean"]
    alone = values_of(score(real, {"weak": other}, profile="minimal", baseline="mean"))
    values = values_of(both)
    for (name, metric), value in alone.items():
        assert values[name, metric] == pytest.approx(value, rel=0, abs=0, nan_ok=True)
    assert values["good", "mae_scaled"] > values["weak", "mae_scaled"]
    both.to_json(tmp_path / "results.json")
    both.perturbations_to_parquet(tmp_path / "perturbations.parquet")
    assert gb.Result.from_json(tmp_path / "results.json").perturbations == both.perturbations


def test_rows_say_profile_scale_interval_and_reasons(pair: tuple[Any, Any]) -> None:
    result = score(*pair, metrics="mae,de_sig_genes_recall", seed=1)
    row = next(row for row in result.results if row.metric == "mae")
    assert (row.embedding, row.params["profile"], row.params["values"]) == ("prediction", "metrics", "counts")
    low, high = row.params["interval"]
    assert low < row.value < high
    assert row.n == pair[1].n_obs
    assert len(result.perturbations) == 2 * len(PERTURBATIONS)


def test_context_is_scored_by_itself_and_averaged(pair: tuple[Any, Any]) -> None:
    real, predicted = (side.copy() for side in pair)
    for side in (real, predicted):
        side.obs["line"] = np.where(np.arange(side.n_obs) % 2, "A", "B")
    result = score(real, predicted, context="line", metrics="mae", baseline="mean")
    rows = [row for row in result.results if (row.embedding, row.metric) == ("prediction", "mae")]
    values = {row.params["context"]: row.value for row in rows}
    parts = [side[(side.obs["line"] == "A").to_numpy()].copy() for side in (real, predicted)]
    assert values["A"] == values_of(score(*parts, metrics="mae"))["prediction", "mae"]
    assert values["MEAN"] == pytest.approx((values["A"] + values["B"]) / 2)
    assert set(result.perturbations.context) == {"A", "B"}


def test_perfect_prediction_and_baselines_are_at_their_ends(pair: tuple[Any, Any]) -> None:
    real, _ = pair
    with_control = real.copy()
    result = score(real, {"perfect": with_control}, baseline=["mean", "control"])
    values = values_of(result)
    assert values["perfect", "mae"] == 0
    assert values["perfect", "pearson_delta"] == pytest.approx(1)
    assert values["perfect", "discrimination_score_l1"] == 1
    assert values["perfect", "mae_scaled"] == 1
    assert values["baseline_mean", "discrimination_score_l1"] < 1
    assert abs(values["baseline_control", "pearson_delta"]) < 0.5
    assert any("copies of real perturbed cells" in line for line in result.provenance["warnings"])


BAD = {
    "no control label": (lambda r, p: (r, p), {"control": None}, "control is needed by the task"),
    "unknown control": (lambda r, p: (r, p), {"control": "none"}, "none of 330 cells is labelled 'none'"),
    "unknown column": (lambda r, p: (r, p), {"condition": "gene"}, "condition='gene' is not a column"),
    "no predictions": (lambda r, _: (r, None), {}, "needs `predictions` and `control`"),
    "unknown profile": (lambda r, p: (r, p), {"profile": "cell-eval"}, "profile='cell-eval' is unknown"),
    "unknown metric": (lambda r, p: (r, p), {"metrics": "mea"}, "'mea' is unknown"),
    "baseline of embeddings": (lambda r, p: (r, p), {"baseline": "pca"}, "baseline='pca' is none of the tasks"),
    "name of a baseline": (lambda r, p: (r, {"replicate": p}), {}, "is the name of a baseline"),
    "missing labels": (
        lambda r, p: (r, screens.to_anndata(p.X, [None, *p.obs[COLUMN][1:]])),
        {},
        "condition='target_gene' of the prediction.*1 of 330",
    ),
    "integers for logs": (lambda r, p: (screens.log_normalised(r), p), {}, "the prediction counts"),
    "two faults": (
        lambda r, p: (r, {"a": p, "b": p[:, 1:].copy(), "c": p[:, 2:].copy()}),
        {},
        r"genes differ: 1 only in the real data \('G00'\).*and 1 more",
    ),
    "strict": (lambda r, p: (r, p[:, ::-1].copy()), {"strict": True}, "80 of 80 genes are at another place"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_one_line(pair: tuple[Any, Any], case: str) -> None:
    change, given, message = BAD[case]
    with pytest.raises(gb.InputError, match=message) as error:
        score(*change(*pair), **given)
    assert "\n" not in str(error.value)


def test_named_predictions_need_the_task(pair: tuple[Any, Any]) -> None:
    with pytest.raises(gb.InputError, match="only the task 'perturbation_prediction' takes"):
        gb.score(pair[0], predictions={"a": pair[1]}, condition=COLUMN, control=CONTROL, engine="cpu")


def test_one_perturbation_has_reasons_where_several_are_needed(pair: tuple[Any, Any]) -> None:
    one = [side[side.obs[COLUMN].isin([CONTROL, "drug"]).to_numpy()].copy() for side in pair]
    result = score(*one)
    rows = {row.metric: row for row in result.results}
    assert math.isnan(rows["pearson_edistance"].value)
    assert rows["pearson_edistance"].note.startswith("undefined: ")
    assert rows["mae"].value > 0


def test_labels_that_are_numbers_are_text(pair: tuple[Any, Any]) -> None:
    sides = [side.copy() for side in pair]
    for side in sides:
        numbers = {name: i for i, name in enumerate([CONTROL, *PERTURBATIONS])}
        side.obs[COLUMN] = [numbers[name] for name in side.obs[COLUMN]]
    expected = values_of(score(*pair, metrics="mae"))
    assert values_of(score(*sides, metrics="mae", control="0")) == pytest.approx(expected)


def test_run_file_names_predictions(pair: tuple[Any, Any], tmp_path: Path) -> None:
    for name, side in zip(("real", "a"), pair, strict=True):
        side.write_h5ad(tmp_path / f"{name}.h5ad")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pair[1].write_zarr(tmp_path / "b.zarr")
    (tmp_path / "run.yaml").write_text(
        "runs:\n  one:\n    data: real.h5ad\n    predictions: {a: a.h5ad, b: b.zarr}\n"
        f"    condition: {COLUMN}\n    control: {CONTROL}\n    tasks: {TASK}\n    baseline: [mean]\n"
        "    options: {profile: minimal}\n"
    )
    assert main(["score", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "out"), "--quiet"]) == 0
    result = gb.Result.from_json(tmp_path / "out/one/results.json")
    values = values_of(result)
    assert values["a", "mae"] == values["b", "mae"]
    assert result.perturbations.values_of("a", "mae") == result.perturbations.values_of("b", "mae")


def test_compare_draws_perturbations(pair: tuple[Any, Any], tmp_path: Path) -> None:
    real, predicted = pair
    weak = screens.predict(real, 2, effects=0.2)
    result = score(real, {"good": predicted, "weak": weak}, metrics="mae,pearson_delta,pearson_edistance")
    result.to_json(tmp_path / "results.json")
    result.perturbations_to_parquet(tmp_path / "perturbations.parquet")
    rows = {row.metric: row.differences[1] for row in gb.compare(tmp_path).rows}
    table = result.perturbations
    values = [np.array(list(table.values_of(name, "mae").values())) for name in ("good", "weak")]
    low, high = rows["mae"].interval
    assert low < (values[1] - values[0]).mean() < high
    drawn = np.random.default_rng(42).integers(0, 6, (1000, 6))
    assert (low, high) == pytest.approx(
        np.quantile((values[1] - values[0])[drawn].mean(axis=1), [0.025, 0.975]), rel=0.1
    )
    assert (rows["mae"].method, rows["mae"].better, rows["mae"].beyond_noise) == ("bootstrap", False, True)
    assert rows["pearson_delta"].better is False
    assert rows["pearson_edistance"].method != "bootstrap"
    assert "1,000 draws of perturbations" in str(gb.compare(tmp_path))


def test_figure_has_a_point_for_each_perturbation_and_a_line_for_each_baseline(pair: tuple[Any, Any]) -> None:
    real, predicted = pair
    result = score(real, {"good": predicted, "weak": screens.predict(real, 2)}, metrics="mae", baseline="mean")
    (axes,) = result.plot("perturbations", metric="mae").axes
    points, others, line = axes.get_lines()
    assert sorted(points.get_xdata(), reverse=True) == list(points.get_xdata())
    assert sorted(points.get_xdata()) == sorted(result.perturbations.values_of("good", "mae").values())
    assert len(others.get_xdata()) == len(PERTURBATIONS)
    assert line.get_xdata()[0] == result.value("mae", embedding="baseline_mean")
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == sorted(PERTURBATIONS, key=lambda name: -result.perturbations.values_of("good", "mae")[name])
    with pytest.raises(gb.InputError, match="metric='mea' has no values of perturbations"):
        result.plot("perturbations", metric="mea")

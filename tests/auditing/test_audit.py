"""The audit finds each fault in generated data that has it, and nothing in data that has none."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import screens
from screens import COLUMN, CONTROL, PERTURBATIONS

import gpubench as gb
from gpubench.auditing.audit import Audit
from gpubench.cli.main import main

Pair = tuple[anndata.AnnData, anndata.AnnData]


def audit(real: Any, predicted: Any, **given: Any) -> Audit:
    return gb.audit(real, predicted, condition=COLUMN, control=CONTROL, **given)


@pytest.fixture(scope="module")
def counts() -> Pair:
    real = screens.make_screen(0)
    return real, screens.predict(real)


@pytest.fixture(scope="module")
def logs(counts: Pair) -> Pair:
    real, predicted = (screens.log_normalised(side) for side in counts)
    return real, predicted


@pytest.mark.parametrize("scale", ["counts", "logs"])
def test_audit_of_a_good_prediction_finds_nothing(scale: str, request: pytest.FixtureRequest) -> None:
    found = audit(*request.getfixturevalue(scale), train=["G05"])
    assert found.findings == ()
    assert str(found).endswith("No findings.")
    assert found.facts[0].startswith("the real data: 330 cells, 80 genes, 6 perturbations and 90 control cells")


def is_control(adata: anndata.AnnData) -> Any:
    return (adata.obs[COLUMN] == CONTROL).to_numpy()


def changed(adata: anndata.AnnData, change: Callable[[Any], Any]) -> anndata.AnnData:
    return screens.with_x(adata, change(adata.X.toarray()))


def negative(real: Any, predicted: Any) -> Pair:
    return real, changed(predicted, lambda x: np.where(np.arange(x.size).reshape(x.shape) < 3, -1.0, x))


def not_finite(real: Any, predicted: Any) -> Pair:
    return changed(real, lambda x: np.where(np.arange(x.size).reshape(x.shape) < 2, np.nan, x)), predicted


def no_logs(real: Any, predicted: Any) -> Pair:
    return real, changed(predicted, lambda x: x * 10 + 0.5)


def mixed_scales(real: Any, predicted: Any) -> Pair:
    return real, changed(predicted, lambda x: np.where(np.arange(len(x))[:, None] % 3 == 0, np.rint(x), x))


def log_twice(real: Any, predicted: Any) -> Pair:
    return real, changed(predicted, np.log1p)


def other_scale(real: Any, predicted: Any) -> Pair:
    return real, changed(predicted, lambda x: np.rint(np.expm1(x)))


def other_depth(real: Any, predicted: Any) -> Pair:
    return real, changed(predicted, lambda x: np.log1p(3 * np.expm1(x)))


def other_genes(real: Any, predicted: Any) -> Pair:
    out = predicted.copy()
    out.var_names = ["H00", *out.var_names[1:]]
    return real, out


def permuted_genes(real: Any, predicted: Any) -> Pair:
    return real, predicted[:, ::-1].copy()


def repeated_genes(real: Any, predicted: Any) -> Pair:
    out = predicted.copy()
    out.var_names = ["G01", *out.var_names[1:]]
    return real, out


def missing_perturbation(real: Any, predicted: Any) -> Pair:
    return real, predicted[(predicted.obs[COLUMN] != "drug").to_numpy()].copy()


def extra_perturbation(real: Any, predicted: Any) -> Pair:
    return real[(real.obs[COLUMN] != "drug").to_numpy()].copy(), predicted


def no_control(real: Any, predicted: Any) -> Pair:
    return real, predicted[~is_control(predicted)].copy()


def no_real_control(real: Any, predicted: Any) -> Pair:
    return real[~is_control(real)].copy(), predicted[~is_control(predicted)].copy()


def swapped_controls(real: Any, predicted: Any) -> Pair:
    return predicted[~is_control(predicted)].copy(), real


def swapped_mean(real: Any, predicted: Any) -> Pair:
    return flat(real, predicted)[::-1]


def single_cell(real: Any, predicted: Any) -> Pair:
    drug = np.flatnonzero((predicted.obs[COLUMN] == "drug").to_numpy())
    return real, predicted[np.setdiff1d(np.arange(predicted.n_obs), drug[1:])].copy()


def repeated_cells(real: Any, predicted: Any) -> Pair:
    rows = np.arange(predicted.n_obs)
    drug = np.flatnonzero((predicted.obs[COLUMN] == "drug").to_numpy())
    rows[drug[20:]] = drug[:20]
    return real, screens.to_anndata(predicted.X[rows], predicted.obs[COLUMN].to_numpy())


def copied_cells(real: Any, predicted: Any) -> Pair:
    return real, real.copy()


def copied_controls(real: Any, predicted: Any) -> Pair:
    rows = np.random.default_rng(0).choice(np.flatnonzero(is_control(real)), predicted.n_obs)
    return real, screens.to_anndata(real.X[rows], predicted.obs[COLUMN].to_numpy())


def no_effect(real: Any, predicted: Any) -> Pair:
    return real, screens.log_normalised(screens.predict(screens.make_screen(0), 5, effects=0.0))


def flat(real: Any, predicted: Any) -> Pair:
    x, labels = predicted.X.toarray(), predicted.obs[COLUMN].to_numpy()
    for name in PERTURBATIONS:
        x[labels == name] = x[labels == name].mean(axis=0)
    return real, screens.to_anndata(x, labels)


def collapsed(real: Any, predicted: Any, factor: float = 0.3) -> Pair:
    x, labels = predicted.X.toarray(), predicted.obs[COLUMN].to_numpy()
    for name in PERTURBATIONS:
        mean = x[labels == name].mean(axis=0)
        x[labels == name] = mean + factor * (x[labels == name] - mean)
    return real, screens.to_anndata(np.maximum(x, 0), labels)


def inflated(real: Any, predicted: Any) -> Pair:
    return collapsed(real, predicted, 2.0)


def other_control(real: Any, predicted: Any) -> Pair:
    shift = is_control(predicted)[:, None] * (np.arange(predicted.n_vars) < 30)
    return real, changed(predicted, lambda x: x + 0.4 * shift)


CASES = [
    (negative, "values", "error", "3 values are negative"),
    (not_finite, "values", "error", "2 values are NaN or infinite"),
    (no_logs, "scale", "error", "which is no log1p value"),
    (mixed_scales, "scale", "warning", "110 of 330 cells hold whole numbers only"),
    (log_twice, "log_twice", "warning", "log-transformed once more"),
    (log_twice, "scale", "warning", "log-transformed twice"),
    (other_scale, "scales", "error", "the real data holds log values .* the prediction counts"),
    (other_depth, "library_sizes", "warning", "median total of a cell is 3,000, in the real data 1,000"),
    (other_genes, "genes", "error", r"1 only in the real data \('G00'\), 1 only in the prediction \('H00'\)"),
    (permuted_genes, "genes", "warning", "80 of 80 genes are at another place"),
    (repeated_genes, "names", "error", r"1 names of genes occur more than once \('G01'\)"),
    (missing_perturbation, "perturbations", "error", r"1 of 6 .* are not in the prediction \('drug'\)"),
    (extra_perturbation, "perturbations", "error", r"1 of 6 .* of the prediction are not in the real data \('drug'\)"),
    (no_control, "control", "error", "none of 240 cells is labelled 'non-targeting'"),
    (no_real_control, "control", "error", "the real data: none of 240 cells is labelled"),
    (swapped_controls, "swapped", "error", "seem to be swapped"),
    (swapped_mean, "swapped", "error", "in 100% of its perturbations all cells are equal"),
    (single_cell, "group_sizes", "warning", r"1 of 7 labels have one cell \('drug'\)"),
    (repeated_cells, "duplicates", "warning", "20 of 330 cells repeat another cell exactly"),
    (copied_cells, "copies", "warning", r"240 of 240 predicted cells \(100%\) are copies of real perturbed cells"),
    (copied_controls, "copies", "warning", "are copies of real control cells; they predict no effect"),
    (no_effect, "effects", "warning", "hardly depend on the perturbation .* closest to the real control"),
    (flat, "variance", "warning", "in 6 of 6 perturbations all predicted cells are equal"),
    (collapsed, "variance", "warning", "variance within perturbations is collapsed, 0.0"),
    (inflated, "variance", "warning", "variance within perturbations is inflated, "),
    (other_control, "controls", "warning", "its 90 control cells differ from the 90 real ones"),
]


@pytest.mark.parametrize(("case", "check", "severity", "message"), CASES, ids=[case[0].__name__ for case in CASES])
def test_audit_of_a_fault_names_it(logs: Pair, case: Any, check: str, severity: str, message: str) -> None:
    found = [one for one in audit(*case(*logs)).findings if one.check == check]
    fitting = [one for one in found if re.search(message, one.message)]
    assert [one.severity for one in fitting] == [severity], found
    assert "\n" not in str(fitting[0])


def test_fault_of_the_real_data_is_said_once(logs: Pair) -> None:
    real, predicted = no_real_control(*logs)
    found = audit(real, {"a": predicted, "b": predicted})
    assert [one.check for one in found.findings] == ["control"]


def test_mean_of_all_perturbations_is_named(logs: Pair) -> None:
    real, predicted = logs
    noise = np.random.default_rng(0).normal(0, 0.3, predicted.shape)
    mean = np.mean([real[(real.obs[COLUMN] == p).to_numpy()].X.toarray().mean(axis=0) for p in PERTURBATIONS], axis=0)
    x = np.where(is_control(predicted)[:, None], predicted.X.toarray(), np.maximum(mean + noise, 0))
    found = audit(real, screens.to_anndata(x, predicted.obs[COLUMN].to_numpy())).findings
    assert any("closest to the mean of the real perturbations" in one.message for one in found)


def test_prediction_without_control_is_a_warning_for_cell_eval2(counts: Pair) -> None:
    real, predicted = no_control(*counts)
    (found,) = audit(real, predicted, own_control=False).findings
    assert (found.check, found.severity) == ("control", "warning")


def test_training_perturbations_are_found_in_those_scored(counts: Pair, tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("G03\ndrug\nG99\n")
    (found,) = audit(*counts, train=tmp_path / "train.txt").findings
    assert found.message.startswith("2 of 6 scored perturbations are in the list of training ones ('G03', 'drug')")
    (found,) = audit(*counts, train=["G03"], test=["drug", "G98"]).findings
    assert "1 of 2 perturbations of the list of test ones are not in the real data ('G98')" in found.message


def test_contexts_are_checked_each_by_itself(counts: Pair) -> None:
    real, predicted = (side.copy() for side in counts)
    for side in (real, predicted):
        side.obs["line"] = np.where(np.arange(side.n_obs) % 2, "A", "B")
    assert audit(real, predicted, context="line").findings == ()
    gone = predicted[~((predicted.obs["line"] == "B") & (predicted.obs[COLUMN] == "drug")).to_numpy()]
    (found,) = audit(real, gone, context="line").findings
    assert found.message.startswith("context 'B': 1 of 6 perturbations of the real data are not in the prediction")
    (found,) = audit(real, predicted[(predicted.obs["line"] == "A").to_numpy()], context="line").findings
    assert found.message.startswith("1 of 2 contexts are only in the real data ('B')")


def test_command_exits_with_1_for_errors_and_for_warnings_if_strict(
    logs: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {}
    for name, side in {"real": logs[0], "good": logs[1], "turned": permuted_genes(*logs)[1]}.items():
        files[name] = str(tmp_path / f"{name}.h5ad")
        side.write_h5ad(files[name])
    flags = ["--condition", COLUMN, "--control", CONTROL]
    assert main(["audit", files["real"], files["good"], *flags, "--strict"]) == 0
    assert main(["audit", files["real"], f"a={files['good']}", f"b={files['turned']}", *flags]) == 0
    assert "prediction 'b'" in capsys.readouterr().out
    assert main(["audit", files["real"], files["turned"], *flags, "--strict"]) == 1
    assert main(["audit", files["real"], files["good"], "--condition", COLUMN, "--control", "none"]) == 1
    assert main(["audit", files["real"], files["good"], *flags, "--test", "list.txt"]) == 2
    assert main(["audit", files["real"], files["good"], *flags, "--json"]) == 0
    assert '"findings": []' in capsys.readouterr().out

"""Differential expression against SciPy, against published tables of cell-eval, and on degenerate input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from scipy.stats import false_discovery_control, mannwhitneyu

import gpubench as gb
from gpubench.core.errors import InputError
from gpubench.engines.base import Engine
from gpubench.metrics.differential_expression import (
    benjamini_hochberg,
    differential_expression,
    expression_means,
    log2_fold_changes,
    mann_whitney_p,
)

COLUMNS = [
    *("target", "feature", "target_mean", "ref_mean", "target_membership", "ref_membership"),
    *("log2_fold_change", "percent_change", "p_value", "statistic", "fdr"),
]


@pytest.fixture(scope="module")
def reference_folder(shared_data: Path) -> Path:
    """The folder of tables that cell-eval and cell-eval2 made of small data sets."""
    folder = shared_data.parent / "perturbation" / "reference"
    if not folder.is_dir():
        pytest.skip(f"reference tables not found: no folder {folder}")
    return folder


def make_cells(rng: np.random.Generator, n: int = 150, n_genes: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Logs of counts, and the perturbation of each cell."""
    targets = rng.choice(["control", "KLF1", "GATA1", "MYB"], n, p=[0.4, 0.3, 0.2, 0.1])
    values = np.log1p(rng.poisson(rng.gamma(0.5, 3, n_genes), (n, n_genes)) * (1 + (targets == "KLF1"))[:, None])
    values[:, 3] = 0
    values[:, 4] = np.log1p(2)
    return values, targets


def target_rows(table: pd.DataFrame, target: str) -> pd.DataFrame:
    return table[table["target"] == target].reset_index(drop=True)


def test_table_equals_scipy(engine: Engine, rng: np.random.Generator) -> None:
    values, targets = make_cells(rng)
    genes = [f"gene {i}" for i in range(values.shape[1])]
    table = differential_expression(sparse.csr_matrix(values), targets, "control", genes=genes, engine=engine)
    assert list(table.columns) == COLUMNS
    assert list(table["target"]) == [name for name in ("GATA1", "KLF1", "MYB") for _ in genes]
    assert list(table["feature"]) == genes * 3
    controls = values[targets == "control"]
    for target in ("GATA1", "KLF1", "MYB"):
        cells, rows = values[targets == target], target_rows(table, target)
        expected = mannwhitneyu(cells, controls, method="asymptotic", use_continuity=True)
        p = np.where(np.isnan(expected.pvalue), 1, expected.pvalue)  # SciPy: NaN where all values are equal
        assert_allclose(rows["p_value"], p, rtol=1e-12)
        assert_array_equal(rows["statistic"], expected.statistic)
        assert_allclose(rows["fdr"], false_discovery_control(p), rtol=1e-12)
        target_mean, ref_mean = (np.expm1(group.mean(axis=0)) for group in (cells, controls))
        assert_allclose(rows["target_mean"], target_mean, rtol=1e-12, atol=1e-15)
        assert_allclose(rows["ref_mean"], ref_mean, rtol=1e-12, atol=1e-15)
        with np.errstate(divide="ignore", invalid="ignore"):
            fold, change = np.log2(target_mean / ref_mean), (target_mean - ref_mean) / ref_mean
        assert_allclose(rows["log2_fold_change"], np.where(ref_mean + target_mean > 0, fold, 0), rtol=1e-12, atol=1e-14)
        assert_allclose(rows["percent_change"], np.where(ref_mean + target_mean > 0, change, 0), rtol=1e-12, atol=1e-14)
        assert set(rows["target_membership"]) == {len(cells)}
        assert set(rows["ref_membership"]) == {len(controls)}


@pytest.mark.parametrize("side", ["real", "pred"])
def test_table_equals_that_of_cell_eval(reference_folder: Path, side: str) -> None:
    data = ad.read_h5ad(reference_folder / f"{side}.h5ad")
    theirs = pd.read_csv(reference_folder / f"de_{side}.csv.gz", dtype={"target": str, "feature": str})
    ours = differential_expression(
        data.X, data.obs["target_gene"], "non-targeting", genes=list(data.var_names), engine="cpu"
    )
    assert list(ours.columns) == list(theirs.columns) == COLUMNS
    both = theirs.merge(ours.astype({"target": str, "feature": str}), on=["target", "feature"], suffixes=("", "_ours"))
    assert len(both) == len(theirs) == len(ours)
    for column in ("target_membership", "ref_membership", "statistic"):
        assert_array_equal(both[f"{column}_ours"], both[column])
    for column in ("p_value", "fdr"):
        assert_allclose(both[f"{column}_ours"], both[column], rtol=1e-12)
    for column in ("target_mean", "ref_mean", "log2_fold_change", "percent_change"):  # theirs are means of float32
        assert_allclose(both[f"{column}_ours"], both[column], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("side", ["real", "pred"])
def test_table_equals_that_of_cell_eval2(reference_folder: Path, side: str) -> None:
    """Counts per million of cells against the real control, of genes above 5 counts per million there."""
    data, real = (ad.read_h5ad(reference_folder / f"v2_{name}.h5ad") for name in (side, "real"))
    control = real.obs["target"] == "non-targeting"
    cells = ad.concat([data[data.obs["target"] != "non-targeting"], real[control]], index_unique="-")
    logs, control_logs = (log_per_million(x) for x in (cells.X, real[control].X))
    kept = np.expm1(control_logs.toarray()).mean(axis=0) > 5
    ours = differential_expression(
        logs[:, kept],
        cells.obs["target"],
        "non-targeting",
        genes=list(real.var_names[kept]),
        mean="arithmetic",
        epsilon=1e-9,
        engine="cpu",
    )
    theirs = pd.read_csv(reference_folder / f"v2_de_{side}.csv.gz", dtype={"target": str, "feature": str})
    both = theirs.merge(ours.astype({"target": str, "feature": str}), on=["target", "feature"], suffixes=("", "_ours"))
    assert len(both) == len(theirs) == len(ours)
    assert_allclose(both["p_value_ours"], both["p_value"], rtol=2e-11)  # theirs are stored with 12 digits
    assert_allclose(both["fdr"], both["p_adj"], rtol=2e-11)
    assert_allclose(both["log2_fold_change_ours"], both["log2_fold_change"], rtol=1e-9, atol=1e-12)


def log_per_million(counts: Any) -> sparse.csr_matrix:
    """log(1 + x / (total / 1e6)) in float64, divided in this order, which decides which values are equal."""
    rows = sparse.csr_matrix(counts, dtype=np.float64)
    rows.data = np.log1p(rows.data / np.repeat(np.asarray(rows.sum(axis=1)).ravel() / 1e6, np.diff(rows.indptr)))
    return rows


def test_arithmetic_means_and_epsilon_of_counts(engine: Engine, rng: np.random.Generator) -> None:
    values, targets = make_cells(rng)
    counts = np.expm1(values).round()
    options: dict[str, Any] = {"mean": "arithmetic", "epsilon": 0.5, "engine": engine}
    from_logs = differential_expression(sparse.csc_matrix(values), targets, "control", **options)
    from_counts = differential_expression(counts.astype(np.int32), targets, "control", is_log1p=False, **options)
    pd.testing.assert_frame_equal(from_logs, from_counts, rtol=1e-12, atol=1e-12)
    means = [counts[targets == name].mean(axis=0) for name in ("KLF1", "control")]
    rows = target_rows(from_counts, "KLF1")
    assert_allclose(rows["target_mean"], means[0], rtol=1e-12)
    assert_allclose(rows["log2_fold_change"], np.log2((means[0] + 0.5) / (means[1] + 0.5)), rtol=1e-12, atol=1e-14)
    assert_allclose(rows["percent_change"], (means[0] - means[1]) / (means[1] + 0.5), rtol=1e-12, atol=1e-14)


def test_geometric_means_of_counts_are_those_of_their_logs(engine: Engine, rng: np.random.Generator) -> None:
    values, targets = make_cells(rng)
    for form in (np.asarray, sparse.csr_matrix):
        counts = form(np.expm1(values).round())
        from_counts = differential_expression(counts, targets, "control", is_log1p=False, engine=engine)
        from_logs = differential_expression(form(values), targets, "control", engine=engine)
        pd.testing.assert_frame_equal(from_logs, from_counts, rtol=1e-12, atol=1e-12)


def test_genes_below_the_filter_in_both_groups_are_dropped(engine: Engine) -> None:
    counts = np.array([[999_990, 4, 6, 0, 0]] * 4 + [[999_990, 4, 4, 2, 0]] * 4)
    targets = ["control"] * 4 + ["A"] * 4
    table = differential_expression(
        counts, targets, "control", is_log1p=False, cpm_filter=4.0, mean="arithmetic", engine=engine
    )
    assert list(table["feature"]) == [0, 2]  # gene 1 has 4 in both, gene 3 at most 2, gene 4 none
    assert_allclose(table["fdr"], benjamini_hochberg(table["p_value"]))
    assert list(table.index) == [0, 1]
    kept = differential_expression(counts, targets, "control", is_log1p=False, cpm_filter=3.9, engine=engine)
    assert list(kept["feature"]) == [0, 1, 2]


def test_rounding_to_float32_makes_ties(engine: Engine) -> None:
    values = np.array([[1.0]] * 5 + [[1.0 + 1e-12]] * 5)
    targets = ["control"] * 5 + ["A"] * 5
    exact = differential_expression(values, targets, "control", engine=engine)
    rounded = differential_expression(values, targets, "control", float32_ties=True, engine=engine)
    assert exact["statistic"].tolist() == [25.0]
    assert exact["p_value"].iloc[0] < 0.01
    assert rounded["statistic"].tolist() == [12.5]
    assert rounded["p_value"].tolist() == [1.0]


def test_tables_follow_permuted_cells_genes_and_names(engine: Engine, rng: np.random.Generator) -> None:
    values, targets = make_cells(rng)
    genes = np.array([f"g{i}" for i in range(values.shape[1])])
    table = differential_expression(sparse.csr_matrix(values), targets, "control", genes=list(genes), engine=engine)
    cells, columns = rng.permutation(len(values)), rng.permutation(len(genes))
    renamed = np.char.add("Z", targets[cells])
    other = differential_expression(
        sparse.csr_matrix(values[cells][:, columns]), renamed, "Zcontrol", genes=list(genes[columns]), engine=engine
    )
    key = ["target", "feature"]
    first = table.astype({"target": str, "feature": str}).sort_values(key).reset_index(drop=True)
    second = other.astype({"target": str, "feature": str}).sort_values(key).reset_index(drop=True)
    second["target"] = second["target"].str[1:]
    pd.testing.assert_frame_equal(first, second, rtol=1e-12, atol=1e-14)


def test_one_cell_and_genes_that_are_constant_have_p_values(engine: Engine) -> None:
    values = np.array([[1.0, 2.0, 0.0], [1.0, 3.0, 0.0], [1.0, 4.0, 0.0], [1.0, 9.0, 0.0]])
    table = differential_expression(values, ["c", "c", "c", "A"], "c", engine=engine)
    expected = mannwhitneyu([9.0], [2.0, 3.0, 4.0], method="asymptotic").pvalue
    assert_allclose(table["p_value"], [1, expected, 1])
    assert_allclose(table["fdr"], [1, min(1, 3 * expected), 1])
    assert table["log2_fold_change"].iloc[2] == 0
    alone = differential_expression(values[:2], ["c", "A"], "c", engine=engine)
    assert_array_equal(alone["p_value"], [1, 1, 1])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"control": "Control"}, r"control='Control' is no value of targets \(did you mean 'control'\?\)"),
        ({"targets": ["control"] * 3}, "targets has no value but 'control' in all 3 rows"),
        ({"targets": ["control", None, "A"]}, "targets: 1 of 3 rows have no value"),
        ({"targets": ["control", "A"]}, "targets"),
        ({"values": np.array([[0.0, np.nan], [0, 1], [np.nan, 1]])}, "values: 2 of 3 rows hold NaN"),
        ({"values": np.ones(3)}, "values has 1 dimensions"),
        ({"genes": ["A"]}, "genes has 1 different names, but values has 2 columns"),
        ({"genes": ["A", "A"]}, "genes has 1 different names, but values has 2 columns"),
        ({"mean": "median"}, "mean='median' is unknown; use one of: geometric, arithmetic"),
    ],
)
def test_arguments_that_cannot_be_tested_are_refused(changed: dict[str, Any], message: str) -> None:
    arguments = {"values": np.eye(3, 2), "targets": ["control", "A", "A"], "control": "control"} | changed
    with pytest.raises(InputError, match=message):
        gb.metrics.differential_expression(**arguments, engine="cpu")


def test_p_of_groups_without_cells_is_undefined() -> None:
    assert_array_equal(mann_whitney_p(np.zeros((2, 1)), np.zeros((2, 1)), [0, 1], 0), [[np.nan], [np.nan]])
    assert_array_equal(mann_whitney_p(np.zeros((2, 1)), np.zeros((2, 1)), [0, 1], 2)[:1], [[np.nan]])


def test_p_is_at_most_1_where_u_is_what_chance_gives() -> None:
    assert mann_whitney_p(4.5, 0, 3, 3) == 1
    assert mann_whitney_p(4.0, 0, 3, 3) == 1  # the continuity correction takes all that is left


def test_false_discovery_rates_equal_scipy_and_do_not_count_nan(rng: np.random.Generator) -> None:
    p = rng.random((4, 50)) ** 3
    p[:, ::7] = p[:, :1]  # ties
    assert_allclose(benjamini_hochberg(p), false_discovery_control(p, axis=1), rtol=1e-14)
    missing = p.copy()
    missing[1, ::3] = np.nan
    missing[2] = np.nan
    found = benjamini_hochberg(missing)
    assert_array_equal(np.isnan(found), np.isnan(missing))
    kept = ~np.isnan(missing[1])
    assert_allclose(found[1, kept], false_discovery_control(p[1, kept]), rtol=1e-14)
    with pytest.raises(ValueError, match="single number"):
        benjamini_hochberg(0.5)


def test_fold_changes_of_zeros_and_of_other_signs() -> None:
    found = log2_fold_changes([0.0, 0.0, 2.0, -1.0, -2.0], [0.0, 1.0, 0.0, 1.0, -1.0])
    assert_array_equal(found, [0, -np.inf, np.inf, np.nan, 1])
    assert_allclose(log2_fold_changes(0.0, 1.0, epsilon=1.0), -1)


def test_means_leave_out_cells_and_have_nan_for_empty_groups(engine: Engine) -> None:
    values = np.log1p([[1.0], [3.0], [100.0]])
    groups = np.array([0, 0, -1], np.int32)
    for form in (values, sparse.csr_matrix(values), sparse.csc_matrix(values)):
        found = expression_means(form, groups, 2, mean="arithmetic", engine=engine)
        assert_allclose(found, [[2.0], [np.nan]])

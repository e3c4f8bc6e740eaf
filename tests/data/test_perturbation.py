"""Perturbation datasets: preparation, the layout of cz-benchmarks, the draw of masked genes, and alignment by name."""

# ruff: noqa: NPY002 - the draw of the legacy generator is what is tested
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from perturbed import CONTROL, make_screen, predict, write
from scipy import stats
from scipy.sparse import csc_matrix
from stores import WRITERS

from gpubench.core.errors import InputError
from gpubench.core.types import Labels
from gpubench.data import prepare_perturbation, read_perturbation
from gpubench.data.perturbation.prepare import draw_control_map, suggest_controls
from gpubench.data.perturbation.truth import Changes, Criteria, sample_targets

DE = "de_results_wilcoxon"
MAP = "control_cells_map"


@pytest.fixture(scope="module")
def screen() -> ad.AnnData:
    return make_screen()


@pytest.fixture(scope="module")
def plain(screen: ad.AnnData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(screen, tmp_path_factory.mktemp("screen") / "plain.h5ad")


@pytest.fixture(scope="module")
def prepared(plain: Path) -> Path:
    out = plain.with_name("prepared.h5ad")
    prepare_perturbation(plain, out, condition="knock_down", control=CONTROL)
    return out


@pytest.fixture
def loaded(prepared: Path) -> ad.AnnData:
    """A copy of the prepared dataset, for tests that change it."""
    return ad.read_h5ad(prepared)


# Preparation


def test_prepared_file_has_the_layout_and_everything_else(prepared: Path, screen: ad.AnnData) -> None:
    adata = ad.read_h5ad(prepared)
    assert (adata.X != screen.X).nnz == 0
    assert list(adata.obs["condition"]) == list(screen.obs["knock_down"]) == list(adata.obs["knock_down"])
    assert list(adata.uns[DE].columns) == ["condition", "gene_id", "logfoldchange", "pval_adj"]
    assert len(adata.uns[DE]) == 3 * screen.n_vars
    condition_of = screen.obs["knock_down"].astype(str)
    for condition in ("KD_A", "KD_B", "KD_C"):
        pairs = adata.uns[MAP][condition]
        assert set(pairs) == set(screen.obs_names[condition_of == condition])
        assert len(set(pairs.values())) == len(pairs)
        assert (condition_of[list(pairs.values())] == CONTROL).all()


def test_prepared_changes_match_scipy_on_log_normalised_counts(prepared: Path, screen: ad.AnnData) -> None:
    counts = screen.X.toarray()
    totals = counts.sum(axis=1, keepdims=True)
    logged = np.log1p(counts / (totals / np.median(totals))).astype(
        np.float64
    )  # float32 until here, since rounding decides the ties
    condition = screen.obs["knock_down"].to_numpy(str)
    treated, controls = logged[condition == "KD_B"], logged[condition == CONTROL]
    p_values = stats.mannwhitneyu(treated, controls, method="asymptotic", use_continuity=False).pvalue
    table = ad.read_h5ad(prepared).uns[DE]
    table = table[table["condition"] == "KD_B"]
    assert_allclose(table["pval_adj"], stats.false_discovery_control(p_values, method="bh"), rtol=1e-6)
    change = np.log2(np.expm1(treated.mean(axis=0)) / np.expm1(controls.mean(axis=0)))
    assert_allclose(table["logfoldchange"], change, atol=1e-5)


@pytest.mark.slow
def test_every_kind_of_source_prepares_the_same(
    plain: Path, prepared: Path, screen: ad.AnnData, tmp_path: Path
) -> None:
    dense, columns = screen.copy(), screen.copy()
    dense.X, columns.X = screen.X.toarray(), csc_matrix(screen.X)
    reference = ad.read_h5ad(prepared)
    stores = [WRITERS[name](screen, tmp_path) for name in ("zarr 2", "zarr 3", "zipped zarr")]
    for source in (*stores, screen, dense, columns, str(plain)):
        prepare_perturbation(source, tmp_path / "out.h5ad", condition="knock_down", control=CONTROL)
        adata = ad.read_h5ad(tmp_path / "out.h5ad")
        pd.testing.assert_frame_equal(adata.uns[DE], reference.uns[DE])
        assert adata.uns[MAP] == reference.uns[MAP]


def test_source_is_not_overwritten_and_a_prepared_file_can_be_prepared_again(plain: Path, tmp_path: Path) -> None:
    path, out, link = tmp_path / "plain.h5ad", tmp_path / "out.h5ad", tmp_path / "link.h5ad"
    path.write_bytes(plain.read_bytes())
    link.symlink_to(path)
    for name in (path, link):
        with pytest.raises(InputError, match=r"^out=.* is the input, .* would be overwritten; choose another name"):
            prepare_perturbation(path, name, condition="knock_down", control=CONTROL)
    assert path.read_bytes() == plain.read_bytes()
    first = prepare_perturbation(path, out, condition="knock_down", control=CONTROL, seed=1)
    second = prepare_perturbation(out, tmp_path / "again.h5ad", condition="condition", control=CONTROL, seed=2)
    assert first.control_map != second.control_map == ad.read_h5ad(tmp_path / "again.h5ad").uns[MAP]
    assert sorted(tmp_path.iterdir()) == sorted([path, out, link, tmp_path / "again.h5ad"])


def test_log_values_are_not_normalised_again(screen: ad.AnnData, prepared: Path, tmp_path: Path) -> None:
    logged = screen.copy()
    counts = screen.X.toarray()
    totals = counts.sum(axis=1, keepdims=True)
    logged.X = np.log1p(counts / (totals / np.median(totals)))
    found = prepare_perturbation(logged, tmp_path / "out.h5ad", condition="knock_down", control=CONTROL)
    assert found.note == "X holds no counts and was taken as log1p of normalised counts"
    assert_allclose(found.table["pval_adj"], ad.read_h5ad(prepared).uns[DE]["pval_adj"], rtol=1e-3)


def test_more_treated_cells_than_controls_are_paired_in_part(tmp_path: Path) -> None:
    few = make_screen(n_control=20)
    found = prepare_perturbation(few, tmp_path / "out.h5ad", condition="knock_down", control=CONTROL)
    assert {name: len(pairs) for name, pairs in found.control_map.items()} == {"KD_A": 20, "KD_B": 20, "KD_C": 16}
    assert found.note == "only 20 cells, as many as there are controls, are paired of 'KD_A', 'KD_B'"


def test_suggested_controls_look_like_controls_and_the_largest_come_first() -> None:
    names = ("AARS", "ctrl", "DMSO_24h", "KIF4A", "ZNF1")
    labels = Labels(np.repeat(np.arange(5), [3, 50, 20, 70, 1]).astype(np.int32), names)
    assert suggest_controls("NT", labels) == (
        "did you mean 'ctrl', 'DMSO_24h'? the largest of 5 values, with their cells: 'KIF4A' (70), 'ctrl' (50),"
        " 'DMSO_24h' (20), 'AARS' (3), 'ZNF1' (1)"
    )
    plain = Labels(np.array([0, 1, 1], np.int32), ("x", "y"))
    assert suggest_controls("NT", plain) == "the largest of 2 values, with their cells: 'y' (2), 'x' (1)"


@pytest.mark.parametrize("change", ["all genes", "some genes", "unscaled", "float16"])
def test_logarithms_of_counts_are_taken_as_such(screen: ad.AnnData, tmp_path: Path, change: str) -> None:
    counts = screen.X.toarray().astype(np.float64)
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    logs = np.log1p(counts if change == "unscaled" else counts / totals * 1e4)
    adata = ad.AnnData(logs.astype(np.float16 if change == "float16" else np.float32), screen.obs, screen.var)
    adata = adata[:, ::3].copy() if change == "some genes" else adata
    found = prepare_perturbation(adata, tmp_path / "out.h5ad", condition="knock_down", control=CONTROL)
    assert found.note == "X holds no counts and was taken as log1p of normalised counts"


def test_half_floats_give_the_same_preparation(screen: ad.AnnData, tmp_path: Path) -> None:
    half = screen.copy()
    half.X = screen.X.toarray().astype(np.float16)
    tables = [
        prepare_perturbation(adata, tmp_path / "out.h5ad", condition="knock_down", control=CONTROL).table
        for adata in (screen, half)
    ]
    pd.testing.assert_frame_equal(*tables)


def test_control_map_is_seeded() -> None:
    labels = Labels(np.tile([0, 1, 2], 20).astype(np.int32), ("a", "b", "c"))
    cells = [str(i) for i in range(60)]
    maps = [draw_control_map(cells, labels, 1, seed)[0] for seed in (5, 5, 6)]
    assert maps[0] == maps[1] != maps[2]


def twins(names: pd.Index) -> list[str]:
    return ["twin", "twin", *names[2:]]


def without(adata: ad.AnnData, name: str) -> pd.Series:
    return adata.obs["knock_down"].astype(object).where(adata.obs["knock_down"] != name)


def renamed(adata: ad.AnnData, name: str) -> pd.Series:
    return adata.obs["knock_down"].astype(str).replace("KD_C", name)


# Changes to a copy of the screen that make it invalid.
FAULTS: dict[str, Callable[[ad.AnnData], Any]] = {
    "negative": lambda adata: setattr(adata, "X", adata.X.toarray() - 1),
    "nan": lambda adata: adata.X.data.__setitem__(0, np.nan),
    "scaled": lambda adata: setattr(adata, "X", adata.X * 100.5),
    "cells": lambda adata: setattr(adata, "obs_names", twins(adata.obs_names)),
    "genes": lambda adata: setattr(adata, "var_names", twins(adata.var_names)),
    "slash": lambda adata: setattr(adata, "obs_names", [f"lane/{name}" for name in adata.obs_names]),
    "dot": lambda adata: setattr(adata, "obs", adata.obs.assign(knock_down=renamed(adata, "."))),
    "nameless": lambda adata: setattr(adata, "obs", adata.obs.assign(knock_down=renamed(adata, ""))),
    "ambient counts": lambda adata: setattr(adata, "X", np.clip(adata.X.toarray() - 0.2, 0, 7.8)),
    "scaled counts": lambda adata: setattr(adata, "X", np.minimum(adata.X.toarray(), 8) * 0.9),
    "many scaled counts": lambda adata: setattr(adata, "X", adata.X * 0.7),
    "column": lambda adata: setattr(adata, "obs", adata.obs.assign(condition="healthy")),
    "missing": lambda adata: setattr(adata, "obs", adata.obs.assign(knock_down=without(adata, "KD_C"))),
    "controls only": lambda adata: setattr(adata, "obs", adata.obs.assign(knock_down=CONTROL)),
    "no X": lambda adata: setattr(adata, "X", None),
}


def add_fault(adata: ad.AnnData, how: str) -> ad.AnnData:
    adata = adata.copy()
    FAULTS[how](adata)
    return adata


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
@pytest.mark.filterwarnings("ignore:Variable names are not unique")
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("negative", r"dataset: .* rows hold negative values .* give raw counts"),
        ("nan", r"dataset: 1 of .* rows hold NaN or infinite values"),
        ("scaled", r"X holds neither counts .* nor log values \(the largest is [\d,]+\); give raw counts"),
        ("cells", r"1 names of cells occur more than once \('twin'\); make them unique"),
        ("genes", r"1 names of genes occur more than once \('twin'\); make them unique"),
        ("slash", r"names of conditions or treated cells are empty, '.' or hold '/' .* rename them"),
        ("dot", r"1 names of conditions or treated cells are empty, '.' or hold '/' \('\.'\).* rename them"),
        ("nameless", r"1 names of conditions or treated cells are empty, .* \(''\)"),
        ("ambient counts", r"X holds fractions that are neither counts nor log1p .* round the counts"),
        ("scaled counts", r"X holds fractions that are neither counts nor log1p .* round the counts"),
        ("many scaled counts", r"X holds neither counts .* nor log values \(the largest is [\d,]+\); give raw counts"),
        ("column", r"another column 'condition' in obs"),
        ("missing", r"knock_down: 16 of 196 rows have no value"),
        ("controls only", r"'knock_down' has no other value than 'non-targeting'"),
        ("no X", r"has no expression in X; give a file"),
    ],
)
def test_invalid_datasets_are_not_prepared(screen: ad.AnnData, tmp_path: Path, how: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepare_perturbation(add_fault(screen, how), tmp_path / "out.h5ad", condition="knock_down", control=CONTROL)
    assert not list(tmp_path.iterdir())


def test_wrong_arguments_of_the_preparation_are_refused(plain: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5ad"
    with pytest.raises(InputError, match=r"is not a column of obs of .* \(did you mean 'knock_down'\?\)"):
        prepare_perturbation(plain, out, condition="knockdown", control=CONTROL)
    with pytest.raises(
        InputError, match=r"control='nontargeting' is not a value .* \(did you mean 'non-targeting'\? the largest of 4"
    ):
        prepare_perturbation(plain, out, condition="knock_down", control="nontargeting")
    with pytest.raises(InputError, match=r"does not exist"):
        prepare_perturbation(tmp_path / "none.h5ad", out, condition="knock_down", control=CONTROL)
    with pytest.raises(InputError, match=r"out='.*no/folder/out.h5ad' cannot be written: No such file"):
        prepare_perturbation(plain, tmp_path / "no/folder/out.h5ad", condition="knock_down", control=CONTROL)
    assert not list(tmp_path.iterdir())


# The masked genes


def test_masked_genes_match_the_legacy_draw() -> None:
    """cz-benchmarks seeds NumPy's global generator and draws condition after condition."""
    changes = {
        name: Changes(np.array([f"{name}{i}" for i in range(n)]), np.zeros(n))
        for name, n in (("b", 30), ("few", 9), ("a", 11))
    }
    before = np.random.get_state()
    targets = sample_targets(changes, seed=7, criteria=Criteria())
    assert all(np.array_equal(a, b) for a, b in zip(before, np.random.get_state(), strict=True))
    try:
        np.random.seed(7)
        expected = {
            name: np.random.choice(changes[name].genes, size=n, replace=False).tolist()
            for name, n in (("b", 15), ("a", 5))
        }
    finally:
        np.random.set_state(before)
    assert targets == expected


def test_masked_genes_of_real_cells_match_cz_benchmarks(shared_data: Path) -> None:
    """As cz-benchmarks 0.15.1 drew them from the prepared file."""
    path = shared_data / "papalexi_knockout.h5ad"
    data = read_perturbation(path, path, condition="perturbation", control=CONTROL)
    assert {condition.name: condition.genes.tolist() for condition in data.conditions} == {
        "IFNGR1": ["UBE2L6", "JAK2", "ANTXR1", "STAT1", "STAMBPL1", "PSMB9"],
        "IFNGR2": ["UBE2L6", "JAK2", "ANTXR1", "STAT1", "GIMAP5", "SSTR2"],
        "JAK2": ["CLDN23", "TNFRSF14", "FAM111B", "STAT1", "UBE2L6", "RAB38", "GIMAP5"],
        "SMAD4": ["FN1", "AC006129.2", "KHDRBS2", "JAK3", "FGFR1", "CDKN3"],
        "STAT1": ["STAT1", "BMX", "TNFRSF14", "EBPL", "UBE2L6", "STAT2", "ANTXR1"],
    }
    assert "3 conditions with fewer than 5 masked genes left out: 'CUL3', 'IRF1', 'STAT2'" in data.note


def test_criteria_decide_which_genes_are_scored(prepared: Path) -> None:
    counts = []
    for criteria in (None, Criteria(masked_share=0.25), Criteria(min_log2_fold_change=3), Criteria(min_masked_genes=8)):
        data = read_perturbation(prepared, prepared, criteria=criteria)
        counts.append({condition.name: len(condition.genes) for condition in data.conditions})
    assert counts[0].keys() == {"KD_A", "KD_B"}
    assert counts[1]["KD_A"] == counts[0]["KD_A"] // 2
    assert counts[2].get("KD_A", 0) < counts[0]["KD_A"]
    assert counts[3].keys() == {"KD_A"}
    with pytest.raises(InputError, match="none of its 180 rows has an adjusted p-value below 1e-300"):
        read_perturbation(prepared, prepared, criteria=Criteria(max_p_value=1e-300))


# Reading


def as_dict(condition: Any) -> dict[str, Any]:
    return {
        name: getattr(condition, name) for name in ("name", "genes", "true_change", "columns", "treated", "control")
    }


def assert_same(a: Any, b: Any) -> None:
    assert len(a.conditions) == len(b.conditions) > 0
    for one, other in zip(a.conditions, b.conditions, strict=True):
        for name in ("name", "genes", "true_change", "columns", "treated", "control"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def test_plain_dataset_is_prepared_in_memory(plain: Path, prepared: Path) -> None:
    direct = read_perturbation(plain, plain, condition="knock_down", control=CONTROL)
    assert_same(direct, read_perturbation(prepared, plain))
    assert direct.note.startswith("changed genes and controls derived from the dataset")
    with pytest.raises(InputError, match="no differential expression in uns; say with `control`"):
        read_perturbation(plain, plain, condition="knock_down")


def test_prepared_file_accepts_the_original_condition_column(prepared: Path, screen: ad.AnnData) -> None:
    found = read_perturbation(prepared, predict(screen), condition="knock_down")
    assert [one.name for one in found.conditions] == ["KD_A", "KD_B"]
    with pytest.raises(InputError, match=r"\['de_results_wilcoxon'\] has no column 'knockdown'"):
        read_perturbation(prepared, predict(screen), condition="knockdown")


@pytest.mark.slow
def test_every_storage_of_the_layout_reads_the_same(loaded: ad.AnnData, prepared: Path, tmp_path: Path) -> None:
    expected = read_perturbation(prepared, prepared)
    table = loaded.uns[DE]
    assert_same(read_perturbation(loaded, loaded), expected)
    for i, stored in enumerate(
        [
            table.astype({"condition": str, "gene_id": str}),
            {name: table[name].to_numpy() for name in table},
            table.astype({"condition": object, "gene_id": object}).to_records(index=False),
            table.rename(columns={"gene_id": "gene"}),
        ]
    ):
        loaded.uns[DE] = stored
        assert_same(read_perturbation(loaded, prepared), expected)
        assert_same(read_perturbation(write(loaded, tmp_path / f"{i}.h5ad"), prepared), expected)
    assert_same(read_perturbation(WRITERS["zarr 3"](loaded, tmp_path), prepared), expected)


def test_masked_genes_stored_by_cz_benchmarks_are_used(loaded: ad.AnnData, prepared: Path, tmp_path: Path) -> None:
    expected = read_perturbation(prepared, prepared)
    table = loaded.uns.pop(DE).rename(columns={"condition": "knock_down", "logfoldchange": "lfc"})
    loaded.uns["de_results"] = table[["knock_down", "gene_id", "lfc"]]
    loaded.uns["metric_column"] = "lfc"
    loaded.uns["config"] = {"condition_key": "knock_down", "min_de_genes_to_mask": 5}
    loaded.uns["target_conditions_dict"] = {c.name: c.genes.tolist() for c in expected.conditions}
    data = read_perturbation(write(loaded, tmp_path / "inputs.h5ad"), prepared, seed=99)
    assert_same(data, expected)
    assert data.note.startswith("masked genes as stored in the dataset")


def test_fixed_length_texts_in_a_control_map_are_read(prepared: Path, tmp_path: Path) -> None:
    path = tmp_path / "fixed.h5ad"
    path.write_bytes(prepared.read_bytes())
    with h5py.File(path, "r+") as file:
        group = file[f"uns/{MAP}/KD_A"]
        for cell in list(group):
            control = group[cell][()]
            del group[cell]
            group.create_dataset(cell, data=np.bytes_(control))
    assert_same(read_perturbation(path, prepared), read_perturbation(prepared, prepared))


def test_predictions_are_aligned_by_name(prepared: Path, screen: ad.AnnData) -> None:
    rng = np.random.default_rng(4)
    cells, genes = rng.permutation(screen.n_obs), rng.permutation(screen.n_vars)
    straight = read_perturbation(prepared, screen)
    shuffled = read_perturbation(prepared, screen[cells][:, genes])
    for one, other in zip(straight.conditions, shuffled.conditions, strict=True):
        assert one.genes.tolist() == other.genes.tolist()
        np.testing.assert_array_equal(one.columns, genes[other.columns])
        pairs = set(zip(one.treated.tolist(), one.control.tolist(), strict=True))
        assert pairs == set(zip(cells[other.treated].tolist(), cells[other.control].tolist(), strict=True))
        assert one.note == other.note == ""


def test_missing_genes_and_pairs_are_left_out_and_counted(
    prepared: Path, loaded: ad.AnnData, screen: ad.AnnData
) -> None:
    full = {condition.name: condition for condition in read_perturbation(prepared, screen).conditions}
    lost_gene = full["KD_A"].genes[0]
    pairs = loaded.uns[MAP]["KD_B"]
    treated, control = list(pairs.items())[3]
    other_control = list(pairs.values())[5]
    fewer = screen[~screen.obs_names.isin([treated, control, other_control]), screen.var_names != lost_gene]
    found = {condition.name: condition for condition in read_perturbation(prepared, fewer).conditions}
    assert found["KD_A"].note.startswith(f"1 of {len(full['KD_A'].genes)} masked genes are not in the predictions")
    assert found["KD_A"].genes.tolist() == full["KD_A"].genes[1:].tolist()
    assert found["KD_B"].note.endswith("2 of 50 pairs of cells are not in the predictions")
    assert len(found["KD_B"].treated) == len(found["KD_B"].control) == 48


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_predictions_that_cannot_be_aligned_are_refused(prepared: Path, screen: ad.AnnData, tmp_path: Path) -> None:
    strangers = screen.copy()
    strangers.obs_names = [f"other{i}" for i in range(screen.n_obs)]
    with pytest.raises(InputError, match=r"none of the .* cells to score: names there are such as 'other0'"):
        read_perturbation(prepared, strangers)
    strangers = screen.copy()
    strangers.var_names = [f"ENSG{i}" for i in range(screen.n_vars)]
    with pytest.raises(InputError, match=r"none of the .* masked genes .* such as 'ENSG0'.*'gene"):
        read_perturbation(prepared, strangers)
    for how in ("cells", "genes"):
        with pytest.raises(InputError, match=f"predictions: 1 names of {how} occur more than once"):
            read_perturbation(prepared, add_fault(screen, how))
    with pytest.raises(InputError, match="predictions has no names of cells"):
        read_perturbation(prepared, screen.X)
    with pytest.raises(InputError, match="does not exist"):
        read_perturbation(prepared, tmp_path / "none.h5ad")


def test_malformed_layouts_are_refused(loaded: ad.AnnData, prepared: Path, tmp_path: Path) -> None:
    def refused(message: str, **uns: Any) -> None:
        spoilt = loaded.copy()
        spoilt.uns = {key: value for key, value in {**loaded.uns, **uns}.items() if value is not None}
        for dataset in (spoilt, write(spoilt, tmp_path / "spoilt.h5ad")):
            with pytest.raises(InputError, match=message):
                read_perturbation(dataset, prepared)

    table, pairs = loaded.uns[DE], loaded.uns[MAP]
    refused(r"no uns\['control_cells_map'\]; map each treated cell", **{MAP: None})
    refused(
        r"has no column 'pval_adj' \(did you mean 'pvals_adj'\?\)",
        **{DE: table.rename(columns={"pval_adj": "pvals_adj"})},
    )
    refused(r"'condition' \(there are: 'group'", **{DE: table.rename(columns={"condition": "group"})})
    refused(
        r"lists 'gene\d+'.* more than once for the condition 'KD_A'",
        **{DE: pd.concat([table, table]).reset_index(drop=True)},
    )
    refused(r"no pairs for 1 of 2 conditions \('KD_A'\)", **{MAP: {"KD_B": pairs["KD_B"]}})
    refused(r"\['KD_A'\] must map each treated cell to the name of one control", **{MAP: {"KD_A": np.array(["cell0"])}})
    refused(r"\['KD_A'\] must map", **{MAP: {**pairs, "KD_A": {"cell1": np.array(["cell2", "cell3"])}}})
    with pytest.raises(InputError, match="dataset is not AnnData"):
        read_perturbation(np.zeros((3, 2)), predict(loaded))


HALVES = ("obs", "var", "X", "obs/_index", "var/_index", "obs/knock_down")


@pytest.mark.parametrize("lost", HALVES)
def test_files_with_missing_parts_are_named(plain: Path, prepared: Path, tmp_path: Path, lost: str) -> None:
    """Such as a full disk or a killed job leaves them."""
    half = tmp_path / "half.h5ad"
    half.write_bytes(plain.read_bytes())
    with h5py.File(half, "r+") as file:
        del file[lost]
    with pytest.raises(InputError):
        prepare_perturbation(half, tmp_path / "out.h5ad", condition="knock_down", control=CONTROL)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["half.h5ad"]
    if lost != "obs/knock_down":
        with pytest.raises(InputError):
            read_perturbation(prepared, half)


@pytest.mark.parametrize("axis", ["obs", "var"])
def test_wrong_number_of_names_is_refused(plain: Path, prepared: Path, tmp_path: Path, axis: str) -> None:
    odd = tmp_path / "odd.h5ad"
    odd.write_bytes(plain.read_bytes())
    with h5py.File(odd, "r+") as file:
        names = file[f"{axis}/_index"]
        fewer, attributes = names[:-1], dict(names.attrs)
        del file[f"{axis}/_index"]
        file[f"{axis}/_index"] = fewer
        file[f"{axis}/_index"].attrs.update(attributes)
    with pytest.raises(InputError, match=r"has [\d,]+ names of (cells|genes) but [\d,]+ in X; write"):
        read_perturbation(prepared, odd)


@pytest.mark.parametrize(
    ("node", "value", "message"),
    [
        ("uns", 1.5, "array where the group uns should be"),
        (f"uns/{MAP}", np.arange(3), f"uns\\['{MAP}'\\] must map each condition"),
        (f"uns/{DE}/pval_adj", np.array([b"a"] * 60), "'pval_adj' does not hold numbers"),
    ],
)
def test_layouts_with_foreign_contents_are_refused(
    prepared: Path, plain: Path, tmp_path: Path, node: str, value: Any, message: str
) -> None:
    odd = tmp_path / "odd.h5ad"
    odd.write_bytes(prepared.read_bytes())
    with h5py.File(odd, "r+") as file:
        n = file[f"uns/{DE}/pval_adj"].shape[0]
        attributes = dict(file[f"uns/{DE}/pval_adj"].attrs)
        del file[node]
        file[node] = np.resize(value, n) if node.endswith("pval_adj") else value
        file[node].attrs.update(attributes)
    with pytest.raises(InputError, match=message):
        read_perturbation(odd, plain)
    if node == "uns":
        with pytest.raises(InputError, match=message):
            prepare_perturbation(odd, tmp_path / "out.h5ad", condition="knock_down", control=CONTROL)


def test_encoding_of_a_newer_anndata_is_refused(prepared: Path, plain: Path, tmp_path: Path) -> None:
    newer = tmp_path / "newer.h5ad"
    newer.write_bytes(prepared.read_bytes())
    with h5py.File(newer, "r+") as file:
        file[f"uns/{DE}/pval_adj"].attrs["encoding-version"] = "9.0"
    with pytest.raises(InputError, match=r"cannot read; update anndata, or write the file again"):
        read_perturbation(newer, plain)

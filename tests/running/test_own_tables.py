"""Tests of expression, target genes and embeddings that users give to perturbation_prediction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import screens
from screens import COLUMN, CONTROL, GENES, PERTURBATIONS

import gpubench as gb
from gpubench.cli.main import main
from gpubench.core.errors import InputError
from gpubench.data.perturbation.screens import read_screen
from gpubench.running.own_tables import read_target_genes

TABLES = "de_sig_genes_recall,overlap_at_N,roc_auc"


@pytest.fixture(scope="module")
def pair() -> tuple[anndata.AnnData, anndata.AnnData]:
    real = screens.make_screen(0)
    return real, screens.predict(real)


def score(real: Any, predicted: Any, **given: Any) -> gb.Result:
    options = {"condition": COLUMN, "control": CONTROL, "tasks": "perturbation_prediction", "engine": "cpu", **given}
    return gb.score(real, predictions=predicted, **options)


def table_of(adata: anndata.AnnData) -> pd.DataFrame:
    """The table that gpubench itself computes, of values normalised to the median total."""
    x = adata.X.toarray()
    totals = x.sum(axis=1, dtype=np.float64)
    scale = (totals / np.median(totals)).astype(np.float32)
    labels = adata.obs[COLUMN].to_numpy(str)
    return gb.metrics.differential_expression(np.log1p(x / scale[:, None]), labels, CONTROL, genes=GENES, engine="cpu")


@pytest.mark.parametrize("storage", ["frame", "csv", "parquet"])
def test_tables_of_our_own_tests_give_our_values(pair: tuple[Any, Any], tmp_path: Path, storage: str) -> None:
    tables = {"de_real": table_of(pair[0]), "de_predicted": table_of(pair[1])}
    given: dict[str, Any] = dict(tables)
    for name, table in tables.items():
        if storage == "csv":
            given[name] = str(tmp_path / f"{name}.csv")
            table.to_csv(given[name], index=False)
        elif storage == "parquet":
            given[name] = tmp_path / f"{name}.parquet"
            table.to_parquet(given[name])
    wanted, found = score(*pair, metrics=TABLES), score(*pair, metrics=TABLES, **given)
    assert [row.value for row in found.results] == [row.value for row in wanted.results]
    json.dumps(found.provenance)


def test_a_table_replaces_the_table_of_its_side(pair: tuple[Any, Any]) -> None:
    table = table_of(pair[0])
    table.loc[table["target"] == PERTURBATIONS[0], "fdr"] = 1.0
    result = score(*pair, metrics="de_nsig_counts_real,de_nsig_counts_pred", de_real=table)
    real, predicted = (result.perturbations.values_of("prediction", f"de_nsig_counts_{s}") for s in ("real", "pred"))
    assert real[PERTURBATIONS[0]] == 0
    assert min(real[name] for name in PERTURBATIONS[1:]) > 0
    assert predicted[PERTURBATIONS[0]] > 0


def test_command_takes_tables_of_several_predictions(pair: tuple[Any, Any], tmp_path: Path) -> None:
    for name, side in {"real": pair[0], "good": pair[1], "other": screens.predict(pair[0], 2)}.items():
        side.write_h5ad(tmp_path / f"{name}.h5ad")
        table_of(side).to_csv(tmp_path / f"{name}.csv", index=False)
    (tmp_path / "genes.csv").write_text(f"perturbation,gene\n{PERTURBATIONS[0]},{GENES[0]}\n{PERTURBATIONS[1]},\n")
    command = ["score", str(tmp_path / "real.h5ad"), "--task", "perturbation_prediction", "--condition", COLUMN]
    command += ["--control", CONTROL, "--engine", "cpu", "--quiet", "--option", f"metrics={TABLES}"]
    for name in ("good", "other"):
        command += ["--predictions", f"{name}={tmp_path / f'{name}.h5ad'}"]
    tables = ",".join(f"{name}={tmp_path / f'{name}.csv'}" for name in ("good", "other"))
    own = ["--option", f"de_real={tmp_path / 'real.csv'}", "--option", f"de_predicted={tables}"]
    own += ["--option", f"target_genes={tmp_path / 'genes.csv'}"]
    values = []
    for flags, out in (([], "computed"), (own, "given")):
        assert main([*command, *flags, "--out", str(tmp_path / out)]) == 0
        values.append([row["value"] for row in json.loads((tmp_path / out / "results.json").read_text())["results"]])
    assert values[0] == values[1]


def test_target_genes_are_left_out_where_a_metric_says_so(pair: tuple[Any, Any]) -> None:
    metric = "expr_mse_unbiased"
    values = [
        score(*pair, metrics=metric, target_genes=genes).perturbations.values_of("prediction", metric)
        for genes in ("", {"*": None}, {PERTURBATIONS[0]: GENES[5]})
    ]
    assert values[0] != values[1]
    changed = [name for name in PERTURBATIONS if values[0][name] != values[2][name]]
    assert changed == [PERTURBATIONS[0]]


@pytest.mark.parametrize("parts", [False, True])
def test_embeddings_of_files_are_used(
    pair: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: bool
) -> None:
    if parts:
        monkeypatch.setattr("gpubench.data.perturbation.screens.IN_MEMORY", 1 << 40)
    metrics = "discrimination_score_l2,pearson_edistance"
    paths = []
    for name, side in zip(("real", "pred"), pair, strict=True):
        with_pca = side.copy()
        with_pca.obsm["X_two"] = side.X.toarray()[:, :2].astype(np.float64)
        with_pca.write_h5ad(tmp_path / f"{name}.h5ad")
        paths.append(tmp_path / f"{name}.h5ad")
    plain = score(*paths, metrics=metrics)
    keyed = score(*paths, metrics=metrics, embed_key="X_two")
    both = score(*paths, metrics=metrics, embed_key=dict.fromkeys(metrics.split(","), "X_two"))
    energy, rank = "pearson_edistance", "discrimination_score_l2"
    assert plain.value(rank) != keyed.value(rank) == both.value(rank)
    assert plain.value(energy) == keyed.value(energy) != both.value(energy)


def table_without(pair: tuple[Any, Any], column: str) -> pd.DataFrame:
    return table_of(pair[0]).drop(columns=column)


BAD: dict[str, tuple[Any, str]] = {
    "no fdr": (lambda p: {"de_real": table_without(p, "fdr")}, "de_real: no column 'fdr'; give a table"),
    "no file": (lambda _: {"de_real": "absent.csv"}, "absent.csv"),
    "text": (lambda p: {"de_predicted": table_of(p[1]).assign(fdr="x")}, "de_predicted: column 'fdr' is not numbers"),
    "missing perturbation": (
        lambda p: {"de_real": table_of(p[0]).query(f"target != '{PERTURBATIONS[0]}'")},
        rf"de_real: 1 of 6 perturbations are not in the table \('{PERTURBATIONS[0]}'\)",
    ),
    "other genes": (
        lambda p: {"de_predicted": table_of(p[1]).assign(feature=lambda t: "x" + t["feature"].astype(str))},
        "de_predicted: 80 of 80 genes are not in the prediction",
    ),
    "twice": (lambda p: {"de_real": pd.concat([table_of(p[0])] * 2)}, "480 pairs of target and feature occur twice"),
    "unknown prediction": (lambda p: {"de_predicted": {"mine": table_of(p[1])}}, "'mine' is no prediction"),
    "no gene column": (lambda _: {"target_genes": pd.DataFrame({"perturbation": ["a"]})}, "no column 'gene'"),
    "two genes": (
        lambda _: {"target_genes": pd.DataFrame({"perturbation": ["a", "a"], "gene": ["b", "c"]})},
        "target_genes: 1 perturbations occur twice",
    ),
    "other perturbations": (lambda _: {"target_genes": {"a": GENES[0]}}, "none of 1 perturbations is in the real data"),
    "other names": (lambda _: {"target_genes": {PERTURBATIONS[0]: "b"}}, "none of 1 genes is in the real data"),
    "unknown key": (lambda _: {"embed_key": "X_pca"}, "embedding 'X_pca' is not in the AnnData object"),
    "unknown metric": (lambda _: {"embed_key": "mea=X_pca"}, "embed_key: 'mea' is no metric"),
    "metric of genes": (lambda _: {"embed_key": "overlap_at_N=X_pca"}, "overlap_at_N is made of genes"),
    "baseline": (lambda _: {"embed_key": "X_pca", "baseline": "mean"}, "embed_key: the baseline 'mean'"),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_tables_are_refused_in_one_line(pair: tuple[Any, Any], case: str) -> None:
    given, message = BAD[case]
    with pytest.raises(gb.InputError, match=message) as error:
        score(*pair, metrics="mae", **given(pair))
    assert "\n" not in str(error.value)


def test_one_table_for_two_predictions_is_refused(pair: tuple[Any, Any]) -> None:
    real, predicted = pair
    with pytest.raises(gb.InputError, match="de_predicted is one table for 2 predictions"):
        score(real, {"a": predicted, "b": predicted}, metrics="mae", de_predicted=table_of(predicted))
    contexts = real.copy()
    contexts.obs["line"] = "A"
    with pytest.raises(gb.InputError, match="de_real: tests of several contexts"):
        score(contexts, contexts, metrics="mae", context="line", de_real=table_of(real))


@pytest.mark.parametrize("storage", ["frame", "csv", "parquet", "categorical"])
def test_a_missing_target_gene_is_none_and_not_that_of_another_perturbation(tmp_path: Path, storage: str) -> None:
    screen = read_screen(screens.make_screen(0), "real", condition=COLUMN, control=CONTROL)
    table = pd.DataFrame({"perturbation": PERTURBATIONS[:3], "gene": [GENES[0], None, GENES[1]]})
    source: Any = table
    if storage == "csv":
        table.to_csv(source := tmp_path / "genes.csv", index=False)
    elif storage == "parquet":
        table.to_parquet(source := tmp_path / "genes.parquet")
    elif storage == "categorical":
        source = table.astype({"gene": "category"})
    expected = dict(zip(PERTURBATIONS[:3], [GENES[0], None, GENES[1]], strict=True))
    assert read_target_genes(source, screen) == expected


def test_tables_with_rows_without_a_gene_are_refused(pair: tuple[Any, Any], tmp_path: Path) -> None:
    table = table_of(pair[0])
    table.loc[4, "feature"] = None
    table.to_csv(tmp_path / "tests.csv", index=False)
    with pytest.raises(InputError, match=r"de_real: 1 of .* rows have no feature"):
        score(*pair, metrics=TABLES, de_real=str(tmp_path / "tests.csv"))


def test_digest_tells_which_cell_has_which_row_of_an_embedding() -> None:
    screen = screens.make_screen(0)
    screen.obsm["X"] = np.random.default_rng(0).normal(size=(screen.n_obs, 2))
    other = screen[::-1].copy()
    given: dict[str, Any] = {"condition": COLUMN, "control": CONTROL, "embeddings": ["X"]}
    other.obsm["X"] = screen.obsm["X"]
    digests = {read_screen(one, "real", **given).digest for one in (screen, other)}
    assert len(digests) == 2


def test_an_empty_number_is_missing_and_not_that_of_another_row(pair: tuple[Any, Any], tmp_path: Path) -> None:
    table = table_of(pair[0])
    table.loc[4, "p_value"] = np.nan
    table.to_csv(tmp_path / "tests.csv", index=False)
    from_frame, from_file = (
        score(*pair, metrics=TABLES, de_real=source) for source in (table, str(tmp_path / "tests.csv"))
    )
    assert [row.value for row in from_file.results] == [row.value for row in from_frame.results]

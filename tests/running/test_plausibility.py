"""Inputs that can be scored but are probably not what was meant give one warning each, or with `strict` an error."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import gpubench as gb
from gpubench.cli.main import main
from gpubench.core.errors import InputError
from gpubench.data.columns import encode_labels
from gpubench.running.plausibility import Given, implausible

N = 120
RNG = np.random.default_rng(5)
X = RNG.normal(size=(N, 6)).astype(np.float32)
LABEL = np.array(["B", "T", "NK"], object)[np.arange(N) % 3]
BATCH = np.array(["d1", "d2"], object)[(np.arange(N) // 3) % 2]
COUNTS = RNG.poisson(1.0, (N, 60)).astype(np.float32)


def renamed(values: Any, old: str, new: str) -> Any:
    values = values.copy()
    values[values == old] = new
    return values


WARNED: dict[str, tuple[dict[str, Any], str]] = {
    "a value for every second cell": (
        {"label": [f"c{i // 2 if i < 40 else i}" for i in range(N)]},
        "label has 100 values in 120 cells; give a column that groups cells",
    ),
    "a batch for most cells": ({"batch": np.arange(N) // 2 * 2 + (np.arange(N) > 20)}, "batch has 61 values in"),
    "measurements": (
        {"label": np.arange(N) % 40 * 0.25},
        "label has 40 different numbers, each of which counts as a group",
    ),
    "nan as text": ({"label": renamed(LABEL, "NK", "nan")}, "label of 40 cells is 'nan', which counts as a group"),
    "unknown": ({"label": renamed(LABEL, "NK", "Unknown")}, "label of 40 cells is 'Unknown'"),
    "empty": ({"label": renamed(LABEL, "NK", "")}, "label of 40 cells is ''"),
    "a blank": ({"label": renamed(LABEL, "NK", " ")}, "label of 40 cells is ' '"),
    "missing batches": ({"batch": renamed(BATCH, "d2", "N/A")}, "batch of 60 cells is 'N/A'"),
    "trailing blank": (
        {"label": np.where(np.arange(N) == 0, "B ", LABEL)},
        "label has names that begin or end with a blank ('B ')",
    ),
    "the same groups": ({"batch": LABEL}, "label and batch group the cells in the same way"),
    "labels within batches": (
        {"label": np.char.add(LABEL.astype(str), BATCH.astype(str))},
        "label and batch: every label occurs in one batch only",
    ),
    "batches within labels": (
        {"batch": np.char.add(LABEL.astype(str), BATCH.astype(str))},
        "label and batch: every batch has cells of one label only",
    ),
    "constant embedding": ({"data": np.ones((N, 4))}, "embedding 'X' has the same values in all 120 cells"),
    "constant in other files": ({"data": {"a": X, "b": np.zeros((N, 3))}}, "embedding 'b' has the same values"),
    "one embedding twice": ({"data": {"a": X, "b": X.copy()}}, "embeddings 'a' and 'b' are identical"),
    "counts": ({"data": COUNTS}, "embedding 'X' has whole numbers in 60 dimensions, as counts of genes are"),
}

PLAIN: dict[str, dict[str, Any]] = {
    "usual": {},
    "clusters as numbers": {"label": RNG.integers(0, 12, N)},
    "numbers of days": {"label": np.arange(N) % 3 * 0.5},
    "few cells": {"data": X[:6], "label": ["a", "b", "c", "d", "d", "e"], "batch": ["x", "y", "x", "x", "y", "y"]},
    "an embedding of few whole numbers": {"data": RNG.integers(0, 9, (N, 10))},
    "rows that differ late": {"data": np.vstack([np.ones((N - 1, 2)), np.zeros((1, 2))])},
    "almost the same embedding": {"data": {"a": X, "b": X + 1e-3}},
}


def score(**given: Any) -> gb.Result:
    given = {"data": X, "label": LABEL, "batch": BATCH, **given}
    return gb.score(**given, tasks=["embedding"], engine="cpu")


@pytest.mark.parametrize("case", WARNED)
def test_check_of_doubtful_input_warns_once_and_records_it(case: str) -> None:
    given, text = WARNED[case]
    with pytest.warns(gb.GpubenchWarning) as caught:
        result = score(**given)
    found = [str(one.message) for one in caught]
    assert len(found) == 1
    assert text in found[0]
    assert result.provenance["warnings"] == found
    assert caught[0].filename == __file__
    with pytest.raises(InputError, match="an error because of `strict`"):
        score(**given, strict=True)


@pytest.mark.parametrize("case", PLAIN)
def test_check_of_usual_input_is_silent(case: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "warnings" not in score(**PLAIN[case]).provenance


def test_labels_and_batches_by_exchanged_names_warn() -> None:
    obs = {"cell_type": LABEL, "donor": BATCH}
    with pytest.warns(gb.GpubenchWarning, match=r"label='donor' and batch='cell_type' look exchanged"):
        score(obs=obs, label="donor", batch="cell_type")
    score(obs=obs, label="cell_type", batch="donor")


@pytest.mark.parametrize("name", ["silhouette_batch", "bras", "isolated_labels", "kbet_per_label"])
def test_metrics_of_series_with_exchanged_names_warn_once(name: str) -> None:
    function = getattr(gb.metrics, name)
    label, batch = pd.Series(LABEL, name="cell_type"), pd.Series(BATCH, name="donor_id")
    of = "batches" if name == "kbet_per_label" else "batch"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        function(X, **{"labels": label, of: batch})
        function(X, **{"labels": BATCH, of: LABEL})  # nothing says which is which
    with pytest.warns(gb.GpubenchWarning, match="labels='donor_id' and batch='cell_type' look exchanged") as caught:
        function(X, **{"labels": batch, of: label})
    assert len(caught) == 1
    assert caught[0].filename == __file__


@pytest.mark.parametrize(("change", "is_logged"), [(np.log1p, True), (lambda x: x, False), (lambda x: x * 50.5, False)])
def test_pca_baseline_of_logarithms_warns(
    change: Callable[[Any], Any], is_logged: bool, recwarn: pytest.WarningsRecorder
) -> None:
    cells = ad.AnnData(change(COUNTS), obs=pd.DataFrame({"cell_type": LABEL}, index=[f"c{i}" for i in range(N)]))
    cells.obsm["X_pca"] = X
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gb.score(cells, "X_pca", label="cell_type", baseline="pca", tasks=["embedding"], engine="cpu")
    found = [str(one.message) for one in caught if issubclass(one.category, gb.GpubenchWarning)]
    assert bool(found) == is_logged
    assert all("X looks logarithmised already" in text for text in found)
    assert not recwarn.list


def test_command_prints_each_warning_once_with_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("emb.npy", X)
    pd.DataFrame({"cell_type": renamed(LABEL, "NK", "unknown")}).to_csv("obs.csv")
    command = ["score", "emb.npy", "--obs", "obs.csv", "--label", "cell_type", "-t", "embedding"]
    assert main(command) == 0
    captured = capsys.readouterr()
    assert captured.err.count("Warning: --label 'cell_type' of 40 cells is 'unknown'") == 1
    assert "--where" in captured.err
    assert main([*command, "--strict"]) == 2
    assert "an error because of --strict" in capsys.readouterr().err
    assert main([*command, "--strict", "--where", "cell_type != 'unknown'"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.count("Note: where: 40 of 120 cells left out by cell_type != 'unknown'") == 1


def test_column_of_missing_spellings_is_found_in_any_case() -> None:
    dataset = gb.data.read({"X": X})
    for spelling in ("NA", "None", " null ", "?", "<NA>"):
        label = encode_labels(renamed(LABEL, "NK", spelling), "label")
        (found,) = implausible(Given(dataset, {"label": label}, {"label": "type"}, X))
        assert str(found).startswith(f"label='type' of 40 cells is {spelling!r}")

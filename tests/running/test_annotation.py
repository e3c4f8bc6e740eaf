"""`key_added` writes a summary to `uns` that AnnData can store, and changes nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

import gpubench as gb
from gpubench.core.errors import InputError
from gpubench.running import annotation


@pytest.fixture
def adata() -> anndata.AnnData:
    rng = np.random.default_rng(0)
    label = np.repeat(["T", "B", "NK"], 20)
    x = rng.normal(size=(60, 4)).astype(np.float32) + 3 * (label == "B")[:, None]
    obs = pd.DataFrame({"label": pd.Categorical(label), "batch": ["b1", "b2"] * 30}, index=[f"c{i}" for i in range(60)])
    return anndata.AnnData(x, obs=obs, obsm={"X_pca": x, "X_two": x[:, :2].copy()}, uns={"mine": {"a": 1}})


def score(adata: anndata.AnnData, key_added: str | None = "gpubench") -> gb.Result:
    tasks = ["embedding", "batch_integration"]
    return gb.score(
        adata,
        ["X_pca", "X_two"],
        label="label",
        batch="batch",
        tasks=tasks,
        n_neighbors=10,
        engine="cpu",
        key_added=key_added,
    )


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
@pytest.mark.filterwarnings("ignore:Writing zarr v2 data")
def test_summary_survives_writing_and_reading(adata: anndata.AnnData, suffix: str, tmp_path: Path) -> None:
    result = score(adata)
    path = tmp_path / f"cells.{suffix}"
    getattr(adata, f"write_{suffix}")(path)
    stored = getattr(anndata, f"read_{suffix}")(path).uns["gpubench"]
    table = stored["scores"]
    for name in ("embedding", "task", "metric", "note"):
        assert table[name].tolist() == [getattr(row, name) for row in result]
    assert table["value"].tolist() == [row.value for row in result]
    assert [json.loads(text) for text in table["params"]] == [dict(row.params) for row in result]
    assert stored["seed"] == 42.0
    assert json.loads(stored["options"])["label"] == "label"
    assert stored["gpubench"] == result.provenance["gpubench"]


def test_summary_is_text_and_floats(adata: anndata.AnnData) -> None:
    score(adata)
    summary = adata.uns["gpubench"]
    assert {type(value) for name, value in summary.items() if name != "scores"} == {str, float}
    assert {type(value) for column in summary["scores"] for value in summary["scores"][column].tolist()} == {str, float}


def test_nothing_else_changes(adata: anndata.AnnData) -> None:
    before = adata.copy()
    score(adata, key_added=None)
    assert "gpubench" not in adata.uns
    score(adata)
    del adata.uns["gpubench"]
    assert adata.obs.equals(before.obs)
    assert adata.var.equals(before.var)
    assert np.array_equal(adata.X, before.X)
    assert {key: matrix.tobytes() for key, matrix in adata.obsm.items()} == {
        key: matrix.tobytes() for key, matrix in before.obsm.items()
    }
    assert dict(adata.uns) == dict(before.uns)
    assert not [*adata.obsp, *adata.layers, *adata.varm]


def test_an_older_summary_is_replaced(adata: anndata.AnnData) -> None:
    score(adata)
    adata.obsm["X_pca"] = adata.obsm["X_pca"] + np.arange(60, dtype=np.float32)[:, None]
    result = score(adata)
    assert adata.uns["gpubench"]["scores"]["value"].tolist() == [row.value for row in result]


@pytest.mark.parametrize(
    ("key", "fault"),
    [("mine", "which gpubench did not write"), ("a/b", "text without '/'"), ("", "text without '/'")],
)
def test_names_that_cannot_be_written_are_refused(
    adata: anndata.AnnData, key: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpubench.running.score.score_run", lambda *_, **__: pytest.fail("refused too late"))
    with pytest.raises(InputError, match=f"^key_added='{key}' cannot be written: .*{fault}"):
        score(adata, key)


def test_views_and_other_data_are_refused(adata: anndata.AnnData) -> None:
    with pytest.raises(InputError, match="is a view"):
        score(adata[:30])
    with pytest.raises(InputError, match="the data are not an AnnData object"):
        gb.score(adata.obsm["X_pca"], label=adata.obs["label"].to_numpy(), key_added="gpubench")


def test_failures_are_in_the_summary(adata: anndata.AnnData) -> None:
    result = score(adata)
    result.failures.append({"task": "clustering", "embedding": "X_pca", "error": "no clusters"})
    assert annotation.summary_of(result)["failures"] == "clustering on X_pca: no clusters"

"""Cells are left out by an expression, or where a value is missing, and every consumer gets the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import gpubench as gb
from gpubench.core.errors import InputError
from gpubench.data import expression_baseline, pca_baseline, read, read_species
from gpubench.metrics import silhouette_label
from gpubench.results.cells_file import read_cells

N = 90
RNG = np.random.default_rng(8)
NAMES = np.array([f"c{i}" for i in RNG.permutation(N)], object)
COUNTS = RNG.poisson(2.0, (N, 12)).astype(np.float32)
OBS = pd.DataFrame(
    {
        "cell_type": pd.Categorical(RNG.choice(["B", "T", "NK"], N)),
        "n genes": RNG.integers(0, 500, N),
        "donor": RNG.choice(["d1", "d2", "d3"], N),
    },
    index=NAMES,
)
X = RNG.normal(size=(N, 4)).astype(np.float32)


def cells(obs: pd.DataFrame = OBS) -> ad.AnnData:
    return ad.AnnData(COUNTS, obs=obs, obsm={"X_pca": X, "X_umap": X[:, :2] * 3})


@pytest.fixture(params=["memory", "h5ad", "csv", "parquet"])
def given(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """The same cells as different inputs; the tables in files stand in another order."""
    if request.param == "memory":
        return {"data": cells()}
    cells().write_h5ad(tmp_path / "cells.h5ad")
    if request.param == "h5ad":
        return {"data": tmp_path / "cells.h5ad"}
    table = OBS.iloc[::-1]
    if request.param == "csv":
        table.to_csv(tmp_path / "obs.csv")
    else:
        table.to_parquet(tmp_path / "obs.parquet")
    return {"data": tmp_path / "cells.h5ad", "obs": tmp_path / f"obs.{request.param}"}


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("cell_type != 'NK'", OBS["cell_type"] != "NK"),
        ("`n genes` > 200 and donor in ['d1', 'd3']", (OBS["n genes"] > 200) & OBS["donor"].isin(["d1", "d3"])),
        ("cell_type.str.startswith('N') or donor == 'd2'", (OBS["cell_type"] == "NK") | (OBS["donor"] == "d2")),
    ],
)
def test_where_scores_the_selected_cells(given: dict[str, Any], where: str, rows: pd.Series) -> None:
    result = gb.score(
        **given, embeddings="X_pca", label="donor", where=where, tasks=["embedding"], engine="cpu",
        baseline=["expression"],
    )  # fmt: skip
    chosen = rows.to_numpy()
    expected = silhouette_label(X[chosen], OBS["donor"].to_numpy()[chosen], engine="cpu")
    assert result.value("silhouette_score") == pytest.approx(float(expected), rel=1e-6)
    assert result.cells.names is not None
    assert list(result.cells.names) == list(NAMES[chosen])
    np.testing.assert_array_equal(result.cells.views[""].xy, X[chosen, :2] * 3)
    assert any(f"{N - chosen.sum()} of {N} cells left out by" in note for note in result.provenance["notes"])
    assert result.provenance["options"]["where"] == where


@pytest.mark.parametrize("is_stored", [False, True])
def test_baselines_take_the_selected_cells(is_stored: bool, tmp_path: Path) -> None:
    from scipy.sparse import csr_matrix

    adata = cells()
    adata.X = csr_matrix(COUNTS)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    source = tmp_path / "cells.h5ad" if is_stored else adata
    for rows in (np.arange(5, 70, 3), RNG.permutation(N)[:40]):
        np.testing.assert_array_equal(
            expression_baseline(source, rows=rows).read(3, 20), csr_matrix(COUNTS[rows][3:20]).toarray()
        )
        whole = pca_baseline(COUNTS[rows], n_components=3)
        np.testing.assert_array_equal(pca_baseline(source, n_components=3, rows=rows).rows, whole.rows)


def test_drop_missing_leaves_out_cells_without_a_value() -> None:
    obs = OBS.assign(cell_type=OBS["cell_type"].astype(object), day=np.arange(N) % 4 + 0.0)
    obs.iloc[:7, 0] = None
    obs.iloc[5:9, -1] = np.nan
    dataset = read(cells(obs), embeddings="X_pca", columns={"label": "cell_type", "time": "day"}, drop_missing=True)
    assert dataset.n_cells == N - 9
    np.testing.assert_array_equal(dataset.embeddings["X_pca"].read(0, N - 9), X[9:])
    assert dataset.notes == (f"drop_missing: 9 of {N} cells left out, without label or time",)
    assert read(cells(), embeddings="X_pca", columns={"label": "cell_type"}, drop_missing=True).notes == ()
    with pytest.raises(InputError, match=r"drop_missing: no cell is left: all 3 are left out, without label"):
        read(np.eye(3), columns={"label": [None] * 3}, drop_missing=True)


def test_where_of_species_selects_in_each(tmp_path: Path) -> None:
    other = cells().copy()
    other.obs_names = [f"m{name}" for name in NAMES]
    stacked = pd.DataFrame(np.vstack([X, X + 9]), index=[*NAMES, *other.obs_names]).sample(frac=1, random_state=1)
    stacked.columns = [f"d{i}" for i in range(4)]
    stacked.to_parquet(tmp_path / "emb.parquet")
    dataset = read_species(
        {"human": cells(), "mouse": other}, embeddings=str(tmp_path / "emb.parquet"), columns={"label": "donor"},
        where="donor != 'd1'",
    )  # fmt: skip
    chosen = X[(OBS["donor"] != "d1").to_numpy()]
    np.testing.assert_array_equal(dataset.embeddings["emb"].read(0, dataset.n_cells), np.vstack([chosen, chosen + 9]))
    assert any("rows were moved to the order of the sources" in note for note in dataset.notes)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("donr == 'd1'", r"where=.*: 'donr' is not a column \(did you mean 'donor'\?\)"),
        ("donor = 'd1'", "is not true or false for each cell|cannot be evaluated"),
        ("donor ==", "cannot be evaluated"),
        ("`n genes`", "is not true or false for each cell"),
        ("donor == 'none'", f"no cell is left: all {N} are left out"),
        ("donor > 3", "cannot be evaluated"),
        ("@pd.io", "may use columns and constants only"),
        ("donor.__class__ == 1", "may use columns and constants only"),
    ],
)
def test_where_that_selects_nothing_or_is_wrong_raises(where: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        read(cells(), embeddings="X_pca", columns={"label": "donor"}, where=where)
    assert "\n" not in str(error.value)


def test_cells_file_has_the_names_of_the_cells(tmp_path: Path) -> None:
    result = gb.score(cells(), "X_pca", label="donor", tasks=["embedding"], engine="cpu")
    result.cells_to_parquet(tmp_path / "cells.parquet")
    stored = read_cells(tmp_path / "cells.parquet", result.results)
    assert stored is not None
    assert stored.names is not None
    assert list(stored.names) == list(NAMES)
    assert list(pd.read_parquet(tmp_path / "cells.parquet")["cell"]) == list(NAMES)

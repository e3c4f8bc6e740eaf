"""Embeddings in separate files: the same scores as from the data itself, and files that do not fit are refused."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import gpubench as gb
from gpubench.data import read, read_species, split_name

N = 24


@pytest.fixture
def cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ad.AnnData:
    """Cells in cells.h5ad, and their embedding in files of several formats."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    names = [f"cell{i}" for i in range(N)]
    x = rng.normal(size=(N, 3)).astype(np.float32)
    cells = ad.AnnData(
        obs=pd.DataFrame({"cell_type": list("ab") * (N // 2)}, index=names), obsm={"X_pca": x, "X_other": x[:, :2]}
    )
    cells.write_h5ad("cells.h5ad")
    ad.AnnData(obs=pd.DataFrame(index=names), obsm={"X_emb": x}).write_h5ad("emb.h5ad")
    np.save("emb.npy", x)
    pd.DataFrame(x, index=names, columns=list("xyz")).to_parquet("emb.parquet")
    return cells


@pytest.mark.parametrize("file", ["emb.npy", "emb.h5ad", "emb.parquet"])
def test_embedding_file_scores_as_the_embedding_in_the_data(file: str, cells: ad.AnnData) -> None:
    inside = gb.score("cells.h5ad", "X_pca", label="cell_type", tasks="embedding")
    separate = gb.score("cells.h5ad", file, label="cell_type", tasks="embedding")
    assert [row.embedding for row in separate.results] == ["emb"]
    assert separate.value("silhouette_score") == inside.value("silhouette_score")
    assert gb.score(cells, Path(file), label="cell_type", tasks="embedding").value("silhouette_score") == inside.value(
        "silhouette_score"
    )


def test_keys_files_and_matrices_can_be_combined_and_named(cells: ad.AnnData) -> None:
    assert list(read("cells.h5ad", embeddings=["emb.npy", "X_other"]).embeddings) == ["X_other", "emb"]
    named = read("cells.h5ad", embeddings={"mine": "emb.npy", "pca": "X_pca", "given": cells.obsm["X_other"]})
    assert {name: rows.shape for name, rows in named.embeddings.items()} == {
        "mine": (N, 3),
        "pca": (N, 3),
        "given": (N, 2),
    }


def test_embedding_files_that_do_not_fit_are_refused(cells: ad.AnnData, tmp_path: Path) -> None:
    np.save("short.npy", cells.obsm["X_pca"][:20])
    cells[::-1].copy().write_h5ad("reversed.h5ad")
    (tmp_path / "other").mkdir()
    np.save("other/emb.npy", cells.obsm["X_pca"])
    ad.AnnData(obs=cells.obs[20:], obsm={"X_emb": cells.obsm["X_pca"][20:]}).write_h5ad("few.h5ad")
    for given, message in (
        ("short.npy", r"embedding 'short' has 20 rows, but cells.h5ad has 24 cells; give one row for each cell"),
        ("emb.nyp", r"embedding 'emb.nyp' is not in cells.h5ad"),
        ("em.npy", r"embedding 'em': em.npy does not exist \(did you mean 'emb.npy'"),
        ("reversed.h5ad", r"reversed.h5ad has several embeddings; name one"),
        (
            "few.h5ad",
            r"few.h5ad, with 4 cells, lacks 20 of the 24 cells of cells.h5ad \('cell0', 'cell1', 'cell2', ...\);",
        ),
        (["emb.npy", "other/emb.npy"], r"two are called 'emb'; give a mapping name -> path"),
        (["X_pca", "other/X_pca.npy"], r"two are called 'X_pca'; give a mapping name -> path"),
        (["other/X_pca.npy", "X_pca"], r"two are called 'X_pca'; give a mapping name -> path"),
    ):
        with pytest.raises(gb.InputError, match=message):
            read("cells.h5ad", embeddings=given)


def test_several_species_share_one_embedding_file(cells: ad.AnnData) -> None:
    cells[:10].copy().write_h5ad("human.h5ad")
    cells[10:].copy().write_h5ad("mouse.h5ad")
    whole = read_species(["human.h5ad", "mouse.h5ad"], embeddings="emb.npy")
    assert whole.embeddings["emb"].shape == (N, 3)
    assert whole.n_cells == N
    np.save("short.npy", cells.obsm["X_pca"][:20])
    with pytest.raises(gb.InputError, match=r"'short' has 20 rows, but the sources have 10 \+ 14 = 24 cells"):
        read_species(["human.h5ad", "mouse.h5ad"], embeddings="short.npy")
    with pytest.raises(gb.InputError, match=r"embedding 'gone': gone.npy does not exist"):
        read_species(["human.h5ad", "mouse.h5ad"], embeddings="gone.npy")


def test_split_name_separates_name_and_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert split_name("X_pca") == ("X_pca", "X_pca")
    assert split_name("folder/emb.csv.gz") == ("emb", "folder/emb.csv.gz")
    assert split_name("mine=folder/emb.npy") == ("mine", "folder/emb.npy")
    assert split_name("a=b") == ("a=b", "a=b")
    (tmp_path / "lr=1").mkdir()
    (tmp_path / "lr=1" / "emb.npy").touch()
    assert split_name("lr=1/emb.npy") == ("emb", "lr=1/emb.npy")

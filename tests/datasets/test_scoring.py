"""Scoring a dataset by its name: its labels and cells, an embedding of the user's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import s3
from stores import zarr_writer

import gpubench as gb
from gpubench.cli.main import main
from gpubench.core.errors import GpubenchWarning
from gpubench.datasets import demo_path


@pytest.fixture
def cells(put: Callable[..., str], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ad.AnnData:
    """Some of the demo's cells on S3 as the datasets "blood" and "mouse_blood", and their embedding as emb.npy here."""
    cells = ad.read_h5ad(demo_path())[::4].copy()
    monkeypatch.chdir(tmp_path)
    cells.write_h5ad("whole.h5ad")
    np.save("emb.npy", cells.obsm["X_pca"])
    address = put("blood.h5ad", Path("whole.h5ad").read_bytes())
    Path("my.yaml").write_text(
        f"datasets:\n  blood: {{path: '{address}', organism: homo_sapiens, label: cell_type, batch: batch}}\n"
        "  mouse_blood: {path: whole.h5ad, organism: mus_musculus, label: cell_type}\n"
        "  more_blood: {path: whole.h5ad, organism: mus_musculus, label: cell_type}\n"
    )
    monkeypatch.setenv("GPUBENCH_CATALOGUE", str(tmp_path / "my.yaml"))
    return cells


def test_dataset_name_gives_columns_and_cells(cells: ad.AnnData, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = ["-t", "embedding", "-t", "batch_integration"]
    assert main(["score", "blood", "--embedding", "emb.npy", *tasks, "--out", "named"]) == 0
    assert re.search(r"^ +emb\nembedding\n", capsys.readouterr().out, re.MULTILINE)
    given = ["--label", "cell_type", "--batch", "batch"]
    assert main(["score", "whole.h5ad", "--embedding", "X_pca", *given, *tasks, "--out", "given", "-q"]) == 0
    named, by_file = (json.loads(Path(f, "results.json").read_text()) for f in ("named", "given"))
    assert [row["value"] for row in named["results"]] == [row["value"] for row in by_file["results"]]
    dataset = named["provenance"]["dataset"]
    assert dataset["source"] == "blood"
    (file,) = dataset["files"]
    assert (file["id"], file["address"]) == ("blood", f"s3://{s3.BUCKET}/blood.h5ad")
    assert len(file["sha256"]) == 64
    assert named["provenance"]["options"]["label"] == "cell_type"
    assert "cache" not in json.dumps(named["provenance"]), "where the cache is, is private"


def test_arguments_override_the_catalogue(cells: ad.AnnData) -> None:
    with pytest.warns(GpubenchWarning, match="label='batch' and batch='batch' group the cells in the same way"):
        result = gb.score("blood", {"mine": "emb.npy"}, label="batch", tasks="embedding")
    assert result.provenance["options"]["label"] == "batch"
    assert result.provenance["options"]["embeddings"] == ["mine"]
    table = cells.obs[["batch"]].rename(columns={"batch": "mine"})
    result = gb.score("blood", "emb.npy", obs=table, label="mine", tasks="embedding")
    assert "batch" not in result.provenance["options"], "a table of the user's has the columns"


def test_several_datasets_are_named_by_their_organisms(cells: ad.AnnData) -> None:
    both = gb.score(["blood", "mouse_blood"], "X_pca", tasks="cross_species_integration")
    whole = gb.score(
        {"homo_sapiens": "whole.h5ad", "mus_musculus": "whole.h5ad"},
        "X_pca",
        label="cell_type",
        tasks="cross_species_integration",
    )
    assert [row.value for row in both.results] == [row.value for row in whole.results]
    assert both.provenance["dataset"]["source"] == "blood, mouse_blood"
    named = gb.score(["mouse_blood", "more_blood"], "X_pca", label="cell_type", tasks="cross_species_integration")
    assert named.provenance["dataset"]["source"] == "mouse_blood, more_blood", "of one organism: their own names"


def test_name_that_is_neither_file_nor_dataset_is_refused(
    cells: ad.AnnData, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", "bloood", "--embedding", "emb.npy"]) == 2
    assert capsys.readouterr().err == (
        "gpubench: data: there is no file 'bloood', and dataset 'bloood' is in no catalogue (did you mean 'blood',"
        " 'tsv2_blood', 'more_blood'?); see gpubench datasets list\n"
    )
    assert main(["score", "bloood.h5ad", "--embedding", "emb.npy", "--label", "cell_type"]) == 2
    assert "data: bloood.h5ad does not exist" in capsys.readouterr().err


@pytest.mark.slow
def test_file_takes_precedence_over_a_dataset_of_its_name(cells: ad.AnnData, tmp_path: Path, proxy: s3.Proxy) -> None:
    zarr_writer(2)(cells, tmp_path).rename("blood")
    result = gb.score("blood", "X_pca", label="cell_type", tasks="embedding")
    assert result.provenance["dataset"]["source"] == "blood"
    assert proxy.requests == []


def test_perturbation_dataset_gives_condition_and_control(cells: ad.AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("p.yaml").write_text("datasets: {p: {path: whole.h5ad, condition: gene, control: nothing}}\n")
    monkeypatch.setenv("GPUBENCH_CATALOGUE", "p.yaml")
    asked = {}

    def stop(*_: object, **given: object) -> None:
        asked.update(given)
        raise gb.InputError("seen")

    monkeypatch.setattr("gpubench.running.score.readers.read_perturbation", stop)
    for given, seen in (({}, ("gene", "nothing")), ({"condition": "c", "control": "n"}, ("c", "n"))):
        with pytest.raises(gb.InputError, match="seen"):
            gb.score("p", predictions="p.h5ad", **given)
        assert (asked["condition"], asked["control"]) == seen
    with pytest.raises(gb.InputError, match="seen"):
        gb.score("whole.h5ad", predictions="p.h5ad")
    assert (asked["condition"], asked["control"]) == ("condition", None)


def test_run_file_is_scored_again_after_a_new_version_was_fetched(
    cells: ad.AnnData, put: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("run.yaml").write_text("runs: {all: {data: blood, embeddings: [X_pca], tasks: [embedding]}}")
    arguments = ["score", "run.yaml", "--out", "out"]
    resumed = []
    for _ in range(2):
        assert main(arguments) == 0
        resumed.append("Reused" in capsys.readouterr().out)
    assert resumed == [False, True]
    fewer = cells[::2].copy()
    fewer.write_h5ad("whole.h5ad")
    put("blood.h5ad", Path("whole.h5ad").read_bytes())
    gb.datasets.fetch("blood", refresh=True, progress=False)
    assert main(arguments) == 2
    assert "of another run (number of cells" in capsys.readouterr().err
    assert main([*arguments, "--force"]) == 0
    assert "Reused" not in capsys.readouterr().out
    (score,) = json.loads(Path("out", "all", "results.json").read_text())["results"]
    assert score["n"] == fewer.n_obs

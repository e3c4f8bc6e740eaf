"""One source per species becomes one dataset."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from stores import write_h5ad

from gpubench.core.errors import InputError
from gpubench.data import as_numeric, encode_labels, read_species


def cells(n: int, types: list[str], *, d: int = 3, key: str = "X_pca", start: int = 0) -> ad.AnnData:
    return ad.AnnData(
        obs=pd.DataFrame(
            {
                "cell_type": pd.Categorical((types * n)[:n], [*types, "unused"]),
                "age": np.arange(n) + start,
                "stage": [str(i) for i in range(n)],
                "organism": pd.Categorical(["x"] * n),
            },
            index=[f"{start}-{i}" for i in range(n)],
        ),
        obsm={key: np.arange(n * d, dtype="f4").reshape(n, d) + start},
    )


HUMAN, MOUSE = cells(4, ["B", "T"]), cells(3, ["T", "NK"], start=100)


def texts(values: object) -> list[str]:
    labels = encode_labels(values, "label")
    return [labels.names[code] for code in labels.codes]


def test_files_are_stacked_and_named_by_their_stems(tmp_path):
    paths = []
    for name, adata in (("human", HUMAN), ("mouse", MOUSE)):
        paths.append(write_h5ad(adata, tmp_path).rename(tmp_path / f"{name}.h5ad"))
    dataset = read_species(paths, columns={"label": "cell_type", "time": "age", "batch": None}, cell_ids=True)
    np.testing.assert_array_equal(
        dataset.embeddings["X_pca"].read(2, 6),
        np.concatenate([HUMAN.obsm["X_pca"][2:], MOUSE.obsm["X_pca"][:2]]),
    )
    assert dataset.n_cells == 7
    assert texts(dataset.obs["label"]) == ["B", "T", "B", "T", "T", "NK", "T"]
    assert texts(dataset.obs["species"]) == ["human"] * 4 + ["mouse"] * 3
    assert dataset.obs["time"].tolist() == [0, 1, 2, 3, 100, 101, 102]
    assert dataset.cell_ids is not None
    assert (dataset.cell_ids[0], dataset.cell_ids[-1]) == ("0-0", "100-2")
    assert dataset.source == f"{paths[0]}, {paths[1]}"


def test_mapping_names_the_species():
    dataset = read_species(
        {"Homo sapiens": HUMAN, "Mus musculus": MOUSE}, columns={"label": "cell_type", "time": "stage"}
    )
    assert texts(dataset.obs["species"])[3:5] == ["Homo sapiens", "Mus musculus"]
    assert as_numeric(dataset.obs["time"], "time").tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert dataset.source is None


def test_column_of_species_takes_precedence():
    dataset = read_species([HUMAN, MOUSE], columns={"species": "organism"})
    assert texts(dataset.obs["species"]) == ["x"] * 7


def test_values_and_tables_can_be_given_by_species():
    dataset = read_species(
        {"human": np.eye(3), "mouse": np.ones((2, 3))},
        columns={"label": {"human": ["a", "b", "a"], "mouse": np.array([1, 2])}, "batch": "donor"},
        obs={"human": {"donor": ["x", "y", "z"]}, "mouse": pd.DataFrame({"donor": ["y", "y"]})},
    )
    assert texts(dataset.obs["label"]) == ["a", "b", "a", "1", "2"]
    assert texts(dataset.obs["batch"]) == ["x", "y", "z", "y", "y"]
    np.testing.assert_array_equal(dataset.embeddings["X"].read(2, 4), [[0, 0, 1], [1, 1, 1]])


@pytest.mark.parametrize(
    ("sources", "given", "message"),
    [
        (
            {"human": HUMAN, "mouse": cells(3, ["T"], d=2)},
            {},
            r"^X_pca differs in its number of dimensions \(human 3, mouse 2\); species need one common embedding$",
        ),
        (
            {"human": HUMAN, "mouse": cells(3, ["T"], key="X_umap")},
            {},
            r"^the sources have different embeddings \(human: 'X_pca'; mouse: 'X_umap'\); name one that all have with",
        ),
        ({"human": HUMAN}, {}, r"^data: species need at least two sources, one for each; there are 1$"),
        ([HUMAN, MOUSE], {}, r"^data: sources that are not files have no names; give a mapping species -> source"),
        (["a/x.h5ad", "b/x.h5ad"], {}, r"^data: files share a name \('x'\); give a mapping species -> file"),
        (
            {"human": HUMAN, "mouse": MOUSE},
            {"columns": {"label": list("abcdefg")}},
            r"^label: with one source per species, give a mapping species -> value; 'human' has none$",
        ),
        (
            {"human": HUMAN, "mouse": MOUSE},
            {"columns": {"label": {"human": "cell_type"}}},
            r"^label: with one source per species, .*; 'mouse' has none$",
        ),
        (
            {"human": HUMAN, "mouse": MOUSE},
            {"obs": "obs.csv"},
            r"^obs: with one source per species, .* 'human' has none$",
        ),
        (
            {"human": HUMAN, "mouse": MOUSE},
            {"columns": {"label": {"human": "cell_type", "mouse": ["a", None, "b"]}}},
            r"^label of mouse: 1 of 3 rows have no value \(first: 1\)",
        ),
    ],
)
def test_inputs_that_cannot_be_stacked_are_refused(sources, given, message):
    with pytest.raises(InputError, match=message):
        read_species(sources, **given)

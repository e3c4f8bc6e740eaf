"""Inputs of `read` other than stores: AnnData objects, arrays, archives, tables; and the checks of lengths."""

from __future__ import annotations

import gzip
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse
from stores import N_CELLS, dense, make_anndata, write_h5ad, zarr_writer

from gpubench.core.errors import InputError
from gpubench.core.types import RowSource
from gpubench.data import as_numeric, encode_labels, fingerprint, read, read_rows
from gpubench.datasets import demo_path, knockouts_path

X = np.arange(12, dtype="f4").reshape(4, 3)
TABLE = pd.DataFrame({"cell_type": ["b", "a", "b", "a"], "time": [1.5, 2, 3, 4], "plate": ["01", "1", "01", "1"]})


def codes_of(values: object) -> list[int]:
    return encode_labels(values, "label").codes.tolist()


# AnnData objects


@pytest.mark.parametrize("backed", [False, True])
def test_anndata_objects_are_read(tmp_path, backed):
    adata = make_anndata()
    given = ad.read_h5ad(write_h5ad(adata, tmp_path), backed="r") if backed else adata
    names = ["X_pca", "csr", "frame", "X", "layers/scaled"]
    dataset = read(given, embeddings=names, columns={"label": "cell_type", "time": "depth"}, cell_ids=True)
    for name, expected in zip(
        names, [*(adata.obsm[n] for n in names[:3]), adata.X, adata.layers["scaled"]], strict=True
    ):
        rows = dataset.embeddings[name]
        block = rows.read(2, 9) if isinstance(rows, RowSource) else rows[2:9]
        np.testing.assert_array_equal(block, dense(expected)[2:9])
    assert encode_labels(dataset.obs["label"], "label").names == ("B cell", "NK", "T cell")
    assert dataset.cell_ids is not None
    assert (dataset.n_cells, list(dataset.cell_ids[:2]), dataset.source) == (N_CELLS, ["cell0", "cell1"], None)
    if backed:
        given.file.close()


def test_views_of_anndata_are_read():
    adata = make_anndata()
    dataset = read(adata[5:9], embeddings="X_pca", columns={"label": "cell_type"})
    np.testing.assert_array_equal(dataset.embeddings["X_pca"], adata.obsm["X_pca"][5:9])
    assert codes_of(dataset.obs["label"]) == [1, 2, 0, 1]


def test_names_in_anndata_objects_are_resolved():
    adata = make_anndata()
    with pytest.raises(
        InputError, match=r"^embedding 'X_pcc' is not in the AnnData object \(did you mean 'X_pca'\?\)$"
    ):
        read(adata, embeddings="X_pcc")
    with pytest.raises(
        InputError, match=r"^the AnnData object has several embeddings; name one or more with `embeddings`: "
    ):
        read(adata)
    with pytest.raises(
        InputError, match=r"^batch='plat' is not a column of obs of the AnnData object \(did you mean 'plate'"
    ):
        read(adata, embeddings="X_pca", columns={"batch": "plat"})
    adata.X = None
    with pytest.raises(InputError, match=r"^embedding 'X' is not in the AnnData object"):
        read(adata, embeddings="X")
    adata.obsm = {"X_pca": adata.obsm["X_pca"]}
    assert list(read(adata).embeddings) == ["X_pca"]


def test_key_of_obsm_takes_precedence_over_a_slot_of_its_name():
    adata = ad.AnnData(np.zeros((2, 2), "f4"), obsm={"X": np.ones((2, 1)), "layers/a": np.full((2, 1), 2.0)})
    adata.layers["a"] = np.zeros((2, 2))
    dataset = read(adata, embeddings=["X", "layers/a"])
    assert [rows[0, 0] for rows in dataset.embeddings.values()] == [1, 2]


# Arrays


def test_one_array_is_one_embedding():
    dataset = read(X, columns={"label": ["a", "b", "a", "a"], "batch": None})
    assert list(dataset.embeddings) == ["X"]
    assert dataset.embeddings["X"] is X
    assert (list(dataset.obs), dataset.n_cells, dataset.source, dataset.cell_ids) == (["label"], 4, None, None)
    assert list(read(X, embeddings="scVI").embeddings) == ["scVI"]
    with pytest.raises(InputError, match=r"^embeddings names 'a', 'b', but data is one matrix; give one name$"):
        read(X, embeddings=["a", "b"])


def test_named_arrays_are_embeddings():
    dataset = read({"pca": X, "umap": scipy.sparse.csr_array(X)}, columns={"label": [1, 2, 3, 4]})
    assert list(dataset.embeddings) == ["pca", "umap"]
    assert list(read({"pca": X, "umap": X}, embeddings="umap").embeddings) == ["umap"]
    with pytest.raises(InputError, match=r"^embedding 'umpa' is not in data \(did you mean 'umap'\?\)$"):
        read({"pca": X, "umap": X}, embeddings=["pca", "umpa"])
    with pytest.raises(InputError, match=r"^embeddings differ in their number of rows \(pca 4, umap 3\)"):
        read({"pca": X, "umap": X[:3]})
    with pytest.raises(InputError, match=r"^pca has dtype complex64"):
        read({"pca": X.astype("c8")})


def test_data_frame_names_its_cells():
    dataset = read(pd.DataFrame(X, index=list("abcd")), cell_ids=True)
    assert dataset.cell_ids is not None
    assert list(dataset.cell_ids) == ["a", "b", "c", "d"]
    assert read(pd.DataFrame(X), cell_ids=True).cell_ids is None


def test_lengths_are_checked_against_the_cells():
    with pytest.raises(
        InputError,
        match=r"^label has 5 values but the embedding has 4 rows; give one value per cell, in the same order$",
    ):
        read(X, columns={"label": list("abcde")})
    with pytest.raises(InputError, match=r"^batch must have one value per cell but has shape \(4, 3\)"):
        read(X, columns={"batch": X})
    with pytest.raises(InputError, match=r"^batch is of type int, not a column"):
        read(X, columns={"batch": 5})
    with pytest.raises(InputError, match=r"^label='cell_type' names a column, but there is no table; give `obs`, the"):
        read(X, columns={"label": "cell_type"})


def test_columns_can_be_read_without_an_embedding():
    assert read({}, embeddings=(), columns={"label": [1, 2, 3]}).n_cells == 3
    with pytest.raises(InputError, match=r"^batch has 2 values but the embedding has 3 rows"):
        read({}, columns={"label": [1, 2, 3], "batch": [1, 2]})
    with pytest.raises(InputError, match=r"^data has no cells; check how it was made$"):
        read({})


# Files of arrays


def test_npy_is_memory_mapped(tmp_path):
    for order in ("C", "F"):
        np.save(tmp_path / "scvi.npy", np.asarray(X, order=order))
        dataset = read(str(tmp_path / "scvi.npy"))
        assert isinstance(dataset.embeddings["scvi"], np.memmap)
        np.testing.assert_array_equal(dataset.embeddings["scvi"], X)
    assert dataset.source == str(tmp_path / "scvi.npy")


def test_damaged_npy_is_refused(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, X)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"x\.npy cannot be read \(.*\); if it is damaged, copy or download it again$"):
        read(path)
    path.write_text("not an array")
    with pytest.raises(InputError, match=r"x\.npy cannot be read \("):
        read(path)
    np.save(path, np.array([{}]), allow_pickle=True)
    with pytest.raises(InputError, match=r"x\.npy cannot be read \("):
        read(path)


def test_npz_arrays_are_embeddings_and_columns(tmp_path):
    path = tmp_path / "cells.npz"
    np.savez(path, pca=X, cell_type=np.array(["b", "a", "b", "a"]), version=np.array(3))
    dataset = read(path, columns={"label": "cell_type"})
    np.testing.assert_array_equal(dataset.embeddings["pca"], X)
    assert codes_of(dataset.obs["label"]) == [1, 0, 1, 0]
    np.savez_compressed(path, pca=X, umap=X[:, :2])
    assert list(read(path, embeddings="umap").embeddings) == ["umap"]
    with pytest.raises(
        InputError, match=r"cells\.npz: `embeddings` must name a .* array of the archive; it has several: 'pca'"
    ):
        read(path)
    with pytest.raises(InputError, match=r"^embedding 'pac' is not in .*cells\.npz \(did you mean 'pca'\?\)$"):
        read(path, embeddings="pac")
    np.savez(path, label=np.arange(3))
    with pytest.raises(InputError, match=r"it has none$"):
        read(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"cells\.npz cannot be read \("):
        read(path)


def test_objects_in_npz_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "x.npz", pca=X, label=np.array(["a", None, "b", "c"], object))
    with pytest.raises(InputError, match=r"^'label' in .*x\.npz cannot be read \(Object arrays cannot be loaded"):
        read(tmp_path / "x.npz", columns={"label": "label"})


# Tables


def write_table(frame: pd.DataFrame, path: Path) -> Path:
    if ".parquet" in path.suffixes:
        frame.to_parquet(path)
    else:
        frame.to_csv(path, sep="\t" if ".tsv" in path.suffixes else ",", index=frame.index.dtype == object)
    return path


FORMATS = ["obs.parquet", "obs.csv", "obs.tsv", "obs.csv.gz", "obs.tsv.gz"]


@pytest.mark.parametrize("name", FORMATS)
def test_labels_are_read_from_table_files(tmp_path, name):
    path = write_table(TABLE, tmp_path / name)
    dataset = read(X, columns={"label": "cell_type", "batch": "plate", "time": "time"}, obs=path)
    assert codes_of(dataset.obs["label"]) == [1, 0, 1, 0]
    assert encode_labels(dataset.obs["batch"], "batch").names == ("01", "1")
    assert as_numeric(dataset.obs["time"], "time").tolist() == [1.5, 2, 3, 4]
    with pytest.raises(InputError, match=r"^label='Cell type' is not a column of .*\(did you mean 'cell_type'\?\)$"):
        read(X, columns={"label": "Cell type"}, obs=path)
    with pytest.raises(InputError, match=r"^label has 4 values but the embedding has 3 rows"):
        read(X[:3], columns={"label": "cell_type"}, obs=path)


@pytest.mark.parametrize("name", FORMATS)
def test_missing_values_in_tables_are_found(tmp_path, name):
    path = write_table(TABLE.assign(cell_type=["b", None, "b", None]), tmp_path / name)
    dataset = read(X, columns={"label": "cell_type"}, obs=path)
    with pytest.raises(InputError, match=r"^label: 2 of 4 rows have no value \(first: 1, 3\)"):
        encode_labels(dataset.obs["label"], "label")


def test_categories_in_parquet_are_read(tmp_path):
    path = write_table(
        TABLE.assign(cell_type=pd.Categorical(TABLE["cell_type"], ["b", "c", "a"])), tmp_path / "o.parquet"
    )
    assert codes_of(read(X, columns={"label": "cell_type"}, obs=path).obs["label"]) == [1, 0, 1, 0]


def test_tables_in_memory_are_read():
    for obs in (TABLE, {name: TABLE[name] for name in TABLE}, {name: list(TABLE[name]) for name in TABLE}):
        dataset = read(X, columns={"label": "cell_type", "time": "time"}, obs=obs)
        assert codes_of(dataset.obs["label"]) == [1, 0, 1, 0]
    assert codes_of(read(X, columns={"label": "0"}, obs=pd.DataFrame([[2], [1], [1], [2]])).obs["label"]) == [
        1,
        0,
        0,
        1,
    ]
    with pytest.raises(InputError, match=r"^label='cell' is not a column of obs \(did you mean 'cell_type'\?\)$"):
        read(X, columns={"label": "cell"}, obs=TABLE)
    with pytest.raises(
        InputError, match=r"^obs is of type list, not a table; give a DataFrame or the path of a table$"
    ):
        read(X, columns={"label": "cell"}, obs=[1, 2])


@pytest.mark.slow
def test_obs_of_a_store_can_be_the_table(tmp_path):
    adata = make_anndata()
    for path in (write_h5ad(adata, tmp_path), zarr_writer(3)(adata, tmp_path)):
        dataset = read(np.asarray(adata.obsm["X_pca"]), columns={"label": "cell_type"}, obs=path)
        assert encode_labels(dataset.obs["label"], "label").n_classes == 3


def test_given_table_replaces_that_of_the_source():
    dataset = read(make_anndata()[:4], embeddings="X_pca", columns={"label": "cell_type"}, obs=TABLE)
    assert encode_labels(dataset.obs["label"], "label").names == ("a", "b")


@pytest.mark.parametrize("kind", ["csv", "parquet", "frame"])
def test_ambiguous_column_name_is_refused(tmp_path, kind):
    obs = tmp_path / f"obs.{kind}"
    columns = [["a", "b", "a", "b"], ["c", "c", "d", "d"]]
    if kind == "csv":
        obs.write_text("label,label\n" + "".join(f"{a},{b}\n" for a, b in zip(*columns, strict=True)))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_arrays(list(map(pa.array, columns)), ["label", "label"]), obs)
    else:
        obs = pd.DataFrame(np.transpose(columns), columns=["label", "label"])
    with pytest.raises(InputError, match=r"label='label': .*obs.* has 2 columns of that name; rename all but one"):
        read(np.eye(4), columns={"label": "label"}, obs=obs)


def test_damaged_tables_are_refused(tmp_path):
    path = write_table(TABLE, tmp_path / "obs.parquet")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(
        InputError, match=r"obs\.parquet cannot be read \(.*\); if it is damaged, copy or download it again$"
    ):
        read(X, columns={"label": "cell_type"}, obs=path)
    path = tmp_path / "obs.csv.gz"
    path.write_bytes(gzip.compress(TABLE.to_csv().encode())[:-12])
    with pytest.raises(InputError, match=r"obs\.csv\.gz cannot be read \("):
        read(X, columns={"label": "cell_type"}, obs=path)
    (tmp_path / "obs.csv").touch()
    with pytest.raises(InputError, match=r"^obs: .*obs\.csv is empty; check the path"):
        read(X, columns={"label": "cell_type"}, obs=tmp_path / "obs.csv")
    with pytest.raises(InputError, match=r"^obs: .*labels\.csv does not exist"):
        read(X, columns={"label": "cell_type"}, obs=tmp_path / "labels.csv")
    (tmp_path / "obs.xlsx").touch()
    with pytest.raises(InputError, match=r"^obs: .*obs\.xlsx is a spreadsheet; save it as CSV"):
        read(X, columns={"label": "cell_type"}, obs=tmp_path / "obs.xlsx")


@pytest.mark.parametrize("name", FORMATS)
def test_tables_of_numbers_are_embeddings(tmp_path, name):
    frame = pd.DataFrame(X, columns=["pc1", "pc2", "pc3"])
    path = write_table(frame, tmp_path / name)
    np.testing.assert_array_equal(read_rows(read(path).embeddings["obs"], 0, 4), X)
    named = write_table(frame.set_axis(list("abcd"), axis=0), tmp_path / name)
    dataset = read(named, embeddings="pca", cell_ids=True)
    np.testing.assert_array_equal(read_rows(dataset.embeddings["pca"], 0, 4), X)
    assert dataset.cell_ids is not None
    assert list(dataset.cell_ids) == list("abcd")
    write_table(frame.assign(donor="x"), path)
    with pytest.raises(InputError, match=r"obs(\.parquet)? has columns that are not numbers: 'donor'; leave them out$"):
        read(path)


@pytest.mark.parametrize("name", [*(name.upper() for name in FORMATS), "of.tsv_files.csv"])
def test_suffixes_are_matched_in_any_case_at_the_end(tmp_path, name):
    """The format and the separator are found by the same rule."""
    frame = pd.DataFrame(X, columns=["pc1", "pc2", "pc3"])
    path = write_table(frame, tmp_path / (name.lower() if name.isupper() else name)).rename(tmp_path / name)
    np.testing.assert_array_equal(read_rows(read(path, embeddings="pca").embeddings["pca"], 0, 4), X)
    assert as_numeric(read(X, columns={"time": "pc1"}, obs=path).obs["time"], "time").tolist() == X[:, 0].tolist()


# Fingerprints


def codes_fingerprint(x: object, labels: object = ("a", "b", "a", "a")) -> str:
    return fingerprint(read(x, embeddings="X", columns={"label": labels}))


def test_same_content_has_the_same_fingerprint(tmp_path):
    known = codes_fingerprint(X)
    assert known == "b20d3816754b55a9bb651baace4aad01"
    np.save(tmp_path / "x.npy", np.asfortranarray(X))
    assert codes_fingerprint(tmp_path / "x.npy") == known
    assert codes_fingerprint(X.astype(">f4")) == known
    assert codes_fingerprint(scipy.sparse.csc_array(X)) == known
    assert codes_fingerprint(X, pd.Categorical(["a", "b", "a", "a"], ["b", "c", "a"])) == known


def test_long_doubles_have_a_fingerprint():
    one, two = (np.eye(4, dtype=np.longdouble) * scale for scale in (1, 2))
    assert codes_fingerprint(one) == codes_fingerprint(one.copy())
    assert codes_fingerprint(one) != codes_fingerprint(two)


def test_different_content_has_a_different_fingerprint():
    changed = X.copy()
    changed[3, 2] += 1
    others = [
        codes_fingerprint(X),
        codes_fingerprint(changed),
        codes_fingerprint(X.astype("f8")),
        codes_fingerprint(X, list("abab")),
        codes_fingerprint(X, list("acaa")),
        codes_fingerprint(X, np.array([1, 2, 1, 1])),
        codes_fingerprint(X, np.array([1, 2, 1, 1.5])),
        fingerprint(read(X, embeddings="Y", columns={"label": list("abaa")})),
        fingerprint(read(X, embeddings="X", columns={"batch": list("abaa")})),
        fingerprint(read(X)),
    ]
    assert len(set(others)) == len(others)


def test_fingerprint_reads_few_rows_of_a_large_source():
    class Large:
        shape = (13_000_000, 512)
        dtype = np.dtype(np.float32)
        n_read = 0

        def read(self, start: int, stop: int) -> np.ndarray:
            self.n_read += stop - start
            return np.zeros((stop - start, 512), np.float32)

    large = Large()
    fingerprint(read(large))
    assert large.n_read == 64


# The demo


def test_demo_cells_are_those_of_the_shared_data(shared_data):
    dataset = read(demo_path(), columns={"label": "cell_type", "batch": "batch"})
    whole = read(shared_data / "celllines_5batch.h5ad", columns={"label": "cell_type", "batch": "batch"})
    assert list(dataset.embeddings) == ["X_pca"]
    np.testing.assert_array_equal(dataset.embeddings["X_pca"].read(0, 1021), whole.embeddings["X_pca"].read(0, 1021))
    for role in ("label", "batch"):
        assert codes_of(dataset.obs[role]) == codes_of(whole.obs[role])
        assert encode_labels(dataset.obs[role], role).n_classes == 5


def test_demo_names_its_licence_and_source():
    text = demo_path().with_suffix(".txt").read_text()
    for said in (
        "MIT License",
        "Copyright (c) 2018 Luyi Tian",
        "LuyiTian/sc_mixology",
        "doi:10.1038/s41592-019-0425-8",
    ):
        assert said in text
    assert demo_path().stat().st_size < 300_000


def test_knockouts_are_a_part_of_the_shared_data(shared_data):
    part = ad.read_h5ad(knockouts_path())
    whole = ad.read_h5ad(shared_data / "papalexi_knockout.h5ad")[part.obs_names, part.var_names]
    assert part.X.dtype.kind == "u"
    np.testing.assert_array_equal(part.X.toarray(), whole.X.toarray())
    assert part.obs["perturbation"].to_list() == whole.obs["perturbation"].to_list()
    replicate = "rep_" + part.obs["replicate"].astype(str)
    assert list(replicate) == list(whole.obs["bio_rep"])


def test_knockouts_name_their_licence_and_source():
    text = knockouts_path().with_suffix(".txt").read_text()
    for said in ("MIT License", "Katsevich-Lab/sceptredata", "doi:10.1038/s41588-021-00778-2", "GSE153056"):
        assert said in text
    assert knockouts_path().stat().st_size < 400_000

"""h5ad and zarr stores read as AnnData wrote them, without anndata, and without reading more than requested."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from stores import (
    N_CELLS,
    WRITERS,
    dense,
    make_anndata,
    write_anndata_0_7,
    write_h5ad,
    write_records,
    write_zarr_0_7,
    zarr_writer,
)

from gpubench.core.errors import InputError
from gpubench.core.types import RowSource
from gpubench.data import CategoricalColumn, as_numeric, encode_labels, read


@pytest.fixture(scope="module")
def adata() -> ad.AnnData:
    return make_anndata()


@pytest.fixture(scope="module", params=WRITERS)
def stored(request, adata, tmp_path_factory) -> Path:
    return WRITERS[request.param](adata, tmp_path_factory.mktemp("stored"))


EMBEDDINGS = ["X_pca", "X_fortran", "X_half", "counts", "csr", "csc", "frame"]


@pytest.mark.slow
@pytest.mark.parametrize("step", [4, 100])
@pytest.mark.parametrize("name", [*EMBEDDINGS, "obsm/X_pca", "X", "layers/scaled"])
def test_embeddings_match_anndata(stored, adata, name, step):
    dataset = read(stored, embeddings=name)
    rows = dataset.embeddings[name]
    expected = adata.X if name == "X" else adata.layers["scaled"] if "/s" in name else adata.obsm[name.split("/")[-1]]
    assert isinstance(rows, RowSource)
    assert (dataset.n_cells, rows.shape[0]) == (N_CELLS, N_CELLS)
    blocks = [rows.read(i, min(i + step, N_CELLS)) for i in range(0, N_CELLS, step)]
    np.testing.assert_array_equal(np.concatenate(blocks), dense(expected))
    assert blocks[0].dtype == rows.dtype == dense(expected).dtype


COLUMNS = ["cell_type", "stage", "month", "barcode", "depth", "plate", "is_control", "age", "smoker"]


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_match_anndata(stored, adata, name):
    values = read(stored, embeddings=(), columns={"label": name}).obs["label"]
    labels = encode_labels(values, "label", N_CELLS)
    assert [labels.names[code] for code in labels.codes] == list(adata.obs[name].astype(str).str.removesuffix(".0"))
    if adata.obs[name].dtype.kind in "iuf":
        np.testing.assert_array_equal(as_numeric(values, "time"), adata.obs[name])


@pytest.mark.parametrize(("name", "n_missing"), [("gappy", 10), ("age_gappy", 20)])
def test_missing_values_in_columns_are_found(stored, name, n_missing):
    values = read(stored, embeddings=(), columns={"label": name}).obs["label"]
    with pytest.raises(InputError, match=rf"^label: {n_missing} of 30 rows have no value \(first: "):
        encode_labels(values, "label")


def test_unused_categories_do_not_count(stored):
    values = read(stored, embeddings=(), columns={"label": "cell_type"}).obs["label"]
    assert isinstance(values, CategoricalColumn)
    assert len(values.categories) == 4
    assert encode_labels(values, "label").names == ("B cell", "NK", "T cell")


def test_several_embeddings_and_columns_are_read(stored):
    dataset = read(stored, embeddings=EMBEDDINGS, columns={"label": "cell_type", "batch": None, "time": "depth"})
    assert list(dataset.embeddings) == EMBEDDINGS
    assert list(dataset.obs) == ["label", "time"]
    assert dataset.source == str(stored)


def test_cell_ids_are_read_on_demand(stored, adata):
    assert read(stored, embeddings="X_pca").cell_ids is None
    np.testing.assert_array_equal(read(stored, embeddings="X_pca", cell_ids=True).cell_ids, adata.obs_names)


def test_unknown_names_get_close_matches(stored):
    with pytest.raises(InputError, match=r"^embedding 'X_pcs' is not in .* \(did you mean 'X_pca'\?\)$"):
        read(stored, embeddings="X_pcs")
    with pytest.raises(InputError, match=r"^embedding 'layers/scald' is not in .* \(did you mean 'layers/scaled'\?\)$"):
        read(stored, embeddings="layers/scald")
    with pytest.raises(
        InputError, match=r"^embedding 'zzz' is not in .* \(there are: .*'X_pca', .*'X', 'layers/scaled'"
    ):
        read(stored, embeddings="zzz")
    with pytest.raises(
        InputError, match=r"^label='celltype' is not a column of obs of .* \(did you mean 'cell_type'\?\)$"
    ):
        read(stored, embeddings="X_pca", columns={"label": "celltype"})


def test_several_embeddings_must_be_named(stored):
    with pytest.raises(InputError, match=r" has several embeddings; name one or more with `embeddings`: .*'X_pca'"):
        read(stored)


@pytest.mark.parametrize("write", [WRITERS["h5ad"], WRITERS["zarr 3"]])
def test_the_only_embedding_need_not_be_named(tmp_path, write):
    adata = ad.AnnData(obs=pd.DataFrame(index=["a", "b"]), obsm={"X_scvi": np.eye(2)})
    path = write(adata, tmp_path)
    assert list(read(path).embeddings) == ["X_scvi"]
    with pytest.raises(InputError, match=r"^embedding 'X' is not in .* \(there are: 'X_scvi'\)$"):
        read(path, embeddings="X")
    with pytest.raises(InputError, match=r" is not a column of obs of .* \(there are none\)$"):
        read(path, columns={"label": "cell_type"})
    del adata.obsm["X_scvi"]
    with pytest.raises(InputError, match=r" has no embedding in obsm; add one, or name 'X' or a layer"):
        read(write(adata, tmp_path))


def test_only_requested_arrays_are_read(tmp_path, adata, monkeypatch):
    path = write_h5ad(adata, tmp_path)
    touched = set()
    read_h5py = h5py.Dataset.__getitem__

    def recorded(dataset, *args, **kwargs):
        touched.add(dataset.name)
        return read_h5py(dataset, *args, **kwargs)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", recorded)
    dataset = read(path, embeddings="X_pca", columns={"label": "cell_type"})
    assert touched <= {"/obs/cell_type/codes", "/obs/cell_type/categories"}
    dataset.embeddings["X_pca"].read(0, 10)
    assert touched <= {"/obs/cell_type/codes", "/obs/cell_type/categories", "/obsm/X_pca"}


def test_csr_reads_only_the_entries_of_its_rows(tmp_path, adata, monkeypatch):
    rows = read(write_h5ad(adata, tmp_path), embeddings="X").embeddings["X"]
    n_read = []
    read_h5py = h5py.Dataset.__getitem__

    def recorded(dataset, *args, **kwargs):
        values = read_h5py(dataset, *args, **kwargs)
        if dataset.name == "/X/data":
            n_read.append(len(values))
        return values

    monkeypatch.setattr(h5py.Dataset, "__getitem__", recorded)
    rows.read(3, 6)
    assert n_read == [adata.X[3:6].nnz]


def test_file_stays_open_as_long_as_its_rows_live(tmp_path, adata):
    rows = read(write_h5ad(adata, tmp_path), embeddings="X_pca").embeddings["X_pca"]
    np.testing.assert_array_equal(rows.read(0, N_CELLS), adata.obsm["X_pca"])


def test_files_are_read_without_anndata_or_pandas(tmp_path, adata):
    path = write_h5ad(adata, tmp_path)
    program = f"""
import sys
from gpubench.data import encode_labels, read
dataset = read({str(path)!r}, embeddings="X_pca", columns={{"label": "cell_type"}})
dataset.embeddings["X_pca"].read(0, 30), encode_labels(dataset.obs["label"], "label")
print([name for name in ("anndata", "pandas", "scipy", "pyarrow", "zarr", "numba") if name in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_layout_of_anndata_0_7_is_read(tmp_path):
    path = write_anndata_0_7(tmp_path / "old.h5ad")
    dataset = read(path, columns={"label": "cell_type", "batch": "plate"}, cell_ids=True)
    assert dataset.embeddings["X_pca"].read(1, 2).tolist() == [[2, 3]]
    assert dataset.obs["label"].codes.tolist() == [1, 0, -1, 1]
    assert list(dataset.obs["label"].categories) == ["T cell", "B cell", "unused"]
    assert dataset.obs["batch"].tolist() == [2, 1, 2, 1]
    assert dataset.cell_ids is not None
    with pytest.raises(InputError, match=r"\(there are: 'cell_type', 'plate'\)$"):
        read(path, columns={"label": "zzz"})


def test_zarr_layout_of_anndata_0_7_is_read(tmp_path):
    dataset = read(write_zarr_0_7(tmp_path / "old.zarr"), columns={"label": "cell_type"})
    assert encode_labels(dataset.obs["label"], "label").names == ("B cell", "T cell")


def test_layout_before_anndata_0_7_is_read(tmp_path):
    path = write_records(tmp_path / "oldest.h5ad")
    dataset = read(
        path, embeddings=["X_pca", "X_diffmap", "X"], columns={"label": "cell_type", "batch": "donor", "time": "depth"}
    )
    assert dataset.embeddings["X_pca"].read(1, 3).tolist() == [[2, 3], [4, 5]]
    assert dataset.embeddings["X_diffmap"].shape == (3, 3)
    assert dataset.embeddings["X"].shape == (3, 3)
    labels = encode_labels(dataset.obs["label"], "label")
    assert [labels.names[code] for code in labels.codes] == ["B cell", "T cell", "B cell"]
    assert encode_labels(dataset.obs["batch"], "batch").names == ("x", "y")
    assert as_numeric(dataset.obs["time"], "time").tolist() == [0.5, 1.5, 2.5]


# Errors


@pytest.mark.parametrize("name", ["none.h5ad", "none.zarr", "none.npy", "none.npz", "none.parquet", "none.csv"])
def test_missing_files_are_refused(tmp_path, name):
    (tmp_path / f"nome{Path(name).suffix}").touch()
    with pytest.raises(
        InputError, match=rf"^data: .*{name} does not exist \(did you mean 'nome\..*'\?\); check the path$"
    ):
        read(tmp_path / name)
    with pytest.raises(InputError, match=rf"^data: .*{name} does not exist; check the path$"):
        read(tmp_path / "no folder" / name)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.999])
def test_truncated_h5ad_is_refused(tmp_path, adata, share):
    path = write_h5ad(adata, tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match=r"cells\.h5ad is truncated; copy or download it again$"):
        read(path, embeddings="X_pca")


def test_file_that_is_not_hdf5_is_refused(tmp_path):
    path = tmp_path / "page.h5ad"
    path.write_text("<html>404</html>")
    with pytest.raises(
        InputError, match=r"page\.h5ad is not an HDF5 file, so it cannot be an h5ad file; check the path"
    ):
        read(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"page\.h5ad is empty; check the path, or copy it again"):
        read(path)


def test_damaged_bytes_name_the_file(tmp_path, adata):
    path = WRITERS["compressed h5ad"](adata, tmp_path)
    with h5py.File(path) as file:
        offset = file["obsm/X_pca"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[offset : offset + 16] = bytes(16)
    path.write_bytes(content)
    rows = read(path, embeddings="X_pca").embeddings["X_pca"]
    with pytest.raises(
        InputError, match=r"^obsm/X_pca of .*: rows 0 to 30 cannot be read \(.*\); if it is damaged, copy"
    ):
        rows.read(0, 30)


def test_damaged_zarr_chunk_names_the_file(tmp_path, adata):
    path = zarr_writer(2)(adata, tmp_path)
    (path / "obsm" / "X_pca" / "0.0").write_bytes(b"nonsense")
    rows = read(path, embeddings="X_pca").embeddings["X_pca"]
    with pytest.raises(InputError, match=r"^obsm/X_pca of .*: rows 0 to 7 cannot be read \("):
        rows.read(0, 5)


def test_truncated_zip_is_refused(tmp_path, adata):
    path = WRITERS["zipped zarr"](adata, tmp_path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(
        InputError, match=r"\.zarr\.zip cannot be read \(.*\); if it is damaged, copy or download it again$"
    ):
        read(path)


def test_damaged_sparse_indices_are_refused(tmp_path, adata):
    path = write_h5ad(adata, tmp_path)
    with h5py.File(path, "r+") as file:
        file["X/indices"][0] = 10_000_000
        file["obsm/csc/indices"][0] = -5
        file["obsm/csr/indptr"][1] = 10_000_000
    rows = read(path, embeddings=["X", "csc", "csr"]).embeddings
    for name, message in {
        "X": r"^X of .* has indices beyond its shape \(30, 7\); the file is damaged$",
        "csc": r"^obsm/csc of .* has indices beyond its shape \(30, 6\); the file is damaged$",
        "csr": r"^obsm/csr of .* has row pointers that do not fit its shape; the file is damaged$",
    }.items():
        with pytest.raises(InputError, match=message):
            rows[name].read(0, 30)


def test_damage_anywhere_names_the_file(tmp_path, adata):
    """With any byte lost, reading returns the values of the intact file, or one error that names it."""
    path = WRITERS["zarr 2"](adata, tmp_path)
    (path / ".zmetadata").unlink()
    for lost in (".zgroup", "obs/.zattrs", "obs/cell_type/.zattrs", "obsm/X_pca/.zarray", "obsm/csr/.zattrs"):
        content = (path / lost).read_bytes()
        (path / lost).write_bytes(content[: len(content) // 2])
        with pytest.raises(
            InputError, match=r"cells2\.zarr.* cannot be read \(.*; if it is damaged, copy or download it"
        ):
            read(path, embeddings=["X_pca", "csr"], columns={"label": "cell_type"})
        (path / lost).write_bytes(content)
    read(path, embeddings=["X_pca", "csr"], columns={"label": "cell_type"})


@pytest.mark.slow
@pytest.mark.parametrize("format_", [2, 3])
@pytest.mark.parametrize("value", [None, "x", -1, 1.5, [None], {}, [10**15]])
def test_invalid_metadata_names_the_file(tmp_path, adata, format_, value):
    """Values of a wrong type or size, for which zarr raises TypeError, ZeroDivisionError and others."""
    path = zarr_writer(format_)(adata, tmp_path)
    name = ".zarray" if format_ == 2 else "zarr.json"
    (path / ".zmetadata").unlink(missing_ok=True)
    whole = json.loads((path / "zarr.json").read_text()) if format_ == 3 else {}
    if whole.pop("consolidated_metadata", None):
        (path / "zarr.json").write_text(json.dumps(whole))
    for array in ("obs/cell_type/codes", "obsm/X_pca"):
        file = path / array / name
        before = file.read_text()
        for key in ("shape", "fill_value", "chunks" if format_ == 2 else "chunk_grid"):
            file.write_text(json.dumps(json.loads(before) | {key: value}))
            with suppress(InputError):  # and nothing else
                dataset = read(path, embeddings="X_pca", columns={"label": "cell_type"})
                dataset.embeddings["X_pca"].read(0, N_CELLS)
                encode_labels(dataset.obs["label"], "label", N_CELLS)
        file.write_text(before)


def test_file_without_permission_is_refused(tmp_path, adata, monkeypatch):
    """The error is simulated, since permissions do not bind root, as whom the tests may run."""
    path = write_h5ad(adata, tmp_path)

    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"cells\.h5ad cannot be read: permission denied; ask its owner for access"):
        read(path)


def test_folders_and_unknown_formats_are_refused(tmp_path):
    folder = tmp_path / "folder.h5ad"
    folder.mkdir()
    with pytest.raises(InputError, match=r"folder\.h5ad is a folder, and not a zarr group of AnnData"):
        read(folder)
    (tmp_path / "cells.rds").touch()
    with pytest.raises(InputError, match=r"^data: .*cells\.rds is an R file; convert it in R: "):
        read(tmp_path / "cells.rds")


def test_stores_without_anndata_are_refused(tmp_path):
    with h5py.File(tmp_path / "10x.h5", "w") as file:
        file["matrix/data"] = [1]
    with pytest.raises(InputError, match=r"10x\.h5 is not AnnData: it has no obs; give a file that AnnData, MuData"):
        read(tmp_path / "10x.h5")
    zarr.open_group(tmp_path / "other.zarr", mode="w").create_group("images")
    with pytest.raises(InputError, match=r"other\.zarr is not AnnData: it has no obs"):
        read(tmp_path / "other.zarr")
    zarr.create_array(tmp_path / "array.zarr", data=np.eye(2))
    with pytest.raises(InputError, match=r"array\.zarr is a folder, and not a zarr group of AnnData"):
        read(tmp_path / "array.zarr")


@pytest.mark.parametrize("write", [WRITERS["h5ad"], WRITERS["zarr 2"]])
def test_stores_without_cells_are_refused(tmp_path, write, adata):
    path = write(adata[:0].copy(), tmp_path)
    with pytest.raises(InputError, match=r"^X_pca has no rows \(no cells\)|has no cells"):
        read(path, embeddings="X_pca")
    with pytest.raises(InputError, match=r" has no cells; check how it was made$"):
        read(path, embeddings=())


def test_nodes_that_are_no_matrix_or_column_are_refused(tmp_path, adata):
    path = write_h5ad(adata, tmp_path)
    with h5py.File(path, "r+") as file:
        file["obsm/frame/name"] = np.array([b"x"] * N_CELLS)
        file["obsm/frame"].attrs["column-order"] = ["second", "name"]
        file["obsm/csr"].attrs["encoding-type"] = "awkward-array"
        file["obs/age"].attrs["encoding-type"] = "dict"
        file["obsm/vector"] = np.arange(N_CELLS)
        file["obsm/complex"] = np.ones((N_CELLS, 2), complex)
    for name, message in {
        "frame": r"^obsm/frame of .* has columns that are not plain numbers: 'name'; store it as an array$",
        "csr": r"^obsm/csr of .* is stored as 'awkward-array', which is not a matrix; choose another one$",
        "vector": r"^vector must be a matrix .* has shape \(30,\)",
        "complex": r"^complex has dtype complex128",
    }.items():
        with pytest.raises(InputError, match=message):
            read(path, embeddings=name)
    with pytest.raises(InputError, match=r"/obs/age is stored as 'dict', which is not a column; choose another one$"):
        read(path, embeddings="X_pca", columns={"label": "age"})


def test_different_lengths_in_a_file_are_refused(tmp_path, adata):
    path = write_h5ad(adata, tmp_path)
    with h5py.File(path, "r+") as file:
        del file["obsm/X_half"]
        file["obsm/X_half"] = np.zeros((N_CELLS - 1, 2))
    for embeddings in (["X_pca", "X_half"], "X_half"):
        with pytest.raises(InputError, match=r"^embedding 'X_half' has 29 rows, but .*cells.h5ad has 30 cells"):
            read(path, embeddings=embeddings, columns={"label": "cell_type"})


def test_real_cells_match_anndata(shared_data):
    dataset = read(shared_data / "pbmc3k.h5ad", embeddings=["X_pca", "X"], columns={"label": "cell_type"})
    expected = ad.read_h5ad(shared_data / "pbmc3k.h5ad")
    np.testing.assert_array_equal(dataset.embeddings["X_pca"].read(0, 2638), expected.obsm["X_pca"])
    np.testing.assert_array_equal(dataset.embeddings["X"].read(100, 200), expected.X[100:200].toarray())
    assert encode_labels(dataset.obs["label"], "label").n_classes == 9

"""Files and objects as people have them: text of any dialect, Arrow, R, other containers, odd names and attributes."""

from __future__ import annotations

import gzip
import io
import os
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
import scipy.sparse as sp

from gpubench.core.errors import InputError
from gpubench.data import as_numeric, as_rows, encode_labels, read, read_rows

N, D = 12, 3
X = np.round(np.random.default_rng(0).normal(size=(N, D)), 3)
NAMES = [f"cell{i}" for i in range(N)]
LABELS = ["T cell", "B cell", "NK cell"] * (N // 3)
FRAME = pd.DataFrame(X, index=NAMES, columns=["PC_1", "PC_2", "PC_3"])


def matrix(source: object, **options: object) -> np.ndarray:
    (rows,) = read(source, **options).embeddings.values()
    return np.asarray(read_rows(rows, 0, N), np.float64)


def labels(source: object, column: str = "cell_type", obs: object = None) -> list[str]:
    encoded = encode_labels(read(source, embeddings=(), columns={"label": column}, obs=obs).obs["label"], "label")
    return [encoded.names[code] for code in encoded.codes]


TEXT = {
    "pipes": ("e.csv", {"sep": "|"}),
    "semicolons": ("e.csv", {"sep": ";"}),
    "decimal commas in tsv": ("e.tsv", {"sep": "\t", "decimal": ","}),
    "decimal commas without index": ("e.txt", {"sep": ";", "decimal": ",", "index": False}),
    "blanks": ("e.txt", {"sep": " "}),
    "commas in txt": ("e.txt", {}),
    "zstandard": ("e.csv.zst", {}),
    "bzip2": ("e.tsv.bz2", {"sep": "\t"}),
    "an index called index": ("e.csv", {"index_label": "index"}),
}


@pytest.mark.parametrize(("name", "options"), TEXT.values(), ids=TEXT)
def test_text_of_any_dialect_is_read(tmp_path: Path, name: str, options: dict[str, object]) -> None:
    path = tmp_path / name
    text = FRAME.to_csv(**options).encode()
    if name.endswith((".zst", ".bz2")):
        with pa.output_stream(path) as stream:  # compresses by the suffix
            stream.write(text)
    else:
        path.write_bytes(text)
    np.testing.assert_allclose(matrix(path), X, rtol=0, atol=1e-12)


def test_several_index_columns_are_no_dimensions(tmp_path: Path) -> None:
    frame = FRAME.reset_index(drop=True)
    frame.insert(0, "index", range(N))
    frame.insert(0, "Unnamed: 0", range(N))
    frame.to_csv(tmp_path / "e.csv")
    np.testing.assert_array_equal(matrix(tmp_path / "e.csv"), X)
    table = pa.table({"__index_level_0__": np.arange(N), "a": X[:, 0]})
    pq.write_table(table, tmp_path / "e.parquet")
    np.testing.assert_array_equal(matrix(tmp_path / "e.parquet"), X[:, :1])


def test_text_table_of_r_names_its_rows_in_a_column_without_header(tmp_path: Path) -> None:
    path = tmp_path / "obs.txt"
    path.write_text('"cell_type" "note"\n' + "".join(f'"{i + 1}" "{label}" "x"\n' for i, label in enumerate(LABELS)))
    assert labels(X, obs=path) == LABELS


BAD_TEXT = {
    "surplus fields": (b"a,b\n1,2\n3,4,5\n", "3 fields in line 3 but 2 in the header"),
    "decimal commas between commas": (b"a,b\n0,5,1,5\n2,5,1,5\n", "use decimal points, another separator"),
    "one column of decimal commas": (b"a\n0,5\n1,5\n", "use decimal points"),
    "numbers as the header": (b"0.5,0.25\n1.5,2.5\n", "has no header: its first line is numbers"),
    "UTF-16": ("a,b\n1,2\n".encode("utf-16"), "UTF-16, or no text; save it as UTF-8"),
    "UTF-16 without mark": ("a,b\n1,2\n".encode("utf-16-le"), "UTF-16, or no text; save it as UTF-8"),
    "Latin-1": ("a,é\n1,2\n3,4\n".encode("latin-1"), "is not UTF-8 text, perhaps Latin-1"),
}


@pytest.mark.parametrize(("content", "message"), BAD_TEXT.values(), ids=BAD_TEXT)
def test_text_that_cannot_be_read_right_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "e.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(tmp_path / "e.csv")


def test_text_after_the_first_lines_is_checked_too(tmp_path: Path) -> None:
    rows = [f"c{i},0.5,{i}.5" for i in range(200)]
    for line, message in (("c200,1,2,3", "Expected 3 fields in line 202, saw 4"), ("c200,é,1", "not UTF-8")):
        (tmp_path / "e.csv").write_bytes("\n".join(["id,a,b", *rows, line]).encode("latin-1"))
        with pytest.raises(InputError, match=message):
            read(tmp_path / "e.csv")


@pytest.mark.parametrize("kind", [pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(), pa.int16()], ids=str)
def test_dictionaries_with_any_indices_are_labels(kind: pa.DataType) -> None:
    column = pa.DictionaryArray.from_arrays(pa.array([1, None, 0], kind), pa.array(["T", "B"]))
    with pytest.raises(InputError, match=r"label: 1 of 3 rows have no value \(first: 1\)"):
        encode_labels(column, "label")
    chunks = pa.chunked_array([column.drop_null(), column.drop_null()])
    assert encode_labels(chunks, "label").names == ("B", "T")


def test_nested_columns_are_refused_and_runs_are_labels() -> None:
    for column in (pa.array([[1], [2]]), pa.array([{"a": 1}] * 2), pa.array([["x"], ["y"]]).dictionary_encode):
        with pytest.raises(InputError, match=r"label (holds|is)"):
            encode_labels(column, "label")
    runs = pa.RunEndEncodedArray.from_arrays([2, 3], ["T", "B"])
    assert encode_labels(runs, "label").codes.tolist() == [1, 1, 0]


def test_lists_of_one_length_are_a_matrix(tmp_path: Path) -> None:
    lists = pa.array(X.tolist())
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel(), pa.float32()), D)
    for column in (lists, fixed):
        pq.write_table(pa.table({"text": LABELS, "embedding": column}), tmp_path / "e.parquet", row_group_size=5)
        np.testing.assert_allclose(matrix(tmp_path / "e.parquet"), X, atol=1e-6)
        np.testing.assert_allclose(as_rows(pa.chunked_array([column]), "x"), X, atol=1e-6)
    pq.write_table(pa.table({"embedding": lists, "age": np.arange(N)}), tmp_path / "e.parquet")
    with pytest.raises(InputError, match=r"columns of lists and more numbers .*'age'"):
        read(tmp_path / "e.parquet")
    with pytest.raises(InputError, match="lists of 1 to 2 numbers"):
        as_rows(pa.array([[1.0], [1.0, 2.0]]), "x")


@pytest.mark.parametrize("suffix", [".arrow", ".feather"])
def test_arrow_files_are_matrices_and_tables(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"e{suffix}"
    for write in (pa.ipc.new_file, pa.ipc.new_stream):
        for table in (pa.table({"a": X[:, 0], "b": X[:, 1]}), pa.table({"cell_type": LABELS})):
            with write(path, table.schema) as writer:
                writer.write_table(table)
            if "a" in table.column_names:
                np.testing.assert_array_equal(matrix(path), X[:, :2])
            else:
                assert labels(X, obs=path) == LABELS


@pytest.mark.parametrize("na", [-(2**31), -(2**63)])
@pytest.mark.parametrize("dtype", ["i4", "i8", "f8"])
def test_missing_values_of_r_are_found(na: int, dtype: str) -> None:
    if dtype == "i4" and na < -(2**31):
        pytest.skip("does not fit")
    values = np.array([1, na, 2, na], dtype)
    for encode in (encode_labels, as_numeric):
        with pytest.raises(
            InputError, match=r"plate: 2 of 4 rows hold -\d+, the missing value \(NA\) of R \(first: 1, 3"
        ):
            encode(values, "plate")
        with pytest.raises(InputError, match="plate: 2 of 4 rows have no value"):
            encode(pd.Series(values).astype("category"), "plate")


def write_seurat(path: Path) -> None:
    """What SeuratDisk writes: levels in __categories, without a reference; logical columns as an enumeration."""
    with h5py.File(path, "w") as file:
        obs = file.create_group("obs")
        obs["_index"] = np.array(NAMES, object)
        obs.attrs["_index"] = "_index"
        levels = ["B cell", "NK cell", "T cell"]
        obs["cell_type"] = np.array([levels.index(label) for label in LABELS], "i4")
        obs["__categories/cell_type"] = np.array(levels, object)
        logical = h5py.enum_dtype({"FALSE": 0, "TRUE": 1, "NA": 2}, basetype="u1")
        obs.create_dataset("doublet", data=np.arange(N) % 2, dtype=logical)
        obs.create_dataset("gappy", data=np.arange(N) % 3, dtype=logical)
        file["obsm/X_pca"] = X


def test_factors_and_logicals_of_seurat_have_their_names(tmp_path: Path) -> None:
    write_seurat(tmp_path / "s.h5ad")
    assert labels(tmp_path / "s.h5ad") == LABELS
    assert labels(tmp_path / "s.h5ad", "doublet") == ["FALSE", "TRUE"] * (N // 2)
    with pytest.raises(InputError, match=r"label: 4 of 12 rows have no value \(first: 2, 5, 8\)"):
        labels(tmp_path / "s.h5ad", "gappy")


def test_names_with_slashes_are_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5ad", "w") as file:
        file["obs/_index"] = np.array(NAMES, object)
        file["obs/type/fine/2"] = np.array(LABELS, object)
        file["obs"].attrs["column-order"] = ["type/fine/2"]
        file["obsm/model/v2"] = X
    assert labels(tmp_path / "a.h5ad", "type/fine/2") == LABELS
    np.testing.assert_array_equal(matrix(tmp_path / "a.h5ad", embeddings="model/v2"), X)
    with pytest.raises(InputError, match="is not in"):
        read(tmp_path / "a.h5ad", embeddings="/obs/_index")
    np.savez(tmp_path / "a.npz", **{"model/v2": X})
    np.testing.assert_array_equal(matrix(tmp_path / "a.npz", embeddings="model/v2"), X)


def test_tables_in_obsm_need_no_index_and_may_be_nullable(tmp_path: Path) -> None:
    table = FRAME.assign(n=pd.array(range(N), "Int32"), flag=pd.array([True, False] * (N // 2), "boolean"))
    ad.AnnData(obs=pd.DataFrame(index=NAMES), obsm={"t": table}).write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        attrs = file["obsm/t"].attrs
        attrs["column-order"] = np.array([str(name) for name in attrs["column-order"]], "S8")
        for name in ("encoding-type", "encoding-version"):
            attrs[name] = np.bytes_(attrs[name])
        del file[f"obsm/t/{attrs['_index']}"], attrs["_index"]
    expected = table.astype(np.float64)
    np.testing.assert_array_equal(matrix(tmp_path / "a.h5ad"), expected)
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        file["obsm/t/n/mask"][3] = True
    expected.iloc[3, D] = np.nan
    np.testing.assert_array_equal(matrix(tmp_path / "a.h5ad"), expected)


def test_groups_without_encoding_are_columns(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5ad", "w") as file:
        file["obs/_index"] = np.array(NAMES, object)
        file["obs/nullable/values"], file["obs/nullable/mask"] = np.arange(N) % 2, np.zeros(N, bool)
        file["obs/cat/codes"], file["obs/cat/categories"] = np.arange(N) % 2, [b"a", b"b"]
        file["obs/group/other"] = 1
    assert labels(tmp_path / "a.h5ad", "nullable") == ["0", "1"] * (N // 2)
    assert labels(tmp_path / "a.h5ad", "cat") == ["a", "b"] * (N // 2)
    with pytest.raises(InputError, match="which is not a column"):
        labels(tmp_path / "a.h5ad", "group")


@pytest.mark.parametrize("kind", ["csr", "csc", "dense"])
def test_half_floats_are_read(tmp_path: Path, kind: str) -> None:
    adata = ad.AnnData(obs=pd.DataFrame(index=NAMES))
    adata.obsm["x"] = X if kind == "dense" else sp.csr_matrix(X).asformat(kind)
    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        path = "obsm/x" if kind == "dense" else "obsm/x/data"
        half = file[path][:].astype(np.float16)
        attrs = dict(file[path].attrs)
        del file[path]
        file[path] = half
        file[path].attrs.update(attrs)
    np.testing.assert_allclose(matrix(tmp_path / "a.h5ad"), X, atol=2e-3)


def test_dask_with_sparse_blocks_or_unknown_sizes_is_read() -> None:
    da = pytest.importorskip("dask.array")
    dense = da.from_array(X, chunks=(5, D))
    blocks = dense.map_blocks(sp.csr_array, dtype=X.dtype)
    unknown = dense[da.from_array(np.arange(N) != 4, chunks=5)]
    for array, expected in ((blocks, X), (unknown, np.delete(X, 4, 0))):
        rows = as_rows(array, "x")
        assert rows.shape == expected.shape
        np.testing.assert_array_equal(np.concatenate([rows.read(0, 7), rows.read(7, len(expected))]), expected)


@pytest.mark.parametrize("kind", ["bsr", "coo", "csc", "csr", "dia", "dok", "lil"])
def test_every_sparse_format_is_a_matrix(kind: str) -> None:
    for array in (sp.csr_array(X).asformat(kind), sp.csr_matrix(X).asformat(kind)):
        np.testing.assert_array_equal(matrix(array), X)


def test_tables_of_other_libraries_are_read() -> None:
    table = pa.table({"cell_type": LABELS})
    records = np.rec.fromarrays([LABELS, X[:, 0]], names=["cell_type", "age"])
    for obs in (table, records, ad.AnnData(obs=pd.DataFrame({"cell_type": LABELS}, index=NAMES))):
        assert labels(X, obs=obs) == LABELS
    np.testing.assert_array_equal(matrix(pa.table({"a": X[:, 0], "b": X[:, 1]})), X[:, :2])
    with pytest.raises(InputError, match="label is a MultiIndex of 2 levels; give one level"):
        encode_labels(pd.MultiIndex.from_arrays([LABELS, LABELS]), "label")


def test_whole_floats_are_the_integers_everywhere() -> None:
    for values in ([1.0, 2.0], pd.Categorical([1.0, 2.0]), np.array([1.0, 2.0], np.float16), pa.array([1.0, 2.0])):
        assert encode_labels(values, "label").names == ("1", "2")
    assert encode_labels([-0.0, 0, 1.5, 1e20], "label").names == ("0", "1.5", "1e+20")


@pytest.mark.parametrize("text", ["1_0", "_1", "2_000.5"])
def test_underscores_are_no_digits(text: str) -> None:
    with pytest.raises(InputError, match="time is not numeric: 1 of its 2"):
        as_numeric(["1", text], "time")
    with pytest.raises(InputError, match="write decimal points, not commas"):
        as_numeric(["1", "2,5"], "time")


COUNTS = np.random.default_rng(1).poisson(1.0, (N, 5))
GENES = [f"gene{i}" for i in range(5)]


def write_10x(path: Path, *, version: int) -> None:
    x = sp.csc_matrix(COUNTS.T)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix" if version == 3 else "GRCh38")
        group["barcodes"], group["shape"] = np.array(NAMES, "S"), x.shape
        group["data"], group["indices"], group["indptr"] = x.data, x.indices, x.indptr
        group["features/name" if version == 3 else "gene_names"] = np.array(GENES, "S")


def write_mtx(folder: Path, *, packed: bool) -> None:
    folder.mkdir()
    matrix = io.BytesIO()
    scipy.io.mmwrite(matrix, sp.coo_matrix(COUNTS.T))
    features = "".join(f"ENS{gene}\t{gene}\tGene Expression\n" for gene in GENES).encode()
    contents = {"matrix.mtx": matrix.getvalue(), "barcodes.tsv": "\n".join(NAMES).encode()}
    contents["features.tsv" if packed else "genes.tsv"] = features
    for name, content in contents.items():
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)


@pytest.mark.parametrize("kind", ["10x 3", "10x 2", "mtx", "packed mtx", "mtx file"])
def test_10x_outputs_are_expression(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("x.h5" if kind.startswith("10x") else "filtered")
    if kind.startswith("10x"):
        write_10x(path, version=int(kind[-1]))
    else:
        write_mtx(path, packed=kind.startswith("packed"))
        path = path / "matrix.mtx" if kind == "mtx file" else path
    np.testing.assert_array_equal(matrix(path, embeddings="X"), COUNTS)
    assert list(read(path, embeddings="X", cell_ids=True).cell_ids) == NAMES
    with pytest.raises(InputError, match=r"X_pca.* expression only .*scanpy.pp.pca"):
        read(path, embeddings="X_pca")


def test_mtx_of_another_folder_is_refused(tmp_path: Path) -> None:
    write_mtx(tmp_path / "x", packed=False)
    (tmp_path / "x/barcodes.tsv").write_text("a\nb\n")
    with pytest.raises(InputError, match="is 5 x 12, but its folder names 5 genes and 2 cells"):
        read(tmp_path / "x", embeddings="X")
    (tmp_path / "x/barcodes.tsv").unlink()
    with pytest.raises(InputError, match=r"no barcodes.tsv next to it"):
        read(tmp_path / "x", embeddings="X")


def test_loom_is_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.loom", "w") as file:
        file["matrix"], file["layers/spliced"] = COUNTS.T, 2 * COUNTS.T
        file["col_attrs/CellID"], file["col_attrs/cell_type"] = np.array(NAMES, "S"), np.array(LABELS, object)
        file["col_attrs/X_pca"], file["row_attrs/Gene"] = X, np.array(GENES, "S")
    np.testing.assert_array_equal(matrix(tmp_path / "a.loom"), X)
    np.testing.assert_array_equal(matrix(tmp_path / "a.loom", embeddings="X"), COUNTS)
    np.testing.assert_array_equal(matrix(tmp_path / "a.loom", embeddings="layers/spliced"), 2 * COUNTS)
    assert labels(tmp_path / "a.loom") == LABELS


def test_mudata_is_read_as_a_whole_or_by_modality(tmp_path: Path) -> None:
    path = tmp_path / "m.h5mu"
    with h5py.File(path, "w") as file:
        for place, embedding in (("/", "X_joint"), ("/mod/rna", "X_pca"), ("/mod/adt", "X_pca")):
            group = file.require_group(place)
            group["obs/_index"], group["obs/cell_type"] = np.array(NAMES, object), np.array(LABELS, object)
            group[f"obsm/{embedding}"] = X + len(place)
        file["obsm/rna"] = np.ones(N, bool)
    np.testing.assert_array_equal(matrix(path), X + 1)
    np.testing.assert_array_equal(matrix(f"{path}:rna"), X + 8)
    assert labels(f"{path}:adt") == LABELS
    for source, message in (
        (path, r"embedding 'X_pca' is not in obsm \(there are: 'X_joint'\); for one modality give .*'m.h5mu:rna'"),
        (f"{path}:atac", r"no modality 'atac' \(there are: 'adt', 'rna'\)|did you mean"),
    ):
        with pytest.raises(InputError, match=message):
            read(source, embeddings="X_pca")


UNREADABLE = {
    "x.rds": r'x <- readRDS\("x.rds"\); library\(zellkonverter\); writeH5AD\(as.SingleCellExperiment\(x\), "x.h5ad"\)',
    "x.RData": r'get\(load\("x.RData"\)\)',
    "x.h5seurat": r'Convert\("x.h5seurat", dest = "h5ad"\)',
    "x.pt": r'numpy.save\("x.npy", matrix\)',
    "x.npy.gz": "unpack it first: gunzip x.npy.gz",
    "x.h5ad.zst": "unpack it first: unzstd x.h5ad.zst",
    "x.xlsx": "is a spreadsheet; save it as CSV",
    "x.foo": r"has a format that is not read \(.foo\); give one of: .h5ad",
}


@pytest.mark.parametrize(("name", "message"), UNREADABLE.items())
def test_other_formats_are_refused_with_the_way_to_convert_them(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(InputError, match=message):
        read(tmp_path / name)
    with pytest.raises(InputError, match=message):
        read(X, embeddings=[str(tmp_path / name)])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no named pipes")
def test_pipes_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "e.npy")
    with pytest.raises(InputError, match="is a pipe or a device, not a file"):
        read(tmp_path / "e.npy")


def test_locked_files_and_missing_filters_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.h5ad"
    with h5py.File(path, "w") as file:
        file["obs/_index"] = np.array(NAMES, object)
        file.create_group("obsm")
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((N, D))
        plist.set_filter(32099, h5py.h5z.FLAG_OPTIONAL, ())  # an identifier that no plug-in has
        space = h5py.h5s.create_simple((N, D))
        node = h5py.h5d.create(file["obsm"].id, b"X_pca", h5py.h5t.NATIVE_DOUBLE, space, plist)
        node.write_direct_chunk((0, 0), X.tobytes())
    with pytest.raises(InputError, match=r"HDF5 filter that is not installed; .* pip install hdf5plugin"):
        matrix(path)

"""Inputs behind URLs: read like files, without showing the credentials in a URL."""

from __future__ import annotations

import json
import logging
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pytest
from stores import N_CELLS, make_anndata, write_h5ad, zarr_writer

import gpubench as gb
from gpubench.core.checkpoint import Checkpoint
from gpubench.core.errors import InputError
from gpubench.data import fingerprint, read, read_rows
from gpubench.data.locations import find_location
from gpubench.data.urls import Url, reading, shown
from gpubench.running.batch import is_complete, output_of, score_run
from gpubench.running.output import Output
from gpubench.running.run_file import read_run_file

PASSWORD, TOKEN = "passw0rd", "aBcD%2Fsignature"
STORES = ["cells.h5ad", "cells2.zarr", "cells3.zarr"]
MATRICES = ["emb.npy", "fortran.npy", "emb.parquet", "emb.csv.gz", "emb.npz"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same cells in every format."""
    path = tmp_path_factory.mktemp("cells")
    adata = make_anndata()
    for write in (write_h5ad, zarr_writer(2), zarr_writer(3)):
        write(adata, path)
    x = adata.obsm["X_pca"]
    np.save(path / "emb.npy", x)
    np.save(path / "fortran.npy", np.asfortranarray(x))
    np.savez(path / "emb.npz", emb=x)
    pd.DataFrame(x, index=adata.obs_names).to_parquet(path / "emb.parquet", row_group_size=7)
    pd.DataFrame(x.astype(np.float64)).to_csv(path / "emb.csv.gz", index=False)
    adata.obs.to_parquet(path / "obs.parquet")
    return path


@pytest.fixture(scope="module")
def memory(folder: Path) -> Iterator[str]:
    """The folder in fsspec's file system in memory."""
    files = fsspec.filesystem("memory")
    files.put(str(folder), "/urls", recursive=True)
    yield "memory://urls"
    files.rm("/urls", recursive=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", STORES)
def test_stores_behind_urls_read_like_files(folder: Path, memory: str, name: str) -> None:
    asked: dict[str, Any] = {
        "embeddings": ["X_pca", "csr", "X"],
        "columns": {"label": "cell_type", "batch": "barcode"},
        "cell_ids": True,
    }
    found, expected = read(f"{memory}/{name}", **asked), read(folder / name, **asked)
    assert found.source == f"{memory}/{name}"
    assert fingerprint(found) == fingerprint(expected)
    np.testing.assert_array_equal(found.cell_ids, expected.cell_ids)


@pytest.mark.parametrize("name", MATRICES)
def test_matrices_behind_urls_read_like_files(folder: Path, memory: str, name: str) -> None:
    x = np.load(folder / "emb.npy")
    found = read(f"{memory}/cells.h5ad", embeddings=[f"{memory}/{name}"], obs=f"{memory}/obs.parquet")
    (rows,) = found.embeddings.values()
    assert list(found.embeddings) == [name.partition(".")[0]]
    for start, stop in ((0, N_CELLS), (9, 25), (3, 4), (20, N_CELLS)):
        np.testing.assert_array_equal(read_rows(rows, start, stop).astype(np.float32), x[start:stop])


def test_file_url_is_read_as_a_path(folder: Path) -> None:
    rows = read(f"file://{folder}/emb.npy").embeddings["emb"]
    assert isinstance(rows, np.memmap)


def test_located_parquet_file_reads_as_pandas_reads_it(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"a": np.float32([0.1, 2, 3, 4]), "b": pd.array([1, None, 3, 2**40], "Int64"), "c": [True, False, True, True]},
        index=list("wxyz"),
    )
    frame.to_parquet(tmp_path / "emb.parquet", row_group_size=3)
    rows = read(tmp_path / "emb.parquet").embeddings["emb"]
    place = find_location(rows)
    assert place is not None
    expected = frame.to_numpy(np.float64, na_value=np.nan)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(place)).open().read(1, 4), expected[1:4])


def test_npy_reads_only_the_ranges_of_its_rows(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = read(f"{memory}/emb.npy").embeddings["emb"]
    read_bytes: list[int] = []
    monkeypatch.setattr(Url, "read", lambda _, start, stop: read_bytes.append(stop - start) or bytes(stop - start))
    assert rows.read(5, 9).shape == (4, 5)
    assert read_bytes == [4 * 5 * 4]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://urls/none.npy", r"^data: memory://urls/none\.npy does not exist; check the address$"),
        ("memory://urls/none.zarr", r"^memory://urls/none\.zarr is not a zarr group of AnnData"),
        ("memory://urls/obs.rds", r"^data: memory://urls/obs\.rds is an R file; convert it in R"),
        ("no-such://host/emb.npy", r"^data: no-such://host/emb\.npy cannot be opened \(Protocol not known"),
        (f"https://host/cells.zarr?sig={TOKEN}", r"^https://host/cells\.zarr: a store of many files cannot"),
        (
            f"http://u:{PASSWORD}@127.0.0.1:9/emb.npy?sig={TOKEN}",
            r"^data: http://127\.0\.0\.1:9/emb\.npy (cannot|needs)",
        ),
    ],
)
def test_unreadable_urls_are_refused_without_secrets(memory: str, url: str, message: str) -> None:
    assert memory
    with pytest.raises(InputError, match=message) as error:
        read(url)
    assert "\n" not in str(error.value)
    assert not _secrets_in(str(error.value))
    assert error.value.__suppress_context__ or not _secrets_in(str(error.value.__cause__))


@pytest.mark.parametrize(("protocol", "package"), [("s3", "s3fs"), ("gs", "gcsfs")])
def test_missing_package_of_a_protocol_is_named(protocol: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"^data: {protocol}://b/emb\.npy needs the package .*pip install {package}$"):
        read(f"{protocol}://b/emb.npy")


def test_missing_fsspec_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(
        InputError, match=r'^data: s3://b/emb\.npy needs fsspec; .*pip install "gpubench-sc\[remote\]"$'
    ):
        read("s3://b/emb.npy")


def _secrets_in(text: str) -> list[str]:
    return [secret for secret in (PASSWORD, TOKEN, "aBcD/signature", "u:") if secret in text]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://u:p@host:8080/dir/emb.npy?sig=x#part", "https://host:8080/dir/emb.npy"),
        ("https://u:p/w@host/emb.npy", "https://host/emb.npy"),
        ("https://host:8080/dir@1/emb.npy", "https://host:8080/dir@1/emb.npy"),
        ("simplecache::s3://key@bucket/a", "simplecache::s3://bucket/a"),
        ("emb?.npy", "emb?.npy"),
    ],
)
def test_shown_url_has_no_credentials(url: str, expected: str) -> None:
    assert shown(url) == expected


def test_secrets_in_foreign_texts_are_redacted() -> None:
    url = Url(f"https://u:{PASSWORD}@host/emb.npy?sig={TOKEN}")
    text = f"GET /emb.npy?sig={TOKEN} (user u, {PASSWORD}), aBcD/signature; url='https://u:{PASSWORD}@host/e?a=b'"
    assert not _secrets_in(url.redact(text))
    assert not _secrets_in(repr(url) + str(url) + repr(pickle.loads(pickle.dumps(url))))


@pytest.mark.parametrize(
    ("url", "texts"),
    [
        ("https://host/emb.npy?sv=1&sig=abcd+efgh%3D%3D", ["abcd+efgh==", "abcd efgh==", "abcd%2Befgh%3D%3D"]),
        ("s3://key:ab/cd+efgh@bucket/emb.npy", ["ab/cd+efgh", "ab%2Fcd%2Befgh"]),
        ("simplecache::https://u:ab%2Fcdef@host/emb.npy", ["ab/cdef", "ab%2Fcdef"]),
    ],
)
def test_secrets_are_redacted_in_every_encoding(url: str, texts: list[str]) -> None:
    with pytest.raises(InputError) as error, reading("rows 0 to 9", Url(url)):
        raise OSError("; ".join(texts))
    assert str(error.value).startswith(f"rows 0 to 9 cannot be read ({'; '.join(['***'] * len(texts))});")
    assert error.value.__suppress_context__
    assert [Url(url).redact(f"{secret} is wrong") for secret in texts] == ["*** is wrong"] * len(texts)


def test_file_that_changes_during_a_run_is_refused(folder: Path) -> None:
    files = fsspec.filesystem("memory")
    files.put(str(folder / "emb.npy"), "/changing.npy")
    url = Url("memory://changing.npy").require("data")
    files.put(str(folder / "fortran.npy"), "/changing.npy")
    with pytest.raises(InputError, match=r"^data: memory://changing\.npy has changed since the run began"):
        pickle.loads(pickle.dumps(url)).require("data")
    files.rm("/changing.npy")


def test_run_on_a_url_is_resumed_and_has_no_secrets(
    memory: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint depends on the content of the file, not on its address, and no result has the address."""
    given: dict[str, Any] = {"label": "cell_type", "tasks": "embedding", "engine": "cpu"}
    url = f"{memory}/cells.h5ad?token={TOKEN}"
    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem._strip_protocol", classmethod(_without_query))
    with caplog.at_level(logging.DEBUG, logger="gpubench"), Checkpoint(tmp_path) as checkpoint:
        first = gb.score(url, ["X_pca"], checkpoint=checkpoint, **given)
    with Checkpoint(tmp_path) as checkpoint:
        second = gb.score(url, ["X_pca"], checkpoint=checkpoint, **given)
        assert checkpoint.resumed
    assert [row.value for row in first.results] == [row.value for row in second.results]
    written = json.dumps([first.provenance, first.timeline, first.skipped]) + caplog.text
    assert not _secrets_in(written)
    assert first.provenance["dataset"]["source"] == f"{memory}/cells.h5ad"


def _without_query(_: Any, path: str) -> str:
    return "/" + path.removeprefix("memory://").partition("?")[0].strip("/")


def test_run_file_with_urls_detects_changed_files(memory: str, folder: Path, tmp_path: Path) -> None:
    """A finished run is reused as long as its files are the same."""
    (tmp_path / "run.yaml").write_text(
        f"runs:\n  a:\n    data: {memory}/cells.h5ad\n    embeddings: [memory://emb.npy]\n    label: cell_type\n"
        f"    tasks: [embedding]\n    engine: cpu\n"
    )
    files = fsspec.filesystem("memory")
    files.put(str(folder / "emb.npy"), "/emb.npy")
    (planned,) = read_run_file(tmp_path / "run.yaml")
    assert planned.options.embeddings == {"emb": "memory://emb.npy"}
    output = output_of(planned, Output(tmp_path / "out", ["json"]))
    assert score_run(planned, output, None)[0].results
    assert is_complete(planned, output)
    files.put(str(folder / "fortran.npy"), "/emb.npy")
    assert not is_complete(planned, output)
    files.rm("/emb.npy")


def test_server_without_ranges_is_reported_with_the_remedy() -> None:
    said = "The HTTP server doesn't appear to support range requests. Open with block_size=0 for a streaming interface."
    wanted = r"^https://a/x\.npy is on a server that .*; put simplecache:: before"
    with pytest.raises(InputError, match=wanted) as error, reading("https://a/x.npy"):
        raise ValueError(said)
    assert "damaged" not in str(error.value)

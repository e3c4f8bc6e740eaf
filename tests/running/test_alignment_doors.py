"""Every door through which inputs with names of cells meet gives the score of the aligned data, or refuses."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import gpubench as gb
from gpubench.core.errors import InputError
from gpubench.metrics import silhouette_label

N, D = 60, 4
RNG = np.random.default_rng(3)
LABELS = np.array(["B", "T", "NK"], object)[RNG.integers(0, 3, N)]
TIMES = RNG.integers(0, 9, N).astype(float)
X = (RNG.normal(size=(N, D)) + 2.0 * (LABELS == "T")[:, None] + np.arange(N)[:, None] * 0.01).astype(np.float32)
CELLS = [f"AAC{i:03d}-1" for i in RNG.permutation(N)]
NUMBERS = [int(i) for i in RNG.permutation(N) + 1000]

ORDERS: dict[str, np.ndarray[Any, np.dtype[np.intp]]] = {
    "same": np.arange(N),
    "shuffled": RNG.permutation(N),
    "subset": RNG.permutation(N)[:48],
    "superset": np.arange(N),  # 12 more are appended
    "duplicate": np.r_[np.arange(1, N), 5],
    "unnamed": RNG.permutation(N),
    "integer": RNG.permutation(N),
    "prefixed": np.arange(N),
}
"""Kind -> cells of the second input, in its order."""


class Second:
    """The second of two inputs, whose cells stand in the order of a kind."""

    def __init__(self, kind: str) -> None:
        rows = ORDERS[kind]
        more = 12 if kind == "superset" else 0
        self.names: list[Any] | None = [(NUMBERS if kind == "integer" else CELLS)[i] for i in rows]
        if kind == "prefixed":
            self.names = [f"s1_{name}" for name in self.names]
        self.names += [f"new{i}" for i in range(more)]
        self.x = np.concatenate([X[rows], np.zeros((more, D), np.float32)])
        self.labels = np.concatenate([LABELS[rows], np.repeat("B", more)]).astype(object)
        if kind == "superset":
            last = RNG.permutation(len(self.x))
            self.names, self.x, self.labels = [self.names[i] for i in last], self.x[last], self.labels[last]
        if kind == "unnamed":
            self.names = None
        self.first = pd.Index(NUMBERS if kind == "integer" else CELLS)

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.x, index=self.names, columns=[f"d{i}" for i in range(D)])

    def table(self) -> pd.DataFrame:
        return pd.DataFrame({"cell_type": self.labels, "depth": 1.0}, index=self.names)

    def anndata(self, folder: Path, name: str = "second.h5ad") -> str:
        obs = self.table() if self.names is None else self.table().set_axis(pd.Index(self.names).astype(str))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Observation names are not unique")
            cells = ad.AnnData(obs=obs.set_axis(obs.index.astype(str)), obsm={"emb": self.x})
        cells.write_h5ad(folder / name)
        return str(folder / name)

    def cells(self) -> ad.AnnData:
        """The first input."""
        obs = pd.DataFrame({"cell_type": LABELS, "time": TIMES}, index=self.first.astype(str))
        return ad.AnnData(obs=obs, obsm={"emb": X})

    def h5ad(self, folder: Path) -> str:
        self.cells().write_h5ad(folder / "cells.h5ad")
        return str(folder / "cells.h5ad")

    def first_frame(self) -> pd.DataFrame:
        return pd.DataFrame(X, index=self.first, columns=[f"d{i}" for i in range(D)])

    def first_file(self, folder: Path) -> str:
        self.first_frame().to_csv(folder / "emb.csv")
        return str(folder / "emb.csv")


def written(frame: pd.DataFrame, file: Path, *, column: str | None = None) -> str:
    """Write a frame with its index, or with the names in a column."""
    named = not isinstance(frame.index, pd.RangeIndex)
    if column and named:
        frame = frame.reset_index(names=column)
        frame = frame[[*frame.columns[1:], column]]
    if file.suffix == ".parquet":
        frame.to_parquet(file, index=named and not column)
    else:
        frame.to_csv(file, sep="\t" if file.suffix == ".tsv" else ",", index=named and not column)
    return str(file)


Door = Callable[[Second, Path], dict[str, Any]]

LABELLED = {"label": "cell_type"}
DOORS: dict[str, Door] = {
    "h5ad, obs CSV": lambda s, p: {"data": s.h5ad(p), "obs": written(s.table(), p / "o.csv"), **LABELLED},
    "h5ad, obs CSV with barcode": lambda s, p: {
        "data": s.h5ad(p), "obs": written(s.table(), p / "o.csv", column="barcode"), **LABELLED,
    },
    "AnnData, obs TSV": lambda s, p: {"data": s.cells(), "obs": written(s.table(), p / "o.tsv"), **LABELLED},
    "h5ad, obs Parquet": lambda s, p: {"data": s.h5ad(p), "obs": written(s.table(), p / "o.parquet"), **LABELLED},
    "h5ad, obs Parquet with cell_id": lambda s, p: {
        "data": s.h5ad(p), "obs": written(s.table(), p / "o.parquet", column="cell_id"), **LABELLED,
    },
    "h5ad, obs DataFrame": lambda s, p: {"data": s.h5ad(p), "obs": s.table(), **LABELLED},
    "AnnData, obs DataFrame": lambda s, _: {"data": s.cells(), "obs": s.table(), **LABELLED},
    "frame, obs DataFrame": lambda s, _: {"data": s.first_frame(), "obs": s.table(), **LABELLED},
    "CSV, obs CSV": lambda s, p: {"data": s.first_file(p), "obs": written(s.table(), p / "o.csv"), **LABELLED},
    "Parquet, obs Parquet": lambda s, p: {
        "data": written(s.first_frame(), p / "e.parquet"), "obs": written(s.table(), p / "o.parquet"), **LABELLED,
    },
    "mapping, obs DataFrame": lambda s, _: {"data": {"emb": s.first_frame()}, "obs": s.table(), **LABELLED},
    "mapping of frames": lambda s, _: {
        "data": {"first": s.first_frame() + 1, "emb": s.frame()}, "label": pd.Series(LABELS, index=s.first),
    },
    "AnnData, frame": lambda s, _: {"data": s.cells(), "embeddings": {"emb": s.frame()}, **LABELLED},
    "h5ad, CSV": lambda s, p: {
        "data": s.h5ad(p), "embeddings": {"emb": written(s.frame(), p / "e.csv")}, **LABELLED,
    },
    "h5ad, Parquet": lambda s, p: {
        "data": s.h5ad(p), "embeddings": {"emb": written(s.frame(), p / "e.parquet")}, **LABELLED,
    },
    "h5ad, CSV with barcode": lambda s, p: {
        "data": s.h5ad(p), "embeddings": {"emb": written(s.frame(), p / "e.csv", column="barcode")}, **LABELLED,
    },
    "AnnData, Series as label": lambda s, _: {"data": s.cells(), "label": s.table()["cell_type"]},
    "frame, Series as label": lambda s, _: {"data": s.first_frame(), "label": s.table()["cell_type"]},
    "h5ad, Categorical Series": lambda s, p: {
        "data": s.h5ad(p), "label": s.table()["cell_type"].astype("category"),
    },
}  # fmt: skip
NAMED_FILES: dict[str, Door] = {
    "h5ad, h5ad": lambda s, p: {"data": s.h5ad(p), "embeddings": {"emb": s.anndata(p)}, **LABELLED},
    "AnnData, obs h5ad": lambda s, p: {"data": s.cells(), "obs": s.anndata(p), **LABELLED},
    "CSV, obs h5ad": lambda s, p: {"data": s.first_file(p), "obs": s.anndata(p), **LABELLED},
}
"""Doors whose second input always has names."""

CASES = [(door, kind) for door in [*DOORS, *NAMED_FILES] for kind in ORDERS if door in DOORS or kind != "unnamed"]


def expected(second: Second, door: str, order: np.ndarray[Any, np.dtype[np.intp]]) -> float:
    """Score the aligned cells; where the second input is the embedding its values count, else its labels."""
    is_embedding = "embeddings" in door or door in (
        "mapping of frames", "AnnData, frame", "h5ad, CSV", "h5ad, Parquet", "h5ad, CSV with barcode", "h5ad, h5ad",
    )  # fmt: skip
    if second.names is None:  # in the order in which they stand
        x, labels = (second.x, LABELS) if is_embedding else (X, second.labels)
        return float(silhouette_label(x, labels, engine="cpu"))
    return float(silhouette_label(X[order], LABELS[order], engine="cpu"))


def scored(given: dict[str, Any], **more: Any) -> gb.Result:
    return gb.score(**{"embeddings": None, **given, **more}, tasks="embedding", engine="cpu")


def value(result: gb.Result) -> float:
    return [row.value for row in result.results][-1]


@pytest.mark.parametrize(("door", "kind"), CASES)
def test_door_scores_the_aligned_cells_or_refuses(door: str, kind: str, tmp_path: Path) -> None:
    second = Second(kind)
    given = {**DOORS, **NAMED_FILES}[door](second, tmp_path)
    if kind in ("subset", "superset", "duplicate", "prefixed"):
        fault = {
            "subset": r"lacks 12 of the 60 cells of",
            "superset": r"has 12 that .* lacks \('new",
            "duplicate": r"1 names of cells more than once",
            "prefixed": r"has 's1_' before the names",
        }[kind]
        with pytest.raises(InputError, match=fault) as error:
            scored(given)
        assert "\n" not in str(error.value)
        if kind in ("duplicate", "prefixed"):
            return
        taken = np.sort(ORDERS[kind])
        inner = scored(given, align="inner")
        assert value(inner) == pytest.approx(expected(second, door, taken), rel=1e-5)
        assert any("left out: 12 of" in note for note in inner.provenance["notes"])
        assert inner.provenance["options"]["align"] == "inner"
        return
    result = scored(given)
    assert value(result) == pytest.approx(expected(second, door, np.arange(N)), rel=1e-5)
    notes = " ".join(result.provenance.get("notes", ()))
    words = {"same": "^$", "unnamed": r"no names of cells: its rows are taken in the order of"}
    assert re.search(words.get(kind, "rows were moved to the order of"), notes), notes


@pytest.mark.parametrize("kind", ["frame", "csv", "parquet", "h5ad", "AnnData"])
def test_cells_before_integration_are_matched_by_name(kind: str, tmp_path: Path) -> None:
    second = Second("shuffled")
    before: Any = second.frame()
    if kind in ("csv", "parquet"):
        before = written(before, tmp_path / f"before.{kind}")
    elif kind in ("h5ad", "AnnData"):
        before = second.anndata(tmp_path)
        before = before if kind == "h5ad" else ad.read_h5ad(before)
    dataset = gb.data.read(second.cells(), embeddings="emb", matrices={"pre_integrated": before})
    np.testing.assert_allclose(gb.data.read_rows(dataset.matrices["pre_integrated"], 0, N), X, rtol=1e-6)
    assert len(dataset.notes) == 1


def test_times_as_series_are_matched_by_name() -> None:
    second = Second("same")
    times = pd.Series(TIMES, index=CELLS)
    given = {"tasks": "sequential_organization", "engine": "cpu"}
    moved, whole = (gb.score(second.cells(), time=one, **given) for one in (times.iloc[::-1], "time"))
    assert [row.value for row in moved.results] == [row.value for row in whole.results]


def test_table_in_obsm_with_another_index_is_matched_by_name(tmp_path: Path) -> None:
    import h5py

    second = Second("shuffled")
    cells = second.cells()
    cells.obsm["table"] = pd.DataFrame(X, index=cells.obs_names, columns=list("abcd"))
    cells.write_h5ad(tmp_path / "cells.h5ad")
    with h5py.File(tmp_path / "cells.h5ad", "r+") as file:  # AnnData writes equal names only
        table = file["obsm/table"]
        table[table.attrs["_index"]][:] = second.names
        for j, column in enumerate("abcd"):
            table[column][:] = second.x[:, j]
    dataset = gb.data.read(tmp_path / "cells.h5ad", embeddings="table")
    np.testing.assert_array_equal(gb.data.read_rows(dataset.embeddings["table"], 0, N), X)


@pytest.mark.parametrize("header", ["Unnamed: 0", "index", "__index_level_0__", "level_0"])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_columns_of_row_numbers_are_no_dimensions(header: str, suffix: str, tmp_path: Path) -> None:
    frame = pd.DataFrame(X, columns=list("abcd"))
    frame.insert(0, header, np.arange(N))
    written_frame = tmp_path / f"emb.{suffix}"
    if suffix == "csv":
        frame.to_csv(written_frame)  # with a first column without a name before it
    else:
        frame.to_parquet(written_frame, index=False)
    assert gb.data.read(written_frame).embeddings["emb"].shape == (N, 4)


def test_names_are_not_read_where_one_input_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpubench.data._formats.anndata_store import StoredTable

    def fail(self: StoredTable) -> None:
        raise AssertionError(self)

    second = Second("same")
    path = second.h5ad(tmp_path)
    np.save(tmp_path / "emb2.npy", X)
    monkeypatch.setattr(StoredTable, "row_names", fail)
    dataset = gb.data.read(path, embeddings=["emb", str(tmp_path / "emb2.npy")], columns={"label": "cell_type"})
    assert dataset.notes == (
        f"{tmp_path / 'emb2.npy'} has no names of cells: its rows are taken in the order of {path}",
    )


def test_run_files_take_align_where_and_drop_missing(tmp_path: Path) -> None:
    from gpubench.running.run_file import read_run_file

    Second("same").h5ad(tmp_path)
    (tmp_path / "run.yaml").write_text(
        "defaults: {strict: true}\n"
        "runs:\n  a: {data: cells.h5ad, label: cell_type, align: inner, where: time > 3, drop_missing: true}\n"
    )
    (run,) = read_run_file(tmp_path / "run.yaml")
    options = run.options
    assert (options.align, options.where, options.drop_missing, options.strict) == ("inner", "time > 3", True, True)
    assert gb.score(
        **{name: getattr(options, name) for name in ("data", "label", "where")}, engine="cpu", tasks="embedding"
    ).results[0].n == int((TIMES > 3).sum())

"""Formats x faults x doors, drawn at random: the right number, or one line that names the argument; nothing else."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import traceback
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp
import typer.main
from sklearn.metrics import silhouette_score

from gpubench.cli.main import main
from gpubench.running import provenance

N, D, SEED = 40, 4, 0
TOLERANCE = 2e-4
CELLS = [f"AAAC{i:02}-1" for i in range(N)]

Matrix = np.ndarray[Any, Any]


# What is wrong with a matrix, or only unusual; each returns the matrix to write. Those of BAD_MATRICES must be refused.


def _set(x: Matrix, value: float) -> Matrix:
    x = x.astype(np.float64)
    x[3, 1] = value
    return x


GOOD_MATRICES: dict[str, Callable[[Matrix], Matrix]] = {
    "float64": lambda x: x.astype(np.float64),
    "float32": lambda x: x.astype(np.float32),
    "float16": lambda x: x.astype(np.float16),
    "integers": lambda x: np.round(x * 10).astype(np.int32),
    "small integers": lambda x: np.round(x * 10).astype(np.int8),
    "booleans": lambda x: x > 0.5,
    "large values": lambda x: x * 1e6,
    "small values": lambda x: x * 1e-6,
    "one dimension": lambda x: x[:, :1],
    "zeros": lambda x: np.where(np.abs(x) < 1, 0.0, x),
    "constant": np.zeros_like,
    "doubled cells": lambda x: np.repeat(x[::2], 2, axis=0),
}
BAD_MATRICES: dict[str, Callable[[Matrix], Matrix]] = {
    "NaN": lambda x: _set(x, np.nan),
    "infinite": lambda x: _set(x, np.inf),
    "too large": lambda x: _set(x, 1e39),
    "fewer cells": lambda x: x[:-3],
    "more cells": lambda x: np.concatenate([x, x[:2]]),
    "transposed": lambda x: np.ascontiguousarray(x.T),
    "no cells": lambda x: x[:0],
    "no dimensions": lambda x: x[:, :0],
}

GOOD_LABELS: dict[str, Callable[[Matrix], Any]] = {
    "text": lambda codes: np.array(["T cell", "B cell", "NK"], object)[codes],
    "integers": lambda codes: codes,
    "floats": lambda codes: codes.astype(float),
    "booleans": lambda codes: codes > 0,
    "categories": lambda codes: pd.Categorical.from_codes(codes, ["T", "B", "NK", "unused"][: codes.max() + 2]),
    "nullable": lambda codes: pd.array(codes, dtype="Int64"),
    "separators": lambda codes: np.array(["T, CD4+", "B; memory", 'NK "bright"'], object)[codes],
    "characters": lambda codes: np.array(["T细胞", "Zelle ß", "κ"], object)[codes],
    "leading zeros": lambda codes: np.array(["01", "1", "001"], object)[codes],
    "decimals": lambda codes: np.array([0.5, 1.5, 2.25])[codes],
}
BAD_LABELS: dict[str, Callable[[Matrix], Any]] = {
    "missing": lambda codes: np.where(np.arange(len(codes)) == 5, None, np.array(["T", "B", "NK"], object)[codes]),
    "missing category": lambda codes: pd.Categorical.from_codes(
        np.where(np.arange(len(codes)) % 9, codes, -1), list("TBN")
    ),
    "missing of R": lambda codes: np.where(np.arange(len(codes)) == 5, -(2**31), codes).astype(np.int32),
    "NaN": lambda codes: np.where(np.arange(len(codes)) == 5, np.nan, codes),
    "one value": lambda codes: np.full(len(codes), "T", object),
    "all different": lambda codes: np.array([f"type{i}" for i in range(len(codes))], object),
}
COLUMNS = ("cell_type", "cell type", "type/fine", "Zelltyp ä", "leiden_0.5")


def frame_of(x: Matrix) -> pd.DataFrame:
    return pd.DataFrame(
        x, columns=[f"PC_{i}" for i in range(x.shape[1])], index=CELLS[: len(x)] if len(x) <= N else None
    )


RENAMED: dict[str, Callable[[str], str]] = {
    "suffix": lambda cell: cell.removesuffix("-1"),
    "prefix": lambda cell: f"sample1_{cell}",
    "other cells": lambda cell: f"TTTG{cell[4:]}",
    "one cell": lambda cell: "GGGG00-1" if cell == CELLS[7] else cell,
    "case": str.lower,
}


# Files of a matrix: each writes one and returns its path.


def write_npy(folder: Path, frame: pd.DataFrame) -> Path:
    np.save(folder / "emb.npy", frame.to_numpy())
    return folder / "emb.npy"


def write_npz(folder: Path, frame: pd.DataFrame) -> Path:
    np.savez(folder / "emb.npz", emb=frame.to_numpy())
    return folder / "emb.npz"


def text_writer(name: str, **options: Any) -> Callable[[Path, pd.DataFrame], Path]:
    def write(folder: Path, frame: pd.DataFrame) -> Path:
        frame.to_csv(folder / name, **options)
        return folder / name

    return write


def write_parquet(folder: Path, frame: pd.DataFrame) -> Path:
    frame.to_parquet(folder / "emb.parquet")
    return folder / "emb.parquet"


def write_lists(folder: Path, frame: pd.DataFrame) -> Path:
    pq.write_table(pa.table({"vector": frame.to_numpy().tolist()}), folder / "emb.parquet")
    return folder / "emb.parquet"


def write_arrow(folder: Path, frame: pd.DataFrame) -> Path:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    with pa.ipc.new_file(folder / "emb.arrow", table.schema) as writer:
        writer.write_table(table)
    return folder / "emb.arrow"


MATRIX_FILES: dict[str, Callable[[Path, pd.DataFrame], Path]] = {
    "npy": write_npy,
    "npz": write_npz,
    "csv": text_writer("emb.csv"),
    "csv of Excel": text_writer("emb.csv", sep=";", decimal=","),
    "csv without index": text_writer("emb.csv", index=False),
    "csv.gz": text_writer("emb.csv.gz"),
    "tsv": text_writer("emb.tsv", sep="\t"),
    "txt": text_writer("emb.txt", sep=" "),
    "parquet": write_parquet,
    "parquet lists": write_lists,
    "arrow": write_arrow,
}
WITHOUT_NAMES = frozenset({"npy", "npz", "csv without index", "parquet lists", "arrow", "polars"})
"""Files that do not hold the names of the cells, so that their rows can only be taken in order."""


# Files of a table of cells.


def obs_text_writer(name: str, **options: Any) -> Callable[[Path, pd.DataFrame], Path]:
    def write(folder: Path, obs: pd.DataFrame) -> Path:
        obs.to_csv(folder / name, **options)
        return folder / name

    return write


def write_obs_parquet(folder: Path, obs: pd.DataFrame) -> Path:
    obs.to_parquet(folder / "obs.parquet")
    return folder / "obs.parquet"


def write_obs_of_polars(folder: Path, obs: pd.DataFrame) -> Path:
    table = pa.Table.from_pandas(obs, preserve_index=False)
    columns = [c.combine_chunks().dictionary_encode() if pa.types.is_string(c.type) else c for c in table.columns]
    unsigned = [
        pa.DictionaryArray.from_arrays(c.indices.cast(pa.uint32()), c.dictionary) if hasattr(c, "indices") else c
        for c in columns
    ]
    pq.write_table(pa.table(unsigned, names=table.column_names), folder / "obs.parquet")
    return folder / "obs.parquet"


def write_obs_h5ad(folder: Path, obs: pd.DataFrame) -> Path:
    ad.AnnData(obs=obs).write_h5ad(folder / "obs.h5ad")
    return folder / "obs.h5ad"


OBS_FILES: dict[str, Callable[[Path, pd.DataFrame], Path]] = {
    "csv": obs_text_writer("obs.csv"),
    "csv of Excel": obs_text_writer("obs.csv", sep=";", decimal=","),
    "csv without index": obs_text_writer("obs.csv", index=False),
    "tsv.gz": obs_text_writer("obs.tsv.gz", sep="\t"),
    "txt": obs_text_writer("obs.txt", sep="\t"),
    "parquet": write_obs_parquet,
    "polars": write_obs_of_polars,
    "h5ad": write_obs_h5ad,
}


# Containers of a matrix and its cells: each writes one and returns its path and the key of the matrix.


def adata_of(x: Any, obs: pd.DataFrame) -> ad.AnnData:
    return ad.AnnData(obs=obs, obsm={"X_emb": x})


def write_h5ad(folder: Path, x: Any, obs: pd.DataFrame) -> tuple[Path, str]:
    adata_of(x, obs).write_h5ad(folder / "cells.h5ad")
    return folder / "cells.h5ad", "X_emb"


def write_zarr(folder: Path, x: Any, obs: pd.DataFrame) -> tuple[Path, str]:
    if any("/" in column for column in obs):  # which anndata does not write to zarr
        return write_h5ad(folder, x, obs)
    adata_of(x, obs).write_zarr(folder / "cells.zarr")
    return folder / "cells.zarr", "X_emb"


def write_mudata(folder: Path, x: Any, obs: pd.DataFrame) -> tuple[str, str]:  # type: ignore[type-arg]
    path, key = write_h5ad(folder, x, obs)
    with h5py.File(path) as inner, h5py.File(folder / "cells.h5mu", "w") as file:
        inner.copy(inner["/"], file.require_group("mod"), "rna")
        file["obs/_index"] = inner[f"obs/{inner['obs'].attrs['_index']}"][:]
    return f"{folder / 'cells.h5mu'}:rna", key


def write_loom(folder: Path, x: Any, obs: pd.DataFrame) -> tuple[Path, str]:
    if obs.isna().to_numpy().any():  # loom has no missing values
        return write_h5ad(folder, x, obs)
    with h5py.File(folder / "cells.loom", "w") as file:
        file["matrix"] = np.ones((2, len(obs)))
        file["col_attrs/CellID"], file["row_attrs/Gene"] = np.array(list(obs.index), "S"), np.array(["a", "b"], "S")
        file["col_attrs/X_emb"] = x
        for name, values in obs.items():
            is_text = values.dtype == object or isinstance(values.dtype, pd.CategoricalDtype)
            file[f"col_attrs/{name}"] = values.astype(str).to_numpy(object) if is_text else values.to_numpy(float)
    return folder / "cells.loom", "X_emb"


def stored_as(convert: Callable[[Matrix], Any]) -> Callable[[Path, Matrix, pd.DataFrame], tuple[Path, str]]:
    return lambda folder, x, obs: write_h5ad(folder, convert(x), obs)


CONTAINERS: dict[str, Callable[[Path, Matrix, pd.DataFrame], tuple[Any, str]]] = {
    "h5ad": write_h5ad,
    "h5ad csr": stored_as(lambda x: sp.csr_matrix(x.astype(np.float64))),
    "h5ad csc": stored_as(lambda x: sp.csc_matrix(x.astype(np.float64))),
    "h5ad table": stored_as(lambda x: frame_of(x).set_axis(CELLS)),
    "h5ad nullable table": stored_as(lambda x: frame_of(x).set_axis(CELLS).convert_dtypes(convert_floating=False)),
    "zarr": write_zarr,
    "MuData": write_mudata,
    "loom": write_loom,
}


# What is wrong with a file as a whole.


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def empty(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def garbage(path: Path) -> Path:
    path.write_bytes(np.random.default_rng(1).bytes(500))
    return path


def pack(path: Path) -> Path:
    packed = path.with_name(f"{path.name}.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    return packed


def rename(suffix: str) -> Callable[[Path], Path]:
    return lambda path: path.rename(path.with_name(f"{path.name.partition('.')[0]}{suffix}"))


def remove(path: Path) -> Path:
    path.unlink()
    return path


FILE_FAULTS: dict[str, Callable[[Path], Path]] = {
    "cut": cut,
    "empty": empty,
    "garbage": garbage,
    "removed": remove,
    "called .npy": rename(".npy"),
    "called .csv": rename(".csv"),
    "called .h5ad": rename(".h5ad"),
    "called .parquet": rename(".parquet"),
    "called .pkl": rename(".pkl"),
    "called .rds": rename(".rds"),
}


DOORS = ("container", "container and table", "file and table", "file and table", "file of a container")
ROW_FAULTS = ("rows", "shuffled", "renamed")
FAULTS = ("none", "none", "matrix", "matrix", "labels", "column", *ROW_FAULTS, "matrix file", "obs file")


@dataclass
class Case:
    """A command, and the number that it must print if it prints one; None: it must refuse."""

    description: str
    arguments: list[str]
    right: float | None


class Draw:
    """A random combination, and the command that scores it."""

    def __init__(self, random: np.random.Generator, folder: Path) -> None:
        self.random, self.folder, self.chosen = random, folder, list[str]()
        self.is_refused = self.file_is_named = False
        codes = random.integers(0, 3, N)
        codes[:3] = 0, 1, 2
        self.x = random.normal(size=(N, D)) + 1.5 * codes[:, None] * (np.arange(D) == 0)
        self.door = self.pick(DOORS)
        self.fault = self.pick(FAULTS)
        kinds = BAD_MATRICES if self.fault == "matrix" and self.door.startswith("file") else GOOD_MATRICES
        self.given = kinds[self.pick(kinds)](self.x)
        label_kinds = BAD_LABELS if self.fault == "labels" else GOOD_LABELS
        self.labels = label_kinds[self.pick(label_kinds)](codes)
        self.column = self.pick(COLUMNS)
        self.obs = pd.DataFrame({"other": np.arange(N), self.column: self.labels}, index=CELLS)

    def pick(self, options: Iterable[str]) -> str:
        names = list(options)
        self.chosen.append(names[self.random.integers(len(names))])
        return self.chosen[-1]

    def case(self) -> Case:
        """Write the files, and return the command."""
        self.is_refused = self.fault in ("labels", "column") or (
            self.fault == "matrix" and self.door.startswith("file")
        )
        arguments = self.data()
        if self.door in ("file and table", "container and table"):
            arguments += ["--obs", self.table(is_named=self.door.startswith("container") or self.file_is_named)]
        asked = f"{self.column}_" if self.fault == "column" else self.column
        command = [
            "score",
            *map(str, arguments),
            "--label",
            asked,
            "-t",
            "embedding",
            "--out",
            str(self.folder / "out"),
        ]
        right = None if self.is_refused else score_of(self.given, self.labels)
        return Case(" | ".join(self.chosen), command, right)

    def data(self) -> list[Any]:
        """Write the matrix and its container; return the arguments that name them."""
        if self.door.startswith("container"):
            return list(self.container(self.given))
        kind = self.pick(MATRIX_FILES)
        self.file_is_named, frame = kind not in WITHOUT_NAMES, frame_of(self.given)
        if self.door == "file of a container":
            frame = self.disorder(frame, is_named=self.file_is_named)
            self.given = frame.to_numpy() if not self.file_is_named else self.given
        path = MATRIX_FILES[kind](self.folder, frame)
        if self.fault == "matrix file":
            path = FILE_FAULTS[self.pick(FILE_FAULTS)](path)
        if self.door == "file and table":
            return [path]
        return [self.container(self.x)[0], "-e", path]

    def table(self, *, is_named: bool) -> Path:
        """Write the table of cells, where the embedding has names of cells or none; return its path."""
        kind = self.pick(OBS_FILES)
        is_named = is_named and kind not in WITHOUT_NAMES
        obs = self.disorder(self.obs, is_named=is_named)
        if self.fault == "rows":
            obs, self.is_refused = obs.iloc[:-4], True
        if not is_named:
            self.labels = obs[self.column].array
        path = OBS_FILES[kind](self.folder, obs)
        return FILE_FAULTS[self.pick(FILE_FAULTS)](path) if self.fault == "obs file" else path

    def disorder(self, frame: pd.DataFrame, *, is_named: bool) -> pd.DataFrame:
        """Shuffle or rename the rows of one file, if that is the fault; others' names are refused where compared."""
        if self.fault == "shuffled":
            return frame.iloc[self.random.permutation(len(frame))]
        if self.fault == "renamed":
            self.is_refused = self.is_refused or is_named
            return frame.rename(index=RENAMED[self.pick(RENAMED)])
        return frame

    def container(self, x: Matrix) -> tuple[Any, str, str]:
        path, key = CONTAINERS[self.pick(CONTAINERS)](self.folder, x, self.obs)
        return path, "-e", key


def score_of(x: Matrix, labels: Any) -> float:
    names = np.asarray(pd.Series(labels).astype(object)).astype(str)
    return (float(silhouette_score(np.asarray(x, np.float64), names)) + 1) / 2


def run(case: Case, folder: Path) -> str:
    """Run the command; return what is wrong, or nothing."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(case.arguments)
        except BaseException:  # noqa: BLE001 - a traceback is what the test looks for
            return f"raised {traceback.format_exc()[-1500:]}"
    said = err.getvalue()
    if code == 2:
        argument = ("label", "obs", "embedding", "data", "emb", "cells.", "X_emb")
        is_line = said.startswith("gpubench: ") and said.count("\n") == 1 and "Traceback" not in said
        return "" if is_line and any(word in said for word in argument) else f"said {said!r}"
    if code != 0:
        return f"ended with {code}: {said[-500:]}"
    found = json.loads((folder / "out/results.json").read_text())
    (value,) = [row["value"] for row in found["results"] if row["metric"] == "silhouette_score"]
    if case.right is None:
        return f"scored {value}, which must be refused"
    return "" if abs(value - case.right) < TOLERANCE else f"scored {value}, right is {case.right}"


@pytest.mark.slow
def test_fuzz_any_combination_is_right_or_refused_in_a_line(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the same in every combination, and half of the time
    monkeypatch.setattr(typer.main, "get_command", cache(typer.main.get_command))
    monkeypatch.setattr(provenance, "digest_of_code", cache(provenance.digest_of_code))
    wrong = []
    for i in range(request.config.getoption("--fuzz")):
        folder = tmp_path / str(i)
        folder.mkdir()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the writers
            case = Draw(np.random.default_rng([SEED, i]), folder).case()
        fault = run(case, folder)
        if fault:
            wrong.append(f"{i}: {case.description}\n  {' '.join(case.arguments)}\n  {fault}")
    assert not wrong, f"{len(wrong)} combinations:\n" + "\n".join(wrong[:20])

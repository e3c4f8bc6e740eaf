"""Dimensions with a large offset score as without it: it is subtracted before values are rounded to float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.metrics import silhouette_score

import gpubench as gb
from gpubench.core.errors import InputError
from gpubench.data.offsets import OffsetRows, unresolved_dimensions, without_large_offsets
from gpubench.engines.base import Engine
from gpubench.engines.embedding import Embedding

N, D = 240, 6
RNG = np.random.default_rng(3)
CODES = RNG.integers(0, 3, N)
X = RNG.normal(size=(N, D)) + 1.5 * CODES[:, None] * (np.arange(D) == 0)
LABELS, BATCH = np.array(["B", "NK", "T"])[CODES], np.array(["a", "b"])[RNG.integers(0, 2, N)]


def moved(offset: float, *dimensions: int) -> np.ndarray[Any, Any]:
    moved = X.copy()
    moved[:, list(dimensions) or slice(None)] += offset
    return moved


def memory_map(x: np.ndarray[Any, Any], folder: Path) -> Any:
    np.save(folder / "x.npy", x)
    return np.load(folder / "x.npy", mmap_mode="r")


def hdf5(x: np.ndarray[Any, Any], folder: Path) -> Any:
    file = h5py.File(folder / "x.h5", "w")
    return file.create_dataset("x", data=x, chunks=(50, 3))


def dask(x: np.ndarray[Any, Any], folder: Path) -> Any:
    return pytest.importorskip("dask.array").from_array(x, chunks=(70, 3))


FORMS: dict[str, Callable[[np.ndarray[Any, Any], Path], Any]] = {
    "array": lambda x, _: x,
    "Fortran": lambda x, _: np.asfortranarray(x),
    "memory map": memory_map,
    "HDF5": hdf5,
    "Dask": dask,
    "DataFrame": lambda x, _: pd.DataFrame(x),
    "CSR": lambda x, _: sp.csr_array(x),
    "list": lambda x, _: x.tolist(),
}


@pytest.mark.parametrize("form", FORMS)
def test_offset_of_one_dimension_changes_no_distance(engine: Engine, form: str, tmp_path: Path) -> None:
    x = FORMS[form](moved(1e8, 4), tmp_path)
    right = (silhouette_score(X, LABELS) + 1) / 2
    assert gb.metrics.silhouette_label(x, LABELS, engine=engine) == pytest.approx(right, abs=2e-6)


@pytest.mark.parametrize("offset", [-(2.0**42), 1e7, 3e11])
@pytest.mark.parametrize("name", ["entropy_per_cell", "ilisi_knn", "silhouette_batch"])
def test_neighbours_and_batches_are_those_without_the_offset(engine: Engine, offset: float, name: str) -> None:
    function, args = getattr(gb.metrics, name), (BATCH,) if name != "silhouette_batch" else (LABELS, BATCH)
    assert function(moved(offset), *args, engine=engine) == pytest.approx(
        float(function(X, *args, engine=engine)), abs=2e-3
    )


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.int32])
def test_offset_of_whole_numbers_is_subtracted_exactly(dtype: type) -> None:
    whole = np.round(X * 100).astype(np.int64)
    offset = 2**30 if dtype is np.int32 else 2**60 + 1
    rows = without_large_offsets((whole + offset).astype(dtype))
    assert isinstance(rows, OffsetRows)
    found = rows.read(0, N)
    np.testing.assert_array_equal(found - found[0], whole - whole[0])
    assert not len(unresolved_dimensions((whole + offset).astype(dtype)))


def test_outliers_do_not_hide_an_offset() -> None:
    x = moved(1e9, 2)
    x[7] = 0  # such as a cell that was imputed
    assert isinstance(without_large_offsets(x), OffsetRows)


@pytest.mark.parametrize(
    "x",
    [
        X,
        X.astype(np.float32) + 100,
        np.c_[X, np.ones(N)],
        np.c_[X, 0.3 + 1e-17 * RNG.normal(size=N)],
        np.c_[X, np.where(np.arange(N) == 3, 1e12, 0)],
        X > 0,
        RNG.poisson(3.0, (N, 8)),
        np.where(X[0, 0] == X, np.nan, X),
    ],
)
def test_usual_matrices_are_not_touched(x: np.ndarray[Any, Any]) -> None:
    assert without_large_offsets(x) is x
    assert not len(unresolved_dimensions(x))


def test_labels_are_predicted_as_without_a_float32_dimension_of_large_mean() -> None:
    x = X.astype(np.float32)
    given = {"label": LABELS, "tasks": ["label_prediction"], "classifiers": ("lr",), "engine": "cpu"}
    right = gb.score(x, **given).value("mean_fold_accuracy", classifier="lr")
    noise = (1e5 + RNG.normal(size=(N, 1))).astype(np.float32)
    found = gb.score(np.c_[x, noise], **given).value("mean_fold_accuracy", classifier="lr")
    assert found == pytest.approx(right, abs=0.03)


def test_cosines_keep_the_offset_or_are_refused(engine: Engine) -> None:
    x = moved(2.0**14, 1)
    right = (silhouette_score(x, LABELS, metric="cosine") + 1) / 2
    found = gb.metrics.silhouette_label(x, LABELS, metric="cosine", engine=engine)
    assert found == pytest.approx(right, abs=2e-3)
    single = moved(2.0**14, 1).astype(np.float32)  # float32 is what it is
    assert gb.metrics.bras(single, LABELS, BATCH, engine=engine) == gb.metrics.bras(
        Embedding(engine, engine.put(single)), LABELS, BATCH
    )
    with pytest.raises(InputError, match="subtract the means of the dimensions, or use metric='euclidean'"):
        gb.metrics.bras(moved(1e9), LABELS, BATCH, engine=engine)


def test_one_offset_for_each_batch_warns_or_is_refused_if_strict() -> None:
    x = np.where((BATCH == "a")[:, None] & (np.arange(D) == 3), X + 1e9, X)
    given = {"label": LABELS, "batch": BATCH, "tasks": ["embedding"], "engine": "cpu"}
    with pytest.warns(gb.GpubenchWarning, match=r"has 1 of 6 dimensions \(first: 3\) with differences of cells"):
        gb.score(x, **given)
    with pytest.raises(InputError, match="subtract the means of groups of cells"):
        gb.score(x, **given, strict=True)

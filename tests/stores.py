"""AnnData files for the tests of reading, in the current layout and in earlier ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scipy.sparse
import zarr

N_CELLS = 30


def make_anndata() -> ad.AnnData:
    """30 cells with embeddings, layers and columns of every kind."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.5, size=(N_CELLS, 7)).astype(np.float32)
    codes = np.arange(N_CELLS) % 3
    adata = ad.AnnData(
        X=scipy.sparse.csr_matrix(counts),
        obs=pd.DataFrame(
            {
                "cell_type": pd.Categorical.from_codes(codes, ["T cell", "B cell", "NK", "unused"]),
                "stage": pd.Categorical.from_codes(codes, ["E9", "E10", "E11"], ordered=True),
                "gappy": pd.Categorical.from_codes(np.where(codes, codes, -1), ["a", "b", "c"]),
                "month": pd.Categorical.from_codes(codes, pd.Index([12, 3, 7])),
                "barcode": [f"bar{i}" for i in range(N_CELLS)],
                "depth": counts.sum(axis=1),
                "plate": rng.integers(0, 4, N_CELLS),
                "is_control": codes == 0,
                "age": pd.array(codes + 20, dtype="Int64"),
                "age_gappy": pd.array([None if c else c for c in codes], dtype="Int64"),
                "smoker": pd.array(codes == 1, dtype="boolean"),
            },
            index=[f"cell{i}" for i in range(N_CELLS)],
        ),
    )
    adata.obsm["X_pca"] = rng.normal(size=(N_CELLS, 5)).astype(np.float32)
    adata.obsm["X_fortran"] = np.asfortranarray(rng.normal(size=(N_CELLS, 4)))
    adata.obsm["X_half"] = rng.normal(size=(N_CELLS, 4)).astype(np.float16)
    adata.obsm["counts"] = rng.integers(0, 9, size=(N_CELLS, 4)).astype(np.int16)
    adata.obsm["csr"] = scipy.sparse.random_array((N_CELLS, 6), density=0.3, rng=rng, format="csr")
    adata.obsm["csc"] = scipy.sparse.random_array((N_CELLS, 6), density=0.3, rng=rng, format="csc")
    adata.obsm["frame"] = pd.DataFrame(
        rng.normal(size=(N_CELLS, 2)), index=adata.obs_names, columns=["second", "first"]
    ).assign(third=np.arange(N_CELLS))
    adata.layers["scaled"] = counts / 3
    return adata


def dense(matrix: object) -> np.ndarray:
    """Return a matrix of AnnData as an array."""
    toarray = getattr(matrix, "toarray", None)
    return np.asarray(toarray() if toarray else matrix)


# AnnData writes small arrays as one chunk; the chunks of (7, 2) below imitate those of large arrays.


def write_h5ad(adata: ad.AnnData, path: Path) -> Path:
    path = path / "cells.h5ad"
    adata.write_h5ad(path)
    return path


def write_compressed_h5ad(adata: ad.AnnData, path: Path) -> Path:
    path = path / "compressed.h5ad"
    adata.write_h5ad(path, compression="gzip")
    if "X_pca" in adata.obsm:
        with h5py.File(path, "r+") as file:
            del file["obsm/X_pca"]
            file["obsm"].create_dataset("X_pca", data=adata.obsm["X_pca"], chunks=(7, 2), compression="gzip")
    return path


def zarr_writer(version: int, *, zipped: bool = False) -> Callable[[ad.AnnData, Path], Path]:
    def write(adata: ad.AnnData, path: Path) -> Path:
        path = path / f"cells{version}.zarr{'.zip' if zipped else ''}"
        with ad.settings.override(zarr_write_format=version), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about versions of formats
            if zipped:
                with zarr.storage.ZipStore(path, mode="w") as store:
                    adata.write_zarr(store)
            else:
                adata.write_zarr(path)
                if "X_pca" in adata.obsm:
                    obsm = zarr.open_group(path)["obsm"]
                    obsm.create_array("X_pca", data=adata.obsm["X_pca"], chunks=(7, 2), overwrite=True)
                    zarr.consolidate_metadata(path)
        return path

    return write


WRITERS: dict[str, Callable[[ad.AnnData, Path], Path]] = {
    "h5ad": write_h5ad,
    "compressed h5ad": write_compressed_h5ad,
    "zarr 2": zarr_writer(2),
    "zarr 3": zarr_writer(3),
    "zipped zarr": zarr_writer(3, zipped=True),
}


def write_anndata_0_7(path: Path) -> Path:
    """The layout of AnnData 0.7: codes that refer to `__categories`."""
    with h5py.File(path, "w") as file:
        obs = file.create_group("obs")
        obs.attrs.update({"_index": "index", "encoding-type": "dataframe", "encoding-version": "0.1.0"})
        obs["index"] = [f"cell{i}".encode() for i in range(4)]
        obs["plate"] = [2, 1, 2, 1]
        obs["__categories/cell_type"] = ["T cell", "B cell", "unused"]
        obs["cell_type"] = np.array([1, 0, -1, 1], np.int8)
        obs["cell_type"].attrs["categories"] = obs["__categories/cell_type"].ref
        file["obsm/X_pca"] = np.arange(8.0).reshape(4, 2)
    return path


def write_zarr_0_7(path: Path) -> Path:
    """The same in zarr, where the reference is a path."""
    root = zarr.open_group(path, mode="w", zarr_format=2)
    obs = root.create_group("obs")
    obs.attrs.update({"_index": "index", "encoding-type": "dataframe", "encoding-version": "0.1.0"})
    obs.create_array("index", data=np.array(["c0", "c1"]))
    obs.create_array("__categories/cell_type", data=np.array(["T cell", "B cell"]))
    codes = obs.create_array("cell_type", data=np.array([1, 0], np.int8))
    codes.attrs["categories"] = "__categories/cell_type"
    root.create_group("obsm").create_array("X_pca", data=np.arange(4.0).reshape(2, 2))
    return path


def write_records(path: Path) -> Path:
    """The layout before AnnData 0.7: tables are arrays of records, categories are in uns."""
    obs = np.array(
        [(b"cell0", 1, b"x", 0.5), (b"cell1", 0, b"y", 1.5), (b"cell2", 1, b"x", 2.5)],
        dtype=[("index", "S5"), ("cell_type", "i1"), ("donor", "S1"), ("depth", "f4")],
    )
    obsm = np.zeros(3, dtype=[("X_pca", "f4", (2,)), ("X_diffmap", "f8", (3,))])
    obsm["X_pca"] = np.arange(6).reshape(3, 2)
    with h5py.File(path, "w") as file:
        file["obs"] = obs
        file["obsm"] = obsm
        file["uns/cell_type_categories"] = [b"T cell", b"B cell"]
        file["X"] = np.eye(3)
    return path

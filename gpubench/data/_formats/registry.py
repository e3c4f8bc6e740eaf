"""Supported file formats by suffix, and advice for files of other formats."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gpubench.core.errors import InputError, nearest, quoted
from gpubench.data._formats import delimited
from gpubench.data._formats.anndata_store import open_zarr_anndata
from gpubench.data._formats.arrays import (
    NpzArchive,
    ParquetTable,
    open_arrow,
    open_arrow_table,
    open_matrix_table,
    open_npy,
)
from gpubench.data._formats.single_cell import is_mtx_folder, open_mtx, open_single_cell
from gpubench.data._formats.source import Source, Table
from gpubench.data.urls import File

STORES: dict[str, Callable[[Any], Source]] = {
    **dict.fromkeys((".h5ad", ".h5", ".hdf5", ".h5mu", ".loom"), open_single_cell),
    ".zarr": open_zarr_anndata,
    ".zarr.zip": open_zarr_anndata,
    ".mtx": open_mtx,
    ".mtx.gz": open_mtx,
    ".npz": NpzArchive,
}
MATRICES: dict[str, Callable[[Any], Source]] = {
    ".npy": open_npy,
    **dict.fromkeys((".parquet", ".pq", *delimited.SUFFIXES), open_matrix_table),
    **dict.fromkeys((".arrow", ".feather"), open_arrow),
}
TABLES: dict[str, Callable[[Any], Table]] = {
    **dict.fromkeys((".parquet", ".pq"), ParquetTable),
    **dict.fromkeys(delimited.SUFFIXES, delimited.DelimitedTable),
    **dict.fromkeys((".arrow", ".feather"), open_arrow_table),
}
SUFFIXES = (*STORES, *MATRICES)
"""Suffixes of files with embeddings."""

_LISTED = ".h5ad, .h5mu, .h5 (10x), .loom, .mtx, .zarr, .npy, .npz, .parquet, .arrow, .csv, .tsv, .txt"
_MODALITY = re.compile(r"(.+\.h5mu):([^:/]+)", re.IGNORECASE)

_TO_H5AD = 'library(zellkonverter); writeH5AD(as.SingleCellExperiment(x), "{stem}.h5ad")'
_ADVICE: dict[tuple[str, ...], str] = {
    (".rds",): 'is an R file; convert it in R: library(Seurat); x <- readRDS("{name}"); ' + _TO_H5AD,
    (".rda", ".rdata"): 'is an R workspace; convert it in R: library(Seurat); x <- get(load("{name}")); ' + _TO_H5AD,
    (".h5seurat",): 'is a Seurat file; convert it in R: library(SeuratDisk); Convert("{name}", dest = "h5ad")',
    (
        ".pkl",
        ".pickle",
        ".joblib",
        ".pt",
        ".pth",
        ".ckpt",
    ): "is a pickle, which may run code and is not read; load it in"
    ' Python and save the matrix: numpy.save("{stem}.npy", matrix)',
    (".xls", ".xlsx", ".ods"): "is a spreadsheet; save it as CSV",
    (".gz", ".zst", ".bz2", ".xz", ".zip", ".7z", ".tar", ".tgz"): "is packed; unpack it first: {unpack} {name}",
}
"""Suffixes of unsupported files -> name of the format, and how to convert such files."""

_UNPACK = {".gz": "gunzip", ".zst": "unzstd", ".bz2": "bunzip2", ".xz": "unxz", ".zip": "unzip", ".7z": "7z x"}


def is_file_name(text: str) -> bool:
    """Whether a text names a file: it has a supported suffix, or is the path of an existing file with another one."""
    if text.lower().endswith(SUFFIXES) or _MODALITY.fullmatch(text):
        return True
    return bool(Path(text).suffix) and Path(text).is_file()


def split_modality(text: str) -> tuple[str, str | None]:
    """Split "cells.h5mu:rna" into path and modality; for other texts the modality is None.

    Examples
    --------
    >>> split_modality("folder/cells.h5mu:rna"), split_modality("cells.h5ad")
    (('folder/cells.h5mu', 'rna'), ('cells.h5ad', None))
    """
    found = None if os.path.lexists(text) else _MODALITY.fullmatch(text)
    return (found[1], found[2]) if found else (text, None)


def open_path(file: File, formats: Mapping[str, Callable[[Any], Any]], argument: str) -> Any:
    """Open a file with the reader for its suffix, or a folder according to its content; messages name `argument`."""
    if isinstance(file, Path):
        path, modality = split_modality(str(file))
        if modality is not None:
            _check_exists(Path(path), argument)
            return open_single_cell(_check_filled(Path(path), argument), modality)
    name = file.name.lower()
    opener = next((opener for suffix, opener in formats.items() if name.endswith(suffix)), None)
    if isinstance(file, Path):
        _check_exists(file, argument)
        if file.is_dir():
            opener = open_mtx if is_mtx_folder(file) else open_zarr_anndata
    if opener is None:
        raise InputError(f"{argument}: {file} {_advice(file, formats)}")
    if isinstance(file, Path):
        return opener(_check_filled(file, argument))
    return opener(file if opener is open_zarr_anndata else file.require(argument))


def _check_exists(file: Path, argument: str) -> None:
    """Raise InputError unless a path is a file or a folder; reading a pipe could block forever."""
    if not os.path.lexists(file):
        raise InputError(f"{argument}: {file} does not exist{_similar_files(file)}; check the path")
    if file.exists() and not (file.is_file() or file.is_dir()):
        raise InputError(f"{argument}: {file} is a pipe or a device, not a file; write its content into a file first")


def _check_filled(file: Path, argument: str) -> Path:
    if file.is_file() and not file.stat().st_size:
        raise InputError(f"{argument}: {file} is empty; check the path, or copy it again")
    return file


def _advice(file: File, formats: Mapping[str, Any]) -> str:
    """Return a message for a file of an unsupported format: the fault, and how to convert the file."""
    suffix = Path(file.name).suffix.lower()
    advice = next((text for suffixes, text in _ADVICE.items() if suffix in suffixes), None)
    if advice is None and file.name.lower().endswith(tuple(SUFFIXES)):
        return f"is not a table of cells; give one of: {', '.join(formats)}"
    if advice is None:
        return f"has a format that is not read ({suffix or 'no suffix'}); give one of: {_LISTED}"
    stem = file.name.partition(".")[0]
    return advice.format(name=file.name, stem=stem, unpack=_UNPACK.get(suffix, "tar -xf"))


def _similar_files(path: Path) -> str:
    """Return a suggestion of files with similar names for a path that does not exist."""
    if not path.parent.is_dir() or not os.access(path.parent, os.R_OK):
        return ""
    meant = nearest(path.name, [file.name for file in path.parent.iterdir()])
    return f" (did you mean {quoted(meant)}?)" if meant else ""

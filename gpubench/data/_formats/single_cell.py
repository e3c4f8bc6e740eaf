"""Sources for further formats of single-cell data: MuData, 10x Genomics, Matrix Market and loom."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubench.core.errors import InputError, close_matches, quoted
from gpubench.data._formats.anndata_store import AnnDataSource, StoredAnnData, read_array
from gpubench.data._formats.row_names import NamesReader, as_array
from gpubench.data._formats.source import NamedColumns, Table
from gpubench.data._formats.stores import CsrRows, Node, is_group, open_hdf5
from gpubench.data.urls import File, reading

_CONVERT_SEURAT = 'convert it in R: library(SeuratDisk); Convert("{name}", dest = "h5ad")'


def open_single_cell(path: File, modality: str | None = None) -> AnnDataSource:
    """Open an HDF5 file according to its content: AnnData, MuData, 10x Genomics or loom.

    `modality` is the modality of MuData to read; if None, the embeddings and columns that all modalities share.
    """
    root = open_hdf5(path)
    if "mod" in root:
        return _open_mudata(root, path, modality)
    if modality is not None:
        raise InputError(f"{path} has no modalities, since it is not MuData; leave out :{modality}")
    if "obs" in root:
        return StoredAnnData(root, path)
    if "matrix" in root and "col_attrs" in root:
        return Loom(root, path)
    if "assays" in root and "cell.names" in root:
        raise InputError(f"{path} is a Seurat file; {_CONVERT_SEURAT.format(name=path.name)}")
    genomes = [name for name in root if is_group(root[name]) and {"barcodes", "indptr"} <= set(root[name].keys())]
    if not genomes:
        raise InputError(f"{path} is not AnnData: it has no obs; give a file that AnnData, MuData, 10x or loom wrote")
    if len(genomes) > 1:
        raise InputError(
            f"{path} has several genomes: {quoted(genomes)}; write one of them as h5ad (scanpy.read_10x_h5)"
        )
    return TenX(root[genomes[0]], path)


def _open_mudata(root: Node, path: File, modality: str | None) -> AnnDataSource:
    names = list(root["mod"].keys())
    if modality is None:
        return MuDataStore(root, path, names)
    if modality not in names:
        raise InputError(f"{path} has no modality {modality!r}{close_matches(modality, names)}")
    stored = StoredAnnData(root["mod"][modality], path)
    stored.where = f"{path}:{modality}"
    return stored


class MuDataStore(StoredAnnData):
    """Source of the parts of MuData that all modalities share, `obs` and `obsm`."""

    def __init__(self, root: Node, file: File, modalities: list[str]) -> None:
        super().__init__(root, file)
        self._modalities = modalities

    def choose(self, wanted: list[str] | None) -> list[str]:
        # MuData keeps in obsm which cells a modality has, under its name
        keys = [key for key in self._keys("obsm") if key not in self._modalities]
        missing = [name for name in wanted or () if not self.has(name)]
        if missing or (wanted is None and len(keys) != 1):
            listed = quoted([f"{self.file.name}:{name}" for name in self._modalities])
            fault = f"embedding {missing[0]!r} is not in obsm" if missing else "it has no single embedding in obsm"
            shared = f"there are: {quoted(keys)}" if keys else "there are none"
            raise InputError(f"{self.where} is MuData, and {fault} ({shared}); for one modality give one of: {listed}")
        return keys if wanted is None else wanted


class MemoryStore(AnnDataSource):
    """Source of the expression, columns and embeddings of one file, with the names of cells and genes."""

    def __init__(
        self,
        file: File,
        cells: NDArray[Any],
        genes: NDArray[Any],
        columns: Mapping[str, Any],
    ) -> None:
        self.file, self.where = file, str(file)
        self._cells, self._genes, self._columns = cells, genes, columns

    def table(self) -> Table:
        return NamedColumns(self._columns, f"the columns of {self.file}")

    def n_cells(self) -> int | None:
        return len(self._cells)

    def names_reader(self) -> NamesReader | None:
        return None if self._cells.dtype.kind == "i" else lambda: self._cells

    def gene_ids(self) -> NDArray[Any]:
        return self._genes

    @property
    def uns(self) -> Any:
        return {}

    def _keys(self, slot: str) -> list[str]:  # noqa: ARG002 - most have none
        return []

    def _has_x(self) -> bool:
        return True


class TenX(MemoryStore):
    """Source of an HDF5 file of Cell Ranger 2 or later: genes x cells in CSC, read as cells x genes in CSR."""

    def __init__(self, group: Node, file: File) -> None:
        self._group = group
        with reading(file):
            genes = group["features/name"] if "features" in group else group["gene_names"]
            super().__init__(file, _texts(group["barcodes"]), _texts(genes), {})

    def _matrix(self, slot: str, key: str) -> Any:  # noqa: ARG002 - X is all there is
        with reading(self.where, self.file):
            n_genes, n_cells = (int(length) for length in self._group["shape"][:])
            return CsrRows(self._group, f"X of {self.file}", self.file, (n_cells, n_genes))


class Loom(MemoryStore):
    """Source of a loom file: genes x cells; two-dimensional attributes of the cells are embeddings."""

    def __init__(self, root: Node, file: File) -> None:
        self._root = root
        cells, genes = root["col_attrs"], root["row_attrs"]
        with reading(file):
            n_genes, n_cells = root["matrix"].shape
            columns = {name: read_array(cells[name]) for name in cells if cells[name].ndim == 1}
            ids = next((columns[name] for name in ("CellID", "obs_names", "cell_names") if name in columns), None)
            names = next((name for name in ("Gene", "var_names", "gene_names", "Accession") if name in genes), None)
            super().__init__(
                file,
                np.arange(n_cells) if ids is None else as_array(ids),
                np.arange(n_genes).astype(str) if names is None else as_array(read_array(genes[names])),
                columns,
            )

    def _keys(self, slot: str) -> list[str]:
        if slot == "layers":
            return list(self._root.get("layers", {}))
        cells = self._root["col_attrs"]
        return [name for name in cells if cells[name].ndim == 2]

    def _matrix(self, slot: str, key: str) -> Any:
        what = f"{key or 'matrix'} of {self.file}"
        if slot == "obsm":
            return self._root["col_attrs"][key]
        return TransposedRows(self._root["layers"][key] if key else self._root["matrix"], what, self.file)


class TransposedRows:
    """`RowSource` of the cells of a stored matrix of genes x cells; a block of cells is a slice of columns."""

    def __init__(self, node: Node, what: str, file: File) -> None:
        self._node, self._what, self._file = node, what, file
        self.shape: tuple[int, int] = (int(node.shape[1]), int(node.shape[0]))
        self.dtype: np.dtype[Any] = node.dtype

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return cells [start, stop) as a dense array."""
        with reading(f"{self._what}: cells {start:,} to {stop:,}", self._file):
            return np.ascontiguousarray(self._node[:, start:stop].T)


_BARCODES, _FEATURES = (
    ("barcodes.tsv", "barcodes.tsv.gz"),
    ("features.tsv", "features.tsv.gz", "genes.tsv", "genes.tsv.gz"),
)
_MATRICES = ("matrix.mtx", "matrix.mtx.gz")


def is_mtx_folder(folder: Path) -> bool:
    """Whether a folder is an output of Cell Ranger: matrix.mtx with files of barcodes and features."""
    return _first(folder, _MATRICES) is not None


def open_mtx(path: File) -> MtxFolder:
    """Open an output folder of Cell Ranger, given by its path or by the path of its matrix.mtx."""
    if not isinstance(path, Path):
        raise InputError(
            f"{path}: a matrix with separate names cannot be read from a URL; download it, and give its path"
        )
    if not path.is_dir():
        return MtxFolder(path.parent, path)
    matrix = _first(path, _MATRICES)
    assert matrix is not None  # `is_mtx_folder` has found it
    return MtxFolder(path, matrix)


class MtxFolder(MemoryStore):
    """Source of a Matrix Market file of genes x cells and its files of names; X is read as a whole on first use."""

    def __init__(self, folder: Path, matrix: Path) -> None:
        prefix = matrix.name.partition("matrix.mtx")[0]
        barcodes = _first(folder, [f"{prefix}{name}" for name in _BARCODES])
        features = _first(folder, [f"{prefix}{name}" for name in _FEATURES])
        if barcodes is None or features is None:
            what = _BARCODES[0] if barcodes is None else _FEATURES[0]
            raise InputError(
                f"{matrix} has no {prefix}{what} next to it, so what its cells are is unknown; copy it there"
            )
        self._file = matrix
        genes = _lines(features)
        names = [line.split("\t")[:2][-1] for line in genes]
        super().__init__(matrix, np.array(_lines(barcodes), object), np.array(names, object), {})

    def _matrix(self, slot: str, key: str) -> Any:  # noqa: ARG002 - X is all there is
        return self._x

    @cached_property
    def _x(self) -> Any:
        from scipy.io import mmread

        with reading(self._file):
            matrix = mmread(self._file, spmatrix=False)
        expected = (len(self._genes), len(self._cells))
        if tuple(matrix.shape) != expected:
            raise InputError(
                f"{self._file} is {matrix.shape[0]:,} x {matrix.shape[1]:,}, but its folder names {expected[0]:,} genes"
                f" and {expected[1]:,} cells; copy the files of one folder together"
            )
        return matrix.T.tocsr() if hasattr(matrix, "tocsr") else np.ascontiguousarray(matrix.T)


def _first(folder: Path, names: Any) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _lines(path: Path) -> list[str]:
    from gpubench.data._formats.delimited import open_text

    with reading(path), open_text(path) as stream:
        return str(stream.read().decode()).splitlines()


def _texts(node: Node) -> NDArray[Any]:
    return np.asarray([text.decode() if isinstance(text, bytes) else str(text) for text in node[:]], object)

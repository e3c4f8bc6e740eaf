"""Read several sources, one for each species, into one dataset."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpubench.core.errors import InputError, quoted
from gpubench.core.types import Dataset
from gpubench.data._formats.arrays import stem
from gpubench.data._formats.registry import MATRICES
from gpubench.data._formats.row_names import NamesReader, names_reader
from gpubench.data.alignment import Align, NamedRows, take_rows
from gpubench.data.alignment import align as align_rows
from gpubench.data.columns import CategoricalColumn, encode_labels
from gpubench.data.matrices import Rows, StackedRows, WrappedRows, as_rows
from gpubench.data.read import is_file_name, open_matrix, read, split_embeddings
from gpubench.data.urls import file_of, shown


def read_species(
    sources: Mapping[str, Any] | Sequence[Any],
    *,
    embeddings: str | Sequence[str] | Mapping[str, Any] | None = None,
    columns: Mapping[str, Any] | None = None,
    obs: Mapping[str, Any] | None = None,
    cell_ids: bool | int = False,
    align: Align = "equal",
    where: str | None = None,
    drop_missing: bool = False,
) -> Dataset:
    """Read several sources, one for each species, and concatenate their cells in the order of the sources.

    Parameters
    ----------
    sources : species -> source as in `read`; or a sequence of sources, whose species are then named by the stems of
        their paths unless `columns` has a column of species
    embeddings : keys as in `read`, which every source must have; or files or matrices with the cells of all sources
        stacked in their order, given as paths or as a mapping name -> path or matrix
    columns : role -> name of a column that every source has, or a mapping species -> name or values; roles with None
        are left out. If no column is given for the role "species", the species are the keys of `sources`.
    obs : species -> table of cells as in `read`
    cell_ids, align, where, drop_missing : as in `read`, for each source

    Raises
    ------
    InputError
        Inputs that `read` refuses, fewer than two sources, sources whose embeddings differ in names or dimensions, or
        two species with the same name.

    Examples
    --------
    >>> dataset = read_species({"human": np.eye(3), "mouse": np.ones((2, 3))})
    >>> dataset.n_cells, dataset.obs["species"].codes
    (5, array([0, 0, 0, 1, 1]))
    """
    columns = {role: value for role, value in (columns or {}).items() if value is not None}
    _check_no_embedding(sources)
    by_species = sources if isinstance(sources, Mapping) else _name_sources(sources, by_stem="species" not in columns)
    if len(by_species) < 2:
        raise InputError(f"data: species need at least two sources, one for each; there are {len(by_species)}")
    keys, others = split_embeddings(embeddings)
    stacked, notes = _split_stacked(by_species, keys, others, align)
    parts = {
        species: read(
            source,
            embeddings=keys,
            columns={role: _select(value, role, species) for role, value in columns.items()},
            obs=None if obs is None else _select(obs, "obs", species),
            matrices=stacked.get(species),
            cell_ids=cell_ids,
            align=align,
            where=where,
            drop_missing=drop_missing,
        )
        for species, source in by_species.items()
    }
    return _stack(parts, columns, others, notes)


def _stack(parts: Mapping[str, Dataset], roles: Iterable[str], others: Iterable[str], notes: Iterable[str]) -> Dataset:
    """Concatenate the datasets of all species."""
    counts = [part.n_cells for part in parts.values()]
    obs = {role: _stack_columns({species: part.obs[role] for species, part in parts.items()}, role) for role in roles}
    obs.setdefault("species", CategoricalColumn(np.repeat(np.arange(len(parts)), counts), list(parts)))
    embeddings: dict[str, Rows] = {name: _stack_rows(parts, name) for name in _common_names(parts)}
    embeddings |= {name: StackedRows([part.matrices[name] for part in parts.values()]) for name in others}
    ids = [part.cell_ids for part in parts.values() if part.cell_ids is not None]
    return Dataset(
        embeddings=embeddings,
        obs=obs,
        n_cells=sum(counts),
        cell_ids=np.concatenate(ids) if len(ids) == len(parts) else None,
        source=", ".join(part.source for part in parts.values() if part.source) or None,
        notes=(*notes, *(f"{species}: {note}" for species, part in parts.items() for note in part.notes)),
    )


def _split_stacked(
    sources: Mapping[str, Any], keys: Sequence[str] | None, given: Mapping[str, Any], how: Align
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Split embeddings that have the cells of all sources; return species -> name -> embedding, and notes."""
    if not given:
        return {}, []
    parts = {species: read(source, embeddings=keys, cell_ids=True) for species, source in sources.items()}
    counts = [part.n_cells for part in parts.values()]
    ids = [part.cell_ids for part in parts.values() if part.cell_ids is not None]
    names = np.concatenate(ids) if len(ids) == len(parts) else None
    ends = np.cumsum(counts)
    stacked: dict[str, dict[str, Any]] = {species: {} for species in sources}
    notes: list[str] = []
    for name, matrix in given.items():
        rows, own = _read_stacked(matrix, name)
        whole = NamedRows("the sources", sum(counts), None if names is None else lambda: names)
        aligned = align_rows([whole, own], how)
        notes += aligned.notes
        taken, order = aligned.orders
        if taken is None and order is None and rows.shape[0] != sum(counts):
            listed = " + ".join(f"{count:,}" for count in counts)
            raise InputError(
                f"embedding {name!r} has {rows.shape[0]:,} rows, but the sources have {listed} = {sum(counts):,} cells;"
                " give one row for each, source by source"
            )
        taken = np.arange(sum(counts)) if taken is None else taken
        order = np.arange(len(taken)) if order is None else order
        for species, start, stop in zip(parts, ends - counts, ends, strict=True):
            here = (taken >= start) & (taken < stop)
            part = take_rows(rows, order[here])
            labels = None if aligned.names is None else aligned.names[here]
            stacked[species][name] = NamedMatrix(part, labels)
    return stacked, notes


@dataclass(frozen=True, slots=True)
class NamedMatrix(WrappedRows):
    """A matrix with the names of its rows.

    Attributes
    ----------
    names : names of the rows; None if they have none
    """

    names: Any = None

    def names_reader(self) -> NamesReader | None:
        """Return a function that reads the names of the rows; None if they have none."""
        return None if self.names is None else lambda: self.names


def _name_sources(sources: Sequence[Any], *, by_stem: bool) -> dict[str, Any]:
    """Return name -> source, named by the file if `by_stem`, else numbered."""
    if not by_stem:
        return {f"data[{i}]": source for i, source in enumerate(sources)}
    if not all(isinstance(source, str | os.PathLike) for source in sources):
        raise InputError("data: sources that are not files have no names; give a mapping species -> source, or species")
    named = {stem(file_of(path)): path for path in sources}
    if len(named) < len(sources):
        raise InputError(
            f"data: files share a name ({quoted(list(named))}); give a mapping species -> file, or species"
        )
    return named


def _check_no_embedding(sources: Mapping[str, Any] | Sequence[Any]) -> None:
    """Raise if one file has cells and another is a single matrix, which is meant as their embedding."""
    paths = [str(source) for source in sources if isinstance(source, str | os.PathLike)]
    matrices = [path for path in paths if path.lower().endswith(tuple(MATRICES))]
    if isinstance(sources, Mapping) or len(paths) != 2 or len(matrices) != 1:
        return
    cells = next(path for path in paths if path not in matrices)
    raise InputError(
        f"data: two files are two species, but {matrices[0]} is one matrix; to score it as an embedding of {cells},"
        f" give {cells} alone and {matrices[0]} with `embeddings`"
    )


def _select(given: Any, argument: str, species: str) -> Any:
    """Return the value of an argument for one species: the same for all, or the entry of a mapping by species."""
    if isinstance(given, str) and argument != "obs":
        return given
    if not isinstance(given, Mapping) or species not in given:
        raise InputError(
            f"{argument}: with one source per species, give a mapping species -> value; {species!r} has none"
        )
    return given[species]


def _read_stacked(given: Any, name: str) -> tuple[Rows, NamedRows]:
    """Read an embedding with the cells of all sources, and the names of its rows."""
    if not is_file_name(given):
        rows = as_rows(given, name)
        return rows, NamedRows(f"embedding {name!r}", int(rows.shape[0]), names_reader(given))
    file, rows = open_matrix(given, name, f"embedding {name!r}")
    return rows, NamedRows(shown(given), int(rows.shape[0]), file.names_reader())


def _common_names(parts: Mapping[str, Dataset]) -> list[str]:
    names = {species: list(part.embeddings) for species, part in parts.items()}
    first = next(iter(names.values()))
    if any(set(others) != set(first) for others in names.values()):
        listed = "; ".join(f"{species}: {quoted(others)}" for species, others in names.items())
        raise InputError(f"the sources have different embeddings ({listed}); name one that all have with `embeddings`")
    return first


def _stack_rows(parts: Mapping[str, Dataset], name: str) -> StackedRows:
    widths = {species: int(part.embeddings[name].shape[1]) for species, part in parts.items()}
    if len(set(widths.values())) > 1:
        listed = ", ".join(f"{species} {width}" for species, width in widths.items())
        raise InputError(f"{name} differs in its number of dimensions ({listed}); species need one common embedding")
    return StackedRows([part.embeddings[name] for part in parts.values()])


def _stack_columns(parts: Mapping[str, Any], role: str) -> Any:
    """Concatenate a column of all species: numbers as they are, other values as codes into common categories."""
    if all(isinstance(values, np.ndarray) and values.dtype.kind in "fiu" for values in parts.values()):
        return np.concatenate(list(parts.values()))
    labels = [encode_labels(values, f"{role} of {species}") for species, values in parts.items()]
    categories = sorted({name for part in labels for name in part.names})
    rank = {name: code for code, name in enumerate(categories)}
    codes = [np.array([rank[name] for name in part.names])[part.codes] for part in labels]
    return CategoricalColumn(np.concatenate(codes), categories)

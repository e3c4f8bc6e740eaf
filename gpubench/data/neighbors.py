"""Read a precomputed graph of nearest neighbours: as scanpy stores it in AnnData, or as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError, close_matches, some_rows
from gpubench.data._formats.anndata_store import AnnDataSource
from gpubench.data.matrices import to_host
from gpubench.data.read import open_source, reading_source

if TYPE_CHECKING:
    from gpubench.core.types import F64, I64

ARGUMENT = "neighbors_key"
METRICS = ("euclidean", "l2")
_SHOWN = ("n_neighbors", "metric", "use_rep", "n_pcs", "method")
"""Parameters of scanpy that a description of the graph has, in this order."""


@dataclass(frozen=True, slots=True)
class StoredNeighbors:
    """The k nearest neighbours of each cell, from outside of gpubench.

    Attributes
    ----------
    indices, distances : (n, k) neighbours, nearest first, and their Euclidean distances; no cell is among its own
    where : what messages call the graph
    params : parameters with which it was computed, as far as they are stored
    """

    indices: I64
    distances: F64
    where: str
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def k(self) -> int:
        """Number of neighbours of each cell, the cell itself not counted."""
        return int(self.indices.shape[1])

    @property
    def use_rep(self) -> str | None:
        """Name of the embedding in which the neighbours were searched; None if it is not stored."""
        name = self.params.get("use_rep")
        return None if name is None else str(name).removeprefix("obsm/")

    def __str__(self) -> str:
        stored = ", ".join(f"{name}={self.params[name]}" for name in _SHOWN if name in self.params)
        return f"{self.where}, {self.k} neighbours of each cell{f' ({stored})' if stored else ''}"


def read_neighbors(source: Any, given: Any, n: int) -> StoredNeighbors:
    """Read the neighbours of n cells and check what can be checked without the embedding.

    Parameters
    ----------
    source : data of the run, as in `gpubench.data.read`
    given : key of `uns` in the source, as scanpy.pp.neighbors writes it; or (indices, distances), two (n, k) arrays,
        also as a mapping with these names. A cell may be its own neighbour in all rows or in none
    n : number of cells

    Raises
    ------
    InputError
        There is no such graph, it is damaged or of another number of cells, rows have too few neighbours, or the
        distances are not Euclidean.
    """
    if not isinstance(given, str):
        return _from_arrays(given, n)
    with reading_source(source):
        opened = open_source(source)
        if not isinstance(opened, AnnDataSource):
            raise InputError(
                f"{ARGUMENT}={given!r} is a key of uns, and {opened.where} is not AnnData; give (indices, distances)",
                argument=ARGUMENT,
            )
        uns = opened.annotation(given)
        if uns is None:
            known = [key for key in opened.uns.keys() if "neighbors" in key]  # noqa: SIM118 - a group of h5py
            raise InputError(f"{ARGUMENT}={given!r} is not in uns{close_matches(given, known)}", argument=ARGUMENT)
        slot = str(uns.get("distances_key", "distances" if given == "neighbors" else f"{given}_distances"))
        matrix = opened.pairwise(slot)
    if matrix is None:
        raise InputError(f"{ARGUMENT}={given!r}: obsp has no {slot!r}; compute the neighbours again", argument=ARGUMENT)
    params = {
        name: value for name, value in dict(uns.get("params", {})).items() if isinstance(value, str | int | float)
    }
    metric = str(params.get("metric", METRICS[0]))
    if metric not in METRICS:
        raise InputError(
            f"{ARGUMENT}={given!r} has distances of metric {metric!r}; give Euclidean ones, or leave it out",
            argument=ARGUMENT,
        )
    return _from_matrix(matrix, given, params, n)


def _from_matrix(matrix: Any, key: str, params: Mapping[str, Any], n: int) -> StoredNeighbors:
    """Take the nearest neighbours from a sparse matrix of distances, in which stored zeros are distances as well."""
    if matrix.shape != (n, n):
        raise InputError(
            f"{ARGUMENT}={key!r} has a matrix of {matrix.shape[0]:,} x {matrix.shape[1]:,} for {n:,} cells; compute the"
            " neighbours of these cells",
            argument=ARGUMENT,
        )
    rows = np.repeat(np.arange(n), np.diff(matrix.indptr))
    columns, distances = matrix.indices.astype(np.int64), matrix.data.astype(np.float64)
    other = rows != columns
    rows, columns, distances = rows[other], columns[other], distances[other]
    counts = np.bincount(rows, minlength=n)
    stated = int(params["n_neighbors"]) - 1 if "n_neighbors" in params else None
    if stated is None and counts.min() != counts.max():
        raise InputError(
            f"{ARGUMENT}={key!r}: cells have {counts.min():,} to {counts.max():,} neighbours and n_neighbors is not"
            " stored; give a graph with the same number for each cell",
            argument=ARGUMENT,
        )
    k = int(counts.min()) if stated is None else stated
    fewer = np.flatnonzero(counts < max(k, 1))
    if len(fewer):
        fault = some_rows(fewer, n, f"have fewer than the {max(k, 1)} neighbours of n_neighbors={k + 1}")
        raise InputError(f"{ARGUMENT}={key!r}: {fault}; compute the neighbours again", argument=ARGUMENT)
    order = np.lexsort((columns, distances, rows))
    starts = np.cumsum(counts) - counts
    taken = order[starts[:, None] + np.arange(k)]
    return _checked(columns[taken], distances[taken], f"uns[{key!r}]", params, n)


def _from_arrays(given: Any, n: int) -> StoredNeighbors:
    if isinstance(given, Mapping) and {"indices", "distances"} <= given.keys():
        given = given["indices"], given["distances"]
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise InputError(
            f"{ARGUMENT} is of type {type(given).__name__}; give a key of uns, or (indices, distances)",
            argument=ARGUMENT,
        )
    indices, distances = (to_host(array, ARGUMENT) for array in given)
    if indices.ndim != 2 or indices.shape != distances.shape or len(indices) != n or not indices.shape[1]:
        raise InputError(
            f"{ARGUMENT}: indices and distances have the shapes {indices.shape} and {distances.shape}, but there are"
            f" {n:,} cells; give two arrays (cells, neighbours)",
            argument=ARGUMENT,
        )
    if indices.dtype.kind not in "iu":
        raise InputError(
            f"{ARGUMENT}: indices have dtype {indices.dtype}; give (indices, distances)", argument=ARGUMENT
        )
    own = indices == np.arange(n)[:, None]
    if own.any():
        missing = np.flatnonzero(own.sum(axis=1) != 1)
        if len(missing):
            fault = some_rows(missing, n, "do not have their own cell once, as others do")
            raise InputError(f"{ARGUMENT}: {fault}; leave it out of all rows", argument=ARGUMENT)
        if indices.shape[1] == 1:
            raise InputError(f"{ARGUMENT}: cells have themselves as only neighbour; give more", argument=ARGUMENT)
        indices, distances = (array[~own].reshape(n, -1) for array in (indices, distances))
    distances = distances.astype(np.float64)
    order = np.lexsort((indices, distances), axis=1)
    indices = np.take_along_axis(indices.astype(np.int64), order, axis=1)
    return _checked(indices, np.take_along_axis(distances, order, axis=1), "arrays of neighbours", {}, n)


def _checked(indices: I64, distances: F64, where: str, params: Mapping[str, Any], n: int) -> StoredNeighbors:
    sorted_ = np.sort(indices, axis=1)
    for wrong, verb in (
        (((indices < 0) | (indices >= n)).any(axis=1), f"have neighbours outside of 0 to {n - 1}"),
        ((sorted_[:, 1:] == sorted_[:, :-1]).any(axis=1), "have a neighbour twice"),
        ((~np.isfinite(distances) | (distances < 0)).any(axis=1), "have distances that are negative or not finite"),
    ):
        if wrong.any():
            fault = some_rows(np.flatnonzero(wrong), n, verb)
            raise InputError(f"{ARGUMENT}: {fault}; compute the neighbours again", argument=ARGUMENT)
    return StoredNeighbors(indices, distances, where, params)

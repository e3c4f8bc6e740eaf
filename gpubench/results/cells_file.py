"""Write and read per-cell values of a run as a Parquet file, stored in the folder of its `results.json`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.scores import CellColumn, CellScores, CellView, MetricResult
from gpubench.core.types import Labels
from gpubench.results.attached_table import read_attached, utf8, write_attached

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

NAME = "cells.parquet"
"""Name of the file, in the folder of `results.json`."""


def write_cells(cells: CellScores, results: Sequence[MetricResult], path: str | os.PathLike[str]) -> None:
    """Write a Parquet table with a row for each cell, atomically.

    Its columns are, in this order and as far as they exist: "cell" with the names of the cells; one for each group,
    named by its role, such as "label"; "time_value"; one for each score, named "embedding/task/metric" and the values
    of its parameters; and "embedding/view/1" and "embedding/view/2" with coordinates, NaN for cells that are not drawn.
    Groups and classes are stored as categories. The metadata of the schema describes each column, and has a digest of
    `results`, by which `read_cells` recognises the results that the file belongs to.
    """
    import pyarrow as pa

    columns: list[tuple[str, pa.Array]] = []
    descriptions: list[dict[str, Any]] = []
    if cells.names is not None:
        columns.append(("cell", pa.array(map(utf8, cells.names), pa.string())))
        descriptions.append({"kind": "names"})
    for role, labels in cells.groups.items():
        columns.append((role, _categories(labels.codes, labels.names)))
        descriptions.append({"kind": "group", "role": role, "key": labels.key, "names": labels.names})
    if cells.times is not None:
        columns.append(("time_value", pa.array(cells.times)))
        descriptions.append({"kind": "times"})
    for column in cells.columns:
        name = "/".join([column.embedding, column.task, column.metric, *column.params.values()])
        array = pa.array(column.values) if column.names is None else _categories(column.values, column.names)
        columns.append((name, array))
        fields = ("embedding", "task", "metric", "params", "names", "mean_over")
        descriptions.append({"kind": "score", **{field: getattr(column, field) for field in fields}})
    for embedding, view in cells.views.items():
        for axis in (0, 1):
            coordinate = np.full(cells.n_cells, np.nan, np.float32)
            coordinate[view.rows] = view.xy[:, axis]
            columns.append((f"{embedding}/view/{axis + 1}", pa.array(coordinate)))
            descriptions.append({"kind": f"view {axis}", "embedding": embedding, "title": view.title})
    table = pa.table([array for _, array in columns], [utf8(name) for name, _ in columns])
    write_attached(table, {"n_cells": cells.n_cells, "columns": descriptions}, results, path)


def read_cells(path: Path, results: Sequence[MetricResult]) -> CellScores | None:
    """Read a file written by `write_cells`; None if it does not exist or belongs to other results than `results`.

    Raises InputError if the file cannot be read or has another version of the layout.
    """
    found = read_attached(path, results)
    if found is None:
        return None
    table, content = found
    cells = CellScores(content["n_cells"])
    for i, description in enumerate(content["columns"]):
        _read_column(cells, table, i, description)
    return cells


def _read_column(cells: CellScores, table: pa.Table, i: int, description: Mapping[str, Any]) -> None:
    """Add column `i` of the table to `cells`; the first coordinate of a view adds both coordinates."""
    kind = description["kind"]
    if kind == "group":
        names = description["names"]
        cells.groups[description["role"]] = Labels(_codes(table.column(i), names), tuple(names), description["key"])
    elif kind == "names":
        cells.names = np.asarray(table.column(i).to_pylist(), object)
    elif kind == "times":
        cells.times = table.column(i).to_numpy()
    elif kind == "view 0":
        xy = np.stack([table.column(j).to_numpy() for j in (i, i + 1)], axis=1)
        drawn = np.flatnonzero(~np.isnan(xy).any(axis=1))
        cells.views[description["embedding"]] = CellView(description["title"], drawn, xy[drawn])
    elif kind == "score":
        names = description["names"]
        values = table.column(i).to_numpy() if names is None else _codes(table.column(i), names)
        fields = {name: value for name, value in description.items() if name not in ("kind", "names")}
        cells.columns.append(CellColumn(values=values, names=None if names is None else tuple(names), **fields))


def _categories(codes: NDArray[Any], names: Sequence[str]) -> pa.DictionaryArray:
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(pa.array(codes, mask=codes < 0), pa.array(map(utf8, names), pa.string()))


def _codes(column: pa.ChunkedArray, names: Sequence[str]) -> NDArray[np.int32]:
    """Return the categories of a column as indices into `names`; -1 for missing values.

    They are matched by name, because Parquet does not preserve the order of categories.
    """
    joined = column.unify_dictionaries().combine_chunks()
    code_of = {utf8(name): code for code, name in enumerate(names)}
    # the last one is for index -1, which counts from the end
    code = np.array([*(code_of[name] for name in joined.dictionary.to_pylist()), -1], np.int32)
    codes: NDArray[np.int32] = code[joined.indices.fill_null(-1).to_numpy(zero_copy_only=False)]
    return codes

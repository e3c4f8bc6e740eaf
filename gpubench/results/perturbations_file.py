"""Write and read per-perturbation values of a run as a Parquet file, stored in the folder of its `results.json`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.scores import EffectExample, MetricResult, PerturbationTable
from gpubench.results.attached_table import read_attached, utf8, write_attached

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

NAME = "perturbations.parquet"
"""Name of the file, in the folder of `results.json`."""

COLUMNS = ("prediction", "context", "perturbation", "metric", "value", "reason")
"""Columns of the table."""


def write_perturbations(
    table: PerturbationTable, results: Sequence[MetricResult], path: str | os.PathLike[str]
) -> None:
    """Write a Parquet table with a row for each value, atomically.

    Its columns are prediction, context (if contexts were given), perturbation, metric, value (null if undefined) and
    reason (why it is undefined). The metadata of the schema has a digest of `results`, by which `read_perturbations`
    recognises the results that the file belongs to, and the examples of effects.
    """
    import pyarrow as pa

    columns: dict[str, pa.Array] = {}
    for name in COLUMNS:
        values = getattr(table, name)
        if name == "value":
            numbers = np.array(values, np.float64)
            columns[name] = _array(pa.float64(), numbers, np.isnan(numbers))
        elif name != "context" or any(values):
            columns[name] = _categories([utf8(value) for value in values])
    description = {"examples": [asdict(example) for example in table.examples]} if table.examples else {}
    write_attached(pa.table(columns), description, results, path)


def _array(kind: pa.DataType, values: NDArray[Any], missing: NDArray[np.bool_] | None = None) -> pa.Array:
    """Make an Arrow array from memory: `pyarrow.array` would import pandas, which takes longer than all the rest."""
    import pyarrow as pa

    valid = None if missing is None else pa.py_buffer(np.packbits(~missing, bitorder="little").tobytes())
    return pa.Array.from_buffers(kind, len(values), [valid, pa.py_buffer(np.ascontiguousarray(values))])


def _categories(values: Sequence[str]) -> pa.DictionaryArray:
    """Make a dictionary-encoded Arrow array of texts."""
    import pyarrow as pa

    codes = {text: code for code, text in enumerate(dict.fromkeys(values))}
    names = [text.encode() for text in codes]
    offsets = np.cumsum([0, *map(len, names)]).astype(np.int32)
    texts = pa.StringArray.from_buffers(len(names), pa.py_buffer(offsets), pa.py_buffer(b"".join(names)))
    numbers = np.array([codes[text] for text in values], np.int32)
    return pa.DictionaryArray.from_arrays(_array(pa.int32(), numbers), texts)


def read_perturbations(path: Path, results: Sequence[MetricResult]) -> PerturbationTable | None:
    """Read a file written by `write_perturbations`; None if it does not exist or belongs to other results."""
    found = read_attached(path, results)
    if found is None:
        return None
    stored, description = found
    columns = {name: stored.column(name).to_pylist() for name in stored.column_names}
    columns.setdefault("context", [""] * stored.num_rows)
    columns["value"] = [np.nan if value is None else value for value in columns["value"]]
    examples = [_example(example) for example in description.get("examples", ())]
    return PerturbationTable(**columns, examples=examples)


def _example(stored: Mapping[str, Any]) -> EffectExample:
    lists = {name: tuple(stored[name]) for name in ("genes", "real", "predicted")}
    return EffectExample(**{**stored, **lists})

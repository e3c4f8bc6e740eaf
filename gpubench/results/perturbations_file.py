"""Write and read per-perturbation values of a run as a Parquet file, stored in the folder of its `results.json`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np

from gpubench.core.errors import InputError
from gpubench.core.files import write_atomically
from gpubench.core.scores import MetricResult, PerturbationTable
from gpubench.results.cells_file import digest_of_rows, utf8

NAME = "perturbations.parquet"
"""Name of the file, in the folder of `results.json`."""

SCHEMA = 1
"""Version of the layout of the file."""

_KEY = b"gpubench"


def write_perturbations(
    table: PerturbationTable, results: Sequence[MetricResult], path: str | os.PathLike[str]
) -> None:
    """Write a Parquet table with a row for each value, atomically.

    Its columns are prediction, context (if contexts were given), perturbation, metric, value (null if undefined) and
    reason (why it is undefined). The metadata of the schema has a digest of `results`, by which `read_perturbations`
    recognises the results that the file belongs to.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, pa.Array] = {}
    for declared in fields(PerturbationTable):
        name, values = declared.name, getattr(table, declared.name)
        if name == "value":
            numbers = np.array(values, np.float64)
            columns[name] = pa.array(numbers, mask=np.isnan(numbers))
        elif name != "context" or any(values):
            columns[name] = pa.array(map(utf8, values), pa.string()).dictionary_encode()
    content = json.dumps({"schema": SCHEMA, "results": digest_of_rows(results)})
    stored = pa.table(columns).replace_schema_metadata({_KEY: content})
    write_atomically(path, lambda file: pq.write_table(stored, file, compression="zstd"))


def read_perturbations(path: Path, results: Sequence[MetricResult]) -> PerturbationTable | None:
    """Read a file written by `write_perturbations`; None if it does not exist or belongs to other results."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        return None
    try:
        with pq.ParquetFile(path) as file:
            content = json.loads((file.schema_arrow.metadata or {}).get(_KEY, b"{}"))
            if content.get("results") != digest_of_rows(results):
                return None
            stored = file.read() if content["schema"] == SCHEMA else None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{str(path)!r} cannot be read ({error}); score again, or move it away") from error
    if stored is None:
        raise InputError(f"{str(path)!r} has schema {content['schema']}; this version of gpubench reads {SCHEMA}")
    columns = {name: stored.column(name).to_pylist() for name in stored.column_names}
    columns.setdefault("context", [""] * stored.num_rows)
    columns["value"] = [np.nan if value is None else value for value in columns["value"]]
    return PerturbationTable(**columns)

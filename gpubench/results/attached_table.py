"""Parquet tables that lie in the folder of a `results.json` and name the results that they belong to."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpubench.core import scores
from gpubench.core.errors import InputError
from gpubench.core.files import write_atomically
from gpubench.core.scores import MetricResult

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA = 1
"""Version of the layouts of these tables."""

_KEY = b"gpubench"


def write_attached(
    table: pa.Table, description: Mapping[str, Any], results: Sequence[MetricResult], path: str | os.PathLike[str]
) -> None:
    """Write a table, atomically; the metadata of its schema have the description and a digest of the results."""
    import pyarrow.parquet as pq

    content = {"schema": SCHEMA, "results": digest_of_rows(results), **description}
    described = table.replace_schema_metadata({_KEY: json.dumps(scores.plain(content))})
    write_atomically(path, lambda file: pq.write_table(described, file, compression="zstd"))


def read_attached(path: Path, results: Sequence[MetricResult]) -> tuple[pa.Table, dict[str, Any]] | None:
    """Read a table written by `write_attached` and its description.

    Returns None if there is no such file, or if it belongs to other results.

    Raises
    ------
    InputError
        The file cannot be read, or has another version of the layout.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        return None
    try:
        with pq.ParquetFile(path) as file:
            content: dict[str, Any] = json.loads((file.schema_arrow.metadata or {}).get(_KEY, b"{}"))
            if content.get("results") != digest_of_rows(results):
                return None
            table = file.read() if content["schema"] == SCHEMA else None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{str(path)!r} cannot be read ({error}); score again, or move it away") from error
    if table is None:
        raise InputError(f"{str(path)!r} has schema {content['schema']}; this version of gpubench reads {SCHEMA}")
    return table, content


def utf8(text: str) -> str:
    """Escape lone surrogates, which occur in damaged names and cannot be stored in Parquet."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def digest_of_rows(results: Sequence[MetricResult]) -> str:
    """Return a SHA-256 that identifies the results of a run."""
    text = json.dumps([scores.to_dict(row) for row in results], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()

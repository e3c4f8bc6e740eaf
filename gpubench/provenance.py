"""Where a result comes from: versions, machine, engine, seed, options and data, but nothing about the person."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from gpubench import machine
from gpubench.types import RowSource

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.base import Engine

_BLOCK_BYTES = 16 << 20


def provenance(
    engine: Engine,
    *,
    options: Mapping[str, Any],
    source: str | None = None,
    fingerprint: str | None = None,
    n_cells: int | None = None,
) -> dict[str, Any]:
    """Describe a run well enough to repeat it.

    Environment variables, user names and paths are left out, except the source as the user wrote it.

    Parameters
    ----------
    engine : the engine that ran
    options : what the user asked for: columns, tasks, parameters, threads
    source : the data as the user named it
    fingerprint : digest of the scored values (see `fingerprint`)
    n_cells : cells scored

    Returns
    -------
    A JSON-ready dictionary.
    """
    return {
        "gpubench": machine.package_version("gpubench"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": engine.seed,
        "engine": {"name": engine.name, "device": engine.device, "memory_bytes": engine.memory_bytes},
        "options": dict(options),
        "dataset": {"source": source, "fingerprint": fingerprint, "n_cells": n_cells},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": machine.cpu_model(),
        "cores": machine.usable_cores(),
        "memory_bytes": machine.total_memory_bytes(),
        "packages": machine.package_versions(),
    }


def fingerprint(matrices: Iterable[NDArray[Any] | RowSource], columns: Iterable[NDArray[Any]] = ()) -> str:
    """Digest of the values that are scored, whatever the file, dtype or memory order they come in.

    Parameters
    ----------
    matrices : (n, d) each, on the host; read in row blocks, as float32
    columns : (n,) each: codes or numbers

    Returns
    -------
    32 hexadecimal digits of BLAKE2b.
    """
    import numpy as np

    digest = hashlib.blake2b(digest_size=16)
    for matrix in matrices:
        n, d = matrix.shape
        digest.update(f"matrix {n} {d}\n".encode())
        step = max(1, _BLOCK_BYTES // (4 * max(1, d)))
        for start in range(0, n, step):
            stop = min(n, start + step)
            rows = matrix.read(start, stop) if isinstance(matrix, RowSource) else matrix[start:stop]
            digest.update(np.ascontiguousarray(rows, dtype="<f4").data)
    for column in columns:
        values = np.ascontiguousarray(column)
        digest.update(f"column {values.dtype.str} {len(values)}\n".encode())
        digest.update(values.data)
    return digest.hexdigest()

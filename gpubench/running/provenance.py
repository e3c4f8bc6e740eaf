"""Where a result comes from: versions, machine, engine, seed, options and data, but nothing about the person."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from gpubench.core import machine, memory
from gpubench.core.checkpoint import digest_of_code
from gpubench.core.machine import usable_cores

if TYPE_CHECKING:
    from gpubench.engines.base import Engine


def provenance(
    engine: Engine,
    *,
    options: Mapping[str, Any],
    source: str | None = None,
    fingerprint: str | None = None,
    columns: str | None = None,
    n_cells: int | None = None,
    files: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Describe a run well enough to repeat it.

    Environment variables, user names and paths are left out, except the source as the user wrote it.

    Parameters
    ----------
    engine : the engine that ran
    options : what the user asked for: columns, tasks, parameters, threads
    source : the data as the user named it
    fingerprint : digest of the data (see `gpubench.data.fingerprint`)
    columns : the same of its columns alone, which results of other embeddings share
    n_cells : cells scored
    files : what is known of each dataset that was named rather than given as a file

    Returns
    -------
    A JSON-ready dictionary.
    """
    return {
        "gpubench": machine.package_version("gpubench"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": engine.seed,
        "engine": {
            "name": engine.name,
            "chosen": engine.chosen,
            "device": engine.device,
            "memory_bytes": engine.memory_bytes,
            "precision": engine.policy.precision,
            "notes": list(engine.notes),
        },
        "options": dict(options),
        "dataset": {
            "source": source,
            "fingerprint": fingerprint,
            "columns": columns,
            "n_cells": n_cells,
            **({"files": [dict(file) for file in files]} if files else {}),
        },
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": machine.cpu_model(),
        "cores": usable_cores(),
        "memory_bytes": memory.total_memory_bytes(),
        "packages": machine.package_versions() | _of_engine(engine),
    }


def _of_engine(engine: Engine) -> dict[str, str]:
    """Versions of what moves tasks and answers, on which no number depends."""
    return {name: version for name in engine.packages if (version := machine.package_version(name)) is not None}


def what_decides(engine: Engine) -> dict[str, Any]:
    """Everything besides data and options that may move the last bit of a number: code, packages, processor, engine."""
    policy = engine.policy
    return {
        "code": [machine.package_version("gpubench"), digest_of_code()],
        "python": platform.python_version(),
        "packages": machine.package_versions(),
        "machine": [platform.machine(), machine.cpu_model()],
        "engine": [engine.name, engine.device, policy.precision, policy.knn_method, policy.max_exact_pair_dims],
        "seed": engine.seed,
    }

"""Provenance of a result: versions, machine, engine, seed, options and data, but nothing about the user."""

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
    notes: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """Describe a run well enough to repeat it, as a JSON-ready dictionary.

    Environment variables, user names and paths are left out, except `source`, the data as the user named them.
    `columns` is the digest of the columns only, which results of other embeddings share. `notes` say how inputs were
    brought together and which cells were left out, `warnings` what is probably not as it was meant.
    """
    versions = {name: machine.package_version(name) for name in engine.packages}
    engine_packages = {name: version for name, version in versions.items() if version is not None}
    return {
        "gpubench": machine.package_version(machine.DISTRIBUTION),
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
        **({"warnings": list(warnings)} if warnings else {}),
        "dataset": {
            "source": source,
            "fingerprint": fingerprint,
            "columns": columns,
            "n_cells": n_cells,
            **({"files": [dict(file) for file in files]} if files else {}),
        },
        **({"notes": list(notes)} if notes else {}),
        **({"warnings": list(warnings)} if warnings else {}),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": machine.cpu_model(),
        "cores": usable_cores(),
        "memory_bytes": memory.total_memory_bytes(),
        "packages": machine.package_versions() | engine_packages,
    }


def bit_level_context(engine: Engine) -> dict[str, Any]:
    """Return all that may change the last bit of a score, except data and options."""
    policy = engine.policy
    return {
        "code": [machine.package_version(machine.DISTRIBUTION), digest_of_code()],
        "python": platform.python_version(),
        "packages": machine.package_versions(),
        "machine": [platform.machine(), machine.cpu_model()],
        "engine": [engine.name, engine.device, policy.precision, policy.knn_method, policy.max_exact_pair_dims],
        "seed": engine.seed,
    }

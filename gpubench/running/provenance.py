"""Provenance of a result: versions, machine, engine, seed, options and data, but nothing about the user."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from gpubench.core import machine, memory
from gpubench.core.checkpoint import digest_of_code
from gpubench.core.machine import usable_cores
from gpubench.data.urls import shown
from gpubench.running.options import SPECS

if TYPE_CHECKING:
    from gpubench.engines.base import Engine
    from gpubench.running.options import RunOptions


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
    command: str | None = None,
) -> dict[str, Any]:
    """Describe a run well enough to repeat it, as a JSON-ready dictionary.

    Environment variables and user names are left out, and so are paths, except those that the user gave in `source`
    and `command`.

    Parameters
    ----------
    engine : engine on which the run computes
    options : options of the run to record, see `RunOptions.recorded`
    source : the data as the user named it
    fingerprint : digest of embeddings and columns
    columns : digest of the columns alone, which is the same for other embeddings of the same cells
    n_cells : number of cells
    files : facts about the file of each dataset
    notes : messages on how inputs were matched and which cells were left out
    warnings : messages about inputs that are probably a mistake
    command : command line that repeats the run
    """
    versions = {name: machine.package_version(name) for name in engine.packages}
    engine_packages = {name: version for name, version in versions.items() if version is not None}
    return {
        **({"command": command} if command else {}),
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
            **({"verified": engine.verified()} if engine.verified() else {}),
        },
        "options": dict(options),
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


def command_line(run: RunOptions) -> str | None:
    """Return the command line that repeats a run; None if an option was given as an object, such as an array.

    Examples
    --------
    >>> from gpubench.running.options import RunOptions
    >>> from gpubench.tasks import Options
    >>> run = RunOptions("cells.h5ad", ["X_pca"], label="cell type", seed=7, options=Options(k=5))
    >>> command_line(run)
    "gpubench score cells.h5ad -e X_pca --label 'cell type' -o k=5 --seed 7"
    """
    words = ["gpubench", "score"]
    for name, spec in SPECS.items():
        value = getattr(run, name)
        if name == "options":
            given = {key: item for key, item in value.to_dict().items() if item != type(value)().to_dict()[key]}
            found: list[str] | None = [f"{key}={_option_text(item)}" for key, item in given.items()]
        else:
            is_default = value is None or (isinstance(value, str | int) and value == spec.default)
            found = [] if is_default else _texts(value, named=name in _NAMED)
        if found is None:
            return None
        if spec.kind == "switch":
            words += [f"--{name}"] * bool(value)
        elif name == "data":
            words += found
        else:
            workers = name == "cluster" and isinstance(value, int)
            flag = "--workers" if workers else min(spec.flags[0].names, key=len)
            words += [word for text in found for word in (flag, text)]
    return shlex.join(words)


_NAMED = frozenset({"embeddings", "predictions"})
"""Options that take NAME=FILE."""


def _option_text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _texts(value: Any, *, named: bool) -> list[str] | None:
    """Return a value as words of the command line, without credentials; None if it cannot be written as text."""
    from gpubench.data.read import is_file_name, split_name

    if isinstance(value, int):
        return [str(value)]
    if isinstance(value, str | os.PathLike):
        return [shown(os.fspath(value))]
    if isinstance(value, list | tuple):
        texts = [_texts(item, named=False) for item in value]
        return None if None in texts else [text for own in texts for text in own or []]
    items = value.items() if isinstance(value, Mapping) and named else [("", None)]
    words = [
        shown(text) if split_name(text)[0] == name else f"{name}={shown(text)}"
        for name, item in items
        if isinstance(item, str | os.PathLike)
        for text in [os.fspath(item)]
        if split_name(text)[0] == name or is_file_name(text)
    ]
    return words if len(words) == len(items) else None


def bit_level_context(engine: Engine) -> dict[str, Any]:
    """Return everything that can change the last bit of a score, other than data and options."""
    policy = engine.policy
    return {
        "code": [machine.package_version(machine.DISTRIBUTION), digest_of_code()],
        "python": platform.python_version(),
        "packages": machine.package_versions(),
        "machine": [platform.machine(), machine.cpu_model()],
        "engine": [engine.name, engine.device, policy.precision, policy.knn_method, policy.max_exact_pair_dims],
        "seed": engine.seed,
    }

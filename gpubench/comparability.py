"""Whether results can be compared: what their provenance must agree in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpubench.result import Result

# What of the provenance must agree for numbers to be comparable, and how it is called in a warning.
_SHARED = {
    "fingerprint of the cells' columns (label, batch ...)": ("dataset", "columns"),
    "number of cells": ("dataset", "n_cells"),
    "seed": ("seed",),
    "gpubench version": ("gpubench",),
}
_NOT_OPTIONS = frozenset({"tasks", "embeddings"})


def comparability_warnings(names: Sequence[str], results: Sequence[Result]) -> list[str]:
    """Say what of the provenance differs from the first file, and which runs did not end; a line each."""
    first = results[0].provenance
    lines = []
    for name, result in zip(names, results, strict=True):
        if result.interrupted:
            lines.append(f"{name} was interrupted; rows are missing")
        for what, path in _SHARED.items():
            here, there = _at(result.provenance, path), _at(first, path)
            if here != there:
                lines.append(f"{what} differs: {there} in {names[0]}, {here} in {name}")
        here, there = _options(result.provenance), _options(first)
        lines += [
            f"{option} differs: {there.get(option)} in {names[0]}, {here.get(option)} in {name}"
            for option in sorted(here.keys() | there.keys())
            if here.get(option) != there.get(option)
        ]
    return lines


def _at(provenance: Any, path: Sequence[str]) -> Any:
    for name in path:
        provenance = provenance.get(name) if isinstance(provenance, Mapping) else None
    return provenance


def _options(provenance: Any) -> dict[str, Any]:
    return {name: value for name, value in (_at(provenance, ["options"]) or {}).items() if name not in _NOT_OPTIONS}

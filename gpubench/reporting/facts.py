"""The provenance of a run in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpubench.table import printable

Facts = list[tuple[str, str]]

_BYTES = "memory_bytes"


def facts(provenance: Mapping[str, Any]) -> Facts:
    """Name and value of everything that a run says of itself, nested names joined, but for the packages."""
    return [
        (printable(name), printable(text))
        for name, text in _flat({key: value for key, value in provenance.items() if key != "packages"})
    ]


def packages(provenance: Mapping[str, Any]) -> list[str]:
    """Name and version of each package that a number may depend on."""
    return [printable(f"{name} {version}") for name, version in provenance.get("packages", {}).items()]


def _flat(values: Mapping[str, Any], outer: str = "") -> Facts:
    flat: Facts = []
    for key, value in values.items():
        name = f"{outer} {key.replace('_', ' ')}".strip()
        if isinstance(value, Mapping):
            flat += _flat(value, name)
        elif value not in (None, "", []):
            flat.append((name.removesuffix(" bytes"), _text(key, value)))
    return flat


def _text(key: str, value: Any) -> str:
    if key == _BYTES:
        return f"{value / 1e9:.1f} GB"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

"""What is patched: the table of targets, and the versions of them that this is tested with."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from gpubench.accel import czbenchmarks, scib, scikit_learn
from gpubench.accel.patching import LocalName, Patch

TARGETS: dict[str, tuple[Patch | LocalName, ...]] = {
    # czbenchmarks takes its silhouettes from scib_metrics
    "czbenchmarks": (*czbenchmarks.PATCHES, *scib.SILHOUETTES),
    "scib_metrics": (*scib.SILHOUETTES, *scib.PATCHES),
    "sklearn": scikit_learn.PATCHES,
}


@dataclass(frozen=True, slots=True)
class Tested:
    """Versions that this is tested with.

    Attributes
    ----------
    distribution : what the package is called where it is installed from
    first, last : (major, minor), both included
    """

    distribution: str
    first: tuple[int, int]
    last: tuple[int, int]

    def __str__(self) -> str:
        first, last = (".".join(map(str, version)) for version in (self.first, self.last))
        return first if first == last else f"{first} to {last}"


VERSIONS = {
    "czbenchmarks": Tested("cz-benchmarks", (0, 15), (0, 15)),
    "scib_metrics": Tested("scib-metrics", (0, 5), (0, 5)),
    "sklearn": Tested("scikit-learn", (1, 5), (1, 9)),
}
"""Package -> versions."""


def check_version(package: str) -> None:
    """Warn of a version that this is not tested with."""
    tested = VERSIONS[package]
    version = metadata.version(tested.distribution)
    release = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if not tested.first <= release <= tested.last:
        warnings.warn(
            f"gpubench.accel is tested with {tested.distribution} {tested}, and this is {version};"
            " compare some numbers with those without it",
            stacklevel=2,
        )


def tables() -> Mapping[str, dict[str, Any]]:
    """Entries of czbenchmarks' registry of metrics: "metrics_registry[id]" -> attributes; none before its import."""
    module = sys.modules.get("czbenchmarks.metrics.implementations")
    registry = getattr(module, "metrics_registry", None)
    if registry is None:
        return {}
    infos = {kind: registry.get_info(kind) for kind in registry.list_metrics()}
    return {f"metrics_registry[{kind.value}]": vars(info) for kind, info in infos.items()}

"""Public names and signatures change on purpose only: they are those recorded in public_api.json.

`python tests/test_public_api.py` records them again, after a change that the changelog announces.
"""

from __future__ import annotations

import inspect
import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

RECORD = Path(__file__).with_name("public_api.json")
DOCS = Path(__file__).parents[1] / "docs"
PACKAGES = ("", ".accel", ".data", ".datasets", ".metrics", ".metrics.perturbation", ".tasks")
ADDRESS = re.compile(r" at 0x[0-9a-f]+")
"""Where an object lies in memory, which the text of a default may have."""


def described(value: Any) -> Any:
    """Return a signature as text, the members of a class with theirs, or the kind of another value."""
    if inspect.isclass(value):
        members = {name: described(getattr(value, name)) for name in vars(value) if not name.startswith("_")}
        return {"bases": [base.__name__ for base in value.__bases__], "members": dict(sorted(members.items()))}
    if inspect.ismodule(value):
        return "module"
    if callable(value) and (inspect.isroutine(value) or hasattr(value, "spec")):
        return ADDRESS.sub("", str(inspect.signature(value)))
    return "value"


def public_api() -> dict[str, Any]:
    """Return the public names of each package, with their signatures."""
    packages = [import_module(f"gpubench{suffix}") for suffix in PACKAGES]
    return {
        package.__name__: {name: described(getattr(package, name)) for name in sorted(package.__all__)}
        for package in packages
    }


def test_public_names_and_signatures_are_those_recorded() -> None:
    recorded, now = json.loads(RECORD.read_text()), public_api()
    assert list(recorded) == list(now)
    changed = {
        f"{package}.{name}"
        for package in now
        for name in set(recorded[package]) | set(now[package])
        if recorded[package].get(name) != now[package].get(name)
    }
    assert not changed, f"if this is meant, run python tests/{Path(__file__).name} and say so in the changelog"


def test_reference_lists_every_public_name() -> None:
    listed = set(re.findall(r"^   gpubench[\w.]*\.(\w+)$", (DOCS / "api" / "index.md").read_text(), re.MULTILINE))
    names = {name for names in public_api().values() for name, what in names.items() if what != "module"}
    assert not names - listed


def test_every_metric_has_a_page() -> None:
    from gpubench.metrics import METRICS
    from gpubench.metrics.perturbation import PERTURBATION_METRICS

    text = "\n".join(page.read_text() for page in sorted((DOCS / "metrics").glob("*.md")))
    given = " ".join(re.findall(r"^```\{metric\} (.+)$", text, re.MULTILINE)).split()
    functions = re.findall(r"^```\{perturbation-metrics\} (.+)$", text, re.MULTILINE)
    assert sorted(given) == sorted(METRICS)
    assert sorted(functions) == sorted({metric.function.__name__ for metric in PERTURBATION_METRICS.values()})


if __name__ == "__main__":
    RECORD.write_text(json.dumps(public_api(), indent=1) + "\n")

"""Docstrings as gpubench writes them: `name : meaning` in one line, where numpydoc expects `name : type`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

SECTIONS = ("Parameters", "Attributes")
BEFORE_NAPOLEON = 400
ENTRY = re.compile(r"(?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)*) : (?P<meaning>.+)")


def move_meanings(_: Sphinx, __: str, ___: str, ____: Any, _____: Any, lines: list[str]) -> None:
    """Put the meaning of each parameter on lines of its own, so that it is not printed as a type."""
    section, written = "", []
    for i, line in enumerate(lines):
        if i + 1 < len(lines) and lines[i + 1].startswith("---"):
            section = line.strip()
        entry = ENTRY.fullmatch(line) if section in SECTIONS else None
        written += [entry["names"], f"    {entry['meaning']}"] if entry else [line]
    lines[:] = written


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the change of docstrings."""
    app.connect("autodoc-process-docstring", move_meanings, priority=BEFORE_NAPOLEON)
    return {"parallel_read_safe": True}

"""The docstrings of public metrics are complete, and their examples are true."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from typing import Any

import pytest

from gpubench import metrics

FUNCTIONS = {name: getattr(metrics, name) for name in metrics.__all__ if name.islower()}
every_function = pytest.mark.parametrize("name", FUNCTIONS)


@every_function
def test_example_is_true(name: str) -> None:
    function: Callable[..., Any] = FUNCTIONS[name]
    (test,) = doctest.DocTestFinder(recurse=False).find(function, name, globs={})
    assert test.examples
    report: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=report.append)
    assert not report, "".join(report)


@every_function
def test_docstring_begins_with_a_sentence_and_has_its_sections(name: str) -> None:
    text = FUNCTIONS[name].__doc__
    first = text.splitlines()[0]
    assert first.endswith(".")
    assert first.split()[0] in ("Compute", "Find", "Test", "Return")
    for section in ("Parameters", "Returns", "Raises", "Examples"):
        assert f"    {section}\n    {'-' * len(section)}\n" in text, section
    for parameter in FUNCTIONS[name].__annotations__.keys() - {"return"}:
        assert parameter in text, parameter

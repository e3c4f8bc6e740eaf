"""The examples in the docstrings of gpubench.core are true."""

from __future__ import annotations

import doctest
from importlib import import_module

import pytest


@pytest.mark.parametrize("name", ["errors", "units"])
def test_docstring_examples_are_true(name: str) -> None:
    tests = [test for test in doctest.DocTestFinder().find(import_module(f"gpubench.core.{name}")) if test.examples]
    assert tests
    for test in tests:
        assert doctest.DocTestRunner().run(test).failed == 0

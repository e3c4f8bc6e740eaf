"""The examples in the docstrings of gpubench.data are true."""

from __future__ import annotations

import doctest
from importlib import import_module

import pytest

MODULES = (
    "columns",
    "expression",
    "matrices",
    "perturbation.predictions",
    "perturbation.prepare",
    "perturbation.truth",
    "read",
    "species",
    "urls",
)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_are_true(name: str) -> None:
    module = import_module(f"gpubench.data.{name}")
    tests = [test for test in doctest.DocTestFinder().find(module) if test.examples]
    assert tests
    for test in tests:
        assert doctest.DocTestRunner().run(test).failed == 0

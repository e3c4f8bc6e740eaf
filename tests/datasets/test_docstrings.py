"""The examples in the docstrings of gpubench.datasets are true."""

from __future__ import annotations

import doctest

import pytest

import gpubench.datasets
import gpubench.datasets.lookup


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("module", [gpubench.datasets, gpubench.datasets.lookup], ids=lambda module: module.__name__)
def test_docstring_examples_are_true(module: object) -> None:
    assert doctest.testmod(module).attempted > 0
    assert doctest.testmod(module).failed == 0

"""What the tests in training need; without it they are skipped, or with --require-training errors."""

from __future__ import annotations

from importlib.util import find_spec

import pytest


def need(config: pytest.Config, *packages: str) -> None:
    """Skip the test if a package is missing, or fail it if the packages are required."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing and config.getoption("--require-training"):
        pytest.fail(f"not installed: {', '.join(missing)}")
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; see the extra `lightning`")


@pytest.fixture
def needs_torch(pytestconfig: pytest.Config) -> None:
    need(pytestconfig, "torch")


@pytest.fixture
def needs_lightning(pytestconfig: pytest.Config) -> None:
    need(pytestconfig, "torch", "lightning")


@pytest.fixture
def needs_transformers(pytestconfig: pytest.Config) -> None:
    need(pytestconfig, "torch", "transformers", "accelerate")


@pytest.fixture
def needs_torchmetrics(pytestconfig: pytest.Config) -> None:
    need(pytestconfig, "torch", "torchmetrics")

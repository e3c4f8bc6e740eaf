"""`pytest -p gpubench.accel.pytest_plugin`: run a test suite with all patches installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpubench.accel import install, report, uninstall

if TYPE_CHECKING:
    import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option `--accel-engine` to pytest."""
    parser.addoption("--accel-engine", default="auto", help="engine of gpubench.accel: auto, cpu or cuda")


def pytest_configure(config: pytest.Config) -> None:
    """Install all patches before test modules are imported."""
    install(engine=config.getoption("--accel-engine"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many calls of each patched function ran on gpubench, and how many fell back to the original."""
    terminalreporter.section("gpubench.accel")
    terminalreporter.write_line(str(report()))


def pytest_unconfigure() -> None:
    """Remove all patches."""
    uninstall()

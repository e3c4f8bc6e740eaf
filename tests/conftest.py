"""Fixtures that every test may use: the engines, the real data, small synthetic cells."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cells import Cells, make_cells
from hypothesis import settings
from shared_dask import shared_client

from gpubench.core.errors import EngineUnavailable
from gpubench.engines import ENGINES, get_engine
from gpubench.engines.base import Engine
from gpubench.engines.cpu import compiled

# Runs on shared machines take their time; what is generated must not change between two runs of the same commit in CI.
settings.register_profile("dev", deadline=None, print_blob=True)
settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


EMULATED = "emulated"
NUMPY = "numpy"
"""The CPU engine as it is where no compiler was there to build its tiles."""

DASK = "dask"
"""The Dask engine on a cluster of two processes of one thread each, which all tests share."""

TILED = {
    *("test_fuzzy_graph", "test_knn", "test_mean_distances", "test_rank_sums", "test_silhouette_widths"),
    "test_same_bits",
}
"""Tests of what the compiled tiles do; they run without them as well."""

ON_EMULATION = {
    "test_fuzzy_graph",
    "test_integration",
    "test_mean_distances",
    "test_neighborhoods",
    "test_perturbation_engines",
    "test_rank_and_group_means",
    "test_rank_sums",
}
"""Tests of operations that run on the host emulation of the CUDA engine as well, where there is a C++ compiler.

Other operations have tests of their own there, of fewer cells: `engines/test_cuda_host.py`."""

ON_DASK = {"test_mean_distances", "test_perturbation_engines", "test_same_bits"}
"""Tests of operations that run on Dask as well; with `--engine dask` all do."""


@pytest.fixture(autouse=True)
def keep_no_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests compute everything, and leave nothing in the user's cache; those of kept results say so."""
    monkeypatch.setattr("gpubench.core.kept_results.MIN_SECONDS", float("inf"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--engine",
        action="append",
        choices=(*ENGINES, EMULATED, NUMPY),
        help="test the engines on this one, which must start (may be repeated). Default: every engine that starts. "
        f"{EMULATED!r}: the CUDA engine with its kernels on the host, no GPU; slow. {NUMPY!r}: the CPU engine without "
        "compiled tiles",
    )
    parser.addoption(
        "--require-training",
        action="store_true",
        help="fail the tests of training that need torch, Lightning or transformers where they are missing",
    )
    parser.addoption("--fuzz", type=int, default=400, metavar="N", help="inputs that test_fuzz.py tries")


def pytest_configure() -> None:
    """Hear Ctrl-C where the tests are run in the background of a script: shells make such commands deaf to it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "engine_name" in metafunc.fixturenames:
        names = _engine_names(metafunc.config, metafunc.module.__name__.rpartition(".")[2])
        metafunc.parametrize("engine_name", names, scope="session")


def _engine_names(config: pytest.Config, module: str) -> list[str]:
    """Engines to test. One that was named is not skipped where it cannot start: its tests are errors."""
    named: list[str] | None = config.getoption("--engine")
    emulated = module in ON_EMULATION and shutil.which(os.environ.get("CXX", "g++"))
    more = [
        *([DASK] if module in ON_DASK and find_spec("distributed") else []),
        *([NUMPY] if module in TILED else []),
        *([EMULATED] if emulated else []),
    ]
    return named or [*(name for name in ENGINES if name != DASK and _starts(name)), *more]


@cache
def _starts(name: str) -> bool:
    try:
        get_engine(name)
    except EngineUnavailable:
        return False
    return True


@pytest.fixture(scope="session")
def engine(engine_name: str) -> Engine:
    """An engine with the default seed and threads; a test that takes it runs once for each engine."""
    return _start(engine_name)


@pytest.fixture(scope="session")
def engine_at_scale(engine_name: str, engine: Engine) -> Engine:
    """The engine, for as many cells as fill its blocks."""
    if engine_name == EMULATED:
        pytest.skip("as many cells as fill the blocks take the emulation hours")
    return engine


@pytest.fixture(scope="session")
def start_engine(engine_name: str) -> Callable[..., Engine]:
    """Start another engine of the same kind: `start_engine(threads=1, seed=7)`."""
    return lambda **options: _start(engine_name, **options)


def _start(name: str, **options: Any) -> Engine:
    if name == NUMPY:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(compiled.VARIABLE, NUMPY)
            return get_engine("cpu", **options)
    if name == DASK:
        return get_engine(name, **{"cluster": shared_client(), **options})
    if name != EMULATED:
        return get_engine(name, **options)
    from emulated import EmulatedDevice, emulate_in_session, start

    return start(EmulatedDevice(emulate_in_session()), **options)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real cells (h5ad files)."""
    beside_checkout = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("GPUBENCH_DATA", beside_checkout))
    if not folder.is_dir():
        pytest.skip(f"real data not found: no folder {folder}; set GPUBENCH_DATA")
    return folder


@pytest.fixture(scope="session")
def small_cells() -> Cells:
    """400 cells x 10 dimensions: overlapping labels of uneven size, shifted batches, a time course, duplicates."""
    return make_cells(400, 10, n_labels=6, n_batches=3, seed=0)


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator of random numbers, seeded."""
    return np.random.default_rng(0)

"""Kernels to test: on the host under sanitizers, and on the GPU where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from kernels.emulator import Broken, Compiler, Emulated

from gpubench.engines.cuda import kernels

Emulate = Callable[..., Emulated]
KernelOn = Callable[[str], Callable[..., None]]


@pytest.fixture(scope="session")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compiler]:
    """Compiles each source once per session."""
    compiler = Compiler(tmp_path_factory.mktemp("kernels"))
    if compiler.missing:
        pytest.skip(compiler.missing)
    yield compiler
    compiler.close()


@pytest.fixture(scope="session")
def emulate(compiler: Compiler) -> Iterator[Emulate]:
    """Compile a kernel for the host: `emulate(name)`, or another source of it: `emulate(name, text)`."""
    running: dict[Any, Emulated] = {}

    def compiled(name: str, text: str | None = None, *, sanitizer: str = "address") -> Emulated:
        executable = compiler.executable(name, text or kernels.source(name), sanitizer)
        if executable not in running:
            running[executable] = Emulated(name, executable)
        running[executable].schedule = 0
        return running[executable]

    yield compiled
    for kernel in running.values():
        kernel.close()


@pytest.fixture(scope="session")
def thread_sanitizer(emulate: Emulate) -> Callable[[], str]:
    """Return a function that returns the name of the thread sanitizer, or skips if its programs do not start.

    It needs a layout of the address space that some operating-system kernels with strong randomisation do not provide.
    """

    @cache
    def problem() -> str:
        kernel = emulate("group_means", sanitizer="thread")
        x, order, starts = np.zeros((1, 1), np.float32), np.zeros(1, np.int32), np.array([0, 1], np.int64)
        try:
            kernel((1,), (256,), x, order, starts, 1, 1, np.zeros((1, 1)))
        except Broken as error:
            return str(error)
        return ""

    def name() -> str:
        if "FATAL: ThreadSanitizer" in problem():
            pytest.skip(f"the thread sanitizer does not run here: {problem()}")
        return "thread"

    return name


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kernel_on" in metafunc.fixturenames:
        metafunc.parametrize("kernel_on", _places(metafunc.config), indirect=True, scope="session")


def _places(config: pytest.Config) -> list[str]:
    """Return where kernels run. A GPU that was requested is not skipped if it is missing: its tests are errors."""
    on_gpu = "cuda" in (config.getoption("--engine") or []) or _gpu_is_here()
    return ["host", "gpu"] if on_gpu else ["host"]


@cache
def _gpu_is_here() -> bool:
    if not find_spec("cupy"):
        return False
    import cupy

    return bool(cupy.cuda.is_available())


@pytest.fixture(scope="session")
def kernel_on(request: pytest.FixtureRequest) -> KernelOn:
    """Return a kernel by name, called like `kernels.launch` without the name, with NumPy arrays."""
    return _on_gpu if request.param == "gpu" else request.getfixturevalue("emulate")


def _on_gpu(name: str) -> Callable[..., None]:
    import cupy

    def run(grid: Any, block: Any, *args: Any) -> None:
        moved = [_to_gpu(value) if isinstance(value, np.ndarray) else value for value in args]
        kernels.launch(name, grid, block, *moved)
        for value, on_gpu in zip(args, moved, strict=True):
            if isinstance(value, np.ndarray) and value.flags.writeable:
                value[...] = cupy.asnumpy(on_gpu)

    return run


def _to_gpu(array: Any) -> Any:
    """Return a copy with the same strides, gaps between rows included."""
    import cupy

    if array.flags.c_contiguous:
        return cupy.array(array)
    rows = cupy.empty((len(array), array.strides[0] // array.itemsize), array.dtype)[:, : array.shape[1]]
    rows[...] = cupy.asarray(array)
    return rows

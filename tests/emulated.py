"""The CUDA engine on the host: its own Python code, CuPy's stand-in, and emulated kernels. No GPU is used."""

from __future__ import annotations

import atexit
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import strict_cupy
from kernels.emulator import Compiler, Emulated

from gpubench.engines.cuda import kernels
from gpubench.engines.cuda.device import Device
from gpubench.engines.cuda.engine import CudaEngine
from gpubench.engines.cuda.signatures import KERNELS
from gpubench.engines.cuda.verdicts import Verdict, Verdicts

Emulate = Callable[[str], Emulated]
StartOn = Callable[..., CudaEngine]
"""Starts the engine on a new emulated device."""


class Trusting(Verdicts):
    """Verdicts by which every method is right, without a check."""

    def of(self, operation: str, method: str) -> Verdict:  # noqa: ARG002
        return Verdict(is_right=True)


class EmulatedDevice(Device):
    """A device whose kernels run on the host.

    Attributes
    ----------
    launched : names of the kernels in launch order
    products : (left rows, right rows, on tensor cores) of each matrix product
    """

    def __init__(
        self, emulate: Emulate, capability: tuple[int, int] = (9, 0), free_bytes: int = 4 << 30, number: int = 0
    ) -> None:
        super().__init__(strict_cupy.make_cupy(capability), number)  # type: ignore[arg-type]
        self._emulate = emulate
        self._free_bytes = free_bytes
        self.launched: list[str] = []
        self.products: list[tuple[int, int, bool]] = []
        self.n_multiprocessors = 1
        self.verdicts = Trusting(self, None)

    def launch(self, name: str, n_threads: int, *args: Any, rows: int | None = None) -> None:
        """Run a kernel in at most two blocks, so that its loops over the grid run as on a small GPU."""
        self.launched.append(name)
        block = KERNELS[name].block_threads
        n_blocks = 1 if n_threads <= block else 2
        grid = (n_blocks,) if rows is None else (n_blocks, min(rows, 3))
        host = [value._host if isinstance(value, strict_cupy.ndarray) else value for value in args]
        assert not any(isinstance(value, np.ndarray) for value in args), "launched with an array of the host"
        # an array that is passed twice is copied twice, and the kernel must not write to the second one
        again = [i for i, value in enumerate(host) if isinstance(value, np.ndarray) and _is_among(value, host[:i])]
        before = [host[i].copy() for i in again]
        for i in again:
            host[i] = _copy(host[i])
        self._emulate(name)(grid, (block,), *host)
        for i, value in zip(again, before, strict=True):
            np.testing.assert_array_equal(host[i], value)

    def multiply(self, left: Any, right: Any, out: Any, *, tensor_cores: bool) -> None:
        """Multiply at the accuracy of the operands, which must have been rounded for tensor cores before."""
        for operand in (left, right, out):
            assert operand.dtype == np.float32
            assert not any(start <= operand.data.ptr < stop for start, stop in self._mapped.items()), "on the host"
            assert operand.flags.c_contiguous or operand.flags.f_contiguous, "CuPy would copy it"
        self.products.append((left.shape[0], right.shape[1], tensor_cores))
        self.xp.dot(left, right, out)

    def product_seconds(self, edge: int, width: int, *, tensor_cores: bool) -> float:
        """Return times by which the split product is the faster one from 128 dimensions on."""
        assert edge > 0
        return 127.0 if tensor_cores else float(width)

    def free_bytes(self) -> int:
        return self._free_bytes


def _is_among(array: np.ndarray, others: list[Any]) -> bool:
    return any(isinstance(other, np.ndarray) and np.shares_memory(array, other) for other in others)


def _copy(array: np.ndarray) -> np.ndarray:
    """Return a copy with the same strides, gaps between rows included."""
    if array.flags.c_contiguous:
        return array.copy()
    rows = np.empty((len(array), array.strides[0] // array.itemsize), array.dtype)[:, : array.shape[1]]
    rows[...] = array
    return rows


def start(device: EmulatedDevice, **options: Any) -> CudaEngine:
    """Start the engine on an emulated device."""
    return CudaEngine(device=device, **options)


@cache
def emulate_in_session() -> Emulate:
    """Return a function that compiles kernels into a folder that lasts as long as the process."""
    folder = tempfile.TemporaryDirectory()
    compiler = Compiler(Path(folder.name))
    assert compiler.missing is None, compiler.missing
    compiler.prepare([(name, kernels.source(name), "address") for name in KERNELS])
    running: dict[str, Emulated] = {}

    def emulate(name: str) -> Emulated:
        if name not in running:
            running[name] = Emulated(name, compiler.executable(name, kernels.source(name), "address"))
        return running[name]

    def end() -> None:
        for kernel in running.values():
            kernel.close()
        compiler.close()
        folder.cleanup()

    atexit.register(end)
    return emulate

"""The GPU as the CUDA engine sees it: found, asked what it can do, given work, and its memory counted.

Everything that is CuPy's own, beyond the functions that it has in common with NumPy, is in this file.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import EngineUnavailable
from gpubench.core.types import Array
from gpubench.engines.cuda import kernels

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

OLDEST_CAPABILITY = 75
"""Compute capability (times ten) that the kernels are compiled and tested for from here on."""

TENSOR_CORES_FROM = 80
"""Compute capability (times ten) from which tensor cores take float32 operands, rounded to TF32."""

OLDEST_DRIVER = 12
"""CUDA's major version that the driver must support: that of the oldest packages there are extras for."""

BROKEN = (ImportError, OSError, RuntimeError, AttributeError)
"""What a CuPy raises that cannot work: a package half removed, a library that does not load, an error of CUDA."""

BLOCK_THREADS = 256
RANGE_DOMAIN = "gpubench"
"""The domain of NVTX under which profilers show the stages."""

WAVES = 16
"""Blocks of a launch for each multiprocessor: enough to fill it, and the kernels loop over the rest."""


def driver_version() -> str | None:
    """The newest CUDA version that the NVIDIA driver supports, None without a driver."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    version = ctypes.c_int()
    try:
        result = ctypes.CDLL(library).cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):  # no such library, or one that is no driver
        return None
    if result != 0:
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def count_gpus() -> int:
    """GPUs that CuPy sees; 0 where it cannot work."""
    try:
        import cupy

        return int(cupy.cuda.runtime.getDeviceCount())
    except BROKEN:
        return 0


def install_command(driver: str | None = None) -> str:
    """The command that installs what the CUDA engine needs, for the CUDA version of the driver."""
    extra = "cuda12" if driver is not None and driver.startswith("12.") else "cuda13"
    return f'pip install "gpubench[{extra}]"'


class Device:
    """One GPU, through CuPy.

    Attributes
    ----------
    xp : CuPy
    name : of the GPU
    n_multiprocessors : that work at the same time
    has_tensor_cores : whether they multiply float32 rounded to TF32
    """

    def __init__(self, xp: ModuleType, number: int = 0) -> None:
        self.xp: Any = xp
        self.number = number
        properties = self.xp.cuda.runtime.getDeviceProperties(number)
        self.name: str = properties["name"].decode()
        self.n_multiprocessors = int(properties["multiProcessorCount"])
        self.capability = 10 * int(properties["major"]) + int(properties["minor"])
        self.has_tensor_cores = self.capability >= TENSOR_CORES_FROM
        self._nvtx: Any = import_module("nvtx") if find_spec("nvtx") else None

    @classmethod
    def find(cls) -> Device:
        """Start the first GPU.

        Raises
        ------
        EngineUnavailable
            Which piece is missing, and the command that installs it.
        """
        driver = driver_version()
        if driver is None:
            raise EngineUnavailable("engine 'cuda' needs an NVIDIA GPU, but this machine has no NVIDIA driver")
        if int(driver.partition(".")[0]) < OLDEST_DRIVER:
            raise EngineUnavailable(
                f"engine 'cuda' needs a driver for CUDA {OLDEST_DRIVER} or newer, this one is for CUDA {driver};"
                " update the NVIDIA driver"
            )
        if find_spec("cupy") is None:
            raise EngineUnavailable(f"engine 'cuda' needs CuPy; install it with: {install_command(driver)}")
        try:
            device = cls._first()
        except BROKEN as error:
            why = " ".join(str(error).split()) or type(error).__name__
            raise EngineUnavailable(
                f"engine 'cuda' cannot start: CuPy says {why!r}; install it again for CUDA {driver} with: "
                f"{install_command(driver)}"
            ) from error
        if device is None:
            raise EngineUnavailable("engine 'cuda' needs a GPU, but the driver shows none; see CUDA_VISIBLE_DEVICES")
        if device.capability < OLDEST_CAPABILITY:
            has, needs = device.capability / 10, OLDEST_CAPABILITY / 10
            raise EngineUnavailable(
                f"engine 'cuda' needs compute capability {needs}, {device.name} has {has}; use engine='cpu'"
            )
        return device

    @classmethod
    def _first(cls) -> Device | None:
        """The current GPU, once all that the engine needs of CuPy has answered; None where there is no GPU."""
        import cupy

        if int(cupy.cuda.runtime.getDeviceCount()) == 0:
            return None
        cupy.cuda.nvrtc.getVersion()
        device = cls(cupy, int(cupy.cuda.runtime.getDevice()))
        device.free_bytes()  # makes the context, which fails where the GPU is lent to another process alone
        return device

    # Work

    def launch(
        self,
        name: str,
        n_threads: int,
        *args: Any,
        block: int = BLOCK_THREADS,
        shared: int = 0,
        rows: int | None = None,
    ) -> None:
        """Run a kernel of `kernels/` with about `n_threads` threads (of each of `rows`, where its grid has a y)."""
        n_blocks = min(-(-n_threads // block), WAVES * self.n_multiprocessors)
        grid = (max(1, n_blocks),) if rows is None else (max(1, n_blocks), min(rows, kernels.MAX_GRID[1]))
        kernels.launch(name, grid, (block,), *args, shared=shared)

    def product(self, left: Array, right: Array, out: Array, *, tensor_cores: bool) -> None:
        """Write left (m, p) . right (n, p)^T to out (m, n); all float32 and C-contiguous.

        With `tensor_cores` the operands may be rounded to TF32; otherwise the products are float32.
        """
        from cupy._core import _routines_linalg as linalg

        wanted = linalg.COMPUTE_TYPE_TF32 if tensor_cores else linalg.COMPUTE_TYPE_PEDANTIC
        before = linalg.get_compute_type(np.float32)
        linalg.set_compute_type(np.float32, wanted)
        try:
            self.xp.dot(left, right.T, out)
        finally:
            linalg.set_compute_type(np.float32, before)

    def synchronize(self) -> None:
        """Wait until everything that was asked for is done."""
        self.xp.cuda.get_current_stream().synchronize()

    # Memory

    def free_bytes(self) -> int:
        """Memory that this process can still get, what CuPy keeps for the next arrays included."""
        free, _ = self.xp.cuda.runtime.memGetInfo()
        return int(free) + int(self.xp.get_default_memory_pool().free_bytes())

    def peak_bytes(self) -> int:
        """The most memory that CuPy has held so far."""
        return int(self.xp.get_default_memory_pool().total_bytes())

    def pinned(self, shape: tuple[int, int], dtype: DTypeLike) -> NDArray[Any]:
        """Host memory that the GPU copies from by itself."""
        n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.ndarray(shape, dtype, self.xp.cuda.alloc_pinned_memory(n_bytes))

    def mapped(self, shape: tuple[int, int], dtype: DTypeLike) -> tuple[Array, NDArray[Any]]:
        """Pinned host memory as an array of the GPU, which reads it over the bus, and as one of the host."""
        host = self.pinned(shape, dtype)
        cuda = self.xp.cuda
        memory = cuda.UnownedMemory(host.ctypes.data, host.nbytes, host, self.number)
        return self.xp.ndarray(shape, dtype, cuda.MemoryPointer(memory, 0)), host

    @contextmanager
    def copying(self) -> Iterator[Copier]:
        """Copy blocks from the host while the host prepares the next one."""
        self.synchronize()  # what was in the memory of the new array may still be in use
        copier = Copier(self)
        try:
            yield copier
        finally:
            copier.wait()

    def adopt(self, x: Any) -> Array | None:
        """An array that is on this GPU already, of CuPy, torch or any exporter of DLPack, without a copy; else None."""
        if isinstance(x, self.xp.ndarray):
            return x
        if getattr(x, "requires_grad", False):
            x = x.detach()
        if hasattr(x, "__dlpack_device__") and tuple(map(int, x.__dlpack_device__())) == (_DLPACK_CUDA, self.number):
            return self.xp.from_dlpack(x)
        return None

    # Ranges that profilers show

    def push_range(self, name: str) -> None:
        """Open a range in the profiler's timeline, where the package nvtx is installed."""
        if self._nvtx is not None:
            self._nvtx.push_range(name, domain=RANGE_DOMAIN)

    def pop_range(self) -> None:
        """Close the last range."""
        if self._nvtx is not None:
            self._nvtx.pop_range(domain=RANGE_DOMAIN)


_DLPACK_CUDA = 2


class Copier:
    """Two pinned buffers in turn: one is filled by the host while the other is on its way to the GPU."""

    def __init__(self, device: Device) -> None:
        self._device = device
        cuda = device.xp.cuda
        self._stream = cuda.Stream(non_blocking=True)
        self._copied = (cuda.Event(), cuda.Event())
        self._buffers: list[NDArray[Any]] = []
        self._turn = 0

    def copy(self, block: NDArray[Any], to: Array) -> None:
        """Start to copy a block of the host to `to`, as the dtype of `to`; rows of later blocks are no more."""
        if not self._buffers:
            self._buffers = [self._device.pinned(block.shape, to.dtype) for _ in self._copied]
        buffer, copied = self._buffers[self._turn][: len(block)], self._copied[self._turn]
        copied.synchronize()
        with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is refused as such
            buffer[...] = block
        to.set(buffer, stream=self._stream)
        copied.record(self._stream)
        self._turn = 1 - self._turn

    def wait(self) -> None:
        """Wait for the last copies."""
        self._stream.synchronize()

"""Access to a GPU through CuPy: detection, kernel launches, matrix products, memory and copies.

All use of CuPy beyond the functions that it shares with NumPy is in this file.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from gpubench.core.errors import EngineUnavailable, explaining_memory_errors, is_memory_error
from gpubench.core.files import cache_folder
from gpubench.core.types import Array
from gpubench.engines.cuda import kernels
from gpubench.engines.cuda.memory import IMPORT_ERRORS, GpuMemory
from gpubench.engines.cuda.signatures import KERNELS
from gpubench.engines.cuda.verdicts import FOLDER, Verdicts

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

MIN_CAPABILITY = 75
"""Lowest compute capability (times ten) that the kernels are compiled and tested for."""

MIN_TF32_CAPABILITY = 80
"""Lowest compute capability (times ten) whose tensor cores take float32 operands, rounded to TF32."""

MIN_DRIVER = 12
"""Lowest major CUDA version that the driver must support: that of the oldest packages there are extras for."""

CANNOT_START = {
    46: "cannot start, as another process has exclusive use of the GPU; end it, or choose another GPU",
    100: "needs a GPU, but the driver shows none; see CUDA_VISIBLE_DEVICES",
    101: "needs a GPU, but there is none of that number; see CUDA_VISIBLE_DEVICES",
    802: "cannot start, as the system is not ready for CUDA; start the service nvidia-fabricmanager",
    803: "cannot start, as the NVIDIA driver was updated while it was loaded; restart the machine",
}
"""Errors of the CUDA runtime that no package causes, and advice for each."""

RANGE_DOMAIN = "gpubench"
"""The NVTX domain under which profilers show the stages."""

BLOCKS_PER_MULTIPROCESSOR = 16
"""Blocks of a launch per multiprocessor: enough to fill it; the kernels loop over the rest."""

DRIVER_FILE = Path("/proc/driver/nvidia/version")

REPEATS, PRODUCTS_TIMED = 3, 8
"""Number of timings, and number of products in each."""

DLPACK_CUDA = 2
"""DLPack's device type of CUDA memory."""


def driver_version() -> str | None:
    """Return the newest CUDA version that the NVIDIA driver supports; None without a driver."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    version = ctypes.c_int()
    try:
        result = ctypes.CDLL(library).cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):  # no such library, or one that is no driver
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}" if result == 0 else None


def driver_build() -> str:
    """Return the description of the NVIDIA kernel module, which names its exact version; empty if there is none."""
    try:
        return DRIVER_FILE.read_text().partition("\n")[0].strip()
    except OSError:
        return ""


def count_gpus() -> int:
    """Return the number of GPUs that CuPy finds; 0 if CuPy does not work."""
    try:
        import cupy

        return int(cupy.cuda.runtime.getDeviceCount())
    except IMPORT_ERRORS:
        return 0


def install_command(driver: str | None = None) -> str:
    """Return the shell command that installs the packages of the CUDA engine.

    `driver` is the CUDA version of the driver, such as "12.4"; if None, the packages for CUDA 13 are named.
    """
    extra = "cuda12" if driver is not None and driver.startswith("12.") else "cuda13"
    return f'pip install "gpubench-sc[{extra}]"'


def _why_unavailable(error: Exception, driver: str) -> str:
    """Return a message on why the engine cannot start, given an error of CuPy, and what to do about it."""
    said = " ".join(str(error).split()) or type(error).__name__
    status = getattr(error, "status", None)
    if status in CANNOT_START:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        hint = "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible!r})"
        return f"engine 'cuda' {CANNOT_START[status]}{hint}; {said}"
    if is_memory_error(error):
        return f"engine 'cuda' cannot start, as other processes have taken the memory of the GPU; {said}"
    return (
        f"engine 'cuda' cannot start: CuPy says {said!r}; install it again for CUDA {driver} with: "
        f"{install_command(driver)}"
    )


class Device:
    """One GPU, used through CuPy.

    Attributes
    ----------
    xp : the module cupy
    number : CUDA's device number of the GPU
    name : name of the GPU
    n_multiprocessors : number of multiprocessors
    capability : compute capability times ten
    has_tensor_cores : whether the GPU has tensor cores that multiply float32 rounded to TF32
    memory : memory pool of the GPU
    verdicts : which methods compute right numbers on this GPU
    """

    def __init__(self, xp: ModuleType, number: int = 0) -> None:
        self.xp: Any = xp
        self.number = number
        properties = self.xp.cuda.runtime.getDeviceProperties(number)
        self.name: str = properties["name"].decode()
        self.n_multiprocessors = int(properties["multiProcessorCount"])
        self.capability = 10 * int(properties["major"]) + int(properties["minor"])
        self.has_tensor_cores = self.capability >= MIN_TF32_CAPABILITY
        self.verdicts = Verdicts(self, cache_folder() / FOLDER)
        self._mapped: dict[int, int] = {}
        self._nvtx: Any = import_module("nvtx") if find_spec("nvtx") else None
        with self.xp.cuda.Device(number):
            self.memory = GpuMemory(xp, number)

    @classmethod
    def find(cls) -> Device:
        """Return the current GPU, after checking that CuPy can use it.

        Raises
        ------
        EngineUnavailable
            There is no usable GPU; the message names the missing driver or package and how to install it.
        """
        driver = driver_version()
        if driver is None:
            raise EngineUnavailable("engine 'cuda' needs an NVIDIA GPU, but this machine has no NVIDIA driver")
        if int(driver.partition(".")[0]) < MIN_DRIVER:
            raise EngineUnavailable(
                f"engine 'cuda' needs a driver for CUDA {MIN_DRIVER} or newer, this one is for CUDA {driver};"
                " update the NVIDIA driver"
            )
        if find_spec("cupy") is None:
            raise EngineUnavailable(f"engine 'cuda' needs CuPy; install it with: {install_command(driver)}")
        try:
            import cupy

            cupy.cuda.runtime.getDeviceCount()  # raises if there is none
            cupy.cuda.nvrtc.getVersion()
            device = cls(cupy, int(cupy.cuda.runtime.getDevice()))
            device.free_bytes()  # creates the context, which fails if another process has exclusive use of the GPU
        except (*IMPORT_ERRORS, MemoryError) as error:
            raise EngineUnavailable(_why_unavailable(error, driver)) from error
        if device.capability < MIN_CAPABILITY:
            has, needs = device.capability / 10, MIN_CAPABILITY / 10
            raise EngineUnavailable(
                f"engine 'cuda' needs compute capability {needs}, {device.name} has {has}; use the engine 'cpu'"
            )
        return device

    @property
    def software(self) -> list[str]:
        """Versions of the driver, the CUDA runtime, the compiler of the kernels, and CuPy."""
        cuda = self.xp.cuda
        versions = cuda.runtime.runtimeGetVersion(), cuda.nvrtc.getVersion(), getattr(self.xp, "__version__", "")
        return [str(driver_version()), driver_build(), *map(str, versions)]

    def works(self) -> bool:
        """Return whether the GPU still computes, which it does not after an invalid memory access of a kernel."""
        try:
            return int(self.xp.arange(3).sum()) == 1 + 2
        except IMPORT_ERRORS:
            return False

    def current(self) -> Device:
        """Make this GPU the current device of the calling thread, which is initially the first GPU; return self."""
        self.xp.cuda.Device(self.number).use()
        return self

    def thread_setup(self) -> Callable[[], None]:
        """Return a function that makes a new thread use this device and the stream of the current thread."""
        with self.xp.cuda.Device(self.number):
            stream = self.xp.cuda.get_current_stream()

        def set_up() -> None:
            self.current()
            stream.use()

        return set_up

    @contextmanager
    def library(self) -> Iterator[None]:
        """Provide a context for importing and calling cuML or cuGraph, which have their own streams and allocators.

        Raises
        ------
        OutOfMemory
            The library ran out of memory, whatever exception it raised.
        """
        self.current().synchronize()
        self.memory.trim()
        try:
            with explaining_memory_errors():
                yield
        finally:
            self.memory.install()

    def launch(self, name: str, n_threads: int, *args: Any, rows: int | None = None) -> None:
        """Run a kernel with about `n_threads` threads; for each of `rows` if the grid has two dimensions."""
        block = KERNELS[name].block_threads
        n_blocks = max(1, min(-(-n_threads // block), BLOCKS_PER_MULTIPROCESSOR * self.n_multiprocessors))
        grid = (n_blocks,) if rows is None else (n_blocks, min(rows, kernels.MAX_GRID[1]))
        kernels.launch(name, grid, (block,), *args)

    def product(self, left: Array, right: Array, out: Array, *, tensor_cores: bool) -> None:
        """Write the matrix product of left (m, p) and the transpose of right (n, p) to out (m, n); see `multiply`."""
        self.multiply(left, right.T, out, tensor_cores=tensor_cores)

    def multiply(self, left: Array, right: Array, out: Array, *, tensor_cores: bool) -> None:
        """Write the matrix product of left (m, p) and right (p, n) to out (m, n), C-contiguous; all are float32.

        Transposed views are not copied. If `tensor_cores`, operands may be rounded to TF32.
        """
        from cupy._core import _routines_linalg as linalg

        wanted = linalg.COMPUTE_TYPE_TF32 if tensor_cores else linalg.COMPUTE_TYPE_FP32
        before = linalg.get_compute_type(np.float32)
        linalg.set_compute_type(np.float32, wanted)
        try:
            self.xp.dot(left, right, out)
        finally:
            linalg.set_compute_type(np.float32, before)

    def product_seconds(self, edge: int, width: int, *, tensor_cores: bool) -> float:
        """Return the seconds of a product of two (edge, width) operands: mean of several, minimum of three repeats."""
        operand, out = self.xp.ones((edge, width), np.float32), self.xp.empty((edge, edge), np.float32)
        best = np.inf
        for _ in range(1 + REPEATS):  # the first one loads the code of cuBLAS
            self.synchronize()
            begin = time.perf_counter()
            for _ in range(PRODUCTS_TIMED):
                self.product(operand, operand, out, tensor_cores=tensor_cores)
            self.synchronize()
            best = min(best, time.perf_counter() - begin)
        return float(best) / PRODUCTS_TIMED

    def synchronize(self) -> None:
        """Wait until the GPU has finished all submitted work."""
        self.xp.cuda.get_current_stream().synchronize()

    def free_bytes(self) -> int:
        """Return the bytes of GPU memory that this process can still allocate; see `GpuMemory.free_bytes`."""
        with self.xp.cuda.Device(self.number):
            return self.memory.free_bytes()

    def peak_bytes(self) -> int:
        """Return the peak bytes of GPU memory in use since the last call; see `GpuMemory.peak_bytes`."""
        with self.xp.cuda.Device(self.number):
            return self.memory.peak_bytes()

    def pinned(self, shape: tuple[int, int], dtype: DTypeLike) -> NDArray[Any]:
        """Allocate an array in pinned host memory, from which the GPU can copy asynchronously."""
        n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.ndarray(shape, dtype, self.xp.cuda.alloc_pinned_memory(n_bytes))

    def mapped(self, shape: tuple[int, int], dtype: DTypeLike) -> tuple[Array, NDArray[Any]]:
        """Allocate pinned host memory; return it as an array of the GPU, which reads it over the bus, and the host."""
        cuda, n_bytes = self.xp.cuda, int(np.prod(shape)) * np.dtype(dtype).itemsize
        pinned = cuda.PinnedMemory(n_bytes)  # CuPy's pool would round the size up to a power of two
        host: NDArray[Any] = np.ndarray(shape, dtype, cuda.PinnedMemoryPointer(pinned, 0))
        start = int(pinned.ptr)
        self._mapped[start] = start + n_bytes
        weakref.finalize(pinned, self._mapped.pop, start, None)
        memory = cuda.UnownedMemory(start, n_bytes, pinned, self.number)
        return self.xp.ndarray(shape, dtype, cuda.MemoryPointer(memory, 0)), host

    def on_device(self, x: Array) -> Array:
        """Return x in GPU memory and C-contiguous; a copy if x is in host memory or not contiguous."""
        address = int(x.data.ptr)
        if any(start <= address < stop for start, stop in self._mapped.items()):
            return self.xp.array(x, order="C")
        return self.xp.ascontiguousarray(x)

    def adopt(self, x: Any) -> Array | None:
        """Return an array on this GPU (CuPy, torch, DLPack) as a CuPy array without a copy; None for any other x."""
        if isinstance(x, self.xp.ndarray):
            return x if x.device.id == self.number else None
        if getattr(x, "requires_grad", False):
            x = x.detach()
        if hasattr(x, "__dlpack_device__") and tuple(map(int, x.__dlpack_device__())) == (DLPACK_CUDA, self.number):
            return self.xp.from_dlpack(x)
        return None

    def push_range(self, name: str) -> None:
        """Open a range in the timeline of a profiler, if the package nvtx is installed."""
        if self._nvtx is not None:
            self._nvtx.push_range(name, domain=RANGE_DOMAIN)

    def pop_range(self) -> None:
        """Close the profiler range that was opened last."""
        if self._nvtx is not None:
            self._nvtx.pop_range(domain=RANGE_DOMAIN)


class Copier:
    """Context manager that copies blocks to the GPU by two pinned buffers, one filled while the other is copied."""

    def __init__(self, device: Device) -> None:
        self._device = device
        cuda = device.xp.cuda
        self._stream = cuda.Stream(non_blocking=True)
        self._copied = (cuda.Event(), cuda.Event())
        self._buffers: list[NDArray[Any]] = []
        self._turn = 0

    def __enter__(self) -> Self:
        self._device.synchronize()  # kernels may still use the memory that a new array got
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.synchronize()

    def copy(self, block: NDArray[Any], to: Array) -> None:
        """Start copying a host block to the GPU array `to` in its dtype; later blocks must not have more rows."""
        if not self._buffers:
            self._buffers = [self._device.pinned(block.shape, to.dtype) for _ in self._copied]
        buffer, copied = self._buffers[self._turn][: len(block)], self._copied[self._turn]
        copied.synchronize()
        with np.errstate(over="ignore"):  # overflow becomes infinite, which is refused later
            buffer[...] = block
        to.set(buffer, stream=self._stream)
        copied.record(self._stream)
        self._turn = 1 - self._turn

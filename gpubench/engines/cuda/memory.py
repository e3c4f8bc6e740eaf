"""A memory pool of a GPU from which both CuPy and the RAPIDS libraries allocate.

CuPy has its own pool, and so has RMM, the allocator of cuML and cuGraph; neither can use free memory of the other's
pool. Moreover cuDF, which cuML imports, makes CuPy allocate through RMM, which by default calls cudaMalloc and
cudaFree, and both wait for the GPU. So CuPy and RMM are configured to use the driver's pool (cudaMallocAsync), in
whichever order they are imported.
"""

from __future__ import annotations

import gc
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

OUT_OF_MEMORY = 2
"""cudaErrorMemoryAllocation."""

KEEP_ALL = 2**64 - 1
"""Release threshold of the driver's pool: it keeps what is freed, for the next arrays."""

IMPORT_ERRORS = (ImportError, OSError, RuntimeError, AttributeError, ValueError)
"""Errors of importing a package that is half installed, or whose dependencies do not fit."""


def import_problem(name: str) -> str:
    """Try to import a package; return "" on success, else "is not installed" or a description of the failure."""
    if find_spec(name) is None:
        return "is not installed"
    try:
        import_module(name)
    except IMPORT_ERRORS as error:
        return f"cannot be imported ({type(error).__name__}: {' '.join(str(error).split())})"
    return ""


class GpuMemory:
    """The memory pool of one GPU that CuPy and RMM share.

    Allocators that the user has configured stay, and unused memory in their pools does not count as free.

    Attributes
    ----------
    notes : messages on why the libraries do not share a pool
    """

    def __init__(self, xp: ModuleType, number: int) -> None:
        """Let CuPy and RMM allocate from one pool; device `number` must be the current one."""
        self._xp: Any = xp
        self._number = number
        self._runtime = self._xp.cuda.runtime
        self.notes: list[str] = []
        rmm = self._import_rmm()
        resource = None if rmm is None else rmm.mr.get_per_device_resource(number)
        self._pool: int | None = None
        if rmm is not None and not isinstance(resource, rmm.mr.CudaMemoryResource | rmm.mr.CudaAsyncViewMemoryResource):
            from rmm.allocators.cupy import rmm_cupy_allocator

            self._allocator = rmm_cupy_allocator
        elif self._is_set_by_user():
            self._allocator = self._xp.cuda.get_allocator()
        elif self._runtime.deviceGetAttribute(self._runtime.cudaDevAttrMemoryPoolsSupported, number):
            self._pool = int(self._runtime.deviceGetMemPool(number))
            self._runtime.memPoolSetAttribute(self._pool, self._runtime.cudaMemPoolAttrReleaseThreshold, KEEP_ALL)
            self._allocator = self.allocate
            if rmm is not None:
                self._share_pool(rmm)
        else:
            self._allocator = self._xp.get_default_memory_pool().malloc
        self.install()
        self.trim()

    def _import_rmm(self) -> Any:
        """Import and return RMM, or None if it is not installed; add a message to `notes` if the import fails."""
        problem = import_problem("rmm")
        if not problem:
            return import_module("rmm")
        if "cannot" in problem:
            self.notes.append(f"rmm, which allocates for cuML and cuGraph, {problem}")
        return None

    def _share_pool(self, rmm: Any) -> None:
        from cuda.bindings.runtime import cudaMemPool_t

        view = rmm.mr.CudaAsyncViewMemoryResource(cudaMemPool_t(self._pool))
        rmm.mr.set_per_device_resource(self._number, view)

    def _is_set_by_user(self) -> bool:
        """Return whether the user set CuPy's allocator: it is neither the default nor one set by cuDF or an engine."""
        cuda, allocator = self._xp.cuda, self._xp.cuda.get_allocator()
        if allocator in (self._xp.get_default_memory_pool().malloc, cuda.malloc_async):
            return False
        by_rmm = getattr(allocator, "__module__", "") == "rmm.allocators.cupy"
        return not (by_rmm or isinstance(getattr(allocator, "__self__", None), GpuMemory))

    def install(self) -> None:
        """Make CuPy allocate from this pool; called again after imports that may have changed CuPy's allocator."""
        if self._xp.cuda.get_allocator() != self._allocator:
            self._xp.cuda.set_allocator(self._allocator)

    def allocate(self, n_bytes: int) -> Any:
        """Allocate memory from the current device's pool; the function that CuPy calls as its allocator.

        Raises
        ------
        MemoryError
            There is too little memory, even after a garbage collection.
        """
        try:
            return self._xp.cuda.malloc_async(n_bytes)
        except self._runtime.CUDARuntimeError as error:
            if error.status != OUT_OF_MEMORY:
                raise
        gc.collect()
        self._runtime.deviceSynchronize()
        self._runtime.memPoolTrimTo(self._runtime.deviceGetMemPool(self._runtime.getDevice()), 0)
        try:
            return self._xp.cuda.malloc_async(n_bytes)
        except self._runtime.CUDARuntimeError as error:
            if error.status != OUT_OF_MEMORY:
                raise
            raise MemoryError(f"an array of {n_bytes:,} bytes does not fit the GPU") from error

    def trim(self) -> None:
        """Return unused memory of the pools to the driver, for libraries that do not allocate from the pools."""
        self._xp.get_default_memory_pool().free_all_blocks()
        if self._pool is not None:
            self._runtime.memPoolTrimTo(self._pool, 0)

    def free_bytes(self) -> int:
        """Return the bytes available for new arrays: free memory of the driver and unused memory of the pool."""
        free = int(self._runtime.memGetInfo()[0])
        if self._pool is not None:
            return (
                free
                + self._attribute("cudaMemPoolAttrReservedMemCurrent")
                - self._attribute("cudaMemPoolAttrUsedMemCurrent")
            )
        pool = self._xp.get_default_memory_pool()
        return free + int(pool.free_bytes()) if self._allocator == pool.malloc else free

    def peak_bytes(self) -> int:
        """Return the peak bytes in use since the last call, or the bytes in use now if the peak is unknown."""
        if self._pool is None:
            free, total = self._runtime.memGetInfo()
            return int(total) - int(free)
        peak = self._attribute("cudaMemPoolAttrUsedMemHigh")
        self._runtime.memPoolSetAttribute(self._pool, self._runtime.cudaMemPoolAttrUsedMemHigh, 0)
        return peak

    def _attribute(self, name: str) -> int:
        return int(self._runtime.memPoolGetAttribute(self._pool, getattr(self._runtime, name)))

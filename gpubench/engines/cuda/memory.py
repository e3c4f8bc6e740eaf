"""One owner of a GPU's memory, from which CuPy and the libraries of RAPIDS allocate.

CuPy has a pool, RMM, the allocator of cuML and cuGraph, has another, and neither can use what the other one keeps.
cuDF, which cuML imports, moreover lets CuPy allocate through RMM, which by default calls cudaMalloc and cudaFree: both
wait for the GPU. So CuPy and RMM are given the driver's own pool (cudaMallocAsync), whoever is imported when.
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
    """Import a package; return "" if that works, else "is not installed", or that it fails and how."""
    if find_spec(name) is None:
        return "is not installed"
    try:
        import_module(name)
    except IMPORT_ERRORS as error:
        return f"cannot be imported ({type(error).__name__}: {' '.join(str(error).split())})"
    return ""


class GpuMemory:
    """The memory of one GPU.

    Where the user has configured RMM or CuPy, that stays, and what its pool holds does not count as free.

    Attributes
    ----------
    notes : what keeps the libraries from sharing the memory
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
        """Import RMM if it is installed; note why if that fails."""
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
        """Whether CuPy's allocator is neither its default, nor one that cuDF or an engine has set."""
        cuda, allocator = self._xp.cuda, self._xp.cuda.get_allocator()
        if allocator in (self._xp.get_default_memory_pool().malloc, cuda.malloc_async):
            return False
        by_rmm = getattr(allocator, "__module__", "") == "rmm.allocators.cupy"
        return not (by_rmm or isinstance(getattr(allocator, "__self__", None), GpuMemory))

    def install(self) -> None:
        """Make CuPy allocate here, also after an import that has changed that."""
        if self._xp.cuda.get_allocator() != self._allocator:
            self._xp.cuda.set_allocator(self._allocator)

    def allocate(self, n_bytes: int) -> Any:
        """Return memory of the current device's pool, as CuPy's allocators do.

        Raises
        ------
        MemoryError
            There is none, even after unused memory was collected.
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
        """Give unused memory of the pools back to the driver, for libraries that allocate beside them."""
        self._xp.get_default_memory_pool().free_all_blocks()
        if self._pool is not None:
            self._runtime.memPoolTrimTo(self._pool, 0)

    def free_bytes(self) -> int:
        """Return the memory that new arrays can get: what the driver has, and the unused part of the pool."""
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
        """Return the most memory that was in use since the last call; what the GPU holds now where that is unknown."""
        if self._pool is None:
            free, total = self._runtime.memGetInfo()
            return int(total) - int(free)
        peak = self._attribute("cudaMemPoolAttrUsedMemHigh")
        self._runtime.memPoolSetAttribute(self._pool, self._runtime.cudaMemPoolAttrUsedMemHigh, 0)
        return peak

    def _attribute(self, name: str) -> int:
        return int(self._runtime.memPoolGetAttribute(self._pool, getattr(self._runtime, name)))

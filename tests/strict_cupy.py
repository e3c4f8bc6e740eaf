"""A stand-in for CuPy on the host: NumPy behind the names that the CUDA engine uses, and as strict as CuPy.

Like CuPy it refuses NumPy arrays as operands, never converts to NumPy implicitly, and has no truth value for several
values. Names that are not listed here are missing. A mistake that CuPy refuses is refused here. A test compares the
names with those of the real CuPy if it is installed.

As in CUDA, each thread has a current device, at first 0, and refuses arrays of another one. Every new array takes
memory through the allocator that is set, from CuPy's pool at first, so that pools and what is free can be tested.
"""

from __future__ import annotations

import ctypes
import operator
import threading
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Self

import numpy as np

FUNCTIONS = """abs arange argsort ascontiguousarray bincount concatenate copyto cumsum diff empty exp flatnonzero full
    isfinite log maximum median minimum ones repeat rint searchsorted sort sqrt square stack take_along_axis where
    zeros"""
METHODS = "all any argmax argmin astype copy max mean min ravel reshape sum take transpose view"
ATTRIBUTES = "dtype flags itemsize nbytes ndim shape size strides"
BINARY = "add sub mul truediv floordiv mod pow matmul and or xor rshift"
COMPARISONS = "lt le gt ge eq ne"
IN_PLACE = "iadd isub imul itruediv iand ior ixor"

TOTAL_BYTES = 4 << 30
"""Memory of each of the stand-in's devices."""

CUDA_ERROR_MEMORY_ALLOCATION = 2


class CUDARuntimeError(RuntimeError):
    """An error of the CUDA runtime."""

    def __init__(self, status: int, name: str) -> None:
        super().__init__(f"{name}: out of memory" if status == CUDA_ERROR_MEMORY_ALLOCATION else name)
        self.status = status


class Gpu:
    """The memory of one device.

    Attributes
    ----------
    total_bytes : of the device
    other_bytes : taken by cudaMalloc
    used, reserved, high : bytes of the driver's pool: in use, held, and the most that were in use
    threshold : bytes that the driver's pool keeps when the host waits for the device
    """

    def __init__(self) -> None:
        self.total_bytes = TOTAL_BYTES
        self.other_bytes = self.used = self.reserved = self.high = self.threshold = 0
        self.supports_pools = True

    @property
    def free_bytes(self) -> int:
        return self.total_bytes - self.other_bytes - self.reserved

    def take(self, n_bytes: int) -> None:
        """Take memory by cudaMalloc."""
        if n_bytes > self.free_bytes:
            raise CUDARuntimeError(CUDA_ERROR_MEMORY_ALLOCATION, "cudaErrorMemoryAllocation")
        self.other_bytes += n_bytes

    def give(self, n_bytes: int) -> None:
        """Give memory back by cudaFree."""
        self.other_bytes -= n_bytes

    def take_async(self, n_bytes: int) -> None:
        """Take memory from the driver's pool, by cudaMallocAsync."""
        more = max(0, self.used + n_bytes - self.reserved)
        if more > self.free_bytes:
            raise CUDARuntimeError(CUDA_ERROR_MEMORY_ALLOCATION, "cudaErrorMemoryAllocation")
        self.reserved += more
        self.used += n_bytes
        self.high = max(self.high, self.used)

    def give_async(self, n_bytes: int) -> None:
        self.used -= n_bytes


class _Memory:
    """A piece of memory, which is given back when nobody holds it."""

    def __init__(self, n_bytes: int, give_back: Callable[[int], None]) -> None:
        self.size = n_bytes
        weakref.finalize(self, give_back, n_bytes)


class _Pool:
    """CuPy's own pool: blocks that are freed stay in it."""

    def __init__(self) -> None:
        self._used = self._total = 0

    def malloc(self, n_bytes: int) -> _Memory:
        more = max(0, self._used + n_bytes - self._total)
        current_gpu().take(more)
        self._total += more
        self._used += n_bytes
        return _Memory(n_bytes, self._free)

    def _free(self, n_bytes: int) -> None:
        self._used -= n_bytes

    def used_bytes(self) -> int:
        return self._used

    def free_bytes(self) -> int:
        return self._total - self._used

    def total_bytes(self) -> int:
        return self._total

    def free_all_blocks(self) -> None:
        current_gpu().other_bytes -= self.free_bytes()
        self._total = self._used


class DefaultPool:
    """CuPy's own pools, one for each device."""

    def __getattr__(self, name: str) -> Any:
        if name == "malloc":
            return _default_allocator
        return getattr(process.pools[thread.device], name)


class _Thread(threading.local):
    """What CUDA and CuPy hold for each thread."""

    device = 0
    stream: Any = None


class _Process:
    """What CUDA and CuPy hold for the process."""

    def __init__(self) -> None:
        self.gpus = [Gpu(), Gpu()]
        self.pools = [_Pool(), _Pool()]
        self.allocator: Any = _default_allocator
        self.longest_reduction = 0  # rows of the longest reduction along them
        self.owners: dict[int, weakref.ref[np.ndarray]] = {}  # arrays that have memory of their own


thread = _Thread()


def _default_allocator(n_bytes: int) -> Any:
    return process.pools[thread.device].malloc(n_bytes)


process = _Process()


def reset() -> None:
    """Start as in a new process."""
    global process  # noqa: PLW0603
    process = _Process()
    thread.device, thread.stream = 0, None


def current_gpu() -> Gpu:
    """Return the device of this thread."""
    return process.gpus[thread.device]


def malloc_async(n_bytes: int) -> Any:
    gpu = current_gpu()
    if not gpu.supports_pools:
        raise RuntimeError(f"Device {thread.device} does not support malloc_async")
    gpu.take_async(n_bytes)
    return _Memory(n_bytes, gpu.give_async)


class ndarray:  # noqa: N801
    """An array on the pretended device."""

    __slots__ = ("_device", "_host")
    __array_ufunc__ = None  # NumPy's operators defer to ours, which refuse NumPy arrays

    def __init__(self, host: Any, device: Any = None, pointer: Any = None) -> None:
        """Wrap an array of the host, or, as in CuPy, give memory a shape and a dtype."""
        if pointer is not None:
            buffer = pinned_memory_pointer(pointer.memory.owner, pointer.offset)
            host, device = np.ndarray(host, device, buffer), pointer.memory.device
        assert isinstance(host, np.ndarray)
        self._host = host
        self._device = thread.device if device is None else device
        if host.base is None:  # not a view
            weakref.finalize(host, _drop, process.allocator(host.nbytes))
            process.owners[id(host)] = weakref.ref(host)

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`.")

    def get(self) -> np.ndarray:
        return self._host.copy()

    def set(self, host: np.ndarray, stream: Any) -> None:
        assert isinstance(stream, Stream)
        assert type(host) is np.ndarray
        assert host.flags.c_contiguous
        if (host.shape, host.dtype) != (self.shape, self.dtype):
            raise ValueError("shape or dtype mismatch")
        self._host[...] = host

    @property
    def T(self) -> ndarray:  # noqa: N802
        return ndarray(self._host.T, self._device)

    @property
    def data(self) -> SimpleNamespace:
        return SimpleNamespace(ptr=self._host.ctypes.data)

    @property
    def device(self) -> SimpleNamespace:
        return SimpleNamespace(id=self._device)

    def __len__(self) -> int:
        return len(self._host)

    def __float__(self) -> float:
        return float(self._host)

    def __int__(self) -> int:
        return int(self._host)

    def __bool__(self) -> bool:
        return bool(self._host)

    def __neg__(self) -> ndarray:
        return wrapped(-self._host)

    def __invert__(self) -> ndarray:
        return wrapped(~self._host)

    def __getitem__(self, key: Any) -> ndarray:
        if isinstance(key, slice):  # a view, for which nothing is computed
            return ndarray(self._host[key], self._device)
        return wrapped(_check_device(self)[index(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        _check_device(self)[index(key)] = bare(value)

    def __repr__(self) -> str:
        return f"strict_cupy.{self._host!r}"

    __hash__ = None  # type: ignore[assignment]


def array_at(address: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return the memory that a library was given the address of, as it would read or write it: without strides.

    Raises
    ------
    ValueError
        There is no array of the device at the address, or it is too small or of another dtype.
    """
    n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    for owner in [found for found in (reference() for reference in process.owners.values()) if found is not None]:
        start = owner.ctypes.data
        if start <= address < start + max(owner.nbytes, 1):
            if owner.dtype != dtype or address + n_bytes > start + owner.nbytes:
                raise ValueError(f"{shape} of {np.dtype(dtype)} read at an array {owner.shape} of {owner.dtype}")
            flat = owner.reshape(-1, order="A")[(address - start) // owner.itemsize :][: int(np.prod(shape))]
            assert np.shares_memory(flat, owner)
            return flat.reshape(shape)
    raise ValueError(f"no array of the device is at the address {address:#x}")


def _drop(memory: Any) -> None:
    """Let go of the memory of an array."""


def _check_device(array: ndarray) -> np.ndarray:
    if array._device != thread.device:
        raise ValueError(
            f"Array device must be same as the current device: array device = {array._device} while current = "
            f"{thread.device}"
        )
    return array._host


def bare(value: Any) -> Any:
    """Return an argument as NumPy takes it; refuse arrays of the host and of another device."""
    if isinstance(value, ndarray):
        return _check_device(value)
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    if isinstance(value, (list, tuple)):
        return type(value)(bare(item) for item in value)
    return value


def index(key: Any) -> Any:
    """Return an index as NumPy takes it; only here arrays of the host are accepted, because CuPy copies them."""
    if isinstance(key, tuple):
        return tuple(index(part) for part in key)
    return key._host if isinstance(key, ndarray) else key


def wrapped(value: Any) -> Any:
    """Return a result as CuPy does: scalars are arrays without dimensions."""
    if isinstance(value, np.ndarray | np.generic | bool | int | float):
        return ndarray(np.asarray(value))
    return value


def _function(name: str) -> Callable[..., Any]:
    compute = getattr(np, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        return wrapped(compute(*(bare(a) for a in args), **{key: bare(value) for key, value in kwargs.items()}))

    return call


def _method(name: str) -> Callable[..., Any]:
    def call(self: ndarray, *args: Any, **kwargs: Any) -> Any:
        compute = getattr(_check_device(self), name)
        if name in ("max", "min", "sum") and kwargs.get("axis") == 0 and self._host.ndim == 2:
            process.longest_reduction = max(process.longest_reduction, len(self._host))
        result = compute(*map(bare, args), **{key: bare(value) for key, value in kwargs.items()})
        return wrapped(result)

    return call


def _operator(name: str, *, reflected: bool = False) -> Callable[[ndarray, Any], Any]:
    compute = getattr(operator, f"__{name}__")

    def call(self: ndarray, other: Any) -> Any:
        own = _check_device(self)
        pair = (bare(other), own) if reflected else (own, bare(other))
        return wrapped(compute(*pair))

    return call


def _in_place(name: str) -> Callable[[ndarray, Any], ndarray]:
    compute = getattr(operator, f"__{name}__")

    def call(self: ndarray, other: Any) -> ndarray:
        compute(_check_device(self), bare(other))
        return self

    return call


ndarray.__module__ = "cupy"  # readers recognise arrays of a device by it
for _name in METHODS.split():
    setattr(ndarray, _name, _method(_name))
for _name in ATTRIBUTES.split():
    setattr(ndarray, _name, property(lambda self, name=_name: getattr(self._host, name)))
for _name in BINARY.split():
    setattr(ndarray, f"__{_name}__", _operator(_name))
    setattr(ndarray, f"__r{_name}__", _operator(_name, reflected=True))
for _name in COMPARISONS.split():
    setattr(ndarray, f"__{_name}__", _operator(_name))
for _name in IN_PLACE.split():
    setattr(ndarray, f"__{_name}__", _in_place(_name))


def asarray(value: Any, dtype: Any = None) -> ndarray:
    """Return an array of the device: a copy of one of the host, or the array itself."""
    if isinstance(value, ndarray):
        return value if dtype is None or value.dtype == dtype else ndarray(value._host.astype(dtype))
    return ndarray(np.array(value, dtype))


def array(value: Any, dtype: Any = None, order: str = "K") -> ndarray:
    return ndarray(np.array(value._host if isinstance(value, ndarray) else value, dtype, order=order))  # type: ignore[call-overload]


def asnumpy(value: Any) -> np.ndarray:
    return value.get() if isinstance(value, ndarray) else np.asarray(value)


def dot(a: ndarray, b: ndarray, out: ndarray) -> ndarray:
    if not out.flags.c_contiguous:
        raise ValueError("out must be C-contiguous")
    np.dot(bare(a), bare(b), out=bare(out))
    return out


class PinnedMemory:
    """Pinned memory of the host."""

    def __init__(self, n_bytes: int) -> None:
        self.buffer = bytearray(n_bytes)
        self.ptr = ctypes.addressof((ctypes.c_ubyte * n_bytes).from_buffer(self.buffer))


def pinned_memory_pointer(memory: PinnedMemory, offset: int) -> Any:
    """Return pinned memory as a buffer, which keeps its owner."""
    buffer = (ctypes.c_ubyte * (len(memory.buffer) - offset)).from_buffer(memory.buffer, offset)
    buffer.owner = memory  # type: ignore[attr-defined]
    return buffer


def alloc_pinned_memory(n_bytes: int) -> Any:
    """Take memory from CuPy's pool of pinned memory, whose blocks are powers of two."""
    return PinnedMemory(1 << (n_bytes - 1).bit_length()).buffer


class UnownedMemory:
    """Memory that its owner frees."""

    def __init__(self, address: int, n_bytes: int, owner: PinnedMemory, device: int) -> None:
        assert address == owner.ptr
        assert n_bytes <= len(owner.buffer)
        self.owner, self.device = owner, device


class Stream:
    """A stream; all work is done when a call returns."""

    def __init__(self, *, non_blocking: bool = False) -> None:
        self.non_blocking = non_blocking
        self.n_synchronized = 0
        self.ptr = id(self)

    def use(self) -> Stream:
        thread.stream = self
        return self

    def synchronize(self) -> None:
        self.n_synchronized += 1


class Event:
    """An event of a stream."""

    def synchronize(self) -> None: ...

    def record(self, stream: Stream) -> None:
        assert isinstance(stream, Stream)


class Device:
    """A device that a thread can make its current one."""

    def __init__(self, number: int) -> None:
        self.id = number

    def use(self) -> Device:
        thread.device = self.id
        return self

    def __enter__(self) -> Self:
        self._before = thread.device
        self.use()
        return self

    def __exit__(self, *_: object) -> None:
        thread.device = self._before


_NULL_STREAM = Stream()
_NULL_STREAM.ptr = 0

RELEASE_THRESHOLD, RESERVED, USED, USED_HIGH, POOLS_SUPPORTED = 4, 5, 7, 8, 115
"""Numbers of the attributes, as the CUDA runtime has them."""


class Runtime:
    """The CUDA runtime, of devices of one compute capability."""

    CUDARuntimeError = CUDARuntimeError
    cudaMemPoolAttrReleaseThreshold = RELEASE_THRESHOLD  # noqa: N815
    cudaMemPoolAttrReservedMemCurrent = RESERVED  # noqa: N815
    cudaMemPoolAttrUsedMemCurrent = USED  # noqa: N815
    cudaMemPoolAttrUsedMemHigh = USED_HIGH  # noqa: N815
    cudaDevAttrMemoryPoolsSupported = POOLS_SUPPORTED  # noqa: N815

    def __init__(self, capability: tuple[int, int]) -> None:
        self._capability = capability

    def getDeviceCount(self) -> int:  # noqa: N802
        return len(process.gpus)

    def runtimeGetVersion(self) -> int:  # noqa: N802
        return 12040

    def getDevice(self) -> int:  # noqa: N802
        return thread.device

    def getDeviceProperties(self, number: int) -> dict[str, Any]:  # noqa: N802
        assert 0 <= number < len(process.gpus)
        major, minor = self._capability
        return {"name": b"Stand-in", "multiProcessorCount": 2, "major": major, "minor": minor}

    def deviceGetAttribute(self, attribute: int, number: int) -> int:  # noqa: N802
        assert attribute == POOLS_SUPPORTED
        return int(process.gpus[number].supports_pools)

    def deviceSynchronize(self) -> None: ...  # noqa: N802

    def memGetInfo(self) -> tuple[int, int]:  # noqa: N802
        return current_gpu().free_bytes, current_gpu().total_bytes

    def deviceGetMemPool(self, number: int) -> int:  # noqa: N802
        return 1000 + number

    def memPoolGetAttribute(self, pool: int, attribute: int) -> int:  # noqa: N802
        gpu = process.gpus[pool - 1000]
        return {RELEASE_THRESHOLD: gpu.threshold, RESERVED: gpu.reserved, USED: gpu.used, USED_HIGH: gpu.high}[
            attribute
        ]

    def memPoolSetAttribute(self, pool: int, attribute: int, value: int) -> None:  # noqa: N802
        gpu = process.gpus[pool - 1000]
        if attribute == USED_HIGH:
            assert value == 0, "the high-water mark can only be reset to zero"
            gpu.high = gpu.used
        else:
            assert attribute == RELEASE_THRESHOLD
            gpu.threshold = value

    def memPoolTrimTo(self, pool: int, n_bytes: int) -> None:  # noqa: N802
        gpu = process.gpus[pool - 1000]
        gpu.reserved = max(n_bytes, gpu.used)


def set_allocator(allocator: Any) -> None:
    process.allocator = allocator


class Random:
    """Random numbers of the device."""

    def __init__(self) -> None:
        self.seed(0)

    def seed(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def standard_normal(self, shape: tuple[int, ...], dtype: Any) -> ndarray:
        return ndarray(self._generator.standard_normal(shape, dtype))


def make_cupy(capability: tuple[int, int] = (9, 0)) -> SimpleNamespace:
    """Return a module like CuPy with two devices of this compute capability."""
    cuda = SimpleNamespace(
        runtime=Runtime(capability),
        Device=Device,
        Stream=Stream,
        Event=Event,
        get_current_stream=lambda: thread.stream or _NULL_STREAM,
        alloc_pinned_memory=alloc_pinned_memory,
        PinnedMemory=PinnedMemory,
        PinnedMemoryPointer=pinned_memory_pointer,
        UnownedMemory=UnownedMemory,
        MemoryPointer=lambda memory, offset: SimpleNamespace(memory=memory, offset=offset),
        malloc_async=malloc_async,
        set_allocator=set_allocator,
        get_allocator=lambda: process.allocator,
        nvrtc=SimpleNamespace(getVersion=lambda: (12, 4)),
    )
    functions = {name: _function(name) for name in FUNCTIONS.split()}
    return SimpleNamespace(
        **functions,
        ndarray=ndarray,
        asarray=asarray,
        array=array,
        asnumpy=asnumpy,
        dot=dot,
        cuda=cuda,
        random=Random(),
        get_default_memory_pool=DefaultPool,
    )

"""A stand-in for CuPy on the host: NumPy behind the names that the CUDA engine uses, and as strict as CuPy.

Like CuPy it refuses NumPy arrays as operands, never converts to NumPy implicitly, and has no truth value for several
values. Names that are not listed here are missing. A mistake that CuPy refuses is refused here. A test compares the
names with those of the real CuPy if it is installed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

FUNCTIONS = """abs arange argsort ascontiguousarray bincount concatenate copyto cumsum diff empty exp flatnonzero full
    isfinite log maximum median minimum ones repeat rint searchsorted sqrt square stack take_along_axis where zeros"""
METHODS = "all any argmax argmin astype copy max mean min ravel reshape sum take transpose view"
ATTRIBUTES = "dtype flags itemsize nbytes ndim shape size strides"
BINARY = "add sub mul truediv floordiv mod pow matmul and or xor"
COMPARISONS = "lt le gt ge eq ne"
IN_PLACE = "iadd isub imul itruediv iand ior"

TOTAL_BYTES = 4 << 30
"""Memory of the stand-in's device."""


class ndarray:  # noqa: N801
    """An array on the pretended device."""

    __slots__ = ("_host",)
    __array_ufunc__ = None  # NumPy's operators defer to ours, which refuse NumPy arrays

    def __init__(self, host: np.ndarray) -> None:
        assert isinstance(host, np.ndarray)
        self._host = host

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`.")

    def get(self) -> np.ndarray:
        return self._host.copy()

    def set(self, host: np.ndarray, stream: Any) -> None:
        assert isinstance(stream, _Completed)
        assert type(host) is np.ndarray
        assert host.flags.c_contiguous
        if (host.shape, host.dtype) != (self.shape, self.dtype):
            raise ValueError("shape or dtype mismatch")
        self._host[...] = host

    @property
    def T(self) -> ndarray:  # noqa: N802
        return ndarray(self._host.T)

    @property
    def device(self) -> SimpleNamespace:
        return SimpleNamespace(id=0)

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
        return wrapped(self._host[index(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        self._host[index(key)] = bare(value)

    def __repr__(self) -> str:
        return f"strict_cupy.{self._host!r}"

    __hash__ = None  # type: ignore[assignment]


def bare(value: Any) -> Any:
    """Return an argument as NumPy takes it; refuse arrays of the host."""
    if isinstance(value, ndarray):
        return value._host
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
        result = getattr(self._host, name)(*map(bare, args), **{key: bare(value) for key, value in kwargs.items()})
        return wrapped(result)

    return call


def _operator(name: str, *, reflected: bool = False) -> Callable[[ndarray, Any], Any]:
    compute = getattr(operator, f"__{name}__")

    def call(self: ndarray, other: Any) -> Any:
        pair = (bare(other), self._host) if reflected else (self._host, bare(other))
        return wrapped(compute(*pair))

    return call


def _in_place(name: str) -> Callable[[ndarray, Any], ndarray]:
    compute = getattr(operator, f"__{name}__")

    def call(self: ndarray, other: Any) -> ndarray:
        compute(self._host, bare(other))
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


class _Completed:
    """Streams and events; all work is done when a call returns."""

    def __init__(self, *, non_blocking: bool = False) -> None:
        del non_blocking

    def synchronize(self) -> None: ...

    def record(self, stream: Any = None) -> None: ...


def make_cupy(capability: tuple[int, int] = (9, 0)) -> SimpleNamespace:
    """Return a module like CuPy with one device of this compute capability."""
    pool = SimpleNamespace(free_bytes=lambda: 0, total_bytes=lambda: 1000)
    properties = {"name": b"Stand-in", "multiProcessorCount": 2, "major": capability[0], "minor": capability[1]}
    runtime = SimpleNamespace(getDeviceProperties=lambda _: properties, memGetInfo=lambda: (TOTAL_BYTES, TOTAL_BYTES))
    cuda = SimpleNamespace(
        runtime=runtime,
        Stream=_Completed,
        Event=_Completed,
        get_current_stream=_Completed,
        alloc_pinned_memory=bytearray,
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
        get_default_memory_pool=lambda: pool,
    )

"""The one door to the CUDA kernels: finds kernels/*.cu, compiles them when they are first used, checks every argument.

A kernel gets bare pointers, and nobody but this door sees what they point to. A float64 array where float32 is due, a
view where rows should follow one another, an array that is too short: all would be read without an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from gpubench.engines.cuda.signatures import KERNELS, Array, Kernel, Scalar

_PACKAGE = Path(__file__).resolve().parents[2]
# in a wheel the sources are inside the package, in a checkout beside it
KERNEL_DIR = next(folder for folder in (_PACKAGE / "kernels", _PACKAGE.parent / "kernels") if folder.is_dir())

OPTIONS = ("--std=c++17",)
MAX_SHARED_BYTES = 48 << 10
"""Shared memory that a block gets on every GPU without asking for more."""
MAX_GRID = (2**31 - 1, 65_535)
WARP = 32


def source(name: str) -> str:
    """Return the text of a kernel with the common text before it.

    Not an #include: CuPy's cache of compiled kernels knows the text, not the files that it includes.
    """
    return "".join((KERNEL_DIR / file).read_text() for file in ("common.cuh", f"{name}.cu"))


def launch(
    name: str, grid: Sequence[int], block: Sequence[int], *args: Any, shared: int = 0, stream: Any = None
) -> None:
    """Run a kernel on the current device.

    Parameters
    ----------
    name : of the kernel, as its file
    grid, block : blocks, and threads in each: `(blocks,)` or `(blocks_x, blocks_y)`, `(threads,)`
    args : in the order of the kernel's signature; CuPy arrays, and numbers, which become the type that is declared
    shared : bytes of dynamic shared memory of a block
    stream : a CuPy stream; None: the current one

    Raises
    ------
    TypeError, ValueError
        The arguments are not those of the signature; nothing was launched.
    """
    import cupy

    device = int(cupy.cuda.runtime.getDevice())
    arguments = check(KERNELS[name], grid, block, args, shared, array_type=cupy.ndarray, device=device)
    with stream or nullcontext():
        _function(name)(tuple(grid), tuple(block), arguments, shared_mem=shared)


@cache
def _function(name: str) -> Any:
    """Compile a kernel; CuPy keeps one for each device, and the compiled code on disk."""
    import cupy

    return cupy.RawModule(code=source(name), options=OPTIONS).get_function(name)


def check(
    kernel: Kernel,
    grid: Sequence[int],
    block: Sequence[int],
    args: Sequence[Any],
    shared: int,
    *,
    array_type: Any,
    device: int | None = None,
) -> tuple[Any, ...]:
    """Return the arguments with numbers as NumPy scalars, after checking all of a launch; see `launch`.

    Parameters
    ----------
    array_type : what arrays must be; `numpy.ndarray` tests this without a GPU
    device : the device that arrays must be on; None: not looked at
    """
    if len(args) != len(kernel.parameters):
        names = ", ".join(parameter.name for parameter in kernel.parameters)
        raise TypeError(f"{kernel.name}: {len(args)} arguments, needs {len(kernel.parameters)}: {names}")
    _check_geometry(kernel, grid, block)
    pairs = list(zip(kernel.parameters, args, strict=True))
    numbers = {p.name: _number(kernel, p, value) for p, value in pairs if isinstance(p, Scalar)}
    sizes = {name: number.item() for name, number in numbers.items()}
    sizes |= {"threads": block[0], "warps": block[0] // WARP}
    for parameter, value in pairs:
        if isinstance(parameter, Array):
            _check_array(f"{kernel.name}: {parameter.name}", parameter, value, sizes, array_type, device)
    for rule, holds in kernel.rules.items():
        if not holds(sizes):
            raise ValueError(f"{kernel.name}: needs that {rule}; {_shown(sizes)}")
    _check_shared(kernel, shared, sizes)
    return tuple(numbers.get(parameter.name, value) for parameter, value in pairs)


def _check_geometry(kernel: Kernel, grid: Sequence[int], block: Sequence[int]) -> None:
    if len(grid) != kernel.grid_dimensions or not all(1 <= n <= most for n, most in zip(grid, MAX_GRID, strict=False)):
        # a dimension that the kernel does not look at would do everything twice
        raise ValueError(f"{kernel.name}: grid {tuple(grid)}, needs {kernel.grid_dimensions} numbers from 1")
    if len(block) != 1 or block[0] % WARP or not 1 <= block[0] <= kernel.max_threads:
        raise ValueError(
            f"{kernel.name}: block {tuple(block)}, needs whole warps of {WARP} threads, at most {kernel.max_threads}"
        )
    if kernel.threads not in (None, block[0]):
        raise ValueError(f"{kernel.name}: block {tuple(block)}, needs {kernel.threads} threads")


def _number(kernel: Kernel, parameter: Scalar, value: Any) -> np.generic:
    """The value as the type that the kernel declares, if nothing is lost by that."""
    where = f"{kernel.name}: {parameter.name}"
    dtype = np.dtype(parameter.dtype)
    if isinstance(value, np.generic) and value.dtype != dtype:
        raise TypeError(f"{where} is {value.dtype}, needs {dtype}")
    number = value.item() if isinstance(value, np.generic) else value
    if not isinstance(number, int if dtype.kind == "i" else int | float):
        raise TypeError(f"{where} is {value!r}, needs a number that fits {dtype}")
    low, high = parameter.low, parameter.high
    if dtype.kind == "i":
        low, high = max(low, np.iinfo(dtype).min), min(high, np.iinfo(dtype).max)
    # written so that NaN fails; infinity is never a size, a scale or a threshold
    if not (low <= number <= high) or number == np.inf or (parameter.step and number % parameter.step):
        multiple = f", a multiple of {parameter.step}" if parameter.step else ""
        raise ValueError(f"{where} is {number}, needs {low:g} to {high:g}{multiple}")
    typed: np.generic = dtype.type(number)
    return typed


def _check_array(
    where: str, parameter: Array, value: Any, sizes: dict[str, Any], array_type: Any, device: int | None
) -> None:
    if not isinstance(value, array_type):
        raise TypeError(f"{where} is a {type(value).__name__}, needs a {array_type.__module__}.{array_type.__name__}")
    if value.dtype != parameter.dtype:
        raise TypeError(f"{where} is {value.dtype}, needs {parameter.dtype}")
    if device is not None and value.device.id != device:
        raise ValueError(f"{where} is on device {value.device.id}, the current device is {device}")
    _check_shape(where, parameter.shape, value.shape, sizes)
    if parameter.stride is not None:
        _check_stride(where, parameter.stride, value, sizes)
    elif not value.flags.c_contiguous:
        raise ValueError(f"{where} has strides {value.strides}, needs C-contiguous rows")
    if _address(value) % parameter.align:
        raise ValueError(f"{where} begins at a multiple of fewer than {parameter.align} bytes")


def _check_shape(where: str, words: str, shape: tuple[int, ...], sizes: dict[str, Any]) -> None:
    """Compare a shape with its words; a size that is met for the first time is remembered."""
    names = words.split()
    if len(shape) != len(names):
        raise ValueError(f"{where} has shape {shape}, needs ({', '.join(names)})")
    for word, size in zip(names, shape, strict=True):
        name, _, more = word.partition("+")
        expected = sizes.setdefault(name, size - int(more or 0)) + int(more or 0)
        if size != expected:
            raise ValueError(f"{where} has shape {shape}, needs ({', '.join(names)}) with {word} = {expected}")


def _check_stride(where: str, name: str, value: Any, sizes: Mapping[str, Any]) -> None:
    n_rows, n_columns = value.shape
    row, column = (stride // value.itemsize for stride in value.strides)
    # a stride that is never taken may be anything
    if (n_columns > 1 and column != 1) or (n_rows > 1 and row != sizes[name]):
        raise ValueError(
            f"{where} has rows {row} elements apart and columns {column}, needs {name} = {sizes[name]} and 1"
        )


def _address(value: Any) -> int:
    interface = getattr(value, "__cuda_array_interface__", None) or value.__array_interface__
    return int(interface["data"][0])


def _check_shared(kernel: Kernel, shared: int, sizes: Mapping[str, Any]) -> None:
    needed = int(kernel.shared_bytes(sizes))
    if shared != needed or needed > MAX_SHARED_BYTES:
        raise ValueError(
            f"{kernel.name}: {shared} bytes of shared memory, needs {needed}, and at most {MAX_SHARED_BYTES} are there;"
            f" {_shown(sizes)}"
        )


def _shown(sizes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in sizes.items())

"""Compile and launch the CUDA kernels of kernels/*.cu, after checking every argument.

A kernel gets bare pointers. A float64 array in place of float32, a view whose rows are not contiguous, or an array that
is too short would be read without an error, so all launches go through this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from gpubench.engines.cuda.signatures import KERNEL_DIR, KERNELS, WARP, Kernel, Parameter

OPTIONS = ("--std=c++17",)
MAX_SHARED_BYTES = 48 << 10
"""Shared memory that a block gets on every GPU without opting in to more."""
MAX_GRID = (2**31 - 1, 65_535)


def source(name: str) -> str:
    """Return the source text of a kernel with the common code prepended.

    The common code is not an #include, because CuPy's cache of compiled kernels ignores changes of included files.
    """
    return "".join((KERNEL_DIR / file).read_text() for file in ("common.cuh", f"{name}.cu"))


def launch(name: str, grid: Sequence[int], block: Sequence[int], *args: Any) -> None:
    """Run a kernel on the current device and stream.

    Parameters
    ----------
    name : name of the kernel and of its file
    grid : number of blocks, `(blocks,)` or `(blocks_x, blocks_y)`
    block : number of threads per block, `(threads,)`
    args : arguments in the order of the kernel's signature; CuPy arrays, and numbers, which are converted to the
        declared type

    Raises
    ------
    TypeError, ValueError
        The arguments do not match the signature; nothing was launched.
    """
    import cupy

    device = int(cupy.cuda.runtime.getDevice())
    arguments, shared = check(KERNELS[name], grid, block, args, array_type=cupy.ndarray, device=device)
    _function(name)(tuple(grid), tuple(block), arguments, shared_mem=shared)


@cache
def _function(name: str) -> Any:
    """Compile a kernel; CuPy caches kernels per device in memory and compiled code on disk."""
    import cupy

    return cupy.RawModule(code=source(name), options=OPTIONS).get_function(name)


def check(
    kernel: Kernel,
    grid: Sequence[int],
    block: Sequence[int],
    args: Sequence[Any],
    *,
    array_type: Any,
    device: int | None = None,
) -> tuple[tuple[Any, ...], int]:
    """Check all arguments of a launch; see `launch`.

    Parameters
    ----------
    array_type : required type of arrays; `numpy.ndarray` in tests without a GPU
    device : number of the device that arrays must be on. If None, this is not checked

    Returns
    -------
    The arguments with numbers as NumPy scalars, and the bytes of dynamic shared memory per block.
    """
    if len(args) != len(kernel.parameters):
        names = ", ".join(parameter.name for parameter in kernel.parameters)
        raise TypeError(f"{kernel.name}: {len(args)} arguments, needs {len(kernel.parameters)}: {names}")
    _check_geometry(kernel, grid, block)
    pairs = list(zip(kernel.parameters, args, strict=True))
    numbers = {p.name: _number(kernel, p, value) for p, value in pairs if not p.is_array}
    sizes = {name: number.item() for name, number in numbers.items()} | kernel.block_sizes(block[0])
    for parameter, value in pairs:
        if parameter.is_array:
            _check_array(kernel, parameter, value, sizes, array_type, device)
    shown = ", ".join(f"{name} = {value}" for name, value in sizes.items())
    for rule, holds in kernel.rules.items():
        if not holds(sizes):
            raise ValueError(f"{kernel.name}: requires {rule}; {shown}")
    shared = int(kernel.shared_bytes(sizes))
    if shared > MAX_SHARED_BYTES:
        raise ValueError(f"{kernel.name}: needs {shared} bytes of shared memory of at most {MAX_SHARED_BYTES}; {shown}")
    return tuple(numbers.get(parameter.name, value) for parameter, value in pairs), shared


def _check_geometry(kernel: Kernel, grid: Sequence[int], block: Sequence[int]) -> None:
    if len(grid) != kernel.grid_dimensions or not all(1 <= n <= most for n, most in zip(grid, MAX_GRID, strict=False)):
        # blocks along a dimension that the kernel ignores would repeat all of its work
        raise ValueError(f"{kernel.name}: grid {tuple(grid)}, needs {kernel.grid_dimensions} numbers from 1")
    if len(block) != 1 or block[0] % WARP or not 1 <= block[0] <= kernel.max_threads:
        raise ValueError(
            f"{kernel.name}: block {tuple(block)}, needs whole warps of {WARP} threads, at most {kernel.max_threads}"
        )
    if kernel.fixed_block and block[0] != kernel.block_threads:
        raise ValueError(f"{kernel.name}: block {tuple(block)}, needs {kernel.block_threads} threads")


def _number(kernel: Kernel, parameter: Parameter, value: Any) -> np.generic:
    """Convert a number to the declared type; raise an error if its value would change or is out of range."""
    where = f"{kernel.name}: {parameter.name}"
    dtype = np.dtype(parameter.dtype)
    if isinstance(value, np.generic) and value.dtype != dtype:
        raise TypeError(f"{where} is {value.dtype}, needs {dtype}")
    number = value.item() if isinstance(value, np.generic) else value
    if not isinstance(number, int if dtype.kind == "i" else int | float):
        raise TypeError(f"{where} is {value!r}, needs a number that fits {dtype}")
    low, high, step = kernel.range_of(parameter)
    if dtype.kind == "i":
        low, high = max(low, np.iinfo(dtype).min), min(high, np.iinfo(dtype).max)
    # written so that NaN fails; infinity is never a size, a scale or a threshold
    if not (low <= number <= high) or number == np.inf or (step > 1 and number % step):
        multiple = f", a multiple of {step}" if step > 1 else ""
        raise ValueError(f"{where} is {number}, needs {low:g} to {high:g}{multiple}")
    typed: np.generic = dtype.type(number)
    return typed


def _check_array(
    kernel: Kernel, parameter: Parameter, value: Any, sizes: dict[str, Any], array_type: Any, device: int | None
) -> None:
    where = f"{kernel.name}: {parameter.name}"
    if not isinstance(value, array_type):
        raise TypeError(f"{where} is a {type(value).__name__}, needs a {array_type.__module__}.{array_type.__name__}")
    if value.dtype != parameter.dtype:
        raise TypeError(f"{where} is {value.dtype}, needs {parameter.dtype}")
    if device is not None and value.device.id != device:
        raise ValueError(f"{where} is on device {value.device.id}, the current device is {device}")
    _check_shape(where, kernel.shapes[parameter.name].split(), value.shape, sizes)
    stride = f"{parameter.name}_stride"
    if stride in sizes:
        _check_stride(where, stride, value, sizes[stride])
    elif not value.flags.c_contiguous:
        raise ValueError(f"{where} has strides {value.strides}, needs C-contiguous rows")
    address = value.ctypes.data if isinstance(value, np.ndarray) else value.data.ptr
    if parameter.name in kernel.aligned and address % 16:
        raise ValueError(f"{where} is not aligned to 16 bytes")


def _check_shape(where: str, names: list[str], shape: tuple[int, ...], sizes: dict[str, Any]) -> None:
    """Check a shape against the names of its sizes; a name not yet in `sizes` is added with the actual size."""
    if len(shape) != len(names):
        raise ValueError(f"{where} has shape {shape}, needs ({', '.join(names)})")
    for word, size in zip(names, shape, strict=True):
        name, _, more = word.partition("+")
        expected = sizes.setdefault(name, size - int(more or 0)) + int(more or 0)
        if size != expected:
            raise ValueError(f"{where} has shape {shape}, needs ({', '.join(names)}) with {word} = {expected}")


def _check_stride(where: str, name: str, value: Any, expected: int) -> None:
    n_rows, n_columns = value.shape
    row, column = (stride // value.itemsize for stride in value.strides)
    # the stride of a dimension of length 1 is never used
    if (n_columns > 1 and column != 1) or (n_rows > 1 and row != expected):
        raise ValueError(f"{where} has rows {row} elements apart and columns {column}, needs {name} = {expected} and 1")

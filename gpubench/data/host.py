"""Arrays of other libraries as NumPy arrays, without importing those libraries."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubench.errors import InputError

_DLPACK_CPU = 1


def comes_from(x: Any, package: str) -> bool:
    """Whether the type of `x`, or one that it is derived from, is defined in `package`."""
    return any(base.__module__.partition(".")[0] == package for base in type(x).__mro__)


def is_on_device(x: Any) -> bool:
    """Whether `x` is an array in the memory of a device: of CuPy, of torch on a GPU, of whatever exports DLPack."""
    if comes_from(x, "cupy"):
        return True
    if comes_from(x, "torch"):
        return str(x.layout) == "torch.strided" and x.device.type != "cpu"
    return hasattr(x, "__dlpack_device__") and x.__dlpack_device__()[0] != _DLPACK_CPU


def to_host(x: Any, name: str) -> NDArray[Any]:
    """`x` as a NumPy array of its own shape and dtype; a view where the memory can be shared.

    Takes NumPy arrays and memmaps, torch tensors (any device, requiring grad or not), CuPy arrays, whatever has
    `__array__` or exports DLPack, and nested lists.

    Raises
    ------
    InputError
        No array at all, masked cells, lists of uneven length, or memory that cannot be copied to the host.
    """
    if "numpy.ma" in sys.modules and isinstance(x, np.ma.MaskedArray):  # importing numpy.ma takes a while
        n_masked = int(np.count_nonzero(np.ma.getmaskarray(x)))
        if n_masked:
            raise InputError(f"{name} has {n_masked:,} masked values; fill them or leave those cells out")
        return np.asarray(x.data)
    if isinstance(x, np.ndarray):
        return x
    if comes_from(x, "torch"):
        return _from_torch(x, name)
    if comes_from(x, "cupy"):
        host: NDArray[Any] = x.get()
        return host
    if hasattr(x, "__dlpack__") and not hasattr(x, "__array__"):
        return _from_dlpack(x, name)
    if isinstance(x, str | bytes) or not (hasattr(x, "__array__") or isinstance(x, Sequence)):
        raise InputError(f"{name} is of type {type(x).__name__}, not an array; give an array, one row or value a cell")
    try:
        return np.asarray(x)
    except ValueError as error:  # nested lists that are no matrix
        raise InputError(f"{name} cannot be made an array: {error}; give rows of equal length") from error


def _from_torch(tensor: Any, name: str) -> NDArray[Any]:
    if str(tensor.layout) != "torch.strided":
        raise InputError(f"{name} is a sparse torch tensor; give {name}.to_dense() or a SciPy sparse matrix")
    tensor = tensor.detach().cpu()
    if str(tensor.dtype) == "torch.bfloat16":  # NumPy has no such dtype; float32 holds every bfloat16
        tensor = tensor.float()
    host: NDArray[Any] = tensor.resolve_conj().resolve_neg().numpy()
    return host


def _from_dlpack(x: Any, name: str) -> NDArray[Any]:
    try:
        if x.__dlpack_device__()[0] == _DLPACK_CPU:
            return np.from_dlpack(x)
        return np.from_dlpack(x, device="cpu")
    except (BufferError, RuntimeError, TypeError) as error:
        raise InputError(f"{name} cannot be copied to the host ({error}); give a NumPy array") from error

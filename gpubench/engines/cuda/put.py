"""Embeddings on their way to the GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError
from gpubench.core.types import Array, RowSource
from gpubench.data import DeviceRows, FiniteCheck, as_rows, read_rows
from gpubench.engines import planner

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from gpubench.core.timeline import Timeline
    from gpubench.engines.cuda.device import Device

ROOM_SHARE = 2
"""An embedding stays on the GPU if it leaves at least as much memory to the operations as one part in so many."""


def put(
    device: Device, x: Any, name: str, *, room_bytes: int, timeline: Timeline, note: Callable[[str], None]
) -> Array:
    """See `Engine.put`; arrays on the GPU are used where they are, others are copied block by block.

    What does not fit stays in pinned host memory that the GPU reads over the bus, and `note` is told.
    """
    adopted = device.adopt(x.array if isinstance(x, DeviceRows) else x)
    if adopted is not None:
        return _use(device, adopted, name)
    source = as_rows(x, name)
    n, d = source.shape
    step = planner.read_block_rows(d, max(4, source.dtype.itemsize))
    if 4 * n * d <= room_bytes - room_bytes // ROOM_SHARE:
        array = device.xp.empty((n, d), np.float32)
        with device.copying() as copier:
            for start in range(0, n, step):
                stop = min(start + step, n)
                copier.copy(read_rows(source, start, stop), array[start:stop])
                timeline.advance(stop, n)
    else:
        planner.require(4 * n * d, planner.budget_bytes(None), f"{name} as float32 ({n:,} x {d}), in host memory")
        array, host = device.mapped((n, d), np.float32)
        with np.errstate(over="ignore"):
            for start in range(0, n, step):
                stop = min(start + step, n)
                host[start:stop] = read_rows(source, start, stop)
                timeline.advance(stop, n)
        note(f"{name} does not fit the GPU's memory; it was read from host memory whenever it was needed")
    timeline.put(4 * n * d)
    if not _all_finite(device, array, step):
        _refuse(source, name)
    return array


def _use(device: Device, x: Array, name: str) -> Array:
    """An array of the GPU as (n, d) float32, C-contiguous: itself, if it is that already."""
    source = as_rows(x, name)
    _, d = source.shape
    step = planner.read_block_rows(d, max(4, x.dtype.itemsize))
    array = x
    if x.dtype != np.float32 or not x.flags.c_contiguous:
        with np.errstate(over="ignore"):
            array = device.xp.ascontiguousarray(x, dtype=np.float32)
    if not _all_finite(device, array, step):
        _refuse(source, name)
    return array


def _all_finite(device: Device, array: Array, step: int) -> bool:
    xp = device.xp
    blocks = [xp.isfinite(array[start : start + step]).all() for start in range(0, len(array), step)]
    return bool(xp.stack(blocks).all())


def _refuse(source: NDArray[Any] | RowSource, name: str) -> None:
    """Look for the rows that cannot be scored once more, on the host, to name them.

    Raises
    ------
    InputError
        Always.
    """
    n, d = source.shape
    check = FiniteCheck(name)
    step = planner.read_block_rows(d, source.dtype.itemsize)
    for start in range(0, n, step):
        check.add(read_rows(source, start, min(start + step, n)), start)
    check.finish(n)
    raise InputError(f"{name} changed while it was read; give values that stay as they are")

"""Transfer of embeddings to the GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError
from gpubench.core.types import Array, RowSource
from gpubench.data import DeviceCsrRows, DeviceRows, FiniteCheck, as_rows, read_rows
from gpubench.engines import planner
from gpubench.engines.cuda.device import Copier
from gpubench.engines.cuda.workspace import Workspace, row_blocks

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

ROOM_SHARE = 2
"""An embedding stays on the GPU if it leaves at least one part in this many of the memory to the operations."""


def put(workspace: Workspace, x: Any, name: str, note: Callable[[str], None]) -> Array:
    """Return x as (n, d) float32 on the GPU; see `Engine.put`.

    Arrays on this GPU are used without a copy, others are copied in blocks. If the embedding does not fit in GPU
    memory, it is copied to pinned host memory, which the GPU reads over the bus, and `note` receives a message.
    """
    device = workspace.device
    if isinstance(x, DeviceCsrRows):
        adopted = _densify(workspace, x)
    else:
        adopted = device.adopt(x.array if isinstance(x, DeviceRows) else x)
    source = as_rows(x if adopted is None else adopted, name)
    step = planner.read_block_rows(source.shape[1], max(4, source.dtype.itemsize))
    if adopted is None:
        array = _copy(workspace, source, step, name, note)
        workspace.timeline.put(array.nbytes)
    elif adopted.dtype == np.float32 and adopted.flags.c_contiguous:
        array = adopted
    else:
        with np.errstate(over="ignore"):
            array = device.xp.ascontiguousarray(adopted, dtype=np.float32)
    finite = [device.xp.isfinite(array[rows]).all() for rows in row_blocks(len(array), step)]
    if not bool(device.xp.stack(finite).all()):
        _refuse(source, name)
    return array


def _densify(workspace: Workspace, x: DeviceCsrRows) -> Array | None:
    """Return a sparse matrix on this GPU as a dense array; None if it is on another GPU or too large."""
    device, (n, d) = workspace.device, x.shape
    if x.node.data.device.id != device.number or not _fits(workspace, n, d):
        return None
    array = device.xp.empty((n, d), np.float32)
    for rows in row_blocks(n, planner.read_block_rows(d, 4)):
        array[rows] = x.node[rows].toarray()
    return array


def _fits(workspace: Workspace, n: int, d: int) -> bool:
    return 4 * n * d <= workspace.room_bytes - workspace.room_bytes // ROOM_SHARE


def _copy(
    workspace: Workspace, source: NDArray[Any] | RowSource, step: int, name: str, note: Callable[[str], None]
) -> Array:
    """Copy rows from the host to the GPU, or to pinned host memory if they do not fit."""
    device, (n, d) = workspace.device, source.shape
    if _fits(workspace, n, d):
        array = device.xp.empty((n, d), np.float32)
        with Copier(device) as copier:
            for rows in row_blocks(n, step):
                copier.copy(read_rows(source, rows.start, rows.stop), array[rows])
                workspace.timeline.advance(rows.stop, n)
        return array
    planner.require(4 * n * d, planner.budget_bytes(None), f"{name} as float32 ({n:,} x {d}), in host memory")
    array, host = device.mapped((n, d), np.float32)
    with np.errstate(over="ignore"):
        for rows in row_blocks(n, step):
            host[rows] = read_rows(source, rows.start, rows.stop)
            workspace.timeline.advance(rows.stop, n)
    note(f"{name} does not fit the GPU's memory; it was read from host memory whenever it was needed")
    return array


def _refuse(source: NDArray[Any] | RowSource, name: str) -> None:
    """Check the rows again on the host and raise an error that lists those with NaN or infinite values.

    Raises
    ------
    InputError
        Always.
    """
    n, d = source.shape
    check = FiniteCheck(name)
    for rows in row_blocks(n, planner.read_block_rows(d, source.dtype.itemsize)):
        check.add(read_rows(source, rows.start, rows.stop), rows.start)
    check.finish(n)
    raise InputError(f"{name} changed while it was read; give values that stay as they are")

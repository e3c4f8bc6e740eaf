"""Puts cells into the memory of the host: reads them in blocks, checks them, and converts them to float32 if needed."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.types import RowSource
from gpubench.data import FiniteCheck, as_rows
from gpubench.engines import planner
from gpubench.engines.common import flop_counts

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from gpubench.core.timeline import Timeline
    from gpubench.core.types import F32


def put(x: ArrayLike | RowSource, name: str, budget: planner.Budget, timeline: Timeline) -> F32:
    """See `Engine.put`; a C-contiguous float32 array in memory is used without a copy.

    Raises
    ------
    InputError
        Cells that cannot be scored, or do not fit the budget.
    """
    source = as_rows(x, name)
    n, d = source.shape
    in_place = _usable_in_place(source)
    if in_place is None:
        planner.require(4 * n * d, budget.total_bytes, f"{name} as float32 ({n:,} x {d})")
        array = budget.hold(np.empty((n, d), np.float32))
    else:
        array = in_place
    timeline.count(flop_counts.put(n, d, source.dtype.itemsize, copied=in_place is None))
    check = FiniteCheck(name)
    step = planner.read_block_rows(d, source.dtype.itemsize)
    for start in range(0, n, step):
        stop = min(start + step, n)
        block = source[start:stop] if isinstance(source, np.ndarray) else source.read(start, stop)
        check.add(block, start)
        if in_place is None:
            with np.errstate(over="ignore"):  # values beyond float32 become infinite and are refused below
                array[start:stop] = block
        _release_pages(source)
        timeline.advance(stop, n)
    check.finish(n)
    timeline.put(array.nbytes)
    return array


def _usable_in_place(source: NDArray[Any] | RowSource) -> F32 | None:
    """Return the array itself if it can be used without a copy. A memory map is copied, to be read only once."""
    if not isinstance(source, np.ndarray) or isinstance(source, np.memmap):
        return None
    usable = source.dtype == np.float32 and source.flags.c_contiguous and source.flags.aligned
    return source if usable else None


def _release_pages(source: NDArray[Any] | RowSource) -> None:
    """Release the pages of a memory map that were read, which count as memory of this process.

    The system keeps them in its cache while it has room. Pages of a map that is private to this process (mode "c") may
    have been written to, and are not released.
    """
    if isinstance(source, np.memmap) and source.mode != "c" and hasattr(mmap, "MADV_DONTNEED"):
        mapped: Any = source
        mapped._mmap.madvise(mmap.MADV_DONTNEED)  # noqa: SLF001 - NumPy's only way to the map

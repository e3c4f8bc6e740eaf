"""Cells put into the memory of the host: read in blocks, checked, and rounded to float32 where they have to be."""

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


def put(x: ArrayLike | RowSource, name: str, budget: planner.Budget, timeline: Timeline) -> NDArray[np.float32]:
    """See `Engine.put`; a C-contiguous float32 array in memory is used where it is.

    Raises
    ------
    InputError
        Cells that cannot be scored, or do not fit the budget.
    """
    source = as_rows(x, name)
    n, d = source.shape
    in_place = _as_it_is(source)
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
            with np.errstate(over="ignore"):  # what does not fit float32 is refused below
                array[start:stop] = block
        _let_pages_go(source)
        timeline.advance(stop, n)
    check.finish(n)
    timeline.put(array.nbytes)
    return array


def _as_it_is(source: NDArray[Any] | RowSource) -> NDArray[np.float32] | None:
    """The array itself where it can be used in place, else None. A memory map is read once instead of for each tile."""
    if not isinstance(source, np.ndarray) or isinstance(source, np.memmap):
        return None
    usable = source.dtype == np.float32 and source.flags.c_contiguous and source.flags.aligned
    return source if usable else None


def _let_pages_go(source: NDArray[Any] | RowSource) -> None:
    """Give the pages of a memory map back that were read: they count as this process's memory, beside their copy.

    The system keeps them in its cache as long as it has room. Those of a map that is private to this process (mode "c")
    may have been written to, and stay.
    """
    if isinstance(source, np.memmap) and source.mode != "c" and hasattr(mmap, "MADV_DONTNEED"):
        mapped: Any = source
        mapped._mmap.madvise(mmap.MADV_DONTNEED)  # noqa: SLF001 - NumPy's only way to the map

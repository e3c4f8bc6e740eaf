"""Memory limit of a run, and block sizes that respect the limit."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, TypeVar

from gpubench.core import memory
from gpubench.core.errors import InputError
from gpubench.core.units import bytes_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T", bound="np.generic")

SHARE_OF_FREE = 0.8
MIN_BUDGET_BYTES = 64 << 20
READ_BLOCK_BYTES = 64 << 20

BLOCK_SHARE = 0.25
"""Share of the memory for blocks, such as candidates for neighbours; smaller ones need more passes over the cells."""

PIECE_VALUES, SCALED_VALUES = 1 << 22, 1 << 22
"""Number of values that are centred or scaled at a time, with several float64 copies in memory."""

RANKED_VALUES = 1 << 24
"""Number of probabilities that are ranked at a time."""


def free_memory_bytes() -> int:
    """Return the bytes that this process can still allocate: free memory, within the limits of its control groups."""
    free, left = memory.system_free_bytes(), memory.group_free_bytes()
    return free if left is None else min(free, left)


def budget_bytes(wanted: int | None) -> int:
    """Return the memory limit of a run in bytes: the user's limit `wanted`, or, if None, a share of the free memory.

    Raises
    ------
    InputError
        The user's limit is below `MIN_BUDGET_BYTES`.
    """
    if wanted is None:
        return int(SHARE_OF_FREE * free_memory_bytes())
    if wanted < MIN_BUDGET_BYTES:
        least = f"{bytes_text(MIN_BUDGET_BYTES)} ({MIN_BUDGET_BYTES:,} bytes)"
        raise InputError(
            f"memory={wanted:,} bytes is too little for any run; allow at least {least}", argument="memory"
        )
    return wanted


class Budget:
    """Memory limit of a run, and the memory of its long-lived arrays.

    Attributes
    ----------
    total_bytes : memory limit
    held_bytes : memory of the arrays passed to `hold` that still exist
    """

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self.held_bytes = 0

    @property
    def left(self) -> int:
        """Memory available for blocks in bytes, at least `MIN_BUDGET_BYTES`."""
        return max(MIN_BUDGET_BYTES, self.total_bytes - self.held_bytes)

    def hold(self, array: NDArray[T]) -> NDArray[T]:
        """Count the memory of an array until the array and all its views are deleted; return the array."""
        self.held_bytes += array.nbytes
        weakref.finalize(array, self._release, array.nbytes)
        return array

    def _release(self, n_bytes: int) -> None:
        self.held_bytes -= n_bytes


def require(n_bytes: int, budget: int, what: str, advice: str = "use fewer cells") -> None:
    """Raise InputError if an operation needs more memory than there is.

    Parameters
    ----------
    n_bytes : memory that the operation needs
    budget : available memory in bytes
    what : name of the operation in the message
    advice : remedy named in the message in addition to a higher limit

    Raises
    ------
    InputError
        `n_bytes` exceeds `budget`.
    """
    if n_bytes > budget:
        needs, has = bytes_text(n_bytes), bytes_text(budget)
        raise InputError(f"{what} takes {needs}, but {has} may be used; raise `memory`, or {advice}")


def require_knn(n: int, d: int, k: int, budget: int) -> None:
    """Raise InputError if the graph of k neighbours of n cells and the operands of the distance tiles do not fit.

    Raises
    ------
    InputError
        The required memory exceeds `budget` bytes.
    """
    require(8 * n * k + 8 * n * (d + 2), budget, f"the graph of {k} neighbours of {n:,} cells", "use fewer neighbours")


def read_block_rows(d: int, itemsize: int) -> int:
    """Return the number of rows to read at a time from a file with d values of `itemsize` bytes per row."""
    return max(1, READ_BLOCK_BYTES // max(1, d * itemsize))

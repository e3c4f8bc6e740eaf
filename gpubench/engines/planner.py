"""How much memory a run may use, and the block sizes that follow."""

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

PIECE_VALUES, SCALED_VALUES = 1 << 22, 1 << 22
"""Values that are centred, or brought to one scale, at a time; several copies of them are in float64."""

RANKED_VALUES = 1 << 24
"""Probabilities that are ranked at a time, and their ranks."""


def free_memory_bytes() -> int:
    """Memory that this process can still get: what the system has free, within the limits of its control groups."""
    free, left = memory.system_free_bytes(), memory.group_free_bytes()
    return free if left is None else min(free, left)


def budget_bytes(wanted: int | None) -> int:
    """What a run uses at most: what the user wants, or a share of what is free.

    Raises
    ------
    InputError
        Less than the blocks of any run take.
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
    """The memory of a run, and how much of it the arrays take that the run holds on to.

    Attributes
    ----------
    total_bytes : what the run may use
    held_bytes : what arrays that are alive take of it
    """

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self.held_bytes = 0

    @property
    def left(self) -> int:
        """What blocks may be made of; never so little that nothing would go on."""
        return max(MIN_BUDGET_BYTES, self.total_bytes - self.held_bytes)

    def hold(self, array: NDArray[T]) -> NDArray[T]:
        """Count an array until nobody has it or a view of it any more; returns it."""
        self.held_bytes += array.nbytes
        weakref.finalize(array, self._let_go, array.nbytes)
        return array

    def _let_go(self, n_bytes: int) -> None:
        self.held_bytes -= n_bytes


def require(n_bytes: int, budget: int, what: str, advice: str = "use fewer cells") -> None:
    """Refuse, before it starts, what cannot fit.

    Raises
    ------
    InputError
        `n_bytes` are more than the budget.
    """
    if n_bytes > budget:
        needs, has = bytes_text(n_bytes), bytes_text(budget)
        raise InputError(f"{what} takes {needs}, but {has} may be used; raise `memory`, or {advice}")


def require_knn(n: int, d: int, k: int, budget: int) -> None:
    """Refuse a neighbour graph that cannot fit: its indices and distances, and both sides of the distance tiles.

    Raises
    ------
    InputError
        It takes more than the budget.
    """
    require(8 * n * k + 8 * n * (d + 2), budget, f"the graph of {k} neighbours of {n:,} cells", "use fewer neighbours")


def read_block_rows(d: int, itemsize: int) -> int:
    """Rows of a (n, d) file to read at a time."""
    return max(1, READ_BLOCK_BYTES // max(1, d * itemsize))

"""What compiled tiles have found near each row so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.cpu_native import Tiles


class CandidateStore:
    """The nearest cells of each row seen so far, which the compiled functions write.

    Attributes
    ----------
    first : the position of the first row
    keep, space : candidates that a row keeps, and has room for until it is cut back
    arrays : (rows, space) uint64, (rows,) int32, (rows + columns,) float32: candidates, counts, limits
    locks : (rows,) uint8
    """

    def __init__(self, tiles: Tiles, part: range, k: int, n_others: int) -> None:
        self.first = part.start
        self.keep, self.space = self.sizes(k, n_others)
        limits = np.full(len(part) + tiles.columns, -1, np.float32)  # nothing is a candidate of the rows after the last
        limits[: len(part)] = np.inf
        self.arrays = np.empty((len(part), self.space), np.uint64), np.zeros(len(part), np.int32), limits
        self.locks = np.zeros(len(part), np.uint8)

    @staticmethod
    def sizes(k: int, n_others: int) -> tuple[int, int]:
        """Candidates that a row keeps, and has room for."""
        keep = min(k + max(4, k // 16), n_others)
        return keep, keep + max(16, keep // 4)

    def of_rows(self, rows: slice) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """How many candidates each of some rows has, and all their positions, one row after another."""
        candidates, counts = self.arrays[0][rows], self.arrays[1][rows]
        there = np.arange(self.space) < counts[:, None]
        return counts, (candidates[there] & np.uint64(0xFFFFFFFF)).astype(np.int64)

    def replace(self, row: int, positions: NDArray[np.int64]) -> None:
        """Let a row have other candidates, which are handed on and not compared any more."""
        self.arrays[0][row, : len(positions)] = positions
        self.arrays[1][row] = len(positions)

    @classmethod
    def bytes_a_row(cls, k: int, n_others: int) -> int:
        """What one row takes."""
        return 8 * cls.sizes(k, n_others)[1] + 9

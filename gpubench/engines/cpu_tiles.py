"""Sums of the distances in a tile between two blocks of cells: by compiled code, or by NumPy.

A tile is a product, ||x||^2 + ||y||^2 - 2 x.y, in float32 on rows centred on their panel's mean. Where cells lie so
close that float32 would lose the distance to cancellation, it is computed again from differences, or the whole tile in
float64.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpubench.engines.cpu_kernels import positions
from gpubench.engines.segments import Block, Segments, panels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.cpu_native import Tiles

BLOCK_ROWS = 768
"""Rows of a block: a tile of 768 x 768 float32, 2.25 MiB, stays in the caches of a core."""

CLOSE = 2e-4
"""Squared distances under this share of the squared norms are computed again in float64.

Float32 keeps a squared distance to about 2e-7 of the squared norms; above this share a distance is right to 5e-4 of
itself, without bias, and it is a distance so small that the mean over a cluster does not see it."""

MANY_CLOSE = 1e-3
"""Share of a tile's distances up to which close ones are computed again one by one, and not the whole tile."""


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a tile: float32 or float64 rows (m, d), their squared norms, and the first row of each segment."""

    rows: NDArray[np.floating]
    squares: NDArray[np.floating]
    cuts: NDArray[np.int64]

    @classmethod
    def of(cls, rows: NDArray[np.floating], cuts: NDArray[np.int64]) -> Side:
        """With the squared norms of the rows."""
        return cls(rows, np.einsum("ij,ij->i", rows, rows), cuts)

    def in_float64(self) -> Side:
        """The same rows for a product in float64."""
        return Side.of(self.rows.astype(np.float64), self.cuts)


TileSums = tuple["NDArray[np.floating]", "NDArray[np.floating]"]
"""Sums over the columns of each segment, (segments, rows), and over the rows of each, (segments, columns)."""


class Summer(ABC):
    """Adds up the distances of tiles; each worker thread has its own."""

    @abstractmethod
    def sums(self, left: Side, right: Side, *, same: bool = False) -> TileSums | None:
        """Sums of the distances between two sides; None where float32 has lost too many.

        Parameters
        ----------
        same : both sides are the same cells, which are at distance 0 of themselves
        """


def make_summer(compiled: Tiles | None, d: int) -> Summer:
    """Make one for cells of d dimensions; without compiled tiles NumPy does the same."""
    return _Compiled(compiled) if compiled else _Numpy(d)


class _Compiled(Summer):
    """Adds up distances while they are in registers."""

    def __init__(self, compiled: Tiles) -> None:
        self._compiled = compiled

    def sums(self, left: Side, right: Side, *, same: bool = False) -> TileSums | None:
        m, n = len(left.rows), len(right.rows)
        to_columns, to_rows = np.empty((len(right.cuts), m)), np.empty((len(left.cuts), n))
        n_close = self._compiled.silhouette_tile(
            *(left.rows, left.squares, m, right.rows, right.squares, n, left.rows.shape[1], same),
            *(_close_limit(left, right), left.cuts, len(left.cuts), right.cuts, len(right.cuts), to_columns, to_rows),
        )
        return None if n_close > MANY_CLOSE * m * n else (to_columns, to_rows)


class _Numpy(Summer):
    """Keeps whole tiles in buffers of its own."""

    def __init__(self, d: int) -> None:
        self._left = np.empty((BLOCK_ROWS, d + 2), np.float32)
        self._right = np.empty((BLOCK_ROWS, d + 2), np.float32)
        self._tile = np.empty((BLOCK_ROWS, BLOCK_ROWS), np.float32)

    def sums(self, left: Side, right: Side, *, same: bool = False) -> TileSums | None:
        d = left.rows.shape[1]
        # [x, |x|^2, 1] . [-2y, 1, |y|^2] is the squared distance in one matrix product
        a, b = self._left[: len(left.rows)], self._right[: len(right.rows)]
        a[:, :d], a[:, d], a[:, d + 1] = left.rows, left.squares, 1
        np.multiply(right.rows, -2, out=b[:, :d])
        b[:, d], b[:, d + 1] = 1, right.squares
        tile = self._tile[: len(a), : len(b)]
        np.matmul(a, b.T, out=tile)
        if same:
            np.fill_diagonal(tile, np.inf)
        limit = _close_limit(left, right)
        if not tile.min() > limit:
            rows, columns = np.divmod(positions(tile <= limit), tile.shape[1])
            if len(rows) > MANY_CLOSE * tile.size:
                return None
            differences = left.rows[rows] - right.rows[columns]
            tile[rows, columns] = np.einsum("ij,ij->i", differences, differences)
        np.sqrt(tile, out=tile)
        if same:
            np.fill_diagonal(tile, 0)
        return _sums(tile, left, right)


def sums_in_float64(left: Side, right: Side, *, same: bool = False) -> TileSums:
    """Sums of the distances between two sides of float64 rows."""
    tile = left.rows @ right.rows.T
    tile *= -2
    tile += left.squares[:, None]
    tile += right.squares
    np.maximum(tile, 0, out=tile)
    if same:
        np.fill_diagonal(tile, 0)
    return _sums(np.sqrt(tile, out=tile), left, right)


def _close_limit(left: Side, right: Side) -> float:
    return float(CLOSE * (left.squares.max() + right.squares.max()))


def _sums(distances: NDArray[np.floating], left: Side, right: Side) -> TileSums:
    return _sum_columns(distances, right.cuts).T, _sum_rows(distances, left.cuts)


def _sum_columns(distances: NDArray[np.floating], cuts: NDArray[np.int64]) -> NDArray[np.floating]:
    """Sum over the columns of each segment; (rows, segments)."""
    if len(cuts) == 1:
        # a product with ones is several times faster than sum(axis=1)
        return (distances @ np.ones(distances.shape[1], distances.dtype))[:, None]
    return np.add.reduceat(distances, cuts, axis=1)


def _sum_rows(distances: NDArray[np.floating], cuts: NDArray[np.int64]) -> NDArray[np.floating]:
    """Sum over the rows of each segment; (segments, columns)."""
    # reduceat is slow along the first axis
    return np.stack([part.sum(axis=0) for part in np.split(distances, cuts[1:])])


class CentredRows:
    """Sorted rows, each block centred on its panel's mean and scaled to an extent of at most 1, in float32.

    Means are rounded to float32, so identical cells become exact zeros.

    Attributes
    ----------
    rows : (n, d) float32
    squares : (n,) float32, squared norms of `rows`
    scale : what they were multiplied by, a power of two
    reach : no two rows are further apart than this
    """

    def __init__(self, x: NDArray[np.float32], segments: Segments, blocks: list[Block]) -> None:
        self.rows = x[segments.order]
        self.squares = np.empty(len(x), np.float32)
        spans = panels(blocks)
        self._means = np.stack([self.rows[a:b].mean(axis=0, dtype=np.float64).astype(np.float32) for a, b in spans])
        low, high = self.rows.min(axis=0), self.rows.max(axis=0)
        extent = float((high.astype(np.float64) - low).max())
        # widths do not depend on scale; a power of two rounds nothing, and squares cannot overflow
        self.scale = 2.0 ** -np.ceil(np.log2(extent)) if extent > 0 else 1.0
        scale = np.float32(self.scale)
        for mean, (start, stop) in zip(self._means, spans, strict=True):
            part = self.rows[start:stop]
            part -= mean
            part *= scale
            np.einsum("ij,ij->i", part, part, out=self.squares[start:stop])
        self._means *= scale
        self.reach = float(np.sqrt(self.rows.shape[1]))

    def side(self, block: Block) -> Side:
        """The rows of a block, centred on its panel's mean."""
        return Side(self.rows[block.start : block.stop], self.squares[block.start : block.stop], block.cuts)

    def beside(self, block: Block, other: Block, dtype: type = np.float32) -> Side:
        """The rows of a block, centred on the mean of another block's panel."""
        if block.panel == other.panel and dtype is np.float32:
            return self.side(block)
        rows: NDArray[np.floating] = self.rows[block.start : block.stop].astype(dtype)
        if block.panel != other.panel:
            rows += (self._means[block.panel].astype(np.float64) - self._means[other.panel]).astype(dtype)
        return Side.of(rows, block.cuts)

    def of_cells(self, cells: NDArray[np.float32], other: Block) -> Side:
        """Cells as the user gave them, centred and scaled as the rows of a block are: a cell of both has equal rows."""
        rows: NDArray[np.float32] = cells * np.float32(self.scale)
        rows -= self._means[other.panel]
        return Side.of(rows, np.zeros(1, np.int64))

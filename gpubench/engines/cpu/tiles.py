"""Sum the distances in a tile, the distances between all cells of two blocks, with compiled code or NumPy.

Squared distances are computed as ||x||^2 + ||y||^2 - 2 x.y in float32, from rows centred on the mean of their panel
(see `segments`). Distances too small for this, because of cancellation, are recomputed from differences, or the whole
tile is recomputed in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np

from gpubench.engines.common.knn_search import power_of_two_scale
from gpubench.engines.common.segments import Block, Segments, panels
from gpubench.engines.cpu.kernels import positions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.core.types import F32, F64, I64
    from gpubench.engines.cpu.compiled import Tiles

BLOCK_ROWS = 768
"""Rows of a block: a tile of 768 x 768 float32, 2.25 MiB, stays in the caches of a core."""

CLOSE = 2e-4
"""Squared distances below this share of the squared norms are computed again in float64.

Float32 keeps a squared distance to about 2e-7 of the squared norms. Above this share a distance has a relative error
of at most 5e-4, without bias, which is too small to change the mean over a cluster."""

MAX_CLOSE_SHARE = 1e-3
"""Share of a tile's distances up to which small ones are computed again one by one; beyond, the whole tile is."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two blocks of a tile: centred rows, their squared norms, and the first row of each segment."""

    rows: NDArray[np.floating]  # (m, d) float32 or float64
    squares: NDArray[np.floating]  # (m,) squared norms of the rows
    cuts: I64  # first row of each segment

    @classmethod
    def of(cls, rows: NDArray[np.floating], cuts: I64) -> Side:
        """Make a side from centred rows and the first row of each segment (`cuts`), and compute the squared norms."""
        return cls(rows, np.einsum("ij,ij->i", rows, rows), cuts)

    def in_float64(self) -> Side:
        """Return the side with its rows converted to float64."""
        return Side.of(self.rows.astype(np.float64), self.cuts)


TileSums = tuple["NDArray[np.floating]", "NDArray[np.floating]"]
"""Sums over the columns of each segment, (segments, rows), and over the rows of each segment, (segments, columns)."""


class Summer:
    """Sum the distances of tiles with compiled code or NumPy; each worker thread has a summer with its own buffers."""

    def __init__(self, compiled: Tiles | None, d: int) -> None:
        self._compiled = compiled
        if compiled is None:
            self._left = np.empty((BLOCK_ROWS, d + 2), np.float32)
            self._right = np.empty((BLOCK_ROWS, d + 2), np.float32)
            self._tile = np.empty((BLOCK_ROWS, BLOCK_ROWS), np.float32)

    def sums(self, left: Side, right: Side, *, same: bool = False) -> TileSums | None:
        """Sum the distances between two sides by segment; return None if too many of them are inaccurate in float32.

        If `same`, both sides are the same cells, and the distance of a cell to itself is exactly 0.
        """
        limit = float(CLOSE * (left.squares.max() + right.squares.max()))
        if self._compiled is None:
            return self._sums_of_products(left, right, limit, same=same)
        m, n = len(left.rows), len(right.rows)
        to_columns, to_rows = np.empty((len(right.cuts), m)), np.empty((len(left.cuts), n))
        n_close = self._compiled.silhouette_tile(
            *(left.rows, left.squares, m, right.rows, right.squares, n, left.rows.shape[1], same, limit),
            *(left.cuts, len(left.cuts), right.cuts, len(right.cuts), to_columns, to_rows),
        )
        return None if n_close > MAX_CLOSE_SHARE * m * n else (to_columns, to_rows)

    def _sums_of_products(self, left: Side, right: Side, limit: float, *, same: bool) -> TileSums | None:
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
        if not tile.min() > limit:
            rows, columns = np.divmod(positions(tile <= limit), tile.shape[1])
            if len(rows) > MAX_CLOSE_SHARE * tile.size:
                return None
            differences = left.rows[rows] - right.rows[columns]
            tile[rows, columns] = np.einsum("ij,ij->i", differences, differences)
        np.sqrt(tile, out=tile)
        if same:
            np.fill_diagonal(tile, 0)
        return _sums(tile, left, right)


def sums_in_float64(left: Side, right: Side, *, same: bool = False) -> TileSums:
    """Sum the distances between two sides with float64 rows by segment; see `Summer.sums`."""
    tile = left.rows @ right.rows.T
    tile *= -2
    tile += left.squares[:, None]
    tile += right.squares
    np.maximum(tile, 0, out=tile)
    if same:
        np.fill_diagonal(tile, 0)
    return _sums(np.sqrt(tile, out=tile), left, right)


def _sums(distances: NDArray[np.floating], left: Side, right: Side) -> TileSums:
    if len(right.cuts) == 1:
        # a product with ones is several times faster than sum(axis=1)
        to_columns = (distances @ np.ones(distances.shape[1], distances.dtype))[None]
    else:
        to_columns = np.add.reduceat(distances, right.cuts, axis=1).T
    # reduceat is slow along the first axis
    return to_columns, np.stack([part.sum(axis=0) for part in np.split(distances, left.cuts[1:])])


@dataclass(frozen=True, slots=True)
class Centring:
    """Means of the panels and the scale with which sorted rows are centred and scaled."""

    means: F32  # (panels, d) float32 means of the unscaled rows
    scale: float  # factor of the rows, a power of two

    @classmethod
    def of(cls, sums: F64, low: F32, high: F32, blocks: list[Block]) -> Centring:
        """Compute means and scale from the sums of all blocks (see `block_sums`) and the range of each dimension.

        Means are rounded to float32, so that rows of a panel of identical cells become exactly 0.
        """
        extent = float((high.astype(np.float64) - low).max())
        # a power of two rounds nothing, and squares of scaled rows cannot overflow
        scale = power_of_two_scale(extent)
        firsts = np.flatnonzero(np.diff([block.panel for block in blocks], prepend=-1))
        sizes = np.array([stop - start for start, stop in panels(blocks)])
        means = (np.add.reduceat(sums, firsts, axis=0) / sizes[:, None]).astype(np.float32)
        return cls(means, scale)

    @property
    def reach(self) -> float:
        """Upper bound of the distance between two centred and scaled rows."""
        return float(np.sqrt(self.means.shape[1]))

    def centre(self, rows: F32, blocks: list[Block]) -> F32:
        """Centre and scale the rows of consecutive blocks in place; return their squared norms."""
        squares = np.empty(len(rows), np.float32)
        first = blocks[0].start
        for start, stop, panel in _panel_runs(blocks):
            part = self.move(rows[start - first : stop - first], panel)
            np.einsum("ij,ij->i", part, part, out=squares[start - first : stop - first])
        return squares

    def move(self, rows: F32, panel: int) -> F32:
        """Centre rows on the mean of a panel and scale them, both in place; return the rows.

        If the scale is below 1, rows are scaled first, else they are centred first, so that neither differences of
        values near the float32 limit nor dimensions with a large mean overflow.
        """
        scale, mean = np.float32(self.scale), self.means[panel]
        if scale < 1:
            rows *= scale
            rows -= mean * scale
        else:
            rows -= mean
            rows *= scale
        return rows


def block_sums(rows: F32, blocks: list[Block]) -> F64:
    """Sum the rows within each of several consecutive blocks; (n_blocks, d)."""
    first = blocks[0].start
    return np.stack([rows[b.start - first : b.stop - first].sum(axis=0, dtype=np.float64) for b in blocks])


def _panel_runs(blocks: list[Block]) -> Iterator[tuple[int, int, int]]:
    """Yield (start, stop, panel) for each run of blocks of the same panel, with the range of the run's rows."""
    for panel, run in groupby(blocks, key=attrgetter("panel")):
        panel_blocks = list(run)
        yield panel_blocks[0].start, panel_blocks[-1].stop, panel


class CentredRows:
    """All sorted rows, or some ranges of them, centred on the means of their panels and scaled to at most 1."""

    def __init__(self, runs: list[tuple[int, F32, F32]], centring: Centring) -> None:
        self.runs = runs  # first row of each run, its rows (m, d), and their squared norms
        self.scale, self.reach = centring.scale, centring.reach
        self._centring = centring

    @classmethod
    def sort(cls, x: F32, segments: Segments, blocks: list[Block]) -> CentredRows:
        """Sort the cells x by segment and centre all rows."""
        rows = x[segments.order]
        centring = Centring.of(block_sums(rows, blocks), rows.min(axis=0), rows.max(axis=0), blocks)
        return cls([(0, rows, centring.centre(rows, blocks))], centring)

    @property
    def d(self) -> int:
        """Number of dimensions."""
        return int(self.runs[0][1].shape[1])

    def side(self, block: Block) -> Side:
        """Return the rows of a block, centred on its panel's mean."""
        first, rows, squares = next(run for run in self.runs if run[0] <= block.start < run[0] + len(run[1]))
        where = slice(block.start - first, block.stop - first)
        return Side(rows[where], squares[where], block.cuts)

    def side_for(self, block: Block, other: Block, dtype: type = np.float32) -> Side:
        """Return the rows of a block, centred on the mean of another block's panel."""
        own = self.side(block)
        if block.panel == other.panel and dtype is np.float32:
            return own
        rows: NDArray[np.floating] = own.rows.astype(dtype)
        if block.panel != other.panel:
            means = self._centring.means
            rows += ((means[block.panel].astype(np.float64) - means[other.panel]) * self.scale).astype(dtype)
        return Side.of(rows, block.cuts)

    def cells_side(self, cells: F32, other: Block) -> Side:
        """Return cells as a side, centred and scaled like the rows of a block, so that equal cells have equal rows."""
        rows = self._centring.move(cells.copy(), other.panel)
        return Side.of(rows, np.zeros(1, np.int64))

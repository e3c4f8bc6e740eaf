"""Silhouette widths on the CPU: symmetric distance tiles over cells sorted by (group, cluster).

How cells are sorted, cut into blocks and summed up is in `segments`. A tile is one matrix product, ||x||^2 + ||y||^2 -
2 x.y, in float32 on rows centred on their panel's mean. Where cells lie so close that float32 would lose the distance
to cancellation, the tile is computed again in float64.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from itertools import pairwise
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from gpubench.engines.cpu_kernels import positions
from gpubench.engines.segments import (
    Block,
    Segments,
    Sums,
    cut,
    own_means,
    panels,
    passes,
    sort_cells,
    widths_from_means,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.cpu_native import Tiles
    from gpubench.engines.cpu_parallel import Workers

BLOCK_ROWS = 768
"""Rows of a block: a tile of 768 x 768 float32, 2.25 MiB, stays in the caches of a core."""

CLOSE = 2e-4
"""Squared distances under this share of the squared norms are computed again in float64.

Float32 keeps a squared distance to about 2e-7 of the squared norms; above this share a distance is right to 5e-4 of
itself, without bias, and it is a distance so small that the mean over a cluster does not see it."""

MANY_CLOSE = 1e-3
"""Share of a tile's distances up to which close ones are computed again one by one, and not the whole tile."""


def silhouette_widths(
    x: NDArray[np.float32],
    clusters: NDArray[np.int32],
    groups: NDArray[np.int32] | None,
    metric: str,
    workers: Workers,
    memory_bytes: int,
    tiles: Tiles | None,
) -> NDArray[np.float64]:
    """Silhouette width of each cell; see `Engine.silhouette_widths`. Without compiled tiles, NumPy does the same."""
    segments = sort_cells(clusters, groups)
    own, nearest = _means(x, segments, metric, workers, memory_bytes, tiles)
    return widths_from_means(own, nearest, segments)


def mean_distances(
    x: NDArray[np.float32],
    clusters: NDArray[np.int32],
    metric: str,
    workers: Workers,
    memory_bytes: int,
    tiles: Tiles | None,
) -> NDArray[np.float64]:
    """Mean distance of each cell to the others of its cluster; see `Engine.mean_distances`."""
    segments = sort_cells(np.zeros_like(clusters), clusters)  # every cluster a group: no others are looked at
    own, _ = _means(x, segments, metric, workers, memory_bytes, tiles)
    return own_means(own, segments)


def _means(
    x: NDArray[np.float32],
    segments: Segments,
    metric: str,
    workers: Workers,
    memory_bytes: int,
    tiles: Tiles | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean distance to the own and to the nearest other cluster; (n,) each, in sorted order."""
    own = np.zeros(len(x))  # sum of distances to the cell's own cluster, then their mean
    nearest = np.full(len(x), np.inf)
    if metric == "cosine":
        _cosine_means(x, segments, own, nearest, workers)
    else:
        _euclidean_means(x, segments, own, nearest, workers, memory_bytes, tiles)
    return own, nearest


# Cosine: the sum of 1 - u.v over a cluster is its size minus u . (sum of v), so no pair is ever formed.


def _cosine_means(
    x: NDArray[np.float32],
    segments: Segments,
    own: NDArray[np.float64],
    nearest: NDArray[np.float64],
    workers: Workers,
) -> None:
    def make_worker() -> Callable[[tuple[int, int]], None]:
        return lambda span: _cosine_group(x, segments, span, own, nearest)

    workers.run(list(segments.of_groups()), make_worker)


def _cosine_group(
    x: NDArray[np.float32],
    segments: Segments,
    span: tuple[int, int],
    own: NDArray[np.float64],
    nearest: NDArray[np.float64],
) -> None:
    first, last = span
    starts = segments.starts[first : last + 1]
    sizes = np.diff(starts)
    sums = np.stack(
        [
            sum(_unit_rows(x, segments.order[a:b]).sum(axis=0) for a, b in _pieces(start, stop))
            for start, stop in pairwise(starts.tolist())
        ]
    )
    for segment, size in enumerate(sizes):
        for begin, end in _pieces(starts[segment], starts[segment + 1]):
            unit = _unit_rows(x, segments.order[begin:end])
            distance = sizes - unit @ sums.T
            itself = 1.0 - np.einsum("ij,ij->i", unit, unit)  # 0, or 1 for a zero vector
            own[begin:end] = np.maximum(distance[:, segment] - itself, 0.0) / max(size - 1, 1)
            distance /= sizes
            distance[:, segment] = np.inf
            nearest[begin:end] = np.maximum(distance.min(axis=1), 0.0)


def _pieces(start: int, stop: int, rows: int = 4096) -> Iterator[tuple[int, int]]:
    for begin in range(int(start), int(stop), rows):
        yield begin, min(begin + rows, int(stop))


def _unit_rows(x: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    block: NDArray[np.float64] = x[rows].astype(np.float64)
    norms = np.linalg.norm(block, axis=1, keepdims=True)
    np.divide(block, norms, out=block, where=norms > 0)
    return block


# Euclidean: tiles.


def _euclidean_means(
    x: NDArray[np.float32],
    segments: Segments,
    own: NDArray[np.float64],
    nearest: NDArray[np.float64],
    workers: Workers,
    memory_bytes: int,
    compiled: Tiles | None,
) -> None:
    blocks = cut(segments, BLOCK_ROWS)
    rows = _CentredRows(x, segments, blocks)
    for part in passes(segments, blocks, memory_bytes // 4):
        sums = Sums(np, segments, blocks, part, rows.reach)
        tiles = [(blocks[i], blocks[j]) for i in range(part.first, part.last) for j in range(i, part.group_last)]
        lock = Lock()

        def make_worker(sums: Sums = sums, lock: Lock = lock) -> _TileWorker:
            return _CompiledWorker(rows, sums, lock, compiled) if compiled else _NumpyWorker(rows, sums, lock)

        workers.run(tiles, make_worker)
        sums.fold_into(own, nearest)
    own /= rows.scale
    nearest /= rows.scale


class _CentredRows:
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

    def pair(self, i: Block, j: Block, dtype: type) -> tuple[NDArray[np.floating], ...]:
        """Rows of both blocks around the mean of i's panel, and their squared norms."""
        left, right = self.rows[i.start : i.stop], self.rows[j.start : j.stop]
        if dtype is np.float32 and i.panel == j.panel:
            return left, self.squares[i.start : i.stop], right, self.squares[j.start : j.stop]
        left, right = left.astype(dtype, copy=False), right.astype(dtype, copy=i.panel != j.panel)
        if i.panel != j.panel:
            right += (self._means[j.panel].astype(np.float64) - self._means[i.panel]).astype(dtype)
        return left, np.einsum("ij,ij->i", left, left), right, np.einsum("ij,ij->i", right, right)


class _TileWorker(ABC):
    """Computes tiles and adds up their distances."""

    def __init__(self, rows: _CentredRows, sums: Sums, lock: Lock) -> None:
        self._rows = rows
        self._sums = sums
        self._lock = lock

    def __call__(self, blocks: tuple[Block, Block]) -> None:
        self.silhouette_tile(*blocks)

    def silhouette_tile(self, i: Block, j: Block) -> None:
        """Add the distances of one tile to the sums of both sides."""
        to_columns, to_rows = self._tile_sums(i, j)
        self._add(i, j, to_columns)
        if i is not j:
            self._add(j, i, to_rows)

    @abstractmethod
    def _tile_sums(self, i: Block, j: Block) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Sums over the segments of j, (segments, rows of i), and over those of i, (segments, rows of j)."""

    def _add(self, block: Block, to: Block, sums: NDArray[np.floating]) -> None:
        fixed = np.rint(sums * np.float64(self._sums.unit)).astype(np.int64)
        with self._lock:
            self._sums.of(block, to)[...] += fixed

    def _close_distances(self, i: Block, j: Block) -> NDArray[np.float64]:
        left, left_squares, right, right_squares = self._rows.pair(i, j, np.float64)
        tile = left @ right.T
        tile *= -2
        tile += left_squares[:, None]
        tile += right_squares
        np.maximum(tile, 0, out=tile)
        if i is j:
            np.fill_diagonal(tile, 0)
        return np.sqrt(tile, out=tile)


class _CompiledWorker(_TileWorker):
    """Adds up distances while they are in registers."""

    def __init__(self, rows: _CentredRows, sums: Sums, lock: Lock, compiled: Tiles) -> None:
        super().__init__(rows, sums, lock)
        self._compiled = compiled

    def _tile_sums(self, i: Block, j: Block) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        left, left_squares, right, right_squares = self._rows.pair(i, j, np.float32)
        to_columns, to_rows = np.empty((len(j.cuts), len(left))), np.empty((len(i.cuts), len(right)))
        n_close = self._compiled.silhouette_tile(
            *(left, left_squares, len(left), right, right_squares, len(right), left.shape[1], i is j),
            *(_close_limit(left_squares, right_squares), i.cuts, len(i.cuts), j.cuts, len(j.cuts)),
            *(to_columns, to_rows),
        )
        if n_close > MANY_CLOSE * len(left) * len(right):
            return _sums(self._close_distances(i, j), i, j)
        return to_columns, to_rows


class _NumpyWorker(_TileWorker):
    """Keeps whole tiles in buffers of its own."""

    def __init__(self, rows: _CentredRows, sums: Sums, lock: Lock) -> None:
        super().__init__(rows, sums, lock)
        d = rows.rows.shape[1]
        self._left = np.empty((BLOCK_ROWS, d + 2), np.float32)
        self._right = np.empty((BLOCK_ROWS, d + 2), np.float32)
        self._tile = np.empty((BLOCK_ROWS, BLOCK_ROWS), np.float32)

    def _tile_sums(self, i: Block, j: Block) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        return _sums(self._distances(i, j), i, j)

    def _distances(self, i: Block, j: Block) -> NDArray[np.floating]:
        left, left_squares, right, right_squares = self._rows.pair(i, j, np.float32)
        d = left.shape[1]
        # [x, |x|^2, 1] . [-2y, 1, |y|^2] is the squared distance in one matrix product
        a, b = self._left[: len(left)], self._right[: len(right)]
        a[:, :d], a[:, d], a[:, d + 1] = left, left_squares, 1
        np.multiply(right, -2, out=b[:, :d])
        b[:, d], b[:, d + 1] = 1, right_squares
        tile = self._tile[: len(left), : len(right)]
        np.matmul(a, b.T, out=tile)
        if i is j:
            np.fill_diagonal(tile, np.inf)
        limit = _close_limit(left_squares, right_squares)
        if not tile.min() > limit:
            rows, columns = np.divmod(positions(tile <= limit), tile.shape[1])
            if len(rows) > MANY_CLOSE * tile.size:
                return self._close_distances(i, j)
            differences = left[rows] - right[columns]
            tile[rows, columns] = np.einsum("ij,ij->i", differences, differences)
        np.sqrt(tile, out=tile)
        if i is j:
            np.fill_diagonal(tile, 0)
        return tile


def _close_limit(left_squares: NDArray[np.floating], right_squares: NDArray[np.floating]) -> float:
    return float(CLOSE * (left_squares.max() + right_squares.max()))


def _sums(distances: NDArray[np.floating], i: Block, j: Block) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    return _sum_columns(distances, j).T, _sum_rows(distances, i)


def _sum_columns(distances: NDArray[np.floating], block: Block) -> NDArray[np.floating]:
    """Sum over the columns of each segment; (rows, segments)."""
    if len(block.cuts) == 1:
        # a product with ones is several times faster than sum(axis=1)
        return (distances @ np.ones(distances.shape[1], distances.dtype))[:, None]
    return np.add.reduceat(distances, block.cuts, axis=1)


def _sum_rows(distances: NDArray[np.floating], block: Block) -> NDArray[np.floating]:
    """Sum over the rows of each segment; (segments, columns)."""
    # reduceat is slow along the first axis
    return np.stack([part.sum(axis=0) for part in np.split(distances, block.cuts[1:])])

"""Silhouette widths on the CPU: symmetric distance tiles over cells sorted by (group, cluster).

Cells are sorted once so that every (group, cluster) is one contiguous *segment*. Rows are cut into blocks that hold
a part of one segment, or several whole small ones, so a tile of distances between two blocks needs only a few row
sums and column sums. Distances are symmetric, so only tiles J >= I of the same group are computed, and each serves
both sides.

A tile is one matrix product, ||x||^2 + ||y||^2 - 2 x.y, in float32 on rows centred on their block group's mean. Where
cells lie so close that float32 would lose the distance to cancellation, the tile is computed again in float64.

Sums over tiles are kept as int64 fixed point: integer addition does not depend on order, so the result has the same
bits for any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.cpu_parallel import Workers

BLOCK_ROWS = 768
"""Rows of a block: a tile of 768 x 768 float32, 2.25 MiB, stays in the caches of a core."""

CLOSE = 2e-4
"""Squared distances under this share of the squared norms are computed again in float64.

Float32 keeps a squared distance to about 2e-7 of the squared norms; above this share a distance is right to 5e-4 of
itself, without bias, and it is a distance so small that the mean over a cluster does not see it."""


@dataclass(frozen=True, slots=True)
class _Segments:
    """Cells sorted by (group, cluster); a segment is one cluster of one group."""

    order: NDArray[np.int64]
    starts: NDArray[np.int64]  # (n_segments + 1,)
    group: NDArray[np.int64]  # (n_segments,) which group a segment is in, 0, 1, ... in order

    @property
    def sizes(self) -> NDArray[np.int64]:
        return np.diff(self.starts)

    def of_groups(self) -> Iterator[tuple[int, int]]:
        """(first, last + 1) segment of each group."""
        edges = np.flatnonzero(np.diff(self.group, prepend=-1, append=-1))
        yield from zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)


@dataclass(frozen=True, slots=True)
class _Block:
    """Consecutive rows; segments [first, last) lie in them, cut where `cuts` says (relative to `start`)."""

    start: int
    stop: int
    first: int
    last: int
    cuts: NDArray[np.int64]
    panel: int  # blocks of one panel are centred on the same mean


def silhouette_widths(
    x: NDArray[np.float32],
    clusters: NDArray[np.int32],
    groups: NDArray[np.int32] | None,
    metric: str,
    workers: Workers,
    memory_bytes: int,
) -> NDArray[np.float64]:
    """Silhouette width of each cell; see `Engine.silhouette_widths`."""
    segments = _sort(clusters, groups)
    own = np.zeros(len(x))  # sum of distances to the cell's own cluster, then their mean
    nearest = np.full(len(x), np.inf)
    if metric == "cosine":
        _cosine_means(x, segments, own, nearest, workers)
    else:
        _euclidean_means(x, segments, own, nearest, workers, memory_bytes)
    widths = np.empty(len(x))
    widths[segments.order] = _widths(own, nearest, np.repeat(segments.sizes, segments.sizes))
    return widths


def _sort(clusters: NDArray[np.int32], groups: NDArray[np.int32] | None) -> _Segments:
    key = clusters.astype(np.int64)
    n_clusters = int(key.max()) + 1
    if groups is not None:
        key += groups.astype(np.int64) * n_clusters
    order = np.argsort(key, kind="stable")
    key = key[order]
    starts = np.flatnonzero(np.diff(key, prepend=-1))
    group = key[starts] // n_clusters
    return _Segments(order, np.append(starts, len(key)), group)


def _widths(own: NDArray[np.float64], nearest: NDArray[np.float64], own_size: NDArray[np.int64]) -> NDArray[np.float64]:
    """(b - a) / max(a, b); 0 for singletons and where both are 0, NaN where there is no other cluster."""
    largest = np.maximum(own, nearest)
    widths = np.zeros(len(own))
    np.divide(nearest - own, largest, out=widths, where=(largest > 0) & np.isfinite(nearest))
    widths[own_size == 1] = 0.0
    widths[np.isinf(nearest)] = np.nan
    return widths


# Cosine: the sum of 1 - u.v over a cluster is its size minus u . (sum of v), so no pair is ever formed.


def _cosine_means(
    x: NDArray[np.float32],
    segments: _Segments,
    own: NDArray[np.float64],
    nearest: NDArray[np.float64],
    workers: Workers,
) -> None:
    def make_worker() -> Callable[[tuple[int, int]], None]:
        return lambda span: _cosine_group(x, segments, span, own, nearest)

    workers.run(list(segments.of_groups()), make_worker)


def _cosine_group(
    x: NDArray[np.float32],
    segments: _Segments,
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
    segments: _Segments,
    own: NDArray[np.float64],
    nearest: NDArray[np.float64],
    workers: Workers,
    memory_bytes: int,
) -> None:
    blocks = _cut(segments)
    rows = _CentredRows(x, segments, blocks)
    passes = list(_passes(segments, blocks, memory_bytes))
    for part in passes:
        sums = _Sums(segments, blocks, part, rows.reach)
        tiles = [(blocks[i], blocks[j]) for i in range(part.first, part.last) for j in range(i, part.group_last)]
        workers.run(tiles, lambda sums=sums: _TileWorker(rows, sums))  # type: ignore[misc]
        sums.fold_into(own, nearest)


def _cut(segments: _Segments) -> list[_Block]:
    """Cut each group into blocks: parts of one large segment, or runs of small whole ones."""
    blocks: list[_Block] = []
    panel = 0
    for group_first, group_last in segments.of_groups():
        first = group_first
        while first < group_last:
            last = first + 1
            start = int(segments.starts[first])
            while last < group_last and segments.starts[last + 1] - start <= BLOCK_ROWS:
                last += 1
            stop = int(segments.starts[last])
            cuts = segments.starts[first:last] - start
            blocks.extend(
                _Block(begin, min(begin + BLOCK_ROWS, stop), first, last, cuts, panel)
                for begin in range(start, stop, BLOCK_ROWS)
            )
            panel += 1
            first = last
    return blocks


class _CentredRows:
    """Sorted rows, each block centred on its panel's mean and scaled to an extent of at most 1, in float32.

    Means are rounded to float32, so identical cells become exact zeros.

    Attributes
    ----------
    rows : (n, d) float32
    squares : (n,) float32, squared norms of `rows`
    reach : no two rows are further apart than this
    """

    def __init__(self, x: NDArray[np.float32], segments: _Segments, blocks: list[_Block]) -> None:
        self.rows = x[segments.order]
        self.squares = np.empty(len(x), np.float32)
        spans: dict[int, tuple[int, int]] = {}
        for block in blocks:
            spans[block.panel] = (spans.get(block.panel, (block.start, 0))[0], block.stop)
        self._means = np.stack(
            [self.rows[a:b].mean(axis=0, dtype=np.float64).astype(np.float32) for a, b in spans.values()]
        )
        low, high = self.rows.min(axis=0), self.rows.max(axis=0)
        extent = float((high.astype(np.float64) - low).max())
        # widths do not depend on scale; a power of two rounds nothing, and squares cannot overflow
        scale = np.float32(2.0 ** -np.ceil(np.log2(extent)) if extent > 0 else 1.0)
        for mean, (start, stop) in zip(self._means, spans.values(), strict=True):
            part = self.rows[start:stop]
            part -= mean
            part *= scale
            np.einsum("ij,ij->i", part, part, out=self.squares[start:stop])
        self._means *= scale
        self.reach = float(np.sqrt(self.rows.shape[1]))

    def pair(self, i: _Block, j: _Block, dtype: type) -> tuple[NDArray[np.floating], ...]:
        """Rows of both blocks around the mean of i's panel, and their squared norms."""
        left, right = self.rows[i.start : i.stop], self.rows[j.start : j.stop]
        if dtype is np.float32 and i.panel == j.panel:
            return left, self.squares[i.start : i.stop], right, self.squares[j.start : j.stop]
        left, right = left.astype(dtype, copy=False), right.astype(dtype, copy=i.panel != j.panel)
        if i.panel != j.panel:
            right += (self._means[j.panel].astype(np.float64) - self._means[i.panel]).astype(dtype)
        return left, np.einsum("ij,ij->i", left, left), right, np.einsum("ij,ij->i", right, right)


@dataclass(frozen=True, slots=True)
class _Pass:
    """Blocks [first, last) of a group whose sums are held at the same time; the group ends at block `group_last`."""

    first: int
    last: int
    group_last: int


def _passes(segments: _Segments, blocks: list[_Block], memory_bytes: int) -> Iterator[_Pass]:
    """Split the work so that the sums of one pass fit the memory; whole panels only, at least one."""
    group_of = [int(segments.group[block.first]) for block in blocks]
    first = 0
    while first < len(blocks):
        group_last = first
        while group_last < len(blocks) and group_of[group_last] == group_of[first]:
            group_last += 1
        last = first
        while last < group_last:
            panel_last = last
            while panel_last < group_last and blocks[panel_last].panel == blocks[last].panel:
                panel_last += 1
            part = _Pass(first, panel_last, group_last)
            if last > first and _Sums.n_bytes(blocks, part) > memory_bytes // 4:
                break
            last = panel_last
        yield _Pass(first, last, group_last)
        first = last


class _Sums:
    """Sums of distances from cells to clusters in fixed point, for one pass.

    `_inside[s, r]` is the sum from the pass's row r to segment s of the pass or after it; `_after[s, r]` from the later
    row r to segment s of the pass.
    """

    def __init__(self, segments: _Segments, blocks: list[_Block], part: _Pass, reach: float) -> None:
        shapes = self._shapes(blocks, part)
        self._inside = np.zeros(shapes[0], np.int64)
        self._after = np.zeros(shapes[1], np.int64)
        self._start, self._stop = blocks[part.first].start, blocks[part.last - 1].stop
        self._end = blocks[part.group_last - 1].stop
        self._first = blocks[part.first].first
        self._segments = segments
        # the largest possible sum uses 62 bits
        self._unit = 2.0 ** np.floor(62 - np.log2(max(reach, 1.0) * (self._end - self._start + 1)))
        self._lock = Lock()

    @staticmethod
    def _shapes(blocks: list[_Block], part: _Pass) -> tuple[tuple[int, int], tuple[int, int]]:
        start, stop = blocks[part.first].start, blocks[part.last - 1].stop
        end = blocks[part.group_last - 1].stop
        first, last = blocks[part.first].first, blocks[part.last - 1].last
        return (blocks[part.group_last - 1].last - first, stop - start), (last - first, end - stop)

    @classmethod
    def n_bytes(cls, blocks: list[_Block], part: _Pass) -> int:
        """What the sums of this pass take."""
        return sum(8 * rows * columns for rows, columns in cls._shapes(blocks, part))

    def add(self, block: _Block, to: _Block, sums: NDArray[np.floating]) -> None:
        """Add the (segments of `to`, rows of `block`) sums of one tile."""
        fixed = np.rint(sums * np.float64(self._unit)).astype(np.int64)
        segments = slice(to.first - self._first, to.last - self._first)
        with self._lock:
            if block.start < self._stop:
                self._inside[segments, block.start - self._start : block.stop - self._start] += fixed
            else:
                self._after[segments, block.start - self._stop : block.stop - self._stop] += fixed

    def fold_into(self, own: NDArray[np.float64], nearest: NDArray[np.float64]) -> None:
        """Turn the finished sums into means: a of the pass's cells, and the smallest b seen so far."""
        sizes = self._segments.sizes
        for offset, sums in enumerate(self._inside):
            segment = self._first + offset
            size = int(sizes[segment])
            start, stop = self._segments.starts[segment : segment + 2].tolist()
            mean = sums / (self._unit * size)
            if start < self._stop:
                own[start:stop] = sums[start - self._start : stop - self._start] / (self._unit * max(size - 1, 1))
                mean[start - self._start : stop - self._start] = np.inf
            rows = slice(self._start, self._stop)
            np.minimum(nearest[rows], mean, out=nearest[rows])
        for offset, sums in enumerate(self._after):
            mean = sums / (self._unit * int(sizes[self._first + offset]))
            rows = slice(self._stop, self._end)
            np.minimum(nearest[rows], mean, out=nearest[rows])


class _TileWorker:
    """Computes tiles in buffers of its own."""

    def __init__(self, rows: _CentredRows, sums: _Sums) -> None:
        self._rows = rows
        self._sums = sums
        d = rows.rows.shape[1]
        self._left = np.empty((BLOCK_ROWS, d + 2), np.float32)
        self._right = np.empty((BLOCK_ROWS, d + 2), np.float32)
        self._tile = np.empty((BLOCK_ROWS, BLOCK_ROWS), np.float32)

    def __call__(self, blocks: tuple[_Block, _Block]) -> None:
        self.silhouette_tile(*blocks)

    def silhouette_tile(self, i: _Block, j: _Block) -> None:
        """Add the distances of one tile to the sums of both sides."""
        distances = self._distances(i, j)
        self._sums.add(i, j, _sum_columns(distances, j).T)
        if i is not j:
            self._sums.add(j, i, _sum_rows(distances, i))

    def _distances(self, i: _Block, j: _Block) -> NDArray[np.floating]:
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
        if not tile.min() > CLOSE * (left_squares.max() + right_squares.max()):
            return self._close_distances(i, j)
        np.sqrt(tile, out=tile)
        if i is j:
            np.fill_diagonal(tile, 0)
        return tile

    def _close_distances(self, i: _Block, j: _Block) -> NDArray[np.float64]:
        left, left_squares, right, right_squares = self._rows.pair(i, j, np.float64)
        tile = left @ right.T
        tile *= -2
        tile += left_squares[:, None]
        tile += right_squares
        np.maximum(tile, 0, out=tile)
        if i is j:
            np.fill_diagonal(tile, 0)
        return np.sqrt(tile, out=tile)


def _sum_columns(distances: NDArray[np.floating], block: _Block) -> NDArray[np.floating]:
    """Sum over the columns of each segment; (rows, segments)."""
    if len(block.cuts) == 1:
        # a product with ones is several times faster than sum(axis=1)
        return (distances @ np.ones(distances.shape[1], distances.dtype))[:, None]
    return np.add.reduceat(distances, block.cuts, axis=1)


def _sum_rows(distances: NDArray[np.floating], block: _Block) -> NDArray[np.floating]:
    """Sum over the rows of each segment; (segments, columns)."""
    # reduceat is slow along the first axis
    return np.stack([part.sum(axis=0) for part in np.split(distances, block.cuts[1:])])

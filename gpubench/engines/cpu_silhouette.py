"""Silhouette widths on the CPU: symmetric distance tiles over cells sorted by (group, cluster).

How cells are sorted, cut into blocks and summed up is in `segments`, how the distances of a tile are in `cpu_tiles`.
"""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from gpubench.engines import work
from gpubench.engines.cpu_cosine import cosine_means
from gpubench.engines.cpu_tiles import BLOCK_ROWS, CentredRows, Summer, make_summer, sums_in_float64
from gpubench.engines.segments import Block, Segments, Sums, cut, own_means, passes, sort_cells, widths_from_means

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.cpu_native import Tiles
    from gpubench.engines.cpu_parallel import Workers


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
        workers.count(work.closed_silhouettes(segments, x.shape[1]))
        cosine_means(x, segments, own, nearest, workers)
    else:
        workers.count(work.silhouettes(segments, x.shape[1]))
        _euclidean_means(x, segments, own, nearest, workers, memory_bytes, tiles)
    return own, nearest


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
    rows = CentredRows.of_all(x, segments, blocks)
    for part in passes(segments, blocks, memory_bytes // 4):
        sums = Sums(np, segments, blocks, part, rows.reach)
        tiles = [(blocks[i], blocks[j]) for i in range(part.first, part.last) for j in range(i, part.group_last)]
        lock = Lock()

        def make_worker(sums: Sums = sums, lock: Lock = lock) -> _TileWorker:
            return _TileWorker(rows, sums, lock, make_summer(compiled, x.shape[1]))

        workers.run(tiles, make_worker)
        sums.fold_into(own, nearest)
    own /= rows.scale
    nearest /= rows.scale


class _TileWorker:
    """Computes tiles and adds up their distances."""

    def __init__(self, rows: CentredRows, sums: Sums, lock: Lock, summer: Summer) -> None:
        self._rows = rows
        self._sums = sums
        self._lock = lock
        self._summer = summer

    def __call__(self, blocks: tuple[Block, Block]) -> None:
        self.silhouette_tile(*blocks)

    def silhouette_tile(self, i: Block, j: Block) -> None:
        """Add the distances of one tile to the sums of both sides."""
        of_left, of_right = fixed_tile_sums(self._rows, self._summer, i, j, self._sums.unit)
        with self._lock:
            self._sums.of(i, j)[...] += of_left
            if i is not j:
                self._sums.of(j, i)[...] += of_right


def fixed_tile_sums(
    rows: CentredRows, summer: Summer, i: Block, j: Block, unit: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sums of the distances of a tile in fixed point, to the segments of the other block: (segments, rows) for both."""
    left, right, same = rows.side(i), rows.beside(j, i), i is j
    sums = summer.sums(left, right, same=same)
    if sums is None:
        sums = sums_in_float64(left.in_float64(), rows.beside(j, i, np.float64), same=same)
    of_left, of_right = (np.rint(side * np.float64(unit)).astype(np.int64) for side in sums)
    return of_left, of_right

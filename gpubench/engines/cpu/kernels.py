"""The kernels of the CPU engine, in NumPy: each works on one block, and worker threads share the blocks.

Whole-array operations release the interpreter lock, and most keep up with compiled loops. Only distances between all
cells do not: those are also compiled, see `compiled`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

DIFFERENCES = 1 << 18
"""Differences of cells that are looked at together: 2 MiB of float64, which stay in a core's cache."""

COUNTS = 1 << 18
"""Neighbours, or counts of codes, that are looked at together."""

SAMPLING_DEVIATIONS = 4
"""How many standard deviations beyond the expected rank the limit of a sample is; few rows find less than they keep."""

MIN_BUFFER = 128
"""Candidates of a row that are collected at least before they are cut back."""

MIN_SIGMA_SHARE = 1e-3
"""UMAP keeps the bandwidth above this share of the mean distance, so that duplicates do not make it vanish."""

SIGMA_TOLERANCE = 1e-5
SIGMA_STEPS = 64

Floats = Any  # an array of float32 or float64


class Candidates:
    """The best few cells of each row of a block, collected over tiles of squared distances.

    Columns come in random order, so the first tile is a sample that tells how far the best few will be: what is
    further is no candidate. The rest is appended; where it becomes too much, it is sorted and cut back to `keep` a
    row, which lowers the limits.
    """

    def __init__(self, n_rows: int, keep: int, n_columns: int, dtype: Any) -> None:
        self._n_rows = n_rows
        self._keep = keep
        self._share = keep / n_columns
        self._most_new = n_rows * max(2 * keep, MIN_BUFFER)
        self._limits = np.full(n_rows, np.inf, dtype)
        self._parts: list[tuple[NDArray[np.int64], NDArray[np.int64], Floats]] = []  # rows, ids, keys
        self._n_new = 0

    def topk_update(self, tile: Floats, first_column: int) -> None:
        """Offer a tile (rows, columns) of squared distances; infinity is no candidate. C-contiguous."""
        if not self._parts:
            expected = self._share * tile.shape[1]
            rank = int(np.ceil(expected + SAMPLING_DEVIATIONS * (np.sqrt(expected) + 1)))
            if rank < tile.shape[1]:
                self._limits = np.partition(tile, rank, axis=1)[:, rank]
        rows, columns = np.divmod(positions(tile <= self._limits[:, None]), tile.shape[1])
        keys = tile[rows, columns]
        self._parts.append((rows, columns + first_column, keys))
        self._n_new += len(rows)
        if self._n_new > self._most_new:
            self._cut_back()

    def finish(self) -> tuple[Floats, NDArray[np.int64]]:
        """(rows,): no other column has a smaller key. (rows, keep): columns by key, -1 where there are fewer."""
        rows, columns, _ = self._cut_back()
        ids = np.full((self._n_rows, self._keep), -1, np.int64)
        ids[rows, _rank_in_run(rows, self._n_rows)] = columns
        return self._limits, ids

    def _cut_back(self) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
        rows, ids, keys = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        order = _order_by_row_and_key(rows, keys)
        rows, ids, keys = rows[order], ids[order], keys[order]
        rank = _rank_in_run(rows, self._n_rows)
        last = rank == self._keep - 1
        self._limits[rows[last]] = keys[last]
        kept = (rank < self._keep) & (keys < np.inf)
        best = rows[kept], ids[kept], keys[kept]
        self._parts, self._n_new = [best], 0
        return best


def positions(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Flat positions of what is true; eight values at a time are skipped where none is."""
    flat = mask.ravel()
    whole = len(flat) // 8 * 8
    words = np.flatnonzero(flat[:whole].view(np.uint64))
    inside = (words[:, None] * 8 + np.arange(8)).ravel()
    return np.append(inside[flat[inside]], whole + np.flatnonzero(flat[whole:]))


def _order_by_row_and_key(rows: NDArray[np.int64], keys: Floats) -> NDArray[np.int64]:
    if keys.dtype != np.float32:
        return np.lexsort((keys, rows))
    # bits of floats that are not negative sort like the floats; rounding can make a distance of 0 a little less
    bits = np.maximum(keys, 0).view(np.uint32)
    return np.argsort(rows.astype(np.uint64) << np.uint64(32) | bits)


def _rank_in_run(rows: NDArray[np.int64], n_rows: int) -> NDArray[np.int64]:
    """Position of each entry among the entries of its row; `rows` ascends."""
    counts = np.bincount(rows, minlength=n_rows)
    return np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)


def exact_distances(
    queries: NDArray[np.float32], x: NDArray[np.float32], ids: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Squared distances of each query to the cells of its row of `ids`, differences and sums in float64.

    Infinity where the id is -1. (m, c) float64.
    """
    squared = np.empty(ids.shape)
    step = max(1, DIFFERENCES // max(1, ids.shape[1] * x.shape[1]))
    for start in range(0, len(ids), step):
        block = slice(start, start + step)
        differences = np.subtract(x[ids[block]], queries[block, None, :], dtype=np.float64)
        np.einsum("mcd,mcd->mc", differences, differences, out=squared[block])
    squared[ids < 0] = np.inf
    return squared


def search_exactly(
    query: NDArray[np.float32], x: NDArray[np.float32], own: int, k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find the k neighbours of one query by comparing it with every cell in float64, except the cell `own`.

    Returns
    -------
    ids and Euclidean distances, (k,) each, by (distance, id)
    """
    step = max(1, DIFFERENCES // x.shape[1])
    squared = np.empty(len(x))
    for start in range(0, len(x), step):
        differences = np.subtract(x[start : start + step], query, dtype=np.float64)
        np.einsum("nd,nd->n", differences, differences, out=squared[start : start + step])
    if own >= 0:
        squared[own] = np.inf
    near = np.flatnonzero(squared <= np.partition(squared, k - 1)[k - 1])
    nearest = near[np.argsort(squared[near], kind="stable")[:k]]
    return nearest, np.sqrt(squared[nearest])


def fuzzy_memberships(
    distances: NDArray[np.float32], mean_distance: float, start: int, stop: int, out: NDArray[np.float64]
) -> None:
    """UMAP membership strengths of cells start ... stop - 1 to their neighbours; see `Engine.fuzzy_graph`.

    Parameters
    ----------
    distances : (n, k) float32, ascending, the cell itself not among them
    mean_distance : mean over the whole graph, the cell itself counted at distance 0
    out : (n, k) float64, written
    """
    k = distances.shape[1]
    for rows in _pieces(start, stop, COUNTS // k):
        near = distances[rows].astype(np.float64)
        first = (near > 0).argmax(axis=1)  # the nearest neighbour that is not a copy; 0 where all are
        nearest = near[np.arange(len(near)), first]
        beyond = np.maximum(near - nearest[:, None], 0)
        mean = np.where(nearest > 0, near.sum(axis=1) / (k + 1), mean_distance)
        sigma = np.maximum(_bandwidths(beyond), MIN_SIGMA_SHARE * mean)
        out[rows] = np.exp(-beyond / sigma[:, None])


def _bandwidths(beyond: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bandwidth of each row such that its memberships sum to log2(k + 1), by bisection."""
    n, k = beyond.shape
    target = np.log2(k + 1)
    low, high, sigma = np.zeros(n), np.full(n, np.inf), np.ones(n)
    open_rows = np.arange(n)
    for _ in range(SIGMA_STEPS):
        total = np.exp(-beyond[open_rows] / sigma[open_rows, None]).sum(axis=1)
        is_open = np.abs(total - target) >= SIGMA_TOLERANCE
        open_rows, total = open_rows[is_open], total[is_open]
        if not len(open_rows):
            break
        wide, narrow = open_rows[total > target], open_rows[total <= target]
        high[wide], low[narrow] = sigma[wide], sigma[narrow]
        sigma[open_rows] = np.where(np.isinf(high), 2 * sigma, (low + high) / 2)[open_rows]
    return sigma


def _pieces(start: int, stop: int, rows: int) -> Iterator[slice]:
    """Slices of at most `rows` rows, at least one."""
    step = max(1, rows)
    return (slice(begin, min(begin + step, stop)) for begin in range(start, stop, step))


def average_ranks(values: NDArray[Any], first: int, last: int, out: NDArray[np.float64]) -> None:
    """Ranks from 1 inside rows `first` to `last` of values (m, n); equal values share the mean of theirs."""
    for row, ranks in zip(values[first:last], out[first:last], strict=True):
        order = np.argsort(row, kind="stable")
        ordered = row[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        sizes = np.diff(np.append(starts, len(row)))
        ranks[order] = np.repeat(starts + (sizes + 1) / 2, sizes)


def group_means(x: NDArray[Any], codes: NDArray[np.int32], n_groups: int) -> NDArray[np.float64]:
    """Means of the rows of each group, (n_groups, d); NaN of an empty one."""
    order = np.argsort(codes, kind="stable")
    sizes = np.bincount(codes, minlength=n_groups)
    means = np.full((n_groups, x.shape[1]), np.nan)
    for group, rows in enumerate(np.split(order, np.cumsum(sizes)[:-1])):
        if len(rows):
            means[group] = x[rows].mean(axis=0, dtype=np.float64)
    return means

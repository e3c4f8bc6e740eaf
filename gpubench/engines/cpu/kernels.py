"""Kernels of the CPU engine in NumPy: each processes one block of rows, and worker threads share the blocks.

NumPy's operations on arrays release the interpreter lock, and most are as fast as compiled loops. Distances between
all cells are slower in NumPy, so these also exist as compiled functions, see `compiled`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.types import Graph
from gpubench.data.matrices import to_host

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from gpubench.core.types import F32, F64, I32, I64, Bools
    from gpubench.engines.cpu.compiled import Tiles

DIFFERENCES = 1 << 18
"""Number of differences of coordinates computed at a time: 2 MiB of float64, which stay in a core's cache."""

MEMBERSHIPS = 1 << 18
"""Number of memberships computed at a time."""

SAMPLING_DEVIATIONS = 4
"""Standard deviations by which a limit's rank in a sample exceeds the expected rank, so few rows find too few cells."""

MIN_BUFFER = 128
"""Smallest number of candidates per row that are collected before they are cut back."""

MIN_SIGMA_SHARE = 1e-3
"""UMAP keeps the bandwidth above this share of the mean distance, so that it does not vanish for duplicates."""

SIGMA_TOLERANCE = 1e-5
SIGMA_STEPS = 64

Floats = Any  # an array of float32 or float64


class Candidates:
    """Candidate neighbours of each row of a block, collected from tiles of squared distances.

    Each row has a limit; cells at a larger distance are not appended as candidates. As columns are in random order, the
    first tile already gives good limits. When a row has too many candidates, the nearest `keep` are kept, and the limit
    becomes the distance of the last.
    """

    def __init__(self, n_rows: int, keep: int, n_columns: int, dtype: Any) -> None:
        self._n_rows = n_rows
        self._keep = keep
        self._share = keep / n_columns
        self._most_new = n_rows * max(2 * keep, MIN_BUFFER)
        self._limits = np.full(n_rows, np.inf, dtype)
        self._parts: list[tuple[I64, I64, Floats]] = []  # rows, ids, keys
        self._n_new = 0

    def topk_update(self, tile: Floats, first_column: int) -> None:
        """Add candidates from a C-contiguous tile (rows, columns) of squared distances; infinite ones are skipped."""
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

    def finish(self) -> tuple[Floats, I64]:
        """Return the limits (rows,) and the nearest columns (rows, keep) by distance, padded with -1.

        All columns that are not returned are at least at the limit's distance.
        """
        rows, columns, _ = self._cut_back()
        ids = np.full((self._n_rows, self._keep), -1, np.int64)
        ids[rows, _rank_in_run(rows, self._n_rows)] = columns
        return self._limits, ids

    def _cut_back(self) -> tuple[I64, I64, Floats]:
        rows, ids, keys = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        order = _order_by_row_and_key(rows, keys)
        rows, ids, keys = rows[order], ids[order], keys[order]
        rank = _rank_in_run(rows, self._n_rows)
        last = rank == self._keep - 1
        self._limits[rows[last]] = keys[last]
        nearest = (rank < self._keep) & (keys < np.inf)
        best = rows[nearest], ids[nearest], keys[nearest]
        self._parts, self._n_new = [best], 0
        return best


def positions(mask: Bools) -> I64:
    """Return the flat indices of True values, like `np.flatnonzero` but faster where few values are True."""
    flat = mask.ravel()
    whole = len(flat) // 8 * 8
    words = np.flatnonzero(flat[:whole].view(np.uint64))
    inside = (words[:, None] * 8 + np.arange(8)).ravel()
    return np.append(inside[flat[inside]], whole + np.flatnonzero(flat[whole:]))


def _order_by_row_and_key(rows: I64, keys: Floats) -> I64:
    if keys.dtype != np.float32:
        return np.lexsort((keys, rows))
    # bits of floats that are not negative sort like the floats; rounding can make a distance of 0 a little less
    bits = np.maximum(keys, 0).view(np.uint32)
    return np.argsort(rows.astype(np.uint64) << np.uint64(32) | bits)


def _rank_in_run(rows: I64, n_rows: int) -> I64:
    """Return the position of each entry among the entries of its row; `rows` ascends."""
    counts = np.bincount(rows, minlength=n_rows)
    return np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)


def exact_distances(queries: F32, x: F32, ids: I64) -> F64:
    """Compute the squared distances (m, c) of each query to the cells in its row of `ids` (m, c); infinite for -1."""
    squared = np.empty(ids.shape)
    step = max(1, DIFFERENCES // max(1, ids.shape[1] * x.shape[1]))
    for start in range(0, len(ids), step):
        block = slice(start, start + step)
        differences = np.subtract(x[ids[block]], queries[block, None, :], dtype=np.float64)
        np.einsum("mcd,mcd->mc", differences, differences, out=squared[block])
    squared[ids < 0] = np.inf
    return squared


def search_exactly(query: F32, x: F32, own: int, k: int) -> tuple[I64, F64]:
    """Find the k neighbours of one query by comparing it in float64 with every cell except the cell `own`.

    Returns ids and Euclidean distances, ordered by (distance, id).
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


def fuzzy_memberships(distances: F32, mean_distance: float, start: int, stop: int, out: F64) -> None:
    """Write UMAP's membership strengths of rows [start, stop) to `out`; see `Engine.fuzzy_graph`.

    `mean_distance` is the mean over the whole graph, which includes each cell itself at distance 0.
    """
    k = distances.shape[1]
    step = max(1, MEMBERSHIPS // k)
    for begin in range(start, stop, step):
        rows = slice(begin, min(begin + step, stop))
        near = distances[rows].astype(np.float64)
        first = (near > 0).argmax(axis=1)  # the nearest neighbour that is not a duplicate; 0 if all are
        nearest = near[np.arange(len(near)), first]
        beyond = np.maximum(near - nearest[:, None], 0)
        mean = np.where(nearest > 0, near.sum(axis=1) / (k + 1), mean_distance)
        sigma = np.maximum(_bandwidths(beyond), MIN_SIGMA_SHARE * mean)
        out[rows] = np.exp(-beyond / sigma[:, None])


def _bandwidths(beyond: F64) -> F64:
    """Find the bandwidth of each row such that its memberships sum to log2(k + 1), by bisection."""
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


def symmetrise(
    indices: I32, memberships: F64, tiles: Tiles | None, over_rows: Callable[[int, Callable[[int, int], None]], None]
) -> Graph:
    """Combine the memberships w and w' of both directions of an edge as w + w' - w w' into an undirected graph."""
    if tiles is None:
        return _symmetrise(indices, memberships)
    (n, k), rows = indices.shape, np.ascontiguousarray(indices)
    indptr = np.zeros(n + 1, np.int64)
    over_rows(n, lambda a, b: tiles.count_edges(rows, memberships, k, a, b, indptr[1:]))
    np.cumsum(indptr, out=indptr)
    columns, weights = np.empty(indptr[-1], np.int32), np.empty(indptr[-1])
    ends = indptr[:-1].copy()
    over_rows(n, lambda a, b: tiles.write_edges(rows, memberships, k, a, b, ends, columns, weights))
    # threads have written the edges of a cell in no particular order
    over_rows(n, lambda a, b: tiles.sort_edges(indptr, a, b, columns, weights))
    return Graph(indptr, columns, weights)


def _symmetrise(indices: I32, memberships: F64) -> Graph:
    """Do what `symmetrise` does with SciPy, using about four times the memory of the graph."""
    from scipy.sparse import csr_array

    n, k = indices.shape
    indptr = np.arange(0, n * k + 1, k, dtype=np.int64)
    directed = csr_array((memberships.ravel(), indices.ravel(), indptr), shape=(n, n))
    reverse = directed.T.tocsr()
    union = directed + reverse - directed * reverse
    union.eliminate_zeros()
    union.sort_indices()
    return Graph(union.indptr.astype(np.int64), union.indices.astype(np.int32), union.data)


def average_ranks(values: NDArray[Any], first: int, last: int, out: F64) -> None:
    """Write the ranks from 1 within rows [first, last) of values (m, n) to `out`; equal values get their mean rank."""
    for row, ranks in zip(values[first:last], out[first:last], strict=True):
        order = np.argsort(row, kind="stable")
        ordered = row[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        sizes = np.diff(np.append(starts, len(row)))
        ranks[order] = np.repeat(starts + (sizes + 1) / 2, sizes)


def group_means(x: Any, codes: I32, n_groups: int) -> F64:
    """Compute the mean of the rows of each group of an array or sparse matrix; see `Engine.group_means`."""
    if hasattr(x, "tocsr"):
        return means_of_sums(group_sums(x, codes, n_groups), codes)
    x, taken = to_host(x, "x"), np.flatnonzero(codes >= 0)
    order = taken[np.argsort(codes[taken], kind="stable")]
    sizes = np.bincount(codes[taken], minlength=n_groups)
    means = np.full((n_groups, x.shape[1]), np.nan)
    for group, rows in enumerate(np.split(order, np.cumsum(sizes)[:-1])):
        if len(rows):
            means[group] = x[rows].mean(axis=0, dtype=np.float64)
    return means


def means_of_sums(sums: F64, codes: I32) -> F64:
    """Divide the sum of each group by the group's number of rows; NaN for an empty group."""
    sizes = np.bincount(codes[codes >= 0], minlength=len(sums))[:, None]
    means: F64 = np.divide(sums, sizes, out=np.full(sums.shape, np.nan), where=sizes > 0)
    return means


def group_sums(x: Any, codes: I32, n_groups: int) -> F64:
    """Sum the rows of each group of a sparse matrix, (n_groups, d); rows with code -1 are left out."""
    entries, d = x.tocoo(), x.shape[1]
    row_codes = codes[entries.row]
    taken = row_codes >= 0
    places = row_codes[taken].astype(np.int64) * d + entries.col[taken]
    sums: F64 = np.bincount(places, entries.data[taken], n_groups * d).astype(np.float64, copy=False)
    return sums.reshape(n_groups, d)

"""Compiled kernels of the CPU engine: numba, cached on disk, free of the interpreter lock.

Each runs over a range of rows so that worker threads share the work; none starts threads of its own.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_kernel = njit(nogil=True, cache=True)
_fast_kernel = njit(nogil=True, cache=True, fastmath={"nnan", "ninf", "nsz", "reassoc", "contract"})

COLUMN_CHUNK = 64
"""Columns looked at together: a chunk is skipped when its smallest distance cannot enter the row's candidates."""


@_kernel
def _sift_down(keys, values, size, key, value):  # type: ignore[no-untyped-def]
    """Replace the root of a max-heap (its first `size` entries) by (key, value)."""
    hole = 0
    while True:
        child = 2 * hole + 1
        if child >= size:
            break
        right = child + 1
        if right < size and keys[right] > keys[child]:
            child = right
        if keys[child] <= key:
            break
        keys[hole] = keys[child]
        values[hole] = values[child]
        hole = child
    keys[hole] = key
    values[hole] = value


@_fast_kernel
def topk_update(tile, first_column, first_row, heap_keys, heap_values):  # type: ignore[no-untyped-def]
    """Offer a tile of squared distances to the candidate heap of each of its rows.

    Parameters
    ----------
    tile : (rows, columns) float32
    first_column : id of the tile's first column
    first_row : id of the tile's first row where rows and columns are the same cells, else -1; a cell is never its own
        neighbour
    heap_keys, heap_values : (rows, c) float32 and int32, a max-heap a row, filled with infinity and -1
    """
    n_rows, n_columns = tile.shape
    size = heap_keys.shape[1]
    for r in range(n_rows):
        row = tile[r]
        keys = heap_keys[r]
        values = heap_values[r]
        itself = first_row + r - first_column if first_row >= 0 else -1
        worst = keys[0]
        for begin in range(0, n_columns, COLUMN_CHUNK):
            end = min(begin + COLUMN_CHUNK, n_columns)
            smallest = row[begin]
            for c in range(begin, end):
                smallest = min(smallest, row[c])
            if smallest >= worst:
                continue
            for c in range(begin, end):
                if row[c] < worst and c != itself:
                    _sift_down(keys, values, size, row[c], first_column + c)
                    worst = keys[0]


@_kernel
def _closer(distance, index, other_distance, other_index):  # type: ignore[no-untyped-def]
    """Whether (distance, index) comes before the other in the order of neighbours."""
    return distance < other_distance or (distance == other_distance and index < other_index)


@_kernel
def _insert_sorted(distances, indices, count, distance, index):  # type: ignore[no-untyped-def]
    """Insert into an ascending list of at most `len(distances)` entries, of which `count` are filled; the new count."""
    k = len(distances)
    if count == k:
        if not _closer(distance, index, distances[k - 1], indices[k - 1]):
            return count
        position = k - 1
    else:
        position = count
        count += 1
    while position > 0 and _closer(distance, index, distances[position - 1], indices[position - 1]):
        distances[position] = distances[position - 1]
        indices[position] = indices[position - 1]
        position -= 1
    distances[position] = distance
    indices[position] = index
    return count


@_fast_kernel
def _squared_distance(a, b):  # type: ignore[no-untyped-def]
    """Squared Euclidean distance of two float32 rows, differences and sum in float64."""
    total = 0.0
    for j in range(len(a)):
        difference = np.float64(a[j]) - np.float64(b[j])
        total += difference * difference
    return total


@_kernel
def rerank(  # type: ignore[no-untyped-def]
    queries, x, candidates, unseen_bound, out_indices, out_distances, uncertain
):
    """Order candidates by exact distance, keep the nearest k, and mark the rows where a nearer cell may have been missed.

    Parameters
    ----------
    queries, x : (m, d) and (n, d) float32, as the user gave them
    candidates : (m, c) int32, -1 where empty
    unseen_bound : (m,) float64; cells outside the candidates are at least this far (squared)
    out_indices, out_distances : (m, k) int32 and float32, Euclidean, written
    uncertain : (m,) bool, written
    """
    m, k = out_indices.shape
    squared = np.empty(k, np.float64)
    for r in range(m):
        count = 0
        for c in range(candidates.shape[1]):
            index = candidates[r, c]
            if index >= 0:
                count = _insert_sorted(squared, out_indices[r], count, _squared_distance(queries[r], x[index]), index)
        uncertain[r] = not (count == k and squared[k - 1] < unseen_bound[r])
        for j in range(k):
            out_distances[r, j] = np.sqrt(squared[j])


@_kernel
def search_exactly(queries, x, rows, same_cells, out_indices, out_distances):  # type: ignore[no-untyped-def]
    """Find the neighbours of some rows by comparing them with every cell in float64.

    Parameters
    ----------
    rows : (u,) int64 rows of `queries` to search for
    same_cells : whether `queries` and `x` are the same cells, so that row i leaves out cell i
    out_indices, out_distances : (m, k), these rows are written
    """
    k = out_indices.shape[1]
    squared = np.empty(k, np.float64)
    for r in rows:
        count = 0
        for index in range(len(x)):
            if not (same_cells and index == r):
                count = _insert_sorted(squared, out_indices[r], count, _squared_distance(queries[r], x[index]), index)
        for j in range(k):
            out_distances[r, j] = np.sqrt(squared[j])


@_kernel
def neighbor_entropy(indices, codes, n_codes, start, stop, out):  # type: ignore[no-untyped-def]
    """Entropy (nats) of the codes of cells start ... stop - 1 and their neighbours; (n,) float64, written.

    With c_b cells of code b among m, H = log m - (sum of c_b log c_b) / m. Only codes that occur are visited, so the
    number of batches does not matter.
    """
    k = indices.shape[1]
    m = k + 1
    count_log_count = np.zeros(m + 1)
    for count in range(2, m + 1):
        count_log_count[count] = count * np.log(count)
    counts = np.zeros(n_codes, np.int32)
    for i in range(start, stop):
        counts[codes[i]] += 1
        for j in range(k):
            counts[codes[indices[i, j]]] += 1
        # a code is added where it is first met and its count is reset there, so each counts once
        total = count_log_count[counts[codes[i]]]
        counts[codes[i]] = 0
        for j in range(k):
            code = codes[indices[i, j]]
            total += count_log_count[counts[code]]
            counts[code] = 0
        out[i] = max(0.0, np.log(m) - total / m)


@_kernel
def neighbor_value_distance(indices, values, k_per_cell, start, stop, out):  # type: ignore[no-untyped-def]
    """Mean |value - neighbour's value| over the nearest k_per_cell[i] neighbours of cells start ... stop - 1."""
    for i in range(start, stop):
        total = 0.0
        for j in range(k_per_cell[i]):
            total += abs(values[i] - values[indices[i, j]])
        out[i] = total / k_per_cell[i]


MIN_SIGMA_SHARE = 1e-3
"""UMAP keeps the bandwidth above this share of the mean distance, so that duplicates do not make it vanish."""


@_kernel
def fuzzy_memberships(distances, mean_distance, start, stop, out):  # type: ignore[no-untyped-def]
    """UMAP membership strengths of cells start ... stop - 1 to their neighbours; see `Engine.fuzzy_graph`.

    Parameters
    ----------
    distances : (n, k) float32, ascending, the cell itself not among them
    mean_distance : mean over the whole graph, the cell itself counted at distance 0
    out : (n, k) float64, written
    """
    k = distances.shape[1]
    target = np.log2(k + 1)
    for i in range(start, stop):
        row = distances[i]
        nearest = 0.0
        row_mean = 0.0
        for j in range(k):
            row_mean += row[j]
            if nearest == 0.0 and row[j] > 0.0:
                nearest = row[j]
        row_mean /= k + 1
        low, high, sigma = 0.0, np.inf, 1.0
        for _ in range(64):
            total = 0.0
            for j in range(k):
                beyond = row[j] - nearest
                total += np.exp(-beyond / sigma) if beyond > 0.0 else 1.0
            if abs(total - target) < 1e-5:
                break
            if total > target:
                high = sigma
                sigma = (low + high) / 2
            else:
                low = sigma
                sigma = sigma * 2 if high == np.inf else (low + high) / 2
        floor = MIN_SIGMA_SHARE * (row_mean if nearest > 0.0 else mean_distance)
        sigma = max(sigma, floor)
        for j in range(k):
            beyond = row[j] - nearest
            out[i, j] = np.exp(-beyond / sigma) if beyond > 0.0 and sigma > 0.0 else 1.0

"""Compiled kernels of the CPU engine: numba, cached on disk, free of the interpreter lock.

Each runs over a range of rows so that worker threads share the work; none starts threads of its own.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_kernel = njit(nogil=True, cache=True)
_fast_kernel = njit(nogil=True, cache=True, fastmath={"nnan", "ninf", "nsz", "reassoc", "contract"})

COLUMN_CHUNK = 64
"""Columns looked at together: a chunk is skipped when none of its distances can enter the row's candidates."""


@_kernel
def shrink_candidates(keys, ids, count, keep):  # type: ignore[no-untyped-def]
    """Move the `keep` smallest of the first `count` (key, id) pairs to the front; the largest key among them.

    With fewer than `keep` pairs nothing moves, and the answer is infinity: there is room for any other. Hoare's
    selection.
    """
    if count < keep:
        return np.float32(np.inf)
    low, high = 0, count - 1
    while low < high:
        pivot = keys[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while keys[i] < pivot:
                i += 1
            while keys[j] > pivot:
                j -= 1
            if i <= j:
                keys[i], keys[j] = keys[j], keys[i]
                ids[i], ids[j] = ids[j], ids[i]
                i += 1
                j -= 1
        if keep - 1 <= j:
            high = j
        elif keep - 1 >= i:
            low = i
        else:
            break
    return keys[keep - 1]


@_fast_kernel
def topk_update(tile, first_column, first_row, keep, keys, ids, counts, worst):  # type: ignore[no-untyped-def]
    """Offer a tile of squared distances to the candidates of each of its rows.

    A row's candidates collect in a buffer with room for more than `keep`; only when it is full is it cut back to the
    smallest, which costs far less than a heap that is kept in order all the time.

    Parameters
    ----------
    tile : (rows, columns) float32
    first_column : id of the tile's first column
    first_row : id of the tile's first row where rows and columns are the same cells, else -1; a cell is never its own
        neighbour
    keep : candidates wanted of each row
    keys, ids : (rows, capacity) float32 and int32 with capacity > keep, the buffers
    counts : (rows,) int64 entries in each buffer
    worst : (rows,) float32, distances from here on are no candidates; infinity until `keep` are found
    """
    n_rows, n_columns = tile.shape
    capacity = keys.shape[1]
    for r in range(n_rows):
        row = tile[r]
        itself = first_row + r - first_column if first_row >= 0 else -1
        limit = worst[r]
        count = counts[r]
        for begin in range(0, n_columns, COLUMN_CHUNK):
            chunk = row[begin : min(begin + COLUMN_CHUNK, n_columns)]
            # counting in int32 over a slice is what the compiler turns into vector instructions
            hits = np.int32(0)
            for c in range(chunk.shape[0]):
                hits += np.int32(chunk[c] < limit)
            if hits == 0:
                continue
            for c in range(chunk.shape[0]):
                key = chunk[c]
                if key < limit and begin + c != itself:
                    if count == capacity:
                        limit = shrink_candidates(keys[r], ids[r], count, keep)
                        count = keep
                        if key >= limit:
                            continue
                    keys[r, count] = key
                    ids[r, count] = first_column + begin + c
                    count += 1
        worst[r] = limit
        counts[r] = count


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
def candidate_distances(queries, x, keep, keys, ids, counts, worst, out):  # type: ignore[no-untyped-def]
    """Cut the candidates to the best `keep` and compute their exact squared distances.

    Parameters
    ----------
    queries, x : (m, d) and (n, d) float32, as the user gave them
    keep, keys, ids, counts : the candidates, as `topk_update` leaves them; ids are reordered
    worst : (m,) float32, written: no other cell has a smaller key
    out : (m, keep) float64, written; infinity where a row has fewer candidates
    """
    for r in range(len(queries)):
        worst[r] = shrink_candidates(keys[r], ids[r], counts[r], keep)
        for c in range(keep):
            out[r, c] = _squared_distance(queries[r], x[ids[r, c]]) if c < counts[r] else np.inf


@_kernel
def exact_distances(queries, x, ids, out):  # type: ignore[no-untyped-def]
    """Exact squared distances of each query to the cells of its row of `ids`; infinity where the id is -1.

    Parameters
    ----------
    queries, x : (m, d) and (n, d) float32
    ids : (m, c) int32
    out : (m, c) float64, written
    """
    for r in range(len(queries)):
        for c in range(ids.shape[1]):
            index = ids[r, c]
            out[r, c] = _squared_distance(queries[r], x[index]) if index >= 0 else np.inf


@_kernel
def take_nearest(  # type: ignore[no-untyped-def]
    squared, order, ids, unseen, out_indices, out_distances, uncertain
):
    """Keep the nearest k candidates, and mark the rows where a cell that is no candidate may be nearer.

    Parameters
    ----------
    squared : (m, c) float64, exact squared distances of the candidates
    order : (m, c) int64, sorts each row of `squared`; equal distances in any order
    ids : (m, >= c) int32
    unseen : (m,) float64, cells that are no candidates are at least this far (squared)
    out_indices, out_distances : (m, k) int32 and float32, Euclidean, written
    uncertain : (m,) bool, written
    """
    m, k = out_indices.shape
    nearest = np.empty(k, np.float64)
    for r in range(m):
        count = 0
        for c in order[r]:
            if squared[r, c] == np.inf or (count == k and squared[r, c] > nearest[k - 1]):
                break
            count = _insert_sorted(nearest, out_indices[r], count, squared[r, c], ids[r, c])
        for j in range(count):
            out_distances[r, j] = np.sqrt(nearest[j])
        uncertain[r] = count < k or nearest[k - 1] >= unseen[r]


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

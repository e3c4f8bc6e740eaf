"""Approximate neighbours for millions of cells: near cells meet in leaves, and then the neighbours of their neighbours.

Some cells, drawn at random, are leaders. Every cell joins the leaves of its nearest few leaders, so leaves overlap, and
inside a leaf every two cells are compared by compiled tiles: in few principal components, where these lose next to no
neighbour. Sets of other leaders follow while the recall, measured on a sample of cells, is too low. What is missing
then is mostly a neighbour of a neighbour, or may meet in yet other leaves: rounds of both. Exact distances of all
dimensions give the order.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gpubench.core.types import Knn
from gpubench.engines import planner
from gpubench.engines.common import flop_counts
from gpubench.engines.common.blas import one_blas_thread
from gpubench.engines.common.knn_search import Neighbors, Scaling, draw_sample, locality_order, measure_recall
from gpubench.engines.cpu import exact_knn
from gpubench.engines.cpu.top_k import CandidateStore

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.cpu.compiled import Tiles
    from gpubench.engines.cpu.exact_knn import ExactSearch

LEADERS = 3
"""Leaves that a cell joins of one set of leaders."""

MAX_SETS = 4
"""Sets of leaders that cells join while the recall is too low, before anything else is tried."""

LEAF = 1000
"""Cells of a leaf, on average, or `LEAF_NEIGHBORS` times as many as neighbours are asked for if that is more."""

LEAF_NEIGHBORS = 15

MAX_LEAF = 4
"""Leaves of more than this many times the average are cut into parts: the work grows with the square."""

FEW_LEADERS = 8000
"""Leaders up to which each cell is compared with all of them. Of more, with those that are near the same pivots: some
of the leaders themselves, about as many as the square root of their number."""

NEAR_PIVOTS = 32
"""Pivots nearest to that of a cell whose leaders it is compared with."""

NEAR = 12
"""Nearest cells of each whose nearest cells are looked at in a round."""

SEEN_SHARE = 0.99
"""Cells meet in as many principal components as hold this share of their variance, if they are at most `SEEN_DIMS` of
the dimensions, and if `SEEN_NEIGHBORS` of the true neighbours remain."""

SEEN_DIMS = 0.6
SEEN_NEIGHBORS = 0.995

SEEN_SAMPLE = 10_000
"""Cells that the components are of."""

WANTED_RECALL = 0.955
"""A little more than 0.95, for it is measured on a sample."""

MAX_ROUNDS = 5
ROWS_PER_PIECE = 4096


def leaf_sizes(n: int, k: int) -> tuple[int, int]:
    """Return the average number of cells in a leaf, and the number of leaves that a cell joins."""
    leaf = max(LEAF, LEAF_NEIGHBORS * k)
    return leaf, min(LEADERS, max(1, n // leaf))


def leaves_knn(x: NDArray[np.float32], k: int, exact: ExactSearch, tiles: Tiles, seed: int) -> Knn:
    """Find most of the k nearest other cells of each cell; the same seed gives the same bits on any number of threads.

    Raises
    ------
    InputError
        The candidates do not fit the memory.
    """
    n = len(x)
    seen_bytes = 4 * int(SEEN_DIMS * x.shape[1])
    needed = (CandidateStore.bytes_per_row(k, n - 1) + 8 * LEADERS + seen_bytes) * n
    what = f"the candidates for {k} neighbours of {n:,} cells"
    planner.require(needed, exact.memory_bytes, what, "use fewer neighbours")
    leaf, n_joined = leaf_sizes(n, k)
    sample = draw_sample(n, seed)
    true = exact.knn_between(x[sample], x, k + 1).indices
    seen = _principal(x, exact, seed)
    if seen is not x and not _neighbors_remain(seen, k, sample, true, exact):
        seen = x
    search = _Search(x, seen, k, exact, tiles)

    def recall() -> float:
        return measure_recall(sample, true, search.finish(sample).indices[sample])

    n_sets = n_rounds = 0
    share = 0.0
    while share < WANTED_RECALL and n_rounds < MAX_ROUNDS:
        sets_first = n_sets < MAX_SETS
        if sets_first or n_rounds:
            search.join_leaves(n_joined, leaf, seed + n_sets)
            n_sets += 1
        if not sets_first:
            search.join_near()
            n_rounds += 1
        share = recall()
    found = search.finish_all()
    params = {"leaf": leaf, "leaves_joined": n_joined * n_sets, "rounds": n_rounds}
    if seen is not x:
        params["components"] = seen.shape[1]
    return Knn(found.indices, found.distances, "leaves", params, measure_recall(sample, true, found.indices[sample]))


def _principal(x: NDArray[np.float32], exact: ExactSearch, seed: int) -> NDArray[np.float32]:
    """The cells in their leading principal components, (n, fewer) float32, or as they are."""
    n, d = x.shape
    sample = x[draw_sample(n, seed, SEEN_SAMPLE)].astype(np.float64)
    mean = sample.mean(axis=0)
    sample -= mean
    with one_blas_thread():
        variances, components = np.linalg.eigh(sample.T @ sample)
    held = np.cumsum(variances[::-1])
    n_seen = int(np.searchsorted(held, SEEN_SHARE * held[-1])) + 1
    if n_seen > SEEN_DIMS * d:
        return x
    loadings = np.ascontiguousarray(components[:, : -n_seen - 1 : -1], dtype=np.float32)
    centre = mean.astype(np.float32)
    seen = np.empty((n, n_seen), np.float32)

    def project(start: int) -> None:
        rows = slice(start, start + ROWS_PER_PIECE)
        seen[rows] = (x[rows] - centre) @ loadings

    exact.workers.run(range(0, n, ROWS_PER_PIECE), lambda: project)
    return seen


def _neighbors_remain(
    seen: NDArray[np.float32], k: int, sample: NDArray[np.int64], true: NDArray[np.int32], exact: ExactSearch
) -> bool:
    """Whether next to no true neighbour of the sample would be lost, if all cells met and the candidates were kept."""
    n_kept, _ = CandidateStore.sizes(k, len(seen) - 1)
    kept = exact.knn_between(seen[sample], seen, min(n_kept + 1, len(seen))).indices
    return measure_recall(sample, true, kept) >= SEEN_NEIGHBORS


def _nearest_leaders(
    x: NDArray[np.float32], leaders: NDArray[np.int64], n_joined: int, exact: ExactSearch, seed: int
) -> NDArray[np.int32]:
    """The nearest few leaders of each cell, (n, n_joined) positions among them; of very many leaders mostly those."""
    if len(leaders) <= FEW_LEADERS:
        found: NDArray[np.int32] = exact.knn_between(x.view(), x[leaders], n_joined).indices
        return found
    pivots = np.random.default_rng(seed).choice(leaders, math.isqrt(len(leaders)), replace=False)
    pivot: NDArray[np.int32] = exact.knn_between(x.view(), x[pivots], 1).indices[:, 0]
    near = exact.knn_between(x[pivots], x[pivots], min(NEAR_PIVOTS, len(pivots))).indices
    of_pivots = np.split(np.argsort(pivot, kind="stable"), np.cumsum(np.bincount(pivot, minlength=len(pivots)))[:-1])
    joined = np.empty((len(x), n_joined), np.int32)
    for cells, around in zip(of_pivots, near, strict=True):
        candidates = np.flatnonzero(np.isin(pivot[leaders], around))
        if len(candidates) < n_joined:  # copies: pivots without a leader of their own
            candidates = np.arange(len(leaders))
        if len(cells):
            joined[cells] = candidates[exact.knn_between(x[cells], x[leaders[candidates]], n_joined).indices]
    return joined


def _leaves(
    x: NDArray[np.float32], joined: NDArray[np.int32], n_leaders: int, leaf: int, scaling: Scaling, seed: int
) -> list[NDArray[np.int64]]:
    """The cells of each leaf, the largest leaf first so that no thread is left with it at the end.

    Parameters
    ----------
    joined : (n, leaves of each cell) which of the leaders
    leaf : cells of a leaf, on average
    """
    cells = np.argsort(joined.ravel(), kind="stable") // joined.shape[1]
    sizes = np.bincount(joined.ravel(), minlength=n_leaders)
    leaves: list[NDArray[np.int64]] = []
    for members in np.split(cells, np.cumsum(sizes)[:-1]):
        if len(members) <= MAX_LEAF * leaf:
            leaves.append(members)
            continue
        ordered = members[locality_order(x[members], scaling, leaf, seed)]
        leaves += [ordered[start : start + leaf] for start in range(0, len(ordered), leaf)]
    return sorted(leaves, key=len, reverse=True)


class _Search:
    """The candidates of all cells.

    Attributes
    ----------
    scaling : centres and scales rows for the tiles
    """

    def __init__(
        self, x: NDArray[np.float32], seen: NDArray[np.float32], k: int, exact: ExactSearch, tiles: Tiles
    ) -> None:
        self.scaling = Scaling(seen, seen)
        self._x, self._seen, self._k, self._exact, self._tiles = x, seen, k, exact, tiles
        self._store = CandidateStore(tiles, range(len(x)), k, len(x) - 1)
        self._out = Neighbors.empty(len(x), k)
        self._locality_order = np.arange(len(x))

    def join_leaves(self, n_joined: int, leaf: int, seed: int) -> None:
        """Let every cell join the leaves of its nearest of some leaders."""
        x, workers, (n, d) = self._seen, self._exact.workers, self._seen.shape
        n_leaders = max(1, n_joined * n // leaf)
        leaders = np.sort(np.random.default_rng(seed).choice(n, min(n, n_leaders), replace=False))
        joined = _nearest_leaders(x, leaders, min(n_joined, len(leaders)), self._exact, seed)
        leaves = _leaves(x, joined, len(leaders), leaf, self.scaling, seed)
        workers.count(flop_counts.leaves([len(cells) for cells in leaves], d))
        workers.run(leaves, lambda: self._join_leaf)
        self._locality_order = np.argsort(joined[:, 0], kind="stable")

    def _join_leaf(self, cells: NDArray[np.int64]) -> None:
        """Compare every two cells of a leaf."""
        rows = self.scaling.rows(self._seen[cells])
        squares = np.einsum("ij,ij->i", rows, rows)
        store = self._store
        self._tiles.join_leaf(*(rows, squares, cells, *rows.shape, store.keep, store.space, *store.arrays, store.locks))

    def join_near(self) -> None:
        """Compare every cell with the nearest cells of its nearest cells, as they are before this round."""
        x, store, tiles = self._seen, self._store, self._tiles
        n, d = x.shape
        width = min(NEAR, store.keep)
        near = np.empty((n, width), np.int32)

        def write_nearest(start: int) -> None:
            stop = min(start + ROWS_PER_PIECE, n)
            tiles.nearest_ids(start, stop, store.keep, store.space, *store.arrays, width, near)

        def join(start: int) -> None:
            stop = min(start + ROWS_PER_PIECE, n)
            tiles.join_near(x, start, stop, d, self.scaling.scale, near, width, store.keep, store.space, *store.arrays)

        for step in (write_nearest, join):
            self._exact.workers.run(range(0, n, ROWS_PER_PIECE), lambda step=step: step)  # type: ignore[misc]

    def finish_all(self) -> Neighbors:
        """Order what was found for all cells; those that have met fewer than k others are searched exactly."""
        # cells of one leaf have the same neighbours, which stay in the cache
        out = self.finish(self._locality_order)
        lonely = np.flatnonzero(out.uncertain)
        exact_knn.search_rows(self._x, self._x, np.arange(len(self._x)), lonely, out, self._exact.workers)
        return out

    def finish(self, cells: NDArray[np.int64]) -> Neighbors:
        """Order what was found for some cells by exact distance; the neighbours of the others are what they were."""
        x, store, out = self._x, self._store, self._out
        n, d = x.shape
        ids, norms = np.arange(n), np.zeros(ROWS_PER_PIECE)

        def finish(start: int) -> None:
            rows = cells[start : start + ROWS_PER_PIECE]
            self._tiles.topk_finish(
                *(x, x, d, rows, ids, len(rows), store.keep, store.space),
                *(array[rows] for array in store.arrays),
                # nothing is known about cells that are no candidates, so nothing is certified
                *(norms, 0.0, 0.0, 1.0, True, True, self._k, out.indices, out.distances, out.uncertain),
            )

        self._exact.workers.run(range(0, len(cells), ROWS_PER_PIECE), lambda: finish)
        return out

"""Approximate neighbours of millions of cells: compare the cells of overlapping leaves, then neighbours of neighbours.

Cells drawn at random are leaders, and each leader has a leaf. Every cell joins the leaves of its few nearest leaders,
so leaves overlap and close cells share a leaf. Within a leaf all pairs of cells are compared by compiled functions, in
few principal components if these lose almost no neighbours. While the recall, measured on a sample of cells, is too
low, the search is repeated with other leaders. Most neighbours still missing are neighbours of neighbours, so rounds
that compare these follow, alternating with further leaves. The final order is by exact distances in all dimensions.
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
    from gpubench.core.types import F32, I32, I64
    from gpubench.engines.cpu.compiled import Tiles
    from gpubench.engines.cpu.exact_knn import ExactSearch
    from gpubench.engines.cpu.tuning import CpuTuning

MAX_LEAF_RATIO = 4
"""Leaves of more than this many times the average size are split, because the work grows with the square."""

MAX_NEAR = 12
"""Number of nearest candidates of each cell whose own candidates are compared with the cell in a round."""

KEPT_VARIANCE = 0.99
"""Cells are compared in as many principal components as hold this share of their variance, if these are at most
`MAX_COMPONENTS` of the dimensions, and if `KEPT_NEIGHBORS` of the true neighbours remain."""

MAX_COMPONENTS = 0.6
KEPT_NEIGHBORS = 0.995

PCA_SAMPLE = 10_000
"""Number of sampled cells from which the principal components are computed."""

MAX_ROUNDS = 5
ROWS_PER_TASK = 4096


def leaf_sizes(n: int, k: int, tuning: CpuTuning) -> tuple[int, int]:
    """Return the average number of cells in a leaf, and the number of leaves that a cell joins."""
    leaf = max(tuning.leaf_cells, tuning.leaf_cells_per_neighbor * k)
    return leaf, min(tuning.leaves_per_cell, max(1, n // leaf))


def leaves_knn(x: F32, k: int, exact: ExactSearch, tiles: Tiles, seed: int) -> Knn:
    """Find most of the k nearest other cells of each cell; a seed gives the same bits for any number of threads."""
    n, tuning = len(x), exact.workers.tuning
    component_bytes = 4 * int(MAX_COMPONENTS * x.shape[1])
    needed = (CandidateStore.bytes_per_row(k, n - 1) + 8 * tuning.leaves_per_cell + component_bytes) * n
    what = f"the candidates for {k} neighbours of {n:,} cells"
    planner.require(needed, exact.memory_bytes, what, "use fewer neighbours")
    leaf, n_joined = leaf_sizes(n, k, tuning)
    sample = draw_sample(n, seed)
    true = exact.knn_between(x[sample], x, k + 1).indices
    reduced = _reduce_dimensions(x, exact, seed)
    if reduced is not x and not _keeps_neighbors(reduced, k, sample, true, exact):
        reduced = x
    search = LeafSearch(x, reduced, k, exact, tiles)

    def recall() -> float:
        return measure_recall(sample, true, search.finish(sample).indices[sample])

    n_sets = n_rounds = 0
    share = 0.0
    while share < tuning.min_recall and n_rounds < MAX_ROUNDS:
        sets_first = n_sets < tuning.max_leaf_sets
        if sets_first or n_rounds:
            search.join_leaves(n_joined, leaf, seed + n_sets)
            n_sets += 1
        if not sets_first:
            search.join_near()
            n_rounds += 1
        share = recall()
    found = search.finish_all()
    params = {"leaf": leaf, "leaves_joined": n_joined * n_sets, "rounds": n_rounds}
    if reduced is not x:
        params["components"] = reduced.shape[1]
    return Knn(found.indices, found.distances, "leaves", params, measure_recall(sample, true, found.indices[sample]))


def _reduce_dimensions(x: F32, exact: ExactSearch, seed: int) -> F32:
    """Return the cells projected on their leading principal components, float32, or x itself if few do not suffice."""
    n, d = x.shape
    sample = x[draw_sample(n, seed, PCA_SAMPLE)].astype(np.float64)
    mean = sample.mean(axis=0)
    sample -= mean
    with one_blas_thread():
        variances, components = np.linalg.eigh(sample.T @ sample)
    held = np.cumsum(variances[::-1])
    n_components = int(np.searchsorted(held, KEPT_VARIANCE * held[-1])) + 1
    if n_components > MAX_COMPONENTS * d:
        return x
    loadings = np.ascontiguousarray(components[:, : -n_components - 1 : -1], dtype=np.float32)
    centre = mean.astype(np.float32)
    reduced = np.empty((n, n_components), np.float32)

    def project(start: int) -> None:
        rows = slice(start, start + ROWS_PER_TASK)
        reduced[rows] = (x[rows] - centre) @ loadings

    exact.workers.run(range(0, n, ROWS_PER_TASK), lambda: project)
    return reduced


def _keeps_neighbors(reduced: F32, k: int, sample: I64, true: I32, exact: ExactSearch) -> bool:
    """Return whether a search in `reduced` would keep almost all true neighbours of the sampled cells as candidates."""
    n_kept, _ = CandidateStore.sizes(k, len(reduced) - 1)
    candidates = exact.knn_between(reduced[sample], reduced, min(n_kept + 1, len(reduced))).indices
    return measure_recall(sample, true, candidates) >= KEPT_NEIGHBORS


def _nearest_leaders(x: F32, leaders: I64, n_joined: int, exact: ExactSearch, seed: int) -> I32:
    """Return the `n_joined` nearest leaders of each cell as positions in `leaders`; approximate for many leaders."""
    tuning = exact.workers.tuning
    if len(leaders) <= tuning.max_compared_leaders:
        found: I32 = exact.knn_between(x.view(), x[leaders], n_joined).indices
        return found
    pivots = np.random.default_rng(seed).choice(leaders, math.isqrt(len(leaders)), replace=False)
    pivot: I32 = exact.knn_between(x.view(), x[pivots], 1).indices[:, 0]
    near = exact.knn_between(x[pivots], x[pivots], min(tuning.near_pivots, len(pivots))).indices
    by_pivot = np.split(np.argsort(pivot, kind="stable"), np.cumsum(np.bincount(pivot, minlength=len(pivots)))[:-1])
    joined = np.empty((len(x), n_joined), np.int32)
    for cells, around in zip(by_pivot, near, strict=True):
        candidates = np.flatnonzero(np.isin(pivot[leaders], around))
        if len(candidates) < n_joined:  # copies: pivots without a leader of their own
            candidates = np.arange(len(leaders))
        if len(cells):
            joined[cells] = candidates[exact.knn_between(x[cells], x[leaders[candidates]], n_joined).indices]
    return joined


def _leaves(x: F32, joined: I32, n_leaders: int, leaf: int, scaling: Scaling, seed: int) -> list[I64]:
    """List the cells of each leaf, the largest leaf first, so that no thread is left alone with it at the end.

    `joined` (n, n_joined) has the leaders of each cell, and `leaf` is the average number of cells per leaf.
    """
    cells = np.argsort(joined.ravel(), kind="stable") // joined.shape[1]
    sizes = np.bincount(joined.ravel(), minlength=n_leaders)
    leaves: list[I64] = []
    for members in np.split(cells, np.cumsum(sizes)[:-1]):
        if len(members) <= MAX_LEAF_RATIO * leaf:
            leaves.append(members)
            continue
        ordered = members[locality_order(x[members], scaling, leaf, seed)]
        leaves += [ordered[start : start + leaf] for start in range(0, len(ordered), leaf)]
    return sorted(leaves, key=len, reverse=True)


class LeafSearch:
    """Candidate neighbours of all cells, to which each step of the search adds nearer ones."""

    def __init__(self, x: F32, reduced: F32, k: int, exact: ExactSearch, tiles: Tiles) -> None:
        """Prepare a search among the cells x that compares the cells `reduced` in tiles."""
        self._scaling = Scaling(reduced, reduced)
        self._x, self._reduced, self._k, self._exact, self._tiles = x, reduced, k, exact, tiles
        self._store = CandidateStore(tiles, range(len(x)), k, len(x) - 1)
        self._out = Neighbors.empty(len(x), k)
        self._locality_order = np.arange(len(x))

    def join_leaves(self, n_joined: int, leaf: int, seed: int) -> None:
        """Draw new leaders, let each cell join `n_joined` of their leaves, and compare the cells within each leaf."""
        x, workers, (n, d) = self._reduced, self._exact.workers, self._reduced.shape
        n_leaders = max(1, n_joined * n // leaf)
        leaders = np.sort(np.random.default_rng(seed).choice(n, min(n, n_leaders), replace=False))
        joined = _nearest_leaders(x, leaders, min(n_joined, len(leaders)), self._exact, seed)
        leaves = _leaves(x, joined, len(leaders), leaf, self._scaling, seed)
        workers.timeline.count(flop_counts.leaves([len(cells) for cells in leaves], d))
        workers.run(leaves, lambda: self._join_leaf)
        self._locality_order = np.argsort(joined[:, 0], kind="stable")

    def _join_leaf(self, cells: I64) -> None:
        """Compare all pairs of the cells of a leaf."""
        rows = self._scaling.rows(self._reduced[cells])
        squares = np.einsum("ij,ij->i", rows, rows)
        store = self._store
        self._tiles.join_leaf(*(rows, squares, cells, *rows.shape, store.keep, store.space, *store.arrays, store.locks))

    def join_near(self) -> None:
        """Compare every cell with the nearest candidates of its nearest candidates, as of the start of this round."""
        x, store, tiles = self._reduced, self._store, self._tiles
        n, d = x.shape
        width = min(MAX_NEAR, store.keep)
        near = np.empty((n, width), np.int32)

        def write_nearest(start: int) -> None:
            stop = min(start + ROWS_PER_TASK, n)
            tiles.nearest_ids(start, stop, store.keep, store.space, *store.arrays, width, near)

        def join(start: int) -> None:
            stop = min(start + ROWS_PER_TASK, n)
            tiles.join_near(x, start, stop, d, self._scaling.scale, near, width, store.keep, store.space, *store.arrays)

        for step in (write_nearest, join):
            self._exact.workers.run(range(0, n, ROWS_PER_TASK), lambda step=step: step)  # type: ignore[misc]

    def finish_all(self) -> Neighbors:
        """Return neighbours of all cells by exact distance; search cells with fewer than k candidates exactly."""
        # cells of one leaf share neighbours, which stay in the cache
        out = self.finish(self._locality_order)
        missing = np.flatnonzero(out.uncertain)
        exact_knn.search_rows(self._x, self._x, np.arange(len(self._x)), missing, out, self._exact.workers)
        return out

    def finish(self, cells: I64) -> Neighbors:
        """Return neighbours by exact distance in which only the rows of the given cells are written."""
        x, store, out = self._x, self._store, self._out
        n, d = x.shape
        ids, norms = np.arange(n), np.zeros(ROWS_PER_TASK)

        def finish(start: int) -> None:
            rows = cells[start : start + ROWS_PER_TASK]
            self._tiles.topk_finish(
                *(x, x, d, rows, ids, len(rows), store.keep, store.space),
                *(array[rows] for array in store.arrays),
                # cells that are no candidates may be nearer, so no row is certified
                *(norms, 0.0, 0.0, 1.0, True, True, self._k, out.indices, out.distances, out.uncertain),
            )

        self._exact.workers.run(range(0, len(cells), ROWS_PER_TASK), lambda: finish)
        return out

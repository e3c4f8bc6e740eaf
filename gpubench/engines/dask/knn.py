"""Exact neighbours on a cluster: parts of the cells are compared in pairs, and what each pair finds is merged.

Cells are brought into an order in which near ones stand together, and cut into parts. First each part is compared with
itself, which tells how far the neighbours of its cells are at most. Then tasks compare two parts, each pair of cells
once, and keep what is nearer; few pairs are. Of all that the tasks of a part have found the k nearest are taken: exact
distances decide, so that the cut and the workers leave no trace in the result.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.types import Knn
from gpubench.engines.common.knn_search import Neighbors, Scaling, locality_order
from gpubench.engines.cpu import exact_knn as cpu_exact_knn
from gpubench.engines.cpu import top_k
from gpubench.engines.cpu.exact_knn import ExactSearch
from gpubench.engines.dask.array import tables
from gpubench.engines.dask.worker import kept

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.dask.array import Block
    from gpubench.engines.dask.cluster import Cluster
    from gpubench.engines.dask.worker import Recipe, WorkerEngine

PAIR_PRODUCTS = 1.2e11
"""Differences of two values of one task, a few seconds on one core."""

TASKS_PER_SLOT = 4
"""Tasks that there are for each that runs at a time, at least."""

MAX_PARTS = 300
"""Parts that cells are cut into at most, or half as many more where that divides better: 100,000 pairs."""

ROW_PRODUCTS = 1000
"""What a task does for each of its rows beside comparing it, in comparisons with another row."""

MIN_QUERIES = 256
"""Queries of a task at least: the other side is packed for each."""

SEED = 0  # of the order, on which no result depends


def part_rows(n: int, d: int, n_slots: int) -> int:
    """Cells of a part, a multiple of a block.

    Tasks take at most a few seconds, and there are some for each slot; of the numbers of parts from there on that is
    taken with which the slots are expected to be done first: with few tasks it matters how they divide among them.
    """
    for_time = n / (PAIR_PRODUCTS / d) ** 0.5
    for_balance = (2 * TASKS_PER_SLOT * n_slots) ** 0.5
    least = math.ceil(min(max(for_time, for_balance), MAX_PARTS))
    parts = min(range(least, least + least // 2 + 1), key=lambda parts: _expected(parts, n / parts, n_slots))
    return math.ceil(n / parts / top_k.BLOCK) * top_k.BLOCK


def _expected(parts: int, rows: float, n_slots: int) -> float:
    """How long the slots compare parts of so many rows with themselves, and then pairs of them."""
    alone, pair = rows**2 / 2 + rows * ROW_PRODUCTS, rows**2 + 2 * rows * ROW_PRODUCTS
    return math.ceil(parts / n_slots) * alone + math.ceil(math.comb(parts, 2) / n_slots) * pair


def exact_knn(cluster: Cluster, x: Any, key: str, shape: tuple[int, int], k: int, recipe: Recipe) -> Knn:
    """Find the k nearest other cells of each cell; see `Engine.knn`.

    Parameters
    ----------
    x : what stands for the cells in a task
    key : tells these cells from others that workers hold
    """
    n, d = shape
    rows = part_rows(n, d, cluster.n_slots)
    parts = [(start, min(start + rows, n)) for start in range(0, n, rows)]
    alone = cluster.submit_each("knn", search_part, [(x, key, part, k, recipe) for part in parts])
    found = [[(future, 0)] for future in alone]
    pairs = list(combinations(range(len(parts)), 2))
    calls = [(x, key, parts[i], parts[j], k, alone[i], alone[j], recipe) for i, j in pairs]
    together = cluster.submit_each("knn", compare_parts, calls)
    for (i, j), future in zip(pairs, together, strict=True):
        found[i].append((future, 0))
        found[j].append((future, 1))
    blocks = []
    for of_part, part in zip(found, parts, strict=True):
        told = x, key, part, k, recipe
        few = cluster.merged("merge_knn", merge, of_part, *told)
        blocks.append(cluster.submit("merge_knn", block_of, few, *told))
    cluster.wait([*alone, *together, *blocks])
    return Knn(*tables(cluster, blocks, (n, k)))


Some = tuple["NDArray[np.int32]", "NDArray[np.int32]"]
"""Neighbours of the cells of a part, as many as were found of each: how many, (m,), and all, one after another."""


def search_part(
    x: NDArray[np.float32], key: str, part: tuple[int, int], k: int, recipe: Recipe
) -> tuple[Some, NDArray[np.float32]]:
    """Neighbours of the cells of a part among themselves, and how far the k-th is."""
    cells = _order(x, key)[slice(*part)]
    n_found = min(k, len(cells) - 1)
    if n_found == 0:
        return _some(np.full((len(cells), 1), -1, np.int32)), np.full(len(cells), np.inf, np.float32)
    engine = recipe.start(threads=1)
    in_order = np.sort(cells)  # so that ties are decided as among all cells
    own = x[in_order]
    where = np.searchsorted(in_order, cells)
    found = Neighbors.empty(len(own), n_found)
    if engine.tiles is None:
        _search_without_tiles(own, found, engine)
    else:
        top_k.search(engine.tiles, own, own, found, engine.workers, engine.budget.left, where)
        _search_uncertain(own, found, engine)
    farthest = found.distances[where, -1] if n_found == k else np.full(len(cells), np.inf, np.float32)
    return _some(in_order[found.indices[where]]), farthest


def compare_parts(
    x: NDArray[np.float32],
    key: str,
    first: tuple[int, int],
    second: tuple[int, int],
    k: int,
    of_first: tuple[Some, NDArray[np.float32]],
    of_second: tuple[Some, NDArray[np.float32]],
    recipe: Recipe,
) -> tuple[Some, Some]:
    """Neighbours of the cells of each part among those of the other: those nearer than what the own part has."""
    engine = recipe.start(threads=1)
    order = _order(x, key)
    sides = order[slice(*first)], order[slice(*second)]
    both, n_first = np.concatenate(sides), len(sides[0])
    if engine.tiles is None:
        found = _other_side(x, both, n_first, np.arange(len(both)), k, engine)
        return _some(found[:n_first]), _some(found[n_first:])
    farthest = np.concatenate([of_first[1], of_second[1]])
    scaling = kept(("scaling", key), lambda: Scaling(x, x))
    store, missing = top_k.search_pair(engine.tiles, x, sides, farthest, k, engine.workers, scaling)
    place = np.argsort(both) if len(missing) else both
    for row, cells in zip(missing, _other_side(x, both, n_first, missing, k, engine), strict=True):
        store.replace(row, place[np.searchsorted(both, cells[cells >= 0], sorter=place)])
    answers = [
        (counts, both[positions].astype(np.int32))
        for counts, positions in map(store.candidates, (slice(0, n_first), slice(n_first, len(both))))
    ]
    return answers[0], answers[1]


def _other_side(
    x: NDArray[np.float32],
    both: NDArray[np.int64],
    n_first: int,
    positions: NDArray[np.int64],
    k: int,
    engine: WorkerEngine,
) -> NDArray[np.int64]:
    """Of the nearest among the cells of both sides those on the other side, (m, k); -1 in the place of the others.

    Parameters
    ----------
    both : the cells of one side, which are `n_first`, and of the other
    positions : of the cells in question
    """
    if not len(positions):
        return np.empty((0, k), np.int64)
    cells = np.sort(both)  # so that ties are decided as among all cells
    own, rows = x[cells], np.searchsorted(cells, both[positions])
    out = Neighbors.empty(len(cells), min(k, len(cells) - 1))
    cpu_exact_knn.search_rows(own, own, np.arange(len(cells)), rows, out, engine.workers)
    in_first = np.zeros(len(cells), np.bool_)
    in_first[np.searchsorted(cells, both[:n_first])] = True
    found = out.indices[rows]
    return np.where(in_first[found] != in_first[rows][:, None], cells[found], -1)


def _search_without_tiles(x: NDArray[np.float32], out: Neighbors, engine: WorkerEngine) -> None:
    """Search among all cells of both parts by NumPy's products."""
    found = ExactSearch(engine.workers, None, engine.budget.left).knn_between(x, x, out.indices.shape[1])
    out.indices[:], out.distances[:] = found.indices, found.distances


def _search_uncertain(x: NDArray[np.float32], out: Neighbors, engine: WorkerEngine) -> None:
    """Search again for the cells that may have missed a nearer one, among all cells of both parts."""
    cpu_exact_knn.search_rows(x, x, np.arange(len(x)), np.flatnonzero(out.uncertain), out, engine.workers)


def _some(ids: NDArray[Any]) -> Some:
    """Leave out what is -1."""
    there = ids >= 0
    return there.sum(axis=1, dtype=np.int32), ids[there].astype(np.int32)


def _side_by_side(found: list[tuple[tuple[Any, ...], int]]) -> NDArray[np.int32]:
    """(m, most) everything that tasks have found of the cells of a part, -1 at the end of rows."""
    some: list[Some] = [of_task[side] for of_task, side in found]
    ends = np.sum([counts for counts, _ in some], axis=0)
    ids = np.full((len(ends), max(int(ends.max()), 1)), -1, np.int32)
    begin = np.zeros(len(ends), np.int64)
    for counts, flat in some:
        rows = np.repeat(np.arange(len(counts)), counts)
        ids[rows, begin[rows] + np.arange(len(flat)) - np.repeat(np.cumsum(counts) - counts, counts)] = flat
        begin += counts
    return ids


def block_of(
    found: list[tuple[tuple[Any, ...], int]],
    x: NDArray[np.float32],
    key: str,
    part: tuple[int, int],
    k: int,
    recipe: Recipe,
) -> Block:
    """The k nearest of what tasks have found for the cells of a part."""
    engine = recipe.start(threads=1)
    cells = _order(x, key)[slice(*part)]
    queries = x[cells]
    ids = _side_by_side(found)
    out = Neighbors.empty(len(cells), k)
    out.indices[:] = -1
    if engine.tiles is not None:
        top_k.order_exactly(engine.tiles, queries, x, ids, out)
    else:
        cpu_exact_knn.rerank(queries, x, ids.astype(np.int64), None, out, np.arange(len(cells)))
    return cells, out.indices, out.distances


def merge(found: list[Any], *told: Any) -> tuple[Some]:
    """The k nearest of what some tasks have found, as they give them."""
    return (_some(block_of(found, *told)[1]),)


def knn_between(cluster: Cluster, queries: Any, x: Any, shape: tuple[int, int, int], k: int, recipe: Recipe) -> Knn:
    """Find the k nearest cells of each query; see `Engine.knn_between`.

    Parameters
    ----------
    shape : queries, cells, dimensions
    """
    m, n, d = shape
    rows = max(min(int(PAIR_PRODUCTS / n / d), -(-m // (TASKS_PER_SLOT * cluster.n_slots))), MIN_QUERIES)
    calls = [(queries, x, (start, min(start + rows, m)), k, recipe) for start in range(0, m, rows)]
    blocks = cluster.submit_each("knn_between", search_rows, calls)
    cluster.wait(blocks)
    return Knn(*tables(cluster, blocks, (m, k)))


def search_rows(
    queries: NDArray[np.float32], x: NDArray[np.float32], rows: tuple[int, int], k: int, recipe: Recipe
) -> Block:
    """The nearest cells of some queries."""
    engine = recipe.start(threads=1)
    found = engine.knn_between(np.ascontiguousarray(queries[slice(*rows)]), x, k)
    return np.arange(*rows), found.indices, found.distances


def _order(x: NDArray[np.float32], key: str) -> NDArray[np.int64]:
    """The cells, near ones together; this worker's, made once."""
    return kept(("order", key), lambda: locality_order(x, Scaling(x, x), top_k.LEAF, SEED))


def whole_search(x: NDArray[np.float32], k: int, recipe: Recipe) -> tuple[Any, ...]:
    """A block of all cells, found on one worker as the engine there does, and how it was found."""
    found = recipe.start().knn(x, k)
    return None, found.indices, found.distances, (found.method, dict(found.params), found.recall)


def told_of(block: Any) -> tuple[Any, ...]:
    """How the neighbours were found."""
    told: tuple[Any, ...] = block[3]
    return told

"""Exact nearest neighbours on a cluster: cells are sorted into parts of near cells, and pairs of parts are compared.

A tree of cuts, made from a sample of the cells, sorts near cells into the same part, so that no worker needs all cells.
First the cells of each part are compared with each other, which limits how far their neighbours can be. Then all pairs
of parts are compared, and few pairs of cells are near enough. Distances are exact, and of all neighbours found the
nearest are chosen by (distance, id), so the result does not depend on parts and workers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import combinations
from operator import getitem
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.types import Knn
from gpubench.engines.common.knn_search import SAMPLE, Neighbors, Scaling, locality_order, principal_direction
from gpubench.engines.cpu import exact_knn as cpu_exact_knn
from gpubench.engines.cpu import top_k
from gpubench.engines.cpu.exact_knn import ExactSearch
from gpubench.engines.cpu.kernels import DIFFERENCES, exact_distances
from gpubench.engines.dask.remote import remote_knn
from gpubench.engines.dask.shuffle import StreamingMerge, max_parts, shuffle

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.core.types import F32, F64, I32, I64
    from gpubench.engines.dask.cluster import Cluster
    from gpubench.engines.dask.remote import ClusterMatrix, KnnBlock
    from gpubench.engines.dask.shuffle import PartRows
    from gpubench.engines.dask.worker import EngineSettings, WorkerEngine

PAIR_PRODUCTS = 1.2e11
"""Work of one task, as (pairs of cells) * (dimensions): a few seconds on one core."""

TASKS_PER_SLOT = 4
"""Smallest number of tasks per thread of the cluster."""

MAX_PARTS = 300
"""Largest number of parts, exceeded by up to half if tasks then divide more evenly: 100,000 pairs."""

ROW_PRODUCTS = 1000
"""Other work of a task for each of its rows, in comparisons with another row."""

MIN_QUERIES = 256
"""Smallest number of queries per task, because each task packs the cells to compare with."""

TREE_ROWS = 8192
"""Number of rows that are assigned to leaves at a time."""

SAMPLE_PER_LEAF = 48
"""Number of sampled cells per leaf of the tree."""

MAX_LEAVES = 4096

SEED = 0  # of the sample and the order, on which no result depends


def part_rows(n: int, d: int, n_slots: int) -> int:
    """Return the number of cells per part, a multiple of the block size of the search.

    The number of parts is at least such that a task takes at most a few seconds and each of the `n_slots` threads of
    the cluster gets several tasks. Of somewhat larger numbers the one with the shortest expected time is chosen,
    because a few tasks may not divide evenly among the threads.
    """
    for_time = n / (PAIR_PRODUCTS / d) ** 0.5
    for_balance = (2 * TASKS_PER_SLOT * n_slots) ** 0.5
    least = math.ceil(min(max(for_time, for_balance), MAX_PARTS))
    parts = min(range(least, least + least // 2 + 1), key=lambda parts: _expected_cost(parts, n / parts, n_slots))
    return math.ceil(n / parts / top_k.BLOCK) * top_k.BLOCK


def _expected_cost(parts: int, rows: float, n_slots: int) -> float:
    """Return the expected time, in distance computations, of comparing `parts` parts of `rows` rows on all slots."""
    alone, pair = rows**2 / 2 + rows * ROW_PRODUCTS, rows**2 + 2 * rows * ROW_PRODUCTS
    return math.ceil(parts / n_slots) * alone + math.ceil(math.comb(parts, 2) / n_slots) * pair


def near_rows(n: int, d: int, n_blocks: int, n_slots: int, part_bytes: int) -> int:
    """Return the number of cells per part as `part_rows` does, limited by `part_bytes` and the number of tasks."""
    at_most = part_bytes // (4 * d) // top_k.BLOCK * top_k.BLOCK
    fewest = -(-n // max_parts(n_blocks, MAX_PARTS))
    wanted = max(part_rows(n, d, n_slots), -(-fewest // top_k.BLOCK) * top_k.BLOCK)
    return max(top_k.BLOCK, min(wanted, at_most))


@dataclass(frozen=True, slots=True)
class FoundNeighbors:
    """Neighbours of several cells, in any number per cell.

    Attributes
    ----------
    row, ids : (n_found,) row of the cell, ascending, and id of its neighbour
    distances : (n_found,) float32 distances, as in the result of the engine
    squared : (n_found,) float64 squared distances, which order neighbours with equal float32 distances
    """

    row: I32
    ids: I32
    distances: F32
    squared: F64


def nearest(found: list[tuple[tuple[FoundNeighbors, ...], int]], k: int) -> tuple[FoundNeighbors]:
    """Merge neighbours of the same cells from several tasks and keep the k nearest of each cell.

    `found` has the result of each task and the position of the neighbours in that result.
    """
    parts = [answer[side] for answer, side in found]
    m = 1 + max((int(part.row[-1]) for part in parts if len(part.row)), default=-1)
    counts = [np.bincount(part.row, minlength=m) for part in parts]
    filled = np.zeros(m, np.int64)
    shape = m, int(np.sum(counts, axis=0).max(initial=0))
    # a table with a row for each cell: sorting short rows takes a quarter of the time of sorting all pairs at once
    ids, distances = np.full(shape, -1, np.int32), np.full(shape, np.inf, np.float32)
    squared = np.full(shape, np.inf)
    for part, count in zip(parts, counts, strict=True):
        column = np.arange(len(part.row)) - np.repeat(np.cumsum(count) - count - filled, count)
        ids[part.row, column] = part.ids
        distances[part.row, column] = part.distances
        squared[part.row, column] = part.squared
        filled += count
    order = np.lexsort((ids, squared, distances), axis=1)[:, :k]
    ids, distances, squared = (np.take_along_axis(table, order, axis=1) for table in (ids, distances, squared))
    exists = ids >= 0
    row = np.nonzero(exists)[0].astype(np.int32)
    return (FoundNeighbors(row, ids[exists], distances[exists], squared[exists]),)


@dataclass(frozen=True, slots=True)
class CutTree:
    """Binary tree that halves cells along the direction of largest variance; node i has children 2 i + 1 and 2 i + 2.

    Attributes
    ----------
    directions : (n_nodes, d) float32, direction of each node
    cuts : (n_nodes,) float32; cells whose projection on the direction exceeds the cut go to the second child
    depth : number of levels of nodes; there are 2^depth leaves
    """

    directions: F32
    cuts: F32
    depth: int

    def leaves(self, block: F32) -> NDArray[np.uint16]:
        """Return the index of the leaf that each row of a block (m, d) falls into, (m,)."""
        leaves = np.empty(len(block), np.uint16)
        for start in range(0, len(block), TREE_ROWS):
            rows = block[start : start + TREE_ROWS]
            node = np.zeros(len(rows), np.int64)
            for _ in range(self.depth):
                along = np.einsum("ij,ij->i", rows, self.directions[node])
                node = 2 * node + 1 + (along > self.cuts[node])
            leaves[start : start + TREE_ROWS] = node - (2**self.depth - 1)
        return leaves


def grow_tree(sample: F32, depth: int, seed: int) -> CutTree:
    """Build a tree with `depth` levels by halving a sample of cells repeatedly."""
    rng = np.random.default_rng(seed)
    n_nodes, scaling = 2**depth - 1, Scaling(sample, sample)
    directions, cuts = np.zeros((n_nodes, sample.shape[1]), np.float32), np.zeros(n_nodes, np.float32)
    parts = [(0, np.arange(len(sample)))]
    while parts:
        node, cells = parts.pop()
        if node >= n_nodes or not len(cells):  # no cell of the sample comes here; others may, to either side
            continue
        few = rng.choice(cells, min(len(cells), SAMPLE), replace=False)
        directions[node] = principal_direction(scaling.rows(sample[few]), rng)
        along = np.einsum("ij,j->i", sample[cells], directions[node])
        cuts[node] = np.median(along)
        beyond = along > cuts[node]
        parts += [(2 * node + 1, cells[~beyond]), (2 * node + 2, cells[beyond])]
    return CutTree(directions, cuts, depth)


def leaf_starts(counts: list[I64]) -> I64:
    """Return the rank of the first row of each block in each leaf, (n_blocks, n_leaves), if sorted by (leaf, id).

    `counts` has the number of rows of each block in each leaf.
    """
    block_counts = np.stack(counts)
    before_leaf = np.concatenate([[0], np.cumsum(block_counts.sum(axis=0))[:-1]])
    return np.asarray(before_leaf + np.cumsum(block_counts, axis=0) - block_counts)


def block_ranks(leaves: NDArray[np.uint16], starts: I64, number: int) -> NDArray[np.uint32]:
    """Return the rank of each row of block `number` among all cells sorted by (leaf, id)."""
    order = np.argsort(leaves, kind="stable")
    counts = np.bincount(leaves, minlength=starts.shape[1])
    inside = np.arange(len(leaves)) - np.repeat(np.cumsum(counts) - counts, counts)
    ranks = np.empty(len(leaves), np.uint32)
    ranks[order] = np.repeat(starts[number], counts) + inside
    return ranks


@dataclass(frozen=True, slots=True)
class NearPart:
    """One of the parts into which cells are divided for the search; the cells of a part are near each other.

    Attributes
    ----------
    ids : (m,) int64, ascending indices of the cells, so that ties are broken as among all cells
    rows : (m, d) float32, the cells
    order : (m,) permutation of the rows in which near cells follow one another
    """

    ids: I64
    rows: F32
    order: I64


def exact_knn(x: ClusterMatrix, k: int, settings: EngineSettings) -> Knn:
    """Find the k nearest other cells of each cell; see `Engine.knn`."""
    cluster, (n, d) = x.cluster, x.shape
    rows = near_rows(n, d, len(x.blocks), cluster.n_slots, x.limits.part_bytes)
    edges = [(start, min(start + rows, n)) for start in range(0, n, rows)]
    parts = shuffle(cluster, x, _near_ranks(x, len(edges)), edges, near_part)
    alone = cluster.submit_each("knn", search_part, [(part, k, settings) for part in parts])
    farthest = cluster.submit_each("farthest", getitem, [(one, 1) for one in alone])
    cluster.wait(farthest)
    pairs = list(combinations(range(len(parts)), 2))
    merging = _merge_nearest(cluster, [len(parts)] * len(parts), k)
    for number, future in enumerate(alone):
        merging.add(number, future, 0)
    del alone
    calls = ((parts[i], parts[j], k, farthest[i], farthest[j], settings) for i, j in pairs)
    merging.run(cluster, "knn", compare_parts, calls, pairs)
    merged = zip(merging.finished, parts, strict=True)
    blocks = cluster.submit_each("merge_knn", part_block, [(found, part, k) for found, part in merged])
    cluster.wait(blocks)
    return remote_knn(cluster, blocks, (n, k))


def _near_ranks(x: ClusterMatrix, n_parts: int) -> list[Any]:
    """Return for each block the future of its cells' ranks in an order in which near cells follow one another."""
    cluster, n = x.cluster, len(x)
    depth = min(max(4 * n_parts - 1, 1).bit_length(), MAX_LEAVES.bit_length() - 1)
    drawn = np.sort(np.random.default_rng(SEED).choice(n, min(n, SAMPLE_PER_LEAF << depth), replace=False))
    tree = cluster.submit("tree", grow_tree, x[drawn], depth, SEED)
    leaves = cluster.submit_each("leaves", CutTree.leaves, [(tree, block) for block in x.blocks])
    counts = cluster.submit_each("leaves", np.bincount, [(own, None, 2**depth) for own in leaves])
    starts = cluster.submit("leaves", leaf_starts, counts)
    return cluster.submit_each("ranks", block_ranks, [(own, starts, i) for i, own in enumerate(leaves)])


def _merge_nearest(cluster: Cluster, n_answers: list[int], k: int) -> StreamingMerge:
    def merge(_: int, found: Any) -> Any:
        return cluster.submit("merge_knn", nearest, found, k)

    return StreamingMerge(n_answers, merge, merge)


def near_part(pieces: list[PartRows], m: int) -> NearPart:
    """Assemble a part of m cells from its rows in every block."""
    ids = np.concatenate([ids for _, ids, _ in pieces])  # blocks come in order, and so do the cells of each
    assert len(ids) == m
    rows = np.concatenate([rows for _, _, rows in pieces])
    return NearPart(ids, rows, locality_order(rows, Scaling(rows, rows), top_k.LEAF, SEED))


def search_part(part: NearPart, k: int, settings: EngineSettings) -> tuple[FoundNeighbors, F32]:
    """Find the k nearest neighbours of each cell of a part within the part, and the distance of the k-th, (m,)."""
    m = len(part.ids)
    n_found, engine = min(k, m - 1), settings.start(threads=1)
    found = Neighbors.empty(m, n_found)
    if n_found and engine.tiles:
        top_k.search(engine.tiles, part.rows, part.rows, found, engine.workers, engine.budget.left, part.order)
        uncertain = np.flatnonzero(found.uncertain)  # cells that may have missed a nearer one
        cpu_exact_knn.search_rows(part.rows, part.rows, np.arange(m), uncertain, found, engine.workers)
    elif n_found:
        _search_without_tiles(part.rows, found, engine)
    farthest = found.distances[:, -1].copy() if n_found == k else np.full(m, np.inf, np.float32)
    row, positions, distances = np.repeat(np.arange(m), n_found), found.indices.ravel(), found.distances.ravel()
    return _found_neighbors(part.rows, part.rows, part.ids, row, positions, distances, engine), farthest


def compare_parts(
    first: NearPart, second: NearPart, k: int, first_farthest: F32, second_farthest: F32, settings: EngineSettings
) -> tuple[FoundNeighbors, FoundNeighbors]:
    """Find neighbours of the cells of each part in the other part, up to the distance of the k-th in their own part.

    `first_farthest` and `second_farthest` have these distances for the cells of each part.
    """
    engine = settings.start(threads=1)
    ids = np.concatenate([first.ids, second.ids])
    order = np.argsort(ids, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    ids, rows = ids[order], np.concatenate([first.rows, second.rows])[order]
    sides = place[: len(first.ids)], place[len(first.ids) :]
    farthest = np.concatenate([first_farthest, second_farthest])[order]
    out = Neighbors.empty(len(ids), min(k, len(ids) - 1))
    if engine.tiles is None:
        _search_without_tiles(rows, out, engine)
    else:
        _search_pair(rows, (sides[0][first.order], sides[1][second.order]), farthest, out, engine)
    in_second = np.zeros(len(ids), np.bool_)
    in_second[sides[1]] = True
    answers = []
    for number, side in enumerate(sides):
        found = out.indices[side]
        # neighbours of the own side are found where it is compared with itself
        is_near = (found >= 0) & (in_second[found] != bool(number)) & (out.distances[side] <= farthest[side][:, None])
        row = np.nonzero(is_near)[0]
        distances = out.distances[side][is_near]
        near = _found_neighbors(rows, rows, ids, side[row], found[is_near], distances, engine)
        answers.append(replace(near, row=row.astype(np.int32)))
    return answers[0], answers[1]


def _search_pair(x: F32, sides: tuple[I64, I64], farthest: F32, out: Neighbors, engine: WorkerEngine) -> None:
    """Find the neighbours of the cells of each side on the other side within `farthest`; pad rows of `out` with -1."""
    assert engine.tiles is not None
    cells, k = np.concatenate(sides), out.indices.shape[1]
    scaling = Scaling(x, x)
    store, missing = top_k.search_pair(engine.tiles, x, sides, farthest[cells], k, engine.workers, scaling)
    counts, positions = store.candidates(slice(0, len(cells)))
    ids = np.full((len(cells), max(int(counts.max()), 1)), -1, np.int32)
    ids[np.arange(ids.shape[1]) < counts[:, None]] = cells[positions]
    found = Neighbors.empty(len(cells), k)
    found.indices[:] = -1
    top_k.order_exactly(engine.tiles, x[cells], x, ids, found)
    out.indices[cells], out.distances[cells] = found.indices, found.distances
    cpu_exact_knn.search_rows(x, x, np.arange(len(x)), cells[missing], out, engine.workers)


def _search_without_tiles(x: F32, out: Neighbors, engine: WorkerEngine) -> None:
    """Search neighbours among all cells of x with NumPy, if there are no compiled functions."""
    found = ExactSearch(engine.workers, None, engine.budget.left).knn_between(x, x, out.indices.shape[1])
    out.indices[:], out.distances[:] = found.indices, found.distances


def _found_neighbors(
    queries: F32,
    x: F32,
    ids: I64,
    row: NDArray[np.integer],
    positions: NDArray[np.integer],
    distances: F32,
    engine: WorkerEngine,
) -> FoundNeighbors:
    """Return neighbours at `positions` in x, with squared distances of the same bits as those used by the engine."""
    if engine.tiles is not None:
        squared = top_k.exact_squared(engine.tiles, queries, x, row, positions)
    else:
        squared, step = np.empty(len(row)), max(1, DIFFERENCES // x.shape[1])
        for start in range(0, len(row), step):
            some = slice(start, start + step)
            squared[some] = exact_distances(queries[row[some]], x, positions[some, None].astype(np.int64))[:, 0]
    return FoundNeighbors(row.astype(np.int32), ids[positions].astype(np.int32), distances, squared)


def as_tables(found: tuple[FoundNeighbors], k: int) -> tuple[I32, F32]:
    """Return ids and distances as tables (m, k), given exactly k neighbours of each of m cells."""
    return found[0].ids.reshape(-1, k), found[0].distances.reshape(-1, k)


def part_block(found: tuple[FoundNeighbors], part: NearPart, k: int) -> KnnBlock:
    """Return the neighbours of the cells of a part as a `KnnBlock`."""
    return part.ids, *as_tables(found, k)


def knn_between(queries: ClusterMatrix, x: ClusterMatrix, k: int, settings: EngineSettings) -> Knn:
    """Find the k nearest cells of each query, on the host; see `Engine.knn_between`."""
    cluster, (m, d) = x.cluster, queries.shape
    rows = query_rows(m, x.edges[1] - x.edges[0], d, len(x.blocks), cluster.n_slots)
    spans = [(start, min(start + rows, m)) for start in range(0, m, rows)]
    n_blocks, given = len(x.blocks), queries.future
    merging = _merge_nearest(cluster, [n_blocks] * len(spans), k)
    calls = ((given, span, block, first, k, settings) for span in spans for block, first, _ in x.spans())
    parts = [(i,) for i in range(len(spans)) for _ in range(n_blocks)]
    merging.run(cluster, "knn_between", search_block, calls, parts)
    row_tables = cluster.fetch(cluster.submit_each("merge_knn", as_tables, [(one, k) for one in merging.finished]))
    indices, distances = (np.concatenate(tables) for tables in zip(*row_tables, strict=True))
    return Knn(indices, distances)


def query_rows(m: int, block_rows: int, d: int, n_blocks: int, n_slots: int) -> int:
    """Return the number of queries that a task compares with a block of cells."""
    for_balance = -(-m * n_blocks // (TASKS_PER_SLOT * n_slots))
    return min(m, max(min(int(PAIR_PRODUCTS / block_rows / d), for_balance), MIN_QUERIES))


def search_block(
    queries: F32, rows: tuple[int, int], block: F32, first: int, k: int, settings: EngineSettings
) -> tuple[FoundNeighbors]:
    """Find the k nearest cells in a block to the queries in the range `rows`; the block begins with cell `first`."""
    own, engine = np.ascontiguousarray(queries[slice(*rows)]), settings.start(threads=1)
    found = engine.knn_between(own, block, min(k, len(block)))
    row, ids = np.repeat(np.arange(len(own)), found.k), first + np.arange(len(block))
    return (_found_neighbors(own, block, ids, row, found.indices.ravel(), found.distances.ravel(), engine),)

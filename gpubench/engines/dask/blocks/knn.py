"""Exact neighbours of an embedding in blocks: cells are brought into parts of near ones, which are compared in pairs.

A tree of cuts, made from a sample of the cells, tells where each stands among the others; no worker needs all of them
for that. Then it is as where workers hold all cells (`dask_knn`): each part is compared with itself, then every two,
and few pairs of cells are near enough to be kept. Distances are exact, and of what tasks have found the nearest are
taken by (distance, id), so that the cut and the workers leave no trace in the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.types import Knn
from gpubench.engines.common.knn_search import SAMPLE, Neighbors, Scaling, locality_order, principal_direction
from gpubench.engines.cpu import exact_knn as cpu_exact_knn
from gpubench.engines.cpu import top_k
from gpubench.engines.cpu.exact_knn import ExactSearch
from gpubench.engines.cpu.kernels import DIFFERENCES, exact_distances
from gpubench.engines.dask.array import tables
from gpubench.engines.dask.blocks.rows import second
from gpubench.engines.dask.blocks.shuffle import Gathered, most_parts, shuffle
from gpubench.engines.dask.knn import MAX_PARTS, MIN_QUERIES, PAIR_PRODUCTS, TASKS_PER_SLOT, part_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.dask.array import Block, ClusterArray
    from gpubench.engines.dask.blocks.rows import BlockRows
    from gpubench.engines.dask.blocks.shuffle import Some
    from gpubench.engines.dask.cluster import Cluster
    from gpubench.engines.dask.worker import Recipe, WorkerEngine


@dataclass(frozen=True, slots=True)
class Near:
    """Neighbours of some cells, as many as were found of each.

    Attributes
    ----------
    row, ids : (found,) which cell's, ascending, and which cell it is
    distances : (found,) float32 as the engine gives them
    squared : (found,) float64, which tells apart what is equal in float32
    """

    row: NDArray[np.int32]
    ids: NDArray[np.int32]
    distances: NDArray[np.float32]
    squared: NDArray[np.float64]


def nearest(found: list[tuple[tuple[Near, ...], int]], k: int) -> tuple[Near]:
    """The k nearest of what some tasks have found for the same cells."""
    some = [of_task[side] for of_task, side in found]
    row, ids, distances, squared = (
        np.concatenate([getattr(near, name) for near in some]) for name in ("row", "ids", "distances", "squared")
    )
    order = np.lexsort((ids, squared, distances, row))
    row = row[order]
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    rank = np.arange(len(row)) - np.repeat(starts, np.diff(np.append(starts, len(row))))
    kept = order[rank < k]
    return (Near(row[rank < k], ids[kept], distances[kept], squared[kept]),)


ROWS = 8192
"""Rows that go down the tree together."""


@dataclass(frozen=True, slots=True)
class Tree:
    """Cuts across the directions in which cells vary most; node i is cut into 2 i + 1 and 2 i + 2.

    Attributes
    ----------
    directions : (nodes, d) float32
    cuts : (nodes,) float32: what is beyond goes to the second half
    depth : levels of nodes; there are 2^depth leaves
    """

    directions: NDArray[np.float32]
    cuts: NDArray[np.float32]
    depth: int

    def leaves(self, rows: NDArray[np.float32]) -> NDArray[np.int64]:
        """The leaf of each row."""
        node = np.zeros(len(rows), np.int64)
        for _ in range(self.depth):
            along = np.einsum("ij,ij->i", rows, self.directions[node])
            node = 2 * node + 1 + (along > self.cuts[node])
        leaves: NDArray[np.int64] = node - (2**self.depth - 1)
        return leaves


def tree_of(sample: NDArray[np.float32], depth: int, seed: int) -> Tree:
    """Halve a sample again and again."""
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
    return Tree(directions, cuts, depth)


def keys_of(block: NDArray[np.float32], tree: Tree) -> NDArray[np.uint16]:
    """The leaf of each row of a block."""
    keys = np.empty(len(block), np.uint16)
    for start in range(0, len(block), ROWS):
        keys[start : start + ROWS] = tree.leaves(block[start : start + ROWS])
    return keys


def counts_of(keys: NDArray[np.uint16], depth: int) -> NDArray[np.int64]:
    """Rows of each leaf."""
    return np.bincount(keys, minlength=2**depth)


def starts_of(counts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """(blocks, leaves) where the rows of a block begin in each leaf, among all cells ordered by leaf, then cell."""
    of_leaves = np.stack(counts)
    before_leaf = np.concatenate([[0], np.cumsum(of_leaves.sum(axis=0))[:-1]])
    starts: NDArray[np.int64] = before_leaf + np.cumsum(of_leaves, axis=0) - of_leaves
    return starts


def ranks_in(keys: NDArray[np.uint16], starts: NDArray[np.int64], number: int) -> NDArray[np.uint32]:
    """Where each row of a block stands among all cells."""
    order = np.argsort(keys, kind="stable")
    counts = np.bincount(keys, minlength=starts.shape[1])
    inside = np.arange(len(keys)) - np.repeat(np.cumsum(counts) - counts, counts)
    ranks = np.empty(len(keys), np.uint32)
    ranks[order] = np.repeat(starts[number], counts) + inside
    return ranks


SAMPLE_OF_KEY = 48
"""Cells of the sample for each leaf of the tree."""

MAX_KEYS = 4096

SEED = 0  # of the sample, on which no result depends


@dataclass(frozen=True, slots=True)
class NearPart:
    """Cells that are near each other.

    Attributes
    ----------
    ids : (m,) int64, ascending, so that ties are decided as among all cells
    rows : (m, d)
    order : positions in them, near ones together
    """

    ids: NDArray[np.int64]
    rows: NDArray[np.float32]
    order: NDArray[np.int64]


def near_rows(n: int, d: int, n_blocks: int, n_slots: int, part_bytes: int) -> int:
    """Cells of a part, a multiple of a block of the search."""
    at_most = part_bytes // (4 * d) // top_k.BLOCK * top_k.BLOCK
    fewest = -(-n // most_parts(n_blocks, MAX_PARTS))
    wanted = max(part_rows(n, d, n_slots), -(-fewest // top_k.BLOCK) * top_k.BLOCK)
    return max(top_k.BLOCK, min(wanted, at_most))


def exact_knn(x: BlockRows, k: int, recipe: Recipe) -> Knn:
    """Find the k nearest other cells of each cell; see `Engine.knn`."""
    cluster, (n, d) = x.cluster, x.shape
    rows = near_rows(n, d, len(x.blocks), cluster.n_slots, x.facts.part_bytes)
    edges = [(start, min(start + rows, n)) for start in range(0, n, rows)]
    parts = shuffle(cluster, x, _near_ranks(x, len(edges)), edges, near_part)
    alone = cluster.submit_each("knn", search_part, [(part, k, recipe) for part in parts])
    farthest = cluster.submit_each("farthest", second, [(one,) for one in alone])
    cluster.wait(farthest)
    pairs = list(combinations(range(len(parts)), 2))
    gathered = _gathered(cluster, [len(parts)] * len(parts), k)
    for number, future in enumerate(alone):
        gathered.add(number, future, 0)
    del alone
    calls = ((parts[i], parts[j], k, farthest[i], farthest[j], recipe) for i, j in pairs)

    def done(number: int, future: Any) -> None:
        for side, part in enumerate(pairs[number]):
            gathered.add(part, future, side)

    cluster.in_turn("knn", compare_parts, calls, len(pairs), done)
    blocks = cluster.submit_each(
        "merge_knn", block_of, [(found, part, k) for found, part in zip(gathered.found, parts, strict=True)]
    )
    cluster.wait(blocks)
    return Knn(*tables(cluster, blocks, (n, k)))


def _near_ranks(x: BlockRows, n_parts: int) -> list[Any]:
    """Futures of where the cells of each block stand among all, near ones together."""
    cluster, n = x.cluster, x.shape[0]
    depth = min(max(4 * n_parts - 1, 1).bit_length(), MAX_KEYS.bit_length() - 1)
    drawn = np.sort(np.random.default_rng(SEED).choice(n, min(n, SAMPLE_OF_KEY << depth), replace=False))
    tree = cluster.submit("tree", tree_of, x[drawn], depth, SEED)
    keys = cluster.submit_each("keys", keys_of, [(block, tree) for block in x.blocks])
    counts = cluster.submit_each("keys", counts_of, [(of_block, depth) for of_block in keys])
    starts = cluster.submit("keys", starts_of, counts)
    return cluster.submit_each("ranks", ranks_in, [(of_block, starts, i) for i, of_block in enumerate(keys)])


def _gathered(cluster: Cluster, n_answers: list[int], k: int) -> Gathered:
    def merge(_: int, found: Any) -> Any:
        return cluster.submit("merge_knn", nearest, found, k)

    return Gathered(n_answers, merge, merge)


def near_part(pieces: list[Some], m: int) -> NearPart:
    """A part from the rows that the blocks have of it."""
    ids = np.concatenate([ids for _, ids, _ in pieces])  # blocks come in order, and so do the cells of each
    assert len(ids) == m
    rows = np.concatenate([rows for _, _, rows in pieces])
    return NearPart(ids, rows, locality_order(rows, Scaling(rows, rows), top_k.LEAF, SEED))


def search_part(part: NearPart, k: int, recipe: Recipe) -> tuple[Near, NDArray[np.float32]]:
    """Neighbours of the cells of a part among themselves, and how far the k-th is."""
    m = len(part.ids)
    n_found = min(k, m - 1)
    farthest = np.full(m, np.inf, np.float32)
    engine = recipe.start(threads=1)
    if n_found == 0:
        return _near(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32), part, engine), farthest
    found = Neighbors.empty(m, n_found)
    if engine.tiles is None:
        _search_without_tiles(part.rows, found, engine)
    else:
        top_k.search(engine.tiles, part.rows, part.rows, found, engine.workers, engine.budget.left, part.order)
        _search_uncertain(part.rows, found, engine)
    if n_found == k:
        farthest = found.distances[:, -1].copy()
    row = np.repeat(np.arange(m), n_found)
    return _near(row, found.indices.ravel(), found.distances.ravel(), part, engine), farthest


def compare_parts(
    first: NearPart,
    other: NearPart,
    k: int,
    of_first: NDArray[np.float32],
    of_other: NDArray[np.float32],
    recipe: Recipe,
) -> tuple[Near, Near]:
    """Neighbours of the cells of each part among those of the other: those as near as what the own part has."""
    engine = recipe.start(threads=1)
    ids = np.concatenate([first.ids, other.ids])
    order = np.argsort(ids, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    both = NearPart(ids[order], np.concatenate([first.rows, other.rows])[order], order)
    where = place[: len(first.ids)], place[len(first.ids) :]
    farthest = np.concatenate([of_first, of_other])[order]
    out = Neighbors.empty(len(ids), min(k, len(ids) - 1))
    if engine.tiles is None:
        _search_without_tiles(both.rows, out, engine)
    else:
        _search_pair(both.rows, (where[0][first.order], where[1][other.order]), farthest, out, engine)
    is_other = np.zeros(len(ids), np.bool_)
    is_other[where[1]] = True
    answers = []
    for number, side in enumerate(where):
        found = out.indices[side]
        # those of the own side are found where it is compared with itself
        there = (found >= 0) & (is_other[found] != bool(number)) & (out.distances[side] <= farthest[side][:, None])
        row = np.nonzero(there)[0]
        near = _near(side[row], found[there], out.distances[side][there], both, engine)
        answers.append(Near(row.astype(np.int32), near.ids, near.distances, near.squared))
    return answers[0], answers[1]


def _search_pair(
    x: NDArray[np.float32],
    sides: tuple[NDArray[np.int64], NDArray[np.int64]],
    farthest: NDArray[np.float32],
    out: Neighbors,
    engine: WorkerEngine,
) -> None:
    """Find the neighbours of the cells of each side on the other; -1 where there are fewer that are near enough."""
    cells, k = np.concatenate(sides), out.indices.shape[1]
    scaling = Scaling(x, x)
    assert engine.tiles is not None
    store, missing = top_k.search_pair(engine.tiles, x, sides, farthest[cells], k, engine.workers, scaling)
    counts, positions = store.candidates(slice(0, len(cells)))
    ids = np.full((len(cells), max(int(counts.max()), 1)), -1, np.int32)
    ids[np.arange(ids.shape[1]) < counts[:, None]] = cells[positions]
    found = Neighbors.empty(len(cells), k)
    found.indices[:] = -1
    top_k.order_exactly(engine.tiles, x[cells], x, ids, found)
    out.indices[cells], out.distances[cells] = found.indices, found.distances
    cpu_exact_knn.search_rows(x, x, np.arange(len(x)), cells[missing], out, engine.workers)


def _search_without_tiles(x: NDArray[np.float32], out: Neighbors, engine: WorkerEngine) -> None:
    """Search among all cells by NumPy's products."""
    found = ExactSearch(engine.workers, None, engine.budget.left).knn_between(x, x, out.indices.shape[1])
    out.indices[:], out.distances[:] = found.indices, found.distances


def _search_uncertain(x: NDArray[np.float32], out: Neighbors, engine: WorkerEngine) -> None:
    """Search again for the cells that may have missed a nearer one."""
    cpu_exact_knn.search_rows(x, x, np.arange(len(x)), np.flatnonzero(out.uncertain), out, engine.workers)


def _near(
    row: NDArray[np.integer],
    found: NDArray[np.integer],
    distances: NDArray[np.float32],
    part: NearPart,
    engine: WorkerEngine,
) -> Near:
    """Neighbours by their positions in a part."""
    squared = _squared(part.rows, part.rows, row, found, engine)
    return Near(row.astype(np.int32), part.ids[found].astype(np.int32), distances, squared)


def _squared(
    queries: NDArray[np.float32],
    x: NDArray[np.float32],
    row: NDArray[np.integer],
    found: NDArray[np.integer],
    engine: WorkerEngine,
) -> NDArray[np.float64]:
    """Squared distances of pairs with the bits by which the engine orders them."""
    if engine.tiles is not None:
        return top_k.exact_squared(engine.tiles, queries, x, row, found)
    squared, step = np.empty(len(row)), max(1, DIFFERENCES // x.shape[1])
    for start in range(0, len(row), step):
        some = slice(start, start + step)
        squared[some] = exact_distances(queries[row[some]], x, found[some, None].astype(np.int64))[:, 0]
    return squared


def block_of(found: tuple[Near], part: NearPart, k: int) -> Block:
    """The neighbours of a part as rows of the graph."""
    m, near = len(part.ids), found[0]
    return part.ids, near.ids.reshape(m, k), near.distances.reshape(m, k)


def knn_between(queries: ClusterArray, x: BlockRows, k: int, recipe: Recipe) -> Knn:
    """Find the k nearest cells of each query; see `Engine.knn_between`."""
    cluster, (m, d) = x.cluster, queries.shape
    rows = query_rows(m, x.edges[1] - x.edges[0], d, len(x.blocks), cluster.n_slots)
    spans = [(start, min(start + rows, m)) for start in range(0, m, rows)]
    given = queries.argument
    gathered = _gathered(cluster, [len(x.blocks)] * len(spans), k)
    calls = ((given, span, block, first, k, recipe) for span in spans for block, first, _ in x.spans())
    n_blocks = len(x.blocks)
    cluster.in_turn(
        "knn_between",
        search_block,
        calls,
        len(spans) * n_blocks,
        lambda number, future: gathered.add(number // n_blocks, future, 0),
    )
    told = [(found, span, k) for found, span in zip(gathered.found, spans, strict=True)]
    blocks = cluster.submit_each("merge_knn", block_of_queries, told)
    cluster.wait(blocks)
    return Knn(*tables(cluster, blocks, (m, k)))


def query_rows(m: int, block_rows: int, d: int, n_blocks: int, n_slots: int) -> int:
    """Queries that a task compares with a block."""
    for_balance = -(-m * n_blocks // (TASKS_PER_SLOT * n_slots))
    return min(m, max(min(int(PAIR_PRODUCTS / block_rows / d), for_balance), MIN_QUERIES))


def search_block(
    queries: NDArray[np.float32],
    rows: tuple[int, int],
    block: NDArray[np.float32],
    first: int,
    k: int,
    recipe: Recipe,
) -> tuple[Near]:
    """The nearest cells of some queries in a block, which begins with cell `first`."""
    own, engine = np.ascontiguousarray(queries[slice(*rows)]), recipe.start(threads=1)
    found = engine.knn_between(own, block, min(k, len(block)))
    row, cells = np.repeat(np.arange(len(own), dtype=np.int32), found.indices.shape[1]), found.indices.ravel()
    squared = _squared(own, block, row, cells, engine)
    return (Near(row, (cells + first).astype(np.int32), found.distances.ravel(), squared),)


def block_of_queries(found: tuple[Near], span: tuple[int, int], k: int) -> Block:
    """The neighbours of some queries as rows of the graph."""
    start, stop = span
    return np.arange(start, stop), found[0].ids.reshape(-1, k), found[0].distances.reshape(-1, k)

"""What the operations of the CPU engine cost: bytes that they hold and take for a while, and seconds.

Bytes follow from the arrays that the code makes. Seconds are work times rates that are measured on the machine, see
`cpu_rates`. Both are of the order of what comes out: bytes at least that and at most about twice, seconds within a few
times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpubench.engines import cpu_leaves, cpu_leiden, planner
from gpubench.engines.cpu_forest import INTELEX, N_TREES, forest_package
from gpubench.engines.cpu_topk import STORE_SHARE, CandidateStore

if TYPE_CHECKING:
    from gpubench.engines.cpu import CpuEngine
    from gpubench.engines.cpu_rates import Rates
    from gpubench.engines.steps import Step

SUMS_SHARE = 0.25
"""Share of the memory that the sums of silhouettes may take."""

PACKAGES_BYTES = {"igraph": 70 << 20, "scikit-learn": 130 << 20, INTELEX: 100 << 20}
"""What stays in memory of packages, and of those that they import."""

FUZZY_BYTES, EDGE_BYTES, PROCESS_BYTES = 150, 300, 80 << 20
"""Of UMAP's graph for each neighbour, of igraph for each stored edge (a network, and Python's numbers beside it), and
of a process of its own."""

MUTUAL = 1.5
"""Stored edges of UMAP's graph for each neighbour: neighbours that are not mutual are stored twice."""

TREE_NODES, NODE_BYTES = 0.3, 64
"""Nodes of a tree for each training cell where labels overlap, and bytes of a node beside its shares of the classes."""

LBFGS_STEPS = 30
RANKED_VALUES = 1 << 24
VIEW_PASSES, VIEW_VALUES = 12, 1 << 22
SAMPLED_CELLS = 25_000
"""Cells that an estimate is drawn from, for the usual scatter."""

LEAVES_OVERHEAD = 2.5
"""What a pair of cells takes in a leaf, beside one in exact search: leaves are small and write their candidates."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a step takes.

    Attributes
    ----------
    how : the method, where there are several
    held_bytes : stays until the embedding is done
    scratch_bytes : is free again when the step ends
    block_bytes : the same, of blocks whose size follows from the memory that there is
    packages : what is imported for it and stays, by the name of `PACKAGES_BYTES`
    seconds : as the rates have it
    """

    how: str = ""
    held_bytes: int = 0
    scratch_bytes: int = 0
    block_bytes: int = 0
    packages: tuple[str, ...] = ()
    seconds: float = 0.0


def cost(step: Step, engine: CpuEngine, memory_bytes: int, rates: Rates) -> Cost:
    """What a step takes on this engine where `memory_bytes` are left to it."""
    return _COSTS[step.operation](_Given(step.sizes, engine, memory_bytes, rates))


@dataclass(frozen=True, slots=True)
class _Given:
    sizes: Mapping[str, Any]
    engine: CpuEngine
    memory_bytes: int
    rates: Rates

    def __getitem__(self, name: str) -> Any:
        return self.sizes[name]

    def search_s(self, pairs: float, n: int, k: int) -> float:
        """Seconds to find k neighbours of n cells by comparing so many pairs."""
        return self.rates.search_s(pairs, n, self["d"], k)


def _put(given: _Given) -> Cost:
    values, itemsize = given["n"] * given["d"], given["itemsize"]
    held = (4 * values if given["copied"] else 0) + (values * itemsize if given["mapped"] else 0)
    block = min(values * itemsize, planner.READ_BLOCK_BYTES)
    seconds = values * (itemsize + 4) / given.rates.copied_bytes_s
    return Cost(held_bytes=held, scratch_bytes=3 * block, seconds=seconds)


def _view(given: _Given) -> Cost:
    values = given["n"] * given["d"]
    seconds = VIEW_PASSES * 24 * values / given.rates.copied_bytes_s
    return Cost(scratch_bytes=28 * min(values, VIEW_VALUES), seconds=seconds)


def _knn(given: _Given) -> Cost:
    n, d, k = given["n"], given["d"], given["k"]
    method = given.engine.method(n, d)
    store = CandidateStore.bytes_a_row(k, n - 1) * n
    held = 8 * n * k + n
    if method == "exact":
        block = min(store, int(STORE_SHARE * given.memory_bytes))
        return Cost(method, held, 8 * n * d + 64 * n, block, seconds=given.search_s(n * n / 2, n, k))
    leaf = max(cpu_leaves.LEAF, cpu_leaves.LEAF_NEIGHBORS * k)
    joined = min(cpu_leaves.LEADERS, max(1, n // leaf))
    scratch = store + 4 * n * cpu_leaves.NEAR + 48 * n * joined + 8 * n * d
    inside = n * joined * leaf / 2
    with_leaders = n * (joined * n / leaf)
    near = n * cpu_leaves.NEAR**2 * 2
    seconds = given.search_s(LEAVES_OVERHEAD * (inside + near) + with_leaders, n, k)
    return Cost(method, held, scratch, seconds=seconds)


def _leiden(given: _Given) -> Cost:
    edges = given["n"] * given["k"]
    stored = int(MUTUAL * edges)
    elsewhere = PROCESS_BYTES if stored >= cpu_leiden.MANY_EDGES else 0
    scratch = max(FUZZY_BYTES * edges, 20 * stored + EDGE_BYTES * stored + elsewhere)
    growth = max(1.0, given["n"] / given.rates.graph_cells) ** 0.15  # caches hold less and less of the graph
    seconds = edges * growth / given.rates.graph_edges_s
    return Cost(held_bytes=4 * given["n"], scratch_bytes=scratch, packages=("igraph",), seconds=seconds)


def _look_up(given: _Given) -> Cost:
    n = given["n"]
    return Cost(held_bytes=4 * n, scratch_bytes=16 * n, seconds=n * given["k"] / given.rates.looked_up_s)


def _estimate(given: _Given) -> Cost:
    n, d, k = (given[name] for name in ("n", "d", "k"))
    drawn = min(n, SAMPLED_CELLS)
    scratch = 4 * n * (d + 3) + drawn * (CandidateStore.bytes_a_row(k, n) + 8 * k + 4 * d)
    return Cost("estimated", 4 * n, scratch, seconds=given.rates.between_s(float(drawn * n), d))


def _silhouette(given: _Given) -> Cost:
    n, d, pairs = given["n"], given["d"], given["pairs"]
    scratch = 8 * n * d + 80 * n
    if pairs * d > given.engine.exact_products:
        drawn = min(n, SAMPLED_CELLS)
        return Cost("estimated", 4 * n, scratch, seconds=2 * given.rates.silhouette_s(drawn * pairs / n, d))
    block = min(16 * given["sums"], int(SUMS_SHARE * given.memory_bytes))
    return Cost("exact", 12 * n, scratch, block, seconds=given.rates.silhouette_s(pairs / 2, d))


def _fold_bytes(given: _Given) -> int:
    """Of a fold: its cells, the scaling in float64, probabilities, and their ranks."""
    n, d, classes, folds = (int(given[name]) for name in ("n", "d", "classes", "folds"))
    test = -(-n // folds)
    scaling = min(24 * n * d, 96 << 20)
    ranked = max(test, min(test * classes, RANKED_VALUES))
    return 8 * n * d + scaling + 16 * test * classes + 40 * ranked + 16 * n


def _lr(given: _Given) -> Cost:
    n, folds = given["n"], given["folds"]
    flop = 4.0 * n * (folds - 1) * given["d"] * given["classes"] * LBFGS_STEPS
    seconds = flop / given.rates.logistic_flop_s
    return Cost("", 4 * n, _fold_bytes(given), packages=("scikit-learn",), seconds=seconds)


def _knn_votes(given: _Given) -> Cost:
    n, d, folds = given["n"], given["d"], given["folds"]
    test = -(-n // folds)
    store = min(CandidateStore.bytes_a_row(5, n) * test, int(STORE_SHARE * given.memory_bytes))
    seconds = folds * given.rates.between_s(float(n - test) * test, d)
    return Cost("exact", 4 * n, _fold_bytes(given) + 4 * n * d, store, seconds=seconds)


def _rf(given: _Given) -> Cost:
    n, d, folds = given["n"], given["d"], given["folds"]
    train = n - -(-n // folds)
    used = given.engine.most_training_cells("rf", train)
    package = forest_package(used)
    trees = int(N_TREES * TREE_NODES * used) * (NODE_BYTES + 8 * given["classes"])
    seconds = folds * N_TREES * used * math.log2(max(used, 2)) / given.rates.split_cells_s
    scratch = _fold_bytes(given) + trees + 8 * used * d
    return Cost(package, 4 * n, scratch, packages=("scikit-learn", package), seconds=seconds)


_COSTS: dict[str, Callable[[_Given], Cost]] = {
    "put": _put,
    "view": _view,
    "knn": _knn,
    "leiden": _leiden,
    "look_up": _look_up,
    "estimate": _estimate,
    "silhouette_widths": _silhouette,
    "lr": _lr,
    "knn_votes": _knn_votes,
    "rf": _rf,
}

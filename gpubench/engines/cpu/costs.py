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

from gpubench.core.machine import cpu_model
from gpubench.engines import planner
from gpubench.engines.common.knn_classifier import N_VOTES, graph_neighbors
from gpubench.engines.cpu import exact_knn, kernels, leaves, leiden
from gpubench.engines.cpu.classifiers import INTELEX, N_TREES, forest_package
from gpubench.engines.cpu.top_k import STORE_SHARE, CandidateStore

if TYPE_CHECKING:
    from gpubench.engines.base import ClassifierKind
    from gpubench.engines.cpu.engine import CpuEngine
    from gpubench.engines.cpu.rates import Rates
    from gpubench.engines.steps import Step

SUMS_SHARE = 0.25
"""Share of the memory that the sums of silhouettes may take."""

PACKAGES_BYTES = {"igraph": 70 << 20, "scikit-learn": 130 << 20, INTELEX: 100 << 20}
"""What stays in memory of packages, and of those that they import."""

SCIPY_BYTES = 150
"""Of UMAP's graph for each neighbour, where it is not joined by compiled tiles."""

EDGE_BYTES = {"igraph": 130, "networkit": 102}
PROCESS_BYTES = {"igraph": 80 << 20, "networkit": 240 << 20}
"""Of each package that finds communities for an edge, and for a process of its own."""

MUTUAL = 1.5
"""Stored edges of UMAP's graph for each neighbour: neighbours that are not mutual are stored twice."""

TREE_NODES, NODE_BYTES = 0.3, 64
"""Nodes of a tree for each training cell where labels overlap, and bytes of a node beside its shares of the classes."""

LBFGS_STEPS = 30
VIEW_PASSES = 12
SAMPLED_CELLS = 25_000
"""Cells that an estimate is drawn from, for the usual scatter."""

LEAVES_OVERHEAD = 1.2
"""What a pair of cells takes in a leaf, beside one in exact search: leaves are small and write their candidates."""

ONE_SET = 200_000
"""Cells up to which one set of leaders is enough; of `MORE_CELLS` times as many it takes one more, and so on."""

MORE_CELLS = 5

RANKED_LOOK_UPS = 15
"""Neighbours whose value is looked up in the time in which a probability is ranked."""

INTELEX_SPEED = 5
"""How many times as fast as scikit-learn, by which the rate is measured, forests of scikit-learn-intelex are."""


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


@dataclass(frozen=True, slots=True)
class CpuCostModel:
    """See `CostModel`."""

    engine: CpuEngine
    n_workers: int = 0
    beside: str = "beyond the data"

    @property
    def memory_bytes(self) -> int:
        """See `CostModel`."""
        return self.engine.memory_bytes

    @property
    def machine(self) -> tuple[str, str]:
        """See `CostModel`."""
        return cpu_model(), self.engine.device

    def cost(self, step: Step, memory_bytes: int, rates: Rates) -> Cost:
        """See `CostModel`."""
        return cost(step, self.engine, memory_bytes, rates)

    def option(self, needs: int) -> str:  # noqa: ARG002 - of a cluster
        """See `CostModel`."""
        return "raise `memory`"

    def measure_rates(self) -> Rates:
        """See `CostModel`."""
        from gpubench.engines.cpu.rates import measure_rates

        return measure_rates(self.engine)


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


def _put(given: _Given) -> Cost:
    values, itemsize = given["n"] * given["d"], given["itemsize"]
    held = 4 * values if given["copied"] else 0
    block = min(values * itemsize, planner.READ_BLOCK_BYTES)
    seconds = values * (itemsize + 4) / given.rates.copied_bytes_s
    return Cost(held_bytes=held, scratch_bytes=3 * block, seconds=seconds)


def _view(given: _Given) -> Cost:
    values = given["n"] * given["d"]
    seconds = VIEW_PASSES * 24 * values / given.rates.copied_bytes_s
    return Cost(scratch_bytes=28 * min(values, planner.PIECE_VALUES), seconds=seconds)


def _knn(given: _Given) -> Cost:
    n, d, k = given["n"], given["d"], given["k"]
    method = given.engine.policy.knn_method_for(n, d)
    store = CandidateStore.bytes_per_row(k, n - 1) * n
    held = 8 * n * k + n
    if method == "exact":
        block = min(store, int(STORE_SHARE * given.memory_bytes))
        seconds = given.rates.search_s(n * n / 2, n, d, k)
        return Cost(method, held, _exact_bytes(given, n, d, k), block, seconds=seconds)
    scratch, block, seconds = _leaves(given, n, d, k)
    return Cost(method, held, scratch, block, seconds=seconds)


def _exact_bytes(given: _Given, n: int, d: int, k: int) -> int:
    """Of an exact search among n cells: the other side of the tiles; with those of NumPy what each thread holds."""
    if given.engine.tiles_of_numpy:
        rows, columns = exact_knn.BLOCK_ROWS, exact_knn.BLOCK_COLUMNS
        a_thread = 12 * rows * columns + 60 * rows * max(2 * k, kernels.MIN_BUFFER) + 20 * kernels.DIFFERENCES
        return 8 * n * (d + 2) + 64 * n + given.engine.n_threads * a_thread
    return 8 * n * d + 64 * n


def _leaves(given: _Given, n: int, d: int, k: int) -> tuple[int, int, float]:
    """Scratch and blocks in bytes, and seconds, of a search in leaves, or one like it."""
    leaf = max(leaves.LEAF, leaves.LEAF_NEIGHBORS * k)
    joined = min(leaves.LEADERS, max(1, n // leaf))
    leaders = max(1, joined * n // leaf)
    principal = int(4 * leaves.SEEN_DIMS * d * n)
    sampled = principal + 4 * n * d + 12 * n
    searched = principal + CandidateStore.bytes_per_row(k, n - 1) * n + 8 * n * joined + 8 * n
    sorted_or_near = max(16 * n * joined, 4 * n * leaves.NEAR)
    with_leaders = CandidateStore.bytes_per_row(joined, leaders) * n
    block = max(0, min(with_leaders, int(STORE_SHARE * given.memory_bytes)) - sorted_or_near)
    n_sets = min(leaves.MAX_SETS, max(1.0, 1 + math.log(n / ONE_SET, MORE_CELLS)))
    pivots = math.isqrt(leaders)
    compared = leaders if leaders <= leaves.FEW_LEADERS else pivots + leaves.NEAR_PIVOTS * leaders // pivots
    inside = given.rates.search_s(LEAVES_OVERHEAD * n * joined * leaf / 2, n, d, k)
    seconds = n_sets * (inside + given.rates.queries_s(n, compared, d))
    return max(sampled, searched + sorted_or_near), block, seconds


def _leiden(given: _Given) -> Cost:
    n, neighbors = given["n"], given["n"] * given["k"]
    stored = int(MUTUAL * neighbors)
    package = leiden.package_for(n)
    edges = stored if n <= leiden.BOTH_DIRECTIONS_UP_TO else stored // 2
    found = EDGE_BYTES[package] * edges
    beside = stored >= leiden.MANY_EDGES  # in a process of its own, which forgets the graph once it has the edges
    joined = SCIPY_BYTES * neighbors if given.engine.tiles_of_numpy else 12 * (neighbors + stored) + 24 * n
    scratch = max(joined, found + PROCESS_BYTES[package] if beside else 12 * stored + found)
    growth = max(1.0, n / given.rates.graph_cells) ** 0.15  # caches hold less and less of the graph
    seconds = neighbors * growth / given.rates.graph_edges_s
    return Cost(package, 4 * n, scratch, packages=("igraph",), seconds=seconds)


def _look_up(given: _Given) -> Cost:
    n = given["n"]
    return Cost(held_bytes=4 * n, scratch_bytes=16 * n, seconds=n * given["k"] / given.rates.looked_up_s)


def _estimate(given: _Given) -> Cost:
    n, d, k = (given[name] for name in ("n", "d", "k"))
    drawn = min(n, SAMPLED_CELLS)
    scratch = 4 * n * (d + 3) + drawn * (CandidateStore.bytes_per_row(k, n) + 8 * k + 4 * d)
    return Cost("estimated", 4 * n, scratch, seconds=given.rates.queries_s(drawn, n, d))


def _silhouette(given: _Given) -> Cost:
    n, d, pairs = given["n"], given["d"], given["pairs"]
    scratch = 8 * n * d + 80 * n
    if pairs * d > given.engine.policy.max_exact_pair_dims:
        drawn = min(n, SAMPLED_CELLS)
        return Cost("estimated", 4 * n, scratch, seconds=2 * given.rates.silhouette_s(drawn * pairs / n, d))
    block = min(16 * given["sums"], int(SUMS_SHARE * given.memory_bytes))
    return Cost("exact", 12 * n, scratch, block, seconds=given.rates.silhouette_s(pairs / 2, d))


@dataclass(frozen=True, slots=True)
class _Fold:
    """One fold of n cells.

    Attributes
    ----------
    train, test, used : cells to train on, to test, and those that are trained on
    held_bytes : the rows, folds and answers of all cells
    scratch_bytes : cells to train on and to test, positions, the scaling in float64, probabilities and their ranks
    scored_s : seconds until the answers of all folds are scored
    """

    train: int
    test: int
    used: int
    held_bytes: int
    scratch_bytes: int
    scored_s: float

    @classmethod
    def of(cls, given: _Given, kind: ClassifierKind) -> _Fold:
        n, d, classes, folds = (int(given[name]) for name in ("n", "d", "classes", "folds"))
        test = -(-n // folds)
        train = n - test
        used = given.engine.policy.max_training_cells(kind, train)
        cells = 4 * used * d + 24 * train + (40 * train if used < train else 0) + 8 * test * d
        scaling = 24 * min(used * d, planner.SCALED_VALUES)
        ranked = max(test, min(test * classes, planner.RANKED_VALUES))
        answered = 12 * test * classes + 16 * ranked + 40 * given.engine.n_threads * test
        scored_s = RANKED_LOOK_UPS * n * classes / given.rates.looked_up_s
        return cls(train, test, used, 20 * n, cells + max(scaling, answered), scored_s)


def _lr(given: _Given) -> Cost:
    fold = _Fold.of(given, "lr")
    flop = 4.0 * given["folds"] * fold.used * given["d"] * given["classes"] * LBFGS_STEPS
    seconds = flop / given.rates.logistic_flop_s + fold.scored_s
    return Cost("", fold.held_bytes, fold.scratch_bytes, packages=("scikit-learn",), seconds=seconds)


def _knn_votes(given: _Given) -> Cost:
    fold, n, d, folds = _Fold.of(given, "knn"), given["n"], given["d"], given["folds"]
    k = graph_neighbors(folds)
    method = given.engine.policy.knn_method_for(n, d, k)
    packages = ("scikit-learn",)
    if method == "exact":
        store = min(CandidateStore.bytes_per_row(N_VOTES, n) * fold.test, int(STORE_SHARE * given.memory_bytes))
        scratch = fold.scratch_bytes + _exact_bytes(given, fold.train, d, N_VOTES) // 2
        seconds = folds * given.rates.queries_s(fold.test, fold.train, d)
        return Cost(method, fold.held_bytes, scratch, store, packages, seconds)
    search, block, seconds = _leaves(given, n, d, k)
    scratch = max(fold.scratch_bytes, 4 * n * d + 8 * n * k + search)
    return Cost(method, fold.held_bytes + 4 * n * N_VOTES, scratch, block, packages, seconds)


def _rf(given: _Given) -> Cost:
    fold = _Fold.of(given, "rf")
    package = forest_package(fold.used)
    trees = int(N_TREES * TREE_NODES * fold.used) * (NODE_BYTES + 8 * given["classes"])
    speed = given.rates.split_cells_s * (INTELEX_SPEED if package == INTELEX else 1)
    seconds = given["folds"] * N_TREES * fold.used * math.log2(max(fold.used, 2)) / speed + fold.scored_s
    scratch = fold.scratch_bytes + trees + 8 * fold.used * given["d"]
    return Cost(package, fold.held_bytes, scratch, packages=("scikit-learn", package), seconds=seconds)


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

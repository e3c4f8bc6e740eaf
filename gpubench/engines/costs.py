"""Costs of operations: expected time and memory, for plans and for refusing runs that cannot fit.

Work is counted by the functions with which operations report their work to the timeline, so plans and profiles agree; a
plan multiplies it by measured rates. Bytes follow from the arrays that an operation allocates: a prediction is at least
the memory that a run uses, and at most about twice that. Predicted seconds are right within a small factor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from gpubench.core import machine
from gpubench.core.timeline import Work
from gpubench.engines import planner
from gpubench.engines.common import flop_counts
from gpubench.engines.common.knn_classifier import N_VOTES, graph_neighbors
from gpubench.engines.cpu import exact_knn, kernels, leaves, leiden, rank_sums
from gpubench.engines.cpu.compiled import TREE_NODE
from gpubench.engines.cpu.forest import BINNED_FEATURES, N_TREES, SKLEARN, forest_package
from gpubench.engines.cpu.rates import CELLS, measure_rates, tree_levels
from gpubench.engines.cpu.top_k import CandidateStore

if TYPE_CHECKING:
    from gpubench.core.types import Labels
    from gpubench.engines.base import ClassifierKind

PACKAGES_BYTES = {"igraph": 70 << 20, "scikit-learn": 130 << 20}
"""Memory of imported packages, including what they import."""

SCIPY_BYTES = 150
"""Bytes per neighbour that building UMAP's graph with SciPy takes, without compiled functions."""

EDGE_BYTES = {"igraph": 130, "networkit": 102}
PROCESS_BYTES = {"igraph": 80 << 20, "networkit": 240 << 20}
"""Bytes per edge, and of the child process, of the packages for Leiden communities."""

MUTUAL = 1.5
"""Stored edges of UMAP's graph per neighbour: edges between neighbours that are not mutual are stored twice."""

GRAPH_GROWTH = 0.15
"""Exponent of the time per edge: caches hold less and less of a growing graph."""

TREE_NODES, SKLEARN_NODE_BYTES = 0.3, 64
"""Nodes of a tree per training cell if labels overlap, and bytes of one of scikit-learn besides its class shares."""

BINNING_BYTES = 8 * (BINNED_FEATURES + 1)
"""Bytes per cell of the values that a thread sorts to put them into bins."""

LBFGS_STEPS = 30
VIEW_PASSES = 12
SAMPLED_CELLS = 25_000
"""Number of cells in the sample of an estimate, for scores of the usual variance."""

LEAVES_OVERHEAD = 1.2
"""Time of a pair of cells in a leaf, relative to exact search: leaves are small and write their candidates."""

ONE_SET, MORE_CELLS = 200_000, 5
"""Cells up to which one set of leaders suffices; each further set suffices for `MORE_CELLS` times as many."""

RANKED_LOOK_UPS = 15
"""Look-ups of a neighbour's value that take as long as ranking a probability."""


Rates: TypeAlias = Mapping[str, Sequence[float]]
"""Measured seconds per operation, per byte and per item (see `Work`), by kind of work."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Expected work, time and memory of an operation.

    Attributes
    ----------
    how : name of the method, if there are several
    work : amounts of work by kind, the keys of `Rates`
    held_bytes : memory in use until the embedding is released
    scratch_bytes : memory in use until the operation ends
    block_bytes : memory of blocks until the operation ends; blocks shrink to `BLOCK_SHARE` of the available memory
    packages : packages that are imported for the operation and stay in memory
    remedy : advice to the user on how to make the operation smaller
    speedup : number of workers that share the work
    overhead_s : seconds in addition to those of the work
    least_s : lower limit of the seconds of the work
    """

    how: str = ""
    work: Mapping[str, Work] = field(default_factory=dict)
    held_bytes: int = 0
    scratch_bytes: int = 0
    block_bytes: int = 0
    packages: tuple[str, ...] = ()
    remedy: str = "use fewer cells"
    speedup: float = 1.0
    overhead_s: float = 0.0
    least_s: float = 0.0

    def seconds(self, rates: Rates) -> float:
        """Return the expected duration in seconds, given measured seconds per unit of work."""
        alone = sum(
            amount * rate for kind, work in self.work.items() for amount, rate in zip(work, rates[kind], strict=True)
        )
        return self.overhead_s + max(alone / self.speedup, self.least_s)

    def used_bytes(self, memory_bytes: int) -> int:
        """Return the peak memory of the operation in bytes, if `memory_bytes` are available."""
        blocks = min(self.block_bytes, int(planner.BLOCK_SHARE * memory_bytes))
        return self.held_bytes + self.scratch_bytes + blocks


@dataclass(frozen=True, slots=True)
class Sizes:
    """Numbers of cells, dimensions, groups and clusters, from which costs are computed.

    Attributes
    ----------
    n, d : numbers of cells and dimensions
    columns : labels of the cells by role, such as "label" or "batch"
    """

    n: int
    d: int
    columns: Mapping[str, Labels] = field(default_factory=dict)

    def clusters(self, role: str, within: str | None = None) -> list[tuple[int, int]]:
        """Count the cells of each group, and the distinct values of the column `role` among them.

        Groups are the values of the column `within`. If None, all cells are one group.
        """
        column = self.columns[role]
        if within is None:
            return [(self.n, column.n_classes)]
        groups = self.columns[within].codes
        pairs = np.unique(groups.astype(np.int64) * column.n_classes + column.codes)
        return list(zip(np.bincount(groups).tolist(), np.bincount(pairs // column.n_classes).tolist(), strict=True))


@dataclass(frozen=True)
class CostModel:
    """Predict the cost of each operation of the CPU engine from the numbers of cells, dimensions and neighbours.

    Attributes
    ----------
    engine : `CpuEngine` whose policy chooses the methods
    n_workers : number of workers of a cluster; 0 without a cluster
    """

    engine: Any
    n_workers: int = 0

    @property
    def budget_bytes(self) -> int:
        """Memory that a run may use beyond its input; on a cluster, the memory of one worker, input included."""
        return int(self.engine.memory_bytes)

    @property
    def machine(self) -> tuple[str, ...]:
        """CPU model and device of the engine; measured rates are stored under this key."""
        return machine.cpu_model(), self.engine.device

    def option(self, needed_bytes: int) -> str:  # noqa: ARG002 - on a cluster it depends on that
        """Return advice on which option to change so that `needed_bytes` fit."""
        return "raise `memory`"

    def measure_rates(self) -> Rates:
        """Measure the rates by running each operation on few cells, which takes about two seconds."""
        return measure_rates(self.engine)

    def put(self, n: int, d: int, itemsize: int, *, copied: bool) -> Cost:
        """Return the time and memory of putting an embedding (n, d) on the engine.

        `itemsize` is the number of bytes of a value as given, `copied` whether the engine has to copy the embedding.
        """
        block = min(n * d * itemsize, planner.READ_BLOCK_BYTES)
        work = flop_counts.put(n, d, itemsize, copied=copied)
        return Cost("", {"copy": work}, 4 * n * d if copied else 0, 3 * block)

    def view(self, n: int, d: int) -> Cost:
        """Return the cost of computing the two principal components for the scatter plot."""
        return Cost("", {"copy": Work(0, VIEW_PASSES * 24 * n * d)}, 0, 28 * min(n * d, planner.PIECE_VALUES))

    def knn(self, n: int, d: int, k: int) -> Cost:
        """Return the cost of the shared graph of the k nearest neighbours."""
        policy = self.engine.policy
        method = policy.knn_method_for(n, d)
        if method == "exact" or (method == "faiss" and policy.compares_all(n, d)):
            work = flop_counts.search(n, n, d, k, symmetric=True)
            found = Cost(
                method, {"search": work}, 0, self._exact_bytes(n, d, k), CandidateStore.bytes_per_row(k, n - 1) * n
            )
        else:
            found = replace(self._leaves(n, d, k), how=method)
        return replace(found, held_bytes=8 * n * k + n, remedy="ask for fewer neighbours")

    def _exact_bytes(self, n: int, d: int, k: int) -> int:
        """Return the memory of both operands of the distance tiles, and of the threads' buffers if NumPy is used."""
        if self.engine.tiles is not None:
            return 8 * n * d + 64 * n
        rows, columns = exact_knn.BLOCK_ROWS, exact_knn.BLOCK_COLUMNS
        per_thread = 12 * rows * columns + 60 * rows * max(2 * k, kernels.MIN_BUFFER) + 20 * kernels.DIFFERENCES
        return 8 * n * (d + 2) + 64 * n + int(self.engine.n_threads) * per_thread

    def _leaves(self, n: int, d: int, k: int) -> Cost:
        """Return the cost of the search "leaves", also used as an estimate for the other approximate methods."""
        tuning = self.engine.tuning
        leaf, joined = leaves.leaf_sizes(n, k, tuning)
        leaders = max(1, joined * n // leaf)
        n_sets = min(tuning.max_leaf_sets, max(1.0, 1 + math.log(n / ONE_SET, MORE_CELLS)))
        pivots = math.isqrt(leaders)
        compared = leaders
        if leaders > tuning.max_compared_leaders:
            compared = pivots + tuning.near_pivots * leaders // pivots
        pairs = LEAVES_OVERHEAD * n_sets * n * joined * leaf / 2
        work = Work(2 * pairs * d, n_sets * (4 * n * d + 8 * n * k), pairs)
        to_leaders = flop_counts.search(int(n_sets * n), compared, d, joined, symmetric=False)
        principal = int(4 * leaves.MAX_COMPONENTS * d * n)
        searched = principal + CandidateStore.bytes_per_row(k, n - 1) * n + 8 * n * joined + 8 * n
        sorted_or_near = max(16 * n * joined, 4 * n * leaves.MAX_NEAR)
        blocks = max(0, CandidateStore.bytes_per_row(joined, leaders) * n - sorted_or_near)
        scratch = max(principal + 4 * n * d + 12 * n, searched + sorted_or_near)
        return Cost("", {"search": work, "queries": to_leaders}, 0, scratch, blocks)

    def leiden(self, n: int, k: int) -> Cost:
        """Return the cost of building UMAP's graph of k neighbours and of finding its Leiden communities."""
        neighbors, stored = n * k, int(MUTUAL * n * k)
        package = leiden.package_for(n, self.engine.tuning)
        edges = EDGE_BYTES[package] * (stored if n <= self.engine.tuning.max_bidirectional_cells else stored // 2)
        joined = SCIPY_BYTES * neighbors if self.engine.tiles is None else 12 * (neighbors + stored) + 24 * n
        in_child = stored >= self.engine.tuning.min_process_edges  # which takes the graph over
        scratch = max(joined, edges + PROCESS_BYTES[package] if in_child else 12 * stored + edges)
        work = Work(0, 0, neighbors * max(1.0, n / CELLS) ** GRAPH_GROWTH)
        remedy = "lower n_cluster_neighbors, or leave out clustering"
        return Cost(package, {"leiden": work}, 4 * n, scratch, packages=("igraph",), remedy=remedy)

    def look_up(self, n: int, k: int) -> Cost:
        """Return the cost of a metric that averages a value of each of the k neighbours of every cell."""
        return Cost("", {"look_up": flop_counts.look_up((n, k), 4)}, 4 * n, 16 * n)

    def rank_sums(self, n: int, n_genes: int, n_stored: int, n_groups: int) -> Cost:
        """Return the cost of `Engine.rank_sums` for groups of n cells; `n_stored` is the count of stored values."""
        scratch = 28 * n + self.engine.n_threads * (16 * n + 4 * rank_sums.BLOCK_BYTES)
        if self.engine.tiles is None:
            scratch = 30 * n + 16 * n_stored  # stored by gene
        work = flop_counts.rank_sums(n_stored, 4, n_groups, n_genes)
        return Cost("", {"rank_sums": work}, 16 * n_groups * n_genes, scratch, remedy="use fewer genes")

    def neighborhoods(self, n: int, d: int, k: int) -> Cost:
        """Return the cost of metrics of the k nearest neighbours of n cells of d dimensions.

        If the engine estimates them from a sample of the cells, it is the cost of searching the neighbours of that
        sample; if not, that of reading a neighbour graph, see `look_up`.
        """
        if not self.engine.policy.samples_neighborhoods(n, d):
            return self.look_up(n, k)
        drawn = min(n, SAMPLED_CELLS)
        scratch = 4 * n * (d + 3) + drawn * (CandidateStore.bytes_per_row(k, n) + 8 * k + 4 * d)
        work = flop_counts.search(drawn, n, d, k, symmetric=False)
        return Cost("estimated", {"queries": work}, 4 * n, scratch, remedy="lower n_neighbors")

    def silhouette(self, sizes: Sizes, role: str, within: str | None = None) -> Cost:
        """Return the cost of silhouette widths of the clusters in column `role`, within the groups of column `within`.

        If `within` is None, all cells are one group.
        """
        n, d, groups = sizes.n, sizes.d, sizes.clusters(role, within)
        scratch = 8 * n * d + 80 * n
        if sum(float(size) ** 2 for size, _ in groups) * d > self.engine.policy.max_exact_pair_dims:
            drawn = min(1.0, SAMPLED_CELLS / n)
            work = flop_counts.sampled([(2 * drawn * size, size) for size, _ in groups], n, d)
            return Cost("estimated", {"silhouette": work}, 4 * n, scratch)
        blocks = 16 * max(size * n_clusters for size, n_clusters in groups)  # sums of a group are held together
        return Cost("exact", {"silhouette": flop_counts.silhouettes(groups, d)}, 12 * n, scratch, blocks)

    def classifier(self, kind: ClassifierKind, n: int, d: int, n_folds: int, n_classes: int) -> Cost:
        """Return the cost of cross-validating a classifier of this kind on n cells."""
        test = -(-n // n_folds)
        train = n - test
        used = self.engine.policy.max_training_cells(kind, train)
        cells = 4 * used * d + 24 * train + (40 * train if used < train else 0) + 8 * test * d
        scaling = 24 * min(used * d, planner.SCALED_VALUES)
        ranked = 16 * max(test, min(test * n_classes, planner.RANKED_VALUES))
        scores = 12 * test * n_classes + ranked + 40 * self.engine.n_threads * test
        fold = Cost(
            held_bytes=20 * n,  # rows, folds and predictions of all cells
            scratch_bytes=cells + max(scaling, scores),
            packages=("scikit-learn",),
            remedy=f"choose classifiers without {kind}",
        )
        ranks = {"look_up": Work(0, 0, RANKED_LOOK_UPS * n * n_classes)}
        if kind == "lr":
            work = flop_counts.gradients(used, d, n_classes, n_folds * LBFGS_STEPS)
            return replace(fold, work={"lr": work, **ranks})
        if kind == "knn":
            return self._knn_classifier(fold, n, d, n_folds)
        package = forest_package(is_compiled=self.engine.tiles is not None)
        nodes = int(N_TREES * TREE_NODES * used)
        if package == SKLEARN:
            grown = nodes * (SKLEARN_NODE_BYTES + 8 * n_classes) + 8 * used * d
        else:
            grown = 2 * used * d + max(2 * TREE_NODE.itemsize * nodes, BINNING_BYTES * self.engine.n_threads * used)
        return replace(
            fold,
            how=package,
            work={"rf": Work(0, 0, n_folds * tree_levels(N_TREES, used)), **ranks},
            scratch_bytes=fold.scratch_bytes + grown,
        )

    def _knn_classifier(self, fold: Cost, n: int, d: int, n_folds: int) -> Cost:
        """Return the cost of a k-NN classifier, which searches once for all folds if the search is approximate."""
        k, test = graph_neighbors(n_folds), -(-n // n_folds)
        method = self.engine.policy.knn_method_for(n, d, k)
        if method == "exact":
            return replace(
                fold,
                how=method,
                work={"queries": flop_counts.search(n, n - test, d, N_VOTES, symmetric=False)},
                scratch_bytes=fold.scratch_bytes + self._exact_bytes(n - test, d, N_VOTES) // 2,
                block_bytes=CandidateStore.bytes_per_row(N_VOTES, n) * test,
            )
        graph = self._leaves(n, d, k)
        return replace(
            fold,
            how=method,
            work=graph.work,
            held_bytes=fold.held_bytes + 4 * n * N_VOTES,
            scratch_bytes=max(fold.scratch_bytes, 4 * n * d + 8 * n * k + graph.scratch_bytes),
            block_bytes=graph.block_bytes,
        )

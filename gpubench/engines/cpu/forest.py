"""Random forests of the CPU engine: features are binned into at most 256 bins, trees grow in `native/forest.cpp`.

A tree grows as scikit-learn's do by default, on a bootstrap sample, with the square root of the features at each split
and the gini impurity, until its leaves are pure; only the thresholds that it tries lie between bins, not between any
two values. Its random numbers follow from the seed and its number alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import EngineUnavailable
from gpubench.core.timeline import Timeline
from gpubench.engines.cpu import compiled
from gpubench.engines.cpu.threads import WorkerThreads
from gpubench.engines.cpu.tuning import DEFAULT, CpuTuning

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from gpubench.core.types import F32, F64, I32, I64
    from gpubench.engines.cpu.compiled import Tiles

OURS, SKLEARN = "gpubench", "scikit-learn"
SKLEARN_MODULE = "sklearn.ensemble"

MAX_FOREST_CELLS = {OURS: 300_000, SKLEARN: 100_000}
"""Largest number of training cells by package, unless the engine is exact; takes about a minute on a few cores."""

N_BINS = 256
NOTES = {OURS: f"random forest of {OURS} ({N_BINS} bins)", SKLEARN: f"random forest of {SKLEARN}"}

N_TREES = 100
"""Default number of trees, as in scikit-learn."""

BINNED_FEATURES = 16
"""Number of features that a thread bins at a time, the float32 values of a cache line."""


def forest_package(*, is_compiled: bool) -> str:
    """Return the name of the package that grows forests: gpubench, or scikit-learn without compiled functions."""
    return OURS if is_compiled else SKLEARN


@dataclass(frozen=True, slots=True)
class BinnedCells:
    """Cells whose features are divided into bins.

    Equal values share a bin. A feature with up to 256 distinct values has one bin for each. Otherwise there are 256
    bins: the lowest share u of the values is in the first share u / 2 + (sqrt(u) + 1 - sqrt(1 - u)) / 4 of the bins, so
    that bins at both ends, where a rare class may be, have fewer values.

    Attributes
    ----------
    columns : (d, n) uint8, bin of each value, by feature
    rows : (n, d) uint8, transpose of `columns`
    lows, highs : (d, 256) float32, smallest and largest value in each bin; undefined for unused bins
    n_bins : (d,) int32, number of bins of each feature
    """

    columns: NDArray[np.uint8]
    rows: NDArray[np.uint8]
    lows: F32
    highs: F32
    n_bins: I32


def bin_cells(x: F32, tiles: Tiles, workers: WorkerThreads) -> BinnedCells:
    """Divide the features of C-contiguous cells x (n, d) into bins."""
    n, d = x.shape
    columns, rows = np.empty((d, n), np.uint8), np.empty((n, d), np.uint8)
    lows, highs = np.zeros((d, N_BINS), np.float32), np.zeros((d, N_BINS), np.float32)
    n_bins = np.empty(d, np.int32)

    def assign(first: int) -> None:
        last = min(first + BINNED_FEATURES, d)
        tiles.forest_bins(x, n, d, first, last, columns, lows, highs, n_bins)

    def transpose(start: int) -> None:
        tiles.forest_rows(columns, n, d, start, min(start + workers.tuning.rows_per_task, n), rows)

    workers.run(range(0, d, BINNED_FEATURES), lambda: assign)
    workers.run(range(0, n, workers.tuning.rows_per_task), lambda: transpose)
    return BinnedCells(columns, rows, lows, highs, n_bins)


@dataclass(frozen=True, slots=True)
class Trees:
    """Trees of a forest in arrays that hold one tree after another.

    Attributes
    ----------
    nodes : (m,) `compiled.TREE_NODE`; leaves have the feature -1
    node_starts : (n_trees,) index in `nodes` of the root of each tree
    shares : (s,) int32, classes and weights of the leaves with cells of several classes
    share_starts : (n_trees,) index in `shares` of the first entry of each tree
    """

    nodes: NDArray[Any]
    node_starts: I64
    shares: I32
    share_starts: I64

    def predict_proba(self, x: F32, n_classes: int, tiles: Tiles, workers: WorkerThreads) -> F64:
        """Average over the trees the class shares of the leaves in which the cells x (m, d) end; (m, n_classes)."""
        m, d = x.shape
        proba = np.zeros((m, n_classes))
        n_trees, step = len(self.node_starts), workers.tuning.rows_per_task // 8

        def predict(start: int) -> None:
            stop = min(start + step, m)
            trees = self.nodes, self.node_starts, self.shares, self.share_starts, n_trees
            tiles.forest_predict(x, start, stop, d, *trees, n_classes, proba)
            proba[start:stop] /= n_trees

        workers.run(range(0, m, step), lambda: predict)
        return proba


def grow_trees(cells: BinnedCells, codes: I32, n_trees: int, seed: int, tiles: Tiles, workers: WorkerThreads) -> Trees:
    """Grow trees on bootstrap samples of cells with classes `codes` (n,); the number of threads changes nothing."""
    n, d = cells.rows.shape
    order = np.argsort(codes, kind="stable").astype(np.int32)
    max_features = max(1, math.isqrt(d))
    grown: list[tuple[NDArray[Any], I32]] = [(np.empty(0, compiled.TREE_NODE), np.empty(0, np.int32))] * n_trees

    def make_worker() -> Callable[[int], None]:
        nodes, shares = np.empty(2 * n, compiled.TREE_NODE), np.empty(4 * n, np.int32)
        sizes = np.empty(2, np.int64)

        def grow(tree: int) -> None:
            binned = cells.columns, cells.rows, n, d, cells.lows, cells.highs, cells.n_bins
            tiles.forest_tree(*binned, order, codes, max_features, seed % 2**64, tree, nodes, shares, sizes)
            grown[tree] = nodes[: sizes[0]].copy(), shares[: sizes[1]].copy()

        return grow

    workers.run(range(n_trees), make_worker)
    nodes, shares = zip(*grown, strict=True)
    return Trees(np.concatenate(nodes), _starts(nodes), np.concatenate(shares), _starts(shares))


def _starts(parts: tuple[NDArray[Any], ...]) -> I64:
    sizes = np.array([len(part) for part in parts], np.int64)
    return np.cumsum(sizes) - sizes


class RandomForest:
    """Random forest classifier, grown by gpubench, or by scikit-learn without compiled functions; see `Classifier`.

    Attributes
    ----------
    note : message that names the package that has grown the forest
    """

    def __init__(
        self,
        seed: int,
        n_threads: int,
        *,
        n_estimators: int = N_TREES,
        timeline: Timeline | None = None,
        tuning: CpuTuning = DEFAULT,
    ) -> None:
        self._seed = seed
        self._n_threads = n_threads
        self._timeline = timeline or Timeline()
        self._tuning = tuning
        self.n_estimators = n_estimators
        self.note = ""

    def fit(self, x: F32, codes: I32, n_classes: int) -> RandomForest:
        """Grow the trees; see `Classifier.fit`."""
        self._n_classes = n_classes
        tiles = compiled.load()
        self.note = NOTES[forest_package(is_compiled=tiles is not None)]
        self._trees: Trees | None = None
        if tiles is None:
            self._forest = fit_sklearn(x, codes, self.n_estimators, self._seed, self._n_threads)
        else:
            cells = bin_cells(np.ascontiguousarray(x, np.float32), tiles, self._workers)
            codes = np.ascontiguousarray(codes, np.int32)
            self._trees = grow_trees(cells, codes, self.n_estimators, self._seed, tiles, self._workers)
        return self

    def predict_proba(self, x: F32) -> F64:
        """Average over the trees; see `Classifier.predict_proba`.

        Raises
        ------
        EngineUnavailable
            The trees were grown with compiled functions, which this machine does not have.
        """
        if self._trees is not None:
            tiles = compiled.load()
            if tiles is None:
                raise EngineUnavailable("this forest was grown with compiled tiles, which are missing here")
            x = np.ascontiguousarray(x, np.float32)
            return self._trees.predict_proba(x, self._n_classes, tiles, self._workers)
        proba = np.zeros((len(x), self._n_classes))
        for start in range(0, len(x), self._tuning.predicted_rows):
            rows = slice(start, start + self._tuning.predicted_rows)
            proba[rows, self._forest.classes_] = self._forest.predict_proba(x[rows])
        return proba

    @property
    def _workers(self) -> WorkerThreads:
        return WorkerThreads(self._n_threads, self._timeline, self._tuning)


def fit_sklearn(x: F32, codes: I32, n_trees: int, seed: int, n_threads: int) -> Any:
    """Train scikit-learn's random forest so that predictions do not depend on the number of threads."""
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(n_trees, random_state=seed, n_jobs=n_threads).fit(x, codes)
    # On several threads scikit-learn sums the trees in the order in which they finish, and the last bits vary.
    return forest.set_params(n_jobs=1)

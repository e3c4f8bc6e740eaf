"""The classifiers of the CPU engine."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.engines.common.blas import one_blas_thread
from gpubench.engines.common.logistic import LogisticRegression, LossSums, Objective
from gpubench.engines.cpu.tuning import DEFAULT, CpuTuning

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.core.timeline import Timeline
    from gpubench.core.types import F32, F64, I32


SKLEARN, INTELEX = "scikit-learn", "scikit-learn-intelex"
MODULES = {SKLEARN: "sklearn.ensemble", INTELEX: "sklearnex.ensemble"}
"""The module of each package that has its random forest."""

MAX_FOREST_CELLS = {SKLEARN: 100_000, INTELEX: 300_000}
"""Cells that a forest of each package is trained on unless the engine is exact: about a minute on a few cores."""

N_TREES = 100
"""Default number of trees, as in scikit-learn."""

N_BINS = 128
"""Thresholds that scikit-learn-intelex tries for each column, as many as forests of cuML; its default of 256 takes a
quarter longer and predicts no better."""

MIN_TILE_ROWS = 256
MAX_PARTS = 64
"""Partial sums of an evaluation; bounds its memory and how many threads can share it."""


def forest_package(n: int, max_sklearn_cells: int = DEFAULT.max_sklearn_cells) -> str:
    """Return the package that grows a forest on n training cells; see `CpuTuning.max_sklearn_cells`."""
    return INTELEX if n > max_sklearn_cells and find_spec("sklearnex") is not None else SKLEARN


class RandomForest:
    """A random forest: scikit-learn's on few cells, scikit-learn-intelex's on many if it is installed."""

    def __init__(self, seed: int, n_threads: int, *, n_estimators: int = N_TREES, tuning: CpuTuning = DEFAULT) -> None:
        self._seed = seed
        self._n_threads = n_threads
        self._tuning = tuning
        self.n_estimators = n_estimators
        self.implementation = ""
        self.note = ""

    def fit(self, x: F32, codes: I32, n_classes: int) -> RandomForest:
        """Grow the trees; see `Classifier.fit`."""
        self.implementation = forest_package(len(x), self._tuning.max_sklearn_cells)
        self.note = f"random forest of {self.implementation}"
        make = _forest_class(self.implementation)
        forest = make(self.n_estimators, random_state=self._seed, n_jobs=self._n_threads)
        with self._threads(self._n_threads):
            forest.fit(x, codes)
        # On several threads scikit-learn sums the trees in the order in which they finish, and the last bits vary.
        self._forest = forest.set_params(n_jobs=1)
        self._n_classes = n_classes
        return self

    def predict_proba(self, x: F32) -> F64:
        """Average over the trees; see `Classifier.predict_proba`."""
        proba = np.zeros((len(x), self._n_classes))
        with self._threads(1):
            for start in range(0, len(x), self._tuning.predicted_rows):
                rows = slice(start, start + self._tuning.predicted_rows)
                proba[rows, self._forest.classes_] = self._forest.predict_proba(x[rows])
        return proba

    @contextmanager
    def _threads(self, n: int) -> Iterator[None]:
        """Let scikit-learn-intelex use n threads; outside the main thread it would use all, with a warning."""
        if self.implementation != INTELEX:
            yield
            return
        import daal4py

        before = daal4py.num_threads()
        daal4py.daalinit(n)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "'Threading' parallel backend", UserWarning)
                yield
        finally:
            daal4py.daalinit(before)


def _forest_class(package: str) -> Any:
    """Return the forest class of a package; scikit-learn itself is not patched."""
    if package == SKLEARN:
        from sklearn.ensemble import RandomForestClassifier

        return RandomForestClassifier
    from sklearnex.ensemble import RandomForestClassifier

    log = logging.getLogger("sklearnex")
    if log.level == logging.NOTSET:  # otherwise SKLEARNEX_VERBOSE asks for a line about each call
        log.setLevel(logging.WARNING)
    return partial(RandomForestClassifier, max_bins=N_BINS)


class CpuLogisticRegression(LogisticRegression):
    """See `LogisticRegression`; the cells are shared among `n_threads` threads."""

    def __init__(
        self,
        n_threads: int = 1,
        *,
        max_iter: int = 100,
        C: float = 1.0,
        timeline: Timeline | None = None,
        tuning: CpuTuning = DEFAULT,
    ) -> None:
        super().__init__(np, max_iter=max_iter, C=C, timeline=timeline)
        self.n_threads = n_threads
        self._tuning = tuning

    def _tile_rows(self, d: int, n_classes: int) -> int:
        return max(MIN_TILE_ROWS, self._tuning.classifier_values // (d + n_classes))

    @contextmanager
    def _objective(self, x: F32, y: NDArray[np.intp], n_classes: int, penalty: float) -> Iterator[Objective]:
        # our threads share the cells; BLAS's own would compete with them
        with one_blas_thread(), ThreadPoolExecutor(self.n_threads, "gpubench") as pool:
            tile_rows = self._tile_rows(x.shape[1], n_classes)
            yield ThreadedObjective(x, y, n_classes, penalty, tile_rows, pool, self.n_threads)

    def decision_function(self, x: F32) -> F64:
        """See `LogisticRegression.decision_function`."""
        logits = np.full((len(x), self._n_classes), -np.inf)
        step = self._tile_rows(x.shape[1], self._n_classes)
        with one_blas_thread():
            for start in range(0, len(x), step):
                rows = slice(start, start + step)
                logits[rows, self._present] = x[rows] @ self._weights.T + self._intercepts
        return logits


class ThreadedObjective(Objective):
    """The objective summed over tiles of cells by several threads."""

    def __init__(
        self,
        x: F32,
        y: NDArray[np.intp],
        n_classes: int,
        penalty: float,
        tile_rows: int,
        pool: ThreadPoolExecutor,
        n_threads: int,
    ) -> None:
        super().__init__(len(x), x.shape[1], n_classes, penalty)
        self._x = x
        self._y = y
        self._tile_rows = tile_rows
        self._parts = split_tiles(len(x), tile_rows)
        self._pool = pool
        self._n_threads = min(n_threads, len(self._parts))

    def sum_over_cells(self, weights: F32, intercepts: F32) -> LossSums:
        """See `Objective.sum_over_cells`; each thread sums every n_threads-th part, and parts are added in order."""
        sums: list[LossSums | None] = [None] * len(self._parts)

        def work(thread: int) -> None:
            logits = np.empty(self._n_classes * self._tile_rows, np.float32)
            for part in range(thread, len(self._parts), self._n_threads):
                sums[part] = self._sum_over_part(self._parts[part], weights, intercepts, logits)

        if self._n_threads == 1:
            work(0)
        else:
            list(self._pool.map(work, range(self._n_threads)))
        total, *others = (s for s in sums if s is not None)
        for part_sums in others:
            total.add(part_sums)
        return total

    def _sum_over_part(self, part: range, weights: F32, intercepts: F32, buffer: F32) -> LossSums:
        sums = LossSums(0.0, np.zeros(weights.shape), np.zeros(len(intercepts)))
        for start in part:
            x, y = self._x[start : start + self._tile_rows], self._y[start : start + self._tile_rows]
            # classes by cells, not cells by classes: sums over classes then run along whole cache lines
            z = buffer[: len(intercepts) * len(x)].reshape(len(intercepts), len(x))
            own = y * len(x) + np.arange(len(x))  # where each cell's own class is in the flat logits
            np.matmul(weights, x.T, out=z)
            z += intercepts[:, None]
            z -= z.max(axis=0)
            own_logit = z.ravel()[own]
            np.exp(z, out=z)
            normaliser = z.sum(axis=0)
            sums.loss += float(np.log(normaliser).sum(dtype=np.float64) - own_logit.sum(dtype=np.float64))
            z /= normaliser
            z.ravel()[own] -= 1  # now the loss's derivative by each logit
            sums.weights += z @ x
            sums.intercepts += z.sum(axis=1, dtype=np.float64)
        return sums


def split_tiles(n: int, tile_rows: int) -> list[range]:
    """Split the tiles of n rows into at most `MAX_PARTS` parts; each is a range over the first rows of its tiles."""
    tiles = range(0, n, tile_rows)
    tiles_per_part = -(-len(tiles) // MAX_PARTS)
    return [tiles[i : i + tiles_per_part] for i in range(0, len(tiles), tiles_per_part)]

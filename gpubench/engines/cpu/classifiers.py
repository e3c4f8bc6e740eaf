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

from gpubench.engines.common import logistic
from gpubench.engines.common.blas import one_blas_thread
from gpubench.engines.common.logistic import LossSums

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.core.timeline import Timeline
    from gpubench.engines.base import ClassifierKind


SKLEARN, INTELEX = "scikit-learn", "scikit-learn-intelex"
MODULES = {SKLEARN: "sklearn.ensemble", INTELEX: "sklearnex.ensemble"}
"""Package -> the module that has its forest."""

FEW_CELLS = 4096
"""Training cells up to which a forest is scikit-learn's own."""

MAX_CELLS = {SKLEARN: 100_000, INTELEX: 300_000}
"""Cells that a forest of each package is trained on unless the engine is to be exact: about a minute on a few cores."""

N_TREES = 100
"""Trees of a forest, as scikit-learn has it."""

BINS = 128
"""Thresholds that scikit-learn-intelex tries for each column, as many as our forests of cuML; 256, its default, takes a
quarter longer and predicts no better."""

PREDICTED_ROWS = 1 << 16
"""Cells that are predicted at a time: both packages make several copies of the probabilities."""


def forest_package(n: int) -> str:
    """The package whose forest n training cells get.

    Two forests on few cells may differ by several percent from one draw to the next, and scikit-learn needs only
    seconds there: up to `FEW_CELLS` the trees are those of cz-benchmarks to the bit.
    """
    return INTELEX if n > FEW_CELLS and find_spec("sklearnex") is not None else SKLEARN


class RandomForest:
    """A random forest: scikit-learn's for few cells, that of scikit-learn-intelex for many, where it is installed.

    Attributes
    ----------
    implementation : the package whose forest it is, once trained
    note : the same for people
    """

    def __init__(self, seed: int, n_threads: int, *, n_estimators: int = N_TREES) -> None:
        self._seed = seed
        self._n_threads = n_threads
        self.n_estimators = n_estimators
        self.implementation = ""
        self.note = ""

    def fit(self, x: NDArray[np.float32], codes: NDArray[np.int32], n_classes: int) -> RandomForest:
        """Grow the trees; see `Classifier.fit`."""
        self.implementation = forest_package(len(x))
        self.note = f"random forest of {self.implementation}"
        make = _forest_class(self.implementation)
        forest = make(self.n_estimators, random_state=self._seed, n_jobs=self._n_threads)
        with self._threads(self._n_threads):
            forest.fit(x, codes)
        # On several threads scikit-learn adds the trees up in the order in which they finish, and the last bits vary.
        self._forest = forest.set_params(n_jobs=1)
        self._n_classes = n_classes
        return self

    def predict_proba(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Average over the trees; see `Classifier.predict_proba`."""
        proba = np.zeros((len(x), self._n_classes))
        with self._threads(1):
            for start in range(0, len(x), PREDICTED_ROWS):
                rows = slice(start, start + PREDICTED_ROWS)
                proba[rows, self._forest.classes_] = self._forest.predict_proba(x[rows])
        return proba

    @contextmanager
    def _threads(self, n: int) -> Iterator[None]:
        """Let scikit-learn-intelex use n threads: outside of the main thread it takes all, and warns of it."""
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
    """Make an untrained forest of a package by this; scikit-learn itself is not patched."""
    if package == SKLEARN:
        from sklearn.ensemble import RandomForestClassifier

        return RandomForestClassifier
    from sklearnex.ensemble import RandomForestClassifier

    told = logging.getLogger("sklearnex")
    if told.level == logging.NOTSET:  # else SKLEARNEX_VERBOSE is set: somebody wants to hear of each call
        told.setLevel(logging.WARNING)
    return partial(RandomForestClassifier, max_bins=BINS)


TILE_VALUES = 1 << 17
"""Values of a tile's cells and logits together: half a megabyte, which stays in a core's second-level cache."""
MIN_TILE_ROWS = 256
MAX_PARTS = 64
"""Partial sums that an evaluation keeps; bounds memory, and how many threads can share an evaluation."""


class LogisticRegression(logistic.LogisticRegression):
    """See `logistic.LogisticRegression`; the cells are shared out among `n_threads` threads."""

    def __init__(
        self, n_threads: int = 1, *, max_iter: int = 100, C: float = 1.0, timeline: Timeline | None = None
    ) -> None:
        super().__init__(np, max_iter=max_iter, C=C, timeline=timeline)
        self.n_threads = n_threads

    @contextmanager
    def _objective(
        self, x: NDArray[np.float32], y: NDArray[np.intp], n_classes: int, penalty: float
    ) -> Iterator[logistic.Objective]:
        # our threads share the cells out; BLAS's own would get in their way
        with one_blas_thread(), ThreadPoolExecutor(self.n_threads, "gpubench") as pool:
            yield _Objective(x, y, n_classes, penalty, pool, self.n_threads)

    def decision_function(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Logits (m, n_classes); minus infinity for a class that had no cells."""
        logits = np.full((len(x), self._n_classes), -np.inf)
        step = _tile_rows(x.shape[1], self._n_classes)
        with one_blas_thread():
            for start in range(0, len(x), step):
                rows = slice(start, start + step)
                logits[rows, self._present] = x[rows] @ self._weights.T + self._intercepts
        return logits


class _Objective(logistic.Objective):
    """Sums over tiles of cells, on threads."""

    def __init__(
        self,
        x: NDArray[np.float32],
        y: NDArray[np.intp],
        n_classes: int,
        penalty: float,
        pool: ThreadPoolExecutor,
        n_threads: int,
    ) -> None:
        super().__init__(len(x), x.shape[1], n_classes, penalty)
        self._x = x
        self._y = y
        self._tile_rows = _tile_rows(x.shape[1], n_classes)
        self._parts = _parts(len(x), self._tile_rows)
        self._pool = pool
        self._n_threads = min(n_threads, len(self._parts))

    def sum_over_cells(self, weights: NDArray[np.float32], intercepts: NDArray[np.float32]) -> LossSums:
        """Every thread takes each n_threads-th part; the parts are added in their own order."""
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

    def _sum_over_part(
        self, part: range, weights: NDArray[np.float32], intercepts: NDArray[np.float32], buffer: NDArray[np.float32]
    ) -> LossSums:
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


def _tile_rows(d: int, n_classes: int) -> int:
    return max(MIN_TILE_ROWS, TILE_VALUES // (d + n_classes))


def _parts(n: int, tile_rows: int) -> list[range]:
    """At most `MAX_PARTS` runs of tiles; each a range over the first rows of its tiles."""
    tiles = range(0, n, tile_rows)
    tiles_a_part = -(-len(tiles) // MAX_PARTS)
    return [tiles[i : i + tiles_a_part] for i in range(0, len(tiles), tiles_a_part)]


MAX_LR_CELLS = 1_000_000
"""Cells that logistic regression is trained on unless the engine is to be exact. It takes about 10 s for 50 dimensions
and 30 classes on two cores, and of more cells its few weights learn nothing that can be seen in the scores."""


def max_training_cells(kind: ClassifierKind, n: int) -> int:
    """How many of n cells a classifier is trained on, where that is to take minutes at most."""
    if kind == "lr":
        return min(n, MAX_LR_CELLS)
    return min(n, MAX_CELLS[forest_package(n)]) if kind == "rf" else n

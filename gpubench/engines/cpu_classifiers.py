"""The classifiers of the CPU engine."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.engines.base import Classifier, ClassifierKind
from gpubench.engines.cpu_logistic import LogisticRegression
from gpubench.engines.votes import NearestNeighbors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.cpu import CpuEngine

INTELEX = "scikit-learn-intelex"

FEW_CELLS = 4096
"""Training cells up to which a forest is scikit-learn's own."""

MOST_CELLS = {"scikit-learn": 100_000, INTELEX: 300_000}
"""Cells that a forest of each package is trained on unless the engine is to be exact: about a minute on a few cores."""


def make_classifier(engine: CpuEngine, kind: ClassifierKind, **params: Any) -> Classifier:
    """Make an untrained classifier; see `Engine.classifier`."""
    if kind == "lr":
        return LogisticRegression(engine.n_threads, timeline=engine.timeline, **params)
    if kind == "knn":
        return NearestNeighbors(engine, **params)
    if kind == "rf":
        return RandomForest(engine.seed, engine.n_threads, exact=engine.exact, **params)
    raise ValueError(f"there is no classifier {kind!r}; there are 'lr', 'knn' and 'rf'")


class RandomForest:
    """A random forest: scikit-learn's for few cells, that of scikit-learn-intelex for many, where it is installed.

    Of more than `MOST_CELLS` it is trained on as many, drawn at random in the shares of the classes, unless `exact`.

    Attributes
    ----------
    implementation : the package whose forest it is, once trained
    note : the same for people, and how many cells were drawn
    """

    def __init__(self, seed: int, n_threads: int, *, exact: bool = False, n_estimators: int = 100) -> None:
        self._seed = seed
        self._n_threads = n_threads
        self._exact = exact
        self.n_estimators = n_estimators
        self.implementation = ""
        self.note = ""

    def fit(self, x: NDArray[np.float32], codes: NDArray[np.int32], n_classes: int) -> RandomForest:
        """Grow the trees; see `Classifier.fit`."""
        forest_class, self.implementation = _forest_class(len(x))
        self.note = f"random forest of {self.implementation}"
        most = MOST_CELLS[self.implementation]
        if len(x) > most and not self._exact:
            self.note += f", trained on {most:,} of {len(x):,} cells; exact=True trains on all"
            drawn = draw_in_shares(codes, most, self._seed)
            x, codes = x[drawn], codes[drawn]
        forest = forest_class(self.n_estimators, random_state=self._seed, n_jobs=self._n_threads)
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
            proba[:, self._forest.classes_] = self._forest.predict_proba(x)
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


def draw_in_shares(codes: NDArray[np.int32], m: int, seed: int) -> NDArray[np.int64]:
    """Rows of m cells, ascending: of each class its share of them, rounded up or down, but one cell at least.

    A class's cells are drawn with equal chances.

    Parameters
    ----------
    codes : (n,) with n > m, of at most m classes
    """
    order = np.random.default_rng(seed).permutation(len(codes))
    order = order[np.argsort(codes[order], kind="stable")]  # each class's cells in random order
    sizes = np.bincount(codes)
    shares = sizes * m / len(codes)
    wanted = np.maximum(np.floor(shares).astype(np.int64), sizes > 0)
    by_remainder = np.argsort(wanted - shares, kind="stable")  # the largest first; those that were rounded up are last
    wanted[by_remainder[: max(0, m - int(wanted.sum()))]] += 1
    for _ in range(int(wanted.sum()) - m):  # room for the single cells of small classes
        wanted[wanted.argmax()] -= 1
    starts = np.cumsum(sizes) - sizes
    return np.sort(np.concatenate([order[a : a + k] for a, k in zip(starts, wanted, strict=True)]))


def intelex_is_here() -> bool:
    """Whether scikit-learn-intelex is installed."""
    return find_spec("sklearnex") is not None


def _forest_class(n: int) -> tuple[Any, str]:
    """The forest for n training cells, and the package that it is from; scikit-learn itself is not patched.

    Two forests on few cells may differ by several percent from one draw to the next, and scikit-learn needs only
    seconds there: up to `FEW_CELLS` the trees are those of cz-benchmarks to the bit.
    """
    if n > FEW_CELLS and intelex_is_here():
        from sklearnex.ensemble import RandomForestClassifier

        told = logging.getLogger("sklearnex")
        if told.level == logging.NOTSET:  # else SKLEARNEX_VERBOSE is set: somebody wants to hear of each call
            told.setLevel(logging.WARNING)
        return RandomForestClassifier, INTELEX
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier, "scikit-learn"

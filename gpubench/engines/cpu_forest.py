"""Random forests on the CPU: those of scikit-learn and of scikit-learn-intelex."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SKLEARN, INTELEX = "scikit-learn", "scikit-learn-intelex"
MODULES = {SKLEARN: "sklearn.ensemble", INTELEX: "sklearnex.ensemble"}
"""Package -> the module that has its forest."""

FEW_CELLS = 4096
"""Training cells up to which a forest is scikit-learn's own."""

MOST_CELLS = {SKLEARN: 100_000, INTELEX: 300_000}
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

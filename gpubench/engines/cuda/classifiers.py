"""The classifiers of the CUDA engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.types import Array
from gpubench.engines import planner
from gpubench.engines.common import logistic
from gpubench.engines.cpu import compiled, forest
from gpubench.engines.cuda.memory import import_problem
from gpubench.engines.cuda.workspace import Workspace, row_blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.base import Classifier
    from gpubench.engines.cuda.device import Device

FOREST_BINS = 128
"""Number of thresholds that cuML's forest tries per column."""


MAX_CUML_CELLS = 1_000_000
"""Largest number of training cells of cuML's forest, unless the engine is exact: deep trees take minutes."""

HOST_BYTES_PER_CELL = 27_000
"""Host memory of a forest per training cell.

100 trees have 0.3 leaves for each cell where labels overlap; a leaf takes 300 bytes, for its nodes and the shares of 50
labels; and the forest is in memory three times while cuML converts it for prediction.
"""


class Forests:
    """Factory of random forests: cuML's, or the CPU engine's if cuML cannot be used.

    Parameters
    ----------
    is_right : function that tells whether cuML's forest is right on this GPU
    exact : whether to train on all cells, however many
    """

    def __init__(self, device: Device, seed: int, n_threads: int, is_right: Callable[[], bool], *, exact: bool) -> None:
        self._device, self._seed, self._n_threads, self._exact = device, seed, n_threads, exact
        self._is_right = is_right

    @cached_property
    def problem(self) -> str:
        """Reason why cuML cannot be used; empty if it can."""
        with self._device.library():
            problem = import_problem("cuml")
        if problem:
            return f"cuML {problem}"
        return "" if self._is_right() else "cuML is wrong on this GPU"

    def max_training_cells(self, n: int) -> int:
        """Return how many of n cells to train on, so that training takes minutes and the forest fits in host memory."""
        if self._exact:
            return n
        if self.problem:
            package = forest.forest_package(is_compiled=compiled.load() is not None)
            return min(n, forest.MAX_FOREST_CELLS[package])
        return min(n, MAX_CUML_CELLS, max(1, planner.budget_bytes(None) // HOST_BYTES_PER_CELL))

    def make(self, **params: Any) -> CumlForest | HostForest:
        """Make an untrained forest."""
        if self.problem:
            return HostForest(self._device.xp, self._seed, self._n_threads, self.problem, **params)
        return CumlForest(self._device, self._seed, **params)


class CudaLogisticRegression(logistic.LogisticRegression):
    """See `logistic.LogisticRegression`; cells and logits stay on the GPU."""

    def __init__(self, workspace: Workspace, *, max_iter: int = 100, C: float = 1.0) -> None:
        super().__init__(workspace.device.xp, max_iter=max_iter, C=C, timeline=workspace.timeline)
        self._workspace = workspace

    @contextmanager
    def _objective(self, x: Array, y: NDArray[np.intp], n_classes: int, penalty: float) -> Iterator[logistic.Objective]:
        yield CudaObjective(self._workspace, x, y, n_classes, penalty)

    def decision_function(self, x: Array) -> Array:
        """Return the logits (m, n_classes); minus infinity for a class without training cells."""
        logits, present = self._xp.full((len(x), self._n_classes), -np.inf), self._xp.asarray(self._present)
        for rows, _, tile in _logit_tiles(self._workspace, x, self._weights, self._intercepts, self._n_classes):
            logits[rows, present] = tile
        return logits


class CudaObjective(logistic.Objective):
    """Objective of logistic regression, computed in tiles of cells on the GPU; sums of tiles are added in float64."""

    def __init__(self, workspace: Workspace, x: Array, y: NDArray[np.intp], n_classes: int, penalty: float) -> None:
        super().__init__(len(x), x.shape[1], n_classes, penalty)
        self._workspace = workspace
        self._x = x
        self._y = workspace.device.xp.asarray(y)

    def sum_over_cells(self, weights: NDArray[np.float32], intercepts: NDArray[np.float32]) -> logistic.LossSums:
        """See `logistic.Objective.sum_over_cells`."""
        device, xp = self._workspace.device, self._workspace.device.xp
        loss, weights_gradient = xp.zeros(()), xp.zeros(weights.shape)
        intercepts_gradient = xp.zeros(len(intercepts))
        for tile in _logit_tiles(self._workspace, self._x, weights, intercepts, len(intercepts)):
            rows, x, z = tile
            z -= z.max(axis=1, keepdims=True)
            own = xp.arange(len(x)), self._y[rows]
            own_logit = z[own]
            xp.exp(z, out=z)
            normaliser = z.sum(axis=1)
            loss += xp.log(normaliser).sum(dtype=np.float64) - own_logit.sum(dtype=np.float64)
            z /= normaliser[:, None]
            z[own] -= 1  # now the derivative of the loss by each logit
            gradient = xp.empty(weights.shape, np.float32)
            device.multiply(z.T, x, gradient, tensor_cores=False)
            weights_gradient += gradient
            intercepts_gradient += z.sum(axis=0, dtype=np.float64)
        return logistic.LossSums(float(loss), xp.asnumpy(weights_gradient), xp.asnumpy(intercepts_gradient))


def _logit_tiles(
    workspace: Workspace, x: Array, weights: NDArray[Any], intercepts: NDArray[Any], n_classes: int
) -> Iterator[tuple[slice, Array, Array]]:
    """Yield for each tile the range of rows of x, the cells, and their logits (rows, len(intercepts)) float32."""
    device, xp = workspace.device, workspace.device.xp
    device_weights, device_intercepts = xp.asarray(weights), xp.asarray(intercepts)
    for rows in row_blocks(len(x), workspace.tuning.classifier_values // (x.shape[1] + n_classes)):
        cells = device.on_device(x[rows])
        logits = xp.empty((len(cells), len(intercepts)), np.float32)
        device.product(cells, device_weights, logits, tensor_cores=False)
        logits += device_intercepts
        yield rows, cells, logits


class CumlForest:
    """Random forest classifier of cuML, with unlimited depth and thresholds at quantiles; see `Classifier`.

    Attributes
    ----------
    note : message that names the package
    """

    def __init__(self, device: Device, seed: int, *, n_estimators: int = forest.N_TREES) -> None:
        self._device, self._seed = device, seed
        self.n_estimators = n_estimators
        self.note = ""

    def fit(self, x: Array, codes: NDArray[np.int32], n_classes: int) -> CumlForest:
        """Grow the trees; see `Classifier.fit`."""
        self._present, y = np.unique(codes, return_inverse=True)
        self._n_classes = n_classes
        n_bins = min(FOREST_BINS, len(x))
        self.note = f"random forest of cuML ({n_bins} bins)"
        with self._device.library():
            from cuml.ensemble import RandomForestClassifier

            self._forest = RandomForestClassifier(
                n_estimators=self.n_estimators,
                max_depth=None,
                n_bins=n_bins,
                n_streams=1,  # with more streams the trees depend on which one is first
                random_state=self._seed,
                output_type="cupy",
            )
            self._forest.fit(x, self._device.xp.asarray(y.astype(np.int32)))
        return self

    def predict_proba(self, x: Array) -> Array:
        """Average over the trees; see `Classifier.predict_proba`."""
        xp = self._device.xp
        proba = xp.zeros((len(x), self._n_classes))
        with self._device.library():
            proba[:, xp.asarray(self._present)] = self._forest.predict_proba(x)
        return proba


class HostForest(forest.RandomForest):
    """Random forest of the CPU engine, which copies cells from the GPU to the host.

    Parameters
    ----------
    why : reason why cuML's forest is not used
    """

    def __init__(self, xp: Any, seed: int, n_threads: int, why: str, **params: Any) -> None:
        super().__init__(seed, n_threads, **params)
        self._xp, self._why = xp, why

    def fit(self, x: Array, codes: NDArray[np.int32], n_classes: int) -> HostForest:
        """Grow the trees; see `Classifier.fit`."""
        super().fit(self._xp.asnumpy(x), codes, n_classes)
        self.note += f" on the CPU, as {self._why}"
        return self

    def predict_proba(self, x: Array) -> Array:
        """Average over the trees; see `Classifier.predict_proba`."""
        return self._xp.asarray(super().predict_proba(self._xp.asnumpy(x)))


class HostClassifier:
    """Classifier of the CPU engine, which copies cells from the GPU to the host; see `Classifier`."""

    def __init__(self, xp: Any, classifier: Classifier) -> None:
        self._xp, self._classifier = xp, classifier

    @property
    def note(self) -> str:
        """Message about the training."""
        return self._classifier.note

    def fit(self, x: Array, codes: NDArray[np.int32], n_classes: int) -> HostClassifier:
        """Train; see `Classifier.fit`."""
        self._classifier.fit(self._xp.asnumpy(x), codes, n_classes)
        return self

    def predict_proba(self, x: Array) -> Array:
        """Return class probabilities; see `Classifier.predict_proba`."""
        return self._xp.asarray(self._classifier.predict_proba(self._xp.asnumpy(x)))

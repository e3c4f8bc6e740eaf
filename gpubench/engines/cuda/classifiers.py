"""The classifiers of the CUDA engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.types import Array
from gpubench.engines.common import logistic
from gpubench.engines.cpu import classifiers
from gpubench.engines.cuda.workspace import Workspace, row_blocks

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

    from gpubench.engines.base import ClassifierKind

FOREST_BINS = 128
"""Thresholds that the forest of cuML tries per column."""


def random_forest(xp: ModuleType, seed: int, n_threads: int, **params: Any) -> CumlForest | HostForest:
    """Make an untrained forest of cuML, or of the CPU engine if cuML is not installed."""
    return CumlForest(xp, seed, **params) if find_spec("cuml") else HostForest(xp, seed, n_threads, **params)


def max_training_cells(kind: ClassifierKind, n: int) -> int:
    """Return how many of n cells a classifier is trained on: all, except for forests on the CPU."""
    on_cpu = kind == "rf" and find_spec("cuml") is None
    return min(n, classifiers.MAX_FOREST_CELLS[classifiers.forest_package(n)]) if on_cpu else n


class CudaLogisticRegression(logistic.LogisticRegression):
    """See `logistic.LogisticRegression`; cells and logits stay on the GPU."""

    def __init__(self, workspace: Workspace, *, max_iter: int = 100, C: float = 1.0) -> None:
        super().__init__(workspace.device.xp, max_iter=max_iter, C=C, timeline=workspace.timeline)
        self._workspace = workspace

    @contextmanager
    def _objective(self, x: Array, y: NDArray[np.intp], n_classes: int, penalty: float) -> Iterator[logistic.Objective]:
        yield CudaObjective(self._workspace, x, y, n_classes, penalty)

    def decision_function(self, x: Array) -> Array:
        """Return the logits (m, n_classes); minus infinity for a class that had no cells."""
        logits, present = self._xp.full((len(x), self._n_classes), -np.inf), self._xp.asarray(self._present)
        for rows, _, tile in _logit_tiles(self._workspace, x, self._weights, self._intercepts, self._n_classes):
            logits[rows, present] = tile
        return logits


class CudaObjective(logistic.Objective):
    """Loss summed over large tiles of cells, in float64 beyond a tile."""

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
            device.product(xp.ascontiguousarray(z.T), xp.ascontiguousarray(x.T), gradient, tensor_cores=False)
            weights_gradient += gradient
            intercepts_gradient += z.sum(axis=0, dtype=np.float64)
        return logistic.LossSums(float(loss), xp.asnumpy(weights_gradient), xp.asnumpy(intercepts_gradient))


def _logit_tiles(
    workspace: Workspace, x: Array, weights: NDArray[Any], intercepts: NDArray[Any], n_classes: int
) -> Iterator[tuple[slice, Array, Array]]:
    """Yield rows of x, their cells, and their logits (rows, len(intercepts)) float32."""
    device, xp = workspace.device, workspace.device.xp
    device_weights, device_intercepts = xp.asarray(weights), xp.asarray(intercepts)
    for rows in row_blocks(len(x), workspace.tuning.classifier_values // (x.shape[1] + n_classes)):
        cells = xp.ascontiguousarray(x[rows])
        logits = xp.empty((len(cells), len(intercepts)), np.float32)
        device.product(cells, device_weights, logits, tensor_cores=False)
        logits += device_intercepts
        yield rows, cells, logits


class CumlForest:
    """Random forest of cuML: trees of any depth, thresholds from quantiles.

    Attributes
    ----------
    note : names the package
    """

    def __init__(self, xp: ModuleType, seed: int, *, n_estimators: int = 100) -> None:
        self._xp, self._seed = xp, seed
        self.n_estimators = n_estimators
        self.note = f"random forest of cuML ({FOREST_BINS} bins)"

    def fit(self, x: Array, codes: NDArray[np.int32], n_classes: int) -> CumlForest:
        """Grow the trees; see `Classifier.fit`."""
        from cuml.ensemble import RandomForestClassifier

        self._present, y = np.unique(codes, return_inverse=True)
        self._n_classes = n_classes
        self._forest = RandomForestClassifier(
            n_estimators=self.n_estimators,
            max_depth=None,
            n_bins=FOREST_BINS,
            n_streams=1,  # with more streams the trees depend on which one is first
            random_state=self._seed,
            output_type="cupy",
        )
        self._forest.fit(x, self._xp.asarray(y.astype(np.int32)))
        return self

    def predict_proba(self, x: Array) -> Array:
        """Average over the trees; see `Classifier.predict_proba`."""
        proba = self._xp.zeros((len(x), self._n_classes))
        proba[:, self._xp.asarray(self._present)] = self._forest.predict_proba(x)
        return proba


class HostForest(classifiers.RandomForest):
    """Random forest of the CPU engine, for a GPU without cuML: cells are copied to the host."""

    def __init__(self, xp: Any, seed: int, n_threads: int, **params: Any) -> None:
        super().__init__(seed, n_threads, **params)
        self._xp = xp

    def fit(self, x: Array, codes: NDArray[np.int32], n_classes: int) -> HostForest:
        """Grow the trees; see `Classifier.fit`."""
        super().fit(self._xp.asnumpy(x), codes, n_classes)
        self.note += " on the CPU, as cuML is not installed"
        return self

    def predict_proba(self, x: Array) -> Array:
        """Average over the trees; see `Classifier.predict_proba`."""
        return self._xp.asarray(super().predict_proba(self._xp.asnumpy(x)))

"""Multinomial logistic regression on any device: scikit-learn's objective, minimised by SciPy's L-BFGS-B.

The few parameters stay on the host; an engine implements the sums of loss and gradient over its cells.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Self

import numpy as np

from gpubench.core.errors import InputError
from gpubench.core.types import Array
from gpubench.engines.common import flop_counts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.core.timeline import Timeline
    from gpubench.core.types import F32, F64, I32

GRADIENT_TOLERANCE = 1e-4
FUNCTION_TOLERANCE = 64 * np.finfo(float).eps
MAX_LINE_SEARCH_STEPS = 50
"""Stopping criteria of L-BFGS, as in scikit-learn."""


@dataclass(slots=True)
class LossSums:
    """Sum of the losses of some cells, and its gradients with respect to weights and intercepts, on the host."""

    loss: float
    weights: F64
    intercepts: F64

    def add(self, other: LossSums) -> None:
        """Add the sums over other cells."""
        self.loss += other.loss
        self.weights += other.weights
        self.intercepts += other.intercepts


class Objective(ABC):
    """Objective function for L-BFGS: loss and gradient at a flat vector of all weights and intercepts.

    With two classes only the second has weights; the logit z of the first is 0.
    """

    def __init__(self, n: int, d: int, n_classes: int, penalty: float) -> None:
        self._n = n
        self._penalty = penalty
        self._n_classes = n_classes
        self._first = 1 if n_classes == 2 else 0  # the first class that has weights
        self._shape = (n_classes - self._first, d + 1)
        self.n_parameters = self._shape[0] * self._shape[1]

    @abstractmethod
    def sum_over_cells(self, weights: F32, intercepts: F32) -> LossSums:
        """Sum the losses of all cells, and their gradients, at weights (n_classes, d) and intercepts (n_classes,)."""

    def unpack(self, flat: F64) -> tuple[F32, F32]:
        """Split the flat vector into weights (n_classes, d) and intercepts (n_classes,)."""
        full = np.zeros((self._n_classes, self._shape[1]), np.float32)
        full[self._first :] = flat.reshape(self._shape)
        return np.ascontiguousarray(full[:, :-1]), np.ascontiguousarray(full[:, -1])

    def __call__(self, flat: F64) -> tuple[float, F64]:
        """Return loss and gradient at `flat`."""
        total = self.sum_over_cells(*self.unpack(flat))
        weights = flat.reshape(self._shape)[:, :-1]
        gradient = np.empty(self._shape)
        gradient[:, :-1] = total.weights[self._first :] / self._n + self._penalty * weights
        gradient[:, -1] = total.intercepts[self._first :] / self._n
        loss = total.loss / self._n + self._penalty / 2 * float((weights**2).sum())
        return loss, gradient.ravel()


class LogisticRegression(ABC):
    """Logistic regression with an L2 penalty on the weights, not on the intercepts.

    Minimises mean_i [log sum_c exp(z_ic) - z_i,y_i] + |W|^2 / (2 C n) with the logits z = x W^T + b. With two classes
    only the second has weights (z = 0 for the first), which is scikit-learn's binary logistic regression.

    Attributes
    ----------
    n_iter : number of iterations of L-BFGS
    converged : whether a stopping criterion was met before `max_iter` iterations
    note : message if the training has not converged, else empty
    """

    def __init__(
        self, xp: ModuleType, *, max_iter: int = 100, C: float = 1.0, timeline: Timeline | None = None
    ) -> None:
        self._xp = xp
        self._timeline = timeline
        self.max_iter = max_iter
        self.C = C
        self.n_iter = 0
        self.converged = False
        self.note = ""

    @abstractmethod
    def _objective(
        self, x: Array, y: NDArray[np.intp], n_classes: int, penalty: float
    ) -> AbstractContextManager[Objective]:
        """Return a context with the objective for cells x (n, d) with classes y (n,), all of which occur."""

    @abstractmethod
    def decision_function(self, x: Array) -> Array:
        """Return the logits (m, n_classes) float64; minus infinity for a class without training cells."""

    def fit(self, x: Array, codes: I32, n_classes: int) -> Self:
        """Minimise the loss of the cells; see `Classifier.fit`.

        Raises
        ------
        InputError
            All cells are in one class.
        """
        from scipy.optimize import minimize

        self._present, y = np.unique(codes, return_inverse=True)
        self._n_classes = n_classes
        if len(self._present) < 2:
            raise InputError(f"logistic regression needs two classes; the {len(codes)} training cells are all of one")
        with self._objective(x, y, len(self._present), 1 / (self.C * len(x))) as objective:
            minimum = minimize(
                objective,
                np.zeros(objective.n_parameters),
                method="L-BFGS-B",
                jac=True,
                options={
                    "maxiter": self.max_iter,
                    "maxls": MAX_LINE_SEARCH_STEPS,
                    "gtol": GRADIENT_TOLERANCE,
                    "ftol": FUNCTION_TOLERANCE,
                },
            )
        if self._timeline is not None:
            self._timeline.count(flop_counts.gradients(len(x), x.shape[1], len(self._present), int(minimum.nfev)))
        self._weights, self._intercepts = objective.unpack(minimum.x)
        self.n_iter = int(minimum.nit)
        self.converged = bool(minimum.success)
        self.note = "" if self.converged else f"stopped after {self.n_iter} iterations, before it converged"
        return self

    def predict_proba(self, x: Array) -> Array:
        """Return the softmax of the logits; see `Classifier.predict_proba`."""
        proba = self.decision_function(x)
        proba -= proba.max(axis=1, keepdims=True)
        self._xp.exp(proba, out=proba)
        proba /= proba.sum(axis=1, keepdims=True)
        return proba

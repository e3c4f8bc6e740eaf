"""Multinomial logistic regression on the CPU: scikit-learn's objective, minimised by SciPy's L-BFGS-B.

Loss and gradient come from one pass over tiles of cells that stay in the cache: a matrix product for the logits, the
softmax in place, a second product for the gradient. Products are float32, sums over tiles float64. Tiles and the order
of sums depend on the data's shape alone, so the same bits come out for any number of threads.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits

from gpubench.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

TILE_VALUES = 1 << 17
"""Values of a tile's cells and logits together: half a megabyte, which stays in a core's second-level cache."""
MIN_TILE_ROWS = 256
MAX_PARTS = 64
"""Partial sums that an evaluation keeps; bounds memory, and how many threads can share an evaluation."""
GRADIENT_TOLERANCE = 1e-4
FUNCTION_TOLERANCE = 64 * np.finfo(float).eps
MAX_LINE_SEARCH_STEPS = 50
"""scikit-learn's stopping rules for lbfgs."""


class LogisticRegression:
    """Logistic regression with an L2 penalty on the weights, not on the intercepts.

    Minimises mean_i [log sum_c exp(z_ic) - z_i,y_i] + |W|^2 / (2 C n) with the logits z = x W^T + b. Of two classes
    only the second has weights (z = 0 for the first), which is scikit-learn's binary logistic regression.

    Attributes
    ----------
    n_iter : iterations of L-BFGS
    converged : whether a stopping rule was met before `max_iter`
    note : says where it was not
    """

    def __init__(self, n_threads: int = 1, *, max_iter: int = 100, C: float = 1.0) -> None:
        self.n_threads = n_threads
        self.max_iter = max_iter
        self.C = C
        self.n_iter = 0
        self.converged = False
        self.note = ""

    def fit(self, x: NDArray[np.float32], codes: NDArray[np.int32], n_classes: int) -> LogisticRegression:
        """Train; see `Classifier.fit`.

        Raises
        ------
        InputError
            The cells are all of one class.
        """
        from scipy.optimize import minimize

        self._present, y = np.unique(codes, return_inverse=True)
        self._n_classes = n_classes
        if len(self._present) < 2:
            raise InputError(f"logistic regression needs two classes; the {len(codes)} training cells are all of one")
        n_threads = self.n_threads
        # our threads share the cells out; BLAS's own would get in their way
        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(n_threads, "gpubench") as pool:
            objective = _Objective(x, y, len(self._present), 1 / (self.C * len(x)), pool, n_threads)
            found = minimize(
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
        self._weights, self._intercepts = objective.unpack(found.x)
        self.n_iter = int(found.nit)
        self.converged = bool(found.success)
        self.note = "" if self.converged else f"stopped after {self.n_iter} iterations, before it converged"
        return self

    def decision_function(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Logits (m, n_classes); minus infinity for a class that had no cells."""
        logits = np.full((len(x), self._n_classes), -np.inf)
        step = _tile_rows(x.shape[1], self._n_classes)
        with threadpool_limits(1, user_api="blas"):
            for start in range(0, len(x), step):
                rows = slice(start, start + step)
                logits[rows, self._present] = x[rows] @ self._weights.T + self._intercepts
        return logits

    def predict_proba(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Softmax of the logits; see `Classifier.predict_proba`."""
        proba = self.decision_function(x)
        proba -= proba.max(axis=1, keepdims=True)
        np.exp(proba, out=proba)
        proba /= proba.sum(axis=1, keepdims=True)
        return proba


@dataclass(slots=True)
class _Sums:
    """Sums over some cells: of the loss, and of its gradient by weights and intercepts."""

    loss: float
    weights: NDArray[np.float64]
    intercepts: NDArray[np.float64]

    def add(self, other: _Sums) -> None:
        self.loss += other.loss
        self.weights += other.weights
        self.intercepts += other.intercepts


class _Objective:
    """Loss and gradient as L-BFGS wants them: a function of one flat vector of weights and intercepts."""

    def __init__(
        self,
        x: NDArray[np.float32],
        y: NDArray[np.intp],
        n_classes: int,
        penalty: float,
        pool: ThreadPoolExecutor,
        n_threads: int,
    ) -> None:
        self._x = x
        self._y = y
        self._penalty = penalty
        self._n_classes = n_classes
        self._first = 1 if n_classes == 2 else 0  # classes before it have no weights of their own
        self._shape = (n_classes - self._first, x.shape[1] + 1)
        self.n_parameters = self._shape[0] * self._shape[1]
        self._tile_rows = _tile_rows(x.shape[1], n_classes)
        self._parts = _parts(len(x), self._tile_rows)
        self._pool = pool
        self._n_threads = min(n_threads, len(self._parts))

    def unpack(self, flat: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Weights (n_classes, d) and intercepts (n_classes,)."""
        full = np.zeros((self._n_classes, self._shape[1]), np.float32)
        full[self._first :] = flat.reshape(self._shape)
        return np.ascontiguousarray(full[:, :-1]), np.ascontiguousarray(full[:, -1])

    def __call__(self, flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Loss and gradient at `flat`."""
        total = self._sum_over_cells(*self.unpack(flat))
        n = len(self._x)
        weights = flat.reshape(self._shape)[:, :-1]
        gradient = np.empty(self._shape)
        gradient[:, :-1] = total.weights[self._first :] / n + self._penalty * weights
        gradient[:, -1] = total.intercepts[self._first :] / n
        loss = total.loss / n + self._penalty / 2 * float((weights**2).sum())
        return loss, gradient.ravel()

    def _sum_over_cells(self, weights: NDArray[np.float32], intercepts: NDArray[np.float32]) -> _Sums:
        """Every thread takes each n_threads-th part; the parts are added in their own order."""
        sums: list[_Sums | None] = [None] * len(self._parts)

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
    ) -> _Sums:
        sums = _Sums(0.0, np.zeros(weights.shape), np.zeros(len(intercepts)))
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

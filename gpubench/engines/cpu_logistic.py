"""Loss and gradient of multinomial logistic regression on the CPU.

They come from one pass over tiles of cells that stay in the cache: a matrix product for the logits, the
softmax in place, a second product for the gradient. Products are float32, sums over tiles float64. Tiles and the order
of sums depend on the data's shape alone, so the same bits come out for any number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from gpubench.engines import logistic
from gpubench.engines.cpu_parallel import one_blas_thread
from gpubench.engines.logistic import Sums

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.timeline import Timeline

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

    def sum_over_cells(self, weights: NDArray[np.float32], intercepts: NDArray[np.float32]) -> Sums:
        """Every thread takes each n_threads-th part; the parts are added in their own order."""
        sums: list[Sums | None] = [None] * len(self._parts)

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
    ) -> Sums:
        sums = Sums(0.0, np.zeros(weights.shape), np.zeros(len(intercepts)))
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

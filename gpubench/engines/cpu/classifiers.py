"""Logistic regression of the CPU engine; `forest.py` has its random forests."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from gpubench.engines.common.blas import one_blas_thread
from gpubench.engines.common.logistic import LogisticRegression, LossSums, Objective
from gpubench.engines.cpu.tuning import DEFAULT, CpuTuning

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.core.timeline import Timeline
    from gpubench.core.types import F32, F64


MIN_TILE_ROWS = 256
MAX_PARTS = 64
"""Largest number of parts into which the cells are split; limits the memory of sums and the threads that share them."""


class CpuLogisticRegression(LogisticRegression):
    """Logistic regression on the CPU; `n_threads` threads share the cells. See `LogisticRegression`."""

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
    """Objective of logistic regression that several threads sum over tiles of cells."""

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
        """See `Objective.sum_over_cells`; threads sum disjoint parts of the cells, which are added in a fixed order."""
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
    """Split n rows into tiles and these into at most `MAX_PARTS` parts; return the first rows of each part's tiles."""
    tiles = range(0, n, tile_rows)
    tiles_per_part = -(-len(tiles) // MAX_PARTS)
    return [tiles[i : i + tiles_per_part] for i in range(0, len(tiles), tiles_per_part)]

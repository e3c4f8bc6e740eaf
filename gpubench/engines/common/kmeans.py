"""k-means on any device: k-means++ centres, then Lloyd's steps until no cell changes its cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpubench.core.types import Array
from gpubench.engines.common import flop_counts
from gpubench.engines.common.columns import reduce_rows

if TYPE_CHECKING:
    from gpubench.core.types import I32
    from gpubench.engines.base import Engine

MAX_STEPS = 300


def kmeans(engine: Engine, x: Array, n_clusters: int) -> I32:
    """Cluster the rows of x (n, d) float32 with k-means and the engine's seed; (n,) int32 codes below `n_clusters`.

    k-means++ chooses the initial centres, each as the best of 2 + floor(log n_clusters) draws. At most 300 steps of
    Lloyd's algorithm follow, until no cell changes its cluster. A cluster that loses all cells stays empty.

    References
    ----------
    Arthur & Vassilvitskii (2007), doi:10.5555/1283383.1283494. Lloyd (1982), doi:10.1109/TIT.1982.1056489.
    """
    xp = engine.xp
    cells = _Cells(engine, _standardise(engine, x))
    codes = engine.to_host(cells.nearest(cells.draw_centres(n_clusters, np.random.default_rng(engine.seed))))
    for _ in range(MAX_STEPS):
        means = engine.group_means(cells.x, codes, n_clusters)
        new_codes = engine.to_host(cells.nearest(xp.asarray(means.astype(np.float32))))
        engine.timeline.count(flop_counts.assign(len(x), x.shape[1], n_clusters))
        if np.array_equal(new_codes, codes):
            break
        codes = new_codes
    return codes


def _standardise(engine: Engine, x: Array) -> Array:
    """Return the rows centred and scaled by a power of two, float32, so that squares neither overflow nor underflow."""
    xp = engine.xp
    centre = reduce_rows(xp, x, "sum", dtype=np.float64) / len(x)
    low, high = (reduce_rows(xp, x, name).astype(np.float64) for name in ("min", "max"))
    extent = float((high - low).max())
    unit = 2.0 ** np.ceil(np.log2(extent)) if extent > 0 else 1.0
    cells = xp.empty(x.shape, np.float32)

    def standardise(start: int, stop: int) -> None:
        cells[start:stop] = (x[start:stop] - centre) / unit  # float64, of some rows at a time

    engine.over_rows(len(x), standardise, x.shape[1])
    return cells


class _Cells:
    """The cells to cluster, with the distance computations that k-means needs.

    Attributes
    ----------
    x : (n, d) float32
    """

    def __init__(self, engine: Engine, x: Array) -> None:
        self.x = x
        self._xp = engine.xp
        self._over_rows = engine.over_rows
        self._squares = engine.xp.empty(len(x), np.float32)

        def square(start: int, stop: int) -> None:
            self._squares[start:stop] = engine.xp.square(x[start:stop]).sum(axis=1)

        engine.over_rows(len(x), square, x.shape[1])

    def nearest(self, centres: Array) -> Array:
        """Return the index of the nearest centre of each row, the first if several are as near; ignores NaN centres."""
        xp = self._xp
        squares = xp.square(centres).sum(axis=1)
        empty = ~xp.isfinite(squares)
        squares[empty] = np.inf
        centres = xp.where(empty[:, None], np.float32(0), centres)
        codes = xp.empty(len(self.x), np.int32)

        def assign(start: int, stop: int) -> None:
            # |x|^2 is the same for all centres
            codes[start:stop] = (squares - 2 * (self.x[start:stop] @ centres.T)).argmin(axis=1)

        self._over_rows(len(self.x), assign, len(centres))
        return codes

    def draw_centres(self, n_clusters: int, rng: np.random.Generator) -> Array:
        """Choose initial centres by k-means++: of a few cells drawn by squared distance, keep the best."""
        xp, n = self._xp, len(self.x)
        n_trials = 2 + int(np.log(n_clusters))
        chosen = [int(rng.integers(n))]
        closest = self._squared_distances(self.x[chosen[0] : chosen[0] + 1])[:, 0]
        for _ in range(n_clusters - 1):
            cumulative = xp.cumsum(closest, dtype=np.float64)
            draws = xp.asarray(rng.random(n_trials)) * cumulative[-1]
            drawn = xp.minimum(xp.searchsorted(cumulative, draws, side="right"), n - 1)
            distances = xp.minimum(self._squared_distances(self.x[drawn]), closest[:, None])
            best = int(reduce_rows(xp, distances, "sum", dtype=np.float64).argmin())
            chosen.append(int(drawn[best]))
            closest = distances[:, best]
        return self.x[xp.asarray(np.array(chosen))]

    def _squared_distances(self, centres: Array) -> Array:
        """Return the squared distances of all rows to the centres, (n, n_centres) float32, not negative."""
        squares = self._xp.square(centres).sum(axis=1)
        distances = self._xp.empty((len(self.x), len(centres)), np.float32)

        def measure(start: int, stop: int) -> None:
            products = self.x[start:stop] @ centres.T
            tile = self._squares[start:stop, None] - 2 * products + squares
            distances[start:stop] = self._xp.maximum(tile, 0)

        self._over_rows(len(self.x), measure, len(centres))
        return distances

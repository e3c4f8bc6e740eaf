"""Approximate neighbours for millions of cells on the GPU: lists of cells, each searched with the nearest lists.

k-means cuts the cells into sqrt(n) lists. The cells of a list are compared with those of the lists whose centres are
nearest to its own, by the tiles of the exact search; distances are exact, in float64 before they are rounded, and the
recall is measured on a sample of cells. n * N_PROBE * sqrt(n) pairs are compared instead of n^2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpubench.core.types import Array, Knn
from gpubench.engines import planner
from gpubench.engines.common.knn_search import sample_of, share_found
from gpubench.engines.cuda import exact_knn, tables
from gpubench.engines.cuda.exact_knn import Search
from gpubench.engines.cuda.tiles import FLOAT32, cascade, make_operand

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.core.timeline import Timeline
    from gpubench.engines.cuda.device import Device

EXACT_UP_TO = 4_000_000
"""Cells up to which every pair is compared unless another method is named."""

N_PROBE = 64
CELLS_PER_CENTRE = 64
"""Cells that k-means sees for each list."""

ITERATIONS = 10


def fits(n: int, d: int, k: int, room_bytes: int) -> bool:
    """Whether the cells sorted by list fit beside their graph."""
    return _needed_bytes(n, d, k) <= room_bytes


def _needed_bytes(n: int, d: int, k: int) -> int:
    return 4 * n * d + 8 * n * k + 32 * n


def ivf_knn(device: Device, x: Array, k: int, *, seed: int, precision: str, room_bytes: int, timeline: Timeline) -> Knn:
    """Find neighbours of each cell among the cells of the `N_PROBE` lists around its own.

    Raises
    ------
    InputError
        More neighbours than a block of the GPU can sort, or cells and graph that do not fit.
    """
    n, d = x.shape
    exact_knn.check_k(k + 1)  # one more to measure the recall
    what = f"the approximate graph of {k} neighbours of {n:,} cells"
    planner.require(_needed_bytes(n, d, k), room_bytes, what, "use knn='exact', or fewer neighbours")
    lists = _Lists(device, x, int(np.sqrt(n)), seed, room_bytes)
    order = device.xp.asarray(lists.order)
    in_lists = x[order]
    search = Search(device, in_lists, in_lists, k, room_bytes - _needed_bytes(n, d, k), timeline, ids=order)
    spans, probed = lists.plan(k, search.edge)
    search.within(spans, probed, cascade(device, d, precision)[0])
    device.synchronize()
    sample = sample_of(n, seed)
    on_device = device.xp.asarray(sample)
    exact = exact_knn.knn_between(
        device, x[on_device], x, k + 1, precision=precision, room_bytes=room_bytes, timeline=timeline
    )
    recall = share_found(sample, *map(device.xp.asnumpy, (exact.indices, search.indices[on_device])))
    params = {"n_lists": lists.n_lists, "n_probe": min(N_PROBE, lists.n_lists)}
    return Knn(search.indices, search.distances, "ivf", params, recall)


class _Lists:
    """The cells in lists around centres.

    Attributes
    ----------
    n_lists : how many
    order : (n,) int32 cells by list, those of a list ascending
    """

    def __init__(self, device: Device, x: Array, n_lists: int, seed: int, room_bytes: int) -> None:
        self.n_lists = n_lists
        self._device = device
        self._origin = exact_knn.mean_of(device, x)
        self._scale = exact_knn.scale_of(device, [x], self._origin)
        self._values_a_tile = max(1, room_bytes // 32)
        self._centres = self._train(x, seed)
        codes = self._nearest_centres(x)
        self.order = np.argsort(codes, kind="stable").astype(np.int32)
        self._sizes = np.bincount(codes, minlength=n_lists)

    def _train(self, x: Array, seed: int) -> Array:
        """(n_lists, d) float32 centres by Lloyd's iterations on a sample; an empty list keeps its centre."""
        xp, random = self._device.xp, np.random.default_rng(seed)
        sample = np.sort(random.choice(len(x), min(len(x), CELLS_PER_CENTRE * self.n_lists), replace=False))
        cells = x[xp.asarray(sample)]
        self._centres = cells[xp.asarray(np.sort(random.choice(len(sample), self.n_lists, replace=False)))]
        for _ in range(ITERATIONS):
            codes = self._nearest_centres(cells)
            order = xp.asarray(np.argsort(codes, kind="stable").astype(np.int32))
            starts = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=self.n_lists))]).astype(np.int64)
            means = tables.group_means(self._device, cells, order, xp.asarray(starts)).astype(np.float32)
            self._centres = xp.where(xp.isfinite(means), means, self._centres)
        return self._centres

    def _nearest_centres(self, x: Array) -> NDArray[np.int64]:
        """(n,) the nearest centre of each cell, the first of equally near ones."""
        xp, device = self._device.xp, self._device
        centres = make_operand(device, self._scaled(self._centres), FLOAT32)
        step = max(1, self._values_a_tile // (len(centres.right) + x.shape[1]))
        codes = np.empty(len(x), np.int64)
        for start in range(0, len(x), step):
            cells = self._scaled(x[start : start + step])
            tile = xp.empty((len(cells), len(centres.right)), np.float32)
            device.product(cells, centres.right, tile, tensor_cores=False)
            keys = tile[:, : self.n_lists] + centres.squares.astype(np.float32)
            codes[start : start + len(cells)] = xp.asnumpy(keys.argmin(axis=1))
        return codes

    def _scaled(self, cells: Array) -> Array:
        rows = cells - self._origin
        rows *= np.float32(self._scale)
        return rows

    def plan(self, k: int, edge: int) -> tuple[list[tuple[int, int]], list[list[int]]]:
        """Spans of at most `edge` cells in the order of the lists, and for each the spans to search.

        Those of the nearest `N_PROBE` lists, and of more where these hold no k other cells.
        """
        stops = np.cumsum(self._sizes)
        spans: list[tuple[int, int]] = []
        spans_of: list[list[int]] = []
        for start, stop in zip(stops - self._sizes, stops, strict=True):
            cut = [(int(first), int(min(first + edge, stop))) for first in range(start, stop, edge)]
            spans_of.append(list(range(len(spans), len(spans) + len(cut))))
            spans += cut
        centres = np.asarray(self._device.xp.asnumpy(self._scaled(self._centres)), np.float64)
        probed: list[list[int]] = []
        for own, of_own in enumerate(spans_of):
            nearest = np.argsort(((centres - centres[own]) ** 2).sum(axis=1), kind="stable")
            enough = int(np.searchsorted(np.cumsum(self._sizes[nearest]), k + 1)) + 1
            chosen = [span for other in nearest[: max(N_PROBE, enough)] for span in spans_of[other]]
            probed += [chosen] * len(of_own)
        return spans, probed

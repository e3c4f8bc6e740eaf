"""Approximate neighbours for millions of cells on the GPU: an inverted file of lists of cells (IVF).

k-means assigns the cells to sqrt(n) lists. The cells of a list are compared with those of the `n_probe` lists whose
centres are nearest to its own, by the tiles of the exact search: n * n_probe * sqrt(n) pairs instead of n^2. Distances
are exact, in float64 before they are rounded, and the recall is measured on a sample of cells.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from gpubench.core.types import Array, Knn
from gpubench.engines import planner
from gpubench.engines.common.knn_search import Scaling, locality_order
from gpubench.engines.cuda import exact_knn, tables
from gpubench.engines.cuda.arithmetic import FLOAT32, cascade
from gpubench.engines.cuda.tiles import CellScaling, Operand
from gpubench.engines.cuda.workspace import Workspace, row_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

LISTS_TOGETHER = 8
"""Number of lists per part within which the order by nearness is not refined."""


def needed_bytes(n: int, d: int, k: int) -> int:
    """Return the bytes of a copy of the cells sorted by list, of the neighbour graph and of each cell's list."""
    return 4 * n * d + 8 * n * k + 32 * n


def ivf_knn(workspace: Workspace, x: Array, k: int, *, seed: int) -> Knn:
    """Find approximate neighbours of each cell among the cells of the lists nearest to its own list.

    Raises
    ------
    InputError
        k is larger than `MAX_K`, or the sorted cells and the graph do not fit in memory.
    """
    xp, (n, d) = workspace.device.xp, x.shape
    exact_knn.check_k(k + 1)  # one more to measure the recall
    n_bytes = needed_bytes(n, d, k)
    what = f"the approximate graph of {k} neighbours of {n:,} cells"
    planner.require(n_bytes, workspace.room_bytes, what, "use knn='exact', or fewer neighbours")
    lists = InvertedLists(workspace, x, int(np.sqrt(n)), seed)
    order = xp.asarray(lists.order)
    sorted_x = x[order]
    inner = replace(workspace, room_bytes=workspace.room_bytes - n_bytes)
    search = exact_knn.KnnSearch(inner, sorted_x, sorted_x, k, ids=order)
    search.search_spans(*lists.plan(k, search.edge), cascade(workspace.device, d, workspace.precision)[0])
    workspace.device.synchronize()
    recall = exact_knn.sampled_recall(workspace, x, search.indices, seed)
    params = {"n_lists": lists.n_lists, "n_probe": min(workspace.tuning.n_probe, lists.n_lists)}
    return Knn(search.indices, search.distances, "ivf", params, recall)


class InvertedLists:
    """Inverted file: each cell belongs to the list of its nearest k-means centre.

    Attributes
    ----------
    n_lists : number of lists
    order : (n,) int32, indices of the cells sorted by list, ascending within a list
    """

    def __init__(self, workspace: Workspace, x: Array, n_lists: int, seed: int) -> None:
        xp = workspace.device.xp
        self.n_lists = n_lists
        self._workspace, self._xp = workspace, xp
        self._scaling = CellScaling.of(workspace, x)
        self._centres = self._train(x, seed)
        self._centres = self._centres[xp.asarray(self._near_order(seed))]
        codes = self._nearest_centres(x)
        self.order = np.argsort(codes, kind="stable").astype(np.int32)
        self._sizes = np.bincount(codes, minlength=n_lists)

    def _train(self, x: Array, seed: int) -> Array:
        """Return centres (n_lists, d) float32 from Lloyd's algorithm on a sample; the centre of an empty list stays."""
        xp, tuning, random = self._xp, self._workspace.tuning, np.random.default_rng(seed)
        size = min(len(x), tuning.cells_per_centre * self.n_lists)
        cells = x[xp.asarray(np.sort(random.choice(len(x), size, replace=False)))]
        self._centres = cells[xp.asarray(np.sort(random.choice(size, self.n_lists, replace=False)))]
        for _ in range(tuning.kmeans_steps):
            codes = self._nearest_centres(cells)
            means = tables.group_means(self._workspace.device, cells, codes, self.n_lists).astype(np.float32)
            self._centres = xp.where(xp.isfinite(means), means, self._centres)
        return self._centres

    def _near_order(self, seed: int) -> NDArray[np.int64]:
        """Return the lists in an order in which near lists follow one another, so that operands are reused."""
        centres = self._xp.asnumpy(self._centres)
        return locality_order(centres, Scaling(centres, centres), LISTS_TOGETHER, seed)

    def _nearest_centres(self, x: Array) -> NDArray[np.int64]:
        """Return the index of the nearest centre of each cell, (n,); the first if several are equally near."""
        xp, centres = self._xp, self._centre_operand()
        step = max(1, self._workspace.room_bytes // 32 // (len(centres.right) + x.shape[1]))
        codes = np.empty(len(x), np.int64)
        for rows in row_blocks(len(x), step):
            codes[rows] = xp.asnumpy(self._keys(centres, x[rows]).argmin(axis=1))
        return codes

    def _centre_operand(self) -> Operand:
        return Operand.of(self._workspace.device, self._scaling.rows(self._xp, self._centres), FLOAT32)

    def _keys(self, centres: Operand, cells: Array) -> Array:
        """Return |x - c|^2 - |x|^2 for cells x and all centres c, (m, n_lists)."""
        xp, device, width = self._xp, self._workspace.device, len(centres.right)
        tile = centres.products(device, self._scaling.rows(xp, cells), xp.empty(len(cells) * width, np.float32))
        return tile[:, : self.n_lists] + centres.squares.astype(np.float32)

    def plan(self, k: int, edge: int) -> tuple[list[slice], list[list[int]]]:
        """Return spans of at most `edge` cells in the order of the lists, and for each the spans to compare it with.

        A span is compared with those of the `n_probe` nearest lists, and of further ones until these have k other
        cells.
        """
        stops = np.cumsum(self._sizes).tolist()
        spans: list[slice] = []
        spans_of_list: list[range] = []
        for start, stop in zip([0, *stops], stops, strict=False):
            first = len(spans)
            spans += row_blocks(stop, edge, start)
            spans_of_list.append(range(first, len(spans)))
        probed: list[list[int]] = []
        for own_spans, nearest in zip(spans_of_list, self._nearest_lists(), strict=True):
            enough = int(np.searchsorted(np.cumsum(self._sizes[nearest]), k + 1)) + 1
            n_lists = max(self._workspace.tuning.n_probe, enough)
            probed += [[span for other in nearest[:n_lists] for span in spans_of_list[other]]] * len(own_spans)
        return spans, probed

    def _nearest_lists(self) -> Iterator[NDArray[np.int64]]:
        """Yield for each list all lists ordered by distance between centres, the list itself first."""
        xp, centres = self._xp, self._centre_operand()
        step = max(1, self._workspace.room_bytes // 32 // (len(centres.right) + self._centres.shape[1]))
        for rows in row_blocks(self.n_lists, step):
            keys = self._keys(centres, self._centres[rows])
            own = xp.arange(rows.start, rows.stop)
            keys[own - rows.start, own] = -np.inf
            yield from xp.asnumpy(xp.argsort(keys, axis=1))

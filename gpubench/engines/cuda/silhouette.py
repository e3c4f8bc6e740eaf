"""Mean distances from cells to clusters on the GPU, for silhouettes.

Cosine distances have a closed form in the means of unit vectors. Euclidean distances are summed over symmetric tiles of
cells sorted by (group, cluster): `segments` describes how cells are sorted, cut into blocks and summed; the kernel
`silhouette_tile` turns the products of two blocks into distances and sums them in fixed point. Blocks are centred on
the mean of their panel. Between panels with means m and m', with g = m - m', the same products serve
|x - y|^2 = |x + g|^2 + (|y|^2 - 2 y.g) - 2 x.y, so no block is centred twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpubench.core.types import Array
from gpubench.engines import planner
from gpubench.engines.common.columns import reduce_rows
from gpubench.engines.common.knn_search import power_of_two_scale
from gpubench.engines.common.segments import DistanceSums, Pass, Segments, cut, isolate, marked_last, panels, passes
from gpubench.engines.cuda.arithmetic import VALUES_PER_GROUP, cascade
from gpubench.engines.cuda.signatures import WARP
from gpubench.engines.cuda.tables import sorted_group_means
from gpubench.engines.cuda.tiles import CellScaling, Operand, Operands, mean_of, tile_rows
from gpubench.engines.cuda.workspace import Workspace, row_blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.cuda.device import Device

STRIP_ROWS, STRIP_COLUMNS = 32, 128
"""Numbers of rows and columns of a tile that a warp of `silhouette_tile` processes."""

SUM_BITS = 60
"""Bits of a sum; the others keep the shift from the unit of a tile within the range of the kernel."""

DISTANCE_BITS = 23
"""Bits of a distance in the unit of its tile: float32 has no more."""

FAR = 16.0
"""Cells this many times farther from their mean than the median get blocks of their own.

Distances below a share of the squared radius of their blocks are recomputed one by one, so a cell at 60 times the usual
radius would make that most distances of its block.
"""

ROWS_TOGETHER = 8
"""Number of blocks whose tiles are computed together, so that the operand of each column is made once for all."""

MARGIN = 1.02
"""Factor by which rounding may increase a distance of a tile beyond the distance of its blocks."""


class DirectionClusters(NamedTuple):
    """Clusters of unit vectors, from which mean cosine distances follow.

    Attributes
    ----------
    means : (c, d) float64, mean of the unit vectors of each cluster
    spread : (c,) float64, mean squared distance of the unit vectors of each cluster to their mean
    share_directions, share_zeros : (c,) shares of a cluster's cells that are unit vectors and zero vectors; zero
        vectors are at distance 1 from all cells
    """

    means: Array
    spread: Array
    share_directions: Array
    share_zeros: Array

    def take(self, clusters: slice) -> DirectionClusters:
        """Return the selected clusters."""
        return DirectionClusters(*(column[clusters] for column in self))

    def nearest(self, device: Device, cells: Array, own: Array) -> Array:
        """Return the mean distance of each unit vector (m, d) to its nearest cluster other than `own` (m,); (m,)."""
        xp = device.xp
        products = xp.empty((len(cells), len(self.means)), np.float32)
        device.product(cells, self.means.astype(np.float32), products, tensor_cores=False)
        lengths = xp.square(cells).sum(axis=1, dtype=np.float64)[:, None] + xp.square(self.means).sum(axis=1)
        distances = xp.maximum(lengths - 2.0 * products, 0)
        distances = self.share_directions / 2 * (distances + self.spread) + self.share_zeros
        distances[xp.arange(len(cells)), own] = np.inf
        # products find the cluster, differences its distance: float32 products are off by 1e-7, however small it is
        best = distances.argmin(axis=1)
        distance = xp.square(cells - self.means[best]).sum(axis=1)
        return self.share_directions[best] / 2 * (distance + self.spread[best]) + self.share_zeros[best]


def cosine_means(workspace: Workspace, x: Array, segments: Segments) -> tuple[Array, Array]:
    """Return the mean distance of each cell to its own and to the nearest other cluster; (n,) float64 in sorted order.

    Raises
    ------
    InputError
        A second copy of the embedding does not fit in memory.
    """
    device, xp, values = workspace.device, workspace.device.xp, workspace.tuning.float64_values
    n, d = x.shape
    planner.require(4 * n * d, workspace.room_bytes, f"unit vectors of {n:,} x {d} cells")
    unit, is_zero = _centred_directions(workspace, x, segments)
    in_order, starts, sizes = xp.arange(n, dtype=np.int32), xp.asarray(segments.starts), xp.asarray(segments.sizes)

    def segment_means(columns: Array) -> Array:
        return sorted_group_means(device, columns.astype(np.float32), in_order, starts)

    n_zeros = xp.rint(segment_means(is_zero[:, None])[:, 0] * sizes)
    n_directions = sizes - n_zeros
    rescale = sizes / xp.maximum(n_directions, 1)  # zero vectors count as 0 in the means of the kernel
    means = segment_means(unit) * rescale[:, None]
    segment = xp.repeat(xp.arange(len(sizes)), segments.sizes.tolist())
    to_own = xp.empty(n)
    for rows in row_blocks(n, values // d):
        to_own[rows] = xp.square(unit[rows] - means[segment[rows]]).sum(axis=1)
    to_own[is_zero] = 0
    spread = segment_means(to_own[:, None])[:, 0] * rescale
    own = n_directions[segment] / 2 * (to_own + spread[segment]) + n_zeros[segment]
    own /= xp.maximum(sizes - 1, 1)[segment]
    own[is_zero] = 1
    clusters = DirectionClusters(means, spread, n_directions / sizes, n_zeros / sizes)
    nearest = xp.full(n, np.inf)
    for first, last in segments.group_spans():
        if last - first == 1:
            continue
        group, step = clusters.take(slice(first, last)), values // max(last - first, d)
        for rows in row_blocks(int(segments.starts[last]), step, int(segments.starts[first])):
            nearest[rows] = group.nearest(device, unit[rows], segment[rows] - first)
    nearest[is_zero & xp.isfinite(nearest)] = 1
    return own, nearest


def _centred_directions(workspace: Workspace, x: Array, segments: Segments) -> tuple[Array, Array]:
    """Return in sorted order unit vectors minus their group's mean (n, d) float32, and which are zero vectors (n,)."""
    xp, step = workspace.device.xp, workspace.tuning.float64_values // x.shape[1]
    order = xp.asarray(segments.order)
    unit, is_zero = xp.empty(x.shape, np.float32), xp.empty(len(x), np.bool_)
    for first, last in segments.group_spans():
        blocks = list(row_blocks(int(segments.starts[last]), step, int(segments.starts[first])))
        mean = mean_of(xp, (_directions(xp, x[order[rows]])[0] for rows in blocks), x.shape[1])
        for rows in blocks:
            directions, zero = _directions(xp, x[order[rows]])
            directions -= mean
            directions[zero] = 0
            unit[rows], is_zero[rows] = directions, zero
    return unit, is_zero


def _directions(xp: Any, cells: Array) -> tuple[Array, Array]:
    """Return cells scaled to norm 1, (m, d) float64, except for zero vectors, and which are zero vectors (m,)."""
    rows = cells.astype(np.float64)
    # divided by the largest value first, so that squares neither overflow nor underflow
    largest = xp.abs(rows).max(axis=1)
    zero = largest == 0
    rows /= xp.where(zero, 1.0, largest)[:, None]
    rows /= xp.where(zero, 1.0, xp.sqrt(xp.square(rows).sum(axis=1)))[:, None]
    return rows, zero


def euclidean_means(workspace: Workspace, x: Array, segments: Segments) -> tuple[Array, Array]:
    """Return the mean distance of each cell to its own and to the nearest other cluster; (n,) float64 in sorted order.

    Raises
    ------
    InputError
        The sums of distances of one cluster do not fit in memory.
    """
    xp = workspace.device.xp
    own, nearest = xp.zeros(len(x)), xp.full(len(x), np.inf)
    tiles = SilhouetteTiles(workspace, x, segments)
    n_tiles = sum(part.group_last - i for part in tiles.plan for i in range(part.first, part.last))
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        workspace.timeline.advance(done, n_tiles)

    for part in tiles.plan:
        sums = tiles.empty_sums(xp, part)
        tiles.add_rows(range(part.first, part.last), part.group_last, sums, advance)
        sums.write_means(own, nearest)
    return tiles.in_given_order(xp, own), tiles.in_given_order(xp, nearest)


class SilhouetteTiles:
    """Compute the tiles of Euclidean distances of one embedding and sum them; see `segments` for the terms.

    Attributes
    ----------
    segments : segments of the sorted cells; in each, cells far from their panel's mean come last
    plan : passes over the cells, whose sums are in memory at the same time
    blocks : blocks of sorted cells, between which the tiles are computed
    scale : factor, a power of two, by which cells are scaled to be operands of products
    reach : upper bound of the distance between two scaled cells
    """

    def __init__(self, workspace: Workspace, x: Array, segments: Segments) -> None:
        xp, edge = workspace.device.xp, tile_rows(workspace)
        self.segments = segments
        self._moved: NDArray[np.int64] | None = None  # the position in the given segments of each cell
        self._workspace, self._device, self._x = workspace, workspace.device, x
        self._order = xp.asarray(segments.order.astype(np.int32))
        extent = float((reduce_rows(xp, x, "max").astype(np.float64) - reduce_rows(xp, x, "min")).max())
        self.scale = power_of_two_scale(extent)
        self.reach = MARGIN * extent * self.scale * float(np.sqrt(x.shape[1]))
        # silhouettes average over many cells, so the fastest arithmetic is accurate enough
        self._arithmetic = cascade(self._device, x.shape[1], workspace.precision)[0]
        self.blocks = cut(segments, edge)
        self._make_operands(edge, None)
        squares = xp.concatenate([self._operands[b].squares for b in range(len(self.blocks))])
        usual = float(xp.median(squares))
        if float(squares.max()) > FAR**2 * usual > 0:
            # the unit of a tile depends on its farthest cells, so these get tiles of their own
            far = xp.asnumpy(squares > FAR**2 * usual)
            self._moved = marked_last(segments, far)
            segments = self.segments = replace(segments, order=segments.order[self._moved])
            self._order, far = xp.asarray(segments.order.astype(np.int32)), far[self._moved]
            self.blocks = isolate(segments, self.blocks, far)
            self._make_operands(edge, xp.asarray(~far))
        # the segment of each sorted cell, relative to the first segment of its block
        first = np.repeat([block.first for block in self.blocks], [block.stop - block.start for block in self.blocks])
        codes = np.repeat(np.arange(len(segments.sizes)), segments.sizes) - first
        self._codes = xp.asarray(codes.astype(np.int32))
        self._radii = np.sqrt(xp.asnumpy(xp.stack([self._operands[b].squares.max() for b in range(len(self.blocks))])))
        self._buffer = xp.empty(edge * (edge + VALUES_PER_GROUP), np.float32)
        self.plan = list(passes(segments, self.blocks, workspace.room_bytes // 4))
        for part in self.plan:
            what = f"the sums of distances from one cluster to {len(segments.sizes):,} clusters"
            n_bytes = DistanceSums.n_bytes(self.blocks, part)
            planner.require(n_bytes, workspace.room_bytes // 2, what, "use fewer clusters")

    def _make_operands(self, edge: int, counted: Array | None) -> None:
        """Prepare operands of blocks centred on panel means, computed from the `counted` cells, or all if None."""
        means = self._panel_means(edge, counted)
        # the gap between panels is that of the means that are subtracted: rounded to float32
        self._means = np.asarray(self._device.xp.asnumpy(means), np.float64) * self.scale
        spans = [slice(block.start, block.stop) for block in self.blocks]
        scalings = [CellScaling(means[block.panel], self.scale) for block in self.blocks]
        self._operands = Operands(self._workspace, self._x, spans, scalings, self._arithmetic, order=self._order)

    def _panel_means(self, edge: int, counted: Array | None) -> Array:
        """Return the means (p, d) float32 of the counted cells of each panel, or of all if none of them is counted."""
        xp = self._device.xp
        means = []
        for start, stop in panels(self.blocks):
            if counted is not None and not bool(counted[start:stop].any()):
                counted[start:stop] = True
            blocks = row_blocks(stop, edge, start)
            cells = (self._order[rows] if counted is None else self._order[rows][counted[rows]] for rows in blocks)
            means.append(mean_of(xp, (self._x[chosen] for chosen in cells), self._x.shape[1]))
        return xp.stack(means).astype(np.float32)

    def empty_sums(self, xp: Any, part: Pass) -> DistanceSums:
        """Return sums of 0 for a pass, as arrays of the array module `xp`."""
        return DistanceSums(xp, self.segments, self.blocks, part, self.reach, SUM_BITS)

    def in_given_order(self, xp: Any, distances: Array) -> Array:
        """Return distances of unscaled cells in the sorted order that the class was created with."""
        if self._moved is None:
            return distances / self.scale
        ordered = xp.empty(len(distances))
        ordered[xp.asarray(self._moved)] = distances / self.scale
        return ordered

    def add_rows(
        self, rows: Sequence[int], last: int, sums: DistanceSums, advance: Callable[[int], None] | None = None
    ) -> None:
        """Add to `sums` the tiles between each block of `rows` and the blocks from itself up to, but without, `last`.

        Parameters
        ----------
        rows : ascending indices of blocks
        last : end of the range of blocks
        sums : sums of distances of one pass
        advance : called with the number of tiles added since the last call
        """
        together = self._workspace.room_bytes // 16 // (2 * self._operands.block_bytes)
        step = max(1, min(ROWS_TOGETHER, together))
        for first in range(0, len(rows), step):
            chosen = rows[first : first + step]
            strip = _Strip({i: self._operands[i] for i in chosen})
            left = {i: row.left(self._device) for i, row in strip.rows.items()}
            for j in range(chosen[0], last):
                above, column = [i for i in chosen if i <= j], self._operands[j]
                for i, apart, terms in self._terms(strip, above, column, self.blocks[j].panel):
                    products = column.products(self._device, left[i], self._buffer)
                    self._add_tile(i, j, products, apart, terms, sums)
                if advance:
                    advance(len(above))

    def _terms(
        self, strip: _Strip, rows: list[int], column: Operand, panel: int
    ) -> Iterator[tuple[int, float, tuple[Array, Array]]]:
        """Yield for each block of `rows` its index, the distance of its mean from the column's, and terms of distances.

        The terms of rows and columns are added to the products to obtain squared distances.
        """
        if panel != strip.panel:
            strip.panel, strip.gaps, strip.row_terms = panel, {}, {}
        column_terms: dict[int, Array] = {}
        for i in rows:
            own_panel = self.blocks[i].panel
            if own_panel not in strip.gaps:
                strip.gaps[own_panel] = self._gap(own_panel, panel)
            gap = strip.gaps[own_panel]
            if i not in strip.row_terms:
                strip.row_terms[i] = gap.row_terms(self._device, strip.rows[i])
            if own_panel not in column_terms:
                column_terms[own_panel] = gap.column_terms(self._device, column)
            yield i, gap.length, (strip.row_terms[i], column_terms[own_panel])

    def _gap(self, panel: int, other: int) -> _Gap:
        difference = self._means[panel] - self._means[other]
        length = float(np.linalg.norm(difference))
        return _Gap(length, self._device.xp.asarray(difference.astype(np.float32)) if length > 0 else None)

    def _add_tile(
        self, i: int, j: int, products: Array, apart: float, terms: tuple[Array, Array], sums: DistanceSums
    ) -> None:
        rows, columns = self.blocks[i], self.blocks[j]
        reach = min(MARGIN * float(self._radii[i] + self._radii[j] + apart), self.reach)
        unit, shift = _units(reach, sums.unit)
        close = self._arithmetic.close * float((self._radii[i] + apart) ** 2 + self._radii[j] ** 2)
        row_sums, column_sums = sums.between(rows, columns), sums.between(columns, rows)
        n_rows, n_columns = rows.stop - rows.start, columns.stop - columns.start
        self._device.launch(
            "silhouette_tile",
            WARP * -(-n_rows // STRIP_ROWS) * -(-n_columns // STRIP_COLUMNS),
            *(products, products.shape[1], *terms),
            *(self._codes[rows.start : rows.stop], self._codes[columns.start : columns.stop]),
            *(n_rows, n_columns, rows.start, columns.start),
            *(self._x, self._order, self._x.shape[1], self.scale, close, unit, shift, int(i != j)),
            *(row_sums, row_sums.strides[0] // 8, column_sums, column_sums.strides[0] // 8),
        )


class _Gap(NamedTuple):
    """Difference between the panel means on which the rows and the columns of a tile are centred.

    Attributes
    ----------
    length : norm of the difference, for scaled cells
    direction : (d,) float32, the difference; None if it is 0
    """

    length: float
    direction: Array | None

    def row_terms(self, device: Device, row: Operand) -> Array:
        """Return the term of squared distances that depends on the row of a tile, (n,) float32."""
        if self.direction is None:
            return row.squares.astype(np.float32)
        return (row.squares - row.along(device, self.direction) + self.length**2).astype(np.float32)

    def column_terms(self, device: Device, column: Operand) -> Array:
        """Return the term of squared distances that depends on the column of a tile, (n,) float32."""
        if self.direction is None:
            return column.squares.astype(np.float32)
        return (column.squares + column.along(device, self.direction)).astype(np.float32)


@dataclass(slots=True)
class _Strip:
    """Several blocks whose tiles with a column are computed one after another, and cached terms of these tiles.

    Attributes
    ----------
    rows : operand of each block, by block index
    panel : panel of the columns for which terms are cached
    gaps : difference between the means of a panel of rows and of `panel`, by panel of rows
    row_terms : terms of squared distances that depend on the row, by block index
    """

    rows: dict[int, Operand]
    panel: int = -1
    gaps: dict[int, _Gap] = field(default_factory=dict)
    row_terms: dict[int, Array] = field(default_factory=dict)


def _units(reach: float, unit_of_sums: float) -> tuple[float, int]:
    """Return the fixed-point factor, a power of two, of a tile, and the bits to shift to that of the sums."""
    sums_exponent = int(np.log2(unit_of_sums))
    exponent = int(np.floor(DISTANCE_BITS - np.log2(reach))) if reach > 0 else sums_exponent
    exponent = min(exponent, sums_exponent)
    return float(2.0**exponent), sums_exponent - exponent

"""Mean distances to clusters on the GPU, Euclidean: symmetric tiles over cells sorted by (group, cluster).

How cells are sorted, cut into blocks and summed up is in `segments`; the kernel `silhouette_tile` turns the products of
two blocks into distances and adds them up in fixed point. Blocks are centred on their panel's mean. Between panels with
means m and m', with g = m - m', the same products serve |x - y|^2 = |x + g|^2 + (|y|^2 - 2 y.g) - 2 x.y, so no block
is centred anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.types import Array
from gpubench.engines import planner
from gpubench.engines.common.segments import Block, Pass, Segments, Sums, cut, isolate, panels, passes
from gpubench.engines.cuda.signatures import STRIP_BYTES
from gpubench.engines.cuda.tables import group_means
from gpubench.engines.cuda.tiles import ALIGN_COLUMNS, Operand, Operands, cascade, power_of_two_scale, tile_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.core.timeline import Timeline
    from gpubench.engines.cuda.device import Device


PIECE_VALUES = 1 << 24
"""Values that stand in float64 at a time."""


def cosine_means(device: Device, x: Array, segments: Segments, *, room_bytes: int) -> tuple[Array, Array]:
    """Mean distance of each cell to its own cluster and to the nearest other one; (n,) float64 in sorted order.

    Raises
    ------
    InputError
        A second copy of the embedding does not fit.
    """
    xp = device.xp
    n, d = x.shape
    planner.require(4 * n * d, room_bytes, f"unit vectors of {n:,} x {d} cells")
    order = xp.asarray(segments.order)
    unit, is_zero = _centred_directions(device, x, order, segments)
    in_order, starts = xp.arange(n, dtype=np.int32), xp.asarray(segments.starts)
    sizes = xp.asarray(segments.sizes)
    # zero vectors count as 0 in the means of the kernel, so they are scaled to those of the others
    n_zeros = xp.rint(group_means(device, is_zero.astype(np.float32)[:, None], in_order, starts)[:, 0] * sizes)
    share = sizes / xp.maximum(sizes - n_zeros, 1)
    means = group_means(device, unit, in_order, starts) * share[:, None]
    segment = xp.repeat(xp.arange(len(sizes)), segments.sizes.tolist())
    to_own = xp.empty(n)
    for rows in _pieces(n, d):
        to_own[rows] = xp.square(unit[rows] - means[segment[rows]]).sum(axis=1)
    to_own[is_zero] = 0
    spread = group_means(device, to_own.astype(np.float32)[:, None], in_order, starts)[:, 0] * share
    n_directions = sizes - n_zeros
    own = n_directions[segment] / 2 * (to_own + spread[segment]) + n_zeros[segment]
    own /= xp.maximum(sizes - 1, 1)[segment]
    own[is_zero] = 1
    nearest = xp.full(n, np.inf)
    for first, last in segments.of_groups():
        if last - first > 1:
            group = slice(first, last)
            given = means[group], spread[group], n_directions[group] / sizes[group], n_zeros[group] / sizes[group]
            _nearest_of_group(device, unit, segments, first, last, segment, given, nearest)
    nearest[is_zero & xp.isfinite(nearest)] = 1
    return own, nearest


def _centred_directions(device: Device, x: Array, order: Array, segments: Segments) -> tuple[Array, Array]:
    """Unit vectors (n, d) float32 in sorted order around their group's mean, and (n,) which cells are zero vectors."""
    xp = device.xp
    n, d = x.shape
    unit, is_zero = xp.empty((n, d), np.float32), xp.empty(n, np.bool_)
    for first, last in segments.of_groups():
        start, stop = int(segments.starts[first]), int(segments.starts[last])
        total = xp.zeros(d)
        for rows in _pieces(stop, d, start):
            total += _directions(device, x, order[rows])[0].sum(axis=0)
        for rows in _pieces(stop, d, start):
            directions, zero = _directions(device, x, order[rows])
            directions -= total / (stop - start)
            directions[zero] = 0
            unit[rows], is_zero[rows] = directions, zero
    return unit, is_zero


def _directions(device: Device, x: Array, cells: Array) -> tuple[Array, Array]:
    """Unit vectors (m, d) float64, zero vectors as they are, and which are those."""
    xp = device.xp
    rows = x[cells].astype(np.float64)
    # divided by the largest value first, so that squares neither overflow nor vanish
    largest = xp.abs(rows).max(axis=1)
    zero = largest == 0
    rows /= xp.where(zero, 1.0, largest)[:, None]
    rows /= xp.where(zero, 1.0, xp.sqrt(xp.square(rows).sum(axis=1)))[:, None]
    return rows, zero


def _nearest_of_group(
    device: Device,
    unit: Array,
    segments: Segments,
    first: int,
    last: int,
    segment: Array,
    given: tuple[Array, Array, Array, Array],
    nearest: Array,
) -> None:
    """Write the smallest mean distance to another cluster of the group."""
    xp = device.xp
    means, spread, share_directions, share_zeros = given
    squares = xp.square(means).sum(axis=1)
    right = means.astype(np.float32)
    for rows in _pieces(int(segments.starts[last]), max(last - first, unit.shape[1]), int(segments.starts[first])):
        cells = unit[rows]
        products = xp.empty((len(cells), last - first), np.float32)
        device.product(cells, right, products, tensor_cores=False)
        distances = xp.maximum(xp.square(cells).sum(axis=1, dtype=np.float64)[:, None] + squares - 2.0 * products, 0)
        distances = share_directions / 2 * (distances + spread) + share_zeros
        distances[xp.arange(len(cells)), segment[rows] - first] = np.inf
        # products find the cluster, differences its distance: products of float32 know it to 1e-7 of 1, however small
        best = distances.argmin(axis=1)
        distance = xp.square(cells - means[best]).sum(axis=1)
        nearest[rows] = share_directions[best] / 2 * (distance + spread[best]) + share_zeros[best]


def _pieces(stop: int, width: int, start: int = 0) -> list[slice]:
    step = max(1, PIECE_VALUES // width)
    return [slice(first, min(first + step, stop)) for first in range(start, stop, step)]


TILE_THREADS = 128
STRIP_THREADS = 32
STRIP_ROWS, STRIP_COLUMNS = 32, 128

SUM_BITS = 60
"""Of a sum; what is left keeps the shift from the unit of a tile within what the kernel takes."""

DISTANCE_BITS = 23
"""Of a distance in the unit of its tile: float32 has no more."""

FAR = 64.0
"""Cells that many times as far from their mean as half of the cells are get blocks of their own."""

MARGIN = 1.02
"""Rounding may make a distance of a tile that much larger than the two blocks are apart."""


def euclidean_means(
    device: Device, x: Array, segments: Segments, *, precision: str, room_bytes: int, timeline: Timeline
) -> tuple[Array, Array]:
    """Mean distance of each cell to its own cluster and to the nearest other one; (n,) float64 in sorted order.

    Raises
    ------
    InputError
        The sums of one cluster do not fit.
    """
    xp = device.xp
    own, nearest = xp.zeros(len(x)), xp.full(len(x), np.inf)
    tiles = Tiles(device, x, segments, precision, room_bytes)
    n_tiles = sum(_n_tiles(part) for part in tiles.plan)
    done = 0
    for part in tiles.plan:
        sums = tiles.empty_sums(xp, part)
        for i in range(part.first, part.last):
            tiles.add_row(i, part.group_last, sums)
            done += part.group_last - i
            timeline.advance(done, n_tiles)
        sums.fold_into(own, nearest)
    own /= tiles.scale
    nearest /= tiles.scale
    return own, nearest


def _n_tiles(part: Pass) -> int:
    return sum(part.group_last - i for i in range(part.first, part.last))


class Tiles:
    """The tiles of one embedding.

    Attributes
    ----------
    segments : of the cells
    plan : what is summed up at a time
    blocks : rows and columns of the tiles
    scale : multiplies cells into units of the operands, a power of two
    reach : no two cells are further apart than this, in units of the operands
    """

    def __init__(self, device: Device, x: Array, segments: Segments, precision: str, room_bytes: int) -> None:
        xp = device.xp
        self.segments = segments
        self._device, self._x = device, x
        self._keep_bytes = room_bytes // 4
        edge = tile_rows(room_bytes)
        self.blocks = cut(segments, edge)
        self._order = xp.asarray(segments.order.astype(np.int32))
        extent = float((x.max(axis=0).astype(np.float64) - x.min(axis=0)).max())
        self.scale = power_of_two_scale(extent)
        self.reach = MARGIN * extent * self.scale * float(np.sqrt(x.shape[1]))
        # silhouettes average over many cells, so the fastest arithmetic alone serves
        self._arithmetic = cascade(device, x.shape[1], precision)[0]
        self._prepare(edge, None)
        squares = xp.concatenate([self._operands[b].squares for b in range(len(self.blocks))])
        usual = float(xp.median(squares))
        if float(squares.max()) > FAR**2 * usual > 0:
            # A tile rounds its distances to what its farthest cells need, so those get tiles of their own.
            far = squares > FAR**2 * usual
            self.blocks = isolate(segments, self.blocks, xp.asnumpy(far))
            self._prepare(edge, ~far)
        self._codes = xp.asarray(_codes_in_blocks(segments, self.blocks))
        self._radii = np.sqrt(xp.asnumpy(xp.stack([self._operands[b].squares.max() for b in range(len(self.blocks))])))
        self._products = xp.empty(edge * (edge + ALIGN_COLUMNS), np.float32)
        self.plan = list(passes(segments, self.blocks, room_bytes // 4))
        for part in self.plan:
            what = f"the sums of distances from one cluster to {len(segments.sizes):,} clusters"
            planner.require(Sums.n_bytes(self.blocks, part), room_bytes // 2, what, "use fewer clusters")

    def _prepare(self, edge: int, counted: Array | None) -> None:
        """Make the operands of the blocks, around the means of the cells that count (None: all)."""
        means = self._panel_means(edge, counted)
        # panels are apart by the means as they are subtracted: rounded to float32
        self._means = np.asarray(self._device.xp.asnumpy(means), np.float64) * self.scale
        self._operands = Operands(
            self._device,
            self._x,
            [(block.start, block.stop) for block in self.blocks],
            means,
            [block.panel for block in self.blocks],
            self.scale,
            self._arithmetic,
            order=self._order,
            keep_bytes=self._keep_bytes,
        )

    def _panel_means(self, rows: int, counted: Array | None) -> Array:
        """(p, d) float32, summed in float64 block by block; a panel of which no cell counts has the mean of all."""
        xp = self._device.xp
        means = []
        for start, stop in panels(self.blocks):
            if counted is not None and not bool(counted[start:stop].any()):
                counted[start:stop] = True
            total, n = xp.zeros(self._x.shape[1]), 0
            for first in range(start, stop, rows):
                span = slice(first, min(first + rows, stop))
                part = self._order[span] if counted is None else self._order[span][counted[span]]
                total += self._x[part].sum(axis=0, dtype=np.float64)
                n += len(part)
            means.append(total / n)
        return xp.stack(means).astype(np.float32)

    def empty_sums(self, xp: Any, part: Pass) -> Sums:
        """Sums of a pass, in the memory of an array module."""
        return Sums(xp, self.segments, self.blocks, part, self.reach, SUM_BITS)

    def add_row(self, i: int, last: int, sums: Sums) -> None:
        """Add the tiles of block i with itself and with the blocks after it, up to `last`."""
        left = self._operands[i].left(self._device)
        for j in range(i, last):
            self._add(i, j, left, sums)

    def _add(self, i: int, j: int, left: Array, sums: Sums) -> None:
        device, rows, columns = self._device, self.blocks[i], self.blocks[j]
        row, column = self._operands[i], self._operands[j]
        width = column.right.shape[0]
        products = self._products[: row.n * width].reshape(row.n, width)
        device.product(left, column.right, products, tensor_cores=self._arithmetic.tensor_cores)
        gap = self._means[rows.panel] - self._means[columns.panel]
        apart = float(np.linalg.norm(gap))
        row_terms, column_terms = self._terms(row, column, gap, apart)
        reach = min(MARGIN * float(self._radii[i] + self._radii[j] + apart), self.reach)
        unit, shift = _units(reach, sums.unit)
        close = self._arithmetic.close * float((self._radii[i] + apart) ** 2 + self._radii[j] ** 2)
        row_sums, column_sums = sums.of(rows, columns), sums.of(columns, rows)
        warps = TILE_THREADS // STRIP_THREADS
        strips = -(-row.n // STRIP_ROWS) * -(-column.n // STRIP_COLUMNS)
        device.launch(
            "silhouette_tile",
            STRIP_THREADS * strips,
            *(products, width, row_terms, column_terms),
            *(self._codes[rows.start : rows.stop], self._codes[columns.start : columns.stop]),
            *(row.n, column.n, rows.start, columns.start),
            *(self._x, self._order, self._x.shape[1], self.scale, close, unit, shift, int(i != j)),
            *(row_sums, row_sums.strides[0] // 8, column_sums, column_sums.strides[0] // 8),
            block=TILE_THREADS,
            shared=warps * STRIP_BYTES,
        )

    def _terms(self, row: Operand, column: Operand, gap: NDArray[np.float64], apart: float) -> tuple[Array, Array]:
        """What is added to the products of a tile, for each row and each column."""
        if apart == 0.0:
            return row.squares.astype(np.float32), column.squares.astype(np.float32)
        direction = self._device.xp.asarray(gap.astype(np.float32))
        of_rows = row.squares - row.along(direction) + apart**2
        return of_rows.astype(np.float32), (column.squares + column.along(direction)).astype(np.float32)


def _codes_in_blocks(segments: Segments, blocks: list[Block]) -> NDArray[np.int32]:
    """(n,) segment of each sorted cell, counted from the first one of its block."""
    codes = np.repeat(np.arange(len(segments.sizes), dtype=np.int32), segments.sizes)
    first = np.repeat([block.first for block in blocks], [block.stop - block.start for block in blocks])
    return codes - first.astype(np.int32)


def _units(reach: float, unit_of_sums: float) -> tuple[float, int]:
    """The unit of a tile's distances, a power of two, and the shift from it to the unit of the sums."""
    of_sums = int(np.log2(unit_of_sums))
    exponent = int(np.floor(DISTANCE_BITS - np.log2(reach))) if reach > 0 else of_sums
    exponent = min(exponent, of_sums)
    return float(2.0**exponent), of_sums - exponent

"""Operands of the matrix products that give distances between blocks of cells on the GPU.

Cells are centred and scaled first, so that products and their rounding errors are small. Rows are padded with zeros to
a multiple of 16 bytes, without which cuBLAS cannot use its fastest kernels.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpubench.core.types import Array
from gpubench.engines.common.columns import reduce_rows
from gpubench.engines.common.knn_search import power_of_two_scale
from gpubench.engines.cuda.arithmetic import TF32, Arithmetic, padded
from gpubench.engines.cuda.workspace import Workspace, row_blocks

if TYPE_CHECKING:
    from types import ModuleType

    from gpubench.engines.cuda.device import Device


def tile_rows(workspace: Workspace) -> int:
    """Return the number of rows and columns of a tile, such that one takes at most an eighth of the memory."""
    edge = int(np.sqrt(max(workspace.room_bytes, 0) / 8 / 4))
    return max(32, min(workspace.tuning.max_tile_rows, edge // 32 * 32))


def mean_of(xp: ModuleType, blocks: Iterable[Array], d: int) -> Array:
    """Return the mean (d,) of the cells of all blocks (m, d), summed in float64."""
    total, n = xp.zeros(d), 0
    for cells in blocks:
        total += cells.sum(axis=0, dtype=np.float64)
        n += len(cells)
    mean: Array = total / n
    return mean


@dataclass(frozen=True, slots=True)
class CellScaling:
    """Centring and scaling of cells, after which no coordinate is much larger than 1.

    Attributes
    ----------
    centre : (d,) float32, subtracted from cells
    scale : factor, a power of two so that scaling does not round; squares of scaled values cannot overflow
    """

    centre: Array
    scale: float

    @classmethod
    def of(cls, workspace: Workspace, x: Array, queries: Array | None = None) -> CellScaling:
        """Choose the mean of x (n, d) as centre and a scale so that scaled x and queries (m, d) are about 1 at most."""
        xp = workspace.device.xp
        blocks = (x[rows] for rows in row_blocks(len(x), workspace.tuning.max_tile_rows))
        centre = mean_of(xp, blocks, x.shape[1]).astype(np.float32)
        both = (cells for cells in (x, queries) if cells is not None)
        edges = [reduce_rows(xp, cells, edge) for cells in both for edge in ("max", "min")]
        return cls(centre, power_of_two_scale(max(float(xp.abs(edge - centre).max()) for edge in edges)))

    def rows(self, xp: ModuleType, cells: Array) -> Array:
        """Return the centred and scaled cells, (m, padded d) float32; the padding is 0."""
        m, d = cells.shape
        rows = xp.zeros((m, padded(d)), np.float32)
        rows[:, :d] = cells
        rows[:, :d] -= self.centre  # in place, as a difference would be a second copy of the cells
        rows *= np.float32(self.scale)
        return rows


@dataclass(frozen=True, slots=True)
class Operand:
    """A block of n cells, prepared to be an operand of matrix products.

    Attributes
    ----------
    right : (padded n, parts * padded d) float32, -2 times the rounded rows, padded with 0
    squares : (n,) float64, squared norms of the rounded rows
    arithmetic : arithmetic of the products, which determines the rounding
    """

    right: Array
    squares: Array
    arithmetic: Arithmetic

    @classmethod
    def of(cls, device: Device, rows: Array, arithmetic: Arithmetic) -> Operand:
        """Make an operand of centred, scaled and padded rows (n, d) float32."""
        n, d = rows.shape
        if arithmetic is TF32:
            rows = to_tf32(rows)
        right = device.xp.zeros((padded(n), arithmetic.parts * d), np.float32)
        if arithmetic.parts == 1:
            right[:n] = rows
        else:
            high = to_tf32(rows)
            right[:n, :d] = high
            right[:n, d : 2 * d] = rows - high
            right[:n, 2 * d :] = high
        right *= np.float32(-2)
        return cls(right, device.xp.square(rows).sum(axis=1, dtype=np.float64), arithmetic)

    @property
    def n(self) -> int:
        """Number of cells."""
        return int(self.squares.shape[0])

    def left(self, device: Device) -> Array:
        """Return the rows in the form of a left operand, (n, parts * d) float32."""
        rows = self.right[: self.n] * np.float32(-0.5)
        if self.arithmetic.parts == 1:
            return rows
        d = rows.shape[1] // 3
        return device.xp.concatenate([rows[:, :d], rows[:, :d], rows[:, d : 2 * d]], axis=1)

    def along(self, device: Device, direction: Array) -> Array:
        """Return -2 times the dot product of each row with a vector (d,) float32; (n,) float32."""
        xp, d = device.xp, self.right.shape[1] // self.arithmetic.parts
        vector = xp.zeros(self.right.shape[1], np.float32)
        for part in range(min(self.arithmetic.parts, 2)):  # the high and the low part
            vector[part * d : part * d + len(direction)] = direction
        return self.right[: self.n] @ vector

    def products(self, device: Device, left: Array, buffer: Array) -> Array:
        """Return the products of a left operand with this one, in `buffer`; (len(left), padded n) float32."""
        width = self.right.shape[0]
        tile = buffer[: len(left) * width].reshape(len(left), width)
        device.product(left, self.right, tile, tensor_cores=self.arithmetic.tensor_cores)
        return tile


def to_tf32(rows: Array) -> Array:
    """Round float32 values to the 11 bits that tensor cores use, because these would truncate instead."""
    bits = rows.view(np.uint32) + np.uint32(1 << 12)
    bits &= np.uint32(0xFFFFE000)
    return bits.view(np.float32)


class Operands:
    """Sequence of the operands of blocks of cells, made on access and cached as far as memory allows.

    Attributes
    ----------
    spans : range of rows of each block
    arithmetic : arithmetic of the products
    """

    def __init__(
        self,
        workspace: Workspace,
        x: Array,
        spans: Sequence[slice],
        scalings: Sequence[CellScaling],
        arithmetic: Arithmetic,
        *,
        order: Array | None = None,
        recent: bool = False,
    ) -> None:
        """Define the blocks of cells x (n, d) float32; cached operands take at most a quarter of the memory.

        Parameters
        ----------
        scalings : centre and scale of each block
        order : (n,) row of x at each position that `spans` refer to. If None, positions are rows of x
        recent : whether to cache the operands that were used last. If False, those of the last blocks are cached, which
            tiles (i, j) with j >= i use most often
        """
        self._device = workspace.device
        self._x, self._order = x, order
        self.spans = spans
        self._scalings = scalings
        self.arithmetic = arithmetic
        largest = max(rows.stop - rows.start for rows in spans)
        self.block_bytes = 4 * padded(largest) * (arithmetic.parts * padded(x.shape[1]) + 2)
        self._most = workspace.room_bytes // 4 // self.block_bytes
        self._first_cached = 0 if recent else len(spans) - self._most
        self._cached: OrderedDict[int, Operand] = OrderedDict()

    def __getitem__(self, block: int) -> Operand:
        if block in self._cached:
            self._cached.move_to_end(block)
            return self._cached[block]
        rows = self.spans[block]
        cells = self._x[rows] if self._order is None else self._x[self._order[rows]]
        operand = Operand.of(self._device, self._scalings[block].rows(self._device.xp, cells), self.arithmetic)
        if block >= self._first_cached and self._most > 0:
            if len(self._cached) == self._most:
                self._cached.popitem(last=False)
            self._cached[block] = operand
        return operand

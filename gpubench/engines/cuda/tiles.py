"""Tiles of products of cells on the GPU: their arithmetic and their operands.

Cells are centred and scaled first, so that products and their rounding errors are small. Tensor cores multiply float32
numbers of which they keep 11 bits (TF32). Where that is not enough, a number is split into a high and a low part of 11
bits each, and one product of three times the length, [high, high, low] . [high, low, high], has nearly the accuracy of
float32 at the speed of tensor cores.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpubench.core.types import Array
from gpubench.engines.common.knn_search import power_of_two_scale
from gpubench.engines.cuda.workspace import Workspace, row_blocks

if TYPE_CHECKING:
    from types import ModuleType

    from gpubench.engines.cuda.device import Device

MIN_SPLIT_DIMENSIONS = 128
"""Dimensions from which the split product is faster than float32; below, a tile is limited by memory."""

COLUMN_ALIGNMENT = 4
"""Kernels read four products at a time."""


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How products of cells are computed.

    Attributes
    ----------
    parts : factor by which the operands become longer
    tensor_cores : whether operands are rounded to TF32
    operand_error : largest difference between a multiplied row and the centred row, relative to its length
    unit : relative error of an addition
    close : squared distances below this share of the squared norms are recomputed from differences of cells
    """

    parts: int
    tensor_cores: bool
    operand_error: float
    unit: float
    close: float

    def slack(self, d: int) -> float:
        """Bound the error of a squared distance of a tile, relative to (|x| + |y|)^2.

        The bound of a sum of d products and a few more terms, plus the effect of rounded operands: with rows that are
        off by e |x| and e |y|, |x - y|^2 changes by at most (2 e + e^2) (|x| + |y|)^2, with the unrounded lengths.
        """
        return 3.0 * (self.parts * d + 8) * self.unit + 2.1 * self.operand_error


# How tensor cores round while they add is unspecified: four times the unit of float32.
FLOAT32 = Arithmetic(1, tensor_cores=False, operand_error=0.0, unit=2.0**-24, close=2e-4)
TF32 = Arithmetic(1, tensor_cores=True, operand_error=2.0**-11, unit=2.0**-22, close=1e-3)
SPLIT = Arithmetic(3, tensor_cores=True, operand_error=2.0**-20, unit=2.0**-22, close=4e-4)


def cascade(device: Device, d: int, precision: str) -> list[Arithmetic]:
    """Return the arithmetics to try in order: the fastest that `precision` allows first, an accurate one last."""
    accurate = SPLIT if device.has_tensor_cores and d >= MIN_SPLIT_DIMENSIONS else FLOAT32
    return [TF32, accurate] if precision == "fast" and device.has_tensor_cores else [accurate]


def tile_rows(workspace: Workspace) -> int:
    """Return the number of rows and columns of tiles, of which one takes at most an eighth of the memory."""
    edge = int(np.sqrt(max(workspace.room_bytes, 0) / 8 / 4))
    return max(32, min(workspace.tuning.max_tile_rows, edge // 32 * 32))


def mean_of(xp: ModuleType, blocks: Iterable[Array], d: int) -> Array:
    """Return the mean of the cells of blocks (m, d), summed in float64; (d,)."""
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
    centre : (d,) float32
    scale : a power of two, which rounds nothing; squares of scaled values cannot overflow
    """

    centre: Array
    scale: float

    @classmethod
    def of(cls, workspace: Workspace, x: Array, queries: Array | None = None) -> CellScaling:
        """Centre on the mean of x (n, d), and scale so that x and the queries (m, d) extend to at most about 1."""
        xp = workspace.device.xp
        blocks = (x[rows] for rows in row_blocks(len(x), workspace.tuning.max_tile_rows))
        centre = mean_of(xp, blocks, x.shape[1]).astype(np.float32)
        edges = [edge for cells in (x, queries) if cells is not None for edge in (cells.max(axis=0), cells.min(axis=0))]
        return cls(centre, power_of_two_scale(max(float(xp.abs(edge - centre).max()) for edge in edges)))

    def rows(self, cells: Array) -> Array:
        """Return the centred and scaled cells, (m, d) float32."""
        rows = cells - self.centre
        rows *= np.float32(self.scale)
        return rows


@dataclass(frozen=True, slots=True)
class Operand:
    """A block of cells as one side of a product.

    Attributes
    ----------
    right : (n rounded up to 4, parts * d) float32, -2 times the rows as they are multiplied; the padding is 0
    squares : (n,) float64, squared norms of the rows as they are multiplied
    arithmetic : of the product
    """

    right: Array
    squares: Array
    arithmetic: Arithmetic

    @classmethod
    def of(cls, device: Device, rows: Array, arithmetic: Arithmetic) -> Operand:
        """Prepare centred and scaled rows (n, d) float32."""
        n, d = rows.shape
        if arithmetic is TF32:
            rows = to_tf32(rows)
        padded = -(-n // COLUMN_ALIGNMENT) * COLUMN_ALIGNMENT
        right = device.xp.zeros((padded, arithmetic.parts * d), np.float32)
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
        """Return the same rows as the other side of a product, (n, parts * d) float32."""
        rows = self.right[: self.n] * np.float32(-0.5)
        if self.arithmetic.parts == 1:
            return rows
        d = rows.shape[1] // 3
        return device.xp.concatenate([rows[:, :d], rows[:, :d], rows[:, d : 2 * d]], axis=1)

    def along(self, direction: Array) -> Array:
        """Return -2 times the products of the rows with a direction (d,) float32, (n,) float32."""
        d = len(direction)
        products = self.right[: self.n, :d] @ direction
        return products if self.arithmetic.parts == 1 else products + self.right[: self.n, d : 2 * d] @ direction

    def products(self, device: Device, left: Array, buffer: Array) -> Array:
        """Write the products of the rows `left` with this operand to `buffer`; (len(left), padded n) float32."""
        width = self.right.shape[0]
        tile = buffer[: len(left) * width].reshape(len(left), width)
        device.product(left, self.right, tile, tensor_cores=self.arithmetic.tensor_cores)
        return tile


def to_tf32(rows: Array) -> Array:
    """Round float32 to the 11 bits that tensor cores keep, which would otherwise truncate it."""
    bits = rows.view(np.uint32) + np.uint32(1 << 12)
    bits &= np.uint32(0xFFFFE000)
    return bits.view(np.float32)


class Operands:
    """The operands of blocks of cells, made when they are used; the last ones are cached as far as memory allows.

    Tiles (i, j) with j >= i use the last blocks most often.

    Attributes
    ----------
    spans : the rows of each block
    arithmetic : of the products
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
    ) -> None:
        """Describe blocks of x (n, d) float32; cached operands take at most a quarter of the memory.

        Parameters
        ----------
        scalings : centre and scale of each block
        order : (n,) the row of x at each position that spans refer to; None: the rows in their own order
        """
        self._device = workspace.device
        self._x, self._order = x, order
        self.spans = spans
        self._scalings = scalings
        self.arithmetic = arithmetic
        largest = max(rows.stop - rows.start for rows in spans)
        block_bytes = 4 * (largest + COLUMN_ALIGNMENT) * (arithmetic.parts * x.shape[1] + 2)
        self._first_cached = len(spans) - workspace.room_bytes // 4 // block_bytes
        self._cached: dict[int, Operand] = {}

    def __getitem__(self, block: int) -> Operand:
        if block in self._cached:
            return self._cached[block]
        rows = self.spans[block]
        cells = self._x[rows] if self._order is None else self._x[self._order[rows]]
        operand = Operand.of(self._device, self._scalings[block].rows(cells), self.arithmetic)
        if block >= self._first_cached:
            self._cached[block] = operand
        return operand

"""Tiles of products of cells on the GPU: in which arithmetic, and the operands that it needs.

Cells are centred and scaled first, so that products, and their rounding, are small. Tensor cores multiply float32
numbers of which they keep 11 bits (TF32). Where that is not enough a number is split into a high and a low part of 11
bits each, and one product of three times the length, [high, high, low] . [high, low, high], has nearly the accuracy of
float32 at the speed of tensor cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpubench.core.types import Array

if TYPE_CHECKING:
    from gpubench.engines.cuda.device import Device

SPLIT_FROM = 128
"""Dimensions from which the split product is faster than float32: below, a tile is bound by memory."""

MAX_TILE_ROWS = 8192
"""Rows and columns of a tile at most.

A tile of 8192 x 8192 float32 takes 256 MiB. Tiles that fit the second-level cache (of 50 MB) would save the way to
memory, but take the GPU less time than Python takes to launch the next one."""

ALIGN_COLUMNS = 4
"""Kernels read four products at a time."""


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How products of cells are computed.

    Attributes
    ----------
    name : for people
    parts : how many times as long the operands become
    tensor_cores : whether operands are rounded to TF32
    operand_error : how far a row, as it is multiplied, may be from the centred row; a share of its length
    unit : the relative error of an addition
    close : squared distances under this share of the squared norms are computed again from differences of cells
    """

    name: str
    parts: int
    tensor_cores: bool
    operand_error: float
    unit: float
    close: float

    def slack(self, d: int) -> float:
        """How far a squared distance of a tile may be from the exact one, as a share of (|x| + |y|)^2.

        The bound of a sum of d products and a few terms more, and what rounded operands add: with rows that are off by
        e |x| and e |y|, |x - y|^2 moves by at most (2 e + e^2) (|x| + |y|)^2, of the lengths before they are rounded.
        """
        return 3.0 * (self.parts * d + 8) * self.unit + 2.1 * self.operand_error


# Tensor cores do not promise how they round while they add: four times the unit of float32.
FLOAT32 = Arithmetic("float32", 1, tensor_cores=False, operand_error=0.0, unit=2.0**-24, close=2e-4)
TF32 = Arithmetic("tf32", 1, tensor_cores=True, operand_error=2.0**-11, unit=2.0**-22, close=1e-3)
SPLIT = Arithmetic("split", 3, tensor_cores=True, operand_error=2.0**-20, unit=2.0**-22, close=4e-4)


def cascade(device: Device, d: int, precision: str) -> list[Arithmetic]:
    """Arithmetics to try, the fastest that `precision` allows first; the last one is nearly float32 or float32."""
    accurate = SPLIT if device.has_tensor_cores and d >= SPLIT_FROM else FLOAT32
    return [TF32, accurate] if precision == "fast" and device.has_tensor_cores else [accurate]


def tile_rows(room_bytes: int) -> int:
    """Rows and columns of tiles of which one takes at most an eighth of the memory."""
    edge = int(np.sqrt(max(room_bytes, 0) / 8 / 4))
    return max(32, min(MAX_TILE_ROWS, edge // 32 * 32))


def power_of_two_scale(extent: float) -> float:
    """A power of two that brings `extent` to at most about 1: it rounds nothing, and squares cannot overflow."""
    if extent <= 0:
        return 1.0
    return float(2.0 ** np.clip(-np.ceil(np.log2(extent)), -126, 126))


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

    @property
    def n(self) -> int:
        """The number of cells."""
        return int(self.squares.shape[0])

    def left(self, device: Device) -> Array:
        """(n, parts * d) float32, the same rows as the other side of a product."""
        rows = self.right[: self.n] * np.float32(-0.5)
        if self.arithmetic.parts == 1:
            return rows
        d = rows.shape[1] // 3
        return device.xp.concatenate([rows[:, :d], rows[:, :d], rows[:, d : 2 * d]], axis=1)

    def along(self, direction: Array) -> Array:
        """(n,) float32, -2 times the rows' products with a direction (d,) float32."""
        d = len(direction)
        products = self.right[: self.n, :d] @ direction
        return products if self.arithmetic.parts == 1 else products + self.right[: self.n, d : 2 * d] @ direction


def make_operand(device: Device, rows: Array, arithmetic: Arithmetic) -> Operand:
    """Prepare centred and scaled rows (n, d) float32."""
    xp = device.xp
    n, d = rows.shape
    if arithmetic is TF32:
        rows = to_tf32(rows)
    padded = -(-n // ALIGN_COLUMNS) * ALIGN_COLUMNS
    right = xp.zeros((padded, arithmetic.parts * d), np.float32)
    if arithmetic.parts == 1:
        right[:n] = rows
    else:
        high = to_tf32(rows)
        right[:n, :d] = high
        right[:n, d : 2 * d] = rows - high
        right[:n, 2 * d :] = high
    right *= np.float32(-2)
    squares = xp.square(rows).sum(axis=1, dtype=np.float64)
    return Operand(right, squares, arithmetic)


def to_tf32(rows: Array) -> Array:
    """Round float32 to the 11 bits that tensor cores keep; here, so that it is rounded and not cut off."""
    bits = rows.view(np.uint32) + np.uint32(1 << 12)
    bits &= np.uint32(0xFFFFE000)
    return bits.view(np.float32)


class Operands:
    """The operands of all blocks of cells; made when they are asked for, and the last ones kept while memory allows.

    Tiles (i, j) with j >= i need the last blocks most often.

    Attributes
    ----------
    spans : (first, last + 1) row of each block
    arithmetic : of the products
    """

    def __init__(
        self,
        device: Device,
        x: Array,
        spans: Sequence[tuple[int, int]],
        centres: Array,
        centre_of: Sequence[int],
        scale: float,
        arithmetic: Arithmetic,
        *,
        order: Array | None = None,
        keep_bytes: int = 0,
    ) -> None:
        """Describe the blocks.

        Parameters
        ----------
        x : (n, d) float32
        spans : (first, last + 1) row of each block
        centres : (c, d) float32
        centre_of : which centre each block has
        order : (n,) the row of x at each position that spans count; None: as they are
        keep_bytes : what operands that are kept may take
        """
        self._device = device
        self._x, self._order = x, order
        self.spans = spans
        self._centres, self._centre_of = centres, centre_of
        self._scale = np.float32(scale)
        self.arithmetic = arithmetic
        largest = max(stop - start for start, stop in spans)
        block_bytes = 4 * (largest + ALIGN_COLUMNS) * (arithmetic.parts * x.shape[1] + 2)
        self._first_kept = len(spans) - keep_bytes // block_bytes
        self._kept: dict[int, Operand] = {}

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, block: int) -> Operand:
        if block in self._kept:
            return self._kept[block]
        start, stop = self.spans[block]
        cells = self._x[start:stop] if self._order is None else self._x[self._order[start:stop]]
        rows = cells - self._centres[self._centre_of[block]]
        rows *= self._scale
        operand = make_operand(self._device, rows, self.arithmetic)
        if block >= self._first_kept:
            self._kept[block] = operand
        return operand

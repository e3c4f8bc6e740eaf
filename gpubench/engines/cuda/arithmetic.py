"""Choose how products of cells are computed on the GPU: in float32 or on tensor cores, whichever is faster.

Tensor cores multiply float32 numbers of which they keep 11 bits (TF32). Where that is not enough, a number is split
into a high and a low part of 11 bits each, and one product of three times the length, [high, high, low] .
[high, low, high], has nearly the accuracy of float32. Whether tensor cores make up for the length depends on the GPU
and on the number of dimensions, so both ways are timed once, and the times are kept with
the verdicts on which of them is right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpubench.core.errors import EngineUnavailable

if TYPE_CHECKING:
    from gpubench.engines.cuda.device import Device

VALUES_PER_GROUP = 4
"""Values of 16 bytes: kernels read as many products at a time, and cuBLAS is fastest on rows of whole groups."""

MEASURED_ROWS = 4096
"""Number of rows and columns of the products that are timed."""


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """A way of computing products of cells, with bounds of its rounding errors.

    Attributes
    ----------
    parts : factor by which operands become longer, because numbers are split into parts
    tensor_cores : whether tensor cores are used, which round operands to TF32
    operand_error : largest difference between a centred row and the row as multiplied, relative to the row's norm
    unit : largest relative error of an addition
    close : squared distances below this share of the squared norms are recomputed from differences of cells
    """

    parts: int
    tensor_cores: bool
    operand_error: float
    unit: float
    close: float

    def slack(self, d: int) -> float:
        """Return a bound of the error of a squared distance |x - y|^2 of a tile, relative to (|x| + |y|)^2.

        The bound covers a sum of d products and a few more terms, and the rounding of operands: if x and y have errors
        of norms e |x| and e |y|, |x - y|^2 changes by at most (2 e + e^2) (|x| + |y|)^2.
        """
        return 3.0 * (self.parts * d + 8) * self.unit + 2.1 * self.operand_error


# How tensor cores round while they add is unspecified: four times the unit of float32.
FLOAT32 = Arithmetic(1, tensor_cores=False, operand_error=0.0, unit=2.0**-24, close=2e-4)
TF32 = Arithmetic(1, tensor_cores=True, operand_error=2.0**-11, unit=2.0**-22, close=1e-3)
SPLIT = Arithmetic(3, tensor_cores=True, operand_error=2.0**-20, unit=2.0**-22, close=4e-4)

ACCURATE = {"float32": FLOAT32, "split": SPLIT}
ARITHMETICS = {**ACCURATE, "tf32": TF32}

PRODUCTS = "products"
"""Name of products of cells among the operations of `verdicts`; its methods are the names of `ARITHMETICS`."""


def padded(n: int) -> int:
    """Round a number of float32 values up to a multiple of 16 bytes."""
    return -(-n // VALUES_PER_GROUP) * VALUES_PER_GROUP


def cascade(device: Device, d: int, precision: str) -> list[Arithmetic]:
    """Return the arithmetics to try in this order: first the fastest that `precision` allows, last an accurate one."""
    accurate = fastest(device, d)
    may_round = precision == "fast" and device.has_tensor_cores and device.verdicts.allows(PRODUCTS, "tf32")
    return [TF32, accurate] if may_round else [accurate]


def fastest(device: Device, d: int) -> Arithmetic:
    """Return the fastest accurate arithmetic for d dimensions that is right on this GPU, by measured times.

    Raises
    ------
    EngineUnavailable
        None of them is right.
    """
    usable = {name: way for name, way in ACCURATE.items() if device.has_tensor_cores or not way.tensor_cores}
    right = {name: way for name, way in usable.items() if device.verdicts.allows(PRODUCTS, name)}
    if not right:
        raise EngineUnavailable("engine 'cuda': no product of matrices is right on this GPU; use the engine 'cpu'")
    if len(right) == 1:
        return next(iter(right.values()))

    def measure() -> dict[str, float]:
        return {
            name: device.product_seconds(MEASURED_ROWS, way.parts * padded(d), tensor_cores=way.tensor_cores)
            for name, way in ACCURATE.items()
        }

    seconds = device.verdicts.seconds(f"{PRODUCTS}, d={d}", measure)
    return right[min(right, key=seconds.__getitem__)]

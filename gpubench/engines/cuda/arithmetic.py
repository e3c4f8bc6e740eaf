"""Choose how products of cells are computed on the GPU: in float32 or on tensor cores, whichever is faster.

Tensor cores multiply float32 numbers of which they keep 11 bits (TF32). Where that is not enough, a number is split
into a high and a low part of 11 bits each, and one product of three times the length, [high, high, low] .
[high, low, high], has nearly the accuracy of float32. Whether tensor cores make up for the length depends on the GPU
and on the number of dimensions, so both ways are timed once, and the times are kept in the cache folder.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpubench.core.errors import GpubenchError
from gpubench.core.files import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from gpubench.engines.cuda.device import Device

logger = logging.getLogger("gpubench")

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


def padded(n: int) -> int:
    """Round a number of float32 values up to a multiple of 16 bytes."""
    return -(-n // VALUES_PER_GROUP) * VALUES_PER_GROUP


def cascade(device: Device, d: int, precision: str) -> list[Arithmetic]:
    """Return the arithmetics to try in this order: first the fastest that `precision` allows, last an accurate one."""
    accurate = fastest(device, d) if device.has_tensor_cores else FLOAT32
    return [TF32, accurate] if precision == "fast" and device.has_tensor_cores else [accurate]


def fastest(device: Device, d: int) -> Arithmetic:
    """Return the fastest accurate arithmetic for d dimensions, from times measured on this model of GPU."""
    key = f"{device.name}, CuPy {getattr(device.xp, '__version__', '')}, d={d}"
    if key not in device.seconds:
        kept = _read(device.times_file)
        if key not in kept:
            kept[key] = {
                name: device.product_seconds(MEASURED_ROWS, way.parts * padded(d), tensor_cores=way.tensor_cores)
                for name, way in ACCURATE.items()
            }
            _write(device.times_file, kept)
        device.seconds[key] = kept[key]
    seconds = device.seconds[key]
    return ACCURATE[min(seconds, key=seconds.__getitem__)]


def _read(path: Path | None) -> dict[str, dict[str, float]]:
    """Return the valid times in a file; empty if the file does not exist, as before the first measurement."""
    try:
        kept = json.loads(path.read_text()) if path else {}
    except (OSError, ValueError) as error:
        logger.debug("times of products are measured again: %s", error)
        return {}
    return {
        key: times
        for key, times in (kept.items() if isinstance(kept, dict) else ())
        if isinstance(times, dict) and times.keys() == ACCURATE.keys() and all(t > 0 for t in times.values())
    }


def _write(path: Path | None, kept: dict[str, dict[str, float]]) -> None:
    """Write times to a file for later processes; if the folder is not writable, each process measures them again."""
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: file.write(json.dumps(kept, indent=1).encode()))
    except (OSError, GpubenchError) as error:
        logger.debug("times of products are not kept: %s", error)

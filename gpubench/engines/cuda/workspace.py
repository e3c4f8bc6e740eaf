"""Settings that the operations of the CUDA engine share: device, available memory and block sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpubench.core.timeline import Timeline
    from gpubench.engines.base import Precision
    from gpubench.engines.cuda.device import Device


@dataclass(frozen=True, slots=True)
class CudaTuning:
    """Sizes of the blocks that the CUDA engine works on, and limits above which it approximates.

    Only `n_probe`, `cells_per_centre` and `kmeans_steps` change which approximate neighbours are found.

    Attributes
    ----------
    max_tile_rows : largest number of rows and columns of a tile. A tile of 8192 x 8192 float32 takes 256 MiB; tiles
        that fit the second-level cache (50 MB) would be finished before Python has launched the next one
    rows_per_search : number of uncertain queries that are compared with all cells at the same time
    exact_knn_cells : number of cells up to which the neighbour search "auto" is exact
    n_probe : number of lists with which each list of the approximate search is compared, itself included
    cells_per_centre : number of cells per list in the sample for k-means
    kmeans_steps : number of iterations of k-means
    float64_values : number of values converted to float64 at a time
    classifier_values : number of values of cells and logits in one tile of a classifier (256 MiB of float32)
    """

    max_tile_rows: int = 8192
    rows_per_search: int = 1024
    exact_knn_cells: int = 4_000_000
    n_probe: int = 64
    cells_per_centre: int = 64
    kmeans_steps: int = 10
    float64_values: int = 1 << 24
    classifier_values: int = 1 << 26


@dataclass(frozen=True, slots=True)
class Workspace:
    """The device and the settings of one operation.

    Attributes
    ----------
    device : the GPU
    precision : "exact", or "fast" where tensor cores may round the operands of products
    room_bytes : memory of the GPU that the operation may use
    timeline : record of progress and amounts of work
    tuning : block sizes and thresholds
    """

    device: Device
    precision: Precision
    room_bytes: int
    timeline: Timeline
    tuning: CudaTuning


def row_blocks(stop: int, step: int, start: int = 0) -> Iterator[slice]:
    """Cut the rows [start, stop) into slices of at most `step` rows."""
    step = max(1, step)
    for first in range(start, stop, step):
        yield slice(first, min(first + step, stop))

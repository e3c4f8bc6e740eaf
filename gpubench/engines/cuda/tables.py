"""Ranks, means and values of neighbourhoods on the GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpubench.core.types import Array, Knn
from gpubench.engines.cuda.kernels import MAX_SHARED_BYTES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.cuda.device import Device

WARP = 32
GROUP_THREADS = 256
ENTROPY_WARPS = 8
LANES_PER_CELL = 8


def rank(device: Device, values: Array, room_bytes: int) -> Array:
    """(m, n) float64 average ranks inside each row of (m, n) values."""
    xp = device.xp
    m, n = values.shape
    ranks = xp.empty((m, n), np.float64)
    # values as float64, their order, the sorted values, and what sorting needs
    step = int(max(1, room_bytes // (48 * max(n, 1))))
    for start in range(0, m, step):
        part = values[start : start + step].astype(np.float64)
        order = xp.argsort(part, axis=1).astype(np.int64, copy=False)
        in_order = xp.take_along_axis(part, order, axis=1)
        out = ranks[start : start + step]
        device.launch("rank", n, in_order, order, len(part), n, out, rows=len(part))
    return ranks


def group_means(device: Device, x: Array, order: Array, starts: Array) -> Array:
    """(n_groups, d) float64 means of rows of x (n, d) float32, in the order of `order` (n,) int32 cut at `starts`."""
    n_groups, d = len(starts) - 1, x.shape[1]
    means = device.xp.empty((n_groups, d), np.float64)
    strips = -(-d // WARP)
    device.launch(
        "group_means",
        GROUP_THREADS * n_groups * strips,
        *(x, order, starts, n_groups, d, means),
        block=GROUP_THREADS,
        shared=8 * GROUP_THREADS,
    )
    return means


def neighbor_entropy(device: Device, knn: Knn, own: NDArray[np.int32], codes: NDArray[np.int32], n_codes: int) -> Array:
    """(m,) float64; see `Engine.neighbor_entropy`. `own` are the codes of the m cells themselves."""
    xp = device.xp
    m, k = knn.indices.shape
    on_device = [xp.asarray(column, dtype=np.int32) for column in (own, codes)]
    counts = np.arange(k + 2, dtype=np.float64)
    table = counts * np.log(np.maximum(counts, 1))
    bins = min(-(-n_codes // WARP) * WARP, MAX_SHARED_BYTES // 4 // ENTROPY_WARPS // WARP * WARP)
    entropy = xp.empty(m, np.float64)
    device.launch(
        "neighbor_entropy",
        WARP * m,
        *(knn.indices, row_stride(knn.indices), *on_device, m, k, n_codes, bins),
        *(xp.asarray(table), entropy),
        block=WARP * ENTROPY_WARPS,
        shared=4 * bins * ENTROPY_WARPS,
    )
    return entropy


def neighbor_value_distance(
    device: Device, knn: Knn, values: NDArray[np.float64], k_per_cell: NDArray[np.int64] | None
) -> Array:
    """(n,) float64; see `Engine.neighbor_value_distance`."""
    xp = device.xp
    n, k = knn.indices.shape
    counts = np.full(n, k, np.int32) if k_per_cell is None else k_per_cell.astype(np.int32)
    out = xp.empty(n, np.float64)
    device.launch(
        "neighbor_value_distance",
        LANES_PER_CELL * n,
        *(knn.indices, row_stride(knn.indices), xp.asarray(values, dtype=np.float64), xp.asarray(counts), n, out),
    )
    return out


def row_stride(array: Array) -> int:
    """Elements from one row of a two-dimensional array to the next."""
    return int(array.strides[0]) // int(array.itemsize)

"""Ranks, group means and statistics of neighbourhoods on the GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from gpubench.core.types import Array, Knn
from gpubench.engines.cuda.kernels import MAX_SHARED_BYTES
from gpubench.engines.cuda.signatures import KERNELS, WARP
from gpubench.engines.cuda.workspace import row_blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.cuda.device import Device

LANES_PER_CELL = 8


MIXERS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F), (0xD6E8FEB86659FD93, 0xA0761D6478BD642F)
"""Odd factors of positions and of values, for each of the two sums of `mixed_sums`."""


def mixed_sums(device: Device, x: Array, values: int) -> list[int]:
    """Return two checksums (modulo 2^64) of x (n, d) float32, which depend on all values and their positions.

    Parameters
    ----------
    values : number of values to process at a time
    """
    xp, bits = device.xp, x.reshape(-1).view(np.uint32)
    sums = [xp.zeros((), np.uint64) for _ in MIXERS]
    for part in row_blocks(len(bits), values):
        given, positions = bits[part].astype(np.uint64), xp.arange(part.start, part.stop, dtype=np.uint64)
        for i, (position_factor, value_factor) in enumerate(MIXERS):
            mixed = (positions * np.uint64(position_factor) + given) * np.uint64(value_factor)
            mixed ^= mixed >> np.uint64(32)
            mixed *= np.uint64(position_factor)
            mixed ^= mixed >> np.uint64(29)
            sums[i] += mixed.sum(dtype=np.uint64)
    return [int(total) for total in sums]


def rank(device: Device, values: Array, room_bytes: int) -> Array:
    """Return the average ranks within each row of (m, n) values, float64."""
    xp = device.xp
    m, n = values.shape
    ranks = xp.empty((m, n), np.float64)
    # 48 bytes per value: the value as float64, its position, the sorted value, and the scratch memory of the sort
    for rows in row_blocks(m, room_bytes // (48 * max(n, 1))):
        part = values[rows].astype(np.float64)
        order = xp.argsort(part, axis=1).astype(np.int64, copy=False)
        in_order = xp.take_along_axis(part, order, axis=1)
        device.launch("rank", n, in_order, order, len(part), n, ranks[rows], rows=len(part))
    return ranks


def group_means(device: Device, x: Array, codes: NDArray[np.integer], n_groups: int) -> Array:
    """Return the means of the rows of x (n, d) float32 with each code, (n_groups, d) float64; NaN for unused codes."""
    order = np.argsort(codes, kind="stable").astype(np.int32)  # rows that are left out, of code -1, come first
    starts = np.cumsum(np.bincount(codes + 1, minlength=n_groups + 1)).astype(np.int64)
    return sorted_group_means(device, x, device.xp.asarray(order), device.xp.asarray(starts))


def sorted_group_means(device: Device, x: Array, order: Array, starts: Array) -> Array:
    """Return the group means of x, given the rows sorted by group, `order` (n,) int32, and group starts, int64."""
    n_groups, d = len(starts) - 1, x.shape[1]
    means = device.xp.empty((n_groups, d), np.float64)
    n_threads = KERNELS["group_means"].block_threads * n_groups * -(-d // WARP)
    device.launch("group_means", n_threads, x, order, starts, n_groups, d, means)
    return means


def neighbor_entropy(
    device: Device, knn: Knn, cells: NDArray[np.int64] | None, codes: NDArray[np.int32], n_codes: int
) -> Array:
    """Return the entropy of the codes of each of m cells and its neighbours, (m,); see `common.neighborhoods`."""
    xp = device.xp
    m, k = knn.indices.shape
    own = codes if cells is None else codes[cells]
    counts = np.arange(k + 2, dtype=np.float64)
    count_log_count = xp.asarray(counts * np.log(np.maximum(counts, 1)))
    n_warps = KERNELS["neighbor_entropy"].block_threads // WARP
    bins = min(-(-n_codes // WARP) * WARP, MAX_SHARED_BYTES // 4 // n_warps // WARP * WARP)
    columns = xp.asarray(own, dtype=np.int32), xp.asarray(codes, dtype=np.int32)
    entropy = xp.empty(m, np.float64)
    sizes = m, k, n_codes, bins
    device.launch("neighbor_entropy", WARP * m, *with_stride(knn.indices), *columns, *sizes, count_log_count, entropy)
    return entropy


def neighbor_value_distance(
    device: Device,
    knn: Knn,
    cells: NDArray[np.int64] | None,
    values: NDArray[np.float64],
    k_per_cell: NDArray[np.int64] | None = None,
) -> Array:
    """Return the mean absolute difference between values of cells and of neighbours; see `common.neighborhoods`."""
    xp, (m, k) = device.xp, knn.indices.shape
    chosen = slice(None) if cells is None else cells
    counts = np.full(m, k) if k_per_cell is None else k_per_cell[chosen]
    columns = (xp.asarray(column, dtype=np.float64) for column in (values[chosen], values))
    arguments = *with_stride(knn.indices), *columns, xp.asarray(counts, dtype=np.int32), m
    out = xp.empty(m, np.float64)
    device.launch("neighbor_value_distance", LANES_PER_CELL * m, *arguments, out)
    return out


NEIGHBOR_KERNELS: dict[str, Callable[..., Array]] = {
    "neighbor_entropy": neighbor_entropy,
    "neighbor_value_distance": neighbor_value_distance,
}
"""Functions of `gpubench.engines.common.neighborhoods` that have a kernel, by name."""


def with_stride(array: Array) -> tuple[Array, int]:
    """Return a two-dimensional array and its row stride in elements, two arguments of kernels."""
    return array, int(array.strides[0]) // int(array.itemsize)

"""Mean cosine distances to clusters on the GPU, without forming a pair.

For unit vectors 1 - u.v = |u - v|^2 / 2, and over the n cells of a cluster with mean m the squared distances add up to
n (|u - m|^2 + s), with s the mean of |v - m|^2. Every term is positive, so nothing cancels even where all vectors point
nearly the same way; they are centred on their group's mean before they are rounded to float32. Zero vectors are at
distance 1 from everything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpubench.engines import planner
from gpubench.engines.cuda_tables import group_means
from gpubench.engines.segments import Segments
from gpubench.types import Array

if TYPE_CHECKING:
    from gpubench.engines.cuda_device import Device

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

"""Rank sums of groups of cells on the GPU, for a block of genes at a time, whose values are sorted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.types import Array, RankSums
from gpubench.engines.common.rank_sums import require_finite
from gpubench.engines.cuda.signatures import WARP
from gpubench.engines.cuda.workspace import row_blocks

if TYPE_CHECKING:
    from types import ModuleType

    from gpubench.engines.common.rank_sums import GroupedCells, Matrix
    from gpubench.engines.cuda.device import Device

BYTES_PER_VALUE = 96
"""Memory of a stored value: itself, its segment and two orders, each twice, and the scratch memory of the sorts."""


def rank_sums(device: Device, matrix: Matrix, cells: GroupedCells, room_bytes: int) -> RankSums:
    """Compute U and the tie term of each group in every gene; see `Engine.rank_sums`."""
    xp, n_groups, n_genes = device.xp, cells.n_groups, matrix.shape[1]
    codes, sizes = xp.asarray(cells.codes), xp.asarray(cells.sizes)
    u, ties = np.empty((n_groups, n_genes)), np.empty((n_groups, n_genes), np.int64)
    for genes, stored, rows, columns in _blocks(xp, matrix, room_bytes // BYTES_PER_VALUE):
        groups = codes[rows]
        taken = xp.flatnonzero((groups >= 0) & (stored != 0))
        values, segments = stored[taken], columns[taken] * n_groups + groups[taken]
        if not bool(xp.isfinite(values).all()):
            require_finite(matrix, cells)
        order = xp.argsort(values, kind="stable")
        order = order[xp.argsort(segments[order], kind="stable")]
        n_segments = (genes.stop - genes.start) * n_groups
        starts = xp.searchsorted(segments[order], xp.arange(n_segments + 1)).astype(np.int64, copy=False)
        block_u, block_ties = xp.empty(n_segments, np.float64), xp.empty(n_segments, np.int64)
        arguments = values[order], starts, sizes, n_segments, n_groups, cells.control, block_u, block_ties
        device.launch("rank_sums", WARP * n_segments, *arguments)
        u[:, genes] = xp.asnumpy(block_u).reshape(-1, n_groups).T
        ties[:, genes] = xp.asnumpy(block_ties).reshape(-1, n_groups).T
    u[cells.control] = cells.sizes[cells.control] ** 2 / 2
    ties[np.arange(n_groups) != cells.control] += ties[cells.control]
    return RankSums(u, ties, cells.sizes, cells.control)


def _blocks(xp: ModuleType, matrix: Matrix, max_values: int) -> Iterator[tuple[slice, Array, Array, Array]]:
    """Yield blocks of at least one gene: the range of genes, and values, rows and columns in the block on the GPU.

    Values are converted to float64 on the host, because the GPU may treat subnormal float32 numbers as 0.
    """
    n, n_genes = matrix.shape
    if isinstance(matrix, np.ndarray):
        for genes in row_blocks(n_genes, max_values // max(n, 1)):
            width = genes.stop - genes.start
            at = xp.arange(n * width)
            yield genes, xp.asarray(matrix[:, genes].astype(np.float64).ravel()), at // width, at % width
        return
    stored: Any = matrix.tocsc()
    start = 0
    while start < n_genes:
        limit = stored.indptr[start] + max(1, max_values)
        stop = max(start + 1, int(np.searchsorted(stored.indptr, limit, "right")) - 1)
        entries = slice(stored.indptr[start], stored.indptr[stop])
        bounds = xp.asarray(stored.indptr[start + 1 : stop + 1].astype(np.int64) - int(entries.start))
        columns = xp.searchsorted(bounds, xp.arange(int(entries.stop) - int(entries.start)), side="right")
        values = xp.asarray(stored.data[entries].astype(np.float64))
        yield slice(start, stop), values, xp.asarray(stored.indices[entries]), columns
        start = stop

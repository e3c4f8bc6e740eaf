"""What a cell's neighbours say of a column, on a cluster: each block of a neighbour graph is looked at where it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.types import Knn
from gpubench.engines.common import neighborhoods
from gpubench.engines.cpu import kernels
from gpubench.engines.dask.array import BlockTable, ClusterArray

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from gpubench.engines.dask.array import Block
    from gpubench.engines.dask.cluster import Cluster

Values = tuple["NDArray[np.int64] | None", "NDArray[np.float64]"]
"""Values of some cells, and which; None: all, in order."""

ROWS_PER_PIECE = 8192


def look_up(cluster: Cluster, knn: Knn, function: Callable[..., Any], *args: Any) -> ClusterArray:
    """Run a function on each block of a graph, and put the values of all cells together on one worker."""
    table: BlockTable = knn.indices
    calls = [(block, knn.k, function, args) for block in table.blocks]
    futures = cluster.submit_each(function.__name__, on_block, calls)
    n = table.shape[0]
    values = cluster.submit("put_together", put_together, futures, n)
    cluster.wait([*futures, values])
    return ClusterArray(cluster, values, ((n,), np.dtype(np.float64)))


def on_block(block: Block, k: int, function: Callable[..., NDArray[np.float64]], args: tuple[Any, ...]) -> Values:
    """Run a function on the neighbours of the cells of a block: it is given them, which cells they are of, and more."""
    cells, indices, distances = block[:3]
    knn = Knn(np.ascontiguousarray(indices[:, :k]), np.ascontiguousarray(distances[:, :k]))
    return cells, function(knn, np.arange(len(indices)) if cells is None else cells, *args)


def put_together(found: list[Values], n: int) -> NDArray[np.float64]:
    """Values of all cells, (n,)."""
    if found[0][0] is None:
        return found[0][1]
    values = np.empty(n)
    for cells, own in found:
        values[cells] = own
    return values


def entropy(knn: Knn, cells: NDArray[np.int64], codes: NDArray[Any], n_codes: int) -> NDArray[np.float64]:
    """See `Engine.neighbor_entropy`."""
    out = np.empty(len(cells))
    kernels.neighbor_entropy(knn.indices, codes[cells], codes, n_codes, 0, len(cells), out)
    return out


def value_distance(
    knn: Knn, cells: NDArray[np.int64], values: NDArray[np.float64], k_per_cell: NDArray[np.int64] | None
) -> NDArray[np.float64]:
    """See `Engine.neighbor_value_distance`."""
    out = np.empty(len(cells))
    counts = np.full(len(cells), knn.k, np.int64) if k_per_cell is None else k_per_cell[cells]
    neighbors, column = own_first(knn, cells, values)
    kernels.neighbor_value_distance(neighbors, column, counts, 0, len(cells), out)
    return out


def simpson(
    knn: Knn,
    cells: NDArray[np.int64],  # noqa: ARG001 - a cell does not count for itself
    codes: NDArray[Any],
    n_codes: int,
    perplexity: float,
) -> NDArray[np.float64]:
    """See `Engine.neighbor_simpson`."""
    found: NDArray[np.float64] = neighborhoods.neighbor_simpson(np, knn, codes, n_codes, perplexity, _over_rows)
    return found


def chi_square(
    knn: Knn, cells: NDArray[np.int64], codes: NDArray[Any], shares: NDArray[np.float64]
) -> NDArray[np.float64]:
    """See `Engine.neighbor_chi_square`."""
    neighbors, column = own_first(knn, cells, codes)
    around = Knn(neighbors, knn.distances)
    found: NDArray[np.float64] = neighborhoods.neighbor_chi_square(np, around, column, shares, _over_rows)
    return found


def own_first(knn: Knn, cells: NDArray[np.int64], column: NDArray[Any]) -> tuple[NDArray[np.int32], NDArray[Any]]:
    """The column with the values of these cells before those of all, and neighbours that point behind them.

    So row i of the block is of value i, as the kernels have it where they are given all cells.
    """
    return knn.indices + np.int32(len(cells)), np.concatenate([column[cells], column])


def _over_rows(n: int, kernel: Callable[[int, int], None], width: int = 1) -> None:
    step = max(1, min(ROWS_PER_PIECE, (1 << 17) // width))
    for start in range(0, n, step):
        kernel(start, min(start + step, n))

"""Values of neighbourhoods on a cluster: each block of a neighbour graph is looked at where it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.types import Knn
from gpubench.engines.dask import gpu_worker
from gpubench.engines.dask.array import BlockTable, ClusterArray

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.common.neighborhoods import NeighborKernel
    from gpubench.engines.dask.array import Block
    from gpubench.engines.dask.cluster import Cluster
    from gpubench.engines.dask.worker import Recipe

Values = tuple["NDArray[np.int64] | None", "NDArray[np.float64]"]
"""Values of some rows of a graph, and which; None: all, in order."""


def look_up(
    cluster: Cluster,
    knn: Knn,
    kernel: NeighborKernel,
    columns: tuple[Any, ...],
    cells: NDArray[np.int64] | None,
    width: int,
    recipe: Recipe,
) -> ClusterArray:
    """Run a kernel on each block of a graph, and put the values of all rows together on one worker."""
    table: BlockTable = knn.indices
    calls = [(block, knn.k, kernel, columns, cells, width, recipe) for block in table.blocks]
    futures = cluster.submit_each(kernel.__name__, on_block, calls)
    n = table.shape[0]
    values = cluster.submit("put_together", put_together, futures, n)
    cluster.wait([*futures, values])
    return ClusterArray(cluster, values, ((n,), np.dtype(np.float64)))


def on_block(
    block: Block,
    k: int,
    kernel: NeighborKernel,
    columns: tuple[Any, ...],
    cells: NDArray[np.int64] | None,
    width: int,
    recipe: Recipe,
) -> Values:
    """Run a kernel on the rows of a block; `cells` are those of all rows of the graph."""
    rows, indices, distances = block[:3]
    knn = Knn(np.ascontiguousarray(indices[:, :k]), np.ascontiguousarray(distances[:, :k]))
    own = rows if cells is None else cells if rows is None else cells[rows]
    if recipe.engine == "cpu":
        return rows, recipe.start(threads=1).map_neighbors(knn, kernel, *columns, cells=own, width=width)
    return rows, gpu_worker.on_gpu(recipe, "map_neighbors", (knn, kernel, *columns), {"cells": own, "width": width})


def put_together(found: list[Values], n: int) -> NDArray[np.float64]:
    """Put the values of all rows together, (n,)."""
    if found[0][0] is None:
        return found[0][1]
    values = np.empty(n)
    for rows, own in found:
        values[rows] = own
    return values

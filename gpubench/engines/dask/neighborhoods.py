"""Values of neighbourhoods on a cluster: each block of a neighbour graph is worked on where it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.types import Knn
from gpubench.engines.dask import gpu_worker
from gpubench.engines.dask.remote import KnnTable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.common.neighborhoods import NeighborKernel
    from gpubench.engines.dask.remote import KnnBlock
    from gpubench.engines.dask.worker import EngineSettings

BlockValues = tuple["NDArray[np.int64] | None", "NDArray[np.float64]"]
"""Values of some rows of a graph, and which; None: all, in order."""


def map_blocks(
    knn: Knn,
    kernel: NeighborKernel,
    columns: tuple[Any, ...],
    cells: NDArray[np.int64] | None,
    width: int,
    settings: EngineSettings,
) -> NDArray[np.float64]:
    """Run a kernel on each block of a graph and return the values of all rows; see `Engine.map_neighbors`."""
    table: KnnTable = knn.indices
    cluster = table.cluster
    calls = [(block, knn.k, kernel, columns, cells, width, settings) for block in table.blocks]
    futures = cluster.submit_each(kernel.__name__, map_block, calls)
    values: NDArray[np.float64] = cluster.fetch(cluster.submit("scatter_back", scatter_back, futures, len(table)))
    return values


def map_block(
    block: KnnBlock,
    k: int,
    kernel: NeighborKernel,
    columns: tuple[Any, ...],
    cells: NDArray[np.int64] | None,
    width: int,
    settings: EngineSettings,
) -> BlockValues:
    """Run a kernel on the rows of a block; `cells` are those of all rows of the graph."""
    rows, indices, distances = block[:3]
    knn = Knn(np.ascontiguousarray(indices[:, :k]), np.ascontiguousarray(distances[:, :k]))
    own = rows if cells is None else cells if rows is None else cells[rows]
    if settings.engine == "cpu":
        return rows, settings.start(threads=1).map_neighbors(knn, kernel, *columns, cells=own, width=width)
    return rows, gpu_worker.on_gpu(settings, "map_neighbors", (knn, kernel, *columns), {"cells": own, "width": width})


def scatter_back(found: list[BlockValues], n: int) -> NDArray[np.float64]:
    """Return the values of all rows in order, (n,)."""
    if found[0][0] is None:
        return found[0][1]
    values = np.empty(n)
    for rows, own in found:
        values[rows] = own
    return values

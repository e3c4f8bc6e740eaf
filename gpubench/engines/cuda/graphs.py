"""Neighbour graphs on the GPU: UMAP's fuzzy connectivities, and Leiden communities through cuGraph."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from gpubench.core.types import Graph, Knn
from gpubench.engines.cpu import leiden as cpu_leiden
from gpubench.engines.cuda.memory import import_problem
from gpubench.engines.cuda.tables import LANES_PER_CELL, with_stride

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.cuda.device import Device

ATTEMPTS = 3
"""Runs of cuGraph, each with another seed, before igraph is used."""

MAX_LEVELS = 100
"""Levels of cuGraph's Leiden at most, more than it ever needs: it runs until it has converged."""


def fuzzy_graph(device: Device, knn: Knn) -> Graph:
    """Return UMAP's fuzzy graph of the neighbours; see `Engine.fuzzy_graph`."""
    xp = device.xp
    n, k = knn.indices.shape
    memberships, weights = xp.empty((n, k), np.float64), xp.empty((n, k), np.float64)
    one_sided = xp.empty((n, k), np.uint8)
    mean = float(knn.distances.sum(dtype=np.float64)) / (n * (k + 1))
    device.launch("fuzzy_memberships", LANES_PER_CELL * n, *with_stride(knn.distances), n, k, mean, memberships)
    device.launch("symmetrise", n * k, *with_stride(knn.indices), memberships, n, k, weights, one_sided)
    # every edge, and the reverse of the edges whose reverse is not in the graph
    rows, columns = xp.repeat(xp.arange(n, dtype=np.int64), k), knn.indices.ravel().astype(np.int64)
    weights, reverse = weights.ravel(), one_sided.ravel().astype(np.bool_)
    keys = xp.concatenate([rows * n + columns, (columns * n + rows)[reverse]])
    weights = xp.concatenate([weights, weights[reverse]])
    is_positive = weights > 0  # a membership may underflow to 0
    keys, weights = keys[is_positive], weights[is_positive]
    order = xp.argsort(keys)
    keys = keys[order]
    indptr = xp.searchsorted(keys, xp.arange(n + 1, dtype=np.int64) * n).astype(np.int64)
    return Graph(indptr, (keys % n).astype(np.int32), weights[order])


def leiden(
    device: Device,
    graph: Graph,
    resolution: float,
    n_iterations: int,
    seed: int,
    note: Callable[[str], None],
    is_right: Callable[[], bool],
) -> NDArray[np.int32]:
    """Return Leiden communities that maximise modularity, numbered in order of decreasing size.

    `note` receives a message if the result deviates from the request; `is_right` tells whether cuGraph may be used. A
    clustering with more than n / 2 communities cannot be right and is computed again with other seeds, and finally by
    igraph.

    Raises
    ------
    OutOfMemory
        cuGraph ran out of memory.
    """
    with device.library():
        problem = import_problem("pylibcugraph")
    why = f"pylibcugraph {problem}" if problem else "cuGraph is wrong on this GPU"
    if not problem and is_right():
        n_connected = int((device.xp.diff(graph.indptr) > 0).sum())
        for attempt in range(ATTEMPTS):
            codes = by_cugraph(device, graph, resolution, seed + attempt)
            n_communities = int(codes.max()) + 1 - (graph.n - n_connected)  # cells without edges are rightly alone
            if n_communities <= max(1, n_connected // 2):
                note(f"Leiden by cuGraph ran until it converged, as it does not count n_iterations={n_iterations}")
                return codes
        why = f"cuGraph put almost every cell into a cluster of its own {ATTEMPTS} times"
    note(f"Leiden by igraph on the CPU, as {why}")
    on_host = Graph(*map(device.xp.asnumpy, (graph.indptr, graph.indices, graph.weights)))
    return cpu_leiden.communities(on_host, resolution, n_iterations, seed)


def by_cugraph(device: Device, graph: Graph, resolution: float, seed: int) -> NDArray[np.int32]:
    """Return the communities that cuGraph finds with a seed; some releases find others in each run."""
    import pylibcugraph

    # vertices and offsets must have the same type
    dtype = np.int32 if len(graph.indices) < 2**31 else np.int64
    with device.library():
        handle = pylibcugraph.ResourceHandle()
        network = pylibcugraph.SGGraph(
            handle,
            pylibcugraph.GraphProperties(is_symmetric=True, is_multigraph=False),
            graph.indptr.astype(dtype, copy=False),
            graph.indices.astype(dtype, copy=False),
            weight_array=graph.weights,
            store_transposed=False,
            renumber=False,
            do_expensive_check=False,
            input_array_format="CSR",
        )
        vertices, clusters, _ = pylibcugraph.leiden(
            resource_handle=handle,
            random_state=seed,
            graph=network,
            max_level=MAX_LEVELS,
            resolution=resolution,
            theta=1.0,
            do_expensive_check=False,
        )
        codes = np.full(graph.n, -1, np.int64)
        codes[device.xp.asnumpy(vertices)] = device.xp.asnumpy(clusters)
    alone = np.flatnonzero(codes < 0)  # cuGraph leaves out cells without edges
    codes[alone] = codes.max(initial=-1) + 1 + np.arange(len(alone))
    return cpu_leiden.by_size(np.unique(codes, return_inverse=True)[1])

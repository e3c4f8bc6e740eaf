"""Neighbour graphs on the GPU: UMAP's fuzzy connectivities, and Leiden communities through cuGraph."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.types import Array, Graph, Knn
from gpubench.engines.cpu import leiden as cpu_leiden
from gpubench.engines.cuda.tables import LANES_PER_CELL, with_stride

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.cuda.device import Device

ATTEMPTS = 3
"""Times that cuGraph is asked, each with another seed, before igraph is."""

MAX_LEVELS = 100
"""Levels of an iteration, for releases of cuGraph that count levels instead of iterations; more than it ever needs."""


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
    device: Device, graph: Graph, resolution: float, n_iterations: int, seed: int, note: Callable[[str], None]
) -> NDArray[np.int32]:
    """Leiden communities by modularity, in order of decreasing size; `note` is told what is not as asked.

    Clusterings that cannot be right are refused and asked for again with other seeds; igraph has the last word.
    """
    if find_spec("pylibcugraph") is None:
        note("Leiden by igraph on the CPU, as pylibcugraph is not installed")
        return _by_igraph(device, graph, resolution, n_iterations, seed)
    n_joined = int((device.xp.diff(graph.indptr) > 0).sum())
    for attempt in range(ATTEMPTS):
        codes = _by_cugraph(device, graph, resolution, n_iterations, seed + attempt, note)
        if not _is_absurd(codes, n_joined, graph.n):
            return codes
    note(f"Leiden by igraph on the CPU, as cuGraph put almost every cell into a cluster of its own {ATTEMPTS} times")
    return _by_igraph(device, graph, resolution, n_iterations, seed)


def _is_absurd(codes: NDArray[np.int32], n_joined: int, n: int) -> bool:
    """More communities than pairs among the cells that have edges; cells without edges are alone by right."""
    n_communities = int(codes.max()) + 1 - (n - n_joined)
    return n_communities > max(1, n_joined // 2)


def _by_igraph(device: Device, graph: Graph, resolution: float, n_iterations: int, seed: int) -> NDArray[np.int32]:
    on_host = Graph(*map(device.xp.asnumpy, (graph.indptr, graph.indices, graph.weights)))
    return cpu_leiden.communities(on_host, resolution, n_iterations, seed)


def _by_cugraph(
    device: Device, graph: Graph, resolution: float, n_iterations: int, seed: int, note: Callable[[str], None]
) -> NDArray[np.int32]:
    import pylibcugraph

    xp = device.xp
    # vertices and offsets must be of one type
    dtype = np.int32 if len(graph.indices) < 2**31 else np.int64
    handle = pylibcugraph.ResourceHandle()
    network = pylibcugraph.SGGraph(
        handle,
        pylibcugraph.GraphProperties(is_symmetric=True, is_multigraph=False),
        graph.indptr.astype(dtype),
        graph.indices.astype(dtype),
        weight_array=graph.weights,  # float64: with float32 the result is not reproducible
        store_transposed=False,
        renumber=False,
        do_expensive_check=False,
        input_array_format="CSR",
    )
    iterations: dict[str, Any] = {"n_iterations": n_iterations}
    if "n_iterations" not in (pylibcugraph.leiden.__doc__ or ""):
        iterations = {"max_level": MAX_LEVELS, "theta": 1.0}
        note(f"Leiden by cuGraph ran until it converged; this release of it does not count n_iterations={n_iterations}")
    vertices, found, _ = pylibcugraph.leiden(
        resource_handle=handle,
        random_state=seed,
        graph=network,
        resolution=resolution,
        do_expensive_check=False,
        **iterations,
    )
    return _all_cells(xp, vertices, found, graph.n)


def _all_cells(xp: Any, vertices: Array, found: Array, n: int) -> NDArray[np.int32]:
    """Codes by size of all n cells; those that are not among the vertices are alone."""
    codes = np.full(n, -1, np.int64)
    codes[xp.asnumpy(vertices)] = xp.asnumpy(found)
    alone = np.flatnonzero(codes < 0)
    codes[alone] = codes.max(initial=-1) + 1 + np.arange(len(alone))
    return cpu_leiden.by_size(np.unique(codes, return_inverse=True)[1])

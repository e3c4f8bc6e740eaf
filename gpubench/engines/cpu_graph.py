"""Neighbour graphs on the CPU: UMAP's fuzzy connectivities, and Leiden communities through igraph."""

from __future__ import annotations

import sys
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.types import Graph

if TYPE_CHECKING:
    from numpy.typing import NDArray


def symmetrise(indices: NDArray[np.int32], memberships: NDArray[np.float64]) -> Graph:
    """Join the memberships of both directions, w + w' - w w', into one undirected graph."""
    from scipy.sparse import csr_array

    n, k = indices.shape
    indptr = np.arange(0, n * k + 1, k, dtype=np.int64)
    directed = csr_array((memberships.ravel(), indices.ravel(), indptr), shape=(n, n))
    reverse = directed.T.tocsr()
    union = directed + reverse - directed * reverse
    union.eliminate_zeros()
    union.sort_indices()
    return Graph(union.indptr.astype(np.int64), union.indices.astype(np.int32), union.data)


BOTH_DIRECTIONS_UP_TO = 50_000
"""Cells up to which igraph is given every edge in both directions, as scanpy does.

Modularity is the same with each edge once, but the walk of the seeded algorithm is another one, and up to here the
communities are those of cz-benchmarks to the cell. Beyond, once takes half the time and two thirds of the memory
(benchmarks/leiden.py).
"""


def leiden(graph: Graph, resolution: float, n_iterations: int, seed: int) -> NDArray[np.int32]:
    """Leiden communities by modularity, in order of decreasing size."""
    import random

    igraph = _igraph()
    sources = np.repeat(np.arange(graph.n), np.diff(graph.indptr))
    targets, weights = graph.indices, graph.weights
    if graph.n > BOTH_DIRECTIONS_UP_TO:
        once = sources < targets
        sources, targets, weights = sources[once], targets[once], weights[once]
    network = igraph.GraphBase(n=graph.n, directed=False)
    network.add_edges(np.column_stack([sources, targets]).data)  # three times as fast as giving them to GraphBase()
    edge_weights = weights.tolist()
    igraph.set_random_number_generator(_IgraphRandom(seed))
    try:
        membership, _ = network.community_leiden(
            edge_weights=edge_weights,
            node_weights=network.strength(weights=edge_weights),
            resolution=resolution,
            normalize_resolution=True,
            n_iterations=n_iterations,
        )
    finally:
        igraph.set_random_number_generator(random)
    return by_size(np.asarray(membership))


@cache
def _igraph() -> Any:
    """The compiled module of igraph.

    The package around it imports matplotlib for its drawings, which takes longer than the communities of 50,000 cells.
    A later `import igraph` finds the same compiled module.
    """
    name = "igraph._igraph"
    if name in sys.modules:
        return sys.modules[name]
    package = find_spec("igraph")
    compiled = package and PathFinder.find_spec(name, package.submodule_search_locations)
    if not (compiled and compiled.loader):
        raise ModuleNotFoundError("igraph, which finds Leiden communities, is not installed; pip install igraph")
    module = module_from_spec(compiled)
    sys.modules[name] = module  # where the package looks for it: a second one would refuse to be
    compiled.loader.exec_module(module)
    return module


def by_size(membership: NDArray[np.integer]) -> NDArray[np.int32]:
    """Codes renumbered in order of decreasing size; each of 0, 1, ... must occur."""
    sizes = np.bincount(membership)
    new_code = np.empty(len(sizes), np.int32)
    new_code[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes), dtype=np.int32)
    codes: NDArray[np.int32] = new_code[membership]
    return codes


class _IgraphRandom:
    """The random numbers that igraph asks for, from one seeded NumPy generator."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.RandomState(seed)

    def getrandbits(self, k: int) -> int:
        return int(self._random.tomaxint()) & ((1 << k) - 1)

    def randint(self, a: int, b: int) -> int:
        return int(self._random.randint(a, b + 1))

    def random(self) -> float:
        return float(self._random.random())

    def gauss(self, mean: float, deviation: float) -> float:
        return float(self._random.normal(mean, deviation))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._random, name)

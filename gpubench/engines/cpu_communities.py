"""Leiden communities of a graph on the CPU: by igraph, and of very many cells by networkit where it is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.engines.cpu_igraph import IgraphRandom, igraph_core

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.types import Graph

BOTH_DIRECTIONS_UP_TO = 50_000
"""Cells up to which igraph is given every edge in both directions, as scanpy does.

Modularity is the same with each edge once, but the walk of the seeded algorithm is another one, and up to here the
communities are those of cz-benchmarks to the cell. Beyond, once takes half the time and two thirds of the memory
(benchmarks/leiden.py).
"""

NETWORKIT_FROM = 500_000
"""Cells from which networkit takes less time and memory than igraph, for communities of the same modularity
(benchmarks/leiden.py). On one thread: on several its communities are others each time."""

ROWS_A_BLOCK = 1 << 16
"""Cells whose edges are handed over at a time."""

Block = tuple["NDArray[np.int32]", "NDArray[np.int32]", "NDArray[np.float64]"]
"""Both ends of some edges, and their weights."""


@dataclass
class Edges:
    """The edges of n cells, as one of the packages takes them; gone once it has taken them.

    Attributes
    ----------
    ends : (2, m) cells, of the integers that the package wants
    weights : (m,) float64
    """

    n: int
    ends: NDArray[Any]
    weights: NDArray[np.float64]

    @classmethod
    def empty(cls, n: int, m: int, package: str) -> Edges:
        """Room for m edges."""
        return cls(n, np.empty((2, m), np.uint64 if package == "networkit" else np.int32), np.empty(m))

    def take(self, blocks: Iterator[Block]) -> Edges:
        """Fill the room; returns itself."""
        start = 0
        for sources, targets, weights in blocks:
            stop = start + len(weights)
            self.ends[0, start:stop], self.ends[1, start:stop], self.weights[start:stop] = sources, targets, weights
            start = stop
        return self

    def forget(self) -> None:
        """Give the memory back."""
        self.ends, self.weights = self.ends[:, :0].copy(), self.weights[:0].copy()


def package_for(n: int) -> str:
    """The package that finds the communities of n cells."""
    return "networkit" if n >= NETWORKIT_FROM and find_spec("networkit") else "igraph"


def blocks_of(graph: Graph) -> Iterator[Block]:
    """The edges of a graph on the host, in the order of their first cell; of more than a few cells each edge once."""
    for start in range(0, graph.n, ROWS_A_BLOCK):
        stop = min(start + ROWS_A_BLOCK, graph.n)
        stored = slice(int(graph.indptr[start]), int(graph.indptr[stop]))
        sources = np.repeat(np.arange(start, stop, dtype=np.int32), np.diff(graph.indptr[start : stop + 1]))
        targets, weights = graph.indices[stored], graph.weights[stored]
        if graph.n > BOTH_DIRECTIONS_UP_TO:
            once = sources < targets
            sources, targets, weights = sources[once], targets[once], weights[once]
        yield sources, targets, weights


def count_edges(graph: Graph) -> int:
    """How many edges `blocks_of` gives."""
    return sum(len(weights) for _, _, weights in blocks_of(graph))


def communities(graph: Graph, resolution: float, n_iterations: int, seed: int) -> NDArray[np.int32]:
    """Leiden communities by modularity, in order of decreasing size."""
    package = package_for(graph.n)
    edges = Edges.empty(graph.n, count_edges(graph), package).take(blocks_of(graph))
    return PACKAGES[package](edges, resolution, n_iterations, seed)


def by_igraph(edges: Edges, resolution: float, n_iterations: int, seed: int) -> NDArray[np.int32]:
    """See `communities`; the edges are gone after."""
    import random

    igraph = igraph_core()
    network = igraph.GraphBase(n=edges.n, directed=False)
    network.add_edges(edges.ends.T)  # as an array it takes a third of the time and memory that a buffer takes
    weights = edges.weights.data
    edges.forget()
    igraph.set_random_number_generator(IgraphRandom(seed))
    try:
        membership, _ = network.community_leiden(
            edge_weights=weights,
            node_weights=network.strength(weights=weights),
            resolution=resolution,
            normalize_resolution=True,
            n_iterations=n_iterations,
        )
    finally:
        igraph.set_random_number_generator(random)
    return by_size(np.asarray(membership))


def by_networkit(edges: Edges, resolution: float, n_iterations: int, seed: int) -> NDArray[np.int32]:
    """See `communities`; the edges are gone after."""
    import networkit

    networkit.setNumberOfThreads(1)
    networkit.setSeed(seed, useThreadId=False)
    network = networkit.graph.GraphFromCoo(
        (edges.weights, (edges.ends[0], edges.ends[1])), n=edges.n, weighted=True, directed=False
    )
    edges.forget()
    search = networkit.community.ParallelLeiden(network, iterations=n_iterations, randomize=True, gamma=resolution)
    search.run()
    partition = search.getPartition()
    return by_size(np.unique(np.asarray(partition.getVector()), return_inverse=True)[1])


PACKAGES: dict[str, Callable[[Edges, float, int, int], NDArray[np.int32]]] = {
    "igraph": by_igraph,
    "networkit": by_networkit,
}


def by_size(membership: NDArray[np.integer]) -> NDArray[np.int32]:
    """Codes renumbered in order of decreasing size; each of 0, 1, ... must occur."""
    sizes = np.bincount(membership)
    new_code = np.empty(len(sizes), np.int32)
    new_code[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes), dtype=np.int32)
    codes: NDArray[np.int32] = new_code[membership]
    return codes

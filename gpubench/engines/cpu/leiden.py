"""Leiden communities of large graphs in a process of their own.

igraph and networkit keep the interpreter's lock while they build and walk a graph, for minutes where there are millions
of cells; no other thread of the process, and no Ctrl-C, would be heard in that time. The same code runs there, so the
communities are the same.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from subprocess import PIPE
from tempfile import TemporaryFile
from threading import Thread
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from gpubench.core.machine import lacked_memory, why_ended
from gpubench.core.memory import peak_bytes_of, process_peak_bytes
from gpubench.core.types import Graph

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.core.timeline import Timeline


@cache
def igraph_core() -> Any:
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


class IgraphRandom:
    """The random numbers that igraph asks for, from one seeded NumPy generator."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.RandomState(seed)

    def getrandbits(self, k: int) -> int:
        """K random bits."""
        return int(self._random.tomaxint()) & ((1 << k) - 1)

    def randint(self, a: int, b: int) -> int:
        """A number from a to b, both included."""
        return int(self._random.randint(a, b + 1))

    def random(self) -> float:
        """A number from 0 to 1, without 1."""
        return float(self._random.random())

    def gauss(self, mean: float, deviation: float) -> float:
        """A number of a normal distribution."""
        return float(self._random.normal(mean, deviation))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._random, name)


BOTH_DIRECTIONS_UP_TO = 50_000
"""Cells up to which igraph is given every edge in both directions, as scanpy does.

Modularity is the same with each edge once, but the walk of the seeded algorithm is another one, and up to here the
communities are those of cz-benchmarks to the cell. Beyond, once takes half the time and two thirds of the memory
(benchmarks/leiden.py).
"""

NETWORKIT_FROM = 500_000
"""Cells from which networkit takes less time and memory than igraph, for communities of the same modularity
(benchmarks/leiden.py). On one thread: on several its communities are others each time."""

ROWS_PER_BLOCK = 1 << 16
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
    for start in range(0, graph.n, ROWS_PER_BLOCK):
        stop = min(start + ROWS_PER_BLOCK, graph.n)
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


MANY_EDGES = 1_000_000
"""Stored entries from which on a graph has a process of its own: igraph keeps the lock for about a second by then."""

LOOK_S = 0.05
"""How often it is looked whether the run is to stop."""

_CHILD = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from gpubench.engines.cpu.leiden import main; main()"


def leiden(
    take: Callable[[], Graph], resolution: float, n_iterations: int, seed: int, timeline: Timeline
) -> NDArray[np.int32]:
    """See `communities`.

    Parameters
    ----------
    take : hands the graph over; it is forgotten once the process has it, which needs the memory

    Raises
    ------
    MemoryError
        The process has ended for want of memory.
    RuntimeError
        It has ended before its work was done for another reason, which is the last line that it wrote.
    """
    graph = take()
    if len(graph.indices) < MANY_EDGES or not sys.executable:
        return communities(graph, resolution, n_iterations, seed)
    arguments = {
        "package": package_for(graph.n),
        "n": graph.n,
        "m": count_edges(graph),
        "resolution": resolution,
        "n_iterations": n_iterations,
        "seed": seed,
    }
    path = json.dumps(list(map(str, sys.path)))  # some put paths there that are no strings
    command = [sys.executable, "-c", _CHILD, path, json.dumps(arguments)]
    codes, peak_bytes = np.empty(graph.n, np.int32), np.zeros(1, np.int64)
    take = [graph].pop
    del graph
    with TemporaryFile() as complaints:
        with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=complaints, bufsize=0) as process:
            talk = Thread(target=_talk, args=(process, take, (codes, peak_bytes)), daemon=True)
            talk.start()
            try:
                while talk.is_alive():
                    talk.join(LOOK_S)
                    timeline.add_process_memory(peak_bytes_of(process.pid) or 0)
                    timeline.cancel_token.check()
            finally:
                if talk.is_alive():  # the run is to stop, and nobody waits for the answer
                    process.kill()
                talk.join()
        complaints.seek(0)
        told = complaints.read().decode(errors="replace")
    if process.returncode:
        kind = MemoryError if lacked_memory(process.returncode, told) else RuntimeError
        raise kind(f"the process of the Leiden algorithm {why_ended(process.returncode, told)}")
    timeline.add_process_memory(int(peak_bytes[0]))
    return codes


def _talk(process: subprocess.Popen[bytes], take: Callable[[], Graph], answers: tuple[NDArray[Any], ...]) -> None:
    """Send the graph and read the answers; a process that has ended before is known by its return code."""
    assert process.stdin
    assert process.stdout
    with suppress(BrokenPipeError), process.stdin as pipe:
        for block in blocks_of(take()):
            _write(pipe, np.array([len(block[0])]))
            for array in block:
                _write(pipe, np.ascontiguousarray(array))
    for answer in answers:
        _read_into(process.stdout, answer)


def _write(pipe: IO[bytes], array: NDArray[Any]) -> None:
    view = array.data.cast("B")
    while view.nbytes:
        view = view[pipe.write(view) :]


def _read_into(pipe: IO[bytes], array: NDArray[Any]) -> bool:
    """Fill an array; False where the pipe ends before."""
    view = array.data.cast("B")
    while view.nbytes:
        n_bytes = pipe.readinto(view)  # type: ignore[attr-defined]
        if not n_bytes:
            return False
        view = view[n_bytes:]
    return True


def main() -> None:
    """What the process does: edges come from standard input, codes and peak memory go to standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to both; the run ends this process itself
    given = json.loads(sys.argv[2])
    edges = Edges.empty(given["n"], given["m"], given["package"]).take(_sent_blocks(given["m"]))
    find = PACKAGES[given["package"]]
    codes = find(edges, given["resolution"], given["n_iterations"], given["seed"])
    for answer in (codes, np.array([process_peak_bytes() or 0])):
        sys.stdout.buffer.write(answer.data)
    sys.stdout.buffer.flush()


def _sent_blocks(m: int) -> Iterator[Block]:
    """The m edges as they come in."""
    size = np.empty(1, np.int64)
    while m:
        _read_or_end(size)
        block = np.empty(size[0], np.int32), np.empty(size[0], np.int32), np.empty(size[0])
        for array in block:
            _read_or_end(array)
        yield block
        m -= int(size[0])


def _read_or_end(array: NDArray[Any]) -> None:
    if not _read_into(sys.stdin.buffer, array):
        os._exit(1)  # nobody waits for the answer

"""Find Leiden communities with igraph or networkit; for large graphs in a child process.

Both packages hold the interpreter lock while they build and search a graph, for minutes if there are millions of cells.
Meanwhile no other thread of the process could run, and Ctrl-C would not work. The child process runs the same code and
finds the same communities.
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
from gpubench.engines.cpu.tuning import DEFAULT, CpuTuning

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.core.timeline import Timeline
    from gpubench.core.types import F64, I32


@cache
def igraph_core() -> Any:
    """Import igraph's compiled module without the rest of the package.

    The package imports matplotlib for plots, which takes longer than finding the communities of 50,000 cells. A later
    `import igraph` uses the same compiled module.
    """
    name = "igraph._igraph"
    if name in sys.modules:
        return sys.modules[name]
    package = find_spec("igraph")
    compiled = package and PathFinder.find_spec(name, package.submodule_search_locations)
    if not (compiled and compiled.loader):
        raise ModuleNotFoundError("igraph, which finds Leiden communities, is not installed; pip install igraph")
    module = module_from_spec(compiled)
    sys.modules[name] = module  # the package looks for it here, and a second one cannot be loaded
    compiled.loader.exec_module(module)
    return module


class IgraphRandom:
    """Random number generator with the methods that igraph calls, based on a seeded NumPy generator."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.RandomState(seed)

    def getrandbits(self, k: int) -> int:
        """Return k random bits."""
        return int(self._random.tomaxint()) & ((1 << k) - 1)

    def randint(self, a: int, b: int) -> int:
        """Return an integer in [a, b]."""
        return int(self._random.randint(a, b + 1))

    def random(self) -> float:
        """Return a number in [0, 1)."""
        return float(self._random.random())

    def gauss(self, mean: float, deviation: float) -> float:
        """Return a random number from a normal distribution."""
        return float(self._random.normal(mean, deviation))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._random, name)


Block = tuple["I32", "I32", "F64"]
"""First cells, second cells and weights of a block of edges."""


@dataclass
class Edges:
    """Edges of a graph of n cells in the array types that igraph or networkit expects."""

    n: int
    ends: NDArray[Any]  # (2, m) cells, in the integer type of the package
    weights: F64  # (m,) float64

    @classmethod
    def empty(cls, n: int, m: int, package: str) -> Edges:
        """Allocate arrays for m edges of a graph of n cells, in the integer type that the package expects."""
        return cls(n, np.empty((2, m), np.uint64 if package == "networkit" else np.int32), np.empty(m))

    def fill(self, blocks: Iterator[Block]) -> Edges:
        """Copy blocks of edges into the arrays; return self."""
        start = 0
        for sources, targets, weights in blocks:
            stop = start + len(weights)
            self.ends[0, start:stop], self.ends[1, start:stop], self.weights[start:stop] = sources, targets, weights
            start = stop
        return self

    def free(self) -> None:
        """Drop the arrays to free their memory."""
        self.ends, self.weights = self.ends[:, :0].copy(), self.weights[:0].copy()


def package_for(n: int, tuning: CpuTuning) -> str:
    """Return the package used to find communities of n cells, "igraph" or "networkit"."""
    return "networkit" if n >= tuning.min_networkit_cells and find_spec("networkit") else "igraph"


def edge_blocks(graph: Graph, tuning: CpuTuning) -> Iterator[Block]:
    """Yield the edges of a graph on the host in blocks, ordered by the first cell.

    With many cells each undirected edge is yielded once, otherwise in both directions.
    """
    for start in range(0, graph.n, tuning.edge_rows):
        stop = min(start + tuning.edge_rows, graph.n)
        stored = slice(int(graph.indptr[start]), int(graph.indptr[stop]))
        sources = np.repeat(np.arange(start, stop, dtype=np.int32), np.diff(graph.indptr[start : stop + 1]))
        targets, weights = graph.indices[stored], graph.weights[stored]
        if graph.n > tuning.max_bidirectional_cells:
            once = sources < targets
            sources, targets, weights = sources[once], targets[once], weights[once]
        yield sources, targets, weights


def count_edges(graph: Graph, tuning: CpuTuning) -> int:
    """Return the number of edges that `edge_blocks` yields."""
    return sum(len(weights) for _, _, weights in edge_blocks(graph, tuning))


def communities(graph: Graph, resolution: float, n_iterations: int, seed: int, tuning: CpuTuning = DEFAULT) -> I32:
    """Find communities that maximise modularity; return (n,) int32 codes in order of decreasing community size."""
    package = package_for(graph.n, tuning)
    edges = Edges.empty(graph.n, count_edges(graph, tuning), package).fill(edge_blocks(graph, tuning))
    return PACKAGES[package](edges, resolution, n_iterations, seed)


def by_igraph(edges: Edges, resolution: float, n_iterations: int, seed: int) -> I32:
    """See `communities`; frees the edges."""
    import random

    igraph = igraph_core()
    network = igraph.GraphBase(n=edges.n, directed=False)
    network.add_edges(edges.ends.T)  # an array takes a third of the time and memory of a buffer
    weights = edges.weights.data
    edges.free()
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


def by_networkit(edges: Edges, resolution: float, n_iterations: int, seed: int) -> I32:
    """See `communities`; frees the edges."""
    import networkit

    networkit.setNumberOfThreads(1)
    networkit.setSeed(seed, useThreadId=False)
    network = networkit.graph.GraphFromCoo(
        (edges.weights, (edges.ends[0], edges.ends[1])), n=edges.n, weighted=True, directed=False
    )
    edges.free()
    search = networkit.community.ParallelLeiden(network, iterations=n_iterations, randomize=True, gamma=resolution)
    search.run()
    partition = search.getPartition()
    return by_size(np.unique(np.asarray(partition.getVector()), return_inverse=True)[1])


PACKAGES: dict[str, Callable[[Edges, float, int, int], I32]] = {"igraph": by_igraph, "networkit": by_networkit}


def by_size(membership: NDArray[np.integer]) -> I32:
    """Renumber codes in order of decreasing size; each of 0, 1, ... must occur."""
    sizes = np.bincount(membership)
    new_code = np.empty(len(sizes), np.int32)
    new_code[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes), dtype=np.int32)
    codes: I32 = new_code[membership]
    return codes


POLL_S = 0.05
"""Interval in seconds at which the parent process checks whether the run is cancelled."""

_CHILD = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from gpubench.engines.cpu.leiden import main; main()"


def leiden(
    take: Callable[[], Graph],
    resolution: float,
    n_iterations: int,
    seed: int,
    timeline: Timeline,
    tuning: CpuTuning = DEFAULT,
) -> I32:
    """Find communities as `communities` does, for large graphs in a child process.

    `take` is called once and returns the graph. To save memory, the graph is released when the child has received the
    edges, so the caller should keep no reference. Raises MemoryError if the child ran out of memory, and RuntimeError
    if it failed for another reason.
    """
    graph = take()
    if len(graph.indices) < tuning.min_process_edges or not sys.executable:
        return communities(graph, resolution, n_iterations, seed, tuning)
    arguments = {
        "package": package_for(graph.n, tuning),
        "n": graph.n,
        "m": count_edges(graph, tuning),
        "resolution": resolution,
        "n_iterations": n_iterations,
        "seed": seed,
    }
    codes, peak_bytes = np.empty(graph.n, np.int32), np.zeros(1, np.int64)
    take = [graph].pop
    del graph
    _run_process(arguments, take, tuning, (codes, peak_bytes), timeline)
    timeline.add_process_memory(int(peak_bytes[0]))
    return codes


def _run_process(
    arguments: dict[str, Any],
    take: Callable[[], Graph],
    tuning: CpuTuning,
    answers: tuple[NDArray[Any], ...],
    timeline: Timeline,
) -> None:
    """Run `main` in a child process, send the graph to the child and fill the arrays `answers` with its output."""
    path = json.dumps(list(map(str, sys.path)))  # entries may be of other types than str
    command = [sys.executable, "-c", _CHILD, path, json.dumps(arguments)]
    with TemporaryFile() as stderr:
        with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=stderr, bufsize=0) as process:
            exchange = Thread(target=_exchange, args=(process, take, tuning, answers), daemon=True)
            exchange.start()
            try:
                while exchange.is_alive():
                    exchange.join(POLL_S)
                    timeline.add_process_memory(peak_bytes_of(process.pid) or 0)
                    timeline.cancel_token.check()
            finally:
                if exchange.is_alive():  # the run is cancelled
                    process.kill()
                exchange.join()
        stderr.seek(0)
        message = stderr.read().decode(errors="replace")
    if process.returncode:
        kind = MemoryError if lacked_memory(process.returncode, message) else RuntimeError
        raise kind(f"the process of the Leiden algorithm {why_ended(process.returncode, message)}")


def _exchange(
    process: subprocess.Popen[bytes], take: Callable[[], Graph], tuning: CpuTuning, answers: tuple[NDArray[Any], ...]
) -> None:
    """Send the graph to the process and read its output into `answers`; failures show in the process's return code."""
    assert process.stdin
    assert process.stdout
    with suppress(BrokenPipeError), process.stdin as pipe:
        for block in edge_blocks(take(), tuning):
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
    """Fill an array with bytes from a pipe; return False if the pipe ends before the array is full."""
    view = array.data.cast("B")
    while view.nbytes:
        n_bytes = pipe.readinto(view)  # type: ignore[attr-defined]
        if not n_bytes:
            return False
        view = view[n_bytes:]
    return True


def main() -> None:
    """Entry point of the child process: read edges from standard input, write codes and peak memory to its output."""
    # a terminal sends Ctrl-C to both processes, and the parent ends this one
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    given = json.loads(sys.argv[2])
    edges = Edges.empty(given["n"], given["m"], given["package"]).fill(_received_blocks(given["m"]))
    codes = PACKAGES[given["package"]](edges, given["resolution"], given["n_iterations"], given["seed"])
    for answer in (codes, np.array([process_peak_bytes() or 0])):
        sys.stdout.buffer.write(answer.data)
    sys.stdout.buffer.flush()


def _received_blocks(m: int) -> Iterator[Block]:
    """Yield blocks of m edges in total from standard input as they arrive."""
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
        os._exit(1)  # the parent has ended

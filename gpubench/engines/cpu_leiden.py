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
from contextlib import suppress
from subprocess import PIPE
from tempfile import TemporaryFile
from threading import Thread
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from gpubench.engines import cpu_communities
from gpubench.memory import peak_bytes_of, process_peak_bytes
from gpubench.processes import lacked_memory, why_ended
from gpubench.types import Graph

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from gpubench.timeline import Timeline

MANY_EDGES = 1_000_000
"""Stored entries from which on a graph has a process of its own: igraph keeps the lock for about a second by then."""

LOOK_S = 0.05
"""How often it is looked whether the run is to stop."""

_CHILD = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from gpubench.engines.cpu_leiden import main; main()"


def leiden(
    take: Callable[[], Graph], resolution: float, n_iterations: int, seed: int, timeline: Timeline
) -> NDArray[np.int32]:
    """See `cpu_communities.communities`.

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
        return cpu_communities.communities(graph, resolution, n_iterations, seed)
    arguments = {
        "package": cpu_communities.package_for(graph.n),
        "n": graph.n,
        "m": cpu_communities.count_edges(graph),
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
                    timeline.beside(peak_bytes_of(process.pid) or 0)  # with what this one holds of the graph by now
                    timeline.heed()
            finally:
                if talk.is_alive():  # the run is to stop, and nobody waits for the answer
                    process.kill()
                talk.join()
        complaints.seek(0)
        told = complaints.read().decode(errors="replace")
    if process.returncode:
        kind = MemoryError if lacked_memory(process.returncode, told) else RuntimeError
        raise kind(f"the process of the Leiden algorithm {why_ended(process.returncode, told)}")
    timeline.beside(int(peak_bytes[0]))
    return codes


def _talk(process: subprocess.Popen[bytes], take: Callable[[], Graph], answers: tuple[NDArray[Any], ...]) -> None:
    """Send the graph and read the answers; a process that has ended before is known by its return code."""
    assert process.stdin
    assert process.stdout
    with suppress(BrokenPipeError), process.stdin as pipe:
        for block in cpu_communities.blocks_of(take()):
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
    edges = cpu_communities.Edges.empty(given["n"], given["m"], given["package"]).take(_sent_blocks(given["m"]))
    find = cpu_communities.PACKAGES[given["package"]]
    codes = find(edges, given["resolution"], given["n_iterations"], given["seed"])
    for answer in (codes, np.array([process_peak_bytes() or 0])):
        sys.stdout.buffer.write(answer.data)
    sys.stdout.buffer.flush()


def _sent_blocks(m: int) -> Iterator[cpu_communities.Block]:
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

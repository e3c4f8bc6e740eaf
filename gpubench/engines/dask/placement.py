"""Put an embedding on a cluster: each worker reads some blocks of its rows."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from itertools import pairwise
from operator import getitem
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError
from gpubench.core.units import bytes_text
from gpubench.data import FiniteCheck, as_rows, read_rows
from gpubench.data.locations import Location, find_location
from gpubench.data.matrices import comes_from
from gpubench.engines import planner
from gpubench.engines.dask.cluster import DEFAULT_TUNING
from gpubench.engines.dask.remote import ClusterMatrix, MatrixLimits, block_edges

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from gpubench.core.types import F32, RowSource
    from gpubench.engines.base import Engine
    from gpubench.engines.dask.cluster import Cluster

COPIES = 2.2
"""Times its share of the embedding that a worker holds: the cells, the same sorted, and what Dask is transferring."""

PARTS_IN_FLIGHT = 12
"""Number of parts of the largest size that a worker holds per thread."""


def part_bytes(worker_bytes: int, n_threads: int, share: float = DEFAULT_TUNING.part_share) -> int:
    """Return the largest size in bytes of a part of the cells, for workers with `n_threads` threads."""
    return int(share * worker_bytes / n_threads)


def worker_needs(n: int, d: int, n_workers: int, part_bytes: int, n_threads: int) -> int:
    """Return the memory in bytes that each worker needs to hold its blocks of the cells and to compute with parts."""
    matrix = 4 * n * d
    return int(COPIES * matrix / n_workers) + PARTS_IN_FLIGHT * n_threads * min(part_bytes, matrix)


def smallest_memory(workers: dict[str, dict[str, Any]]) -> int:
    """Return the memory in bytes that gpubench may use on the worker with the least memory."""
    limits = [int(worker["memory_limit"]) for worker in workers.values()]
    smallest = min((limit for limit in limits if limit > 0), default=planner.free_memory_bytes() // len(workers))
    return int(planner.SHARE_OF_FREE * smallest)


@dataclass(slots=True)
class Placement:
    """Transfer of embeddings to the workers.

    Attributes
    ----------
    cluster : cluster of the workers
    here : engine of this process, which validates cells that are in its memory
    worker_bytes : memory that may be used on one worker
    n_threads : number of threads of one worker
    """

    cluster: Cluster
    here: Engine
    worker_bytes: int
    n_threads: int

    @property
    def part_bytes(self) -> int:
        """Largest size of a part of the cells in bytes."""
        return part_bytes(self.worker_bytes, self.n_threads, self.cluster.tuning.part_share)

    def put(self, x: ArrayLike | RowSource, name: str) -> ClusterMatrix:
        """Put cells on the cluster as a matrix in blocks; see `Engine.put`."""
        rows = as_rows(x, name)
        n, d = (int(size) for size in rows.shape)
        n_workers = len(self.cluster.workers())
        needs = worker_needs(n, d, n_workers, self.part_bytes, self.n_threads)
        if needs > self.worker_bytes:
            raise InputError(
                f"{name} ({n:,} x {d}) takes {bytes_text(needs)} on each of {n_workers} workers in blocks, but"
                f" {bytes_text(self.worker_bytes)} may be used; start more workers, with more memory or fewer threads"
                " each, or use fewer cells"
            )
        edges = block_edges(n, d, n_workers, self.part_bytes)
        limits = MatrixLimits(name, self.worker_bytes, self.part_bytes)
        blocks = self._blocks(rows, edges, name), edges
        matrix = ClusterMatrix(self.cluster, (n, d), np.float32, limits, blocks=blocks)
        matrix.key = uuid.uuid4().hex
        return matrix

    def _blocks(self, rows: Any, edges: list[int], name: str) -> list[Any]:
        if comes_from(getattr(rows, "node", None), "dask"):
            return take_chunks(self.cluster, rows.node, edges, name)
        location = find_location(rows)
        if location is None:
            cells = self.here.put(rows, name)
            self.here.release(cells)
            if self.cluster.transfer.folder is None:  # workers do not see files of this machine
                parts = [cells[start:stop] for start, stop in pairwise(edges)]
                return list(self.cluster.client.scatter(parts, direct=True))
            path = self.cluster.transfer.write(cells).path
            location = Location(path, "npy", "", path)
        return read_location(self.cluster, location, edges, name)


def read_location(cluster: Cluster, location: Location, edges: list[int], name: str) -> list[Any]:
    """Return the futures of the blocks with these row `edges`, which workers read from a file."""
    calls = [(location, start, stop, name) for start, stop in pairwise(edges)]
    return _validated(cluster, cluster.submit_each("put", read_block, calls, spread=True), edges[-1], name)


def take_chunks(cluster: Cluster, array: Any, edges: list[int], name: str) -> list[Any]:
    """Return the futures of the blocks with these row `edges`, made from a Dask array on its workers."""
    sizes = tuple(int(size) for size in np.diff(edges))
    chunks = cluster.client.compute(list(array.rechunk({0: sizes, 1: -1}).to_delayed().ravel()))
    calls = [(chunk, start, name) for chunk, start in zip(chunks, edges[:-1], strict=True)]
    return _validated(cluster, cluster.submit_each("put", check_block, calls), edges[-1], name)


def _validated(cluster: Cluster, read: list[Any], n: int, name: str) -> list[Any]:
    """Return the futures of the blocks, or raise InputError if cells have invalid values; see `Engine.put`."""
    checks = cluster.submit_each("check", getitem, [(one, 1) for one in read])
    blocks = cluster.submit_each("put", getitem, [(one, 0) for one in read])
    cluster.wait([*checks, *blocks])
    check = FiniteCheck(name)
    for found in cluster.fetch(checks):
        check.join(found)
    check.finish(n)
    return blocks


def read_block(location: Location, start: int, stop: int, name: str) -> tuple[F32, FiniteCheck]:
    """Read rows [start, stop) of a file as float32, and check that their values are finite."""
    source = location.open()
    d = int(source.shape[1])
    rows, check = np.empty((stop - start, d), np.float32), FiniteCheck(name)
    step = planner.read_block_rows(d, source.dtype.itemsize)
    for begin in range(start, stop, step):
        end = min(begin + step, stop)
        stored = read_rows(source, begin, end)
        check.add(stored, begin)
        with np.errstate(over="ignore"):  # values beyond float32 are refused when all blocks are known
            rows[begin - start : end - start] = stored
    return rows, check


def check_block(stored: NDArray[Any], start: int, name: str) -> tuple[F32, FiniteCheck]:
    """Convert rows, the first of which is row `start` of the matrix, to float32, and check that values are finite."""
    check = FiniteCheck(name)
    check.add(np.asarray(stored), start)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(stored, np.float32), check

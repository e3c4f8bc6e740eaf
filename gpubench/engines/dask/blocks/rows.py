"""An embedding in blocks of rows, each on one of the workers: where a worker's memory is too small for all cells.

Blocks are read by the workers that hold them; one that is lost with its worker is read again where it is needed. Dask
takes the blocks that a task needs from worker to worker.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpubench.core.errors import InputError
from gpubench.core.units import bytes_text
from gpubench.data import FiniteCheck, read_rows
from gpubench.engines import planner
from gpubench.engines.dask.array import ClusterArray

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.data.locations import Location
    from gpubench.engines.dask.cluster import Cluster

COPIES = 2.2
"""Times its share of the embedding that a worker holds: the cells, the same sorted, and what Dask is moving."""

FLIGHT_SHARE = 1 / 48
"""Share that one part of the cells may take of the memory that a worker has for each of its threads; a task has two, as
they are and centred, and the next tasks have theirs already."""

PARTS_IN_FLIGHT = 12
"""Parts of the largest size for each task that runs at a time."""

BLOCKS_PER_WORKER = 4

DIGEST_ROWS = 256
"""Rows that are digested together: blocks hold a multiple of them, so that the digest does not depend on the blocks."""

WHOLE_COPIES = 2.5
"""Matrices that one worker holds that is brought all cells: they, their blocks, and what is computed from them."""


class Facts(NamedTuple):
    """What blocks of rows have in common.

    Attributes
    ----------
    d : dimensions
    name : for messages
    most_bytes : what one worker may hold
    part_bytes : what a part of the cells may take
    """

    d: int
    name: str
    most_bytes: int
    part_bytes: int


class BlockRows(ClusterArray):
    """A matrix in blocks of rows on the workers, (n, d).

    Attributes
    ----------
    blocks : futures of float32 arrays
    edges : the first row of each block, and n
    facts : what they have in common
    sorted : cells as they were sorted last, see `dask_block_silhouette`
    """

    def __init__(self, cluster: Cluster, blocks: list[Any], edges: list[int], facts: Facts) -> None:
        self.facts = facts
        self._whole: Any = None
        self.blocks, self.edges = blocks, edges
        self.sorted: Any = None
        super().__init__(cluster, None, ((edges[-1], facts.d), np.dtype(np.float32)))

    @property
    def cluster(self) -> Cluster:
        """Where it is."""
        found: Any = self._remote
        return found  # type: ignore[no-any-return]

    @property
    def argument(self) -> Any:
        """All rows on one worker.

        Raises
        ------
        InputError
            No worker has the memory.
        """
        if self._whole is None:
            self.require_one_worker("this needs")
            self._whole = self._remote.submit("whole", np.concatenate, self.blocks)
        return self._whole

    @argument.setter
    def argument(self, changed: Any) -> None:
        self._whole = changed
        if changed is not None:  # written to: the blocks hold what was there before
            self.blocks = []

    def require_one_worker(self, who: str, remedy: str = "") -> None:
        """Refuse what takes all cells on one worker where none has the memory.

        Parameters
        ----------
        who : with its verb, for the message
        remedy : beside more memory
        """
        n, d = self.shape
        needs = int(WHOLE_COPIES * 4 * n * d)
        if needs > self.facts.most_bytes:
            raise InputError(
                f"{self.facts.name} ({n:,} x {d}) is in blocks on the workers, and {who} all cells on one:"
                f" {bytes_text(needs)}, but {bytes_text(self.facts.most_bytes)} may be used; start workers with more"
                f" memory{f', or {remedy}' if remedy else ''}"
            )

    def spans(self) -> list[tuple[Any, int, int]]:
        """Each block with its first row and the one after its last."""
        return [(block, *span) for block, span in zip(self.blocks, pairwise(self.edges), strict=True)]

    def __getitem__(self, key: Any) -> ClusterArray:
        if not self.blocks:
            return super().__getitem__(key)
        if isinstance(key, slice) and key.step in (None, 1):
            start, stop, _ = key.indices(self.shape[0])
            return self._some([slice(max(start - a, 0), max(min(stop, b) - a, 0)) for _, a, b in self.spans()])
        if isinstance(key, np.ndarray) and key.ndim == 1 and key.dtype == np.bool_ and len(key) == self.shape[0]:
            return self._some([key[a:b] for _, a, b in self.spans()])
        if isinstance(key, np.ndarray) and key.ndim == 1 and key.dtype.kind in "iu":
            return self._gathered(key)
        return super().__getitem__(key)

    def _some(self, keys: list[Any]) -> BlockRows:
        """Some rows of each block, which stay where they are."""
        counts = [
            len(range(*key.indices(b - a))) if isinstance(key, slice) else int(np.count_nonzero(key))
            for key, (_, a, b) in zip(keys, self.spans(), strict=True)
        ]
        some = [one for one in zip(self.blocks, keys, counts, strict=True) if one[2]]
        some = some or [(self.blocks[0], slice(0, 0), 0)]
        edges = np.cumsum([0, *(count for _, _, count in some)]).tolist()
        calls = [(block, key) for block, key, _ in some]
        return BlockRows(self.cluster, self.cluster.submit_each("rows", take, calls), edges, self.facts)

    def _gathered(self, cells: NDArray[Any]) -> ClusterArray:
        """Rows in any order, together on one worker."""
        n, d = self.shape
        if 4 * len(cells) * d * 2 > self.facts.most_bytes:
            raise InputError(
                f"{len(cells):,} cells of {self.facts.name} take {bytes_text(8 * len(cells) * d)} on one worker, but"
                f" {bytes_text(self.facts.most_bytes)} may be used; start workers with more memory"
            )
        wanted = np.where(cells < 0, cells + n, cells).astype(np.int64)
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() < n):
            raise IndexError(f"cells {cells.min()} ... {cells.max()} of {n}")
        of_block = np.searchsorted(self.edges, wanted, "right") - 1
        there = [(i, np.flatnonzero(of_block == i)) for i in range(len(self.blocks))]
        some = [(i, where) for i, where in there if len(where)]
        rows = self.cluster.submit_each("rows", take, [(self.blocks[i], wanted[at] - self.edges[i]) for i, at in some])
        future = self.cluster.submit("rows", in_order, rows, [where for _, where in some], (len(cells), d))
        return ClusterArray(self.cluster, future, ((len(cells), d), np.dtype(np.float32)))

    def digest(self) -> str:
        """Tell these cells from any others; it does not depend on the blocks. 64 hexadecimal digits."""
        of_blocks = self.cluster.submit_each("digest", digests, [(block,) for block in self.blocks])
        return str(self.cluster.fetch(self.cluster.submit("digest", digest_of, of_blocks, self.shape)))


def part_bytes(worker_bytes: int, n_threads: int) -> int:
    """What a part of the cells may take on workers of so many threads."""
    return int(FLIGHT_SHARE * worker_bytes / n_threads)


def edges_of(n: int, d: int, n_workers: int, part_bytes: int) -> list[int]:
    """First rows of blocks of a multiple of `DIGEST_ROWS`, about as many for each worker, and n."""
    a_worker = BLOCKS_PER_WORKER if n_workers <= 32 else 2 if n_workers <= 256 else 1
    rows = min(-(-n // (a_worker * n_workers)), max(1, 2 * part_bytes // (4 * d)))
    rows = -(-rows // DIGEST_ROWS) * DIGEST_ROWS
    return [*range(0, n, rows), n]


def worker_needs(n: int, d: int, n_workers: int, part_bytes: int, n_threads: int) -> int:
    """Bytes of one of several workers that hold the cells in blocks."""
    matrix = 4 * n * d
    return int(COPIES * matrix / n_workers) + PARTS_IN_FLIGHT * n_threads * min(part_bytes, matrix)


def read_place(cluster: Cluster, place: Location, edges: list[int], name: str) -> list[Any]:
    """Blocks that workers read for themselves from a file."""
    calls = [(place, start, stop, name) for start, stop in pairwise(edges)]
    return _checked(cluster, cluster.submit_each("put", read_block, calls, spread=True), edges[-1], name)


def take_chunks(cluster: Cluster, array: Any, edges: list[int], name: str) -> list[Any]:
    """Blocks from the chunks of an array of Dask, which are where Dask computes them."""
    sizes = tuple(int(size) for size in np.diff(edges))
    chunks = cluster.client.compute(list(array.rechunk({0: sizes, 1: -1}).to_delayed().ravel()))
    calls = [(chunk, start, name) for chunk, start in zip(chunks, edges[:-1], strict=True)]
    return _checked(cluster, cluster.submit_each("put", check_block, calls), edges[-1], name)


def _checked(cluster: Cluster, read: list[Any], n: int, name: str) -> list[Any]:
    """Refuse what cannot be scored; see `Engine.put`."""
    checks = cluster.submit_each("check", second, [(one,) for one in read])
    blocks = cluster.submit_each("put", first, [(one,) for one in read])
    cluster.wait([*checks, *blocks])
    check = FiniteCheck(name)
    for found in cluster.fetch_each(checks):
        check.join(found)
    check.finish(n)
    return blocks


def first(of_two: tuple[Any, Any]) -> Any:
    """The first of two."""
    return of_two[0]


def second(of_two: tuple[Any, Any]) -> Any:
    """The second of two."""
    return of_two[1]


def read_block(place: Location, start: int, stop: int, name: str) -> tuple[NDArray[np.float32], FiniteCheck]:
    """Rows [start, stop) of a file, and what is wrong with them."""
    source = place.open()
    d = int(source.shape[1])
    rows, check = np.empty((stop - start, d), np.float32), FiniteCheck(name)
    step = planner.read_block_rows(d, source.dtype.itemsize)
    for begin in range(start, stop, step):
        end = min(begin + step, stop)
        stored = read_rows(source, begin, end)
        check.add(stored, begin)
        with np.errstate(over="ignore"):  # what does not fit float32 is refused when all blocks are known
            rows[begin - start : end - start] = stored
    return rows, check


def check_block(stored: NDArray[Any], start: int, name: str) -> tuple[NDArray[np.float32], FiniteCheck]:
    """Rows from `start` on as they are computed with, and what is wrong with them."""
    check = FiniteCheck(name)
    check.add(np.asarray(stored), start)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(stored, np.float32), check


def take(block: NDArray[np.float32], key: Any) -> NDArray[np.float32]:
    """Some rows of a block, which do not keep it in memory."""
    return np.array(block[key])


def in_order(rows: list[NDArray[np.float32]], where: list[NDArray[np.int64]], shape: tuple[int, int]) -> Any:
    """Rows of several blocks at their places."""
    out = np.empty(shape, np.float32)
    for some, at in zip(rows, where, strict=True):
        out[at] = some
    return out


def digests(block: NDArray[np.float32]) -> bytes:
    """SHA-256 of each few rows, one after another."""
    return b"".join(
        hashlib.sha256(block[start : start + DIGEST_ROWS].data).digest() for start in range(0, len(block), DIGEST_ROWS)
    )


def digest_of(of_blocks: list[bytes], shape: tuple[int, int]) -> str:
    """One digest from those of all rows."""
    n, d = shape
    return hashlib.sha256(f"{n} x {d} in {DIGEST_ROWS}".encode() + b"".join(of_blocks)).hexdigest()

"""Rows of an embedding in blocks are sorted into parts on the workers, and answers about the same part are merged.

Each part is assembled from its rows in every block, a few parts at a time, so that no worker ever holds more than its
blocks, its parts, and what it receives for the next ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.core.types import F32, I64
    from gpubench.engines.dask.cluster import Cluster
    from gpubench.engines.dask.remote import ClusterMatrix

MAX_TASKS = 80_000
"""Tasks of a shuffle and of the pairs of its parts together."""

MERGED_AT_A_TIME = 8
"""Answers about the same rows that wait to be merged: fewer take less memory, more take fewer tasks."""

Answers = list[tuple[Any, int]]
"""Futures of tuples, each with the number of the item in the tuple."""

PartRows = tuple["I64", "I64", "F32"]
"""Rows that a block has of a part: their positions in the part, their cells, and the rows."""


class StreamingMerge:
    """Merges the answers of tasks about each part while other tasks still run.

    Attributes
    ----------
    finished : the future of each part, once all its answers have been added

    Parameters
    ----------
    n_answers : how many there will be for each part
    merge : called with the number of a part and some of its answers; returns the future of a tuple of one merged answer
    finish : called with the number of a part and all its answers; returns the future of the part
    """

    def __init__(
        self, n_answers: Sequence[int], merge: Callable[[int, Answers], Any], finish: Callable[[int, Answers], Any]
    ) -> None:
        self._missing, self._merge, self._finish = [int(n) for n in n_answers], merge, finish
        self._waiting: list[Answers] = [[] for _ in self._missing]
        self.finished: list[Any] = [None] * len(self._missing)

    def add(self, part: int, future: Any, side: int) -> None:
        """Add the item `side` of an answer to a part."""
        waiting = self._waiting[part]
        waiting.append((future, side))
        self._missing[part] -= 1
        if not self._missing[part]:
            self.finished[part] = self._finish(part, waiting)
            self._waiting[part] = []
        elif len(waiting) >= MERGED_AT_A_TIME:
            self._waiting[part] = [(self._merge(part, waiting), 0)]

    def run(
        self, cluster: Cluster, name: str, function: Any, calls: Iterable[Any], parts: Sequence[Sequence[int]]
    ) -> None:
        """Call a function with each of several arguments, and add its answers, whose items are about these parts."""

        def done(number: int, future: Any) -> None:
            for side, part in enumerate(parts[number]):
                self.add(part, future, side)

        cluster.submit_throttled(name, function, calls, len(parts), done)


def max_parts(n_blocks: int, limit: int) -> int:
    """Return the number of parts whose pairs, and a task for each part of each block, are at most `MAX_TASKS`."""
    return max(1, min(limit, int((n_blocks**2 + 2 * MAX_TASKS) ** 0.5 - n_blocks)))


def n_tasks(n_blocks: int, n_parts: int) -> int:
    """Return the number of tasks of a shuffle."""
    return n_blocks + n_parts * (n_blocks + 1)


def send_ranks(cluster: Cluster, rank: NDArray[np.integer], x: ClusterMatrix) -> list[Any]:
    """Return the futures of the ranks of the rows of each block, on the workers of the blocks.

    Parameters
    ----------
    rank : (n,) of each cell
    """
    written = cluster.encode_args(rank)
    if written is rank:  # workers do not see this machine's files
        calls = [(rank[a:b], 0, b - a, block) for block, a, b in x.spans()]
    else:
        calls = [(written, a, b, block) for block, a, b in x.spans()]
    return cluster.submit_each("ranks", take_ranks, calls)


def take_ranks(rank: NDArray[np.integer], start: int, stop: int, block: F32) -> NDArray[np.integer]:
    """Copy the ranks of a block; taking the block makes Dask run this on its worker."""
    assert len(block) == stop - start
    return np.array(rank[start:stop])


def shuffle(
    cluster: Cluster, x: ClusterMatrix, ranks: list[Any], edges: Sequence[tuple[int, int]], assemble: Any
) -> list[Any]:
    """Return the futures of the parts.

    Parameters
    ----------
    ranks : futures of the ranks of the rows of each block
    edges : first rank of each part, and the one after its last
    assemble : makes a part of the list of its `PartRows` and its size
    """
    parts: list[Any] = [None] * len(edges)

    def call(start: int, stop: int) -> tuple[Any, int]:
        pieces = [(block, rank, a, start, stop) for (block, a, _), rank in zip(x.spans(), ranks, strict=True)]
        return cluster.submit_each("piece", select_rows, pieces), stop - start

    cluster.submit_throttled("part", assemble, (call(*span) for span in edges), len(edges), parts.__setitem__)
    return parts


def select_rows(block: F32, rank: NDArray[np.integer], first: int, start: int, stop: int) -> PartRows:
    """Return the rows of a block whose rank is in [start, stop); the block begins with cell `first`."""
    which = np.flatnonzero((rank >= start) & (rank < stop))
    return rank[which].astype(np.int64) - start, first + which, block[which]


def sorted_rows(pieces: list[PartRows], m: int) -> F32:
    """Return the m rows of a part in their order."""
    rows = np.empty((m, pieces[0][2].shape[1]), np.float32)
    for positions, _, some in pieces:
        rows[positions] = some
    return rows

"""Sort the rows of an embedding from blocks into parts on the workers, and merge results on the same part.

Each part is assembled from its rows in every block, a few parts at a time, so that a worker only holds its blocks, its
parts, and the rows that it receives for its next parts.
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
"""Largest number of tasks of a shuffle and of the comparisons of pairs of its parts."""

MERGED_AT_A_TIME = 8
"""Number of results on the same rows that are merged at a time: fewer need less memory, more need fewer tasks."""

Answers = list[tuple[Any, int]]
"""Pairs of a future of a tuple and the index of an item in that tuple."""

PartRows = tuple["I64", "I64", "F32"]
"""Rows of a part that come from one block: positions in the part, indices of the cells, and the rows."""


class StreamingMerge:
    """Merge the results of tasks on each part while other tasks still run.

    Attributes
    ----------
    finished : future of the final result of each part; None until all results of the part have been added

    Parameters
    ----------
    n_answers : number of results that will be added for each part
    merge : function called with the index of a part and some of its results; returns the future of a tuple with the
        merged result as the only item
    finish : function called with the index of a part and all its remaining results; returns the future of the final
        result
    """

    def __init__(
        self, n_answers: Sequence[int], merge: Callable[[int, Answers], Any], finish: Callable[[int, Answers], Any]
    ) -> None:
        self._missing, self._merge, self._finish = [int(n) for n in n_answers], merge, finish
        self._waiting: list[Answers] = [[] for _ in self._missing]
        self.finished: list[Any] = [None] * len(self._missing)

    def add(self, part: int, future: Any, side: int) -> None:
        """Add the item `side` of a task's result, a tuple, to the results of a part."""
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
        """Call a function once for each tuple of arguments in `calls`, and add the items of its results to parts.

        `parts` has for each call the index of the part that each item of the result belongs to.
        """

        def done(number: int, future: Any) -> None:
            for side, part in enumerate(parts[number]):
                self.add(part, future, side)

        cluster.submit_throttled(name, function, calls, len(parts), done)


def max_parts(n_blocks: int, limit: int) -> int:
    """Return the largest number of parts up to `limit` that needs at most `MAX_TASKS` tasks.

    There is a task for each pair of parts, and for each part of each block.
    """
    return max(1, min(limit, int((n_blocks**2 + 2 * MAX_TASKS) ** 0.5 - n_blocks)))


def n_tasks(n_blocks: int, n_parts: int) -> int:
    """Return the number of tasks that a shuffle of blocks into parts takes."""
    return n_blocks + n_parts * (n_blocks + 1)


def send_ranks(cluster: Cluster, rank: NDArray[np.integer], x: ClusterMatrix) -> list[Any]:
    """Send each block's share of `rank` to the worker that has the block; return the futures.

    Parameters
    ----------
    rank : (n,) position of each cell in the sorted order
    """
    written = cluster.encode_args(rank)
    if written is rank:  # workers do not see this machine's files
        calls = [(rank[a:b], 0, b - a, block) for block, a, b in x.spans()]
    else:
        calls = [(written, a, b, block) for block, a, b in x.spans()]
    return cluster.submit_each("ranks", take_ranks, calls)


def take_ranks(rank: NDArray[np.integer], start: int, stop: int, block: F32) -> NDArray[np.integer]:
    """Copy the ranks of the rows of a block; the block is an argument only to make Dask run this on its worker."""
    assert len(block) == stop - start
    return np.array(rank[start:stop])


def shuffle(
    cluster: Cluster, x: ClusterMatrix, ranks: list[Any], edges: Sequence[tuple[int, int]], assemble: Any
) -> list[Any]:
    """Sort the rows of a matrix into parts by rank; return the futures of the parts.

    Parameters
    ----------
    ranks : futures of the ranks of each block's rows
    edges : range of ranks of each part as (start, stop)
    assemble : function that makes a part from a list of `PartRows`, one per block, and the number of rows
    """
    parts: list[Any] = [None] * len(edges)

    def call(start: int, stop: int) -> tuple[Any, int]:
        pieces = [(block, rank, a, start, stop) for (block, a, _), rank in zip(x.spans(), ranks, strict=True)]
        return cluster.submit_each("piece", select_rows, pieces), stop - start

    cluster.submit_throttled("part", assemble, (call(*span) for span in edges), len(edges), parts.__setitem__)
    return parts


def select_rows(block: F32, rank: NDArray[np.integer], first: int, start: int, stop: int) -> PartRows:
    """Return the rows of a block with ranks in [start, stop); `first` is the index of the block's first cell."""
    which = np.flatnonzero((rank >= start) & (rank < stop))
    return rank[which].astype(np.int64) - start, first + which, block[which]


def sorted_rows(pieces: list[PartRows], m: int) -> F32:
    """Assemble the m rows of a part, in the order of their ranks, from its rows in every block."""
    rows = np.empty((m, pieces[0][2].shape[1]), np.float32)
    for positions, _, some in pieces:
        rows[positions] = some
    return rows

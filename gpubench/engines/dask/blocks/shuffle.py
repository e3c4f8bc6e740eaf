"""Rows of an embedding in blocks brought into another order, in parts on the workers.

Each part is put together from its rows in every block, a few parts at a time, so that no worker ever holds more than
its blocks, its parts and what comes in for the next ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.dask.blocks.rows import BlockRows
    from gpubench.engines.dask.cluster import Cluster


MERGED = 8
"""Answers about the same rows that wait to be put together: fewer take less memory, more take fewer tasks."""

Answers = list[tuple[Any, int]]
"""Futures of tuples, and which of the tuple's items it is."""


class Gathered:
    """Puts together what tasks find for each part.

    Attributes
    ----------
    found : futures of everything that was found for each part, once all its answers are there

    Parameters
    ----------
    n_answers : that there will be for each part
    merge : given the number of a part and some of its answers: the future of a tuple of one, which stands for them
    finish : given the number of a part and all its answers: the future of what is found
    """

    def __init__(
        self, n_answers: Sequence[int], merge: Callable[[int, Answers], Any], finish: Callable[[int, Answers], Any]
    ) -> None:
        self._missing, self._merge, self._finish = [int(n) for n in n_answers], merge, finish
        self._waiting: list[Answers] = [[] for _ in self._missing]
        self.found: list[Any] = [None] * len(self._missing)

    def add(self, part: int, future: Any, side: int) -> None:
        """Take what a task has found for a part."""
        waiting = self._waiting[part]
        waiting.append((future, side))
        self._missing[part] -= 1
        if not self._missing[part]:
            self.found[part] = self._finish(part, waiting)
            self._waiting[part] = []
        elif len(waiting) >= MERGED:
            self._waiting[part] = [(self._merge(part, waiting), 0)]


Some = tuple["NDArray[np.int64]", "NDArray[np.int64]", "NDArray[np.float32]"]
"""Rows that a block has of a part: where in the part, which of all cells, and the rows."""

MAX_TASKS = 80_000
"""Tasks of a shuffle and of the pairs of its parts together."""


def most_parts(n_blocks: int, at_most: int) -> int:
    """Parts P that P^2 / 2 pairs, and a task for each part of each block, are not more than `MAX_TASKS`."""
    return max(1, min(at_most, int((n_blocks**2 + 2 * MAX_TASKS) ** 0.5 - n_blocks)))


def n_tasks(n_blocks: int, n_parts: int) -> int:
    """Tasks of a shuffle."""
    return n_blocks + n_parts * (n_blocks + 1)


def ranks_of(cluster: Cluster, rank: NDArray[np.integer], x: BlockRows) -> list[Any]:
    """Where the rows of each block stand in the order, beside the blocks.

    Parameters
    ----------
    rank : (n,) of each cell
    """
    left = cluster.packed(rank)
    if left is rank:  # workers do not see this machine's files
        calls = [(rank[a:b], 0, b - a, block) for block, a, b in x.spans()]
    else:
        calls = [(left, a, b, block) for block, a, b in x.spans()]
    return cluster.submit_each("ranks", ranks, calls)


def ranks(rank: NDArray[np.integer], start: int, stop: int, block: NDArray[np.float32]) -> NDArray[np.integer]:
    """The ranks of the rows of a block, whose worker keeps them."""
    assert len(block) == stop - start
    return np.array(rank[start:stop])


def shuffle(
    cluster: Cluster, x: BlockRows, ranks: list[Any], edges: Sequence[tuple[int, int]], assemble: Any
) -> list[Any]:
    """Futures of the parts.

    Parameters
    ----------
    ranks : futures of the ranks of the rows of each block
    edges : first rank of each part, and the one after its last
    assemble : what makes a part of the list of its `Some` and its size
    """
    parts: list[Any] = [None] * len(edges)

    def call(start: int, stop: int) -> tuple[Any, int]:
        pieces = [(block, rank, a, start, stop) for (block, a, _), rank in zip(x.spans(), ranks, strict=True)]
        return cluster.submit_each("piece", piece, pieces), stop - start

    def done(number: int, part: Any) -> None:
        parts[number] = part

    cluster.in_turn("part", assemble, (call(*span) for span in edges), len(edges), done)
    return parts


def piece(block: NDArray[np.float32], rank: NDArray[np.integer], first: int, start: int, stop: int) -> Some:
    """The rows of a block whose rank is in [start, stop); the block begins with row `first` of all."""
    which = np.flatnonzero((rank >= start) & (rank < stop))
    return rank[which].astype(np.int64) - start, first + which, block[which]


def sorted_rows(pieces: list[Some], m: int) -> NDArray[np.float32]:
    """The m rows of a part in their order."""
    rows = np.empty((m, pieces[0][2].shape[1]), np.float32)
    for where, _, some in pieces:
        rows[where] = some
    return rows

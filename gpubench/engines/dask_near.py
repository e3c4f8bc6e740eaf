"""An order of cells in blocks in which near cells are mostly near each other: a tree of cuts from a sample of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpubench.engines.near_order import SAMPLE, direction_of
from gpubench.engines.neighbors import Scaling

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROWS = 8192
"""Rows that go down the tree together."""


@dataclass(frozen=True, slots=True)
class Tree:
    """Cuts across the directions in which cells vary most; node i is cut into 2 i + 1 and 2 i + 2.

    Attributes
    ----------
    directions : (nodes, d) float32
    cuts : (nodes,) float32: what is beyond goes to the second half
    depth : levels of nodes; there are 2^depth leaves
    """

    directions: NDArray[np.float32]
    cuts: NDArray[np.float32]
    depth: int

    def leaves(self, rows: NDArray[np.float32]) -> NDArray[np.int64]:
        """The leaf of each row."""
        node = np.zeros(len(rows), np.int64)
        for _ in range(self.depth):
            along = np.einsum("ij,ij->i", rows, self.directions[node])
            node = 2 * node + 1 + (along > self.cuts[node])
        leaves: NDArray[np.int64] = node - (2**self.depth - 1)
        return leaves


def tree_of(sample: NDArray[np.float32], depth: int, seed: int) -> Tree:
    """Halve a sample again and again."""
    rng = np.random.default_rng(seed)
    n_nodes, scaling = 2**depth - 1, Scaling(sample, sample)
    directions, cuts = np.zeros((n_nodes, sample.shape[1]), np.float32), np.zeros(n_nodes, np.float32)
    parts = [(0, np.arange(len(sample)))]
    while parts:
        node, cells = parts.pop()
        if node >= n_nodes or not len(cells):  # no cell of the sample comes here; others may, to either side
            continue
        few = rng.choice(cells, min(len(cells), SAMPLE), replace=False)
        directions[node] = direction_of(scaling.rows(sample[few]), rng)
        along = np.einsum("ij,j->i", sample[cells], directions[node])
        cuts[node] = np.median(along)
        beyond = along > cuts[node]
        parts += [(2 * node + 1, cells[~beyond]), (2 * node + 2, cells[beyond])]
    return Tree(directions, cuts, depth)


def keys_of(block: NDArray[np.float32], tree: Tree) -> NDArray[np.uint16]:
    """The leaf of each row of a block."""
    keys = np.empty(len(block), np.uint16)
    for start in range(0, len(block), ROWS):
        keys[start : start + ROWS] = tree.leaves(block[start : start + ROWS])
    return keys


def counts_of(keys: NDArray[np.uint16], depth: int) -> NDArray[np.int64]:
    """Rows of each leaf."""
    return np.bincount(keys, minlength=2**depth)


def starts_of(counts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """(blocks, leaves) where the rows of a block begin in each leaf, among all cells ordered by leaf, then cell."""
    of_leaves = np.stack(counts)
    before_leaf = np.concatenate([[0], np.cumsum(of_leaves.sum(axis=0))[:-1]])
    starts: NDArray[np.int64] = before_leaf + np.cumsum(of_leaves, axis=0) - of_leaves
    return starts


def ranks_in(keys: NDArray[np.uint16], starts: NDArray[np.int64], number: int) -> NDArray[np.uint32]:
    """Where each row of a block stands among all cells."""
    order = np.argsort(keys, kind="stable")
    counts = np.bincount(keys, minlength=starts.shape[1])
    inside = np.arange(len(keys)) - np.repeat(np.cumsum(counts) - counts, counts)
    ranks = np.empty(len(keys), np.uint32)
    ranks[order] = np.repeat(starts[number], counts) + inside
    return ranks

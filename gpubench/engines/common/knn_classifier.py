"""Classification by the votes of the nearest cells, on any device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError
from gpubench.core.types import Array, Knn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.base import Engine

N_VOTES = 5
"""Neighbours that vote, as scikit-learn has it."""

SHORT_SHARE = 1e-3
"""Share of the cells that may have too few neighbours of other folds in a graph; those are searched again."""

MORE_NEIGHBORS = 4
"""How many times as many neighbours they are searched for, then and again."""


class NearestNeighbors:
    """Votes of the nearest training cells, Euclidean, each vote the same; ties in distance go to the first cell."""

    note = ""

    def __init__(self, engine: Engine, *, n_neighbors: int = N_VOTES) -> None:
        self._engine = engine
        self.n_neighbors = n_neighbors

    def fit(self, x: Array, codes: NDArray[np.int32], n_classes: int) -> NearestNeighbors:
        """Remember the cells; see `Classifier.fit`.

        Raises
        ------
        InputError
            Fewer training cells than neighbours that vote.
        """
        if len(x) < self.n_neighbors:
            raise InputError(f"{self.n_neighbors} neighbours vote, but there are {len(x)} training cells")
        self._x, self._codes, self._n_classes = x, self._engine.xp.asarray(codes), n_classes
        return self

    def predict_proba(self, x: Array) -> Array:
        """Share of the votes; see `Classifier.predict_proba`."""
        nearest = self._engine.knn_between(x, self._x, self.n_neighbors).indices
        return _shares(self._engine.xp, self._codes[nearest], self._n_classes)


@dataclass(frozen=True, slots=True)
class Voters:
    """The cells of other folds that vote for each cell, from one graph of all cells.

    Attributes
    ----------
    nearest : (n, votes) int32, ascending distance
    method, recall : of the graph, see `Knn`
    """

    nearest: Array
    method: str
    recall: float | None

    def vote_shares(self, engine: Engine, rows: NDArray[np.int64], codes: NDArray[np.int32], n_classes: int) -> Array:
        """(m, n_classes) shares of the votes for some cells; codes (n,) are those of all."""
        xp = engine.xp
        return _shares(xp, xp.asarray(codes)[self.nearest[rows]], n_classes)


def graph_neighbors(n_folds: int, n_votes: int = N_VOTES) -> int:
    """The fewest neighbours of which `n_votes` are in other folds, for all but `SHORT_SHARE` of the cells.

    With the cells in folds by chance the neighbours in other folds are binomial: each is with 1 - 1 / n_folds.
    """
    other = 1 - 1 / n_folds
    k = n_votes
    while sum(math.comb(k, i) * other**i * (1 - other) ** (k - i) for i in range(n_votes)) > SHORT_SHARE:
        k += 1
    return k


def nearest_in_other_folds(engine: Engine, x: Array, folds: NDArray[Any], n_votes: int = N_VOTES) -> Voters:
    """Find for each cell the nearest few in other folds: in one graph of all cells, less those of its own fold.

    Of the few cells that then have too few, more neighbours are searched exactly.

    Parameters
    ----------
    x : (n, d) cells, scaled
    folds : (n,) the fold of each; `n_votes` cells or more are in others
    """
    xp, n = engine.xp, len(x)
    on_device = xp.asarray(folds)
    graph = engine.knn(x, min(graph_neighbors(len(np.unique(folds)), n_votes), n - 1))
    nearest, found = _first_in_other_folds(xp, graph.indices, on_device, on_device, n_votes)
    method, recall, k = graph.method, graph.recall, graph.k
    del graph  # as large as the cells
    while len(short := xp.flatnonzero(found < n_votes)):
        k = min(MORE_NEIGHBORS * k, n)
        around: Knn = engine.knn_between(x[short], x, k)
        nearest[short], found[short] = _first_in_other_folds(xp, around.indices, on_device, on_device[short], n_votes)
    return Voters(nearest, method, recall)


def _first_in_other_folds(xp: Any, indices: Array, folds: Array, own: Array, n_votes: int) -> tuple[Array, Array]:
    """The first neighbours in another fold than a cell's own, (m, n_votes), and how many each cell has, (m,)."""
    nearest = xp.zeros((len(indices), n_votes), np.int32)
    found = xp.zeros(len(indices), np.int64)
    for column in range(indices.shape[1]):
        neighbors = indices[:, column]
        rows = xp.flatnonzero((folds[neighbors] != own) & (found < n_votes))
        nearest[rows, found[rows]] = neighbors[rows]
        found[rows] += 1
    return nearest, found


def _shares(xp: Any, votes: Array, n_classes: int) -> Array:
    """(m, n_classes) shares of the codes that voted, (m, votes)."""
    shares = xp.zeros((len(votes), n_classes))
    cells = xp.arange(len(votes))
    for vote in range(votes.shape[1]):
        shares[cells, votes[:, vote]] += 1
    shares /= votes.shape[1]
    return shares

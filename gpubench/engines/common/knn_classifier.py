"""Classification by the votes of the nearest training cells, on any device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError
from gpubench.core.types import Array, Knn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.core.types import I32, I64

N_VOTES = 5
"""Default number of neighbours that vote, as in scikit-learn."""

MAX_SHORT_SHARE = 1e-3
"""Share of the cells that may have too few neighbours in other folds; these cells are searched again."""

SEARCH_GROWTH = 4
"""Factor by which the number of neighbours grows in each repeated search."""


class KnnClassifier:
    """k-nearest-neighbours classifier of an `Engine`: Euclidean distance, equal votes, ties by lower cell index."""

    note = ""

    def __init__(self, engine: Any, *, n_neighbors: int = N_VOTES) -> None:
        self._engine = engine
        self.n_neighbors = n_neighbors

    def fit(self, x: Array, codes: I32, n_classes: int) -> KnnClassifier:
        """Store the training cells; see `Classifier.fit`.

        Raises
        ------
        InputError
            There are fewer training cells than `n_neighbors`.
        """
        if len(x) < self.n_neighbors:
            raise InputError(f"{self.n_neighbors} neighbours vote, but there are {len(x)} training cells")
        self._x, self._codes, self._n_classes = x, self._engine.xp.asarray(codes), n_classes
        return self

    def predict_proba(self, x: Array) -> Array:
        """Return the share of each class among the nearest training cells; see `Classifier.predict_proba`."""
        nearest = self._engine.knn_between(x, self._x, self.n_neighbors).indices
        return _vote_shares(self._engine.xp, self._codes[nearest], self._n_classes)


@dataclass(frozen=True, slots=True)
class Voters:
    """The nearest cells of each cell that are in other folds than the cell itself; they vote on its class.

    Attributes
    ----------
    nearest : (n, n_votes) int32, cell indices by ascending distance
    method, recall : method and recall of the search in which the neighbours were found, see `Knn`
    """

    nearest: Array
    method: str
    recall: float | None

    def vote_shares(self, engine: Any, rows: I64, codes: I32, n_classes: int) -> Array:
        """Return the shares (m, n_classes) of the classes among the voters of the cells `rows` (m,).

        `codes` (n,) has the classes of all cells.
        """
        xp = engine.xp
        return _vote_shares(xp, xp.asarray(codes)[self.nearest[rows]], n_classes)


def graph_neighbors(n_folds: int, n_votes: int = N_VOTES) -> int:
    """Return the number of neighbours to search so that almost every cell has `n_votes` neighbours in other folds.

    At most a share `MAX_SHORT_SHARE` of the cells is expected to have fewer. If folds are assigned at random, the
    number of neighbours in other folds is binomial with probability 1 - 1 / n_folds.
    """
    other = 1 - 1 / n_folds
    k = n_votes
    while sum(math.comb(k, i) * other**i * (1 - other) ** (k - i) for i in range(n_votes)) > MAX_SHORT_SHARE:
        k += 1
    return k


def nearest_in_other_folds(engine: Any, x: Array, folds: NDArray[Any], n_votes: int = N_VOTES) -> Voters:
    """Find for each cell the `n_votes` nearest cells that are not in the same fold, with one search among all cells.

    For the few cells with fewer than `n_votes` such neighbours, an exact search for more neighbours follows.

    Parameters
    ----------
    x : (n, d) cells, already scaled
    folds : (n,) fold of each cell; outside of each fold there must be at least `n_votes` cells
    """
    xp, n = engine.xp, len(x)
    fold = xp.asarray(folds)
    graph = engine.knn(x, min(graph_neighbors(len(np.unique(folds)), n_votes), n - 1))
    nearest, n_found = _first_in_other_folds(xp, xp.asarray(graph.indices), fold, fold, n_votes)
    method, recall, k = graph.method, graph.recall, graph.k
    del graph  # as large as the cells
    while len(short := xp.flatnonzero(n_found < n_votes)):
        k = min(SEARCH_GROWTH * k, n)
        around: Knn = engine.knn_between(x[short], x, k)
        nearest[short], n_found[short] = _first_in_other_folds(xp, around.indices, fold, fold[short], n_votes)
    return Voters(nearest, method, recall)


def _first_in_other_folds(xp: Any, indices: Array, folds: Array, own: Array, n_votes: int) -> tuple[Array, Array]:
    """Return the first neighbours of m cells outside each cell's fold, (m, n_votes), and how many were found, (m,)."""
    nearest = xp.zeros((len(indices), n_votes), np.int32)
    n_found = xp.zeros(len(indices), np.int64)
    for column in range(indices.shape[1]):
        neighbors = indices[:, column]
        rows = xp.flatnonzero((folds[neighbors] != own) & (n_found < n_votes))
        nearest[rows, n_found[rows]] = neighbors[rows]
        n_found[rows] += 1
    return nearest, n_found


def _vote_shares(xp: Any, votes: Array, n_classes: int) -> Array:
    """Return the share of each class in each row of votes (m, n_votes), the codes of the voters; (m, n_classes)."""
    shares = xp.zeros((len(votes), n_classes))
    cells = xp.arange(len(votes))
    for vote in range(votes.shape[1]):
        shares[cells, votes[:, vote]] += 1
    shares /= votes.shape[1]
    return shares

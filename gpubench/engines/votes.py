"""Classification by the votes of the nearest cells, on any device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpubench.errors import InputError
from gpubench.types import Array

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.base import Engine


class NearestNeighbors:
    """Votes of the nearest training cells, Euclidean, each vote the same; ties in distance go to the first cell."""

    note = ""

    def __init__(self, engine: Engine, *, n_neighbors: int = 5) -> None:
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
        xp = self._engine.xp
        nearest = self._engine.knn_between(x, self._x, self.n_neighbors).indices
        votes = xp.zeros((len(x), self._n_classes))
        cells = xp.arange(len(x))
        for neighbor in range(self.n_neighbors):
            votes[cells, self._codes[nearest[:, neighbor]]] += 1
        votes /= self.n_neighbors
        return votes

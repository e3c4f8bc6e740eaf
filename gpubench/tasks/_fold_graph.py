"""The cells that vote for each cell in a cross-validation, from one graph of all cells where these are very many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from gpubench.checkpoint import Codec, Kept, Part
from gpubench.engines.votes import N_VOTES, Voters, graph_neighbors, nearest_in_other_folds
from gpubench.tasks._scaling import Scaling
from gpubench.tasks._training import TrainingCells, Voted
from gpubench.types import Array, Labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.base import Engine
    from gpubench.tasks._folds import Folds


class FoldGraph:
    """The nearest cells in other folds, where the engine would not compare so many cells with all.

    They are searched for once, not for each fold, so they are scaled once as well: by the standard deviations of all
    cells, which differ from those of a fold's training cells in the third digit or later.
    """

    def __init__(
        self, engine: Engine, x: Array, rows: NDArray[np.int64], labels: Labels, folds: Folds, *, centre: bool
    ) -> None:
        """Name the cells, rows (m,) of x, with their labels (m,) and folds."""
        self._engine, self._x, self._rows, self._labels, self._folds = engine, x, rows, labels, folds
        self._centre = centre
        self._voters: Voters | None = None

    @classmethod
    def of(
        cls,
        engine: Engine,
        x: Array,
        rows: NDArray[np.int64],
        labels: Labels,
        folds: Folds,
        *,
        centre: bool,
    ) -> Self | None:
        """Make one where the engine would search the cells approximately, else None."""
        k = graph_neighbors(len(folds))
        enough = len(rows) - np.bincount(folds.codes).max() >= N_VOTES and len(rows) > k
        if not enough or engine.method(len(rows), x.shape[1], k) == "exact":
            return None
        return cls(engine, x, rows, labels, folds, centre=centre)

    def find(self, parts: Kept, *facts: Any) -> None:
        """Search, or take the graph over from an earlier run; `facts` tell it from other graphs of the embedding."""
        self._voters = parts.part("graph", self._search, _codec(self._engine), *facts)

    def voted(self, i: int, tested: Array, cells: TrainingCells) -> Voted:
        """The classifier of fold i, tested on the unscaled cells `tested`."""
        assert self._voters is not None
        voters, labels = self._voters, self._labels
        proba = voters.of_fold(self._engine, self._folds[i].test, labels.codes, labels.n_classes)
        search = {"knn": voters.method, "recall": voters.recall}
        return Voted(cells, tested, proba, search)

    def _search(self) -> Voters:
        cells = self._x[self._rows]
        scaled = Scaling(self._engine, cells, centre=self._centre).apply(cells)
        return nearest_in_other_folds(self._engine, scaled, self._folds.codes)


def _codec(engine: Engine) -> Codec[Voters]:
    def pack(voters: Voters) -> Part:
        nearest = engine.to_host(voters.nearest)
        return Part({"method": voters.method, "recall": voters.recall}, {"nearest": nearest})

    def unpack(part: Part) -> Voters:
        return Voters(engine.xp.asarray(part.arrays["nearest"]), **part.value)

    return Codec(pack, unpack)

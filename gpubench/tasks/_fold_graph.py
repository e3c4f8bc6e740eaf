"""The cells that vote for each cell in a cross-validation, from one graph of all cells where these are very many."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

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


@dataclass(frozen=True)
class FoldGraph:
    """The nearest cells in other folds, where the engine would not compare so many cells with all.

    They are searched for once, not for each fold, so they are scaled once as well: by the standard deviations of all
    cells, which differ from those of a fold's training cells in the third digit or later.

    Attributes
    ----------
    x : (n, d) cells
    rows : (m,) those that take part
    labels, folds : of the m cells
    centre : as in `Scaling`
    parts : where the graph is kept, or taken from
    """

    engine: Engine
    x: Array
    rows: NDArray[np.int64]
    labels: Labels
    folds: Folds
    centre: bool
    parts: Kept

    @property
    def serves(self) -> bool:
        """Whether the engine would search so many cells approximately, and each has enough cells in other folds."""
        m, k = len(self.rows), graph_neighbors(len(self.folds))
        enough = m - np.bincount(self.folds.codes).max() >= N_VOTES and m > k
        return bool(enough and self.engine.method(m, self.x.shape[1], k) != "exact")

    def voted(self, i: int, tested: Array, cells: TrainingCells) -> Voted:
        """The classifier of fold i, tested on the unscaled cells `tested`; the first that is asked for searches.

        Raises
        ------
        InputError
            The graph does not fit the memory.
        """
        voters, labels = self._voters, self.labels
        proba = voters.of_fold(self.engine, self.folds[i].test, labels.codes, labels.n_classes)
        return Voted(cells, tested, proba, {"knn": voters.method, "recall": voters.recall})

    @cached_property
    def _voters(self) -> Voters:
        return self.parts.part("graph", self._search, _codec(self.engine))

    def _search(self) -> Voters:
        cells = self.x[self.rows]
        scaled = Scaling(self.engine, cells, centre=self.centre).apply(cells)
        return nearest_in_other_folds(self.engine, scaled, self.folds.codes)


def _codec(engine: Engine) -> Codec[Voters]:
    def pack(voters: Voters) -> Part:
        nearest = engine.to_host(voters.nearest)
        return Part({"method": voters.method, "recall": voters.recall}, {"nearest": nearest})

    def unpack(part: Part) -> Voters:
        return Voters(engine.xp.asarray(part.arrays["nearest"]), **part.value)

    return Codec(pack, unpack)

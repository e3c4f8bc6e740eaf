"""What the numbers of a run are made of: a value for each cell, beside the columns that describe the cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from gpubench.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gpubench.types import Labels, MeanOver

CLUSTER = "cluster"
"""Stands for the metric in the column of the clusters that were found."""

PREDICTED = "predicted_label"
"""Stands for the metric in the column of a classifier's answers."""

FOLD = "fold"
"""Stands for the metric in the column of the folds in which cells were tested."""


@dataclass(frozen=True, slots=True)
class CellColumn:
    """One value for each cell: what a score is the mean of, or the class that a cell was given.

    Attributes
    ----------
    embedding, task : of the row that it belongs to
    metric : of that row; `CLUSTER`, `PREDICTED` or `FOLD` where the values are classes
    values : (n,) float32, NaN for cells that do not count or were not drawn; of classes int32 codes, -1 for none
    params : what tells columns of one metric apart: "classifier", and between species "train_species"
    names : of the classes, in the order of the codes; None where the values are numbers
    mean_over : how the score follows from the values, see `gpubench.metrics._metric.MetricSpec`. Cells of a sampled
        score are drawn more densely where values scatter, so that their plain mean is not it
    """

    embedding: str
    task: str
    metric: str
    values: NDArray[np.float32] | NDArray[np.int32]
    params: Mapping[str, str] = field(default_factory=dict)
    names: tuple[str, ...] | None = None
    mean_over: MeanOver = "cells"

    def here(self) -> CellColumn:
        """The same with its values on this machine: those of a cluster stay there until they are looked at."""
        import numpy as np

        values: Any = np.asarray(self.values)
        return replace(self, values=values)


@dataclass(frozen=True, slots=True)
class CellView:
    """Cells in two dimensions, for looking at.

    Attributes
    ----------
    title : what the dimensions are
    rows : (m,) the cells that are drawn, ascending; of many a random sample
    xy : (m, 2) float32, where they are
    """

    title: str
    rows: NDArray[np.int64]
    xy: NDArray[np.float32]


@dataclass(slots=True)
class CellScores:
    """What a run keeps of each cell.

    Attributes
    ----------
    n_cells : n
    groups : "label", "batch", "species", "sample", "time" -> the cells' groups, of those that were given
    times : (n,) float64, or None where no time was given
    columns : in the order in which they were computed
    views : embedding -> how it looks; with the one key "" where all are drawn on coordinates that came with the cells
    """

    n_cells: int = 0
    groups: dict[str, Labels] = field(default_factory=dict)
    times: NDArray[np.float64] | None = None
    columns: list[CellColumn] = field(default_factory=list)
    views: dict[str, CellView] = field(default_factory=dict)

    def select(self, **wanted: Any) -> list[CellColumn]:
        """Columns of this embedding, task, metric, or of these parameters, such as classifier="lr"."""
        chosen = (column for column in self.columns if all(_get(column, key) == wish for key, wish in wanted.items()))
        return [column.here() for column in chosen]

    def find(self, metric: str, **wanted: Any) -> CellColumn:
        """Return the one column of a metric.

        Raises
        ------
        InputError
            There is none, or more than one.

        Examples
        --------
        >>> result.cells.find("silhouette_score", embedding="X_pca", task="embedding").values  # doctest: +SKIP
        """
        found = self.select(metric=metric, **wanted)
        if len(found) != 1:
            asked = ", ".join([repr(metric), *(f"{key}={wish!r}" for key, wish in wanted.items())])
            known = ", ".join(dict.fromkeys(column.metric for column in self.columns)) or "none"
            what = "tell them apart by embedding, task or parameters" if found else f"there are: {known}"
            raise InputError(f"find({asked}): {len(found)} columns of cells match; {what}")
        return found[0]


def _get(column: CellColumn, key: str) -> Any:
    return getattr(column, key) if key in ("embedding", "task", "metric") else column.params.get(key)

"""Which labels, batches, species or time points make a score what it is: its cells' values, group by group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpubench.metrics import METRICS
from gpubench.reporting.content import CellsOf
from gpubench.results.plots import Spread, spreads
from gpubench.results.table import printable

ROLES = {
    "embedding": ("label",),
    "batch_integration": ("label", "batch"),
    "cross_species_integration": ("label", "species"),
    "sequential_organization": ("time",),
    "scib": ("label",),
}
"""What the scores of a task are broken down by."""

FEW = 10
"""Groups of fewer cells come last: their means say little."""


@dataclass(frozen=True, slots=True)
class Group:
    """A group and its spread on each embedding, None where no cell of it counts."""

    name: str
    spreads: tuple[Spread | None, ...]

    @property
    def n(self) -> int:
        """Cells that count, the most of any embedding."""
        return max(spread.n for spread in self.spreads if spread is not None)

    @property
    def mean(self) -> float:
        """The mean over embeddings, by which groups are put in order."""
        return float(np.mean([spread.mean for spread in self.spreads if spread is not None]))


@dataclass(frozen=True, slots=True)
class Breakdown:
    """A score by the groups of one role.

    Attributes
    ----------
    metric, title : its id and title
    role : "label", "batch" ...
    groups : those with values; time points in order of time, others with the worst first, but for those of `FEW` cells
    """

    metric: str
    title: str
    role: str
    groups: tuple[Group, ...]

    @property
    def in_order_of_time(self) -> bool:
        """Whether the groups are time points."""
        return self.role == "time"

    @property
    def middle(self) -> float | None:
        """The value at which a cell is as near to others as to its own, where a score has one."""
        return 0.5 if self.metric in ("silhouette_score", "isolated_labels") else None


def breakdowns(task: str, columns: Sequence[CellsOf]) -> list[Breakdown]:
    """Break the scores of a task down by its roles.

    Parameters
    ----------
    task : its id
    columns : what is known of the cells of each embedding
    """
    metrics = dict.fromkeys(
        column.metric for cells in columns for column in cells.of_task(task) if column.names is None
    )
    found = [_breakdown(task, metric, role, columns) for metric in metrics for role in ROLES.get(task, ())]
    return [breakdown for breakdown in found if len(breakdown.groups) > 1]


def _breakdown(task: str, metric: str, role: str, columns: Sequence[CellsOf]) -> Breakdown:
    by_embedding: list[dict[str, Spread]] = []
    times: dict[str, float] = {}
    for cells in columns:
        found = [column for column in cells.of_task(task) if column.metric == metric]
        known = found and role in cells.scores.groups
        by_embedding.append(spreads(found[0], cells.scores.groups[role]) if known else {})
        if role == "time" and known:
            times |= _times(cells)
    names = dict.fromkeys(name for spreads in by_embedding for name in spreads)
    title = METRICS[metric].spec.title
    groups = [Group(printable(name), tuple(spreads.get(name) for spreads in by_embedding)) for name in names]
    if role == "time":
        order = sorted(range(len(groups)), key=lambda i: times[list(names)[i]])
        return Breakdown(metric, title, role, tuple(groups[i] for i in order))
    higher_is_better = METRICS[metric].spec.higher_is_better is not False
    groups.sort(key=lambda group: (group.n < FEW, group.mean if higher_is_better else -group.mean))
    return Breakdown(metric, title, role, tuple(groups))


def _times(cells: CellsOf) -> dict[str, float]:
    """The time of each time point."""
    labels, times = cells.scores.groups["time"], cells.scores.times
    assert times is not None
    of_code = np.empty(labels.n_classes)
    of_code[labels.codes] = times
    return dict(zip(labels.names, of_code.tolist(), strict=True))

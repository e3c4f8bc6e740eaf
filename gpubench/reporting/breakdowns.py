"""Breakdowns of scores: statistics of the cells' values by label, batch, species or time point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpubench.metrics import METRICS
from gpubench.reporting.content import EmbeddingCells
from gpubench.results.statistics import GroupStatistics, group_statistics, group_times
from gpubench.results.table import printable

ROLES = {
    "embedding": ("label",),
    "batch_integration": ("label", "batch"),
    "cross_species_integration": ("label", "species"),
    "sequential_organization": ("time",),
    "scib": ("label",),
}
"""Task -> roles of the groups by which its scores are broken down."""

FEW = 10
"""Groups of fewer cells come last, because their means are uncertain."""


@dataclass(frozen=True, slots=True)
class GroupRow:
    """Group with its statistics on each embedding, None where no cell of it counts."""

    name: str
    by_embedding: tuple[GroupStatistics | None, ...]

    @property
    def n(self) -> int:
        """Largest number of cells that count on an embedding."""
        return max(own.n for own in self.by_embedding if own is not None)

    @property
    def mean(self) -> float:
        """Mean over embeddings, by which groups are sorted."""
        return float(np.mean([own.mean for own in self.by_embedding if own is not None]))


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Score by the groups of one role.

    Attributes
    ----------
    metric, title : id and title of the score
    role : "label", "batch" ...
    groups : those with values; time points in order of time, others with the worst first and small ones last
    """

    metric: str
    title: str
    role: str
    groups: tuple[GroupRow, ...]

    @property
    def in_order_of_time(self) -> bool:
        """Whether the groups are time points."""
        return self.role == "time"

    @property
    def middle(self) -> float | None:
        """Value of a cell that is as near to another group as to its own, where the score has one."""
        return 0.5 if self.metric in ("silhouette_score", "isolated_labels") else None


def breakdowns(task: str, embeddings: Sequence[EmbeddingCells]) -> list[Breakdown]:
    """Break the scores of a task down by each of its roles that has several groups."""
    metrics = dict.fromkeys(
        column.metric for cells in embeddings for column in cells.columns(task) if column.names is None
    )
    found = [_breakdown(task, metric, role, embeddings) for metric in metrics for role in ROLES.get(task, ())]
    return [breakdown for breakdown in found if len(breakdown.groups) > 1]


def _breakdown(task: str, metric: str, role: str, embeddings: Sequence[EmbeddingCells]) -> Breakdown:
    by_embedding: list[dict[str, GroupStatistics]] = []
    times: dict[str, float] = {}
    for cells in embeddings:
        columns = [column for column in cells.columns(task) if column.metric == metric]
        labels = cells.scores.groups.get(role) if columns else None
        by_embedding.append({} if labels is None else group_statistics(columns[0], labels))
        if role == "time" and labels is not None and cells.scores.times is not None:
            times |= group_times(labels, cells.scores.times)
    names = dict.fromkeys(name for own in by_embedding for name in own)
    if role == "time":
        names = dict.fromkeys(sorted(names, key=lambda name: times[name]))
    groups = [GroupRow(printable(name), tuple(own.get(name) for own in by_embedding)) for name in names]
    spec = METRICS[metric].spec
    if role != "time":
        sign = -1 if spec.higher_is_better is False else 1
        groups.sort(key=lambda group: (group.n < FEW, sign * group.mean))
    return Breakdown(metric, spec.title, role, tuple(groups))

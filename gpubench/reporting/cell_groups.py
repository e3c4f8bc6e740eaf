"""Scores broken down by groups of cells, and confusion matrices of labels with predicted labels and clusters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gpubench.core.scores import CLUSTER, PREDICTED
from gpubench.metrics import METRICS
from gpubench.metrics._metric import contingency
from gpubench.reporting.content import EmbeddingCells
from gpubench.results.statistics import GroupStatistics, group_statistics, group_times
from gpubench.results.table import printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.core.scores import CellColumn
    from gpubench.core.types import Labels

ROLES = {
    "embedding": ("label",),
    "batch_integration": ("label", "batch"),
    "cross_species_integration": ("label", "species"),
    "sequential_organization": ("time",),
    "scib": ("label",),
}
"""Task -> roles of the columns, such as "label", by whose groups its scores are broken down."""

FEW = 10
"""Number of cells below which groups are listed last, because their means are uncertain."""


@dataclass(frozen=True, slots=True)
class GroupRow:
    """Group of cells, with the statistics of its scores on each embedding.

    The statistics are None for an embedding on which no cell of the group has a score.
    """

    name: str
    by_embedding: tuple[GroupStatistics | None, ...]

    @property
    def n(self) -> int:
        """Number of cells of the group that have a score; the largest number over the embeddings."""
        return max(own.n for own in self.by_embedding if own is not None)

    @property
    def mean(self) -> float:
        """Mean over the embeddings of the group's mean score; groups are sorted by it."""
        return float(np.mean([own.mean for own in self.by_embedding if own is not None]))


@dataclass(frozen=True, slots=True)
class Breakdown:
    """One score, broken down by the groups of one column, such as labels or batches."""

    metric: str  # id of the score
    title: str  # title of the score
    role: str  # role of the column: "label", "batch" ...
    # groups with a score on some embedding; time points in order of time, others with the worst first, small ones last
    groups: tuple[GroupRow, ...]

    def narrowed(self, columns: Sequence[int]) -> Breakdown:
        """Return the breakdown for some embeddings only, without groups that have no score on them.

        `columns` are the positions of the embeddings in `GroupRow.by_embedding`.
        """
        groups = [replace(group, by_embedding=tuple(group.by_embedding[i] for i in columns)) for group in self.groups]
        return replace(self, groups=tuple(group for group in groups if any(group.by_embedding)))

    @property
    def in_order_of_time(self) -> bool:
        """Whether the groups are time points, which are listed in order of time."""
        return self.role == "time"

    @property
    def middle(self) -> float | None:
        """Score of a cell that is as near to another group as to its own; None for scores without such a value."""
        return 0.5 if self.metric in ("silhouette_score", "isolated_labels") else None


def breakdowns(task: str, embeddings: Sequence[EmbeddingCells]) -> list[Breakdown]:
    """Break the per-cell scores of a task down by each column, of those in `ROLES`, that has several groups."""
    metrics = dict.fromkeys(
        column.metric for cells in embeddings for column in cells.columns(task) if column.names is None
    )
    found = (_breakdown(task, metric, role, embeddings) for metric in metrics for role in ROLES.get(task, ()))
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
    names = list(dict.fromkeys(name for own in by_embedding for name in own))
    spec = METRICS[metric].spec
    if role == "time":
        names.sort(key=lambda name: times[name])
    groups = [GroupRow(printable(name), tuple(own.get(name) for own in by_embedding)) for name in names]
    if role != "time":
        sign = -1 if spec.higher_is_better is False else 1
        groups.sort(key=lambda group: (group.n < FEW, sign * group.mean))
    return Breakdown(metric, spec.title, role, tuple(groups))


_MAX_LISTED = 10
"""Maximum number of confused pairs of labels that are listed."""

_MAX_ROWS, _MAX_COLUMNS = 24, 30
"""Maximum numbers of rows and columns of a matrix that is shown as a table."""


class ConfusedPair(NamedTuple):
    """Number of cells with the label `true` that were predicted as `predicted`, and their share of the true label."""

    true: str
    predicted: str
    n: int
    share: float


@dataclass(frozen=True, slots=True)
class Confusion:
    """Confusion matrix: numbers of cells by label and by assigned class (predicted label or cluster)."""

    embedding: str  # its name on the page
    what: str  # short description of the classifier or the clusters
    rows: tuple[str, ...]  # names of the labels
    columns: tuple[str, ...]  # names of the classes
    counts: NDArray[np.int64]  # (rows, columns) numbers of cells
    predicts_labels: bool  # whether the classes are predicted labels, rather than clusters

    @property
    def fits_a_table(self) -> bool:
        """Whether the matrix is small enough to be shown as a table."""
        return len(self.rows) <= _MAX_ROWS and len(self.columns) <= _MAX_COLUMNS

    @property
    def shares(self) -> NDArray[np.float64]:
        """(rows, columns) share of each label's cells that were assigned to each class; rows sum to 1."""
        shares: NDArray[np.float64] = self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1)
        return shares

    @property
    def largest(self) -> list[ConfusedPair]:
        """Most confused pairs of labels, sorted by their share of the true label; empty for clusters.

        Pairs whose true label has fewer than `FEW` cells are last.
        """
        if not self.predicts_labels:
            return []
        shares = self.shares
        pairs = [
            ConfusedPair(row, column, int(self.counts[i, j]), float(shares[i, j]))
            for i, row in enumerate(self.rows)
            for j, column in enumerate(self.columns)
            if row != column and self.counts[i, j]
        ]
        return sorted(pairs, key=lambda pair: (pair.n < pair.share * FEW, -pair.share))[:_MAX_LISTED]


def confusions(task: str, embeddings: Sequence[EmbeddingCells]) -> list[Confusion]:
    """Return confusion matrices of the labels with the clusters and the best classifier's predictions of embeddings.

    For classifiers trained on one species there are two matrices: one for cells of that species, predicted out of fold,
    and one for cells of the other species.
    """
    found = [confusion for cells in embeddings for confusion in _confusions(task, cells)]
    return [confusion for confusion in found if len(confusion.rows) > 1]


def _confusions(task: str, cells: EmbeddingCells) -> Iterator[Confusion]:
    label = cells.scores.groups.get("label")
    if label is None:
        return
    columns = cells.columns(task)
    for column in columns:
        if column.metric == CLUSTER:
            yield _labels_in_clusters(cells, column, label)
    predictions = [column for column in columns if column.metric == PREDICTED]
    for species in dict.fromkeys(column.params.get("train_species", "") for column in predictions):
        own = [column for column in predictions if column.params.get("train_species", "") == species]
        for what, tested in _tested_cells(cells, species):
            found = [_predicted_labels(cells, column, label, tested, what) for column in own]
            defined = [confusion for confusion in found if confusion is not None]
            if defined:
                yield max(defined, key=lambda confusion: confusion.counts.diagonal().sum())


def _tested_cells(cells: EmbeddingCells, species: str) -> Iterator[tuple[str, NDArray[np.bool_] | slice]]:
    """Yield a description and the selection of cells of each test set of classifiers trained on a species."""
    groups = cells.scores.groups.get("species")
    if not species or groups is None:
        yield "", slice(None)
        return
    within = groups.codes == groups.names.index(species)
    name = printable(species)
    yield f"trained on {name}, tested on {name} out of fold", within
    yield f"trained on {name}, tested on the other species", ~within


def _predicted_labels(
    cells: EmbeddingCells, column: CellColumn, label: Labels, tested: NDArray[np.bool_] | slice, what: str
) -> Confusion | None:
    counts = _count(label, column, tested)
    occurring = np.flatnonzero(counts.sum(axis=1) + counts.sum(axis=0))
    if not len(occurring):
        return None
    names = tuple(printable(label.names[code]) for code in occurring)
    description = ", ".join(filter(None, (f"Classifier {printable(column.params['classifier'])}", what)))
    return Confusion(cells.name, description, names, names, counts[np.ix_(occurring, occurring)], predicts_labels=True)


def _labels_in_clusters(cells: EmbeddingCells, column: CellColumn, label: Labels) -> Confusion:
    """Count labels in clusters, sorted by their most frequent label so that large shares are near the diagonal."""
    counts = _count(label, column, slice(None))
    order = np.lexsort((-counts.max(axis=0), counts.argmax(axis=0)))
    rows = tuple(map(printable, label.names))
    columns = tuple(printable((column.names or ())[code]) for code in order)
    return Confusion(cells.name, "Leiden clusters", rows, columns, counts[:, order], predicts_labels=False)


def _count(label: Labels, column: CellColumn, chosen: NDArray[np.bool_] | slice) -> NDArray[np.int64]:
    """Return the (labels, classes) numbers of the chosen cells, without cells that have no class."""
    codes, classes = label.codes[chosen], column.values[chosen].astype(np.int32)
    has_class = classes >= 0
    return contingency(codes[has_class], classes[has_class], label.n_classes, len(column.names or ()))

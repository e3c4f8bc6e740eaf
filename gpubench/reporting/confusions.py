"""Confusion of labels by classifiers that had not seen the cells, and labels in clusters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.scores import CLUSTER, PREDICTED
from gpubench.reporting.breakdowns import FEW
from gpubench.reporting.content import EmbeddingCells
from gpubench.results.table import printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.core.scores import CellColumn
    from gpubench.core.types import Labels

_MAX_LISTED = 10
"""Confused pairs of labels that are listed."""

_MAX_ROWS, _MAX_COLUMNS = 24, 30
"""Size of a matrix that is shown as a table."""


@dataclass(frozen=True, slots=True)
class ConfusedPair:
    """Number of cells of one label that were predicted to have another, and their share of that label."""

    true: str
    predicted: str
    n: int
    share: float


@dataclass(frozen=True, slots=True)
class Confusion:
    """Counts of cells by label and by assigned class.

    Attributes
    ----------
    embedding : its name on the page
    what : the classifier or the clusters, in a few words
    rows, columns : names of labels and classes
    counts : (rows, columns) cells
    predicts_labels : whether the classes are the labels
    """

    embedding: str
    what: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    counts: NDArray[np.int64]
    predicts_labels: bool

    @property
    def fits_a_table(self) -> bool:
        """Whether a table of all shares is readable."""
        return len(self.rows) <= _MAX_ROWS and len(self.columns) <= _MAX_COLUMNS

    @property
    def shares(self) -> NDArray[np.float64]:
        """(rows, columns) shares of the cells of each label."""
        shares: NDArray[np.float64] = self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1)
        return shares

    @property
    def largest(self) -> list[ConfusedPair]:
        """Most confused pairs of labels, by the share of the true label; labels of fewer than `FEW` cells last."""
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
    """Count labels in the clusters of each embedding and in the predictions of its most accurate classifier.

    Between species there are two of these: for the species of the training cells, out of fold, and for the others.
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
    """Yield description and cells of each test set of classifiers that were trained on a species."""
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
    assert column.names is not None
    counts = _count(label.codes[tested], column.values[tested], label.n_classes, len(column.names))
    occurring = np.flatnonzero(counts.sum(axis=1) + counts.sum(axis=0))
    if not len(occurring):
        return None
    names = tuple(printable(label.names[code]) for code in occurring)
    description = ", ".join(filter(None, (f"Classifier {printable(column.params['classifier'])}", what)))
    return Confusion(cells.name, description, names, names, counts[np.ix_(occurring, occurring)], predicts_labels=True)


def _labels_in_clusters(cells: EmbeddingCells, column: CellColumn, label: Labels) -> Confusion:
    """Count with clusters in the order of their most frequent labels, so that large shares are near the diagonal."""
    assert column.names is not None
    counts = _count(label.codes, column.values, label.n_classes, len(column.names))
    order = np.lexsort((-counts.max(axis=0), counts.argmax(axis=0)))
    rows, columns = map(printable, label.names), (printable(column.names[code]) for code in order)
    return Confusion(
        cells.name, "Leiden clusters", tuple(rows), tuple(columns), counts[:, order], predicts_labels=False
    )


def _count(codes: NDArray[np.int32], assigned: NDArray[Any], n_labels: int, n_classes: int) -> NDArray[np.int64]:
    """Count (labels, classes) cells, without those that have no class."""
    counted = assigned >= 0
    pairs = codes[counted].astype(np.int64) * n_classes + assigned[counted]
    return np.bincount(pairs, minlength=n_labels * n_classes).reshape(n_labels, n_classes)

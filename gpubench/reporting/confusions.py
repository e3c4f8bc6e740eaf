"""What labels were taken for: by classifiers that had not seen the cells, and by the clusters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.scores import CLUSTER, PREDICTED
from gpubench.reporting.breakdowns import FEW
from gpubench.reporting.content import CellsOf
from gpubench.results.table import printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.core.scores import CellColumn
    from gpubench.core.types import Labels

_LISTED = 10
"""Confusions that are named."""

_TABLE_ROWS, _TABLE_COLUMNS = 24, 30


@dataclass(frozen=True, slots=True)
class Confused:
    """Cells of one label that were predicted to have another, and their share of that label."""

    true: str
    predicted: str
    n: int
    share: float


@dataclass(frozen=True, slots=True)
class Confusion:
    """Cells by label and by the class that they were given.

    Attributes
    ----------
    embedding : its name on the page
    what : whose classes they are, in a few words
    rows, columns : names of labels and classes
    counts : (rows, columns) cells
    of_labels : whether the classes are the labels
    """

    embedding: str
    what: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    counts: NDArray[np.int64]
    of_labels: bool

    @property
    def fits_a_table(self) -> bool:
        """Whether a table of all shares can be read."""
        return len(self.rows) <= _TABLE_ROWS and len(self.columns) <= _TABLE_COLUMNS

    @property
    def shares(self) -> NDArray[np.float64]:
        """(rows, columns) shares of the cells of each label."""
        shares: NDArray[np.float64] = self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1)
        return shares

    @property
    def largest(self) -> list[Confused]:
        """Pairs of labels that are confused most, by the share of the true label; labels of `FEW` cells come last."""
        if not self.of_labels:
            return []
        shares = self.shares
        pairs = [
            Confused(row, column, int(self.counts[i, j]), float(shares[i, j]))
            for i, row in enumerate(self.rows)
            for j, column in enumerate(self.columns)
            if row != column and self.counts[i, j]
        ]
        return sorted(pairs, key=lambda pair: (pair.n < pair.share * FEW, -pair.share))[:_LISTED]


def confusions(task: str, columns: Sequence[CellsOf]) -> list[Confusion]:
    """The clusters of each embedding, and the answers of its most accurate classifier, against the labels.

    Between species there are two: for the species that classifiers were trained on, out of fold, and for the others.
    """
    found = [confusion for cells in columns for confusion in _of_embedding(task, cells)]
    return [confusion for confusion in found if len(confusion.rows) > 1]


def _of_embedding(task: str, cells: CellsOf) -> Iterator[Confusion]:
    label = cells.scores.groups.get("label")
    if label is None:
        return
    for column in cells.of_task(task):
        if column.metric == CLUSTER:
            yield _by_cluster(cells, column, label)
    answers = [column for column in cells.of_task(task) if column.metric == PREDICTED]
    trained_on = dict.fromkeys(column.params.get("train_species", "") for column in answers)
    for species in trained_on:
        own = [column for column in answers if column.params.get("train_species", "") == species]
        for what, cells_in in _parts(cells, species):
            found = [_predicted(cells, column, label, cells_in, what) for column in own]
            defined = [confusion for confusion in found if confusion is not None]
            if defined:
                yield max(defined, key=lambda confusion: confusion.counts.diagonal().sum())


def _parts(cells: CellsOf, species: str) -> Iterator[tuple[str, NDArray[np.bool_] | slice]]:
    """What cells of a column are told apart, and which they are."""
    groups = cells.scores.groups.get("species")
    if not species or groups is None:
        yield "", slice(None)
        return
    within = groups.codes == groups.names.index(species)
    name = printable(species)
    yield f"trained on {name}, tested on {name} out of fold", within
    yield f"trained on {name}, tested on the other species", ~within


def _predicted(
    cells: CellsOf, column: CellColumn, label: Labels, part: NDArray[np.bool_] | slice, what: str
) -> Confusion | None:
    assert column.names is not None
    codes, given = label.codes[part], column.values[part]
    counts = _count(codes, given, label.n_classes, len(column.names))
    seen = np.flatnonzero(counts.sum(axis=1) + counts.sum(axis=0))
    if not len(seen):
        return None
    counts = counts[np.ix_(seen, seen)]
    names = tuple(printable(label.names[c]) for c in seen)
    described = ", ".join(filter(None, (f"Classifier {printable(column.params['classifier'])}", what)))
    return Confusion(cells.name, described, names, names, counts, of_labels=True)


def _by_cluster(cells: CellsOf, column: CellColumn, label: Labels) -> Confusion:
    """Clusters in the order of the labels that most of their cells have, so that the largest shares are in steps."""
    assert column.names is not None
    counts = _count(label.codes, column.values, label.n_classes, len(column.names))
    order = np.lexsort((-counts.max(axis=0), counts.argmax(axis=0)))
    rows, columns = map(printable, label.names), (printable(column.names[c]) for c in order)
    return Confusion(cells.name, "Leiden clusters", tuple(rows), tuple(columns), counts[:, order], of_labels=False)


def _count(codes: NDArray[np.int32], given: NDArray[Any], n_labels: int, n_classes: int) -> NDArray[np.int64]:
    """(labels, classes) cells; those that were given no class do not count."""
    counted = given >= 0
    pairs = codes[counted].astype(np.int64) * n_classes + given[counted]
    return np.bincount(pairs, minlength=n_labels * n_classes).reshape(n_labels, n_classes)

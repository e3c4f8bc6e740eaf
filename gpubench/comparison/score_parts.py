"""What the number of a row is made of, cell by cell: values to average, or codes to count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from gpubench.comparison.resampled_scores import agreement, prediction
from gpubench.core.scores import CLUSTER, FOLD, PREDICTED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.comparison.resampled_scores import Codes, Floats
    from gpubench.core.scores import CellScores, MetricResult

NO_VALUES = "it has no value for each cell"
SAMPLED = "it is estimated from a sample of the cells"

_AGREEMENTS = ("adjusted_rand_index", "normalized_mutual_info")
_MEASURES = ("accuracy", "f1", "precision", "recall")
_MEAN_FOLD = "mean_fold_"


@dataclass(frozen=True, slots=True)
class Values:
    """A score that is a mean.

    Attributes
    ----------
    of_cells : (n,) float32, NaN for cells that do not count
    over_labels : whether it is the mean over labels of the means of each label's cells
    """

    of_cells: NDArray[np.float32]
    over_labels: bool


@dataclass(frozen=True, slots=True)
class Counts:
    """A score that follows from how many cells have which codes.

    Attributes
    ----------
    key : scores of one run with the same key have the same columns
    columns : codes (n,) each; -1 in any of them for cells that do not count
    smooth : whether it changes little with any one cell, and is the worse for copies of cells
    statistic : from the codes of the categories, kinds of cells that agree in all columns, makes the function of their
        weights
    """

    key: tuple[str, ...]
    columns: tuple[NDArray[np.int32], ...]
    smooth: bool
    statistic: Callable[[Sequence[Codes]], Callable[[Floats], Floats]]


def parts_of(row: MetricResult, cells: CellScores) -> Values | Counts | str:
    """Find what a row is made of, or why the cells do not tell."""
    of_row = cells.select(embedding=row.embedding, task=row.task, metric=row.metric)
    if len(of_row) == 1 and of_row[0].names is None:
        if row.stderr is not None:
            return SAMPLED
        return Values(cast("NDArray[np.float32]", of_row[0].values), of_row[0].mean_over == "labels")
    label = cells.groups.get("label")
    if label is None:
        return NO_VALUES
    clusters = cells.select(embedding=row.embedding, task=row.task, metric=CLUSTER)
    if row.metric in _AGREEMENTS and len(clusters) == 1:
        columns = label.codes, _codes(clusters[0])
        return Counts(
            (row.embedding, row.task), columns, smooth=True, statistic=partial(_agreement, cast("Any", row.metric))
        )
    return _predicted(row, cells, label.codes)


def _predicted(row: MetricResult, cells: CellScores, label: NDArray[np.int32]) -> Counts | str:
    """The answers of a classifier, or of all of them where the row is their mean."""
    measure = row.metric.removeprefix(_MEAN_FOLD)
    if measure not in _MEASURES:
        return NO_VALUES
    trained_on = {"train_species": row.params["train_species"]} if "train_species" in row.params else {}
    of_row = {"embedding": row.embedding, "task": row.task, **trained_on}
    classifier = str(row.params.get("classifier", ""))
    which = {} if row.aggregate else {"classifier": classifier}
    answers = [_codes(column) for column in cells.select(**of_row, metric=PREDICTED, **which)]
    if not answers:
        return NO_VALUES
    key = (row.embedding, row.task, *trained_on.values(), str(row.params.get("test_species", "")), classifier)
    if row.metric.startswith(_MEAN_FOLD):
        folds = cells.select(**of_row, metric=FOLD)
        if len(folds) != 1:
            return NO_VALUES
        return Counts(
            key,
            (_codes(folds[0]), label, *answers),
            smooth=False,
            statistic=partial(_mean_prediction, measure, shared_only=False),
        )
    species = cells.groups.get("species")
    if species is None or row.params.get("test_species") not in species.names:
        return NO_VALUES
    tested = np.where(species.codes == species.names.index(row.params["test_species"]), 0, -1).astype(np.int32)
    return Counts(
        key, (tested, label, *answers), smooth=False, statistic=partial(_mean_prediction, measure, shared_only=True)
    )


def _agreement(metric: Any, codes: Sequence[Codes]) -> Callable[[Floats], Floats]:
    label, cluster = codes
    return agreement(metric, label, cluster)


def _mean_prediction(measure: Any, codes: Sequence[Codes], *, shared_only: bool) -> Callable[[Floats], Floats]:
    """The mean over classifiers of a measure of their answers, classes numbered anew."""
    folds, *classes = codes
    found, dense = np.unique(np.concatenate(classes), return_inverse=True)
    actual, *answers = np.split(dense, len(classes))
    of_classifiers = [
        prediction(measure, folds, actual, called, len(found), true_only=shared_only) for called in answers
    ]
    return lambda weights: np.mean([of_one(weights) for of_one in of_classifiers], axis=0)


def _codes(column: Any) -> NDArray[np.int32]:
    return cast("NDArray[np.int32]", column.values)

"""Values or codes of the cells from which the score of a row follows."""

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
    from gpubench.core.scores import CellColumn, CellScores, MetricResult

NO_VALUES = "it has no value for each cell"
SAMPLED = "it is estimated from a sample of the cells"

_AGREEMENTS = ("adjusted_rand_index", "normalized_mutual_info")
_MEASURES = ("accuracy", "f1", "precision", "recall")
_MEAN_FOLD = "mean_fold_"


@dataclass(frozen=True, slots=True)
class MeanScore:
    """Score that is a mean of values of cells.

    Attributes
    ----------
    values : (n,) float32, NaN for cells that do not count
    over_labels : whether it is the mean over labels of the means of each label's cells
    """

    values: NDArray[np.float32]
    over_labels: bool


@dataclass(frozen=True, slots=True)
class CountScore:
    """Score that follows from how many cells have which codes.

    Attributes
    ----------
    key : scores of one run with the same key have the same columns
    columns : codes (n,) each; -1 in any of them for cells that do not count
    smooth : whether one cell changes it little, and copies of cells bias it, so that a jackknife is used
    statistic : makes, from the codes of the categories (combinations of codes), the function of their weights
    """

    key: tuple[str, ...]
    columns: tuple[NDArray[np.int32], ...]
    smooth: bool
    statistic: Callable[[Sequence[Codes]], Callable[[Floats], Floats]]


def score_parts(row: MetricResult, cells: CellScores) -> MeanScore | CountScore | str:
    """Return the values or codes that a row is made of, or why the cells do not determine it."""
    own = cells.select(embedding=row.embedding, task=row.task, metric=row.metric)
    if len(own) == 1 and own[0].names is None:
        if row.stderr is not None:
            return SAMPLED
        return MeanScore(cast("NDArray[np.float32]", own[0].values), own[0].mean_over == "labels")
    label = cells.groups.get("label")
    if label is None:
        return NO_VALUES
    clusters = cells.select(embedding=row.embedding, task=row.task, metric=CLUSTER)
    if row.metric in _AGREEMENTS and len(clusters) == 1:
        metric, columns = cast("Any", row.metric), (label.codes, _codes(clusters[0]))
        return CountScore(
            (row.embedding, row.task), columns, smooth=True, statistic=lambda codes: agreement(metric, *codes)
        )
    return _prediction_parts(row, cells, label.codes)


def _prediction_parts(row: MetricResult, cells: CellScores, label: NDArray[np.int32]) -> CountScore | str:
    """Return the predictions of a classifier, or of all where the row is their mean."""
    measure = row.metric.removeprefix(_MEAN_FOLD)
    if measure not in _MEASURES:
        return NO_VALUES
    trained_on = {"train_species": row.params["train_species"]} if "train_species" in row.params else {}
    own = {"embedding": row.embedding, "task": row.task, **trained_on}
    classifier = str(row.params.get("classifier", ""))
    one = {} if row.aggregate else {"classifier": classifier}
    predictions = [_codes(column) for column in cells.select(**own, metric=PREDICTED, **one)]
    folds = cells.select(**own, metric=FOLD)
    over_folds = row.metric.startswith(_MEAN_FOLD)
    species, tested = cells.groups.get("species"), row.params.get("test_species")
    if not predictions:
        return NO_VALUES
    if over_folds and len(folds) == 1:
        fold = _codes(folds[0])
    elif not over_folds and species is not None and tested in species.names:
        fold = np.where(species.codes == species.names.index(tested), 0, -1).astype(np.int32)
    else:
        return NO_VALUES
    key = (row.embedding, row.task, *trained_on.values(), str(row.params.get("test_species", "")), classifier)
    statistic = partial(_mean_prediction, measure, shared_only=not over_folds)
    return CountScore(key, (fold, label, *predictions), smooth=False, statistic=statistic)


def _mean_prediction(measure: Any, codes: Sequence[Codes], *, shared_only: bool) -> Callable[[Floats], Floats]:
    """Return the mean over classifiers of a measure of their predictions, with classes renumbered."""
    folds, *classes = codes
    occurring, dense = np.unique(np.concatenate(classes), return_inverse=True)
    label, *predictions = np.split(dense, len(classes))
    measures = [
        prediction(measure, folds, label, predicted, len(occurring), true_only=shared_only) for predicted in predictions
    ]
    return lambda weights: np.mean([score(weights) for score in measures], axis=0)


def _codes(column: CellColumn) -> NDArray[np.int32]:
    return cast("NDArray[np.int32]", column.values)

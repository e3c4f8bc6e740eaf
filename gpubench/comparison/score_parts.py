"""The values or codes of cells from which a score is recomputed, and its recomputation for many resamples at once.

Resampled scores are computed from weighted sums and tables of counts; their last axis is resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np

from gpubench.core.scores import CLUSTER, FOLD, PREDICTED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.core.scores import CellColumn, CellScores, MetricResult

    Floats = NDArray[np.float64]
    Codes = NDArray[np.int64]

AgreementOf = Literal["adjusted_rand_index", "normalized_mutual_info"]
MeasureOf = Literal["accuracy", "f1", "precision", "recall"]

NO_VALUES = "it has no value for each cell"
SAMPLED = "it is estimated from a sample of the cells"

_MEAN_FOLD = "mean_fold_"


@dataclass(frozen=True, slots=True)
class MeanScore:
    """Score that is a mean over cells of one value for each cell."""

    values: NDArray[np.float32]  # (n,) float32, NaN for cells that do not count
    over_labels: bool  # whether it is the mean over labels of the means of each label's cells


@dataclass(frozen=True, slots=True)
class CountScore:
    """Score that is computed from the number of cells with each combination of codes, such as label and cluster."""

    key: tuple[str, ...]  # scores of one run with the same key have the same columns
    columns: tuple[NDArray[np.int32], ...]  # codes (n,) each; -1 in any of them for cells that do not count
    smooth: bool  # whether one cell changes it little, and copies of cells bias it, so that a jackknife is used
    # makes, from the codes of the categories (combinations of codes), the function of their weights
    statistic: Callable[[Sequence[Codes]], Callable[[Floats], Floats]]


def score_parts(row: MetricResult, cells: CellScores) -> MeanScore | CountScore | str:
    """Return the values or codes of cells from which a row's score follows, or the reason why there are none."""
    own = cells.select(embedding=row.embedding, task=row.task, metric=row.metric)
    if len(own) == 1 and own[0].names is None:
        if row.stderr is not None:
            return SAMPLED
        return MeanScore(cast("NDArray[np.float32]", own[0].values), own[0].mean_over == "labels")
    label = cells.groups.get("label")
    if label is None:
        return NO_VALUES
    clusters = cells.select(embedding=row.embedding, task=row.task, metric=CLUSTER)
    if row.metric in get_args(AgreementOf) and len(clusters) == 1:
        metric, columns = cast("AgreementOf", row.metric), (label.codes, _codes(clusters[0]))
        key = (row.embedding, row.task)
        return CountScore(key, columns, smooth=True, statistic=lambda codes: agreement(metric, *codes))
    return _prediction_parts(row, cells, label.codes)


def _prediction_parts(row: MetricResult, cells: CellScores, label: NDArray[np.int32]) -> CountScore | str:
    """Return the predictions of a row's classifier, or of all classifiers if the row is their mean."""
    measure = row.metric.removeprefix(_MEAN_FOLD)
    if measure not in get_args(MeasureOf):
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
    """Return a function that computes the mean over classifiers of a measure of their predictions."""
    folds, *classes = codes
    occurring, dense = np.unique(np.concatenate(classes), return_inverse=True)
    label, *predictions = np.split(dense, len(classes))
    measures = [
        prediction(measure, folds, label, predicted, len(occurring), true_only=shared_only) for predicted in predictions
    ]
    return lambda weights: np.mean([score(weights) for score in measures], axis=0)


def _codes(column: CellColumn) -> NDArray[np.int32]:
    return cast("NDArray[np.int32]", column.values)


def mean_over_cells(sums: Floats, weights: Floats) -> Floats:
    """Compute (r,) weighted means from (strata, r) sums of values and of weights."""
    return _ratio(sums.sum(axis=0), weights.sum(axis=0))


def mean_over_labels(sums: Floats, weights: Floats) -> Floats:
    """Compute (r,) means over the labels that were drawn of their weighted means, from (labels, r) sums."""
    return _mean_of_defined(_ratio(sums, weights))


def group_sums(groups: Codes, n_groups: int) -> Callable[[Floats], Floats]:
    """Return a function that sums (K, r) weights of categories by group, to (n_groups, r).

    A category is a combination of codes, such as label and cluster; a group is, for example, all with one label.
    `groups` has the group of each category, -1 where it has none.
    """
    from scipy.sparse import coo_array

    members = np.flatnonzero(groups >= 0)
    shape = (n_groups, len(groups))
    membership: Any = coo_array((np.ones(len(members)), (groups[members], members)), shape).tocsr()
    return lambda weights: membership @ weights


def agreement(metric: AgreementOf, labels: Codes, clusters: Codes) -> Callable[[Floats], Floats]:
    """Return a function that computes r agreements of labels and clusters from (K, r) weights of their K categories.

    The definitions are those of `gpubench.metrics.adjusted_rand_index` and `normalized_mutual_info`.
    """
    n_clusters = int(clusters.max()) + 1
    occurring, pairs = np.unique(labels * n_clusters + clusters, return_inverse=True)
    by_pair = group_sums(pairs, len(occurring))
    by_label, by_cluster = group_sums(labels, int(labels.max()) + 1), group_sums(clusters, n_clusters)
    compare = {"adjusted_rand_index": _adjusted_rand_index, "normalized_mutual_info": _normalized_mutual_info}[metric]
    return lambda weights: compare(by_pair(weights), by_label(weights), by_cluster(weights))


def _adjusted_rand_index(pairs: Floats, labels: Floats, clusters: Floats) -> Floats:
    both, same_label, same_cluster = (_pairs(counts).sum(axis=0) for counts in (pairs, labels, clusters))
    only_label, only_cluster = same_label - both, same_cluster - both
    neither = _pairs(labels.sum(axis=0)) - both - only_label - only_cluster
    top = 2 * (both * neither - only_label * only_cluster)
    bottom = (both + only_label) * (only_label + neither) + (both + only_cluster) * (only_cluster + neither)
    return np.where((only_label == 0) & (only_cluster == 0), 1.0, _ratio(top, bottom))


def _normalized_mutual_info(pairs: Floats, labels: Floats, clusters: Floats) -> Floats:
    h_pairs, h_labels, h_clusters = map(_entropy, (pairs, labels, clusters))
    mutual = np.maximum(h_labels + h_clusters - h_pairs, 0)
    nmi = np.minimum(1.0, _ratio(2 * mutual, h_labels + h_clusters))
    one_label, one_cluster = (labels > 0).sum(axis=0) == 1, (clusters > 0).sum(axis=0) == 1
    return np.where(one_label & one_cluster, 1.0, np.where(one_label | one_cluster, 0.0, nmi))


def prediction(
    measure: MeasureOf, folds: Codes, true: Codes, predicted: Codes, n_classes: int, *, true_only: bool = False
) -> Callable[[Floats], Floats]:
    """Return a function that computes (r,) means over folds of a measure from (K, r) weights of K categories.

    `folds`, `true` and `predicted` are the (K,) codes of each category.

    The definitions are those of `gpubench.metrics.accuracy`, `f1`, `precision` and `recall`: for two classes the
    measure of the second, else the mean over the classes that were drawn. Folds without drawn cells are left out.
    `true_only` ignores classes that occur in predictions only, as between species, where they are not tested.
    """
    n_folds = int(folds.max()) + 1
    n_groups = n_folds * n_classes
    true, predicted = folds * n_classes + true, folds * n_classes + predicted
    correct = np.where(true == predicted, true, -1)
    sums = [group_sums(codes, n_groups) for codes in (true, predicted, correct)]

    def measured(weights: Floats) -> Floats:
        n_true, n_predicted, n_correct = (of(weights).reshape(n_folds, n_classes, -1) for of in sums)
        n_cells = n_true.sum(axis=1)
        if measure == "accuracy":
            return _mean_of_defined(_ratio(n_correct.sum(axis=1), n_cells))
        part, whole = {
            "f1": (2 * n_correct, n_true + n_predicted),
            "precision": (n_correct, n_predicted),
            "recall": (n_correct, n_true),
        }[measure]
        ratios = part / np.maximum(whole, 1)
        if n_classes == 2:  # the second class is the positive one
            return _mean_of_defined(np.where(n_cells > 0, ratios[:, 1], np.nan))
        occurs = n_true > 0 if true_only else n_true + n_predicted > 0
        return _mean_of_defined(_ratio(np.where(occurs, ratios, 0).sum(axis=1), occurs.sum(axis=1)))

    return measured


def _pairs(counts: Floats) -> Floats:
    return counts * (counts - 1) / 2


def _entropy(counts: Floats) -> Floats:
    """Compute the entropy (nats) of the shares of each column of counts."""
    total = counts.sum(axis=0)
    logs = np.log(counts, out=np.zeros_like(counts), where=counts > 0)
    entropy: Floats = np.log(total) - (counts * logs).sum(axis=0) / total
    return entropy


def _ratio(top: Floats, bottom: Floats) -> Floats:
    """Divide; NaN if `bottom` is 0 because nothing was drawn."""
    quotient: Floats = np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom != 0)
    return quotient


def _mean_of_defined(values: Floats) -> Floats:
    """Compute the mean over the first axis without NaN; NaN where all are NaN."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0).sum(axis=0), defined.sum(axis=0))

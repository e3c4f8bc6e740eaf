"""Compute scores of many resamples at once from weighted sums and tables of counts; the last axis is resamples."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Codes = NDArray[np.int64]

AgreementOf = Literal["adjusted_rand_index", "normalized_mutual_info"]
MeasureOf = Literal["accuracy", "f1", "precision", "recall"]


def mean_over_cells(sums: Floats, weights: Floats) -> Floats:
    """Compute (r,) weighted means from (strata, r) sums of values and of weights."""
    return _ratio(sums.sum(axis=0), weights.sum(axis=0))


def mean_over_labels(sums: Floats, weights: Floats) -> Floats:
    """Compute (r,) means over the drawn labels of their weighted means, from (labels, r) sums."""
    return _mean_of_defined(_ratio(sums, weights))


class GroupSums:
    """Sums of the weights of categories over groups of categories.

    A category is a combination of codes, such as label and cluster; a group is, for example, all with one label.

    Parameters
    ----------
    groups : (K,) the group of each category; -1 where it has none
    """

    def __init__(self, groups: Codes, n_groups: int) -> None:
        from scipy.sparse import coo_array

        members = np.flatnonzero(groups >= 0)
        ones = np.ones(len(members))
        self._membership: Any = coo_array((ones, (groups[members], members)), (n_groups, len(groups))).tocsr()

    def __call__(self, weights: Floats) -> Floats:
        """Return (n_groups, r) sums of (K, r) weights."""
        sums: Floats = self._membership @ weights
        return sums


def agreement(metric: AgreementOf, labels: Codes, clusters: Codes) -> Callable[[Floats], Floats]:
    """Return a function that computes r agreements of labels and clusters from (K, r) weights of their K categories.

    The definitions are those of `gpubench.metrics.adjusted_rand_index` and `normalized_mutual_info`.
    """
    n_clusters = int(clusters.max()) + 1
    occurring, pairs = np.unique(labels * n_clusters + clusters, return_inverse=True)
    by_pair = GroupSums(pairs, len(occurring))
    by_label, by_cluster = GroupSums(labels, int(labels.max()) + 1), GroupSums(clusters, n_clusters)
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
    """Make the function from (K, r) weights of categories to the (r,) means over folds of a measure.

    The definitions are those of `gpubench.metrics.accuracy`, `f1`, `precision` and `recall`: for two classes the
    measure of the second, else the mean over the classes that were drawn. Folds without drawn cells are left out.

    Parameters
    ----------
    true_only : ignore classes that occur in predictions only, as between species, where they are not tested
    """
    n_folds = int(folds.max()) + 1
    n_groups = n_folds * n_classes
    true, predicted = folds * n_classes + true, folds * n_classes + predicted
    correct = np.where(true == predicted, true, -1)
    sums = [GroupSums(codes, n_groups) for codes in (true, predicted, correct)]

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
    """Divide; NaN for 0 / 0, where nothing was drawn."""
    quotient: Floats = np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom != 0)
    return quotient


def _mean_of_defined(values: Floats) -> Floats:
    """Compute the mean over the first axis without NaN; NaN where all are NaN."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0).sum(axis=0), defined.sum(axis=0))

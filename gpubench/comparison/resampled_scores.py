"""Scores of many resamples at once, from weighted sums and weighted tables of counts; the last axis is resamples."""

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
    """Weighted means; (r,) from (strata, r) sums of values and of weights."""
    return _ratio(sums.sum(axis=0), weights.sum(axis=0))


def mean_over_labels(sums: Floats, weights: Floats) -> Floats:
    """Means over the labels that were drawn of their weighted means; (r,) from (labels, r) sums."""
    return _mean_of_defined(_ratio(sums, weights))


class Tables:
    """Adds up the weights of categories, kinds of cells that agree in all that is counted, by what they have in common.

    Parameters
    ----------
    groups : (K,) the group of each category; -1 where it has none
    """

    def __init__(self, groups: Codes, n_groups: int) -> None:
        from scipy.sparse import coo_array

        kept = np.flatnonzero(groups >= 0)
        ones = np.ones(len(kept))
        self._adds_up: Any = coo_array((ones, (groups[kept], kept)), (n_groups, len(groups))).tocsr()

    def __call__(self, weights: Floats) -> Floats:
        """(n_groups, r) from (K, r)."""
        added: Floats = self._adds_up @ weights
        return added


def agreement(metric: AgreementOf, labels: Codes, clusters: Codes) -> Callable[[Floats], Floats]:
    """How two clusterings agree in each resample: (r,) from the weights (K, r) of categories with these codes.

    The definitions are those of `gpubench.metrics.adjusted_rand_index` and `normalized_mutual_info`.
    """
    n_clusters = int(clusters.max()) + 1
    cells, n_cells = _dense(labels * n_clusters + clusters)
    by_pair, by_label, by_cluster = (
        Tables(codes, n) for codes, n in ((cells, n_cells), (labels, int(labels.max()) + 1), (clusters, n_clusters))
    )
    compare = {"adjusted_rand_index": _adjusted_rand_index, "normalized_mutual_info": _normalized_mutual_info}[metric]
    return lambda weights: compare(by_pair(weights), by_label(weights), by_cluster(weights))


def _adjusted_rand_index(pairs: Floats, labels: Floats, clusters: Floats) -> Floats:
    together, same_label, same_cluster = (_pairs(counts).sum(axis=0) for counts in (pairs, labels, clusters))
    only_label, only_cluster = same_label - together, same_cluster - together
    neither = _pairs(labels.sum(axis=0)) - together - only_label - only_cluster
    top = 2 * (together * neither - only_label * only_cluster)
    bottom = (together + only_label) * (only_label + neither) + (together + only_cluster) * (only_cluster + neither)
    return np.where((only_label == 0) & (only_cluster == 0), 1.0, _ratio(top, bottom))


def _normalized_mutual_info(pairs: Floats, labels: Floats, clusters: Floats) -> Floats:
    of_pairs, of_labels, of_clusters = map(_entropy, (pairs, labels, clusters))
    mutual = np.maximum(of_labels + of_clusters - of_pairs, 0)
    found = np.minimum(1.0, _ratio(2 * mutual, of_labels + of_clusters))
    one_label, one_cluster = (labels > 0).sum(axis=0) == 1, (clusters > 0).sum(axis=0) == 1
    return np.where(one_label & one_cluster, 1.0, np.where(one_label | one_cluster, 0.0, found))


def prediction(
    measure: MeasureOf, folds: Codes, actual: Codes, called: Codes, n_classes: int, *, true_only: bool = False
) -> Callable[[Floats], Floats]:
    """Mean over folds of a measure in each resample: (r,) from the weights (K, r) of categories with these codes.

    The definitions are those of `gpubench.metrics.accuracy`, `f1`, `precision` and `recall`: of two classes that of the
    second, else the mean over the classes that were drawn. Folds of which no cell was drawn are left out.

    Parameters
    ----------
    true_only : classes that are only answers do not count, as between species, where such a class is not tested
    """
    n_folds = int(folds.max()) + 1
    n_groups = n_folds * n_classes
    true, said = folds * n_classes + actual, folds * n_classes + called
    by_true, by_said, by_right = (Tables(codes, n_groups) for codes in (true, said, np.where(true == said, true, -1)))

    def measured(weights: Floats) -> Floats:
        of_true, of_said, right = (
            add_up(weights).reshape(n_folds, n_classes, -1) for add_up in (by_true, by_said, by_right)
        )
        n_cells = of_true.sum(axis=1)
        if measure == "accuracy":
            return _mean_of_defined(_ratio(right.sum(axis=1), n_cells))
        part, whole = {
            "f1": (2 * right, of_true + of_said),
            "precision": (right, of_said),
            "recall": (right, of_true),
        }[measure]
        ratios = part / np.maximum(whole, 1)
        if n_classes == 2:  # the score of the second class, which is the positive one
            return _mean_of_defined(np.where(n_cells > 0, ratios[:, 1], np.nan))
        occurs = of_true > 0 if true_only else of_true + of_said > 0
        return _mean_of_defined(_ratio(np.where(occurs, ratios, 0).sum(axis=1), occurs.sum(axis=1)))

    return measured


def _dense(codes: Codes) -> tuple[Codes, int]:
    found, dense = np.unique(codes, return_inverse=True)
    return dense, len(found)


def _pairs(counts: Floats) -> Floats:
    return counts * (counts - 1) / 2


def _entropy(counts: Floats) -> Floats:
    """Entropy (nats) of the shares of each column of counts."""
    total = counts.sum(axis=0)
    logs = np.log(counts, out=np.zeros_like(counts), where=counts > 0)
    found: Floats = np.log(total) - (counts * logs).sum(axis=0) / total
    return found


def _ratio(top: Floats, bottom: Floats) -> Floats:
    """The quotient; NaN for 0 / 0, where nothing was drawn."""
    quotient: Floats = np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom != 0)
    return quotient


def _mean_of_defined(values: Floats) -> Floats:
    """Mean over the first axis of what is no NaN; NaN where all is."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0).sum(axis=0), defined.sum(axis=0))

"""Aggregate scores of an integration: conservation of biology, correction of batches, and both together."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from gpubench.core.errors import InputError
from gpubench.core.scores import Score
from gpubench.data.matrices import to_host
from gpubench.metrics._metric import AGGREGATE, metric

BIO_WEIGHT, BATCH_WEIGHT = 0.6, 0.4


@metric("bio_conservation", "Bio conservation", bounds=(-0.5, 1), scib=("Bio conservation", AGGREGATE), by_name=False)
def bio_conservation(scores: Iterable[float]) -> Score:
    """Compute the mean of the scores that measure how well biological variation is conserved.

    Parameters
    ----------
    scores : scores of bio conservation, such as `isolated_labels`, `nmi_ari_cluster_labels_kmeans_nmi`,
        `silhouette_score`, `clisi_knn`

    Returns
    -------
    Score
        At most 1. Scores that are NaN are left out, with a note; NaN if all are.

    Raises
    ------
    InputError
        There are no scores.

    References
    ----------
    Luecken et al. (2022), doi:10.1038/s41592-021-01336-8.

    Examples
    --------
    >>> import gpubench as gb
    >>> gb.metrics.bio_conservation([0.5, 1.0, float("nan")])
    0.75
    """
    return _mean(scores)


@metric("batch_correction", "Batch correction", scib=("Batch correction", AGGREGATE), by_name=False)
def batch_correction(scores: Iterable[float]) -> Score:
    """Compute the mean of the scores that measure how well batches are mixed.

    Parameters
    ----------
    scores : scores of batch correction, such as `bras`, `ilisi_knn`, `kbet_per_label`, `graph_connectivity`,
        `pcr_comparison`

    Returns
    -------
    Score
        In [0, 1]. Scores that are NaN are left out, with a note; NaN if all are.

    Raises
    ------
    InputError
        There are no scores.

    References
    ----------
    Luecken et al. (2022), doi:10.1038/s41592-021-01336-8.

    Examples
    --------
    >>> import gpubench as gb
    >>> gb.metrics.batch_correction([0.25, 0.75])
    0.5
    """
    return _mean(scores)


@metric("total", "Total", bounds=(-0.5, 1), scib=("Total", AGGREGATE), by_name=False)
def total(bio_scores: Iterable[float], batch_scores: Iterable[float]) -> Score:
    """Compute the weighted mean of bio conservation (weight 0.6) and batch correction (weight 0.4).

    Parameters
    ----------
    bio_scores : scores of bio conservation, see `bio_conservation`
    batch_scores : scores of batch correction, see `batch_correction`

    Returns
    -------
    Score
        At most 1. Scores that are NaN are left out, with a note; NaN if all scores of one kind are.

    Raises
    ------
    InputError
        There are no scores.

    References
    ----------
    Luecken et al. (2022), doi:10.1038/s41592-021-01336-8.

    Examples
    --------
    >>> import gpubench as gb
    >>> gb.metrics.total([1.0, 1.0], [0.5])
    0.8
    """
    bio, batch = _mean(bio_scores), _mean(batch_scores)
    notes = (f"{name}: {mean.note}" for name, mean in (("bio", bio), ("batch", batch)) if mean.note)
    return Score(BIO_WEIGHT * bio + BATCH_WEIGHT * batch, n=bio.n + batch.n, note="; ".join(notes))


def _mean(scores: Iterable[float]) -> Score:
    values = to_host(scores, "scores").astype(np.float64)
    if not len(values):
        raise InputError("scores is empty; give at least one score")
    defined = values[~np.isnan(values)]
    if not len(defined):
        return Score(np.nan, note="undefined: none of the scores is defined")
    n_undefined = len(values) - len(defined)
    note = f"{n_undefined} of {len(values)} scores left out, undefined" if n_undefined else ""
    return Score(float(defined.mean()), n=len(defined), note=note)

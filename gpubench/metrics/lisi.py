"""Local inverse Simpson's index: the effective number of batches, or labels, around each cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError
from gpubench.core.scores import Score
from gpubench.core.types import Labels
from gpubench.data import encode_labels
from gpubench.engines.common.neighborhoods import neighbor_simpson
from gpubench.metrics._metric import BATCH, BIO, check_several, metric
from gpubench.metrics._neighborhoods import Neighborhoods, neighborhoods

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.base import Engine

NEIGHBORS = 90
"""Default number of cells in a neighbourhood, the cell itself included."""


def lisi_knn(
    X: Any,
    labels: Any,
    *,
    perplexity: float | None = None,
    n_neighbors: int | None = None,
    engine: Engine | str | None = None,
) -> NDArray[np.float64]:
    r"""Compute the effective number of labels around each cell.

    .. math:: LISI_i = 1 / \sum_l \Big( \sum_{j \in N(i), l_j = l} w_{ij} \Big)^2,
        \quad w_{ij} \propto e^{-\beta_i d_{ij}}

    with N(i) the nearest neighbours of cell i, itself not included, d the distances to them, and beta_i such that the
    entropy of the weights is log(perplexity).

    Parameters
    ----------
    X : (n, d) matrix of any kind, an `Embedding`, or a `Knn` on the engine
    labels : (n,) labels of any kind, none missing
    perplexity : effective size of a neighbourhood; if None, a third of `n_neighbors`, rounded down
    n_neighbors : number of cells in a neighbourhood, the cell itself included; reduced to n if larger. If None, 90, or
        all neighbours of a `Knn`
    engine : engine to compute on, or its name; if None, the best available one

    Returns
    -------
    (n,) float64, from 1 (all neighbours have the same label) to the number of labels

    Raises
    ------
    InputError
        `n_neighbors` below 3, `perplexity` below 1, missing labels, or an `X` that is not a matrix of finite numbers.

    Notes
    -----
    The entropy of the weights is exact to 1e-10; scib-metrics stops its search at 1e-5.

    References
    ----------
    Korsunsky et al. (2019), doi:10.1038/s41592-019-0619-0.

    Examples
    --------
    >>> import gpubench as gb
    >>> X, labels = [[0.0], [1.0], [8.0], [9.0]], ["B", "B", "T", "T"]
    >>> gb.metrics.lisi_knn(X, labels, n_neighbors=3, perplexity=2, engine="cpu")
    array([2., 2., 2., 2.])
    """
    around = neighborhoods(X, n_neighbors, NEIGHBORS, engine)
    return _lisi(around, encode_labels(labels, "labels", around.n), _perplexity(around, perplexity))


@metric("ilisi_knn", "iLISI", needs=("batch",), neighbors=lambda _: NEIGHBORS - 1, scib=("iLISI", BATCH))
def ilisi_knn(
    X: Any,
    batches: Any,
    *,
    perplexity: float | None = None,
    n_neighbors: int | None = None,
    engine: Engine | str | None = None,
) -> Score:
    r"""Compute the median effective number of batches around a cell, rescaled to [0, 1].

    .. math:: \frac{\mathrm{median}_i\, LISI_i - 1}{B - 1}

    with B the number of batches, and LISI the effective number of batches around a cell, see `lisi_knn`.

    Parameters
    ----------
    X : (n, d) matrix of any kind, an `Embedding`, or a `Knn` on the engine
    batches : (n,) labels of any kind, none missing
    perplexity, n_neighbors, engine : as in `lisi_knn`

    Returns
    -------
    Score
        In [0, 1]; 1 if all batches are equally frequent around cells, 0 if there is a single one.

    Raises
    ------
    InputError
        Fewer than two batches, or an argument that `lisi_knn` refuses.

    References
    ----------
    Korsunsky et al. (2019), doi:10.1038/s41592-019-0619-0. Luecken et al. (2022), doi:10.1038/s41592-021-01336-8.

    Examples
    --------
    >>> import gpubench as gb
    >>> X, batch = [[0.0], [1.0], [8.0], [9.0]], ["a", "b", "a", "b"]
    >>> gb.metrics.ilisi_knn(X, batch, n_neighbors=3, perplexity=2, engine="cpu")
    0.5
    """
    around = neighborhoods(X, n_neighbors, NEIGHBORS, engine)
    used = _perplexity(around, perplexity)
    return around.score(_share_seen(around, batches, "batches", used), perplexity=used)


@metric("clisi_knn", "cLISI", needs=("label",), neighbors=lambda _: NEIGHBORS - 1, scib=("cLISI", BIO))
def clisi_knn(
    X: Any,
    labels: Any,
    *,
    perplexity: float | None = None,
    n_neighbors: int | None = None,
    engine: Engine | str | None = None,
) -> Score:
    r"""Compute the median effective number of labels around a cell, rescaled so that a single label gives 1.

    .. math:: \frac{L - \mathrm{median}_i\, LISI_i}{L - 1}

    with L the number of labels, and LISI the effective number of labels around a cell, see `lisi_knn`.

    Parameters
    ----------
    X : (n, d) matrix of any kind, an `Embedding`, or a `Knn` on the engine
    labels : (n,) labels of any kind, none missing
    perplexity, n_neighbors, engine : as in `lisi_knn`

    Returns
    -------
    Score
        In [0, 1]; 1 if there is a single label around cells, 0 if all are equally frequent.

    Raises
    ------
    InputError
        Fewer than two labels, or an argument that `lisi_knn` refuses.

    References
    ----------
    Korsunsky et al. (2019), doi:10.1038/s41592-019-0619-0. Luecken et al. (2022), doi:10.1038/s41592-021-01336-8.

    Examples
    --------
    >>> import gpubench as gb
    >>> X, labels = [[0.0], [1.0], [8.0], [9.0]], ["B", "B", "T", "T"]
    >>> gb.metrics.clisi_knn(X, labels, n_neighbors=3, engine="cpu")
    1.0
    """
    around = neighborhoods(X, n_neighbors, NEIGHBORS, engine)
    used = _perplexity(around, perplexity)
    return around.score(1 - _share_seen(around, labels, "labels", used), perplexity=used)


def _lisi(around: Neighborhoods, labels: Labels, perplexity: float) -> NDArray[np.float64]:
    n_codes = labels.n_classes
    return 1 / around.engine.map_neighbors(
        around.knn, neighbor_simpson, labels.codes, n_codes, perplexity, width=n_codes
    )


def _share_seen(around: Neighborhoods, values: Any, name: str, perplexity: float) -> float:
    """Rescale the median effective number: 0 for a single value, 1 for all values in equal shares."""
    codes = encode_labels(values, name, around.n)
    check_several(codes)
    share = float((np.median(_lisi(around, codes, perplexity)) - 1) / (codes.n_classes - 1))
    return min(1.0, max(0.0, share))  # rounding may pass a bound by a few units of the last place


def _perplexity(around: Neighborhoods, perplexity: float | None) -> float:
    used = around.n_neighbors // 3 if perplexity is None else perplexity
    if not used >= 1:
        given = f"n_neighbors={around.n_neighbors}" if perplexity is None else f"perplexity={perplexity}"
        raise InputError(
            f"{given} leaves a perplexity below 1; use a perplexity of at least 1, or 3 neighbours or more"
        )
    return used

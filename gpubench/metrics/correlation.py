"""Agreement of two vectors, or of two sets: Spearman, Pearson, mean squared error, Jaccard."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from gpubench.core.errors import InputError
from gpubench.core.scores import Score
from gpubench.data import as_numeric
from gpubench.data.matrices import to_host
from gpubench.engines.embedding import start_engine
from gpubench.metrics._metric import metric

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from gpubench.engines.base import Engine


@metric("spearman_correlation_calculation", "Spearman correlation", bounds=(-1.0, 1.0))
def spearman_correlation(a: ArrayLike, b: ArrayLike, *, engine: Engine | str | None = None) -> Score:
    """Compute Spearman's rank correlation: how far two vectors agree in order.

    The Pearson correlation of the average ranks.

    Parameters
    ----------
    a, b : (n,) numbers
    engine : engine to compute on, or its name; if None, the best available one

    Returns
    -------
    Score
        In [-1, 1]; NaN with a note where it is undefined: fewer than two values, or a constant vector.

    Raises
    ------
    InputError
        NaN, infinite or non-numeric values, no values, or different lengths.

    Notes
    -----
    No correlation is defined for a constant vector, so the value is NaN; cz-benchmarks reports 0.

    References
    ----------
    Spearman (1904), doi:10.2307/1412159.

    Examples
    --------
    >>> import gpubench as gb
    >>> gb.metrics.spearman_correlation([1, 2, 3, 4], [1, 8, 27, 64], engine="cpu")
    1.0
    """
    x, y, undefined = _vectors(a, b)
    if undefined:
        return Score(np.nan, n=len(x), note=undefined)
    on = start_engine(engine)
    ranks = on.to_host(on.rank(on.xp.asarray(np.stack([x, y]))))
    return Score(_pearson(ranks[0], ranks[1]), n=len(x))


@metric("pearson_correlation", "Pearson correlation", bounds=(-1.0, 1.0))
def pearson_correlation(a: ArrayLike, b: ArrayLike) -> Score:
    r"""Compute Pearson's correlation: how far two vectors agree up to scale and shift.

    .. math:: \frac{\sum_i (a_i - \bar a)(b_i - \bar b)}{\sqrt{\sum_i (a_i - \bar a)^2 \sum_i (b_i - \bar b)^2}}

    in float64.

    Parameters
    ----------
    a, b : (n,) numbers

    Returns
    -------
    Score
        In [-1, 1]; NaN with a note where it is undefined: fewer than two values, or a constant vector.

    Raises
    ------
    InputError
        NaN, infinite or non-numeric values, no values, or different lengths.

    References
    ----------
    Pearson (1895), doi:10.1098/rspl.1895.0041.

    Examples
    --------
    >>> import gpubench as gb
    >>> round(gb.metrics.pearson_correlation([1, 2, 3, 4], [1, 8, 27, 64]), 3)
    0.951
    """
    x, y, undefined = _vectors(a, b)
    return Score(np.nan if undefined else _pearson(x, y), n=len(x), note=undefined)


@metric("mean_squared_error", "Mean squared error", bounds=(0.0, float("inf")), higher_is_better=False)
def mean_squared_error(y_true: ArrayLike, y_pred: ArrayLike) -> Score:
    r"""Compute the mean squared difference between true and predicted values.

    .. math:: \frac{1}{n} \sum_i (y_i - \hat y_i)^2

    Parameters
    ----------
    y_true, y_pred : (n,) numbers

    Returns
    -------
    Score
        At least 0, in the squared unit of the values.

    Raises
    ------
    InputError
        NaN, infinite or non-numeric values, no values, or different lengths.

    Examples
    --------
    >>> import gpubench as gb
    >>> gb.metrics.mean_squared_error([1, 2, 3], [1, 2, 6])
    3.0
    """
    truth, predicted = _pair(y_true, y_pred, "y_true", "y_pred")
    return Score(float(np.mean((truth - predicted) ** 2)), n=len(truth))


@metric("jaccard", "Jaccard index", by_name=False)
def jaccard(y_true: Iterable[Hashable], y_pred: Iterable[Hashable]) -> Score:
    r"""Compute the share of the elements of either set that are in both sets.

    .. math:: |A \cap B| / |A \cup B|

    Parameters
    ----------
    y_true, y_pred : sets or other iterables of elements, such as gene names; repeated elements count once

    Returns
    -------
    Score
        In [0, 1]; NaN with a note where both sets are empty.

    Raises
    ------
    InputError
        An argument is a single string or value instead of a set.

    References
    ----------
    Jaccard (1912), doi:10.1111/j.1469-8137.1912.tb05611.x.

    Examples
    --------
    >>> import gpubench as gb
    >>> gb.metrics.jaccard({"CD3D", "CD8A", "NKG7"}, {"CD3D"}) == 1 / 3
    True
    """
    truth, predicted = _as_set(y_true, "y_true"), _as_set(y_pred, "y_pred")
    union = truth | predicted
    if not union:
        return Score(np.nan, note="undefined: y_true and y_pred are empty")
    return Score(len(truth & predicted) / len(union), n=len(union))


def _pair(a: ArrayLike, b: ArrayLike, name_a: str, name_b: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = as_numeric(a, name_a), as_numeric(b, name_b)
    if len(x) != len(y):
        raise InputError(f"{name_a} has {len(x):,} values but {name_b} has {len(y):,}; give one of each per item")
    return x, y


def _vectors(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64], str]:
    """Return both vectors, and the reason why their correlation is undefined (empty if it is defined)."""
    x, y = _pair(a, b, "a", "b")
    if len(x) < 2:
        return x, y, f"undefined: a correlation needs at least 2 values, there are {len(x)}"
    constant = [name for name, values in (("a", x), ("b", y)) if np.all(values == values[0])]
    return x, y, f"undefined: {' and '.join(constant)} constant" if constant else ""


def _pearson(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    # Each vector is brought to unit length before the product: products of raw squares overflow, or underflow to 0 / 0.
    cosine = _unit_deviations(x) @ _unit_deviations(y)
    return float(np.clip(cosine, -1.0, 1.0))


def _unit_deviations(x: NDArray[np.float64]) -> NDArray[np.float64]:
    scaled = x / np.abs(x).max()
    deviations = scaled - scaled.mean()
    deviations /= np.abs(deviations).max()
    return np.asarray(deviations / np.linalg.norm(deviations))


def _as_set(values: Iterable[Hashable], name: str) -> set[Hashable]:
    if isinstance(values, str | bytes):
        raise InputError(f"{name} is one string, {values!r}; give a set or a list of elements")
    if hasattr(values, "__dlpack__"):  # elements of a tensor are tensors, no two of which are equal in a set
        values = to_host(values, name).tolist()
    if not isinstance(values, Iterable):
        raise InputError(f"{name} is of type {type(values).__name__}; give a set or a list of elements")
    return set(values)

"""Principal component regression: variance explained by a batch, before and after integration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError
from gpubench.core.scores import Score
from gpubench.data import as_numeric, encode_labels
from gpubench.engines.embedding import Embedding, on_engine
from gpubench.engines.planner import PIECE_VALUES
from gpubench.metrics._metric import BATCH, metric

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpubench.engines.base import Engine

ROUNDING = 1e-12
"""Share of the variance below which it is a rounding error of float64 sums, and counts as zero."""


def principal_component_regression(
    X: Any, covariate: Any, *, categorical: bool = True, engine: Engine | str | None = None
) -> Score:
    r"""Compute the share of the variance of all principal components that a linear regression on a covariate explains.

    .. math:: \frac{\sum_k R^2_k \lambda_k}{\sum_k \lambda_k}

    with R^2_k the coefficient of determination of component k, and lambda_k its variance. Rotations change neither sum,
    so no components are computed: the value is the sum of squares that the covariate explains in the columns of `X`
    (for categories, the sum of squares between their means), divided by the total sum of squares.

    Parameters
    ----------
    X : (n, d) matrix of any kind, or an `Embedding`
    covariate : (n,) labels of any kind, or numbers
    categorical : whether the covariate holds labels; if False, it holds numbers
    engine : engine to compute on, or its name; if None, the best available one

    Returns
    -------
    Score
        In [0, 1]; NaN with a note if all cells are the same.

    Raises
    ------
    InputError
        Missing values, a covariate that is not numeric with `categorical=False`, or an `X` that is not a matrix of
        finite numbers.

    References
    ----------
    Büttner et al. (2019), doi:10.1038/s41592-018-0254-1.

    Examples
    --------
    >>> import gpubench as gb
    >>> X, batch = [[0.0], [1.0], [8.0], [9.0]], ["a", "b", "a", "b"]
    >>> round(gb.metrics.principal_component_regression(X, batch, engine="cpu"), 3)
    0.015
    """
    embedding = on_engine(X, engine)
    if categorical:
        return _explained_by_labels(embedding, covariate)
    return _explained_by_numbers(embedding, covariate)


@metric("pcr_comparison", "PCR comparison", needs=("batch",), scib=("PCR comparison", BATCH))
def pcr_comparison(
    X_pre: Any, X_post: Any, covariate: Any, *, categorical: bool = True, engine: Engine | str | None = None
) -> Score:
    r"""Compute the relative decrease, by integration, of the share of variance that a covariate explains.

    .. math:: \max\Big(0, \frac{PCR(X_{pre}) - PCR(X_{post})}{PCR(X_{pre})}\Big)

    where PCR is the share of variance that the covariate explains, see `principal_component_regression`.

    Parameters
    ----------
    X_pre, X_post : (n, p) and (n, d) matrices of any kind, or `Embedding` objects: the cells before and after
        integration
    covariate : (n,) batches, or numbers
    categorical : whether the covariate holds labels; if False, it holds numbers
    engine : engine to compute on, or its name; if None, the best available one

    Returns
    -------
    Score
        In [0, 1]; 1 if the covariate explains no variance after integration, 0 if it explains as much as before or
        (with a note) more. NaN with a note if it explains none before integration, or if all cells are the same.

    Raises
    ------
    InputError
        Different numbers of cells, missing values, a covariate that is not numeric with `categorical=False`, or an
        argument that is not a matrix of finite numbers.

    References
    ----------
    Büttner et al. (2019), doi:10.1038/s41592-018-0254-1. Luecken et al. (2022), doi:10.1038/s41592-021-01336-8.

    Examples
    --------
    >>> import gpubench as gb
    >>> before, after = [[0.0], [1.0], [8.0], [9.0]], [[0.0], [8.0], [1.0], [9.0]]
    >>> round(gb.metrics.pcr_comparison(before, after, ["a", "a", "b", "b"], engine="cpu"), 3)
    0.984
    """
    post = on_engine(X_post, engine, "X_post")
    pre = on_engine(X_pre, post.engine, "X_pre")
    if pre.n != post.n:
        raise InputError(f"X_pre has {pre.n:,} rows but X_post has {post.n:,}; give the same cells in the same order")
    before = principal_component_regression(pre, covariate, categorical=categorical)
    after = principal_component_regression(post, covariate, categorical=categorical)
    for name, explained in (("X_pre", before), ("X_post", after)):
        if np.isnan(explained):
            return Score(np.nan, n=post.n, note=f"{name}: {explained.note}")
    if before < ROUNDING:
        return Score(np.nan, n=post.n, note="undefined: the covariate explains nothing of X_pre")
    change = (before - after) / before
    note = "the covariate explains more of X_post than of X_pre" if change < 0 else ""
    return Score(max(0.0, change), n=post.n, note=note)


def _explained_by_labels(embedding: Embedding, covariate: Any) -> Score:
    labels = encode_labels(covariate, "covariate", embedding.n)
    means = embedding.engine.group_means(embedding.x, labels.codes, labels.n_classes)
    sizes = np.bincount(labels.codes)
    mean = sizes @ means / embedding.n
    between = float(sizes @ np.square(means - mean).sum(axis=1))
    xp = embedding.engine.xp
    center = xp.asarray(mean)
    total = sum(float(xp.square(rows - center).sum()) for _, rows in _pieces(embedding))
    return _share(between, total, embedding.n)


def _explained_by_numbers(embedding: Embedding, covariate: Any) -> Score:
    xp = embedding.engine.xp
    numbers = as_numeric(covariate, "covariate", embedding.n)
    deviations = xp.asarray(numbers - numbers.mean())
    center = embedding.x.mean(axis=0, dtype=np.float64)
    together, total = xp.zeros(embedding.d), 0.0
    for start, rows in _pieces(embedding):
        apart = rows - center
        together += (deviations[start : start + len(rows), None] * apart).sum(axis=0)
        total += float(xp.square(apart).sum())
    spread = float(xp.square(deviations).sum())
    between = float(xp.square(together).sum()) / spread if spread > 0 else 0.0
    return _share(between, total, embedding.n)


def _share(explained: float, total: float, n: int) -> Score:
    if total == 0:
        return Score(np.nan, n=n, note="undefined: all cells are the same")
    return Score(min(1.0, explained / total), n=n)


def _pieces(embedding: Embedding) -> Iterator[tuple[int, Any]]:
    """Yield the number of the first row, and the rows in float64, of each block of an embedding."""
    step = max(1, PIECE_VALUES // embedding.d)
    for start in range(0, embedding.n, step):
        yield start, embedding.x[start : start + step].astype(np.float64)

"""Silhouette scores: are labels separated, and are batches mixed within labels?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.data import encode_labels
from gpubench.engines.embedding import on_engine
from gpubench.errors import InputError
from gpubench.metrics._checks import check_groups
from gpubench.metrics._metric import metric
from gpubench.types import Labels, Score

if TYPE_CHECKING:
    from gpubench.engines.base import Distance, Engine


@metric("silhouette_score", "Silhouette (labels)", bounds=(0, 1))
def silhouette_label(
    X: Any, labels: Any, *, metric: Distance = "euclidean", engine: Engine | str | None = None
) -> Score:
    r"""Mean silhouette width of the labels, rescaled to [0, 1].

    .. math:: \frac{1}{2} + \frac{1}{2n} \sum_i \frac{b_i - a_i}{\max(a_i, b_i)}

    with a the mean distance to the other cells of the same label and b the smallest mean distance to another label.
    A cell alone in its label counts as width 0.

    Parameters
    ----------
    X : (n, d) matrix of any kind, or an `Embedding`
    labels : (n,) labels of any kind, none missing
    metric : distance
    engine : where to compute; None: the best that works here

    Returns
    -------
    Score
        In [0, 1]; 1 is best, 0.5 means no separation.

    Raises
    ------
    InputError
        Fewer than two labels, every label a singleton, missing labels, or a matrix that cannot be scored.

    References
    ----------
    Rousseeuw (1987), doi:10.1016/0377-0427(87)90125-7. Luecken et al. (2022), doi:10.1038/s41592-021-01336-8.
    """
    _check_distance(metric)
    embedding = on_engine(X, engine)
    encoded = encode_labels(labels, "labels", embedding.n)
    check_groups(encoded)
    widths = embedding.engine.silhouette_widths(embedding.x, encoded.codes, metric=metric)
    params = _params(embedding.engine, metric)
    return Score(float((widths.mean() + 1) / 2), n=embedding.n, params=params)


@metric("batch_silhouette", "Silhouette (batches within labels)", bounds=(0, 1))
def silhouette_batch(
    X: Any, labels: Any, batch: Any, *, metric: Distance = "euclidean", engine: Engine | str | None = None
) -> Score:
    r"""How well batches are mixed within each label: one minus the absolute silhouette width of the batches.

    .. math:: \frac{1}{|M|} \sum_{l \in M} \frac{1}{n_l} \sum_{i : l_i = l} (1 - |s_i|)

    with s the silhouette width of the batches among the cells of label l alone, and M the labels that have at least two
    batches and fewer batches than cells.

    Parameters
    ----------
    X : (n, d) matrix of any kind, or an `Embedding`
    labels, batch : (n,) labels of any kind, none missing
    metric : distance
    engine : where to compute; None: the best that works here

    Returns
    -------
    Score
        In [0, 1]; 1 is best. NaN with a note where no label has batches to compare.

    Raises
    ------
    InputError
        Missing labels or batches, or a matrix that cannot be scored.

    Notes
    -----
    Only batches with cells count. scib-metrics also counts the unused categories of a categorical column, which
    makes the score 1.0 where such a category exists.

    References
    ----------
    Luecken et al. (2022), doi:10.1038/s41592-021-01336-8.
    """
    _check_distance(metric)
    embedding = on_engine(X, engine)
    label = encode_labels(labels, "labels", embedding.n)
    batches = encode_labels(batch, "batch", embedding.n)
    engine_ = embedding.engine
    counts = engine_.contingency(label.codes, batches.codes, label.n_classes, batches.n_classes)
    n_cells, n_batches = counts.sum(axis=1), (counts > 0).sum(axis=1)
    usable = (n_batches > 1) & (n_batches < n_cells)
    params = _params(engine_, metric)
    if not usable.any():
        why = "undefined: no label has cells of two batches with more cells than batches"
        return Score(np.nan, n=0, note=why, params=params)
    keep = usable[label.codes]
    cells = embedding.x if keep.all() else embedding.x[keep]
    codes = label.codes[keep]
    widths = engine_.silhouette_widths(cells, batches.codes[keep], groups=codes, metric=metric)
    mixed = np.bincount(codes, weights=1 - np.abs(widths), minlength=label.n_classes)
    value = (mixed[usable] / n_cells[usable]).mean()
    return Score(float(value), n=int(keep.sum()), note=_left_out(label, usable), params=params)


def _check_distance(metric: str) -> None:
    if metric not in ("euclidean", "cosine"):
        raise InputError(f"metric={metric!r} is unknown; use 'euclidean' or 'cosine'")


def _params(engine: Engine, metric: str) -> dict[str, str]:
    """What decided the number beyond the defaults; cosine distances are exact on every engine."""
    if metric != "euclidean":
        return {"metric": metric}
    return {} if engine.precision == "exact" else {"precision": engine.precision}


def _left_out(labels: Labels, usable: Any) -> str:
    names = [name for name, used in zip(labels.names, usable, strict=True) if not used]
    if not names:
        return ""
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"{len(names)} of {labels.n_classes} labels left out (one batch, or as many batches as cells): {shown}"

"""Silhouette scores: separation of labels, and mixing of batches within labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from gpubench.core.checkpoint import ARRAY
from gpubench.core.errors import InputError
from gpubench.core.scores import Score
from gpubench.core.types import Array, Labels
from gpubench.data import encode_labels
from gpubench.engines.embedding import Embedding, codes_fingerprint, on_engine
from gpubench.metrics._metric import BATCH, BIO, check_groups, contingency, metric, per_cell_values
from gpubench.metrics._sampling import estimated_score

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.base import Backend, Distance, Engine


def silhouette_widths(
    engine: Engine,
    x: Array,
    clusters: NDArray[np.int32],
    groups: NDArray[np.int32] | None = None,
    metric: Distance = "euclidean",
    cells: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """Compute the silhouette width (b - a) / max(a, b) of each cell among the cells of its group.

    The parameters, and the distances a and b, are those of `Engine.cluster_distances`. The width is 0 if no other cell
    of the group is in the same cluster, or if a = b = 0, and NaN if the group has a single cluster. Rousseeuw (1987),
    doi:10.1016/0377-0427(87)90125-7.
    """
    a, b = engine.cluster_distances(x, clusters, groups, metric, cells)
    largest = np.maximum(a, b)
    widths = np.zeros(len(a))
    np.divide(b - a, largest, out=widths, where=(largest > 0) & np.isfinite(b))  # a is NaN for a cell that is alone
    widths[np.isinf(b)] = np.nan
    return widths


@metric(
    "silhouette_score",
    "Silhouette (labels)",
    needs=("label",),
    options=("backend",),
    cost=lambda model, sizes, _, label: model.silhouette(sizes, label),
    scib=("Silhouette label", BIO),
)
def silhouette_label(
    X: Any,
    labels: Any,
    *,
    metric: Distance = "euclidean",
    backend: Backend = "gpubench",
    engine: Engine | str | None = None,
) -> Score:
    r"""Compute the mean silhouette width of the labels, rescaled to [0, 1].

    .. math:: \frac{1}{2} + \frac{1}{2n} \sum_i \frac{b_i - a_i}{\max(a_i, b_i)}

    with a the mean distance to the other cells of the same label and b the smallest mean distance to another label.
    The fraction is 0 for the only cell of a label.

    Parameters
    ----------
    X : (n, d) matrix of any kind, or an `Embedding`
    labels : (n,) labels of any kind, none missing
    metric : "euclidean" or "cosine" distance
    backend : "gpubench", or a library that the engine has, see `gpubench.engines.base.Backend`; cells are not sampled
    engine : engine to compute on, or its name; if None, the best available one

    Returns
    -------
    Score
        In [0, 1]; 1 is best, 0.5 means no separation. If it would take more than 2 * 10^13 differences of two values
        (632,000 cells of 50 dimensions), the score is estimated from a sample of cells, with a standard error of 0.002
        or less; see `exact` of `gpubench.get_engine`.

    Raises
    ------
    InputError
        Fewer than two labels, every label a singleton, missing labels, an `X` that is not a matrix of finite numbers,
        or a backend that the engine does not have.

    References
    ----------
    Rousseeuw (1987), doi:10.1016/0377-0427(87)90125-7. Luecken et al. (2022), doi:10.1038/s41592-021-01336-8.

    Examples
    --------
    >>> import gpubench as gb
    >>> X, labels = [[0.0], [1.0], [8.0], [9.0]], ["B", "B", "T", "T"]
    >>> round(gb.metrics.silhouette_label(X, labels, engine="cpu"), 3)
    0.937
    """
    _check_distance(metric)
    embedding = on_engine(X, engine)
    encoded = encode_labels(labels, "labels", embedding.n)
    check_groups(encoded)
    params = _params(embedding.engine, metric)
    if backend != "gpubench":
        params = {key: value for key, value in params.items() if key != "precision"} | {"backend": backend}
        x = embedding.for_distance(metric)
        widths = embedding.engine.library_silhouettes(x, encoded.codes, metric, backend)
    elif metric == "euclidean" and _too_many(embedding, np.array([embedding.n])):
        return _sampled_label_silhouette(embedding, encoded, params)
    else:
        widths = _label_widths(embedding, encoded, metric)
    cells = per_cell_values((widths + 1) / 2)
    return Score(float((widths.mean() + 1) / 2), n=embedding.n, params=params, cells=cells)


@metric(
    "isolated_labels", "Isolated labels", mean_over="labels", needs=("label", "batch"), scib=("Isolated labels", BIO)
)
def isolated_labels(
    X: Any, labels: Any, batch: Any, *, iso_threshold: int | None = None, engine: Engine | str | None = None
) -> Score:
    r"""Compute how well labels that are in few batches are separated: their mean silhouette width, rescaled to [0, 1].

    .. math:: \frac{1}{|M|} \sum_{l \in M} \frac{1}{n_l} \sum_{i : l_i = l} \frac{s_i + 1}{2}

    with s_i the silhouette width of cell i with labels as clusters, over all cells, n_l the number of cells of label l,
    and M the isolated labels: those that occur in the fewest batches.

    Parameters
    ----------
    X : (n, d) matrix of any kind, or an `Embedding`
    labels, batch : (n,) labels of any kind, none missing
    iso_threshold : largest number of batches in which an isolated label occurs; if None, the smallest number of any
        label
    engine : engine to compute on, or its name; if None, the best available one

    Returns
    -------
    Score
        In [0, 1]; 1 is best. NaN with a note where every label is in more than `iso_threshold` batches.

    Raises
    ------
    InputError
        Fewer than two labels, every label a singleton, missing labels or batches, or an `X` that is not a matrix of
        finite numbers.

    References
    ----------
    Luecken et al. (2022), doi:10.1038/s41592-021-01336-8.

    Examples
    --------
    >>> import gpubench as gb
    >>> X, labels = [[0.0], [1.0], [8.0], [9.0]], ["B", "B", "T", "T"]
    >>> batch = ["a", "b", "a", "a"]
    >>> round(gb.metrics.isolated_labels(X, labels, batch, engine="cpu"), 3)
    0.937
    """
    embedding = on_engine(X, engine)
    label = encode_labels(labels, "labels", embedding.n)
    check_groups(label)
    n_cells, n_batches = _cells_and_batches(label, encode_labels(batch, "batch", embedding.n))
    threshold = int(n_batches.min()) if iso_threshold is None else iso_threshold
    isolated = n_batches <= threshold
    params = {"iso_threshold": threshold, **_params(embedding.engine, "euclidean")}
    if not isolated.any():
        return Score(np.nan, note=f"undefined: every label is in more than {threshold} batches", params=params)
    used = isolated[label.codes]
    if _too_many(embedding, np.array([embedding.n])):
        return _sampled_label_silhouette(embedding, label, params, np.flatnonzero(used))
    values = (_label_widths(embedding, label, "euclidean") + 1) / 2
    value = float((np.bincount(label.codes, weights=values)[isolated] / n_cells[isolated]).mean())
    return Score(value, n=int(used.sum()), params=params, cells=per_cell_values(values[used], used))


@metric(
    "batch_silhouette",
    "Silhouette (batches within labels)",
    mean_over="labels",
    needs=("label", "batch"),
    cost=lambda model, sizes, _, label, batch: model.silhouette(sizes, batch, within=label),
)
def silhouette_batch(
    X: Any, labels: Any, batch: Any, *, metric: Distance = "euclidean", engine: Engine | str | None = None
) -> Score:
    r"""Compute how well batches are mixed within each label: one minus the absolute silhouette width of the batches.

    .. math:: \frac{1}{|M|} \sum_{l \in M} \frac{1}{n_l} \sum_{i : l_i = l} (1 - |s_i|)

    with s_i the silhouette width of cell i with batches as clusters, among the cells of label l only, n_l the number of
    these cells, and M the labels that have at least two batches and fewer batches than cells.

    Parameters
    ----------
    X : (n, d) matrix of any kind, or an `Embedding`
    labels, batch : (n,) labels of any kind, none missing
    metric : "euclidean" or "cosine" distance
    engine : engine to compute on, or its name; if None, the best available one

    Returns
    -------
    Score
        In [0, 1]; 1 is best. NaN with a note if no label has batches to compare.

    Raises
    ------
    InputError
        Missing labels or batches, or an `X` that is not a matrix of finite numbers.

    Notes
    -----
    Only batches with cells count. scib-metrics also counts the unused categories of a categorical column, which
    makes the score 1.0 where such a category exists.

    References
    ----------
    Luecken et al. (2022), doi:10.1038/s41592-021-01336-8.

    Examples
    --------
    >>> import gpubench as gb
    >>> X, labels, batch = [[0.0], [1.0], [2.0], [3.0]], ["B"] * 4, ["a", "b", "a", "b"]
    >>> round(gb.metrics.silhouette_batch(X, labels, batch, engine="cpu"), 3)
    0.75
    """
    mixing = _BatchesWithinLabels(X, labels, batch, metric, engine)
    engine = mixing.embedding.engine
    params = _params(engine, metric)
    if not mixing.used.any():
        return Score(np.nan, n=0, note=_NO_LABEL, params=params)
    x, label, batches = mixing.x(metric), mixing.label, mixing.batch
    if metric == "euclidean" and _too_many(mixing.embedding, np.bincount(label)):
        score = estimated_score(
            lambda cells: 1 - np.abs(silhouette_widths(engine, x, batches, label, cells=cells)),
            label,
            equal_labels=True,
            seed=engine.seed,
            remedy="compares all",
            note=mixing.note(),
            params=params,
        )
        score.cells = per_cell_values(cast("NDArray[np.float32]", score.cells), mixing.rows)
        return score
    return mixing.score(silhouette_widths(engine, x, batches, label, metric), params)


@metric("bras", "BRAS", mean_over="labels", needs=("label", "batch"), scib=("BRAS", BATCH))
def bras(X: Any, labels: Any, batch: Any, *, metric: Distance = "cosine", engine: Engine | str | None = None) -> Score:
    r"""Compute how well batches are mixed within each label, by silhouette widths against all other batches.

    .. math:: \frac{1}{|M|} \sum_{l \in M} \frac{1}{n_l} \sum_{i : l_i = l}
        \Big( 1 - \Big| \frac{b_i - a_i}{\max(a_i, b_i)} \Big| \Big)

    with a_i the mean distance of cell i to the other cells of the same label and batch, b_i its mean distance to all
    cells of the same label in other batches, n_l the number of cells of label l, and M the labels that have at least
    two batches and fewer batches than cells. The fraction is 0 for the only cell within its label and batch.

    Parameters
    ----------
    X : (n, d) matrix of any kind, or an `Embedding`
    labels, batch : (n,) labels of any kind, none missing
    metric : "euclidean" or "cosine" distance
    engine : engine to compute on, or its name; if None, the best available one

    Returns
    -------
    Score
        In [0, 1]; 1 is best. NaN with a note if no label has batches to compare.

    Raises
    ------
    InputError
        Missing labels or batches, or an `X` that is not a matrix of finite numbers.

    References
    ----------
    Rautenstrauch & Ohler (2025), doi:10.1038/s41587-025-02743-4.

    Examples
    --------
    >>> import gpubench as gb
    >>> X, labels, batch = [[0.0], [1.0], [2.0], [3.0]], ["B"] * 4, ["a", "b", "a", "b"]
    >>> round(gb.metrics.bras(X, labels, batch, metric="euclidean", engine="cpu"), 3)
    0.75
    """
    mixing = _BatchesWithinLabels(X, labels, batch, metric, engine)
    engine = mixing.embedding.engine
    params = {} if metric == "cosine" else {"metric": metric, **_params(engine, metric)}
    if not mixing.used.any():
        return Score(np.nan, n=0, note=_NO_LABEL, params=params)
    x, label = mixing.x(metric), mixing.label
    pairs = np.unique(label.astype(np.int64) * mixing.n_batches + mixing.batch, return_inverse=True)[1]
    n_label, n_own = np.bincount(label)[label], np.bincount(pairs)[pairs]
    one_cluster = np.zeros_like(label)
    own, _ = engine.cluster_distances(x, one_cluster, pairs.astype(np.int32), metric)
    to_label, _ = engine.cluster_distances(x, one_cluster, label, metric)
    # the sum to a label is that to the own batch and that to the others
    alone = n_own == 1
    others = np.maximum((n_label - 1) * to_label - (n_own - 1) * np.where(alone, 0, own), 0) / (n_label - n_own)
    largest = np.maximum(np.where(alone, 0, own), others)
    widths = np.divide(others - own, largest, out=np.zeros(len(own)), where=(largest > 0) & ~alone)
    return mixing.score(widths, params)


_NO_LABEL = "undefined: no label has cells of two batches with more cells than batches"


class _BatchesWithinLabels:
    """The m of n cells to score: those of labels that have at least two batches and fewer batches than cells."""

    def __init__(self, X: Any, labels: Any, batch: Any, metric: str, engine: Engine | str | None) -> None:
        _check_distance(metric)
        self.embedding = on_engine(X, engine)
        self.labels = encode_labels(labels, "labels", self.embedding.n)  # of all n cells
        batches = encode_labels(batch, "batch", self.embedding.n)
        n_cells, n_batches = _cells_and_batches(self.labels, batches)
        self.used = (n_batches > 1) & (n_batches < n_cells)  # (L,) labels
        self.rows = self.used[self.labels.codes]  # (n,) cells
        self.label, self.batch = self.labels.codes[self.rows], batches.codes[self.rows]  # (m,) codes
        self.n_batches = batches.n_classes

    def x(self, metric: Distance) -> Array:
        """Return the (m, d) float32 cells for a distance."""
        x = self.embedding.for_distance(metric)
        return x if self.rows.all() else x[self.rows]

    def note(self) -> str:
        """Return a note that names the labels left out, or an empty string."""
        names = [name for name, used in zip(self.labels.names, self.used, strict=True) if not used]
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        counts = f"{len(names)} of {self.labels.n_classes} labels left out"
        return f"{counts} (one batch, or as many batches as cells): {shown}" if names else ""

    def score(self, widths: NDArray[np.float64], params: dict[str, Any]) -> Score:
        """Average 1 - |width| over the cells of each label, then over the labels."""
        values, sizes = 1 - np.abs(widths), np.bincount(self.label, minlength=len(self.used))
        means = np.bincount(self.label, weights=values, minlength=len(sizes))[self.used] / sizes[self.used]
        cells = per_cell_values(values, self.rows)
        return Score(float(means.mean()), n=len(values), note=self.note(), params=params, cells=cells)


def _too_many(embedding: Embedding, group_sizes: NDArray[np.integer]) -> bool:
    """Return whether comparing all pairs of cells in each group exceeds the engine's limit for exact scores."""
    pairs = float((group_sizes.astype(np.float64) ** 2).sum())
    return pairs * embedding.d > embedding.engine.policy.max_exact_pair_dims


def _sampled_label_silhouette(
    embedding: Embedding, labels: Labels, params: dict[str, Any], rows: NDArray[np.int64] | None = None
) -> Score:
    """Estimate the mean from a sample; if `rows` is given, over these cells and with equal weight of each label."""
    engine, x = embedding.engine, embedding.x
    return estimated_score(
        lambda cells: (silhouette_widths(engine, x, labels.codes, cells=cells) + 1) / 2,
        labels.codes,
        rows,
        equal_labels=rows is not None,
        seed=engine.seed,
        remedy="compares all",
        params=params,
    )


def _label_widths(embedding: Embedding, labels: Labels, metric: Distance) -> NDArray[np.float64]:
    """Return the silhouette widths of the labels among all cells, computed once for all metrics."""
    return embedding.shared(
        "silhouette_widths",
        lambda: silhouette_widths(embedding.engine, embedding.for_distance(metric), labels.codes, metric=metric),
        ARRAY,
        metric,
        codes_fingerprint(labels.codes),
    )


def _cells_and_batches(labels: Labels, batches: Labels) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the cells and the batches of each label; (L,) each."""
    counts = contingency(labels.codes, batches.codes, labels.n_classes, batches.n_classes)
    return counts.sum(axis=1), (counts > 0).sum(axis=1)


def _check_distance(metric: str) -> None:
    if metric not in ("euclidean", "cosine"):
        raise InputError(f"metric={metric!r} is unknown; use 'euclidean' or 'cosine'")


def _params(engine: Engine, metric: str) -> dict[str, str]:
    """Return the parameters that are not defaults, for the score; cosine distances are exact on every engine."""
    if metric != "euclidean":
        return {"metric": metric}
    precision = engine.policy.precision
    return {} if precision == "exact" else {"precision": precision}

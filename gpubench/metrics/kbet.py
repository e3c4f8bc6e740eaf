"""kBET: tests whether neighbourhoods have the same mix of batches as all cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpubench.core.errors import InputError, quoted
from gpubench.core.scores import Score
from gpubench.core.types import Graph, Knn, Labels
from gpubench.data import encode_labels
from gpubench.engines.common.blas import one_blas_thread
from gpubench.engines.common.neighborhoods import neighbor_chi_square
from gpubench.metrics._metric import BATCH, check_several, metric
from gpubench.metrics._neighborhoods import Neighborhoods, neighborhoods
from gpubench.metrics.graph_connectivity import strong_components

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.base import Engine

NEIGHBORS = 50
"""Default number of cells in a neighbourhood of the graph, the cell itself included."""

MIN_CELLS = 10
"""Smallest number of cells of a label; labels with fewer are left out."""

MIN_NEIGHBORS, MAX_NEIGHBORS = 10, 70
"""Smallest and largest number of neighbours in a test within a label."""

MAX_PAIRS = 2**31 - 1
"""Largest product of the numbers of neighbours and cells of a label."""

LARGE_COMPONENT = 3
"""A component of a label's graph is tested if it has at least this many times as many cells as a neighbourhood."""

MIN_SHARE = 0.75
"""Share of a label's cells that must be in components that are large enough; otherwise the label scores 0."""

MAX_DENSE_CELLS = 400
"""Largest number of cells for which all eigenvectors are computed, as fast as computing the few that are needed."""


class KbetTests(NamedTuple):
    """Statistics and p-values, (n,) each, of Pearson's chi-square tests of the neighbourhoods of n cells."""

    statistics: NDArray[np.float64]
    p_values: NDArray[np.float64]


def kbet_tests(
    X: Any, batches: Any, *, n_neighbors: int | None = None, engine: Engine | str | None = None
) -> KbetTests:
    """Test whether each cell's neighbourhood, the cell itself included, has the mix of batches of all cells.

    Parameters
    ----------
    X, batches, n_neighbors, engine : as in `kbet`

    Returns
    -------
    KbetTests
        Statistics and p-values, (n,) each, with B - 1 degrees of freedom.

    Raises
    ------
    InputError
        As `kbet`.

    Examples
    --------
    >>> import gpubench as gb
    >>> X, batch = [[0.0], [1.0], [8.0], [9.0]], ["a", "b", "a", "b"]
    >>> gb.metrics.kbet_tests(X, batch, n_neighbors=2, engine="cpu").statistics
    array([0., 0., 0., 0.])
    """
    around = neighborhoods(X, n_neighbors, NEIGHBORS, engine)
    return _test_neighborhoods(around, batches)


@metric("kbet", "kBET", needs=("batch",), neighbors=lambda _: NEIGHBORS - 1)
def kbet(
    X: Any,
    batches: Any,
    *,
    alpha: float = 0.05,
    n_neighbors: int | None = None,
    engine: Engine | str | None = None,
) -> Score:
    r"""Compute the share of cells whose neighbourhood has the same mix of batches as all cells, by a chi-square test.

    .. math:: \frac{1}{n} |\{ i : p_i \ge \alpha \}|, \quad
        \chi^2_i = \sum_b \frac{(o_{ib} - e_b)^2}{e_b}

    with o_ib the number of cells of batch b among the `n_neighbors` nearest cells of cell i, itself included, e_b the
    number expected from the shares of the batches among all cells, and p_i the p-value with B - 1 degrees of freedom.

    Parameters
    ----------
    X : (n, d) matrix of any kind, an `Embedding`, or a `Knn` on the engine
    batches : (n,) labels of any kind, none missing
    alpha : significance level of the test
    n_neighbors : number of cells in a neighbourhood, the cell itself included; reduced to n if larger. If None, 50, or
        all neighbours of a `Knn`
    engine : engine to compute on, or its name; if None, the best available one

    Returns
    -------
    Score
        In [0, 1]; 1 is best.

    Raises
    ------
    InputError
        Fewer than two batches, `alpha` not between 0 and 1, missing batches, or an `X` that is not a matrix of finite
        numbers.

    References
    ----------
    Büttner et al. (2019), doi:10.1038/s41592-018-0254-1.

    Examples
    --------
    >>> import gpubench as gb
    >>> X, batch = [[0.0], [1.0], [8.0], [9.0]], ["a", "b", "a", "b"]
    >>> gb.metrics.kbet(X, batch, n_neighbors=2, engine="cpu")
    1.0
    """
    _check_alpha(alpha)
    around = neighborhoods(X, n_neighbors, NEIGHBORS, engine)
    p_values = _test_neighborhoods(around, batches).p_values
    return around.score(float((p_values >= alpha).mean()), **_level(alpha))


@metric(
    "kbet_per_label",
    "kBET",
    needs=("batch", "label"),
    neighbors=lambda _: NEIGHBORS - 1,
    cost=None,
    scib=("KBET", BATCH),
)
def kbet_per_label(
    X: Any,
    batches: Any,
    labels: Any,
    *,
    alpha: float = 0.05,
    diffusion_n_comps: int = 100,
    n_neighbors: int | None = None,
    engine: Engine | str | None = None,
) -> Score:
    """Compute the mean over labels of the share of cells whose neighbourhood has the mix of batches of the label.

    Within each label, kBET tests the k nearest cells in a diffusion map of the label's part of UMAP's fuzzy neighbour
    graph. k is a quarter of the mean number of cells of a batch, from 10 to 70. Labels with fewer than 10 cells or with
    a single batch are left out. If the label's part of the graph is not connected, only components of at least 3 k
    cells are tested, and the label scores 0 if these hold less than 3/4 of its cells.

    Parameters
    ----------
    X : (n, d) matrix of any kind, an `Embedding`, or a `Knn` on the engine
    batches, labels : (n,) labels of any kind, none missing
    alpha : significance level of the test
    diffusion_n_comps : number of components of the diffusion map; reduced to m - 1 for a label of m cells if larger
    n_neighbors : number of cells in a neighbourhood of the graph, the cell itself included; reduced to n if larger. If
        None, 50, or all neighbours of a `Knn`
    engine : engine to compute on, or its name; if None, the best available one

    Returns
    -------
    Score
        In [0, 1]; 1 is best. NaN with a note where no label can be tested.

    Raises
    ------
    InputError
        `alpha` not between 0 and 1, `diffusion_n_comps` below 1, missing labels or batches, or an `X` that is not a
        matrix of finite numbers.

    Notes
    -----
    Neighbours in the diffusion map are exact; scib-metrics searches approximately. In scib-metrics, a label of no more
    than `diffusion_n_comps` cells also reduces the number of components for the labels that follow it; here it does
    not.

    References
    ----------
    Büttner et al. (2019), doi:10.1038/s41592-018-0254-1. Luecken et al. (2022), doi:10.1038/s41592-021-01336-8.

    Examples
    --------
    >>> import gpubench as gb
    >>> X, batch, labels = [[float(i)] for i in range(40)], ["a", "b"] * 20, ["B"] * 40
    >>> gb.metrics.kbet_per_label(X, batch, labels, n_neighbors=10, engine="cpu")
    1.0
    """
    around = neighborhoods(X, n_neighbors, NEIGHBORS, engine)
    scores = _score_labels(around, batches, labels, alpha, diffusion_n_comps)
    params = {"diffusion_n_comps": diffusion_n_comps, **_level(alpha)}
    notes = [
        f"{len(names)} of {len(scores)} labels {what}: {quoted(names)}"
        for what in dict.fromkeys(score.note for score in scores.values() if score.note)
        if (names := [name for name, score in scores.items() if score.note == what])
    ]
    tested = [score for score in scores.values() if not np.isnan(score)]
    if not tested:
        return around.score(np.nan, n=0, note="; ".join(["undefined: no label can be tested", *notes]), **params)
    n = sum(score.n for score in tested)
    return around.score(float(np.mean(tested)), n=n, note="; ".join(notes), **params)


def kbet_of_labels(
    X: Any,
    batches: Any,
    labels: Any,
    *,
    alpha: float = 0.05,
    diffusion_n_comps: int = 100,
    n_neighbors: int | None = None,
    engine: Engine | str | None = None,
) -> dict[str, Score]:
    """Compute kBET within each label: the values that `kbet_per_label` averages.

    Parameters
    ----------
    X, batches, labels, alpha, diffusion_n_comps, n_neighbors, engine : as in `kbet_per_label`

    Returns
    -------
    dict
        label -> `Score` in [0, 1], or NaN with a note if the label is left out

    Raises
    ------
    InputError
        As `kbet_per_label`.

    Examples
    --------
    >>> import gpubench as gb
    >>> X, batch, labels = [[float(i)] for i in range(40)], ["a", "b"] * 20, ["B"] * 40
    >>> gb.metrics.kbet_of_labels(X, batch, labels, n_neighbors=10, engine="cpu")
    {'B': 1.0}
    """
    return _score_labels(neighborhoods(X, n_neighbors, NEIGHBORS, engine), batches, labels, alpha, diffusion_n_comps)


def _score_labels(
    around: Neighborhoods, batches: Any, labels: Any, alpha: float, n_components: int
) -> dict[str, Score]:
    label = encode_labels(labels, "labels", around.n)
    batch = encode_labels(batches, "batches", around.n)
    _check_alpha(alpha)
    if n_components < 1:
        raise InputError(f"diffusion_n_comps={n_components}: at least one component is needed")
    engine = around.engine
    with engine.timeline.stage("fuzzy_graph"):
        graph = engine.fuzzy_graph(around.knn)
    graph = Graph(*map(engine.to_host, (graph.indptr, graph.indices, graph.weights)))
    parts = strong_components(graph.indptr, graph.indices, label.codes)
    order = np.argsort(label.codes, kind="stable")
    label_cells = np.split(order, np.cumsum(np.bincount(label.codes))[:-1])
    return {
        name: _score_label(engine, graph, cells, parts[cells], batch.codes[cells], alpha, n_components)
        for name, cells in zip(label.names, label_cells, strict=True)
    }


def _score_label(
    engine: Engine,
    graph: Graph,
    cells: NDArray[np.int64],
    parts: NDArray[np.int32],
    batches: NDArray[np.int32],
    alpha: float,
    n_components: int,
) -> Score:
    """Compute kBET of one label; `parts` and `batches` are the graph component and the batch of each of its cells."""
    n, n_batches = len(cells), len(np.unique(batches))
    left_out = Score(np.nan, n=n, note=f"left out (one batch, or fewer than {MIN_CELLS} cells)")
    if n < MIN_CELLS or n_batches == 1:
        return left_out
    k = min(MAX_NEIGHBORS, max(MIN_NEIGHBORS, n // n_batches // 4), MAX_PAIRS // n)
    sizes = np.bincount(parts)[parts]
    if sizes[0] < n:  # not one component
        large = sizes >= LARGE_COMPONENT * k
        if large.mean() < MIN_SHARE:
            return Score(0.0, n=n, note="score 0 (their graph falls apart into small components)")
        cells, batches = cells[large], batches[large]
    tested = encode_labels(batches, "batches")
    if tested.n_classes == 1:
        return left_out
    with engine.timeline.stage("diffusion_map"):
        diffused = engine.xp.asarray(diffusion_map(graph, cells, n_components, engine.seed))
    tests = _test(engine, engine.knn(diffused, min(k, len(cells) - 1)), tested)
    return Score(float((tests.p_values >= alpha).mean()), n=len(cells))


def _test_neighborhoods(around: Neighborhoods, batches: Any) -> KbetTests:
    batch = encode_labels(batches, "batches", around.n)
    check_several(batch)
    return _test(around.engine, around.knn, batch)


def _test(engine: Engine, knn: Knn, batches: Labels) -> KbetTests:
    from scipy.special import gammaincc

    shares = np.bincount(batches.codes) / len(batches)
    statistics = engine.map_neighbors(knn, neighbor_chi_square, batches.codes, shares, width=len(shares))
    return KbetTests(statistics, np.asarray(gammaincc((batches.n_classes - 1) / 2, statistics / 2), np.float64))


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise InputError(f"alpha={alpha}: the level of a test is between 0 and 1")


def _level(alpha: float) -> dict[str, Any]:
    return {} if alpha == 0.05 else {"alpha": alpha}


def diffusion_map(graph: Graph, cells: NDArray[np.int64], n_components: int, seed: int) -> NDArray[np.float32]:
    r"""Compute the diffusion map of some cells, from the edges between them in a graph.

    Let W be the edge weights between these cells, q the row sums of W, K = diag(1/q) W diag(1/q), and z the row sums of
    K. The components are the eigenvectors of diag(z)^(-1/2) K diag(z)^(-1/2) with the eigenvalues l of largest
    magnitude, each multiplied by l / (1 - l), the sum over random walks of all lengths. Eigenvectors whose eigenvalue
    is 1 in float32, one for each connected component, are not rescaled. Coifman & Lafon (2006),
    doi:10.1016/j.acha.2006.04.006; Haghverdi et al. (2016), doi:10.1038/nmeth.3971.

    `graph` must be on the host, and each of the m `cells` must have an edge to another of them. Returns (m, components)
    float32 with at most m - 1 components, whose signs are arbitrary.
    """
    from scipy.sparse import csr_array

    whole = csr_array((graph.weights, graph.indices, graph.indptr), shape=(graph.n, graph.n))
    part = whole[cells][:, cells]
    kernel = _scale(part, 1 / part.sum(axis=1))
    walk = _scale(kernel, 1 / np.sqrt(kernel.sum(axis=1)))
    with one_blas_thread():
        values, vectors = _leading_eigenvectors(walk, min(n_components, len(cells) - 1), seed)
    rounded = values.astype(np.float32)
    with np.errstate(divide="ignore"):
        factors = np.where(rounded == 1, 1.0, values / (1 - values))
    return np.ascontiguousarray(vectors * factors, dtype=np.float32)


def _scale(matrix: Any, factors: NDArray[np.float64]) -> Any:
    """Return the product diag(factors) @ matrix @ diag(factors)."""
    from scipy.sparse import diags_array

    return (diags_array(factors) @ matrix @ diags_array(factors)).tocsr()


def _leading_eigenvectors(matrix: Any, k: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the k eigenvalues of largest magnitude of a symmetric sparse matrix, and their vectors as columns."""
    from scipy.sparse.linalg import eigsh

    n = matrix.shape[0]
    if n > MAX_DENSE_CELLS and 2 * k < n:
        start = np.random.default_rng(seed).normal(size=n)
        values, vectors = eigsh(matrix, k=k, which="LM", v0=start)
        return values, vectors
    values, vectors = np.linalg.eigh(matrix.toarray())
    largest = np.argsort(-np.abs(values), kind="stable")[:k]
    return values[largest], vectors[:, largest]

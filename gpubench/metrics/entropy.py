"""Mixing of batches in neighbourhoods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError
from gpubench.core.scores import Score
from gpubench.core.types import Knn, Labels
from gpubench.data import encode_labels
from gpubench.engines.common.neighborhoods import neighbor_entropy
from gpubench.engines.embedding import on_engine
from gpubench.engines.steps import neighborhoods_step
from gpubench.metrics._metric import check_several, metric, per_cell_values
from gpubench.metrics._neighborhoods import search_params
from gpubench.metrics._sampling import mean_of_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.base import Engine
    from gpubench.engines.embedding import Embedding


@metric(
    "entropy_per_cell",
    "Entropy of batches per cell",
    bounds=(0, 1),
    needs=("batch",),
    options=("n_neighbors",),
    neighbors=lambda options: options.n_neighbors - 1,
    sampled=True,
    plan_step=lambda name, sizes, k, _: neighborhoods_step(name, sizes, k),
)
def entropy_per_cell(X: Any, labels: Any, *, n_neighbors: int = 200, engine: Engine | str | None = None) -> Score:
    r"""Compute the mean entropy of the batches in each cell's neighbourhood, as a share of the largest possible.

    .. math:: \frac{1}{n \log B} \sum_i -\sum_b p_{ib} \log p_{ib}

    with p the share of batch b among the `n_neighbors` nearest cells, the cell itself counted.

    Parameters
    ----------
    X : (n, d) matrix of any kind, or an `Embedding`
    labels : (n,) batches (or any labels), none missing
    n_neighbors : cells in a neighbourhood, at least 2; cut to n with a note
    engine : where to compute; None: the best that works here

    Returns
    -------
    Score
        In [0, 1]; 1 where every neighbourhood holds all batches in equal shares. Of so many cells that their
        neighbours would be approximate, estimated from a sample whose neighbours are exact, with a standard error of
        0.002 or less; see `exact` and `knn` of `gpubench.get_engine`.

    Raises
    ------
    InputError
        Fewer than two batches, `n_neighbors` below 2, missing labels, or a matrix that cannot be scored.

    Notes
    -----
    Neighbours are exact. cz-benchmarks searches with HNSW, which misses about 1% of them.

    Examples
    --------
    >>> import gpubench as gb
    >>> X, batch = [[0.0], [1.0], [8.0], [9.0]], ["a", "b", "a", "b"]
    >>> gb.metrics.entropy_per_cell(X, batch, n_neighbors=2, engine="cpu")
    1.0
    """
    embedding = on_engine(X, engine)
    batches = encode_labels(labels, "labels", embedding.n)
    check_several(batches)
    if n_neighbors < 2:
        raise InputError(f"n_neighbors={n_neighbors}: a neighbourhood has at least 2 cells, the cell itself counted")
    used = min(n_neighbors, embedding.n)
    note = "" if used == n_neighbors else f"n_neighbors cut from {n_neighbors} to {used}, the number of cells"
    if embedding.engine.policy.samples_neighborhoods(embedding.n, embedding.d):
        return _estimated(embedding, batches, used, note)
    knn = embedding.knn(used - 1)
    entropy = _entropy(embedding.engine, knn, batches)
    largest = np.log(batches.n_classes)
    return Score(
        min(1.0, float(entropy.mean() / largest)),  # rounding may pass the bound of even mixing
        n=embedding.n,
        note=note,
        params={"n_neighbors": used, **search_params(knn)},
        approximate=not knn.exact,
        cells=per_cell_values(entropy / largest),
    )


def _entropy(engine: Engine, knn: Knn, batches: Labels, cells: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
    n_codes = batches.n_classes
    return engine.map_neighbors(knn, neighbor_entropy, batches.codes, n_codes, cells=cells, width=n_codes)


def _estimated(embedding: Embedding, batches: Labels, n_neighbors: int, note: str) -> Score:
    """Estimate the score from a sample of cells, each compared with all cells."""
    engine, largest = embedding.engine, np.log(batches.n_classes)
    cells = np.full(embedding.n, np.nan, np.float32)

    def entropy_of(drawn: NDArray[np.int64]) -> NDArray[np.float64]:
        knn = _neighbors_of(drawn, embedding, n_neighbors - 1)
        entropy: NDArray[np.float64] = _entropy(engine, knn, batches, drawn) / largest
        cells[drawn] = entropy
        return entropy

    used, strata = np.unique(batches.codes, return_inverse=True)
    shares = np.bincount(strata, minlength=len(used)) / embedding.n
    value, stderr, n = mean_of_labels(strata.astype(np.int32), shares, entropy_of, engine.seed)
    told = f"estimated from {n:,} of {embedding.n:,} cells; exact=True looks at the neighbours of all"
    return Score(
        min(1.0, value),
        n=n,
        stderr=stderr,
        note="; ".join(filter(None, (note, told))),
        params={"n_neighbors": n_neighbors},
        approximate=True,
        cells=cells,
    )


def _neighbors_of(cells: NDArray[np.int64], embedding: Embedding, k: int) -> Knn:
    """The k nearest others of some cells, (m, k)."""
    engine, xp = embedding.engine, embedding.engine.xp
    found = engine.knn_between(embedding.x[xp.asarray(cells)], embedding.x, k + 1)
    itself = found.indices == xp.asarray(cells)[:, None]
    itself[~itself.any(axis=1), -1] = True  # k + 1 copies of a cell stand before itself
    others = [xp.ascontiguousarray(array[~itself].reshape(len(cells), k)) for array in (found.indices, found.distances)]
    return Knn(*others)

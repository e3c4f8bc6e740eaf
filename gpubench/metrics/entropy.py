"""Entropy of batches in neighbourhoods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.scores import Score
from gpubench.core.types import Knn
from gpubench.data import encode_labels
from gpubench.engines.common.neighborhoods import neighbor_entropy
from gpubench.engines.embedding import on_engine
from gpubench.metrics._metric import check_several, metric, per_cell_values
from gpubench.metrics._neighborhoods import neighborhood_size, search_params
from gpubench.metrics._sampling import estimated_score

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.base import Engine
    from gpubench.engines.embedding import Embedding


@metric(
    "entropy_per_cell",
    "Entropy of batches per cell",
    needs=("batch",),
    options=("n_neighbors",),
    neighbors=lambda options: options.n_neighbors - 1,
    sampled=True,
    cost=lambda model, sizes, k, _: model.neighborhoods(sizes.n, sizes.d, k),
)
def entropy_per_cell(X: Any, labels: Any, *, n_neighbors: int = 200, engine: Engine | str | None = None) -> Score:
    r"""Compute the mean entropy of the batches in each cell's neighbourhood, as a share of the largest possible.

    .. math:: \frac{1}{n \log B} \sum_i -\sum_b p_{ib} \log p_{ib}

    with p the share of batch b among the `n_neighbors` nearest cells, the cell itself counted.

    Parameters
    ----------
    X : (n, d) matrix of any kind, or an `Embedding`
    labels : (n,) batches (or any labels), none missing
    n_neighbors : number of cells in a neighbourhood, the cell itself included; at least 2, and reduced to n, with a
        note, if larger
    engine : engine to compute on, or its name; if None, the best available one

    Returns
    -------
    Score
        In [0, 1]; 1 if every neighbourhood holds all batches in equal shares. If there are so many cells that the
        engine would search neighbours approximately, the score is estimated from a sample of cells, whose neighbours
        are exact, with a standard error of 0.002 or less; see `exact` and `knn` of `gpubench.get_engine`.

    Raises
    ------
    InputError
        Fewer than two batches, `n_neighbors` below 2, missing labels, or an `X` that is not a matrix of finite numbers.

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
    engine = embedding.engine
    batches = encode_labels(labels, "labels", embedding.n)
    check_several(batches)
    used, note = neighborhood_size(n_neighbors, embedding.n)
    largest = np.log(batches.n_classes)

    def entropies(knn: Knn, cells: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        columns = batches.codes, batches.n_classes
        return embedding.engine.map_neighbors(knn, neighbor_entropy, *columns, cells=cells, width=batches.n_classes)

    if engine.policy.samples_neighborhoods(embedding.n, embedding.d):
        return estimated_score(
            lambda cells: entropies(_exact_neighbors(embedding, cells, used - 1), cells) / largest,
            batches.codes,
            equal_labels=False,
            seed=engine.seed,
            remedy="looks at the neighbours of all",
            note=note,
            params={"n_neighbors": used},
        )
    knn = embedding.knn(used - 1)
    entropy = entropies(knn)
    return Score(
        min(1.0, float(entropy.mean() / largest)),  # rounding may pass the bound of even mixing
        n=embedding.n,
        note=note,
        params={"n_neighbors": used, **search_params(knn)},
        approximate=not knn.exact,
        cells=per_cell_values(entropy / largest),
    )


def _exact_neighbors(embedding: Embedding, cells: NDArray[np.int64], k: int) -> Knn:
    """Find the k nearest other cells of the m cells with these row numbers, exactly."""
    xp = embedding.engine.xp
    own = xp.asarray(cells)
    knn = embedding.engine.knn_between(embedding.x[own], embedding.x, k + 1)
    itself = knn.indices == own[:, None]
    itself[~itself.any(axis=1), -1] = True  # k + 1 copies of a cell come before the cell itself
    others = [xp.ascontiguousarray(array[~itself].reshape(len(cells), k)) for array in (knn.indices, knn.distances)]
    return Knn(*others)

"""Sequential alignment: agreement of neighbourhoods with the order of time points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError
from gpubench.core.scores import Score
from gpubench.data import as_numeric
from gpubench.engines.common.neighborhoods import neighbor_value_distance
from gpubench.engines.embedding import Embedding, on_engine
from gpubench.metrics._metric import metric, per_cell_values
from gpubench.metrics._neighborhoods import search_params

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.base import Engine

DENSITY_NEIGHBORS = 30
"""Number of the neighbour, the cell itself counted, whose distance measures the local density."""

MIN_ADAPTIVE_K = 3
"""Smallest number of neighbours with `adaptive_k`."""


@metric(
    "sequential_alignment",
    "Sequential alignment",
    needs=("time",),
    options=("k", "normalize", "adaptive_k"),
    neighbors=lambda options: max(DENSITY_NEIGHBORS, 2 * options.k) if options.adaptive_k else options.k,
)
def sequential_alignment(
    X: Any,
    labels: Any,
    *,
    k: int = 10,
    normalize: bool = True,
    adaptive_k: bool = False,
    engine: Engine | str | None = None,
) -> Score:
    r"""Compute how close in time the neighbours of a cell are, compared with random cells.

    .. math:: 1 - \frac{\frac{1}{n} \sum_i \frac{1}{k} \sum_{j \in N_k(i)} |t_i - t_j|}{E\,|t_i - t_j|}

    clipped to [0, 1], with t the times and the expectation over all pairs of different cells.

    Parameters
    ----------
    X : (n, d) matrix of any kind, or an `Embedding`
    labels : (n,) times, numbers or strings that parse as numbers, none missing
    k : number of neighbours of each cell, the cell itself not included
    normalize : if False, return the mean distance in time to the neighbours, in the unit of `labels`
    adaptive_k : choose the number of neighbours of each cell by local density, from k / 2 for the densest tenth of the
        cells to 2 k for the sparsest tenth, clipped to [3, min(50, n // 2)]
    engine : engine to compute on, or its name; if None, the best available one

    Returns
    -------
    Score
        1 if all neighbours have the same time, 0 if they are as far apart in time as random cells.

    Raises
    ------
    InputError
        `k` below 1, fewer than k + 1 cells (4 with `adaptive_k`), times that are missing or not numeric, or an `X` that
        is not a matrix of finite numbers.

    Notes
    -----
    The expectation is exact, from the sorted times in O(n log n). cz-benchmarks draws 10,000 random neighbourhoods
    with an unseeded generator, so its value moves by about 1e-3 from run to run.

    Examples
    --------
    >>> import gpubench as gb
    >>> X, time = [[0.0], [1.0], [8.0], [9.0]], [1, 1, 2, 3]
    >>> round(gb.metrics.sequential_alignment(X, time, k=1, engine="cpu"), 3)
    0.571
    """
    embedding = on_engine(X, engine)
    times = as_numeric(labels, "labels", embedding.n)
    n = embedding.n
    if k < 1:
        raise InputError(f"k={k}: at least one neighbour is needed")
    if n < k + 1:
        raise InputError(f"k={k} neighbours need at least {k + 1} cells, but there are {n}; give a smaller k")
    if adaptive_k and n <= MIN_ADAPTIVE_K:
        raise InputError(
            f"adaptive_k gives every cell at least {MIN_ADAPTIVE_K} neighbours, but there are {n} cells; leave"
            f" it out, or give at least {MIN_ADAPTIVE_K + 1} cells"
        )
    params = {"k": k} | ({"adaptive_k": True} if adaptive_k else {}) | ({} if normalize else {"normalize": False})
    baseline = _mean_pair_distance(times)
    if times.min() == times.max() or baseline == 0:  # 0 too where they differ by less than float64 resolves
        same = "all cells have the same time"
        value = 1.0 if normalize else 0.0
        return Score(value, n=n, note=same, params=params, cells=np.full(n, value, np.float32))
    k_per_cell = _adaptive_k(embedding, k) if adaptive_k else None
    knn = embedding.knn(k if k_per_cell is None else int(k_per_cell.max()))
    distances = embedding.engine.map_neighbors(knn, neighbor_value_distance, times, k_per_cell)
    observed = float(distances.mean())
    value = float(np.clip(1 - observed / baseline, 0, 1)) if normalize else observed
    cells = per_cell_values(1 - distances / baseline if normalize else distances)
    return Score(value, n=n, params=params | search_params(knn), approximate=not knn.exact, cells=cells)


def _adaptive_k(embedding: Embedding, k: int) -> NDArray[np.int64]:
    """Choose the number of neighbours of each cell, more for cells in sparse regions; (n,) int64."""
    n = embedding.n
    counted = max(2, min(DENSITY_NEIGHBORS, max(2, 3 * k, n // 4), n - 1))
    engine = embedding.engine
    distances = engine.to_host(embedding.knn(counted - 1).distances[:, -1]).astype(np.float64)
    density = 1 / (distances + 1e-10)
    low, high = np.percentile(density, [10, 90])
    relative = np.clip((density - low) / (high - low + 1e-10), 0, 1)
    chosen: NDArray[np.int64] = np.round(k * (0.5 + 1.5 * (1 - relative))).astype(np.int64)
    return chosen.clip(MIN_ADAPTIVE_K, max(MIN_ADAPTIVE_K, min(50, n // 2)))


def _mean_pair_distance(values: NDArray[np.float64]) -> float:
    """Compute the mean of |v_i - v_j| over pairs i != j, from the sorted values in O(n log n)."""
    # the mean is subtracted first, so that large offsets such as dates lose no digits
    ordered = np.sort(values - values.mean())
    n = len(ordered)
    weights = 2.0 * np.arange(n) - (n - 1)
    return float(2 * (weights @ ordered) / n / (n - 1))

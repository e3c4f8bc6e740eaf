"""Rank sums on a cluster: genes are divided into parts with about equal numbers of values, one part per task."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.engines.dask import gpu_worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from gpubench.core.types import I32, RankSums
    from gpubench.engines.dask.worker import EngineSettings

MIN_RANKED_VALUES = 1 << 20
"""Stored values of expression of one task; they are ranked in about as much time as it takes to send them."""

TASKS_PER_SLOT = 2


def count_tasks(n_stored: int, n_slots: int) -> int:
    """Return the number of tasks for ranking `n_stored` values; 0 or 1 if sending these is not worthwhile."""
    return min(TASKS_PER_SLOT * n_slots, n_stored // MIN_RANKED_VALUES)


def gene_parts(matrix: Any, n_parts: int) -> Iterator[tuple[NDArray[Any], NDArray[Any], NDArray[Any], int]]:
    """Yield the columns in parts with about equal numbers of values: values, indices and bounds, and number of rows."""
    from scipy.sparse import csc_array

    columns = csc_array(matrix)
    cuts = np.searchsorted(columns.indptr, np.linspace(0, columns.nnz, n_parts + 1)[1:-1])
    for start, stop in pairwise([0, *np.unique(np.clip(cuts, 1, columns.shape[1] - 1)), columns.shape[1]]):
        bounds = columns.indptr[start : stop + 1]
        stored = slice(bounds[0], bounds[-1])
        yield columns.data[stored], columns.indices[stored], bounds - bounds[0], columns.shape[0]


def rank_genes(
    values: NDArray[Any],
    indices: NDArray[Any],
    bounds: NDArray[Any],
    n_cells: int,
    codes: I32,
    n_groups: int,
    control: int,
    settings: EngineSettings,
) -> RankSums:
    """Compute rank sums of one part of the genes; see `Engine.rank_sums` and `gene_parts`."""
    from scipy.sparse import csc_array

    matrix = csc_array((values, indices, bounds), shape=(n_cells, len(bounds) - 1))
    ranked: RankSums = gpu_worker.on_engine(settings, "rank_sums", (matrix, codes, n_groups, control), threads=1)
    return ranked

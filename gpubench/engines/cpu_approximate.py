"""Approximate neighbours by faiss: it proposes, exact distances order, recall is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpubench.engines import cpu_neighbors
from gpubench.engines.neighbors import Neighbors
from gpubench.engines.recall import sample_of, share_found
from gpubench.errors import EngineUnavailable
from gpubench.types import Knn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.cpu_neighbors import ExactSearch

N_PROBE = 32
QUERY_ROWS = 8192


def available() -> bool:
    """Whether faiss is installed."""
    from importlib.util import find_spec

    return find_spec("faiss") is not None


def ivf_knn(x: NDArray[np.float32], k: int, exact: ExactSearch, seed: int) -> Knn:
    """Search an inverted file of sqrt(n) cells' neighbourhoods, the nearest `N_PROBE` of them for each cell.

    Raises
    ------
    EngineUnavailable
        faiss is not installed.
    """
    if not available():
        raise EngineUnavailable('knn="ivf" needs faiss; install it with: pip install "gpubench[cpu]"')
    import faiss

    workers = exact.workers
    n, d = x.shape
    out = Neighbors.empty(n, k)
    n_lists = int(np.sqrt(n))
    faiss.omp_set_num_threads(workers.n_threads)
    center = x.mean(axis=0, dtype=np.float64).astype(np.float32)
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(d), d, n_lists, faiss.METRIC_L2)
    index.cp.seed = seed
    train = np.random.default_rng(seed).choice(n, min(n, 64 * n_lists), replace=False)
    index.train(x[np.sort(train)] - center)
    for start in range(0, n, QUERY_ROWS):
        index.add(x[start : start + QUERY_ROWS] - center)
    index.nprobe = min(N_PROBE, n_lists)
    for start in range(0, n, QUERY_ROWS):
        rows = np.arange(start, min(start + QUERY_ROWS, n))
        _, found = index.search(x[rows] - center, k + 1)
        others = np.where(found == rows[:, None], -1, found)  # each cell itself is dropped by id
        cpu_neighbors.rerank(x[rows], x, others, None, out, rows)
        workers.report(start, n)
    # rows for which the lists held fewer than k cells
    cpu_neighbors.search_rows(x, x, np.arange(n), np.flatnonzero(out.uncertain), out, workers)
    params = {"n_lists": n_lists, "n_probe": int(index.nprobe)}
    sample = sample_of(n, seed)
    recall = share_found(sample, exact.knn_between(x[sample], x, k + 1).indices, out.indices[sample])
    return Knn(out.indices, out.distances, "ivf", params, recall)

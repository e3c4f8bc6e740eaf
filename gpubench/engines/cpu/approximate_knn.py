"""Approximate nearest neighbours: faiss or pynndescent propose candidates, which are ordered by exact distances."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.types import Knn
from gpubench.engines.common.knn_search import Neighbors, draw_sample, measure_recall
from gpubench.engines.cpu import exact_knn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.core.types import F32, I64
    from gpubench.engines.cpu.exact_knn import ExactSearch

N_PROBE = 32
QUERY_ROWS = 8192

Propose = Callable[["I64"], "NDArray[np.integer]"]
"""Function that returns candidate ids (m, n_candidates) for rows (m,), which may include the cell itself and -1."""


def n_candidates(n: int, k: int) -> int:
    """Return the number of candidates to ask for: the cell itself, k others, and spare ones, as float32 misorders."""
    return min(n, k + 1 + max(8, k // 6))


def faiss_knn(x: F32, k: int, exact: ExactSearch, seed: int, method: str, *, flat: bool) -> Knn:
    """Find neighbours with faiss: if `flat` among all cells, else by an inverted file.

    Of the sqrt(n) lists of the inverted file the nearest `N_PROBE` of each cell are searched. Results have the name
    `method`.
    """
    import faiss

    n, d = x.shape
    faiss.omp_set_num_threads(exact.workers.n_threads)
    center = x.mean(axis=0, dtype=np.float64).astype(np.float32)
    params: dict[str, Any] = {"index": "flat"}
    index: Any = faiss.IndexFlatL2(d)
    if not flat:
        n_lists = int(np.sqrt(n))
        index = faiss.IndexIVFFlat(index, d, n_lists, faiss.METRIC_L2)
        index.cp.seed = seed
        train = np.random.default_rng(seed).choice(n, min(n, 64 * n_lists), replace=False)
        index.train(x[np.sort(train)] - center)
        index.nprobe = min(N_PROBE, n_lists)
        params = {"n_lists": n_lists, "n_probe": int(index.nprobe)}
    for start in range(0, n, QUERY_ROWS):
        index.add(x[start : start + QUERY_ROWS] - center)
    wanted = n_candidates(n, k)
    return _knn(x, k, exact, seed, lambda rows: index.search(x[rows] - center, wanted)[1], method, params)


def nn_descent_knn(x: F32, k: int, exact: ExactSearch, seed: int) -> Knn:
    """Find neighbours with NN-descent of pynndescent, on one thread so that results do not depend on the thread count.

    Dong, Moses & Li (2011), doi:10.1145/1963405.1963487.
    """
    from pynndescent import NNDescent

    n_neighbors = min(k + 1, len(x))
    graph = NNDescent(x, n_neighbors=n_neighbors, random_state=seed, n_jobs=1).neighbor_graph[0]
    return _knn(x, k, exact, seed, lambda rows: graph[rows], "nn_descent", {"n_neighbors": n_neighbors})


def _knn(x: F32, k: int, exact: ExactSearch, seed: int, propose: Propose, method: str, params: dict[str, Any]) -> Knn:
    """Order proposed candidates by exact distance and measure recall; search cells with too few exactly."""
    n, workers = len(x), exact.workers
    out = Neighbors.empty(n, k)
    for start in range(0, n, QUERY_ROWS):
        rows = np.arange(start, min(start + QUERY_ROWS, n))
        candidates = propose(rows)
        others = np.where(candidates == rows[:, None], -1, candidates)  # each cell itself is left out by id
        exact_knn.rerank(x[rows], x, others, None, out, rows)
        workers.timeline.advance(start, n)
    exact_knn.search_rows(x, x, np.arange(n), np.flatnonzero(out.uncertain), out, workers)
    sample = draw_sample(n, seed)
    recall = measure_recall(sample, exact.knn_between(x[sample], x, k + 1).indices, out.indices[sample])
    return Knn(out.indices, out.distances, method, params, recall)

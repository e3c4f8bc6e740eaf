"""czbenchmarks' `cluster_embedding`: the neighbour graph and the Leiden clusters that scanpy leaves in the AnnData."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.accel._inputs import matrix_reason
from gpubench.accel.calls import Start

if TYPE_CHECKING:
    from gpubench.core.types import Graph, Knn
    from gpubench.engines.base import Engine

N_NEIGHBORS = 15
"""scanpy's default, the cell itself counted."""


def cluster_embedding(
    start: Start,
    adata: Any,
    n_iterations: int,
    flavor: str,
    use_rep: str,
    key_added: str,
    random_seed: int,
) -> list[str]:
    """Cluster, and leave in `adata` what scanpy leaves; cluster "0" is the largest."""
    import pandas as pd

    engine = start(seed=random_seed, exact=False)
    knn = engine.knn(engine.put(_cells(adata, use_rep)), N_NEIGHBORS - 1)
    graph = engine.fuzzy_graph(knn)
    codes = engine.leiden(graph, n_iterations=n_iterations)
    _leave_neighbors(adata, engine, knn, graph, use_rep, random_seed)
    names = pd.Index([str(code) for code in range(int(codes.max()) + 1)])
    adata.obs[key_added] = pd.Categorical.from_codes(codes, categories=names)
    adata.uns[key_added] = {"params": {"resolution": 1, "random_state": random_seed, "n_iterations": n_iterations}}
    return list(adata.obs[key_added])


def covers(adata: Any, n_iterations: Any, flavor: Any, use_rep: Any, key_added: Any, random_seed: Any) -> str | None:
    """Say what only scanpy has."""
    if flavor != "igraph":
        return f"flavor={flavor!r}; gpubench runs the Leiden algorithm of igraph"
    if not isinstance(n_iterations, int) or n_iterations < 1:
        return f"n_iterations={n_iterations!r}; gpubench needs a number of iterations"
    if not isinstance(random_seed, int):
        return f"random_seed={random_seed!r}; gpubench needs a number"
    if use_rep != "X" and use_rep not in adata.obsm:
        return f"use_rep={use_rep!r} is not in obsm"
    if adata.n_obs < N_NEIGHBORS:
        return f"{adata.n_obs} cells, fewer than the {N_NEIGHBORS} neighbours"
    return matrix_reason(_cells(adata, use_rep), use_rep)


def _cells(adata: Any, use_rep: str) -> Any:
    return adata.X if use_rep == "X" else adata.obsm[use_rep]


def _leave_neighbors(adata: Any, engine: Engine, knn: Knn, graph: Graph, use_rep: str, random_seed: int) -> None:
    from scipy.sparse import csr_matrix

    n = adata.n_obs
    rows = np.arange(0, n * knn.k + 1, knn.k)
    found = (engine.to_host(knn.distances).ravel().astype(np.float64), engine.to_host(knn.indices).ravel(), rows)
    weights = tuple(map(engine.to_host, (graph.weights, graph.indices, graph.indptr)))
    adata.obsp["distances"] = csr_matrix(found, shape=(n, n))
    adata.obsp["connectivities"] = csr_matrix(weights, shape=(n, n)).astype(np.float32)
    params = {"n_neighbors": N_NEIGHBORS, "method": "umap", "random_state": random_seed, "metric": "euclidean"}
    adata.uns["neighbors"] = {
        "connectivities_key": "connectivities",
        "distances_key": "distances",
        "params": params | {"use_rep": use_rep},
    }

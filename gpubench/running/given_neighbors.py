"""Check that given neighbours belong to an embedding, and put them on its engine in place of a search."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError, quoted
from gpubench.core.types import Knn
from gpubench.engines.common.knn_search import draw_sample
from gpubench.engines.embedding import Embedding, too_few_neighbors

if TYPE_CHECKING:
    from gpubench.core.types import F64
    from gpubench.data.neighbors import StoredNeighbors
    from gpubench.engines.base import Engine
    from gpubench.tasks import Options
    from gpubench.tasks._task import Task

SAMPLE = 200
"""Number of cells whose given distances are compared with those in the embedding, and whose neighbours are searched."""

TOLERANCE = 1e-3
"""Largest difference of a given distance, relative to the distance of the last neighbour of the cell."""

TIE = 1e-5
"""Relative difference up to which cells are equally near."""

ARGUMENT = "neighbors_key"


def check_use(
    neighbors: StoredNeighbors, embeddings: Sequence[str], tasks: Sequence[Task], options: Options, engine: Engine
) -> None:
    """Raise `InputError` if given neighbours fit none of the embeddings, or if no task or the engine can use them."""
    if not any(task.neighbors(options) for task in tasks):
        raise InputError(f"{ARGUMENT} is used by none of the chosen tasks; leave it out", argument=ARGUMENT)
    if not engine.policy.saves_neighbors:
        raise InputError(
            f"{ARGUMENT} cannot be used on a cluster, whose workers hold the neighbours; leave it out",
            argument=ARGUMENT,
        )
    if neighbors.use_rep is None and len(embeddings) > 1:
        raise InputError(
            f"{ARGUMENT}: {neighbors.where} does not say of which embedding it is (use_rep), and there are"
            f" {quoted(embeddings)}; score that one alone",
            argument=ARGUMENT,
        )
    if not any(belongs_to(neighbors, name) for name in embeddings):
        raise InputError(
            f"{ARGUMENT}: {neighbors.where} was computed on {neighbors.use_rep!r} (use_rep), and the embeddings are"
            f" {quoted(embeddings)}; give neighbours of one of them, or leave it out",
            argument=ARGUMENT,
        )


def belongs_to(neighbors: StoredNeighbors, embedding: str) -> bool:
    """Whether neighbours belong to the embedding of that name, as far as they say."""
    return neighbors.use_rep in (None, embedding.removeprefix("obsm/"))


def too_few(task: Task, wanted: int, neighbors: StoredNeighbors) -> str:
    """Return the message for a task that needs more neighbours than are given; empty if they suffice."""
    return f"{task.id}: {too_few_neighbors(neighbors.k, wanted)}" if wanted > neighbors.k else ""


def use_neighbors(embedding: Embedding, neighbors: StoredNeighbors) -> Embedding:
    """Make given neighbours those of an embedding, after a comparison with the distances of a sample of its cells.

    Returns the embedding.

    Raises
    ------
    InputError
        The distances are not those in the embedding.
    """
    engine, xp = embedding.engine, embedding.engine.xp
    sample = draw_sample(embedding.n, engine.seed, SAMPLE)
    found = neighbors.indices[sample]
    x = engine.to_host(embedding.x[xp.asarray(sample)]).astype(np.float64)
    near = engine.to_host(embedding.x[xp.asarray(found.ravel())]).astype(np.float64).reshape(*found.shape, -1)
    distances = np.sqrt(((near - x[:, None]) ** 2).sum(axis=2))
    _check_distances(embedding, neighbors, sample, distances)
    recall = _recall(embedding, sample, distances)
    knn = Knn(
        xp.asarray(neighbors.indices.astype(np.int32)),
        xp.asarray(neighbors.distances.astype(np.float32)),
        method="given",
        recall=None if recall == 1 else recall,
    )
    embedding.use_knn(knn, f"neighbours of {neighbors}, recall {recall:.3f} of {len(sample):,} cells")
    if embedding.scope.checkpoint:
        digest = sha256(neighbors.indices.tobytes() + neighbors.distances.tobytes()).hexdigest()
        embedding.scope = embedding.scope.keyed("neighbors", digest)
    return embedding


def _check_distances(embedding: Embedding, neighbors: StoredNeighbors, sample: Any, distances: F64) -> None:
    given = neighbors.distances[sample]
    largest = np.maximum(given, distances).max(axis=1, keepdims=True)
    wrong = np.argwhere(np.abs(given - distances) > TOLERANCE * largest)
    if len(wrong):
        row, column = wrong[0]
        pair = f"cell {sample[row]:,} to its neighbour {neighbors.indices[sample[row], column]:,}"
        n_pcs = neighbors.params.get("n_pcs")
        of_pcs = f" (n_pcs={n_pcs} of {embedding.d})" if n_pcs not in (None, embedding.d) else ""
        raise InputError(
            f"{ARGUMENT}: {neighbors.where} is not of {embedding.name}{of_pcs}: from {pair} it has the distance"
            f" {given[row, column]:.4g}, in the embedding it is {distances[row, column]:.4g}; compute it for this one",
            argument=ARGUMENT,
        )


def _recall(embedding: Embedding, sample: Any, distances: F64) -> float:
    """Return the share of the given neighbours of a sample of cells that are no further than the true last one."""
    engine, k = embedding.engine, distances.shape[1]
    exact = engine.knn_between(embedding.x[engine.xp.asarray(sample)], embedding.x, k + 1)
    last = engine.to_host(exact.distances)[:, -1:].astype(np.float64)  # k + 1 with the cell itself
    return float((distances <= last * (1 + TIE)).mean())

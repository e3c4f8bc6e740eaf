"""`Engine.fuzzy_graph` against the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from cells import make_cells
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from gpubench.core.types import Graph, Knn
from gpubench.engines.base import Engine

# UMAP stops its search for sigma when the sum of the memberships is within 1e-5 of its target. All of them move the
# same way with sigma, so each is within 1e-5 too; the union w + w' - w w' adds up two of them.
TOLERANCE = 2e-5


def check(engine: Engine, knn: Knn) -> NDArray[np.float64]:
    indices, distances = engine.to_host(knn.indices), engine.to_host(knn.distances)
    weights = dense(engine, engine.fuzzy_graph(knn))
    assert_allclose(weights, reference.fuzzy_graph(indices, distances), atol=TOLERANCE)
    return weights


def dense(engine: Engine, graph: Graph) -> NDArray[np.float64]:
    """The weights as an (n, n) array, after checking that the CSR arrays are what `Graph` promises."""
    indptr, indices, weights = (engine.to_host(a) for a in (graph.indptr, graph.indices, graph.weights))
    assert (indptr.dtype, indices.dtype, weights.dtype) == (np.int64, np.int32, np.float64)
    assert indptr[0] == 0
    assert indptr[-1] == len(indices) == len(weights)
    assert ((weights > 0) & (weights <= 1)).all()
    n = len(indptr) - 1
    full = np.zeros((n, n))
    for row in range(n):
        columns = indices[indptr[row] : indptr[row + 1]]
        assert (np.diff(columns) > 0).all(), f"row {row}: columns do not ascend"
        full[row, columns] = weights[indptr[row] : indptr[row + 1]]
    assert_array_equal(full, full.T)
    assert_array_equal(np.diag(full), 0)
    return full


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3, 16, 63, 64, 65, 257, 1025])
def test_sizes(engine: Engine, n: int) -> None:
    x = make_cells(n, 10, n_labels=min(n, 5), n_batches=1, seed=n).x
    check(engine, engine.knn(engine.put(x), min(14, n - 1)))


@pytest.mark.parametrize("k", [1, 2, 3, 7, 14, 100])
def test_numbers_of_neighbors(engine: Engine, k: int) -> None:
    check(engine, engine.knn(engine.put(make_cells(300, 4, seed=k).x), k))


@pytest.mark.parametrize(("offset", "scale"), [(1e4, 1.0), (0.0, 1e-6), (0.0, 1e6)])
def test_offset_and_scale(engine: Engine, offset: float, scale: float) -> None:
    x = (make_cells(300, 12, seed=4).x.astype(np.float64) * scale + offset).astype(np.float32)
    check(engine, engine.knn(engine.put(x), 14))


@pytest.mark.slow
def test_many_copies(engine: Engine, rng: np.random.Generator) -> None:
    # Some cells see only copies of themselves, some a few copies and others.
    x = rng.normal(size=(60, 3)).astype(np.float32)[np.minimum(rng.geometric(0.05, 500) - 1, 59)]
    check(engine, engine.knn(engine.put(x), 14))


def test_identical_cells_are_connected_with_weight_one(engine: Engine) -> None:
    weights = check(engine, engine.knn(engine.put(np.ones((40, 3), np.float32)), 5))
    assert set(np.unique(weights)) == {0.0, 1.0}


def test_equal_distances(engine: Engine) -> None:
    # The corners of a simplex: every membership is 1, more than the target, and sigma falls to its floor.
    weights = check(engine, engine.knn(engine.put(np.eye(30, dtype=np.float32)), 29))
    assert_array_equal(weights, 1 - np.eye(30))


@pytest.mark.slow
def test_head_of_a_larger_graph(engine: Engine) -> None:
    x = engine.put(make_cells(300, 6).x)
    assert_array_equal(
        dense(engine, engine.fuzzy_graph(engine.knn(x, 40).head(14))),
        dense(engine, engine.fuzzy_graph(engine.knn(x, 14))),
    )

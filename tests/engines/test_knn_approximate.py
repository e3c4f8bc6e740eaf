"""Approximate search: what it finds is true of the cells, and what it says of its recall is true."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np
import pytest
import reference
from cells import Cells, make_cells
from numpy.testing import assert_array_equal, assert_array_max_ulp

from gpubench.engines.base import Engine
from gpubench.engines.embedding import on_engine
from gpubench.errors import EngineUnavailable, InputError
from gpubench.metrics import entropy_per_cell, sequential_alignment

needs_faiss = pytest.mark.skipif(not importlib.util.find_spec("faiss"), reason="faiss is not installed")


@pytest.fixture(scope="module")
def cells() -> Cells:
    return make_cells(4000, 12, n_labels=9, n_batches=4, seed=6)


@needs_faiss
@pytest.mark.parametrize(("n", "k"), [(4000, 15), (4000, 200), (300, 250), (60, 59)])
def test_what_is_found(start_engine: Callable[..., Engine], cells: Cells, n: int, k: int) -> None:
    engine, x = start_engine(knn="ivf"), cells.x[:n]
    found = engine.knn(engine.put(x), k)
    indices, distances = engine.to_host(found.indices), engine.to_host(found.distances)
    assert (found.k, found.method, found.exact) == (k, "ivf", False)
    assert found.params
    assert ((indices >= 0) & (indices < n)).all()
    assert (indices != np.arange(n)[:, None]).all(), "a cell is its own neighbour"
    assert all(len(set(row)) == k for row in indices.tolist()), "a neighbour is found twice"
    assert (np.diff(distances, axis=1) >= 0).all()
    d = reference.distances(x, x)
    assert_array_max_ulp(distances, np.take_along_axis(d, indices.astype(np.int64), 1).astype(np.float32), maxulp=1)
    # A neighbour is right if it is no farther than the true k-th; the recall that is told was measured on some cells.
    np.fill_diagonal(d, np.inf)
    right = np.take_along_axis(d, indices.astype(np.int64), 1) <= np.partition(d, k - 1, axis=1)[:, k - 1 : k]
    assert found.recall == pytest.approx(right.mean(), abs=0.02)
    assert right.mean() > 0.9


@needs_faiss
def test_same_bits(start_engine: Callable[..., Engine], cells: Cells) -> None:
    found = []
    for threads in (1, 1, 2, 3):
        engine = start_engine(knn="ivf", threads=threads)
        found.append(engine.knn(engine.put(cells.x), 30))
    for other in found[1:]:
        assert_array_equal(other.indices, found[0].indices)
        assert_array_equal(other.distances, found[0].distances)
        assert other.recall == found[0].recall


@needs_faiss
def test_metrics_say_that_they_are_approximate(start_engine: Callable[..., Engine], cells: Cells) -> None:
    embedding = on_engine(cells.x, start_engine(knn="ivf"))
    for score, exact in (
        (
            entropy_per_cell(embedding, cells.batch, n_neighbors=50),
            reference.entropy_per_cell(cells.x, cells.batch, 50),
        ),
        (sequential_alignment(embedding, cells.time), reference.sequential_alignment(cells.x, cells.time)),
    ):
        assert score.approximate
        assert score == pytest.approx(exact, abs=0.01)


def test_without_faiss_it_is_unavailable(start_engine: Callable[..., Engine]) -> None:
    if importlib.util.find_spec("faiss"):
        assert start_engine(knn="ivf")
    else:
        with pytest.raises(EngineUnavailable, match="faiss"):
            start_engine(knn="ivf")


def test_few_cells_are_searched_exactly(engine: Engine, cells: Cells) -> None:
    assert engine.knn(engine.put(cells.x), 5).exact


def test_an_unknown_method_is_refused(start_engine: Callable[..., Engine]) -> None:
    with pytest.raises(InputError, match="knn='annoy' is unknown"):
        start_engine(knn="annoy")

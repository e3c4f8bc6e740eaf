"""Approximate search: its distances are exact, and the recall that it reports is right."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import reference
from cells import Cells, make_cells
from numpy.testing import assert_array_equal, assert_array_max_ulp

from gpubench.core.errors import InputError
from gpubench.engines import get_engine, knn_methods
from gpubench.engines.base import Engine
from gpubench.engines.cpu import compiled, leaves
from gpubench.engines.cpu.engine import CpuEngine
from gpubench.engines.cpu.tuning import CpuTuning
from gpubench.engines.embedding import on_engine
from gpubench.metrics import entropy_per_cell, sequential_alignment

IF_FAISS = pytest.mark.skipif(not importlib.util.find_spec("faiss"), reason="faiss is not installed")
WHERE_IT_RUNS = {
    "ivf": IF_FAISS,
    "faiss": IF_FAISS,
    "nn_descent": pytest.mark.skipif(
        not importlib.util.find_spec("pynndescent"), reason="pynndescent is not installed"
    ),
    "leaves": pytest.mark.skipif(not compiled.available(), reason="gpubench was installed without a C++ compiler"),
}
each_method = pytest.mark.parametrize(
    "method", [pytest.param(name, marks=mark) for name, mark in WHERE_IT_RUNS.items()]
)


@pytest.fixture(scope="module")
def cells() -> Cells:
    return make_cells(4000, 12, n_labels=9, n_batches=4, seed=6)


@pytest.mark.slow
@each_method
@pytest.mark.parametrize(("n", "k"), [(4000, 15), (4000, 200), (300, 250), (60, 59)])
def test_distances_are_exact_and_the_recall_is_right(
    start_engine: Callable[..., Engine], cells: Cells, method: str, n: int, k: int
) -> None:
    engine, x = start_engine(knn=method), cells.x[:n]
    found = engine.knn(engine.put(x), k)
    indices, distances = engine.to_host(found.indices), engine.to_host(found.distances)
    assert (found.k, found.method, found.exact) == (k, method, False)
    assert found.params
    assert ((indices >= 0) & (indices < n)).all()
    assert (indices != np.arange(n)[:, None]).all(), "a cell is its own neighbour"
    assert all(len(set(row)) == k for row in indices.tolist()), "a neighbour is found twice"
    assert (np.diff(distances, axis=1) >= 0).all()
    d = reference.distances(x, x)
    assert_array_max_ulp(distances, np.take_along_axis(d, indices.astype(np.int64), 1).astype(np.float32), maxulp=1)
    # A neighbour is right if it is no farther than the true k-th; the recall is measured on some cells.
    np.fill_diagonal(d, np.inf)
    right = np.take_along_axis(d, indices.astype(np.int64), 1) <= np.partition(d, k - 1, axis=1)[:, k - 1 : k]
    assert found.recall == pytest.approx(right.mean(), abs=0.02)
    assert right.mean() > 0.9


@each_method
def test_same_bits(start_engine: Callable[..., Engine], cells: Cells, method: str) -> None:
    found = []
    for threads in (1, 1, 2, 3):
        engine = start_engine(knn=method, threads=threads)
        found.append(engine.knn(engine.put(cells.x), 30))
    for other in found[1:]:
        assert_array_equal(other.indices, found[0].indices)
        assert_array_equal(other.distances, found[0].distances)
        assert other.recall == found[0].recall


@pytest.mark.slow
@each_method
def test_metrics_report_that_they_are_approximate(
    start_engine: Callable[..., Engine], cells: Cells, method: str
) -> None:
    embedding = on_engine(cells.x, start_engine(knn=method))
    for score, exact in (
        (
            entropy_per_cell(embedding, cells.batch, n_neighbors=50),
            reference.entropy_per_cell(cells.x, cells.batch, 50),
        ),
        (sequential_alignment(embedding, cells.time), reference.sequential_alignment(cells.x, cells.time)),
    ):
        assert score.approximate
        assert score == pytest.approx(exact, abs=0.01)


@pytest.mark.slow
@WHERE_IT_RUNS["leaves"]
@pytest.mark.parametrize("wanted", [0.5, 1.0])
def test_rounds_follow_until_the_recall_is_enough(rng: np.random.Generator, wanted: float) -> None:
    """Without structure leaves find little; rounds find more."""
    x = rng.standard_normal((3000, 12)).astype(np.float32)
    tuning = CpuTuning(leaf_cells=100, leaves_per_cell=3, min_recall=wanted)
    found = CpuEngine(knn="leaves", tuning=tuning).knn(x, 6)
    assert found.recall is not None
    assert found.params["rounds"] == (0 if wanted == 0.5 else leaves.MAX_ROUNDS)
    assert found.recall > (0.97 if wanted == 1.0 else 0.5)
    assert all(len(set(row)) == 6 for row in found.indices.tolist()), "a neighbour is found twice"
    true = reference.knn(x, 6)[0]
    hits = np.mean(
        [len(set(row) & set(own)) / 6 for row, own in zip(true.tolist(), found.indices.tolist(), strict=True)]
    )
    assert found.recall == pytest.approx(hits, abs=0.02)


@pytest.mark.slow
@WHERE_IT_RUNS["leaves"]
def test_many_leaders_are_compared_by_pivots() -> None:
    many = CpuTuning(leaf_cells=20, leaf_cells_per_neighbor=1)
    too_many = replace(many, max_compared_leaders=100, near_pivots=8)
    x = make_cells(3000, 8, n_labels=6, seed=5).x
    x[:400] = x[0]  # copies, some of them leaders and pivots
    with_all = CpuEngine(knn="leaves", tuning=many).knn(x, 6)
    found = [CpuEngine(knn="leaves", threads=threads, tuning=too_many).knn(x, 6) for threads in (1, 2)]
    assert_array_equal(found[0].indices, found[1].indices)
    assert (found[0].indices != with_all.indices).any()
    assert found[0].recall is not None
    assert found[0].recall > 0.95
    assert all(len(set(row)) == 6 for row in found[0].indices.tolist()), "a neighbour is found twice"


@pytest.mark.slow
@WHERE_IT_RUNS["leaves"]
def test_cells_in_few_directions_are_compared_in_these(
    start_engine: Callable[..., Engine], rng: np.random.Generator
) -> None:
    x = (rng.standard_normal((3000, 6)) @ rng.standard_normal((6, 40))).astype(np.float32)
    x += 0.05 * rng.standard_normal(x.shape).astype(np.float32)
    engine = start_engine(knn="leaves")
    found = engine.knn(engine.put(x), 8)
    assert found.params["components"] == 6
    indices, distances = engine.to_host(found.indices).astype(np.int64), engine.to_host(found.distances)
    d = reference.distances(x, x)
    assert_array_max_ulp(distances, np.take_along_axis(d, indices, 1).astype("f"), maxulp=1)
    assert found.recall > 0.99


@pytest.mark.slow
@WHERE_IT_RUNS["leaves"]
def test_directions_that_determine_neighbors_are_kept(
    start_engine: Callable[..., Engine], rng: np.random.Generator
) -> None:
    """Groups far apart hold nearly all of the variance, and who is near inside of a group is in what is left."""
    x = rng.standard_normal((3000, 40)).astype(np.float32)
    x[:, :2] += 300 * rng.integers(0, 3, (3000, 1))
    engine = start_engine(knn="leaves")
    found = engine.knn(engine.put(x), 8)
    assert "components" not in found.params
    indices, true = engine.to_host(found.indices), reference.knn(x, 8)[0]
    hits = [len(set(row) & set(own)) / 8 for row, own in zip(true.tolist(), indices.tolist(), strict=True)]
    assert np.mean(hits) > 0.9


@pytest.mark.slow
@WHERE_IT_RUNS["leaves"]
def test_copies_and_leaves_that_are_too_large(rng: np.random.Generator) -> None:
    """Half of the cells are one cell: they join the same leaves, which are split."""
    tuning = CpuTuning(leaf_cells=50, min_recall=1.1)  # never reached: every kind of round takes part
    x = rng.standard_normal((1500, 5)).astype(np.float32)
    x[::2] = x[0]
    found = [CpuEngine(knn="leaves", threads=threads, tuning=tuning).knn(x, 8) for threads in (1, 2, 3)]
    assert (found[0].distances[::2] == 0).all()
    for other in found[1:]:
        assert_array_equal(other.indices, found[0].indices)


@WHERE_IT_RUNS["leaves"]
def test_many_cells_are_searched_in_leaves(start_engine: Callable[..., Engine], cells: Cells) -> None:
    n, d = cells.x.shape

    def method_with(cells_limit: int, pair_dims: float, **options: Any) -> str:
        engine = start_engine(**options)
        limits = {"max_exact_knn_cells": cells_limit, "max_exact_knn_pair_dims": pair_dims}
        engine.policy = replace(engine.policy, **limits)
        return engine.knn(cells.x, 5).method

    assert method_with(n - 1, 5e12) == "exact"
    assert method_with(n - 1, n * n * d - 1) == "leaves"
    assert method_with(n - 1, n * n * d - 1, knn="exact") == "exact"
    assert method_with(n, n * n * d - 1) == "exact"


def test_without_tiles_there_are_no_leaves(cells: Cells, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compiled.VARIABLE, "numpy")
    with pytest.raises(InputError, match="compiled tiles"):
        get_engine("cpu", knn="leaves")


@pytest.mark.parametrize(
    ("method", "remedy"),
    [
        ("ivf", r'needs faiss, which is not installed; install it with: pip install "gpubench-sc\[faiss\]"'),
        ("faiss", r'needs faiss, which is not installed; install it with: pip install "gpubench-sc\[faiss\]"'),
        ("nn_descent", r"needs pynndescent, which is not installed; install it with: pip install pynndescent"),
        ("cuvs", r"needs the engine 'cuda'; the engine 'cpu' has: exact, leaves, ivf, faiss, nn_descent"),
    ],
)
def test_method_that_cannot_be_used_is_refused_with_the_remedy(
    method: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knn_methods, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=f"^knn='{method}' {remedy}$"):
        get_engine("cpu", knn=method)


def test_without_tiles_and_faiss_many_cells_are_searched_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compiled.VARIABLE, "numpy")
    method = CpuEngine().policy.knn_method_for
    assert method(2_000_000, 50) == ("ivf" if importlib.util.find_spec("faiss") else "exact")
    monkeypatch.setattr(knn_methods, "find_spec", lambda _: None)
    assert method(2_000_000, 50) == "exact"


@IF_FAISS
def test_flat_index_of_faiss_finds_the_exact_neighbors(start_engine: Callable[..., Engine], cells: Cells) -> None:
    """Copies and ties included: the order is by distance in float64, then by index."""
    x = np.concatenate([cells.x[:600], cells.x[:200], np.round(cells.x[600:900])]) + np.float32(100)
    found, exact = (start_engine(knn=method).knn(x, 20) for method in ("faiss", "exact"))
    assert (found.recall, found.params) == (1.0, {"index": "flat"})
    assert_array_equal(found.indices, exact.indices)
    assert_array_equal(found.distances, exact.distances)


@IF_FAISS
def test_many_cells_are_searched_in_lists_of_faiss(cells: Cells) -> None:
    engine = CpuEngine(knn="faiss")
    assert engine.knn(cells.x, 5).params == {"index": "flat"}
    engine.policy = replace(engine.policy, max_exact_knn_cells=100, max_exact_knn_pair_dims=0)
    assert engine.knn(cells.x, 5).params == {"n_lists": 63, "n_probe": 32}


def test_few_cells_are_searched_exactly(engine: Engine, cells: Cells) -> None:
    assert engine.knn(engine.put(cells.x), 5).exact


def test_an_unknown_method_is_refused(start_engine: Callable[..., Engine]) -> None:
    with pytest.raises(InputError, match="knn='annoy' is unknown"):
        start_engine(knn="annoy")


@WHERE_IT_RUNS["leaves"]
def test_outliers_do_not_reduce_the_accuracy_of_other_cells(start_engine: Callable[..., Engine]) -> None:
    x = make_cells(4000, 8, n_labels=6, seed=5).x
    x[[7, 900]] *= np.float32(1e9)
    found = start_engine(knn="leaves").knn(x, 6)
    assert found.recall is not None
    assert found.recall > 0.95

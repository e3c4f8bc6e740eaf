"""`Engine.leiden`: what every good partition must satisfy, as there is no single right answer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import reference
from cells import make_cells
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from gpubench.core.types import Graph
from gpubench.engines.base import Engine
from gpubench.engines.cpu.engine import CpuEngine
from gpubench.engines.cpu.leiden import IgraphRandom
from gpubench.engines.cpu.tuning import CpuTuning


def to_graph(engine: Engine, weights: NDArray[np.float64]) -> Graph:
    """CSR of dense symmetric weights."""
    rows, columns = np.nonzero(weights)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(weights)))])
    arrays = indptr.astype(np.int64), columns.astype(np.int32), weights[rows, columns]
    return Graph(*(engine.xp.asarray(a) for a in arrays))


def planted(sizes: list[int], inside: float, across: float, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
    """Weights with blocks of dense edges, and the block of each cell, in random order."""
    block = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    share = np.where(block[:, None] == block, inside, across)
    upper = np.triu(rng.random(share.shape) < share, 1) * rng.uniform(0.5, 1, share.shape)
    return upper + upper.T, block


def check_codes(codes: NDArray[np.int32], n: int) -> None:
    assert codes.dtype == np.int32
    assert codes.shape == (n,)
    sizes = np.bincount(codes)
    assert (np.diff(sizes) <= 0).all(), "codes are not in order of decreasing size"
    assert sizes.min() > 0


def test_separate_cliques_are_found(engine: Engine) -> None:
    block = np.repeat([0, 1, 2, 3], [9, 7, 5, 3])
    weights = (block[:, None] == block) - np.eye(24)
    codes = engine.leiden(to_graph(engine, weights))
    assert_array_equal(codes, block)


@pytest.mark.parametrize("both_directions", [True, False])
@pytest.mark.parametrize("sizes", [[80, 60, 40, 20], [50] * 6])
def test_planted_blocks_are_found(
    engine: Engine,
    sizes: list[int],
    both_directions: bool,
    rng: np.random.Generator,
) -> None:
    if not both_directions:
        engine = CpuEngine(tuning=CpuTuning(max_bidirectional_cells=0))
    weights, block = planted(sizes, 0.5, 0.02, rng)
    codes = engine.leiden(to_graph(engine, weights))
    check_codes(codes, len(block))
    assert reference.adjusted_rand_index(codes, block) == 1


class TestNetworkit:
    """For very many cells."""

    TUNING = CpuTuning(min_networkit_cells=1, max_bidirectional_cells=0)

    @pytest.fixture(autouse=True)
    def installed(self) -> None:
        pytest.importorskip("networkit", reason="networkit is not installed")

    @pytest.mark.slow
    def test_planted_communities_are_found(self, rng: np.random.Generator) -> None:
        engine = CpuEngine(tuning=self.TUNING)
        weights, block = planted([30, 20, 12], 0.5, 0.02, rng)
        codes = engine.leiden(to_graph(engine, weights))
        check_codes(codes, len(block))
        assert reference.adjusted_rand_index(codes, block) == 1
        assert engine.notes == ["Leiden communities of 1 cells and more are found by networkit"]

    @pytest.mark.slow
    def test_modularity_is_that_of_igraph(self) -> None:
        engine, igraph = CpuEngine(tuning=self.TUNING), CpuEngine()
        cells = make_cells(2000, 10, seed=1)
        graph = engine.fuzzy_graph(engine.knn(engine.put(cells.x), 14))
        weights = reference.fuzzy_graph(*reference.knn(cells.x, 14))
        ours = reference.modularity(weights, engine.leiden(graph))
        assert ours == pytest.approx(reference.modularity(weights, igraph.leiden(graph)), abs=0.01)

    def test_resolution_and_seed_have_an_effect(self) -> None:
        engine = CpuEngine(tuning=self.TUNING)
        x = np.random.default_rng(0).normal(size=(600, 3)).astype(np.float32)
        graph = engine.fuzzy_graph(engine.knn(engine.put(x), 14))
        n_communities = [engine.leiden(graph, resolution=r).max() + 1 for r in (0.05, 1.0, 20.0)]
        assert n_communities[0] < n_communities[1] < n_communities[2]
        codes = [CpuEngine(seed=seed, tuning=self.TUNING).leiden(graph) for seed in (1, 1, 2)]
        assert_array_equal(codes[0], codes[1])
        assert (codes[0] != codes[2]).any()


def test_modularity_is_no_worse_than_that_of_the_labels(engine: Engine) -> None:
    cells = make_cells(800, 10, duplicates=0.02, seed=1)
    graph = engine.fuzzy_graph(engine.knn(engine.put(cells.x), 14))
    codes = engine.leiden(graph)
    check_codes(codes, cells.n)
    weights = reference.fuzzy_graph(*reference.knn(cells.x, 14))
    assert reference.modularity(weights, codes) >= reference.modularity(weights, cells.label)


def test_resolution_has_an_effect(engine: Engine) -> None:
    graph = engine.fuzzy_graph(engine.knn(engine.put(make_cells(500, 10, seed=2).x), 14))
    n_communities = [engine.leiden(graph, resolution=r).max() + 1 for r in (0.05, 1.0, 20.0)]
    assert n_communities[0] < n_communities[1] < n_communities[2]


def test_iterations_have_an_effect(engine: Engine) -> None:
    # Cells without structure: there is always something left to improve.
    x = engine.put(np.random.default_rng(0).normal(size=(600, 3)))
    graph = engine.fuzzy_graph(engine.knn(x, 14))
    weights = reference.fuzzy_graph(
        *(engine.to_host(a) for a in (engine.knn(x, 14).indices, engine.knn(x, 14).distances))
    )
    once, often = (engine.leiden(graph, n_iterations=i) for i in (1, 20))
    check_codes(once, 600)
    assert reference.modularity(weights, once) < reference.modularity(weights, often)


def test_weights_have_an_effect(engine: Engine) -> None:
    # A ring of six, heavy on every second edge: only the weights say which pairs belong together.
    weights = np.zeros((6, 6))
    for i in range(6):
        weights[i, (i + 1) % 6] = weights[(i + 1) % 6, i] = 10.0 if i % 2 else 0.1
    codes = engine.leiden(to_graph(engine, weights))
    assert codes[1] == codes[2] != codes[3] == codes[4] != codes[5] == codes[0]


def test_cells_without_edges_are_alone(engine: Engine) -> None:
    weights = np.zeros((5, 5))
    weights[1, 3] = weights[3, 1] = 1
    codes = engine.leiden(to_graph(engine, weights))
    check_codes(codes, 5)
    assert codes[1] == codes[3] == 0
    assert len(set(codes.tolist())) == 4


def test_the_seed_determines_the_communities(start_engine: Callable[..., Engine]) -> None:
    # Cells without structure have many partitions of nearly the same modularity.
    x = np.random.default_rng(0).normal(size=(600, 3)).astype(np.float32)
    codes = []
    for seed in (1, 1, 2):
        engine = start_engine(seed=seed)
        codes.append(engine.leiden(engine.fuzzy_graph(engine.knn(engine.put(x), 14))))
    assert_array_equal(codes[0], codes[1])
    assert (codes[0] != codes[2]).any()


def test_igraph_gets_the_random_numbers_that_it_asks_for() -> None:
    """Ends of a range included, as those of Python's `random`, whose place the generator takes."""
    random, again, legacy = IgraphRandom(3), IgraphRandom(3), np.random.RandomState(3)
    assert {random.randint(2, 5) for _ in range(200)} == {2, 3, 4, 5}
    assert {random.getrandbits(2) for _ in range(200)} == {0, 1, 2, 3}
    assert max(random.getrandbits(32) for _ in range(200)) >= 2**31
    assert all(0 <= random.random() < 1 for _ in range(200))
    assert np.std([random.gauss(10, 0.5) for _ in range(400)]) == pytest.approx(0.5, rel=0.2)
    assert [again.randint(0, 9) for _ in range(20)] == [legacy.randint(0, 10) for _ in range(20)]
    assert random.getrandbits(0) == 0


@pytest.mark.slow
def test_igraph_is_the_same_before_and_after() -> None:
    """The compiled core is loaded without the package; a later import must not notice, nor find other communities."""
    code = """
import sys
import numpy as np
from gpubench.core.types import Graph
from gpubench.engines.cpu import leiden
rng = np.random.default_rng(0)
upper = np.triu(rng.random((60, 60)) * (rng.random((60, 60)) < 0.2), 1)
weights = upper + upper.T
sources, targets = np.nonzero(weights)
indptr = np.concatenate([[0], np.cumsum(np.bincount(sources, minlength=60))])
graph = Graph(indptr, targets.astype(np.int32), weights[sources, targets])
ours = leiden.communities(graph, 1.5, 2, 7)
assert "matplotlib" not in sys.modules
import random
import igraph
assert issubclass(igraph.Graph, leiden.igraph_core().GraphBase)
network = igraph.Graph(n=60, edges=np.column_stack([sources, targets]))
igraph.set_random_number_generator(leiden.IgraphRandom(7))
theirs = network.community_leiden("modularity", weights=graph.weights.tolist(), resolution=1.5, n_iterations=2)
assert (leiden.by_size(np.array(theirs.membership)) == ours).all()
again = leiden.communities(graph, 1.5, 2, 7)
assert (again == ours).all()
"""
    subprocess.run([sys.executable, "-c", code], check=True)

"""Approximate neighbours of the CUDA engine on the host emulation: true distances, true recall. No GPU is used."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import reference
from cells import Cells, make_cells
from emulated import StartOn
from numpy.testing import assert_array_equal, assert_array_max_ulp

from gpubench.core.errors import InputError
from gpubench.core.types import Knn
from gpubench.engines.cuda import exact_knn, ivf, tiles
from gpubench.engines.cuda.engine import CudaEngine
from gpubench.engines.cuda.workspace import CudaTuning
from gpubench.engines.embedding import on_engine
from gpubench.metrics import entropy_per_cell

SMALL_BLOCKS = CudaTuning(max_tile_rows=32, n_probe=6)
"""Lists of more cells than a tile has rows, and more lists than are searched."""


@pytest.fixture
def tuning() -> CudaTuning:
    return SMALL_BLOCKS


@pytest.fixture(scope="module")
def cells() -> Cells:
    drawn = make_cells(400, 5, n_labels=12, n_batches=2, duplicates=0.05, seed=8)
    drawn.x[:, 0] += 3 * drawn.label  # neighbours are in few lists, as in real embeddings
    return drawn


def check(engine: CudaEngine, x: np.ndarray, k: int) -> tuple[Knn, float]:
    """Check what any approximate graph fulfils; return it and its true recall."""
    n = len(x)
    found = engine.knn(engine.put(x), k)
    indices, distances = engine.to_host(found.indices), engine.to_host(found.distances)
    assert (indices.dtype, distances.dtype) == (np.int32, np.float32)
    assert (found.k, found.method, found.exact) == (k, "ivf", False)
    assert ((indices >= 0) & (indices < n)).all()
    assert (indices != np.arange(n)[:, None]).all(), "a cell is its own neighbour"
    assert all(len(set(row)) == k for row in indices.tolist()), "a neighbour is found twice"
    assert (np.diff(distances, axis=1) >= 0).all()
    d = reference.distances(x, x)
    assert_array_max_ulp(distances, np.take_along_axis(d, indices.astype(np.int64), 1).astype(np.float32), maxulp=1)
    np.fill_diagonal(d, np.inf)
    right = np.take_along_axis(d, indices.astype(np.int64), 1) <= np.partition(d, k - 1, axis=1)[:, k - 1 : k]
    return found, float(right.mean())


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["exact", "fast"])
@pytest.mark.parametrize(("n", "k"), [(240, 15), (180, 150), (60, 59), (3, 1), (2, 1)])
def test_distances_and_recall_are_true(start_on: StartOn, cells: Cells, n: int, k: int, precision: Any) -> None:
    found, share = check(start_on(knn="ivf", precision=precision), cells.x[:n], k)
    # fewer cells than the sample of the recall: all were compared, and only copies may be exchanged
    assert found.recall == pytest.approx(share, abs=0.02)
    assert share > 0.9
    assert found.params == {"n_lists": int(np.sqrt(n)), "n_probe": min(6, int(np.sqrt(n)))}


@pytest.mark.slow
def test_probing_all_lists_finds_all_neighbors(start_on: StartOn, cells: Cells) -> None:
    assert check(start_on(knn="ivf", tuning=replace(SMALL_BLOCKS, n_probe=20)), cells.x[:240], 15)[1] == 1


@pytest.mark.slow
def test_fewer_lists_compare_and_find_less(start_on: StartOn, cells: Cells) -> None:
    pairs, recalls = [], []
    for n_probe in (1, 6, 20):
        engine = start_on(knn="ivf", tuning=replace(SMALL_BLOCKS, n_probe=n_probe))
        recalls.append(check(engine, cells.x[:240], 5)[1])
        pairs.append(sum(rows * columns for rows, columns, _ in engine.gpu.products))
    assert pairs == sorted(pairs)
    assert recalls == sorted(recalls)
    assert recalls[0] < 1


def test_recall_is_measured_on_a_sample(start_on: StartOn, cells: Cells, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpubench.engines.common import knn_search

    monkeypatch.setattr(knn_search, "RECALL_SAMPLE", 150)
    engine = start_on(knn="ivf", tuning=replace(SMALL_BLOCKS, n_probe=2))
    found, true = check(engine, cells.x, 15)
    assert found.recall == pytest.approx(true, abs=0.05)
    assert found.recall != true  # the recall of all 400 cells


@pytest.mark.parametrize("x", [np.zeros((50, 3)), np.tile(np.eye(3), (30, 1)), np.arange(80.0)[:, None] * 1e30])
def test_copies_and_large_values_give_a_valid_graph(start_on: StartOn, x: np.ndarray) -> None:
    check(start_on(knn="ivf"), x.astype(np.float32), 7)


@pytest.mark.slow
def test_second_run_gives_the_same_bits(start_on: StartOn, cells: Cells) -> None:
    graphs = [engine.knn(engine.put(cells.x[:200]), 9) for engine in (start_on(knn="ivf"), start_on(knn="ivf"))]
    assert_array_equal(*(graph.indices.get() for graph in graphs))
    assert graphs[0].recall == graphs[1].recall


@pytest.mark.slow
def test_auto_uses_ivf_above_some_cells_if_it_fits(start_on: StartOn, cells: Cells) -> None:
    tuning = replace(SMALL_BLOCKS, exact_knn_cells=399)
    engine = start_on(tuning=tuning)
    assert engine.knn(engine.put(cells.x), 5).method == "ivf"
    assert engine.knn(engine.put(cells.x[:399]), 5).exact
    named = start_on(knn="exact", tuning=tuning)
    assert named.knn(named.put(cells.x), 5).exact
    narrow = start_on(free_bytes=30_000, tuning=tuning)
    assert ivf.needed_bytes(400, 5, 5) > 30_000
    assert narrow.knn(narrow.put(cells.x), 5).exact


def test_graph_that_does_not_fit_is_refused(start_on: StartOn, cells: Cells) -> None:
    engine = start_on(free_bytes=30_000, knn="ivf")
    with pytest.raises(InputError, match=r"approximate graph of 5 neighbours of 400 cells takes .* use knn='exact'"):
        engine.knn(engine.put(cells.x), 5)


def test_too_many_neighbors_are_refused(start_on: StartOn) -> None:
    engine = start_on(knn="ivf")
    x = engine.put(np.zeros((exact_knn.MAX_K + 2, 1), np.float32))
    with pytest.raises(InputError, match="the CUDA engine finds at most"):
        engine.knn(x, exact_knn.MAX_K)


@pytest.mark.slow
def test_scores_are_marked_as_approximate(start_on: StartOn, cells: Cells) -> None:
    score = entropy_per_cell(on_engine(cells.x, start_on(knn="ivf")), cells.batch, n_neighbors=20)
    assert score.approximate
    assert score.params["knn"] == "ivf"
    assert score == pytest.approx(reference.entropy_per_cell(cells.x, cells.batch, 20), abs=0.01)


def test_operands_that_were_used_last_are_cached(
    start_on: StartOn, cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists that are searched one after another share the lists around them."""
    kept = []
    make = tiles.Operands.__init__

    def init(self: Any, *args: Any, recent: bool = False, **given: Any) -> None:
        make(self, *args, recent=recent, **given)
        kept.append(recent)

    monkeypatch.setattr(tiles.Operands, "__init__", init)
    engine = start_on(knn="ivf")
    engine.knn(engine.put(cells.x[:100]), 5)
    assert kept[0], "of the lists; then come those of the exact search that measures the recall"

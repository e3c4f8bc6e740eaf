"""`Engine.knn` and `Engine.knn_between` against the oracle: the same neighbours in the same order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import reference
from cells import make_cells
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal, assert_array_max_ulp
from numpy.typing import NDArray

from gpubench.core.timeline import Timeline
from gpubench.core.types import Knn
from gpubench.engines.base import Engine
from gpubench.engines.common.knn_search import Scaling
from gpubench.engines.cpu import exact_knn
from gpubench.engines.cpu.engine import CpuEngine
from gpubench.engines.cpu.threads import WorkerThreads
from gpubench.engines.cpu.tuning import CpuTuning

SIZES = (2, 3, 63, 64, 65, 255, 256, 257, 511, 512, 513, 1023, 1024, 1025, 2049)
DIMENSIONS = (1, 2, 3, 17, 64, 513)

# float64 sums in another order may swap two cells whose distances agree to this many digits, unless they are copies.
SAME_SQUARE = 1e-12


def on_host(engine: Engine, found: Knn) -> Knn:
    return replace(found, indices=engine.to_host(found.indices), distances=engine.to_host(found.distances))


def knn(engine: Engine, x: NDArray[np.float32], k: int) -> Knn:
    return on_host(engine, engine.knn(engine.put(x), k))


def knn_between(engine: Engine, queries: NDArray[np.float32], x: NDArray[np.float32], k: int) -> Knn:
    return on_host(engine, engine.knn_between(engine.put(queries), engine.put(x), k))


def check_knn(engine: Engine, x: NDArray[np.float32], k: int) -> None:
    expected = reference.knn(x, min(k + 1, len(x) - 1))
    check(knn(engine, x, k), x, k, *expected)


def check_between(engine: Engine, queries: NDArray[np.float32], x: NDArray[np.float32], k: int) -> None:
    expected = reference.knn_between(queries, x, min(k + 1, len(x)))
    check(knn_between(engine, queries, x, k), x, k, *expected)


def check(
    found: Knn, x: NDArray[np.float32], k: int, indices: NDArray[np.int64], distances: NDArray[np.float64]
) -> None:
    """Compare with the oracle's neighbours, of which it was asked for one more than k where there is one."""
    assert found.indices.dtype == np.int32
    assert found.distances.dtype == np.float32
    assert (found.k, found.method, found.exact, found.recall) == (k, "exact", True, None)
    assert_array_max_ulp(found.distances, distances[:, :k].astype(np.float32), maxulp=1)
    for row, (got, want, d) in enumerate(zip(found.indices, indices, distances, strict=True)):
        for column in np.flatnonzero(got != want[:k]):
            near = want[np.isclose(d**2, d[column] ** 2, rtol=SAME_SQUARE, atol=0)]
            copies = x[near] == x[want[column]]
            assert got[column] in near, f"row {row}, neighbour {column}: {got[column]} for {want[column]}"
            assert not copies.all(), f"row {row}: copies {near} out of order: {got}"


@pytest.mark.slow
@pytest.mark.parametrize("n", SIZES)
def test_sizes_about_block_edges(engine: Engine, n: int) -> None:
    x = make_cells(n, 17, n_labels=min(n, 5), n_batches=1, seed=n).x
    check_knn(engine, x, min(15, n - 1))
    check_between(engine, x[: n // 2 + 1], x, min(15, n))


@pytest.mark.slow
@pytest.mark.parametrize("k", [15, 200])
def test_many_blocks(engine_at_scale: Engine, k: int) -> None:
    # More cells than any block holds; the oracle looks at some of them only.
    x = make_cells(20_011, 20, seed=1).x
    some = np.r_[0:5, 10_000:10_005, 20_006:20_011]
    on_device = engine_at_scale.put(x)
    found, between = (
        engine_at_scale.knn(on_device, k),
        engine_at_scale.knn_between(engine_at_scale.put(x[some]), on_device, k),
    )
    d = reference.distances(x[some], x)
    check(between, x, k, *reference.nearest(d, k + 1))
    d[np.arange(len(some)), some] = np.inf
    indices, distances = (engine_at_scale.to_host(table)[some] for table in (found.indices, found.distances))
    rows = Knn(indices, distances, found.method, found.params, found.recall)
    check(rows, x, k, *reference.nearest(d, k + 1))


@pytest.mark.parametrize("d", DIMENSIONS)
def test_dimensions(engine: Engine, d: int) -> None:
    x = make_cells(300, d, seed=d).x
    check_knn(engine, x, 14)
    check_between(engine, x[:77] + np.float32(0.1), x, 14)


@pytest.mark.parametrize("k", [1, 2, 63, 64, 65, 199, 299])
def test_numbers_of_neighbors(engine: Engine, k: int) -> None:
    x = make_cells(300, 6, seed=k).x
    check_knn(engine, x, k)
    check_between(engine, x[:10], x, k + 1)


@pytest.mark.parametrize("m", [1, 2, 255, 257, 1025])
def test_numbers_of_queries(engine: Engine, m: int, rng: np.random.Generator) -> None:
    check_between(engine, rng.normal(size=(m, 5)).astype(np.float32), make_cells(130, 5).x, 9)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_identical_cells_are_ordered_by_index(engine: Engine, value: float) -> None:
    x = engine.put(np.full((300, 4), value, np.float32))
    own = on_host(engine, engine.knn(x, 20))
    assert_array_equal(own.indices[[0, 5, 25]], [[*range(1, 21)], [*range(5), *range(6, 21)], [*range(20)]])
    assert_array_equal(own.distances, 0)
    between = on_host(engine, engine.knn_between(x, x, 20))
    assert_array_equal(between.indices, np.tile(np.arange(20), (300, 1)))
    assert_array_equal(between.distances, 0)


@pytest.mark.parametrize("d", [1, 3, 30])
def test_many_copies(engine: Engine, d: int, rng: np.random.Generator) -> None:
    x = rng.normal(size=(40, d)).astype(np.float32)[rng.integers(0, 40, 800)]
    check_knn(engine, x, 50)
    check_between(engine, x[:100], x, 50)


@pytest.mark.parametrize("k", [5, 70])
def test_ties_on_a_grid_are_ordered_by_index(engine: Engine, k: int, rng: np.random.Generator) -> None:
    # Squares and sums of small integers are exact in float32 already: every tie is a tie, and only the index decides.
    x = rng.permutation(np.stack(np.meshgrid(*[np.arange(9)] * 3), axis=-1).reshape(-1, 3)).astype(np.float32)
    found = knn(engine, x, k)
    assert_array_equal(found.indices, reference.knn(x, k)[0])
    between = knn_between(engine, x, x, k)
    assert_array_equal(between.indices, reference.knn_between(x, x, k)[0])


@pytest.mark.parametrize(("offset", "scale"), [(1e4, 1.0), (-300.0, 1e-2), (0.0, 1e-6), (0.0, 1e6), (1e8, 1e4)])
def test_offset_and_scale(engine: Engine, offset: float, scale: float) -> None:
    x = (make_cells(600, 12, seed=4).x.astype(np.float64) * scale + offset).astype(np.float32)
    check_knn(engine, x, 15)
    check_between(engine, x[:50], x, 15)


@pytest.mark.parametrize("scale", [1e-41, 1e37])
def test_smallest_and_largest_float32_values(scale: float) -> None:
    x = (make_cells(400, 12, seed=4).x.astype(np.float64) * scale).astype(np.float32)
    check_knn(CpuEngine(threads=1), x, 15)


@pytest.mark.parametrize("gap", [1e2, 1e4, 1e6])
def test_distant_clusters_have_the_right_neighbors(engine: Engine, gap: float) -> None:
    cells = make_cells(600, 12, seed=4)
    x = cells.x.astype(np.float64)
    x[:, 0] += gap * cells.label
    check_knn(engine, x.astype(np.float32), 15)
    check_between(engine, x.astype(np.float32)[:50], x.astype(np.float32), 15)


def test_an_outlier_does_not_change_the_neighbors_of_other_cells(engine: Engine) -> None:
    x = make_cells(600, 12, seed=4).x
    x[7] *= 1e6
    check_knn(engine, x, 15)


def test_queries_far_from_the_cells(engine: Engine) -> None:
    x = make_cells(300, 12, seed=4).x
    check_between(engine, x[:50] + np.float32(1e4), x, 15)


def test_input_is_not_modified(engine: Engine, rng: np.random.Generator) -> None:
    x = engine.put(rng.normal(loc=100, size=(200, 5)).astype(np.float32))
    before = engine.to_host(x).copy()
    engine.knn(x, 3)
    engine.knn_between(x, x, 3)
    assert_array_equal(engine.to_host(x), before)


@pytest.mark.parametrize("k", [-1, 0, 10, 11])
def test_knn_needs_k_below_n(engine: Engine, k: int) -> None:
    x = engine.put(make_cells(10, 3).x)
    with pytest.raises(ValueError, match=r"\bk\b"):
        engine.knn(x, k)


@pytest.mark.parametrize("k", [-1, 0, 11])
def test_knn_between_needs_k_up_to_n(engine: Engine, k: int) -> None:
    x = engine.put(make_cells(10, 3).x)
    with pytest.raises(ValueError, match=r"\bk\b"):
        engine.knn_between(x, x, k)


@given(st.data())
def test_any_small_integers(engine: Engine, data: st.DataObject) -> None:
    n, d = data.draw(st.integers(2, 40)), data.draw(st.integers(1, 3))
    x = np.reshape(data.draw(st.lists(st.integers(-3, 3), min_size=n * d, max_size=n * d)), (n, d)).astype(np.float32)
    k = data.draw(st.integers(1, n - 1))
    assert_array_equal(knn(engine, x, k).indices, reference.knn(x, k)[0])


@pytest.mark.slow
def test_an_outlier_does_not_make_the_other_cells_uncertain(
    engine_at_scale: Engine, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounding grows with the distance from the centre, but a far cell is nobody's neighbour."""
    searched_again: list[int] = []
    found = exact_knn.search_rows

    def count(*arguments: Any) -> None:
        searched_again.append(len(arguments[3]))
        found(*arguments)

    monkeypatch.setattr(exact_knn, "search_rows", count)
    x = rng.standard_normal((2000, 20)).astype(np.float32)
    x[7] += 1000
    knn = engine_at_scale.knn(engine_at_scale.put(x), 15)
    assert_array_equal(engine_at_scale.to_host(knn.indices), reference.knn(x, 15)[0])
    assert sum(searched_again) <= 2


@pytest.mark.slow
def test_operands_that_are_not_cached_give_the_same_neighbors(rng: np.random.Generator) -> None:
    """Rows that are searched in float64, among so many cells that one side of the tiles is made again."""
    x = rng.integers(0, 4, (2500, 3)).astype(np.float32)
    rows = np.arange(0, 2500, 7)
    found = []
    for tuning in (CpuTuning(), CpuTuning(operand_bytes=0)):
        out = exact_knn.Neighbors.empty(len(x), 9)
        exact_knn.search_rows(x, x, np.arange(len(x)), rows, out, WorkerThreads(2, Timeline(), tuning))
        found.append((out.indices[rows], out.distances[rows]))
    assert_array_equal(found[0][0], found[1][0])
    assert_array_equal(found[0][1], found[1][1])
    assert_array_equal(found[0][0][:50], reference.knn(x, 9)[0][rows[:50]])


def test_the_centre_of_values_near_the_float32_limit_is_finite() -> None:
    x = np.full((200, 3), 3e38, np.float32)
    x[::3] *= np.float32(0.9)
    center = Scaling(x, x).center
    assert np.isfinite(center).all()
    assert (center <= x.max()).all()

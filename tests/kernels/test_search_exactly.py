"""kernels/search_exactly.cu, followed by kernels/rerank.cu, against the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from kernels.emulator import Sparse
from kernels.test_rerank import next_power_of_two, rerank, some_cells
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from gpubench.engines.cuda.signatures import NO_CANDIDATE


def search_exactly(
    run, queries, x, rows, k, *, same_cells=False, together=1, n_pieces=1, grid=2, block=32
) -> NDArray[np.uint64]:
    candidates = np.zeros((len(rows), n_pieces, k), np.uint64)
    size = next_power_of_two(k + block)
    sizes = len(x), rows, len(rows), int(same_cells), together, n_pieces, k, size
    run((grid,), (block,), queries, x, x.shape[1], *sizes, candidates)
    return candidates


def assert_nearest(candidates, expected) -> None:
    """Compare the ids of the candidates of each row, in the order of the pieces."""
    for row, want in zip(candidates.reshape(len(candidates), -1), expected, strict=True):
        ids = (row[row != NO_CANDIDATE] & np.uint64(0xFFFFFFFF)).astype(int)
        assert_array_equal(ids, want)


def check(run) -> None:
    for n, d, k, rows in [
        (1, 1, 1, [0]),
        (40, 9, 40, [2, 0]),
        (131, 3, 7, [4, 4, 1]),
        (40, 2, 5, [0, 1, 2, 3, 4, 1, 3]),
    ]:
        queries, x = some_cells(5, d, seed=1), some_cells(n, d)
        expected, _ = reference.knn_between(queries[rows], x, k)
        for grid, block, together in [(1, 32, 1), (4, 64, 2), (1, 32, 4), (2, 64, 3)]:
            given = {"together": together, "grid": grid, "block": block}
            found = search_exactly(run, queries, x, np.array(rows, np.int32), k, **given)
            assert_nearest(found, expected)
    check_same_cells(run)
    check_pieces(run)


def check_same_cells(run) -> None:
    x = some_cells(60, 2)
    rows = np.array([0, 7, 59], np.int32)
    expected, _ = reference.knn(x, 9)
    for together in (1, 2):
        assert_nearest(search_exactly(run, x, x, rows, 9, same_cells=True, together=together), expected[rows])
    everybody, _ = reference.knn_between(x, x, 9)
    assert_nearest(search_exactly(run, x, x, rows, 9), everybody[rows])


def check_pieces(run) -> None:
    x, n_pieces, k = some_cells(50, 3), 4, 20
    for together in (1, 2, 4):
        found = search_exactly(run, x, x, np.arange(3, dtype=np.int32), k, together=together, n_pieces=n_pieces)
        check_each_piece(found, x)


def check_each_piece(found, x) -> None:
    for piece, start in enumerate(range(0, 50, 13)):
        inside = np.arange(start, min(start + 13, 50))
        nearest, _ = reference.knn_between(x[:3], x[inside], len(inside))
        assert_nearest(found[:, piece], inside[nearest])
        assert (found[:, piece, len(inside) :] == NO_CANDIDATE).all()


def check_far(run) -> None:
    """A query that begins beyond 2^31 values."""
    m, d = 17_000, 2**17
    queries = Sparse((m, d), np.dtype(np.float32), {m - 1: np.ones(d, np.float32)})
    x = np.repeat(np.float32([[3], [2]]), d, axis=1)
    candidates = np.zeros((1, 1, 2), np.uint64)
    sizes = np.int32(d), np.int64(2), np.array([m - 1], np.int32), np.int64(1), np.int32(0), np.int32(1), np.int32(1)
    run((1,), (32,), queries, x, *sizes, np.int32(2), np.int32(64), candidates)
    assert_nearest(candidates, [[1, 0]])


def test_rows_beyond_32_bits_equal_the_oracle(emulate) -> None:
    check_far(emulate("search_exactly"))


def test_nearest_cells_equal_the_oracle(kernel_on) -> None:
    check(kernel_on("search_exactly"))


@pytest.mark.parametrize("n_pieces", [1, 3, 40])
@pytest.mark.parametrize("n", [30, 63, 64, 65, 127, 129])
def test_search_and_rerank_equal_the_oracle(kernel_on, n, n_pieces) -> None:
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n, 6)).astype(np.float32)
    rows = np.array([3, 0, n - 1], np.int32)
    found = search_exactly(kernel_on("search_exactly"), x, x, rows, 8, same_cells=True, n_pieces=n_pieces)
    merged = rerank(kernel_on("rerank"), x[rows], x, found.reshape(3, -1), 8)
    expected, exact = reference.knn(x, 8)
    assert_array_equal(merged[0], expected[rows])
    assert_array_equal(merged[1], exact[rows].astype(np.float32))
    assert not merged[2].any()


def test_cells_sorted_by_decreasing_distance_equal_the_oracle(kernel_on) -> None:
    x = np.arange(500, 0, -1, dtype=np.float32)[:, None]
    found = search_exactly(kernel_on("search_exactly"), np.zeros((1, 1), np.float32), x, np.zeros(1, np.int32), 31)
    assert_nearest(found, [np.arange(499, 468, -1)])


def test_copies_are_ordered_by_index(kernel_on) -> None:
    x = np.ones((300, 3), np.float32)
    found = search_exactly(kernel_on("search_exactly"), x, x, np.array([5], np.int32), 20, same_cells=True)
    assert_nearest(found, [[*range(5), *range(6, 21)]])


@given(st.integers(2, 150), st.integers(1, 9), st.integers(1, 30), st.integers(1, 4), st.integers(0, 9))
def test_random_cells_equal_the_oracle(kernel_on, n, d, k, n_pieces, seed) -> None:
    x, k = some_cells(n, d, seed), min(k, n - 1)
    rows = np.arange(seed, seed + 1 + seed % 6, dtype=np.int32) % n
    more = {"together": 1 + seed % 4, "n_pieces": n_pieces}
    found = search_exactly(kernel_on("search_exactly"), x, x, rows, k, same_cells=True, **more)
    merged = rerank(kernel_on("rerank"), x[rows], x, found.reshape(len(rows), -1), k)
    assert_array_equal(merged[0], reference.knn(x, k)[0][rows])

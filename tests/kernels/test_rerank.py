"""kernels/rerank.cu: the oracle's neighbours from candidates that include them, and uncertain rows are flagged."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from kernels.emulator import Sparse
from kernels.test_topk_update import candidates_of
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from gpubench.engines.cuda.signatures import NO_CANDIDATE


def next_power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


def rerank(
    run,
    queries,
    x,
    candidates,
    k,
    *,
    counts=None,
    limits=None,
    offsets=None,
    inverse_square_scale=1.0,
    grid=2,
    block=64,
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.bool_]]:
    m, d = queries.shape
    counts = np.full(m, candidates.shape[1], np.int32) if counts is None else counts
    limits = np.full(m, NO_CANDIDATE) if limits is None else limits
    offsets = np.zeros(m) if offsets is None else offsets
    indices, distances = np.full((m, k), -9, np.int32), np.full((m, k), np.nan, np.float32)
    uncertain = np.full(m, 9, np.uint8)
    size = next_power_of_two(int(counts.max()))
    given = candidates, candidates.shape[1], counts, limits, offsets, inverse_square_scale, k, size
    run((grid,), (block,), queries, x, d, m, *given, indices, distances, uncertain)
    assert set(np.unique(uncertain)) <= {0, 1}
    return indices, distances, uncertain.astype(bool)


def some_cells(n: int, d: int, seed: int = 0) -> NDArray[np.float32]:
    """Whole coordinates with many equal distances, of which float64 sums are exact."""
    return np.random.default_rng(seed).integers(-3, 4, (n, d)).astype(np.float32)


def all_candidates(m: int, n: int, seed: int = 0) -> NDArray[np.uint64]:
    """Every cell is a candidate of every query, in random order and with random keys."""
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.permutation(n) for _ in range(m)])
    return candidates_of(rng.normal(size=(m, n)).astype(np.float32), ids)


def assert_neighbors(indices, distances, queries, x) -> None:
    expected, exact = reference.knn_between(queries, x, indices.shape[1])
    assert_array_equal(indices, expected)
    assert_array_equal(distances, exact.astype(np.float32))


def check(run) -> None:
    for m, n, d, k in [(1, 1, 1, 1), (3, 20, 7, 20), (5, 33, 8, 15), (2, 64, 19, 3), (2, 130, 2, 100)]:
        queries, x = some_cells(m, d, seed=1), some_cells(n, d)
        for grid, block in [(1, 32), (2, 96)]:
            found = rerank(run, queries, x, all_candidates(m, n), k, grid=grid, block=block)
            assert_neighbors(*found[:2], queries, x)
            assert not found[2].any()
    check_precision(run)
    check_uncertain(run)
    check_too_few(run)


def check_precision(run) -> None:
    """The cells' distances differ in float64 only."""
    x, queries = np.float32([[0.3], [0.4]]), np.float32([[2**24]])
    assert_array_equal(rerank(run, queries, x, all_candidates(1, 2), 2)[0], [[1, 0]])


def check_uncertain(run) -> None:
    """Cells 0, 1, ... are on a line; those from 6 on are no candidates, and their keys are not below the limit."""
    x = np.arange(20, dtype=np.float32)[:, None]
    queries = np.zeros((5, 1), np.float32)
    candidates = np.tile(candidates_of(np.zeros(6, np.float32), np.arange(6)), (5, 1))
    # the lower bound of the square of other distances: above, at, and below the square of the 4th neighbour, 9
    keys, offsets = np.float32([12, 12, 12, 12, -4]), np.array([0.5, 0.0, -0.01, -2.0, 20.0])
    limits = candidates_of(keys, np.full(5, 5))
    limits[0] = NO_CANDIDATE
    found = rerank(run, queries, x, candidates, 4, limits=limits, offsets=offsets, inverse_square_scale=0.75)
    assert_array_equal(found[0], np.tile(np.arange(4), (5, 1)))
    assert_array_equal(found[2], [False, True, True, True, False])


def check_too_few(run) -> None:
    """Rows with fewer than k candidates are uncertain; entries beyond the count and empty ones are ignored."""
    x, queries = some_cells(9, 3), some_cells(3, 3, seed=1)
    candidates = all_candidates(3, 9)
    candidates[1, :5] = NO_CANDIDATE
    counts = np.int32([9, 9, 3])
    indices, distances, uncertain = rerank(run, queries, x, candidates, 6, counts=counts)
    assert_array_equal(uncertain, [False, True, True])
    assert_array_equal((indices >= 0).sum(axis=1), [6, 4, 3])
    assert_array_equal(indices[1, 4:], -1)
    assert np.isposinf(distances[indices < 0]).all()
    expected = np.sort((candidates[2, :3] & np.uint64(0xFFFFFFFF)).astype(int))
    assert_array_equal(np.sort(indices[2, :3]), expected)


def check_far(run) -> None:
    """Cells and queries that begin beyond 2^31 values."""
    n, d = 540_000, 4_000
    rows = {row: np.full(d, row % 7, np.float32) for row in (0, 5, n - 2, n - 1)}
    x = Sparse((n, d), np.dtype(np.float32), rows)
    candidates = candidates_of(np.zeros(3, np.float32), np.array([n - 2, 5, n - 1]))[None]
    indices, distances, uncertain = np.zeros((1, 3), np.int32), np.zeros((1, 3), np.float32), np.zeros(1, np.uint8)
    sizes = np.int32(3), np.full(1, 3, np.int32), np.full(1, NO_CANDIDATE), np.zeros(1), np.float64(1)
    out = np.int32(3), np.int32(4), indices, distances, uncertain
    run((1,), (32,), x, x, np.int32(d), np.int64(1), candidates, *sizes, *out)
    near = sorted((abs(row % 7), row) for row in (5, n - 2, n - 1))
    assert_array_equal(indices[0], [row for _, row in near])
    assert_array_equal(distances[0], np.float32([value * np.sqrt(d) for value, _ in near]))


def test_neighbors_equal_the_oracle(kernel_on) -> None:
    check(kernel_on("rerank"))


def test_rows_beyond_32_bits_equal_the_oracle(emulate) -> None:
    check_far(emulate("rerank"))


@pytest.mark.parametrize("n", [2, 31, 32, 33, 63, 64, 65, 127, 128, 129])
def test_sizes_at_powers_of_two_equal_the_oracle(kernel_on, n) -> None:
    queries, x = some_cells(3, 5, seed=n), some_cells(n, 5)
    found = rerank(kernel_on("rerank"), queries, x, all_candidates(3, n, seed=n), n)
    assert_neighbors(*found[:2], queries, x)


@pytest.mark.parametrize("d", [1, 7, 8, 9, 31, 33, 513])
def test_any_dimension_equals_the_oracle(kernel_on, d) -> None:
    rng = np.random.default_rng(d)
    queries, x = (rng.normal(3, 1, (m, d)).astype(np.float32) for m in (3, 40))
    found = rerank(kernel_on("rerank"), queries, x, all_candidates(3, 40), 12)
    assert_neighbors(*found[:2], queries, x)


def test_copies_are_ordered_by_index(kernel_on) -> None:
    x = np.full((40, 9), 0.1, np.float32)
    found = rerank(kernel_on("rerank"), x[:2] + np.float32(0.3), x, all_candidates(2, 40), 25)
    assert_array_equal(found[0], np.tile(np.arange(25), (2, 1)))


@given(st.integers(1, 4), st.integers(1, 70), st.integers(1, 12), st.integers(0, 9))
def test_random_candidates_equal_the_oracle(kernel_on, m, n, d, seed) -> None:
    queries, x = some_cells(m, d, seed), some_cells(n, d, seed + 1)
    found = rerank(kernel_on("rerank"), queries, x, all_candidates(m, n, seed), 1 + seed * (n - 1) // 9)
    assert_neighbors(*found[:2], queries, x)

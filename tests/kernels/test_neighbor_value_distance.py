"""kernels/neighbor_value_distance.cu against the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from kernels.emulator import Sparse
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

# A sum of at most some hundred float64 values.
TOLERANCE = 1e-13


def neighbor_value_distance(run, indices, values, k_per_cell, own=None, *, grid=2, block=64) -> NDArray[np.float64]:
    own = values if own is None else own
    out = np.full(len(own), np.nan)
    run((grid,), (block,), indices, indices.strides[0] // 4, own, values, k_per_cell, len(own), out)
    return out


def cells(n: int, k: int, seed: int = 0) -> tuple[NDArray[np.int32], NDArray[np.float64], NDArray[np.int32]]:
    rng = np.random.default_rng(seed)
    indices = rng.integers(0, n, (n, k)).astype(np.int32)
    return indices, rng.normal(size=n), rng.integers(1, k + 1, n).astype(np.int32)


def check(run) -> None:
    for n, k in [(1, 1), (3, 7), (31, 8), (32, 9), (33, 15), (129, 50)]:
        indices, values, k_per_cell = cells(n, k)
        expected = reference.neighbor_value_distance(indices, values, k_per_cell)
        one_launch = neighbor_value_distance(run, indices, values, k_per_cell)
        assert_allclose(one_launch, expected, rtol=TOLERANCE)
        for grid, block in [(1, 32), (5, 96)]:
            found = neighbor_value_distance(run, indices, values, k_per_cell, grid=grid, block=block)
            assert_array_equal(found, one_launch)
        some = np.arange(n)[::-3]
        found = neighbor_value_distance(run, indices[some], values, k_per_cell[some], values[some])
        assert_array_equal(found, one_launch[some])


def check_far(run) -> None:
    """Rows of a graph that begin beyond 2^31 neighbours."""
    indices, values, k_per_cell = cells(3, 20)
    far = Sparse((3, 2**30 + 8), np.dtype(np.int32), dict(enumerate(indices)))
    out = np.full(3, np.nan)
    run((1,), (32,), far, np.int64(2**30 + 8), values, values, k_per_cell, np.int64(3), out)
    assert_allclose(out, reference.neighbor_value_distance(indices, values, k_per_cell), rtol=TOLERANCE)


def test_distance_equals_the_oracle(kernel_on) -> None:
    check(kernel_on("neighbor_value_distance"))


def test_rows_beyond_32_bits_equal_the_oracle(emulate) -> None:
    check_far(emulate("neighbor_value_distance"))


@pytest.mark.parametrize("k", [1, 7, 8, 9, 16, 17])
def test_head_of_a_larger_graph_equals_the_oracle(kernel_on, k) -> None:
    indices, values, _ = cells(70, 40)
    counts = np.full(70, k, np.int32)
    found = neighbor_value_distance(kernel_on("neighbor_value_distance"), indices[:, :k], values, counts)
    assert_allclose(found, reference.neighbor_value_distance(indices[:, :k], values), rtol=TOLERANCE)


@given(st.integers(1, 70), st.integers(1, 40), st.integers(0, 9))
def test_random_neighborhoods_equal_the_oracle(kernel_on, n, k, seed) -> None:
    indices, values, k_per_cell = cells(n, k, seed)
    found = neighbor_value_distance(kernel_on("neighbor_value_distance"), indices, values, k_per_cell)
    assert_allclose(found, reference.neighbor_value_distance(indices, values, k_per_cell), rtol=TOLERANCE)

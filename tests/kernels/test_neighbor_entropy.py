"""kernels/neighbor_entropy.cu against the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from kernels.emulator import Sparse
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

# c log c and its sum in float64, over at most some hundred cells.
TOLERANCE = 1e-13


def count_log_count(k: int) -> NDArray[np.float64]:
    counts = np.arange(k + 2.0)
    return counts * np.log(np.maximum(counts, 1))


def neighbor_entropy(run, indices, codes, own=None, *, bins=32, grid=2, block=64) -> NDArray[np.float64]:
    m, k = indices.shape
    entropy = np.full(m, np.nan)
    rest = codes, m, k, int(codes.max()) + 1, bins, count_log_count(k), entropy
    arguments = indices, indices.strides[0] // 4, codes if own is None else own, *rest
    run((grid,), (block,), *arguments)
    return entropy


def cells(n: int, k: int, n_codes: int, seed: int = 0) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    rng = np.random.default_rng(seed)
    indices = rng.integers(0, n, (n, k)).astype(np.int32)
    return indices, rng.integers(0, n_codes, n).astype(np.int32)


def check(run) -> None:
    for n, k, n_codes in [(1, 1, 1), (67, 14, 2), (40, 33, 3), (40, 64, 70), (33, 31, 200)]:
        indices, codes = cells(n, k, n_codes)
        expected = reference.neighbor_entropy(indices, codes)
        one_launch = neighbor_entropy(run, indices, codes)
        assert_allclose(one_launch, expected, atol=TOLERANCE)
        for grid, block, bins in [(1, 32, 64), (3, 96, 256)]:
            assert_array_equal(neighbor_entropy(run, indices, codes, grid=grid, block=block, bins=bins), one_launch)
        some = np.arange(n)[::-3]
        assert_array_equal(neighbor_entropy(run, indices[some], codes, codes[some]), one_launch[some])


def check_far(run) -> None:
    """Rows of a graph that begin beyond 2^31 neighbours."""
    indices, codes = cells(3, 20, 3)
    far = Sparse((3, 2**30 + 8), np.dtype(np.int32), dict(enumerate(indices)))
    entropy = np.full(3, np.nan)
    sizes = np.int64(3), np.int32(20), np.int32(3), np.int32(32)
    run((1,), (32,), far, np.int64(2**30 + 8), codes, codes, *sizes, count_log_count(20), entropy)
    assert_allclose(entropy, reference.neighbor_entropy(indices, codes), atol=TOLERANCE)


def test_entropy_equals_the_oracle(kernel_on) -> None:
    check(kernel_on("neighbor_entropy"))


def test_rows_beyond_32_bits_equal_the_oracle(emulate) -> None:
    check_far(emulate("neighbor_entropy"))


@pytest.mark.parametrize("n_codes", [1, 31, 32, 33, 63, 64, 65, 1000])
def test_any_number_of_batches_equals_the_oracle(kernel_on, n_codes) -> None:
    indices, codes = cells(50, 40, n_codes, seed=n_codes)
    found = neighbor_entropy(kernel_on("neighbor_entropy"), indices, codes)
    assert_allclose(found, reference.neighbor_entropy(indices, codes), atol=TOLERANCE)


def test_head_of_a_larger_graph_has_the_bits_of_a_copy(kernel_on) -> None:
    run = kernel_on("neighbor_entropy")
    indices, codes = cells(50, 40, 5)
    found = neighbor_entropy(run, indices[:, :13], codes)
    assert_array_equal(found, neighbor_entropy(run, np.ascontiguousarray(indices[:, :13]), codes))


@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 90), st.integers(0, 9))
def test_random_neighborhoods_equal_the_oracle(kernel_on, n, k, n_codes, seed) -> None:
    indices, codes = cells(n, k, n_codes, seed)
    found = neighbor_entropy(kernel_on("neighbor_entropy"), indices, codes)
    assert_allclose(found, reference.neighbor_entropy(indices, codes), atol=TOLERANCE)

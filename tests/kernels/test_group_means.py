"""kernels/group_means.cu against the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from kernels.emulator import Sparse
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray


def group_means(run, x, codes, n_groups, *, grid=3) -> NDArray[np.float64]:
    order = np.argsort(codes, kind="stable").astype(np.int32)
    starts = np.searchsorted(codes[order], np.arange(n_groups + 1))
    means = np.zeros((n_groups, x.shape[1]))
    run((grid,), (256,), x, order, starts, n_groups, x.shape[1], means)
    return means


def check(run) -> None:
    rng = np.random.default_rng(0)
    for n, d, n_groups in [(1, 1, 2), (100, 33, 3), (50, 64, 4), (77, 7, 5)]:
        # whole numbers, whose sums are exact, far from zero: a row too much or too few is seen
        x = rng.integers(1000, 2000, (n, d)).astype(np.float32)
        codes = rng.integers(0, n_groups - 1, n).astype(np.int32)  # the last group is empty
        for grid in (1, 3):
            assert_array_equal(
                group_means(run, x, codes, n_groups, grid=grid), reference.group_means(x, codes, n_groups)
            )


def check_far(run) -> None:
    """A row that begins beyond 2^31 values."""
    n, d = 540_000, 4_000
    rows = {row: np.full(d, row, np.float32) for row in (1, n - 1)}
    order, starts = np.array([n - 1, 1], np.int32), np.array([0, 1, 2], np.int64)
    means = np.zeros((2, d))
    run(
        (1,),
        (256,),
        Sparse((n, d), np.dtype(np.float32), rows),
        order,
        starts,
        np.int32(2),
        np.int32(d),
        means,
    )
    assert_array_equal(means, np.repeat([[n - 1.0], [1.0]], d, axis=1))


def test_means_equal_the_oracle(kernel_on) -> None:
    check(kernel_on("group_means"))


def test_rows_beyond_32_bits_equal_the_oracle(emulate) -> None:
    check_far(emulate("group_means"))


@pytest.mark.parametrize("n", [7, 8, 9, 255, 256, 257])
@pytest.mark.parametrize("d", [1, 31, 32, 33, 65])
def test_sizes_at_block_edges_equal_the_oracle(kernel_on, n, d) -> None:
    rng = np.random.default_rng(n)
    x, codes = rng.normal(1e3, 1, (n, d)).astype(np.float32), rng.integers(0, 3, n).astype(np.int32)
    found = group_means(kernel_on("group_means"), x, codes, 4)
    assert_allclose(found, reference.group_means(x, codes, 4), rtol=1e-14)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 4))
def test_random_groups_equal_the_oracle(kernel_on, codes, grid) -> None:
    x = np.arange(3 * len(codes), dtype=np.float32).reshape(-1, 3)
    found = group_means(kernel_on("group_means"), x, np.array(codes, np.int32), 4, grid=grid)
    assert_allclose(found, reference.group_means(x, codes, 4), rtol=1e-14)

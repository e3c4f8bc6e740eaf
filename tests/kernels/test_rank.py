"""kernels/rank.cu against the oracle; ranks are exact."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.testing import assert_array_equal
from numpy.typing import NDArray


def rank(run, values: NDArray[np.float64], *, grid=(2, 2), block=64) -> NDArray[np.float64]:
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    ranks = np.full(values.shape, np.nan)
    run(grid, (block,), ordered, order, *values.shape, ranks)
    return ranks


def oracle(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([reference.average_ranks(row) for row in values])


def check(run) -> None:
    rng = np.random.default_rng(0)
    for n, n_distinct in [(1, 1), (2, 1), (2, 2), (97, 5), (300, 2), (300, 1), (130, 1000)]:
        values = rng.integers(0, n_distinct, (3, n)).astype(np.float64)
        for grid, block in [((1, 1), 32), ((3, 2), 64)]:
            assert_array_equal(rank(run, values, grid=grid, block=block), oracle(values))


def test_ranks_equal_the_oracle(kernel_on) -> None:
    check(kernel_on("rank"))


@pytest.mark.parametrize("n", [31, 32, 33, 63, 64, 65, 128, 129])
def test_ties_of_every_length_equal_the_oracle(kernel_on, n) -> None:
    values = np.stack([np.minimum(np.arange(n), n - run) for run in range(1, n + 1)]).astype(np.float64)
    assert_array_equal(rank(kernel_on("rank"), values), oracle(values))


@given(arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.floats(-2, 2)))
def test_random_values_equal_the_oracle(kernel_on, values) -> None:
    assert_array_equal(rank(kernel_on("rank"), values), oracle(values))

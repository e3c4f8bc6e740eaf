"""kernels/rank_sums.cu against the oracle; all sums are integers."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_array_equal


def rank_sums(run, values, groups, n_groups, control, *, grid=2, block=64):
    """U and ties (n_groups, n_genes), as the engine completes what the kernel writes."""
    n_genes = values.shape[1]
    cells, genes = np.nonzero(values)
    segments = genes * n_groups + groups[cells]
    order = np.lexsort((values[cells, genes], segments))
    starts = np.searchsorted(segments[order], np.arange(n_genes * n_groups + 1))
    sizes = np.bincount(groups, minlength=n_groups)
    u, ties = np.full(n_genes * n_groups, np.nan), np.full(n_genes * n_groups, -1)
    stored = values[cells, genes][order].astype(np.float64)
    run((grid,), (block,), stored, starts, sizes, n_genes * n_groups, n_groups, control, u, ties)
    u, ties = u.reshape(n_genes, n_groups).T.copy(), ties.reshape(n_genes, n_groups).T.copy()
    assert_array_equal(u[control], 0)
    u[control] = sizes[control] ** 2 / 2
    ties[np.arange(n_groups) != control] += ties[control]
    return u, ties


def compare(run, values, groups, n_groups, control, **launch) -> None:
    u, ties = rank_sums(run, values, groups, n_groups, control, **launch)
    expected_u, expected_ties = reference.rank_sums(values, groups, n_groups, control)
    assert_array_equal(u, expected_u)
    assert_array_equal(ties, expected_ties)


def check(run) -> None:
    rng = np.random.default_rng(0)
    for n, n_distinct in [(1, 3), (40, 3), (120, 5), (90, 1000)]:
        values = (rng.integers(0, n_distinct, (n, 3)) - n_distinct // 3) * (rng.random((n, 3)) < 0.8) / 4
        values[:, 2] = np.abs(values[:, 2])
        groups = rng.integers(0, 3, n)
        for control, grid, block in [(0, 1, 32), (2, 3, 64)]:
            compare(run, values, groups, 4, control, grid=grid, block=block)  # group 3 is empty


def test_sums_equal_the_oracle(kernel_on) -> None:
    check(kernel_on("rank_sums"))


@pytest.mark.parametrize("n", [31, 32, 33, 63, 64, 65])
def test_segments_at_the_edges_of_warps_equal_the_oracle(kernel_on, n) -> None:
    rng = np.random.default_rng(n)
    values = np.concatenate([rng.integers(1, 9, (n, 2)), rng.integers(0, 9, (n, 2))]).astype(np.float64)
    compare(kernel_on("rank_sums"), values, np.repeat([0, 1], n), 2, 1)


def test_all_zeros_and_all_equal_values_are_one_run(kernel_on) -> None:
    values = np.repeat([[0.0, 2.5, -2.5]], 50, axis=0)
    compare(kernel_on("rank_sums"), values, np.arange(50) % 3, 3, 0)


numbers = st.sampled_from([-1e300, -1.0, -5e-324, 0.0, 5e-324, 1.0, 1.0 + 2**-52, 1e300])


@given(arrays(np.float64, (12, 2), elements=numbers), arrays(np.int64, 12, elements=st.integers(0, 2)))
def test_any_values_equal_the_oracle(kernel_on, values, groups) -> None:
    compare(kernel_on("rank_sums"), values, groups, 3, 1)

"""kernels/contingency.cu against the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from kernels.emulator import Sparse
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from gpubench.engines.cuda.kernels import MAX_SHARED_BYTES


def contingency(run, rows, columns, n_rows, n_columns, *, in_shared=True, grid=3, block=64) -> NDArray[np.int64]:
    counts = np.zeros((n_rows, n_columns), np.int64)
    shared = 4 * n_rows * n_columns * in_shared
    run((grid,), (block,), rows, columns, len(rows), n_rows, n_columns, int(in_shared), counts, shared=shared)
    return counts


def check(run) -> None:
    rng = np.random.default_rng(0)
    for n, n_rows, n_columns in [(1, 1, 1), (127, 3, 5), (1000, 40, 7)]:
        rows, columns = (rng.integers(0, n_codes, n).astype(np.int32) for n_codes in (n_rows, n_columns))
        expected = reference.contingency(rows, columns, n_rows, n_columns)
        for in_shared in (False, True):
            for grid, block in [(1, 32), (2, 64), (5, 96)]:
                found = contingency(run, rows, columns, n_rows, n_columns, in_shared=in_shared, grid=grid, block=block)
                assert_array_equal(found, expected)


def check_far(run) -> None:
    """More than 2^31 pairs."""
    codes = np.array([0, 46_999, 46_999], np.int32)
    counts = Sparse((47_000, 47_000), np.dtype(np.int64), {r: np.zeros(47_000, np.int64) for r in (0, 46_999)})
    sizes = np.int64(3), np.int32(47_000), np.int32(47_000), np.int32(0)
    run((1,), (32,), codes, codes, *sizes, counts)
    assert (counts.rows[0][0], counts.rows[46_999][46_999]) == (1, 2)


def test_counts(kernel_on) -> None:
    check(kernel_on("contingency"))


def test_more_pairs_than_32_bits(emulate) -> None:
    check_far(emulate("contingency"))


def test_a_table_that_just_fits_and_one_that_does_not(kernel_on) -> None:
    run = kernel_on("contingency")
    codes = np.arange(500, dtype=np.int32) % 96
    expected = reference.contingency(codes, codes, 96, 128)
    assert 4 * expected.size == MAX_SHARED_BYTES
    assert_array_equal(contingency(run, codes, codes, 96, 128), expected)
    with pytest.raises(ValueError, match="49664 bytes of shared memory"):
        contingency(run, codes, codes, 97, 128)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), min_size=1, max_size=200), st.booleans())
def test_any_codes(kernel_on, pairs, in_shared) -> None:
    rows, columns = np.array(pairs, np.int32).T.copy()
    found = contingency(kernel_on("contingency"), rows, columns, 5, 3, in_shared=in_shared)
    assert_array_equal(found, reference.contingency(rows, columns, 5, 3))

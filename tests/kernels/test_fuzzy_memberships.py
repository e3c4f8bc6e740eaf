"""kernels/fuzzy_memberships.cu against the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from kernels.emulator import Sparse
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

# The search for sigma ends when the memberships sum to within 1e-5 of their target; they all move the same way.
TOLERANCE = 2e-5


def fuzzy_memberships(run, distances, *, grid=2, block=64) -> NDArray[np.float64]:
    n, k = distances.shape
    mean = float(distances.sum(dtype=np.float64)) / (n * (k + 1))
    memberships = np.full((n, k), np.nan)
    run((grid,), (block,), distances, distances.strides[0] // 4, n, k, mean, memberships)
    return memberships


def rows_of_distances(n: int, k: int, seed: int = 0, *, zeros: int = 0, scale: float = 1.0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    distances = scale * (1 + rng.gamma(2, size=(n, k)))
    distances[rng.random((n, k)) < zeros / k] = 0
    return np.sort(distances, axis=1).astype(np.float32)


def assert_right(memberships, distances) -> None:
    """Compare with the oracle, which knows whole graphs only: cell i here has the cells n + i k + j as neighbours."""
    n, k = distances.shape
    others = np.tile(distances[:1], (n * k, 1))
    both = np.concatenate([distances, others])
    # the neighbours look at one another, so that no edge from the first n has a reverse
    indices = np.concatenate([n + np.arange(n * k).reshape(n, k), n + np.tile(np.arange(k), (n * k, 1))])
    # the mean over the whole graph matters to rows without a positive distance only, where every membership is 1
    expected = reference.fuzzy_graph(indices, both)[np.arange(n)[:, None], indices[:n]]
    assert_allclose(memberships, expected, atol=TOLERANCE)


def check(run) -> None:
    for n, k, zeros in [(1, 1, 0), (5, 2, 1), (9, 7, 0), (12, 9, 4), (4, 14, 0), (3, 40, 10)]:
        distances = rows_of_distances(n, k, zeros=zeros)
        one_launch = fuzzy_memberships(run, distances)
        assert_right(one_launch, distances)
        for grid, block in [(1, 32), (4, 96)]:
            assert_array_equal(fuzzy_memberships(run, distances, grid=grid, block=block), one_launch)
    check_floor(run)


def check_floor(run) -> None:
    """All but one equally far: the sum is above its target for any sigma, which falls to its floor."""
    distances = np.array([[3, 3, 3, 3, 3, 3.001]], np.float32)
    found = fuzzy_memberships(run, distances)
    assert_right(found, distances)
    assert 0.6 < found[0, -1] < 0.7


def check_far(run) -> None:
    """Rows of a graph that begin beyond 2^31 neighbours."""
    distances = rows_of_distances(3, 14)
    far = Sparse((3, 2**30 + 8), np.dtype(np.float32), dict(enumerate(distances)))
    memberships = np.full((3, 14), np.nan)
    run((1,), (32,), far, np.int64(2**30 + 8), np.int64(3), np.int32(14), np.float64(1.0), memberships)
    assert_right(memberships, distances)


@pytest.mark.slow
def test_memberships_equal_the_oracle(kernel_on) -> None:
    check(kernel_on("fuzzy_memberships"))


def test_rows_beyond_32_bits_equal_the_oracle(emulate) -> None:
    check_far(emulate("fuzzy_memberships"))


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
def test_memberships_at_any_scale_equal_the_oracle(kernel_on, scale) -> None:
    distances = rows_of_distances(8, 14, scale=scale)
    assert_right(fuzzy_memberships(kernel_on("fuzzy_memberships"), distances), distances)


def test_copies_and_equal_distances_equal_the_oracle(kernel_on) -> None:
    # only copies; copies and one other; all equally far
    distances = np.array([[0] * 6, [0] * 5 + [2], [3] * 6], np.float32)
    found = fuzzy_memberships(kernel_on("fuzzy_memberships"), distances)
    assert_right(found, distances)
    assert_array_equal(found[[0, 2]], 1.0)


@given(st.integers(1, 6), st.integers(1, 12), st.integers(0, 3), st.integers(0, 9))
def test_random_distances_equal_the_oracle(kernel_on, n, k, zeros, seed) -> None:
    distances = rows_of_distances(n, k, seed, zeros=zeros)
    assert_right(fuzzy_memberships(kernel_on("fuzzy_memberships"), distances), distances)

"""kernels/symmetrise.cu against w + w' - w w' of dense matrices, and with fuzzy_memberships against the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from kernels.emulator import Sparse
from kernels.test_fuzzy_memberships import TOLERANCE, fuzzy_memberships
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray


def symmetrise(run, indices, memberships, *, grid=2, block=64) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    joined, lone = np.full(indices.shape, np.nan), np.full(indices.shape, 9, np.uint8)
    run((grid,), (block,), indices, indices.strides[0] // 4, memberships, *indices.shape, joined, lone)
    assert set(np.unique(lone)) <= {0, 1}
    return joined, lone.astype(bool)


def graph(n: int, k: int, seed: int = 0) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """k different neighbours of each cell, never itself."""
    rng = np.random.default_rng(seed)
    indices = np.stack([rng.permutation(n - 1)[:k] for _ in range(n)])
    indices += indices >= np.arange(n)[:, None]
    return indices.astype(np.int32), rng.random((n, k))


def dense(indices, weights) -> NDArray[np.float64]:
    full = np.zeros((len(indices), len(indices)))
    full[np.arange(len(indices))[:, None], indices] = weights
    return full


def assert_right(joined, lone, indices, memberships) -> None:
    w = dense(indices, memberships)
    cells = np.arange(len(indices))[:, None]
    assert_allclose(joined, (w + w.T - w * w.T)[cells, indices], rtol=1e-15)
    assert_array_equal(lone, dense(indices, 1)[indices, cells] == 0)


def check(run) -> None:
    for n, k in [(2, 1), (5, 4), (33, 3), (60, 14)]:
        indices, memberships = graph(n, k)
        one_launch = symmetrise(run, indices, memberships)
        assert_right(*one_launch, indices, memberships)
        for grid, block in [(1, 32), (7, 96)]:
            assert_array_equal(symmetrise(run, indices, memberships, grid=grid, block=block), one_launch)


def check_far(run) -> None:
    """Rows of a graph that begin beyond 2^31 neighbours."""
    indices, memberships = graph(4, 2, seed=1)
    far = Sparse((4, 2**30 + 8), np.dtype(np.int32), dict(enumerate(indices)))
    joined, lone = np.full((4, 2), np.nan), np.zeros((4, 2), np.uint8)
    run((1,), (32,), far, np.int64(2**30 + 8), memberships, np.int64(4), np.int32(2), joined, lone)
    assert_right(joined, lone.astype(bool), indices, memberships)


def test_weights_equal_dense_matrices(kernel_on) -> None:
    check(kernel_on("symmetrise"))


def test_rows_beyond_32_bits_equal_dense_matrices(emulate) -> None:
    check_far(emulate("symmetrise"))


@pytest.mark.parametrize("k", [1, 5, 14])
def test_graph_of_both_kernels_equals_the_oracle(kernel_on, k) -> None:
    x = np.random.default_rng(k).normal(size=(80, 3))
    indices, distances = reference.knn(x, k)
    distances = distances.astype(np.float32)
    memberships = fuzzy_memberships(kernel_on("fuzzy_memberships"), distances)
    joined, lone = symmetrise(kernel_on("symmetrise"), indices.astype(np.int32), memberships)
    weights = dense(indices, joined)
    weights += dense(indices, joined * lone).T
    assert_array_equal(weights, weights.T)
    assert_allclose(weights, reference.fuzzy_graph(indices, distances), atol=TOLERANCE)


def test_head_of_a_larger_graph_equals_dense_matrices(kernel_on) -> None:
    indices, memberships = graph(50, 20)
    head, weights = indices[:, :6], np.ascontiguousarray(memberships[:, :6])
    assert_right(*symmetrise(kernel_on("symmetrise"), head, weights), head, weights)


@given(st.integers(2, 40), st.integers(1, 12), st.integers(0, 9))
def test_random_graphs_equal_dense_matrices(kernel_on, n, k, seed) -> None:
    indices, memberships = graph(n, min(k, n - 1), seed)
    assert_right(*symmetrise(kernel_on("symmetrise"), indices, memberships), indices, memberships)

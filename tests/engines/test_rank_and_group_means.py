"""`Engine.rank` and `Engine.group_means` against the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from engines.test_rank_sums import FORMATS
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from gpubench.engines.base import Engine

# A few values many times over, so that most ranks are shared; with both zeros, which are equal.
values = st.sampled_from([-1e300, -2.0, -1.0, -0.0, 0.0, 1e-300, 1.0, 2.0, 3.0, 1e300])


@pytest.mark.slow
@given(arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=30), elements=values))
def test_rank_of_any_values(engine: Engine, table: np.ndarray) -> None:
    ranks = engine.to_host(engine.rank(engine.xp.asarray(table)))
    assert ranks.dtype == np.float64
    assert_array_equal(ranks, [reference.average_ranks(row) for row in table])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
@pytest.mark.parametrize("n", [1, 2, 64, 65, 1025])
def test_rank_of_rows(engine: Engine, n: int, dtype: type, rng: np.random.Generator) -> None:
    table = rng.integers(0, 40, (7, n)).astype(dtype)
    ranks = engine.to_host(engine.rank(engine.xp.asarray(table)))
    assert_array_equal(ranks, [reference.average_ranks(row) for row in table])


@pytest.mark.parametrize("d", [1, 3, 64, 513])
@pytest.mark.parametrize("n", [1, 2, 65, 1025])
def test_group_means(engine: Engine, n: int, d: int, rng: np.random.Generator) -> None:
    x = (rng.normal(size=(n, d)) * 10.0 ** rng.integers(-3, 4, d)).astype(np.float32)
    codes = rng.integers(0, 5, n).astype(np.int32)
    means = engine.group_means(engine.put(x), codes, 7)  # 5 and 6 are empty
    assert means.dtype == np.float64
    exact = reference.group_means(x, codes, 7)
    assert_array_equal(np.isnan(means), np.isnan(exact))
    assert_allclose(means, exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", ["csr", "csr 64-bit", "csc", "csc 64-bit", "coo", "unsorted and repeated", "columns"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
def test_group_means_of_matrices_on_the_host(engine: Engine, form: str, dtype: type, rng: np.random.Generator) -> None:
    x = (rng.normal(size=(300, 7)) * 100 * (rng.random((300, 7)) < 0.4)).astype(dtype)
    codes = rng.integers(-1, 5, 300).astype(np.int32)
    means = engine.group_means(FORMATS[form](x), codes, 7)
    exact = reference.group_means(x, codes, 7)
    assert_array_equal(np.isnan(means), np.isnan(exact))
    assert_allclose(means, exact, rtol=1e-12, atol=1e-12)


def test_group_means_of_many_rows_are_the_same_in_any_pieces(engine_at_scale: Engine, rng: np.random.Generator) -> None:
    x = sparse.random_array((20_001, 3), density=0.3, format="csr", rng=rng)
    codes = (rng.random(20_001) < 0.1).astype(np.int32)
    assert_allclose(engine_at_scale.group_means(x, codes, 2), reference.group_means(x.toarray(), codes, 2), rtol=1e-12)


def test_group_means_of_put_cells_leave_rows_out(engine: Engine, rng: np.random.Generator) -> None:
    x, codes = rng.normal(size=(50, 3)).astype(np.float32), rng.integers(-1, 2, 50).astype(np.int32)
    means = engine.group_means(engine.put(x), codes, 2)
    assert_allclose(means, reference.group_means(x, codes, 2), rtol=1e-12, atol=1e-12)


def test_group_means_are_summed_in_float64(engine: Engine) -> None:
    # In float32 the ones would vanish next to 2^25.
    x = np.ones((1001, 2), np.float32)
    x[0] = 2**25
    means = engine.group_means(engine.put(x), np.zeros(1001, np.int32), 1)
    assert_array_equal(means, np.full((1, 2), (2**25 + 1000) / 1001))

"""`Engine.rank_sums` against the oracle and SciPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_array_equal
from scipy import sparse
from scipy.stats import mannwhitneyu

from gpubench.core.errors import InputError
from gpubench.core.types import RankSums
from gpubench.engines.base import Engine
from gpubench.engines.common import rank_sums


def duplicated(x: np.ndarray) -> Any:
    """A CSR matrix whose rows are not sorted, in which each value is the sum of two entries, with zeros stored."""
    rows, columns = np.indices(x.shape)
    half = (x / 2).astype(x.dtype)
    order = np.random.default_rng(1).permutation(2 * x.size)
    data = np.concatenate([half.ravel(), (x - half).ravel()])[order]
    row, column = np.tile(rows.ravel(), 2)[order], np.tile(columns.ravel(), 2)[order]
    by_row = np.argsort(row, kind="stable")
    starts = np.searchsorted(row[by_row], np.arange(len(x) + 1))
    return sparse.csr_matrix((data[by_row], column[by_row], starts), shape=x.shape)


def stored_zeros(x: np.ndarray) -> Any:
    """A CSR matrix that stores every value, zeros too."""
    n, d = x.shape
    return sparse.csr_array((x.ravel().copy(), np.tile(np.arange(d), n), np.arange(0, n * d + 1, d)), shape=x.shape)


FORMATS: dict[str, Callable[[np.ndarray], Any]] = {
    "dense": np.ascontiguousarray,
    "columns": np.asfortranarray,
    "strided": lambda x: np.repeat(np.repeat(x, 2, axis=0), 3, axis=1)[::2, ::3],
    "csr": sparse.csr_matrix,
    "csr 64-bit": lambda x: with_wide_indices(sparse.csr_array(x)),
    "csc": sparse.csc_array,
    "csc 64-bit": lambda x: with_wide_indices(sparse.csc_matrix(x)),
    "coo": sparse.coo_matrix,
    "stored zeros": stored_zeros,
    "unsorted and repeated": duplicated,
    "unsorted and repeated, by column": lambda x: duplicated(x.T.copy()).T,
}


def with_wide_indices(matrix: Any) -> Any:
    matrix.indices, matrix.indptr = matrix.indices.astype(np.int64), matrix.indptr.astype(np.int64)
    return matrix


def make_values(n: int, d: int, dtype: Any, rng: np.random.Generator) -> np.ndarray:
    """Genes of few values, of counts, of values that all differ, and constant ones; of every other half are 0."""
    kinds = [
        lambda: rng.integers(0, 3, n),
        lambda: rng.poisson(2, n) * 10,
        lambda: rng.normal(size=n) * 1000,
        lambda: rng.lognormal(size=n) * 1000,
        lambda: np.zeros(n),
        lambda: np.full(n, 7),
        lambda: rng.integers(-2, 3, n),
    ]
    columns = np.stack([kinds[g % len(kinds)]() * (rng.random(n) < (0.5 if g % 2 else 1.1)) for g in range(d)], axis=1)
    return columns.astype(dtype)


def check(found: RankSums, values: Any, groups: np.ndarray, n_groups: int, control: int) -> None:
    u, ties = reference.rank_sums(values, groups, n_groups, control)
    assert found.u.dtype == np.float64
    assert found.ties.dtype == np.int64
    assert_array_equal(found.u, u)
    assert_array_equal(found.ties, ties)
    assert_array_equal(found.n_cells, [(groups == g).sum() for g in range(n_groups)])
    assert found.control == control


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int16])
@pytest.mark.parametrize("form", FORMATS)
def test_rank_sums_of_every_format_equal_the_oracle(
    engine: Engine, form: str, dtype: type, rng: np.random.Generator
) -> None:
    values, groups = make_values(90, 9, dtype, rng), rng.integers(-1, 5, 90)
    groups[groups == 3] = 0  # group 3 is empty
    check(engine.rank_sums(FORMATS[form](values), groups, 6, 2), values, groups, 6, 2)


@pytest.mark.parametrize("n_genes", [1, 63, 64, 65, 130])
def test_rank_sums_of_genes_at_the_edges_of_blocks_equal_the_oracle(
    engine: Engine, n_genes: int, rng: np.random.Generator
) -> None:
    values, groups = make_values(30, n_genes, np.float32, rng), rng.integers(0, 3, 30)
    check(engine.rank_sums(sparse.csr_matrix(values), groups, 3, 0), values, groups, 3, 0)
    check(engine.rank_sums(values, groups, 3, 0), values, groups, 3, 0)


special = [-1e300, -1e-300, -1.0, -0.0, 0.0, 5e-324, 1.0, 1.0 + 2**-52, 1.0 + 2**-30, 2.0, 1e300]


@pytest.mark.slow
@given(st.data(), st.integers(1, 20), st.integers(1, 4))
def test_rank_sums_of_any_values_equal_the_oracle(engine: Engine, data: Any, n: int, n_groups: int) -> None:
    values = data.draw(arrays(np.float64, (n, 3), elements=st.sampled_from(special)))
    groups = data.draw(arrays(np.int32, n, elements=st.integers(-1, n_groups - 1)))
    control = data.draw(st.integers(0, n_groups - 1))
    check(engine.rank_sums(values, groups, n_groups, control), values, groups, n_groups, control)
    check(engine.rank_sums(sparse.csr_array(values), groups, n_groups, control), values, groups, n_groups, control)


DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "few counts": lambda rng, n: rng.poisson(0.3, n),
    "logs of counts": lambda rng, n: np.log1p(rng.poisson(2, n) * rng.lognormal(0, 0.3, n)),
    "whole numbers": lambda rng, n: rng.integers(-1000, 1000, n),
    "halves of counts": lambda rng, n: rng.poisson(20, n) / 2,
    "close together but one": lambda rng, n: np.where(np.arange(n) == 7, 1e30, 1 + 1e-6 * rng.random(n)),
    "close together but two": lambda rng, n: np.where(np.arange(n) < 2, 1e30, -1e-30 * rng.random(n)),
    "any exponent": lambda rng, n: rng.normal(size=n) * 10.0 ** rng.integers(-38, 38, n),
    "descending": lambda _, n: -np.arange(n) / 3,
    "all equal": lambda _, n: np.full(n, 2.5),
    "all equal but one": lambda _, n: np.where(np.arange(n) == 9, -1e-30, 2.5),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_rank_sums_of_many_values_equal_those_of_numpy(
    engine_at_scale: Engine, name: str, dtype: type, rng: np.random.Generator
) -> None:
    for n in (47, 49, 5000, 40_000):
        values = DISTRIBUTIONS[name](rng, n).astype(dtype)[:, None]
        groups = rng.integers(-1, 7, n)
        cells = rank_sums.group_cells(groups, 7, 3, values.shape)
        expected = rank_sums.rank_sums(values, cells, lambda n_genes, run, _: run(0, n_genes))
        for form in (np.asarray, sparse.csr_array, sparse.csc_array):
            found = engine_at_scale.rank_sums(form(values), groups, 7, 3)
            assert_array_equal(found.u, expected.u)
            assert_array_equal(found.ties, expected.ties)


def test_u_equals_scipy(engine: Engine, rng: np.random.Generator) -> None:
    values, groups = make_values(200, 7, np.float64, rng), rng.integers(0, 4, 200)
    found = engine.rank_sums(sparse.csc_matrix(values), groups, 4, 1)
    for g in (0, 2, 3):
        expected = mannwhitneyu(values[groups == g], values[groups == 1], method="asymptotic").statistic
        assert_array_equal(found.u[g], expected)


def test_values_that_differ_beyond_float32_tie_only_if_asked(engine: Engine) -> None:
    values = np.array([[1.0], [1.0 + 1e-12], [1.0 - 1e-12], [3.0]])
    groups = np.array([0, 1, 1, 1])
    check(engine.rank_sums(values, groups, 2, 0), values, groups, 2, 0)
    rounded = values.astype(np.float32)
    for form in (values, sparse.csr_matrix(values), sparse.csc_matrix(values)):
        check(engine.rank_sums(form, groups, 2, 0, float32_ties=True), rounded, groups, 2, 0)


def test_rank_sums_follow_permuted_cells_genes_and_groups(engine: Engine, rng: np.random.Generator) -> None:
    values, groups = make_values(300, 14, np.float32, rng), rng.integers(-1, 6, 300)
    found = engine.rank_sums(sparse.csr_array(values), groups, 6, 4)
    cells, genes, names = rng.permutation(300), rng.permutation(14), rng.permutation(6)
    renamed = np.where(groups < 0, -1, names[groups])
    other = engine.rank_sums(sparse.csr_array(values[cells][:, genes]), renamed[cells], 6, int(names[4]))
    assert_array_equal(other.u[names], found.u[:, genes])
    assert_array_equal(other.ties[names], found.ties[:, genes])
    assert_array_equal(other.n_cells[names], found.n_cells)


def test_rank_sums_ignore_what_increasing_functions_change(engine: Engine, rng: np.random.Generator) -> None:
    values, groups = make_values(200, 14, np.float64, rng), rng.integers(0, 5, 200)
    found = engine.rank_sums(values, groups, 5, 0)
    shifted = engine.rank_sums(sparse.csr_array(np.cbrt(values) * 5), groups, 5, 0)
    assert_array_equal(shifted.u, found.u)
    assert_array_equal(shifted.ties, found.ties)
    moved = engine.rank_sums(values - 3, groups, 5, 0)  # 0 is no longer the value that most cells have
    assert_array_equal(moved.u, found.u)


@pytest.mark.parametrize("groups", [[0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0], [-1, -1, -1, -1], [0, -1, -1, 2]])
def test_rank_sums_of_one_cell_and_of_empty_groups_equal_the_oracle(engine: Engine, groups: list[int]) -> None:
    values = np.array([[0.0, 1.0, -1.0], [0.0, 1.0, 0.0], [0.0, 1.0, 5.0], [0.0, 1.0, 5.0]])
    check(engine.rank_sums(sparse.csr_matrix(values), np.array(groups), 3, 0), values, np.array(groups), 3, 0)


def test_ties_of_many_equal_cells_are_exact_beyond_float64(engine_at_scale: Engine) -> None:
    n = 400_001  # its cube is 6.4e16: float64 holds every integer up to 9e15
    values = sparse.csr_matrix((np.ones(3, np.float32), [0, 0, 0], np.r_[0, 1, 2, 3, np.full(n - 3, 3)]), shape=(n, 1))
    groups = np.zeros(n, np.int32)
    groups[::4] = 1
    found = engine_at_scale.rank_sums(values, groups, 2, 0)
    assert found.ties[1, 0] == (n - 3) ** 3 - (n - 3) + 3**3 - 3


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_with_their_number(engine: Engine, form: Any, bad: float) -> None:
    values = np.ones((6, 3))
    values[[1, 4, 5], [0, 2, 2]] = bad
    groups = np.array([0, 1, 0, 1, 0, -1])
    with pytest.raises(InputError, match=r"values: 2 of 6 rows hold NaN or infinite values .*\(first: 1, 4\)"):
        engine.rank_sums(form(values), groups, 2, 0)
    values[[1, 4]] = 0  # cells that are left out may hold anything
    check(engine.rank_sums(form(values), groups, 2, 0), values[:5], groups[:5], 2, 0)


def test_values_beyond_float32_are_refused_where_they_are_rounded(engine: Engine) -> None:
    values, groups = np.array([[1.0], [1e300]]), np.array([0, 1])
    check(engine.rank_sums(values, groups, 2, 0), values, groups, 2, 0)
    with pytest.raises(InputError, match="1 of 2 rows hold NaN or infinite values as float32"):
        engine.rank_sums(values, groups, 2, 0, float32_ties=True)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"values": np.ones(3)}, "values has 1 dimensions"),
        ({"values": np.array([["a"], ["b"], ["c"]])}, "values has dtype <U1; give real numbers"),
        ({"values": sparse.csr_matrix(np.ones((3, 1)) * 1j)}, "values has dtype complex128"),
        (
            {"groups": np.array([0, 1])},
            r"groups has shape \(2,\) and dtype int64; give one integer for each of 3 cells",
        ),
        ({"groups": np.array([0.0, 1, 1])}, "dtype float64; give one integer"),
        ({"groups": np.array([0, 2, -2])}, r"groups: 2 of 3 rows are not in \[-1, 2\) \(first: 1, 2\)"),
        ({"control": 2}, "control=2 is not a group from 0 to 1"),
        ({"control": -1}, "control=-1 is not a group"),
    ],
)
def test_arguments_that_cannot_be_ranked_are_refused(engine: Engine, changed: dict[str, Any], message: str) -> None:
    arguments = {"values": np.ones((3, 1)), "groups": np.array([0, 1, 1]), "n_groups": 2, "control": 0} | changed
    with pytest.raises(InputError, match=message):
        engine.rank_sums(**arguments)


def test_more_cells_than_64_bits_can_count_are_refused(engine_at_scale: Engine) -> None:
    n = 2_097_152
    values, groups = sparse.csr_matrix((n, 1), dtype=np.float32), np.zeros(n, np.int8)
    groups[0] = 1
    with pytest.raises(InputError, match="2,097,151 control cells and the largest group are more than the 2,097,151"):
        engine_at_scale.rank_sums(values, groups, 2, 0)
    groups[0] = -1
    found = engine_at_scale.rank_sums(values, groups, 2, 0)
    assert found.ties[0, 0] == (n - 1) ** 3 - (n - 1)


def test_what_is_given_is_not_changed(engine: Engine, rng: np.random.Generator) -> None:
    values, groups = duplicated(make_values(50, 5, np.float64, rng)), rng.integers(0, 3, 50)
    before = values.data.copy(), values.indices.copy(), values.indptr.copy(), groups.copy()
    engine.rank_sums(values, groups, 3, 0, float32_ties=True)
    for now, then in zip((values.data, values.indices, values.indptr, groups), before, strict=True):
        assert_array_equal(now, then)

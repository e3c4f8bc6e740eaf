"""Rows with non-finite values are found and counted, and no others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gpubench.core.errors import InputError
from gpubench.data import FiniteCheck


def check(x: np.ndarray, step: int = 1000) -> None:
    finite = FiniteCheck("X")
    for start in range(0, len(x), step):
        finite.add(x[start : start + step], start)
    finite.finish(len(x))


def test_message_has_count_first_rows_and_remedy(rng):
    x = rng.normal(size=(2638, 5)).astype("f4")
    for i, row in enumerate((3, 17, 40, 900, 2637)):
        x[row, i] = (np.nan, np.inf, -np.inf)[i % 3]
    x[3] = np.nan
    message = "X: 5 of 2,638 rows hold NaN or infinite values (first: 3, 17, 40); remove or impute these cells"
    for step in (7, 1000, 5000):
        with pytest.raises(InputError) as caught:
            check(x, step)
        assert str(caught.value) == message


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "g", ">f4"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_values_of_every_float_dtype_are_found(dtype, bad):
    x = np.ones((10, 3), dtype)
    check(x)
    x[4, 1] = bad
    with pytest.raises(InputError, match=r"1 of 10 rows .*\(first: 4\)"):
        check(x, 3)
    with pytest.raises(InputError, match=r"1 of 10 rows .*\(first: 4\)"):
        check(np.asfortranarray(x)[:, ::-1], 3)


@pytest.mark.parametrize("dtype", ["i1", "u8", "?"])
def test_integers_are_always_finite(dtype):
    check(np.ones((10, 3), dtype))


def test_large_values_whose_sum_overflows_are_accepted():
    check(np.full((100, 10), np.finfo("f4").max, "f4"))
    check(np.full((100, 10), -np.finfo("f4").max, "f8"))
    check(np.full((1000, 10), np.finfo("f2").max, "f2"))


def test_values_beyond_float32_are_refused():
    x = np.ones((10, 3))
    x[[2, 5], 0] = 1e39, -1e39
    with pytest.raises(
        InputError, match=r"^X: 2 of 10 rows hold values beyond 3.4e38, .* \(first: 2, 5\); rescale the"
    ):
        check(x, 4)
    x[7, 1] = np.nan
    with pytest.raises(InputError, match=r"^X: 1 of 10 rows hold NaN"):
        check(x, 4)


def test_blocks_can_be_added_in_any_order():
    finite = FiniteCheck("X")
    for start in (8, 0, 4):
        finite.add(np.full((2, 2), np.nan, "f4"), start)
    with pytest.raises(InputError, match=r"6 of 10 rows .*\(first: 0, 1, 4\)"):
        finite.finish(10)


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2), elements=st.floats(width=32)))
def test_check_agrees_with_isfinite(x):
    if np.isfinite(x).all():
        check(x, 3)
    else:
        n_bad = int((~np.isfinite(x)).any(axis=1).sum())
        with pytest.raises(InputError, match=rf"^X: {n_bad} of {len(x)} rows"):
            check(x, 3)


def test_blocks_without_rows_are_accepted():
    finite = FiniteCheck("X")
    finite.add(np.empty((0, 3)), 0)
    finite.finish(0)

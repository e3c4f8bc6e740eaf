"""Every metric of the table: it equals its oracle, keeps its bounds, and is not changed by what must not change it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from cells import Cells, make_cells
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_cases import CASES, Case, Change, permute
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from gpubench.core.errors import InputError
from gpubench.core.scores import Score
from gpubench.engines.base import Engine
from gpubench.metrics import METRICS

every_case = pytest.mark.parametrize("case", CASES, ids=str)


@pytest.fixture(scope="module")
def cells() -> Cells:
    """Cells whose values are multiples of 1/256: shifted, and scaled by powers of two, they keep all their bits."""
    drawn = make_cells(400, 8, n_labels=5, n_batches=3, duplicates=0, seed=2)
    return Cells((drawn.x * 256).round() / np.float32(256), drawn.label, drawn.batch, drawn.time)


def test_every_metric_has_a_case() -> None:
    assert {case.metric for case in CASES} == set(METRICS)
    assert all(permute in case.unchanged_by and len(case.unchanged_by) > 1 for case in CASES)


@pytest.mark.parametrize("metric_id", METRICS)
def test_every_metric_has_a_complete_declaration(metric_id: str) -> None:
    spec = METRICS[metric_id].spec
    low, high = spec.bounds
    assert spec.id == metric_id
    assert (low, high) in ((0, 1), (-0.5, 1), (-1, 1), (0, math.inf))
    assert spec.title
    assert spec.description.endswith((".", "?"))


@pytest.mark.slow
@every_case
def test_value_equals_the_oracle(engine: Engine, cells: Cells, case: Case) -> None:
    args = case.args(cells)
    score, exact = case.score(engine, args), case.exact(args)
    assert type(score) is Score
    assert score.n > 0
    assert not score.approximate
    assert abs(score - exact) <= case.tolerance
    low, high = case.bounds
    assert low < exact < high, "cells that hit a bound show nothing"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "change"), [pytest.param(c, f, id=f"{c}-{f.__name__}") for c in CASES for f in c.unchanged_by]
)
def test_value_is_unchanged(engine: Engine, cells: Cells, case: Case, change: Change) -> None:
    args = case.args(cells)
    assert_allclose(case.score(engine, change(args)), case.score(engine, args), atol=case.tolerance)


def read_only(a: NDArray[Any]) -> NDArray[Any]:
    view = a.view()
    view.flags.writeable = False
    return view


def as_dtype(dtype: type) -> Callable[[NDArray[Any]], NDArray[Any]]:
    return lambda a: a.astype(dtype) if a.dtype == np.float32 else a


class Tensor:
    """Values that DLPack alone gets at, as those of JAX, TensorFlow or Paddle."""

    def __init__(self, values: NDArray[Any]) -> None:
        self._values = values

    def __dlpack__(self, **given: Any) -> Any:
        return self._values.__dlpack__(**given)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._values.__dlpack_device__()


def torch_tensor(a: NDArray[Any]) -> Any:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    return torch.from_dlpack(a)


FORMS: dict[str, Callable[[NDArray[Any]], Any]] = {
    "float64": as_dtype(np.float64),
    "float16": as_dtype(np.float16),
    "int16": as_dtype(np.int16),
    "Fortran order": np.asfortranarray,
    "every second row": lambda a: np.repeat(a, 2, axis=0)[::2],
    "read-only": read_only,
    "pandas": lambda a: (pd.DataFrame if a.ndim == 2 else pd.Series)(a, index=np.arange(len(a))[::-1]),
    "list": lambda a: a.tolist(),
    "DLPack": Tensor,
    "torch": torch_tensor,
}
NOT_CUT = ("list", "DLPack")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "form"),
    # The test itself cuts the arguments of mean_fold_* into folds, which takes arrays.
    [pytest.param(c, f, id=f"{c}-{f}") for c in CASES for f in FORMS if not (f in NOT_CUT and "fold" in c.metric)],
)
def test_same_cells_in_another_form_give_the_same_bits(engine: Engine, cells: Cells, case: Case, form: str) -> None:
    # Small integers, which every dtype holds.
    args = case.args(Cells((cells.x * 8).round(), cells.label, cells.batch, cells.time))
    again = {name: values if name == "fold" else FORMS[form](values) for name, values in args.items()}
    assert case.score(engine, again) == case.score(engine, args)


@every_case
def test_arguments_are_not_modified(engine: Engine, cells: Cells, case: Case) -> None:
    args = {name: values.copy() for name, values in case.args(cells).items()}
    case.score(engine, args)
    for name, values in case.args(cells).items():
        assert (args[name] == values).all(), name


@st.composite
def any_cells(draw: st.DrawFn) -> Cells:
    """Few cells on a coarse grid, of few labels: copies, ties, a single label, batches of one cell."""
    n, d = draw(st.integers(2, 25)), draw(st.integers(1, 3))

    def whole(low: int, high: int, size: int) -> NDArray[np.int64]:
        return np.array(draw(st.lists(st.integers(low, high), min_size=size, max_size=size)))

    x = whole(-3, 3, n * d).reshape(n, d).astype(np.float32)
    label, batch = whole(0, 4, n).astype(np.int32), whole(0, 2, n).astype(np.int32)
    return Cells(x, label, batch, whole(0, 3, n) * 0.5)


@pytest.mark.slow
@every_case
@settings(max_examples=40)  # of each of some eighty cases
@given(cells=any_cells())
def test_any_cells_score_within_bounds_or_have_a_note(engine: Engine, case: Case, cells: Cells) -> None:
    args = case.args(cells)
    try:
        score = case.score(engine, args)
    except InputError:  # which inputs are refused is tested with each metric
        return
    assert type(score) is Score
    if math.isnan(score):
        assert score.note
        return
    low, high = case.bounds
    assert low <= score <= high
    if case.any_cells:
        assert_allclose(score, case.exact(args), atol=case.tolerance)

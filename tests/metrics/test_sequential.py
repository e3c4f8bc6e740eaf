"""sequential_alignment: real cells, values by hand, edge cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import reference
from cells import Cells, make_cells, read_embedding
from hypothesis import given
from hypothesis import strategies as st

from gpubench.core.errors import InputError
from gpubench.engines.base import Engine
from gpubench.metrics import sequential_alignment

X = np.array([[0.0], [1.0], [3.0], [6.0]])
TIME = [0, 0, 2, 5]


def test_real_cells_have_the_published_alignment(engine: Engine, shared_data: Path) -> None:
    x, columns = read_embedding(shared_data / "worm_embryo.h5ad", "time_rank")
    score = sequential_alignment(x, columns["time_rank"], k=15, engine=engine)
    assert score == pytest.approx(reference.sequential_alignment(x, columns["time_rank"], 15), abs=1e-6)
    # The published value was compared with a baseline drawn at random.
    assert score == pytest.approx(0.781630, abs=3e-3)
    assert (score.n, score.note, score.params) == (len(x), "", {"k": 15})
    assert not score.approximate


@pytest.mark.slow
@pytest.mark.parametrize("k", [5, 15])
def test_adaptive_k_on_real_cells_equals_the_oracle(engine: Engine, shared_data: Path, k: int) -> None:
    x, columns = read_embedding(shared_data / "worm_embryo.h5ad", "time_rank")
    time = columns["time_rank"]
    score = sequential_alignment(x, time, k=k, adaptive_k=True, normalize=False, engine=engine)
    assert score == pytest.approx(reference.sequential_alignment(x, time, k, False, adaptive=True), abs=1e-6)
    assert score.params == {"k": k, "adaptive_k": True, "normalize": False}


def test_alignment_equals_values_by_hand(engine: Engine) -> None:
    # Nearest: 0 -> 1, 1 -> 0, 3 -> 1, 6 -> 3, |t_i - t_j| = 0, 0, 2, 3. All six pairs: 0, 2, 5, 2, 5, 3.
    assert sequential_alignment(X, TIME, k=1, normalize=False, engine=engine) == pytest.approx(5 / 4)
    assert sequential_alignment(X, TIME, k=1, engine=engine) == pytest.approx(1 - (5 / 4) / (17 / 6))


def test_cell_itself_does_not_count_among_its_copies(engine: Engine) -> None:
    # Among copies, whichever is found first, no cell may be its own neighbour: then the distance would be 0.
    score = sequential_alignment(np.zeros((4, 2)), [0, 1, 2, 4], k=3, normalize=False, engine=engine)
    assert score == pytest.approx(reference.expected_distance([0, 1, 2, 4]))


def test_all_cells_as_neighbors_give_zero(engine: Engine, small_cells: Cells) -> None:
    c, k = small_cells, small_cells.n - 1
    mean = sequential_alignment(c.x, c.time, k=k, normalize=False, engine=engine)
    assert mean == pytest.approx(reference.expected_distance(c.time), rel=1e-12)
    assert sequential_alignment(c.x, c.time, k=k, engine=engine) == pytest.approx(0, abs=1e-12)


def test_worse_than_random_is_zero(engine: Engine) -> None:
    # Each cell's nearest is of another time.
    x, time = np.repeat(np.arange(10.0), 2)[:, None], np.tile([0, 1], 10)
    assert sequential_alignment(x, time, k=1, engine=engine) == 0


@given(st.lists(st.integers(-(10**9), 10**9), min_size=3, max_size=40).filter(lambda t: len(set(t)) > 1))
def test_baseline_equals_the_oracle_for_any_times(engine: Engine, times: list[int]) -> None:
    times = [time / 1000 for time in times]
    x = np.arange(len(times), dtype=np.float32)[:, None]
    exact = reference.sequential_alignment(x, times, 1)
    assert sequential_alignment(x, times, k=1, engine=engine) == pytest.approx(exact, abs=1e-9)


def test_large_offsets_keep_all_digits(engine: Engine, small_cells: Cells) -> None:
    c = small_cells  # times such as microseconds since 1970; here every one of them is exact in float64
    exact = reference.sequential_alignment(c.x, c.time)
    assert sequential_alignment(c.x, 1.7e15 + c.time, engine=engine) == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize("time", [[3, 3, 3, 3], ["3", "3.0", "3", "3e0"]])
def test_one_distinct_time_is_one_with_a_note(engine: Engine, time: list) -> None:
    for normalize, value in ((True, 1.0), (False, 0.0)):
        score = sequential_alignment(X, time, k=2, normalize=normalize, engine=engine)
        assert score == value
        assert "same time" in score.note


def test_times_that_differ_by_less_than_float64_resolves_count_as_one(engine: Engine) -> None:
    score = sequential_alignment(np.arange(10.0)[:, None], [0.0] * 9 + [5e-324], k=2, engine=engine)
    assert score == 1
    assert "same time" in score.note


@pytest.mark.parametrize(
    "time",
    [
        ["0", "0.0", "2", "5e0"],
        np.array(["0", "0", "2", "5"]),
        np.array([b"0", b"0", b"2", b"5"]),
        pd.Series(["0", "0", "2", "5"], dtype="category"),
        pd.Series(pd.Categorical([0, 0, 2, 5], categories=[5, 9, 2, 0])),
        np.array([0, 0, 2, 5], np.uint8),  # whose differences would wrap around
    ],
)
def test_forms_of_the_same_times_score_the_same(engine: Engine, time: object) -> None:
    assert sequential_alignment(X, time, k=1, engine=engine) == sequential_alignment(X, TIME, k=1, engine=engine)


@pytest.mark.parametrize(("n", "k"), [(n, k) for n in (4, 5, 6, 7, 20, 100, 121, 300) for k in (1, 3, 15, 40) if k < n])
def test_adaptive_k_equals_the_oracle_for_any_number_of_cells(engine: Engine, n: int, k: int) -> None:
    c = make_cells(n, 3, n_labels=3, n_batches=1, seed=n)
    exact = reference.sequential_alignment(c.x, c.time, k, normalize=False, adaptive=True)
    score = sequential_alignment(c.x, c.time, k=k, adaptive_k=True, normalize=False, engine=engine)
    assert score == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize(("n", "k"), [(2, 1), (3, 1), (3, 2)])
def test_adaptive_k_of_three_cells_raises(engine: Engine, n: int, k: int) -> None:
    with pytest.raises(InputError, match=rf"^adaptive_k gives .* 3 neighbours, but there are {n} cells; leave it out"):
        sequential_alignment(X[:n], [0, 1, 2][:n], k=k, adaptive_k=True, engine=engine)
    assert sequential_alignment(X, TIME, k=1, adaptive_k=True, engine=engine).n == 4


def test_adaptive_k_is_measured_against_1e_10(engine: Engine, small_cells: Cells) -> None:
    # Distances as small as what keeps the densities finite.
    x, time = small_cells.x * np.float32(1e-11), small_cells.time
    exact = reference.sequential_alignment(x, time, 15, normalize=False, adaptive=True)
    score = sequential_alignment(x, time, k=15, normalize=False, adaptive_k=True, engine=engine)
    assert score == pytest.approx(exact, abs=1e-9)
    assert score != pytest.approx(reference.sequential_alignment(small_cells.x, time, 15, False, True), abs=1e-6)


def test_adaptive_k_among_copies_equals_the_oracle(engine: Engine, rng: np.random.Generator) -> None:
    # Where 30 copies lie together the radius is 0 and the density 1e10, against which all else is sparse.
    x = np.concatenate([np.zeros((60, 2)), rng.normal(size=(140, 2))]).astype(np.float32)
    time = rng.integers(0, 5, 200)
    exact = reference.sequential_alignment(x, time, 15, normalize=False, adaptive=True)
    score = sequential_alignment(x, time, k=15, normalize=False, adaptive_k=True, engine=engine)
    assert score == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize(
    ("time", "k", "message"),
    [
        (TIME, 0, "k=0"),
        (TIME, -1, "k=-1"),
        (TIME, 4, "k=4"),
        (TIME, 100, "k=100"),
        (["E8", "E9", "E10", "adult"], 1, "labels is not numeric"),
        ([0, 1, np.nan, 2], 1, "labels"),
        ([0, 1, np.inf, 2], 1, "labels"),
        ([0, 1, None, 2], 1, "labels"),
        ([0, 1, 2], 1, "labels has 3 values"),
        (np.array(["2020-01-01", "2020-01-02", "2020-01-03", "2020-01-04"], "datetime64[D]"), 1, "labels holds dates"),
    ],
)
def test_bad_input_raises(engine: Engine, time: object, k: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        sequential_alignment(X, time, k=k, engine=engine)

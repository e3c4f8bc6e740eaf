"""entropy_per_cell: real cells, values by hand, edge cases."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import reference
from cells import Cells, make_cells, read_embedding

import gpubench as gb
from gpubench.core.errors import InputError
from gpubench.engines import get_engine
from gpubench.engines.base import Engine
from gpubench.engines.cpu.engine import CpuEngine
from gpubench.metrics import _sampling, entropy_per_cell

X = np.array([[0.0], [1.0], [3.0], [6.0]])


@pytest.mark.parametrize(
    ("file", "column", "published"),
    [
        ("celllines_5batch", "batch", 0.813704),
        ("worm_embryo", "batch", 0.683200),
        ("pancreas_human_mouse", "species", 0.956424),
    ],
)
def test_real_cells_have_the_published_entropy(
    engine: Engine, shared_data: Path, file: str, column: str, published: float
) -> None:
    x, columns = read_embedding(shared_data / f"{file}.h5ad", column)
    score = entropy_per_cell(x, columns[column], engine=engine)
    assert score == pytest.approx(reference.entropy_per_cell(x, columns[column]), abs=1e-6)
    # The published value was found with approximate neighbours.
    assert score == pytest.approx(published, abs=1e-3)
    assert (score.n, score.note, score.params) == (len(x), "", {"n_neighbors": 200})
    assert not score.approximate


def test_entropy_equals_values_by_hand(engine: Engine) -> None:
    # Nearest others: of 0 it is 1, of 1 it is 0, of 3 it is 1, of 6 it is 3. Two neighbourhoods of {u, v}, two of one.
    score = entropy_per_cell(X, ["u", "v", "v", "v"], n_neighbors=2, engine=engine)
    assert score == pytest.approx(0.5)


def test_cell_itself_counts_even_among_its_copies(engine: Engine) -> None:
    # Five copies at one place: a neighbourhood of one and itself is {u, v} for the first two only.
    score = entropy_per_cell(np.zeros((5, 2)), ["u", "v", "u", "u", "u"], n_neighbors=2, engine=engine)
    assert score == pytest.approx(2 / 5)  # 0: {0, 1}, 1: {1, 0}, the others take 0, the first by index


@pytest.mark.parametrize("n_batches", range(2, 40))
def test_even_mixing_is_exactly_one(engine: Engine, n_batches: int) -> None:
    batch = np.repeat(np.arange(n_batches), 2)
    score = entropy_per_cell(np.arange(2 * n_batches)[:, None], batch, engine=engine)
    assert 1 - 1e-12 <= score <= 1


def test_no_mixing_is_zero(engine: Engine) -> None:
    x = np.concatenate([np.zeros((30, 3)), np.ones((30, 3))])
    assert entropy_per_cell(x, np.repeat(["u", "v"], 30), n_neighbors=30, engine=engine) == 0


def test_neighbors_are_cut_to_the_number_of_cells_with_a_note(engine: Engine) -> None:
    batch = ["u", "v", "v", "v"]
    score = entropy_per_cell(X, batch, engine=engine)
    assert score == pytest.approx(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / math.log(2))
    assert score.params == {"n_neighbors": 4}
    assert "200" in score.note
    assert "4" in score.note
    assert entropy_per_cell(X, batch, n_neighbors=4, engine=engine).note == ""


def test_empty_categories_are_ignored(engine: Engine, small_cells: Cells) -> None:
    batch = pd.Categorical(small_cells.batch, categories=[8, 2, 1, 0, 9])
    with_unused = entropy_per_cell(small_cells.x, batch, engine=engine)
    assert with_unused == entropy_per_cell(small_cells.x, small_cells.batch, engine=engine)


@pytest.mark.parametrize(
    ("batch", "n_neighbors", "message"),
    [
        (["u"] * 4, 2, "labels has one value"),
        (["u", None, "v", "v"], 2, "labels"),
        (["u", "v", "v"], 2, "labels has 3 values"),
        (["u", "v", "v", "v"], 1, "n_neighbors=1"),
        (["u", "v", "v", "v"], 0, "n_neighbors=0"),
        (["u", "v", "v", "v"], -5, "n_neighbors=-5"),
    ],
)
def test_bad_input_raises(engine: Engine, batch: list, n_neighbors: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        entropy_per_cell(X, batch, n_neighbors=n_neighbors, engine=engine)


def sampling_engine(**options: Any) -> CpuEngine:
    """An engine that samples neighbourhoods of more than 50 cells."""
    engine = CpuEngine(**options)
    engine.policy = replace(engine.policy, max_exact_knn_cells=50, max_exact_knn_pair_dims=50.0)
    return engine


class TestEstimates:
    """Of more cells than are searched exactly."""

    @pytest.mark.slow
    def test_estimate_is_near_the_value_of_all_cells(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_sampling, "WANTED_STDERR", 0.005)
        cells = make_cells(5000, 6, n_labels=6, n_batches=4, seed=2)
        true = reference.entropy_per_cell(cells.x, cells.batch, 30)
        score = entropy_per_cell(cells.x, cells.batch, n_neighbors=30, engine=sampling_engine())
        assert score.approximate
        assert score.stderr is not None
        assert 0 < score.stderr <= 1.2 * 0.005
        assert 500 < score.n < 5000
        assert score == pytest.approx(true, abs=4 * score.stderr)
        assert score.note == f"estimated from {score.n:,} of 5,000 cells; exact=True looks at the neighbours of all"
        assert score.cells is not None
        assert np.isfinite(score.cells).sum() == score.n
        all_cells = entropy_per_cell(cells.x, cells.batch, n_neighbors=30, engine=get_engine("cpu", exact=True))
        drawn = np.isfinite(score.cells)
        assert np.array_equal(score.cells[drawn], all_cells.cells[drawn]), "neighbours of the sample are exact"
        assert all_cells == pytest.approx(true, abs=1e-6)
        assert all_cells.stderr is None

    def test_copies_of_a_cell_are_not_the_cell_itself(self) -> None:
        """More copies than neighbours: a cell may stand after all of them, or not at all."""
        x, batch = np.zeros((300, 2)), np.arange(300) % 3
        score = entropy_per_cell(x, batch, n_neighbors=30, engine=sampling_engine())
        assert score == pytest.approx(reference.entropy_per_cell(x, batch, 30), abs=1e-9)

    def test_cut_n_neighbors_are_in_the_note(self) -> None:
        x, batch = np.arange(60.0)[:, None], np.arange(60) % 3
        score = entropy_per_cell(x, batch, n_neighbors=200, engine=sampling_engine())
        assert score.note.startswith("n_neighbors cut from 200 to 60, the number of cells; estimated from")

    def test_named_method_is_used(self) -> None:
        cells = make_cells(400, 5, n_labels=3, n_batches=2, seed=3)
        score = entropy_per_cell(cells.x, cells.batch, n_neighbors=20, engine=sampling_engine(knn="exact"))
        assert score.stderr is None
        assert not score.approximate

    def test_estimate_searches_no_graph_of_all_cells(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[int] = []
        knn = CpuEngine.knn

        def remember(self: CpuEngine, x: np.ndarray, k: int) -> object:
            asked.append(k)
            return knn(self, x, k)

        monkeypatch.setattr(CpuEngine, "knn", remember)
        cells = make_cells(600, 5, n_labels=3, n_batches=2, seed=3)
        tasks = ["clustering", "batch_integration"]
        result = gb.score(
            cells.x, label=cells.label, batch=cells.batch, tasks=tasks, engine=sampling_engine(), n_neighbors=40
        )
        assert result.failures == []
        assert asked == [14]
        (row,) = (row for row in result.results if row.metric == "entropy_per_cell")
        assert row.stderr is not None

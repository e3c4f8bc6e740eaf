"""The monitor gives the numbers of `gpubench.score`, on the same cells each time, within its budget."""

from __future__ import annotations

import copy
import pickle
import random
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from cells import Cells, make_cells

import gpubench as gb
from gpubench.core.errors import GpubenchWarning, InputError
from gpubench.core.scores import Score
from gpubench.engines.base import Engine
from gpubench.tasks import TASKS
from gpubench.tasks._task import to_row
from gpubench.training import scoring

TASK_IDS = ["clustering", "embedding", "batch_integration", "sequential_organization"]


@pytest.fixture(scope="module")
def cells() -> Cells:
    return make_cells(900, 8, n_labels=5, n_batches=3, seed=3)


def named(codes: np.ndarray, prefix: str) -> np.ndarray:
    return np.array([f"{prefix}{code}" for code in codes])


def monitor_of(cells: Cells, **changes: Any) -> gb.Monitor:
    given: dict[str, Any] = {
        "label": named(cells.label, "type"),
        "batch": named(cells.batch, "donor"),
        "tasks": ["embedding", "batch_integration"],
        "sample": 300,
        "engine": "cpu",
        "n_neighbors": 20,
    }
    return gb.Monitor(**{**given, **changes})


def feed(monitor: gb.Monitor, x: Any, batch: int = 128) -> None:
    monitor.reset()
    for start in range(0, len(x), batch):
        monitor.update(x[start : start + batch])


def test_values_are_those_of_score(cells: Cells) -> None:
    day = (np.arange(900) % 7).astype(np.float32) / 3
    monitor = monitor_of(cells, tasks=TASK_IDS, time=day, seed=5)
    feed(monitor, cells.x)
    values = monitor.compute()
    own = monitor.index
    result = gb.score(
        cells.x[own],
        label=named(cells.label, "type")[own],
        batch=named(cells.batch, "donor")[own],
        time=day[own],
        tasks=TASK_IDS,
        engine="cpu",
        seed=5,
        n_neighbors=20,
    )
    assert values == {f"{row.task}/{row.metric}": row.value for row in result}


@pytest.mark.slow
def test_values_of_classifiers_are_their_means(cells: Cells) -> None:
    settings = {"tasks": "label_prediction", "classifiers": "lr,knn", "n_folds": 2}
    monitor = monitor_of(cells, sample=200, n_neighbors=200, **settings)
    feed(monitor, cells.x)
    own = monitor.index
    result = gb.score(cells.x[own], label=named(cells.label, "type")[own], engine="cpu", seed=0, **settings)
    values = monitor.compute()
    assert values == {f"{row.task}/{row.metric}": row.value for row in result if row.aggregate}
    assert "label_prediction/mean_fold_accuracy" in values


def test_subset_is_the_same_and_has_shares_of_labels(cells: Cells) -> None:
    monitor, again = monitor_of(cells), monitor_of(cells)
    assert np.array_equal(monitor.index, again.index)
    assert not np.array_equal(monitor.index, monitor_of(cells, seed=1).index)
    shares = np.bincount(cells.label[monitor.index]) / 300 - np.bincount(cells.label) / 900
    assert np.abs(shares).max() <= 1 / 300
    assert np.array_equal(monitor_of(cells, sample=None).index, np.arange(900))
    assert np.array_equal(monitor_of(cells, sample=5000).index, np.arange(900))


@pytest.mark.parametrize("kind", ["numpy", "float64", "list", "shuffled", "subset", "twice"])
def test_batches_of_any_form_give_the_same(cells: Cells, kind: str, rng: np.random.Generator) -> None:
    monitor = monitor_of(cells)
    feed(monitor, cells.x)
    expected = monitor.compute()
    monitor.reset()
    if kind in ("numpy", "float64", "list"):
        x = {"numpy": cells.x, "float64": cells.x.astype(np.float64), "list": cells.x.tolist()}[kind]
        feed(monitor, x, 77)
    elif kind == "subset":
        monitor.update(cells.x[monitor.index], index=monitor.index)
    else:
        if kind == "twice":
            feed(monitor, cells.x[::-1])
        for part in np.array_split(rng.permutation(900), 9):
            monitor.update(cells.x[part], index=part.tolist())
    assert monitor.compute() == expected


def test_trend_and_reset(cells: Cells) -> None:
    monitor = monitor_of(cells)
    for epoch in range(3):
        feed(monitor, cells.x + epoch * cells.label[:, None].astype(np.float32))
        monitor.compute(step=10 * epoch)
    trend = monitor.trend
    assert trend.columns[0] == "step"
    assert trend["step"].tolist() == [0, 10, 20]
    assert trend["embedding/silhouette_score"].is_monotonic_increasing
    assert trend["n_cells"].tolist() == [300] * 3
    assert trend["seconds"].sum() == pytest.approx(monitor.cost_s)
    monitor.reset()
    with pytest.raises(InputError, match=r"0 of the 300 cells of the subset were given; call update\(\)"):
        monitor.compute()
    assert len(monitor.trend) == 3
    assert gb.Monitor(label=["a", "b", "a"], engine="cpu").trend.columns.tolist() == ["step", "n_cells", "seconds"]


def test_cost_is_the_time_spent_here(cells: Cells) -> None:
    monitor = monitor_of(cells)
    feed(monitor, cells.x)
    monitor.compute()
    before = monitor.cost_s
    assert before > 0
    time.sleep(0.5)
    feed(monitor, cells.x)
    monitor.compute()
    seconds = monitor.trend["seconds"].iloc[-1]
    assert seconds == pytest.approx(monitor.cost_s - before)
    assert seconds / (seconds + 0.8) < monitor.cost_share < seconds / (seconds + 0.45)


def test_cells_that_were_not_given_are_counted_and_warned_of_once(cells: Cells) -> None:
    monitor = monitor_of(cells)
    monitor.update(cells.x[:600])
    n = int((monitor.index < 600).sum())
    with pytest.warns(GpubenchWarning, match=rf"Monitor: {300 - n} of the 300 cells of the subset were not given"):
        values = monitor.compute()
    own = monitor.index[:n]
    label, batch = named(cells.label, "type")[own], named(cells.batch, "donor")[own]
    tasks = ["embedding", "batch_integration"]
    result = gb.score(cells.x[own], label=label, batch=batch, tasks=tasks, engine="cpu", seed=0, n_neighbors=20)
    assert values == {f"{row.task}/{row.metric}": row.value for row in result}
    monitor.compute()  # the second time there is no warning
    assert "were not given" in monitor.notes[0]
    assert monitor.trend["n_cells"].tolist() == [n, n]


def test_baseline_is_scored_once(cells: Cells, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = monitor_of(cells, baseline=cells.x * 2, tasks="embedding")
    runs: list[int] = []
    score = scoring.SubsetScorer.score
    monkeypatch.setattr(scoring.SubsetScorer, "score", lambda *args, **more: runs.append(1) or score(*args, **more))
    assert monitor.baseline == {}
    for _ in range(2):
        feed(monitor, cells.x + cells.label[:, None].astype(np.float32))
        values = monitor.compute()
    assert sum(runs) == 3
    plain = monitor_of(cells, tasks="embedding")
    feed(plain, cells.x * 2)
    assert monitor.baseline == plain.compute()
    assert values["baseline/embedding/silhouette_score"] == monitor.baseline["embedding/silhouette_score"]
    assert values["embedding/silhouette_score"] > monitor.baseline["embedding/silhouette_score"]


def slow_task(name: str, seconds: list[float]) -> Any:
    """A task that takes `seconds`, one after the other; the last one from then on."""

    def run(given: Any) -> Iterator[Any]:
        time.sleep(seconds.pop(0) if len(seconds) > 1 else seconds[0])
        yield to_row(given.name, name, "value", Score(1.0))

    return gb.tasks._task.Task(name, name, "?", ("label",), ("value",), run)


@pytest.fixture
def slow_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"quick": [0.0], "warming": [0.3, 0.0], "slow": [0.3]}.items():
        monkeypatch.setitem(TASKS, name, slow_task(name, seconds))


def test_budget_leaves_out_what_does_not_fit(cells: Cells, slow_tasks: None) -> None:
    monitor = monitor_of(cells, tasks=["slow", "warming", "quick"], budget_s=0.2)
    seen = []
    for _ in range(5):
        feed(monitor, cells.x)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            keys = list(monitor.compute())
        seen.append((keys, [str(warning.message) for warning in warned], monitor.notes))
    tasks = [[key.partition("/")[0] for key in keys] for keys, _, _ in seen]
    assert "slow" not in tasks[-1]
    assert tasks[-1] == ["quick", "warming"], "a task that was slow once has a second try"
    assert [note for note in seen[-1][2] if note.startswith("slow was left out: it takes 0.3")]
    assert len([text for _, warned, _ in seen for text in warned if "slow was left out" in text]) == 1
    assert monitor.trend["slow/value"].isna().iloc[-1]
    assert monitor.trend["seconds"].iloc[-1] < 0.2


def test_without_budget_all_tasks_run(cells: Cells, slow_tasks: None) -> None:
    monitor = monitor_of(cells, tasks=["slow", "quick"])
    for _ in range(3):
        feed(monitor, cells.x)
        assert list(monitor.compute()) == ["quick/value", "slow/value"]


def test_log_gets_the_values(cells: Cells) -> None:
    logged: list[dict[str, float]] = []

    class Run:
        def log(self, values: dict[str, float]) -> None:
            logged.append(values)

    for log in (Run(), logged.append):
        monitor = monitor_of(cells, log=log)
        feed(monitor, cells.x)
        assert monitor.compute() == logged.pop()
        assert not logged


def test_values_are_floats_and_state_of_random_numbers_does_not_change(cells: Cells) -> None:
    monitor = monitor_of(cells, tasks="auto", time=np.arange(900) % 5, classifiers="lr", n_folds=2)
    feed(monitor, cells.x)
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002 - what a program may use
    values = monitor.compute()
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002
    assert {type(value) for value in values.values()} == {float}
    assert {"clustering/adjusted_rand_index", "sequential_organization/sequential_alignment"} <= set(values)


def test_columns_may_be_pandas_and_order_of_rows_is_theirs(cells: Cells) -> None:
    obs = pd.DataFrame({"label": pd.Categorical(named(cells.label, "type"))}, index=[f"c{i}" for i in range(900)])
    one, other = gb.Monitor(obs["label"], engine="cpu"), gb.Monitor(named(cells.label, "type"), engine="cpu")
    for monitor in (one, other):
        feed(monitor, cells.x)
    assert one.compute() == other.compute()
    assert one.tasks == ["embedding"]


def test_a_copy_works_on_its_own(cells: Cells) -> None:
    monitor = monitor_of(cells)
    feed(monitor, cells.x)
    values = monitor.compute()
    for other in (copy.deepcopy(monitor), pickle.loads(pickle.dumps(monitor))):
        assert other.compute() == values
    assert "300 of 900 cells" in repr(monitor)


def test_a_started_engine_is_used(cells: Cells, engine: Engine) -> None:
    monitor = monitor_of(cells, engine=engine, sample=60)
    feed(monitor, cells.x)
    own = monitor.index
    label, batch = named(cells.label, "type")[own], named(cells.batch, "donor")[own]
    tasks = ["embedding", "batch_integration"]
    result = gb.score(cells.x[own], label=label, batch=batch, tasks=tasks, engine=engine, n_neighbors=20)
    assert monitor.compute() == {f"{row.task}/{row.metric}": row.value for row in result}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": None, "batch": None, "tasks": None}, "no column is given; give at least one of: label, batch"),
        ({"label": None, "tasks": None}, r"tasks: none of 'embedding', 'batch_integration' has its inputs"),
        ({"tasks": []}, "tasks is empty"),
        ({"tasks": ["embeding"]}, r"task 'embeding' does not score an embedding \(did you mean 'embedding'"),
        ({"tasks": ["perturbation_prediction"]}, "task 'perturbation_prediction' does not score an embedding"),
        ({"tasks": ["sequential_organization"]}, "task 'sequential_organization' needs `time`; give one value"),
        ({"batch": ["a", "b"]}, "batch has 2 values but the embedding has 900 rows"),
        ({"label": ["a"] * 900}, r"label has one value \('a'\) in all 900 rows"),
        ({"sample": 1}, "sample=1 cannot be used; give a number of cells, at least 2"),
        ({"sample": 3}, "sample=3: label has 5 values, each of which needs a cell"),
        ({"budget_s": 0}, "budget_s=0 cannot be used; give seconds above 0"),
        ({"n_neigbors": 5}, r"option 'n_neigbors' is unknown \(did you mean 'n_neighbors'"),
        ({"n_neighbors": 1}, "n_neighbors=1 cannot be used"),
        ({"seed": -1}, "seed=-1 is out of range"),
        ({"baseline": np.ones((3, 2))}, "baseline has 3 rows, but there are 900 cells"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(cells: Cells, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        monitor_of(cells, **changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("batch", "index", "message"),
    [
        (np.ones(5), None, r"embedding: a batch has shape \(5,\); give \(cells, dimensions\)"),
        (np.ones((2, 3, 4)), None, r"shape \(2, 3, 4\)"),
        (np.ones((5, 2)), [1, 2], r"index has shape \(2,\) and dtype int64, but the batch has 5 rows"),
        (np.ones((2, 2)), [0.0, 1.0], "dtype float64"),
        (np.ones((2, 2)), [0, 900], r"index: 1 of 2 are not cells \(first: 900\); give numbers from 0 to 899"),
        (np.ones((2, 2)), [-1, 0], r"\(first: -1\)"),
        (np.ones((901, 2)), None, "901 rows were given for 900 cells; call reset"),
    ],
)
def test_batches_that_cannot_be_used_are_named(cells: Cells, batch: Any, index: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        monitor_of(cells).update(batch, index)


def test_an_embedding_of_other_width_is_refused_until_reset(cells: Cells) -> None:
    monitor = monitor_of(cells)
    monitor.update(cells.x[:300])
    with pytest.raises(InputError, match=r"a batch has 4 dimensions and is on the host, those before it have 8"):
        monitor.update(cells.x[300:600, :4])
    feed(monitor, cells.x[:, :4])
    assert monitor.compute()


def test_an_embedding_that_is_not_finite_is_refused(cells: Cells) -> None:
    monitor = monitor_of(cells)
    x = cells.x.copy()
    x[monitor.index[7]] = np.nan
    feed(monitor, x)
    with pytest.raises(InputError, match="embedding: 1 of 300 rows hold NaN"):
        monitor.compute()
    feed(monitor, cells.x)
    assert monitor.compute()

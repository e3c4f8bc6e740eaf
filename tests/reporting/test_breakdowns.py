"""Statistics by group equal those of pandas; order of groups."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from cell_cases import cells_result

from gpubench.core.scores import CellColumn, CellScores
from gpubench.core.types import Labels
from gpubench.reporting.cell_groups import Breakdown, breakdowns
from gpubench.reporting.content import EmbeddingCells, comparable_runs
from gpubench.results.figures import shortened
from gpubench.results.result import Result
from gpubench.results.statistics import QUANTILES


@pytest.fixture(scope="module")
def result() -> Result:
    return cells_result(2000, ["nan", "a", "b", "c"], embeddings=("X", "Y"), batches=("u", "v", "w"), times=12)


def task_breakdowns(result: Result, task: str) -> list[Breakdown]:
    return breakdowns(task, comparable_runs({"": result})[0].cells)


def test_quantiles_equal_those_of_pandas(result: Result) -> None:
    found = task_breakdowns(result, "batch_integration")
    assert [(b.metric, b.role) for b in found] == [
        (metric, role) for metric in ("entropy_per_cell", "batch_silhouette") for role in ("label", "batch")
    ]
    for breakdown in found:
        labels = result.cells.groups[breakdown.role]
        names = np.array(labels.names)[labels.codes]
        for i, embedding in enumerate(("X", "Y")):
            values = result.cells.find(breakdown.metric, embedding=embedding).values.astype(float)
            by_group = pd.Series(values).groupby(names)
            for group in breakdown.groups:
                spread = group.by_embedding[i]
                assert spread is not None
                assert spread.n == by_group.count()[group.name]
                assert spread.mean == pytest.approx(by_group.mean()[group.name], abs=1e-6)
                expected = by_group.quantile(QUANTILES)[group.name].to_numpy()
                assert np.allclose(spread.quantiles, expected, atol=1e-6)


def test_the_worst_comes_first_and_groups_without_values_are_left_out(result: Result) -> None:
    (breakdown,) = task_breakdowns(result, "embedding")
    means = [group.mean for group in breakdown.groups]
    assert means == sorted(means)
    assert {group.name for group in breakdown.groups} == {"a", "b", "c"}


def test_groups_of_few_cells_come_last() -> None:
    labels = Labels(np.repeat([0, 1, 2], [9, 50, 41]).astype(np.int32), ("few", "worst", "best"))
    values = np.repeat([0.0, 0.2, 0.9], [9, 50, 41]).astype(np.float32)
    cells = CellScores(100, {"label": labels}, columns=[CellColumn("X", "embedding", "silhouette_score", values)])
    (breakdown,) = breakdowns("embedding", [EmbeddingCells("X", cells, "X")])
    assert [group.name for group in breakdown.groups] == ["worst", "best", "few"]


def test_time_points_come_in_order_of_time(result: Result) -> None:
    for breakdown in task_breakdowns(result, "sequential_organization"):
        assert breakdown.in_order_of_time
        assert [float(group.name) for group in breakdown.groups] == [12.0 * i for i in range(12)]


def test_an_embedding_without_cells_has_gaps(result: Result) -> None:
    known, unknown = EmbeddingCells("X", result.cells, "X"), EmbeddingCells("Z", CellScores(), "Z")
    (breakdown,) = breakdowns("embedding", [known, unknown])
    assert all(group.by_embedding[0] is not None and group.by_embedding[1] is None for group in breakdown.groups)
    assert breakdowns("embedding", [unknown]) == []


def test_single_group_gives_no_breakdown() -> None:
    assert task_breakdowns(cells_result(100, ["only"], batches=("u", "v")), "embedding") == []
    assert [b.role for b in task_breakdowns(cells_result(100, ["only"], batches=("u", "v")), "batch_integration")] == [
        "batch"
    ] * 2


def test_shortened_names_stay_distinct() -> None:
    assert shortened(["short", "a name that is far too long to fit"], 10) == ["short", "a name th…"]
    assert shortened(["the same beginning 1", "the same beginning 2"], 10) == ["the …ing 1", "the …ing 2"]
    assert shortened(["the same 1 in the middle", "the same 2 in the middle"], 10) == ["1. the s…", "2. the s…"]

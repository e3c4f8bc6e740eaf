"""One neighbour graph serves all tasks: what a task says that it needs is what its metrics ask for."""

from __future__ import annotations

from typing import Any

import pytest
from cells import Cells

import gpubench as gb
from gpubench.engines.cpu.engine import CpuEngine
from gpubench.engines.embedding import Embedding
from gpubench.tasks import TASKS, Options

OPTIONS = {"n_neighbors": 25, "k": 7, "n_cluster_neighbors": 12}
OF_GRAPH = [task.id for task in TASKS.values() if task.neighbors(Options(**OPTIONS)) > 0]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, small_cells: Cells) -> dict[str, list[int]]:
    """How many neighbours metrics ask for, and how many are searched."""
    calls: dict[str, list[int]] = {"metric": [], "search": []}
    knn, search = Embedding.knn, CpuEngine.knn

    def metric_knn(self: Embedding, k: int) -> Any:
        calls["metric"].append(k)
        return knn(self, k)

    def engine_knn(self: CpuEngine, x: Any, k: int) -> Any:
        if x.shape == small_cells.x.shape:  # other cells, or cells in other dimensions, have graphs of their own
            calls["search"].append(k)
        return search(self, x, k)

    monkeypatch.setattr(Embedding, "knn", metric_knn)
    monkeypatch.setattr(CpuEngine, "knn", engine_knn)
    return calls


def columns(cells: Cells) -> dict[str, Any]:
    return {"label": cells.label, "batch": cells.batch, "species": cells.batch, "time": cells.time}


@pytest.mark.parametrize("adaptive_k", [False, True])
@pytest.mark.parametrize("task", OF_GRAPH)
def test_task_plans_the_graph_that_its_metrics_use(
    task: str, adaptive_k: bool, asked: dict[str, list[int]], small_cells: Cells
) -> None:
    if adaptive_k and task != "sequential_organization":
        pytest.skip("no option of this task")
    given = {**OPTIONS, "adaptive_k": adaptive_k}
    result = gb.score(small_cells.x, tasks=task, engine="cpu", threads=1, **columns(small_cells), **given)
    assert result.failures == []
    planned, *by_metrics = asked["metric"]
    assert planned == TASKS[task].neighbors(Options(**given))
    assert asked["search"] == [planned]
    assert max(by_metrics) <= planned
    assert adaptive_k or max(by_metrics) == planned


def test_all_tasks_share_one_search(asked: dict[str, list[int]], small_cells: Cells) -> None:
    gb.score(small_cells.x, tasks=OF_GRAPH, engine="cpu", threads=1, **columns(small_cells), **OPTIONS)
    assert asked["search"] == [max(TASKS[task].neighbors(Options(**OPTIONS)) for task in OF_GRAPH)]

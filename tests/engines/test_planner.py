"""Memory limits of runs, and refusals of operations that cannot fit."""

from __future__ import annotations

import pytest

from gpubench.core import memory
from gpubench.core.errors import InputError
from gpubench.engines import planner

GB = 10**9


def test_require_more_than_the_budget_is_refused() -> None:
    planner.require(GB, GB, "X")
    with pytest.raises(
        InputError, match=r"^X takes 2\.5 GB, but 1\.0 GB may be used; raise `memory`, or use fewer cells$"
    ):
        planner.require(2_500_000_000, GB, "X")
    with pytest.raises(InputError, match=r"or sit down$"):
        planner.require(GB + 1, GB, "X", "sit down")


@pytest.mark.parametrize(("n", "d", "k"), [(1000, 50, 15), (7, 1, 3)])
def test_require_knn_counts_the_graph_and_two_copies_of_the_cells(n: int, d: int, k: int) -> None:
    graph, cells = n * k * (4 + 4), 2 * n * (d + 2) * 4
    planner.require_knn(n, d, k, graph + cells)
    with pytest.raises(InputError, match=rf"the graph of {k} neighbours of {n:,} cells .* use fewer neighbours"):
        planner.require_knn(n, d, k, graph + cells - 1)


def test_budget_bytes_is_the_limit_or_a_share_of_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "free_memory_bytes", lambda: 10 * GB)
    assert planner.budget_bytes(None) == 8 * GB
    assert planner.budget_bytes(20 * GB) == 20 * GB
    assert planner.budget_bytes(planner.MIN_BUDGET_BYTES) == 64 << 20
    with pytest.raises(InputError, match=r"allow at least 67\.1 MB"):
        planner.budget_bytes(planner.MIN_BUDGET_BYTES - 1)


@pytest.mark.parametrize(("system", "group", "free"), [(5, None, 5), (5, 3, 3), (5, 9, 5)])
def test_free_memory_respects_the_control_group(
    system: int, group: int | None, free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "system_free_bytes", lambda: system)
    monkeypatch.setattr(memory, "group_free_bytes", lambda: group)
    assert planner.free_memory_bytes() == free


@pytest.mark.parametrize(
    ("d", "itemsize", "rows"), [(50, 4, 335_544), (1, 8, 8 << 20), (0, 8, 64 << 20), (10**9, 8, 1)]
)
def test_read_block_rows_fills_64_mib(d: int, itemsize: int, rows: int) -> None:
    assert planner.read_block_rows(d, itemsize) == rows

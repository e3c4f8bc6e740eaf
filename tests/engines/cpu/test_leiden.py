"""Leiden in a process of its own: the same communities, stopped at once, its memory counted."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from gpubench.core.timeline import Timeline
from gpubench.core.types import Graph
from gpubench.engines.cpu import leiden
from gpubench.engines.cpu.engine import CpuEngine
from gpubench.engines.cpu.tuning import CpuTuning


@pytest.fixture
def graph() -> Graph:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(centre, 1, size=(150, 3)) for centre in (0, 3, 6)]).astype(np.float32)
    engine = CpuEngine(threads=1)
    return engine.fuzzy_graph(engine.knn(x, 10))


IN_A_PROCESS = CpuTuning(min_process_edges=0)


@pytest.mark.parametrize("both_directions", [True, False])
def test_communities_are_the_same_and_the_memory_is_counted(
    graph: Graph, both_directions: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning = CpuTuning(min_process_edges=0, edge_rows=100, max_bidirectional_cells=10**6 if both_directions else 0)
    here = leiden.communities(graph, 0.7, 2, 5, tuning)
    monkeypatch.delattr(leiden, "communities")
    monkeypatch.setattr("sys.path", [*sys.path, Path("no string")])  # which Python passes over
    timeline = Timeline()
    with timeline.stage("without") as without:
        pass
    with timeline.stage("leiden") as span:
        there = leiden.leiden([graph].pop, 0.7, 2, 5, timeline, tuning)
    np.testing.assert_array_equal(there, here)
    assert there.max() > 0
    if without.peak_bytes is not None:
        assert span.peak_bytes is not None
        assert span.peak_bytes - without.peak_bytes > 20e6  # an interpreter with NumPy and igraph


def test_small_graphs_are_clustered_in_this_process(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("subprocess.Popen")
    leiden.leiden([graph].pop, 1.0, 2, 0, Timeline())


def test_cancelling_the_run_ends_the_process(graph: Graph) -> None:
    timeline = Timeline()
    timeline.cancel_token.cancel(threading.current_thread())
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        leiden.leiden([graph].pop, 1.0, 2, 0, timeline, IN_A_PROCESS)
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        ("import os; os.kill(os.getpid(), 9)", MemoryError, "was killed, as a system does that is out of memory"),
        ("raise MemoryError('no room')", MemoryError, "ended with exit code 1: MemoryError: no room"),
        ("import no_such_package", RuntimeError, "ended with exit code 1: ModuleNotFoundError: No module named"),
        ("import os; os._exit(3)", RuntimeError, "ended with exit code 3: it said nothing"),
        ("import os; os.kill(os.getpid(), 15)", RuntimeError, "was ended by SIGTERM"),
    ],
)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs signals")
def test_a_process_that_fails_is_reported(
    how: str, error: type[Exception], said: str, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leiden, "_CHILD", how)
    with pytest.raises(error, match=said):
        leiden.leiden([graph].pop, 1.0, 2, 0, Timeline(), IN_A_PROCESS)

"""The Dask engine: what is its own. That it computes what the others do is tested with them, by `--engine dask`."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest
from cells import Cells, make_cells
from trace_format import violations

pytest.importorskip("distributed", reason="Dask is not installed")

from collections.abc import Iterator
from pathlib import Path

import dask.array
from distributed import LocalCluster
from distributed.system import MEMORY_LIMIT
from numpy.testing import assert_array_equal
from scipy import sparse
from shared_dask import shared_client

import gpubench as gb
from gpubench.core.errors import ClusterError, EngineUnavailable, InputError
from gpubench.core.machine import usable_cores
from gpubench.core.timeline import chrome_trace
from gpubench.data.locations import find_location
from gpubench.engines import get_engine, planner
from gpubench.engines.common.neighborhoods import (
    neighbor_chi_square,
    neighbor_entropy,
    neighbor_simpson,
    neighbor_value_distance,
)
from gpubench.engines.cpu.engine import CpuEngine
from gpubench.engines.dask import cluster as dask_cluster
from gpubench.engines.dask import connect
from gpubench.engines.dask.cluster import DaskTuning
from gpubench.engines.dask.engine import DaskEngine
from gpubench.engines.dask.placement import read_location
from gpubench.engines.dask.rank_sums import gene_parts
from gpubench.metrics.silhouette import silhouette_widths

N, K = 3_001, 15
"""Several parts of neighbours and of silhouettes, whose last ones are not full."""


@pytest.fixture(scope="module")
def cells() -> Cells:
    return make_cells(N, 20, n_labels=12, n_batches=4, seed=5)


@pytest.fixture
def engine() -> DaskEngine:
    return DaskEngine(cluster=shared_client())


@pytest.fixture
def own_cluster() -> Iterator[LocalCluster]:
    """Workers that a test may kill."""
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0", host="127.0.0.1") as cluster:
        yield cluster


@pytest.mark.slow
@pytest.mark.parametrize("form", [sparse.csr_array, sparse.csc_array, np.asarray])
def test_rank_sums_of_parts_have_the_bits_of_one_machine(engine: DaskEngine, form: Any) -> None:
    rng = np.random.default_rng(0)
    values = np.log1p(rng.poisson(0.5, (12_000, 300)))
    values[:, :5], values[:, -3:] = 0, 0  # whole genes without values
    groups = rng.integers(-1, 9, len(values))
    expected = CpuEngine(threads=1).rank_sums(form(values), groups, 9, 4)
    found = engine.rank_sums(form(values), groups, 9, 4)
    assert found.u.tobytes() == expected.u.tobytes()
    assert found.ties.tobytes() == expected.ties.tobytes()
    assert_array_equal(found.n_cells, expected.n_cells)


def test_parts_of_genes_cover_all_of_them() -> None:
    matrix = sparse.random_array((40, 31), density=0.2, format="csc", rng=np.random.default_rng(0))
    for n_parts in (1, 2, 5, 31, 60):
        parts = [sparse.csc_array(part[:3], shape=(40, len(part[2]) - 1)) for part in gene_parts(matrix, n_parts)]
        assert_array_equal(sparse.hstack(parts).toarray(), matrix.toarray())
        assert len(parts) >= min(n_parts, 5)


def test_rank_sums_of_put_cells_run_on_a_worker(engine: DaskEngine, cells: Cells) -> None:
    expected = CpuEngine(threads=1).rank_sums(cells.x, cells.label, 12, 3)
    found = engine.rank_sums(engine.put(cells.x), cells.label, 12, 3)
    assert found.u.tobytes() == expected.u.tobytes()
    assert found.ties.tobytes() == expected.ties.tobytes()


def computed(engine: Any, cells: Cells, x: Any) -> list[bytes]:
    """What is cut into tasks."""
    on = engine.put(x)
    knn = engine.knn(on, K)
    between = engine.knn_between(on[:701], on, K)
    some = np.arange(0, N, 3)
    answers = [
        *(knn.indices, knn.distances, between.indices, between.distances),
        silhouette_widths(engine, on, cells.label),
        silhouette_widths(engine, on, cells.batch, cells.label),
        silhouette_widths(engine, on, cells.batch, cells.label, cells=some),
        engine.cluster_distances(on, np.zeros_like(cells.label), cells.label)[0],
        engine.map_neighbors(knn, neighbor_entropy, cells.batch, 4),
        engine.map_neighbors(knn, neighbor_value_distance, cells.time, np.arange(N) % K + 1),
        engine.map_neighbors(knn, neighbor_simpson, cells.batch, 4, 5.0),
        engine.map_neighbors(knn, neighbor_chi_square, cells.batch, np.full(4, 0.25)),
        engine.leiden(engine.fuzzy_graph(knn)),
    ]
    return [np.asarray(answer).tobytes() for answer in answers]


@pytest.mark.slow
@pytest.mark.parametrize("n_workers", [1, 2, 3, 4])
def test_any_number_of_workers_has_cpu_bits(n_workers: int, cells: Cells) -> None:
    """Workers are threads of this process, which start at once; those of all other tests are two processes."""
    expected = computed(get_engine("cpu", threads=1), cells, cells.x)
    with LocalCluster(
        n_workers=n_workers, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
    ) as cluster:
        engine = DaskEngine(cluster=cluster)
        assert computed(engine, cells, cells.x) == expected


@pytest.mark.slow
def test_silhouette_of_one_large_and_many_tiny_clusters_has_cpu_bits(
    engine: DaskEngine, rng: np.random.Generator
) -> None:
    codes = np.concatenate([np.zeros(2500, np.int32), np.arange(1, N - 2500 + 1, dtype=np.int32)])
    x = rng.standard_normal((N, 7))
    groups = np.repeat(np.arange(3, dtype=np.int32), [2700, 300, 1])
    for given in ((codes, None), (codes, groups), (codes // 2, groups)):
        expected = silhouette_widths(get_engine("cpu"), x.astype(np.float32), *given)
        assert np.asarray(silhouette_widths(engine, engine.put(x), *given)).tobytes() == expected.tobytes()


def test_workers_hold_cells_sorted_for_one_column_only(engine: DaskEngine, cells: Cells) -> None:
    x = engine.put(cells.x)
    silhouette_widths(engine, x, cells.label)
    sorted_by_label = {future.key for future in x.sorted.rows}
    silhouette_widths(engine, x, cells.batch)
    until = time.monotonic() + 60  # Dask frees memory a moment later
    while sorted_by_label & {key for keys in engine.cluster.client.has_what().values() for key in keys}:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_values_of_cells_are_numpy_and_those_of_the_cpu(engine: DaskEngine, cells: Cells) -> None:
    score = gb.metrics.entropy_per_cell(cells.x, cells.batch, n_neighbors=16, engine=engine)
    assert isinstance(score.cells, np.ndarray)
    expected = gb.metrics.entropy_per_cell(cells.x, cells.batch, n_neighbors=16, engine="cpu")
    assert score == expected
    np.testing.assert_array_equal(score.cells, expected.cells)


def test_fetched_arrays_are_aligned(engine: DaskEngine) -> None:
    """NumPy adds the values of other arrays in another order."""
    one = engine.cluster.submit("arange", np.arange, 20_000, dtype=float)
    both = engine.cluster.submit("meshgrid", np.meshgrid, np.arange(9.0), np.arange(2_000.0))
    fetched = engine.cluster.fetch(one), *engine.cluster.fetch(both)
    assert all(array.flags.aligned for array in fetched)


def test_matrices_of_the_cluster_behave_as_numpy_arrays(engine: DaskEngine, rng: np.random.Generator) -> None:
    """Metrics are written for arrays: functions, operators, methods and writing give what they give on any."""
    host = rng.standard_normal((40, 3)).astype(np.float32)
    codes = np.arange(40, dtype=np.int32) % 4

    def compute(x: Any) -> list[Any]:
        y = x[5:30] * 2 - x[0]
        y -= y.mean(axis=0)
        y[y < 0] = 0
        y[np.asarray(y).max(axis=1) > 3, -1] = 9
        total = np.zeros(3)
        total += x.sum(axis=0, dtype=np.float64)
        parts = np.split(x[:, 0], [10, 15])
        unique = np.unique(x > 0, return_counts=True)[1]
        weighted = np.bincount(codes, weights=x[:, 1])
        median, ranks = np.median(x, axis=0), np.argsort(x[:, 2])
        more = [*parts, unique, weighted, median, ranks, x.T @ x, np.where(x > 0, x, 0), float(x.max()), x.tolist()]
        return [y, total, len(y), y.shape, y.dtype, y.ndim, *more]

    for found, expected in zip(compute(engine.put(host)), compute(host), strict=True):
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


@pytest.mark.slow
def test_score_has_cpu_values_and_times_of_workers(cells: Cells, tmp_path: Path) -> None:
    given: dict[str, Any] = {"label": cells.label.astype(str), "batch": cells.batch.astype(str), "time": cells.time}
    tasks = ["clustering", "embedding", "batch_integration", "sequential_organization"]
    np.save(tmp_path / "cells.npy", cells.x)
    path = str(tmp_path / "cells.npy")
    engine = DaskEngine(cluster=shared_client(), tuning=DaskTuning(collect_s=0))  # however fast the machine is
    found = gb.score(path, tasks=tasks, engine=engine, checkpoint=tmp_path / "out", **given)
    expected = gb.score(path, tasks=tasks, engine="cpu", **given)
    assert [(row.metric, row.value, row.note) for row in found.results] == [
        (row.metric, row.value, row.note) for row in expected.results
    ]
    assert not found.failures
    assert set(found.provenance["packages"]) - set(expected.provenance["packages"]) == {"dask", "distributed"}
    for column in expected.cells.columns:
        own = found.cells.find(column.metric, task=column.task)
        np.testing.assert_array_equal(own.values, column.values)
    busy = {share["worker"]: share["tasks"] for stage in found.timeline for share in stage.get("workers", ())}
    assert set(busy) <= {"worker 1", "worker 2"}
    assert busy
    assert not violations(chrome_trace(found.timeline))
    assert "127.0.0.1" not in str(found.provenance), "addresses are not for results"
    assert found.provenance["engine"]["chosen"] == "2 workers of 1 thread"


@pytest.mark.slow
def test_killing_the_only_worker_does_not_change_the_result(tmp_path: Path) -> None:
    cells = make_cells(20_000, 20, n_labels=12, n_batches=4, seed=5)
    np.save(tmp_path / "cells.npy", cells.x)
    engine = get_engine("dask", cluster=1)
    assert isinstance(engine, DaskEngine)
    x = engine.put(np.load(tmp_path / "cells.npy", mmap_mode="r"))
    (pid,) = engine.cluster.run_on_all(os.getpid).values()
    killer = threading.Timer(0.15, os.kill, (pid, signal.SIGKILL))
    killer.start()
    knn, widths = engine.knn(x, K), silhouette_widths(engine, x, cells.label)
    killer.join()
    assert pid not in engine.cluster.run_on_all(os.getpid).values()
    cpu = get_engine("cpu")
    expected = cpu.knn(cells.x, K)
    np.testing.assert_array_equal(np.asarray(knn.indices), expected.indices)
    np.testing.assert_array_equal(np.asarray(knn.distances), expected.distances)
    np.testing.assert_array_equal(np.asarray(widths), silhouette_widths(cpu, cells.x, cells.label))


@pytest.mark.slow
def test_lost_answers_are_computed_again() -> None:
    engine = DaskEngine(cluster=1, tuning=DaskTuning(lost_s=0.2))  # less than a worker takes to start
    answered, later = engine.cluster.submit_each("sleep", time.sleep, [(0.0,), (0.6,)])
    engine.cluster.wait([answered])
    (pid,) = engine.cluster.run_on_all(os.getpid).values()
    os.kill(pid, signal.SIGKILL)
    assert engine.cluster.fetch([answered, later]) == [None, None]
    assert pid not in engine.cluster.run_on_all(os.getpid).values()
    engine.close()


@pytest.mark.slow
def test_task_that_ends_workers_raises_with_stage_and_remedy() -> None:
    engine = DaskEngine(cluster=1, tuning=DaskTuning(allowed_failures=0))
    with engine.timeline.stage("knn"), pytest.raises(ClusterError, match=r"^stage knn: 1 worker.*more memory") as error:
        engine.cluster.fetch(engine.cluster.submit("knn", os._exit, 1))
    assert "\n" not in str(error.value)
    engine.close()


def test_lost_scheduler_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = DaskEngine(cluster=shared_client(), tuning=DaskTuning(lost_s=0.3))
    waiting = engine.cluster.submit("wait", time.sleep, 1.5)
    monkeypatch.setattr(dask_cluster, "is_running", lambda client: False)  # noqa: ARG005 - as it is
    with engine.timeline.stage("knn"), pytest.raises(ClusterError, match=r"^stage knn: the scheduler does not answer"):
        engine.cluster.wait([waiting])


def test_lost_scheduler_logs_no_traceback(engine: DaskEngine) -> None:
    assert engine.cluster.workers()
    assert not logging.getLogger("distributed.client").isEnabledFor(logging.ERROR)


@pytest.mark.slow
def test_worker_that_dask_gave_up_is_replaced() -> None:
    """It does where one does not come back in time, as when it ends again while it starts."""
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1ms"}):
        engine = DaskEngine(cluster=1, tuning=DaskTuning(ask_s=0.1))
        waiting = engine.cluster.submit("sleep", time.sleep, 0.5)
        (pid,) = engine.cluster.run_on_all(os.getpid).values()
        os.kill(pid, signal.SIGKILL)
        engine.cluster.wait([waiting])
        assert pid not in engine.cluster.run_on_all(os.getpid).values()
        engine.close()


@pytest.mark.slow
def test_ended_worker_that_dask_still_counts_is_replaced() -> None:
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1h"}):
        engine = DaskEngine(cluster=1, tuning=DaskTuning(ask_s=0.1, workerless_s=60.0))
        assert engine.cluster.started is not None
        started, _ = engine.cluster.started
        (nanny,) = started.workers.values()
        started.sync(nanny.close)
        assert engine.cluster.fetch(engine.cluster.submit("pid", os.getpid)) != os.getpid()
        engine.close()


@pytest.mark.slow
def test_cluster_without_workers_ends_the_run(own_cluster: LocalCluster) -> None:
    engine = DaskEngine(cluster=own_cluster, tuning=DaskTuning(ask_s=0.1, workerless_s=0.5))
    waiting = engine.cluster.submit("wait", time.sleep, 60)
    own_cluster.scale(0)
    with engine.timeline.stage("knn"), pytest.raises(ClusterError, match=r"^stage knn: all workers have ended"):
        engine.cluster.wait([waiting])


@pytest.mark.parametrize("name", ["numpy", "gpubench", "python"])
def test_check_versions_other_versions_raise(name: str) -> None:
    here = connect.versions_here()
    same, other = dict(here), {**here, name: "0.0"}
    connect.check_versions({"tcp://a:1": same}, here)
    with pytest.raises(EngineUnavailable, match=r"0\.0 on 1 of 2, first tcp://b:1\); install the same versions"):
        connect.check_versions({"tcp://a:1": same, "tcp://b:1": other}, here)


@pytest.mark.parametrize("cluster", [0, -1, 1.5, True, "nowhere.json", object()])
def test_invalid_cluster_raises(cluster: Any) -> None:
    with pytest.raises(InputError, match=r"^(cluster|workers)="):
        get_engine("dask", cluster=cluster)


@pytest.mark.parametrize(
    ("n_workers", "memory", "refusal"),
    [
        (1000, None, r"^workers=1000: 20\.0 GB of memory are too little, for each needs 250MB .*; start 80 at most$"),
        (5, 10**9, r"^workers=5: 1\.0 GB of memory .*; start 4 at most or raise `memory` to 1250MB$"),
        (2, 150 * 10**6, r"^workers=2: 150 MB of memory .* few cells; raise `memory` to 500MB$"),
    ],
)
def test_start_with_too_little_memory_raises(
    n_workers: int, memory: int | None, refusal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "free_memory_bytes", lambda: 20 * 10**9)
    with pytest.raises(InputError, match=refusal):
        connect.connect(n_workers, memory)


def test_check_limits_too_little_memory_raises() -> None:
    enough = {"tcp://a:1": {"memory_limit": 0}, "tcp://b:1": {"memory_limit": 250 * 10**6}}  # 0: without a limit
    connect.check_limits(enough)
    with pytest.raises(EngineUnavailable, match=r"^1 of 3 workers .* \(100 MB, first tcp://c:1\); .* 250MB or more$"):
        connect.check_limits({**enough, "tcp://c:1": {"memory_limit": 10**8}})


@pytest.mark.slow
def test_started_workers_divide_the_memory() -> None:
    engine = DaskEngine(cluster=usable_cores() + 2)
    limits = [worker["memory_limit"] for worker in engine.cluster.workers().values()]
    engine.close()
    assert 0 < sum(limits) <= MEMORY_LIMIT


@pytest.mark.slow
def test_started_workers_print_no_errors(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", np.full((300, 4), np.nan, np.float32))
    engine = DaskEngine(cluster=1)
    with pytest.raises(InputError, match="300 of 300 rows hold NaN"):
        engine.put(np.load(tmp_path / "x.npy", mmap_mode="r"))
    engine.close()
    assert capfd.readouterr().err == ""


INTERRUPTED = """
import asyncio, os, signal, sys
import distributed
from gpubench.engines.dask import connect

begun = []
instantiate = distributed.Nanny.instantiate

async def interrupted(self):
    begun.append(self)
    if len(begun) == 2:
        if sys.argv[1] == "group":
            await asyncio.sleep(0.3)
        os.kill(0 if sys.argv[1] == "group" else os.getpid(), signal.SIGINT)
    return await instantiate(self)

if __name__ == "__main__":
    distributed.Nanny.instantiate = interrupted
    try:
        connect.connect(3, None)
    except KeyboardInterrupt:
        print("interrupted")
"""
"""Ctrl-C is hit when the second of three workers is about to start, and in a terminal it goes to all processes."""


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["client", "group"])
def test_ctrl_c_while_workers_start_prints_no_traceback(tmp_path: Path, whom: str) -> None:
    (tmp_path / "start.py").write_text(INTERRUPTED)
    command = [sys.executable, tmp_path / "start.py", whom]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, start_new_session=True)
    assert (ran.stdout, ran.stderr) == ("interrupted\n", "")


def test_connect_without_scheduler_raises_in_one_line() -> None:
    with pytest.raises(EngineUnavailable, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9") as error:
        DaskEngine(cluster="tcp://127.0.0.1:9", tuning=DaskTuning(connect_s=0.5))
    assert "\n" not in str(error.value)


def test_cluster_with_another_engine_raises() -> None:
    with pytest.raises(InputError, match="a Dask cluster needs the engine dask, not cpu"):
        get_engine("cpu", cluster=2)


def test_put_cells_that_do_not_fit_raises(engine: DaskEngine, cells: Cells) -> None:
    engine.placement.worker_bytes = 100_000
    with pytest.raises(
        InputError, match=r"^X \(3,001 x 20\) takes .* on each of 2 workers in blocks, but .*; start more"
    ):
        engine.put(cells.x)


def test_put_invalid_file_raises(engine: DaskEngine, tmp_path: Path) -> None:
    x = np.zeros((900, 7), np.float32)
    x[[17, 400], 3] = np.nan
    np.save(tmp_path / "emb.npy", x)
    with pytest.raises(InputError, match=r"^emb: 2 of 900 rows .*17.*400"):
        engine.put(np.load(tmp_path / "emb.npy", mmap_mode="r"), "emb")
    (tmp_path / "emb.npy").unlink()


def test_read_file_that_workers_do_not_see_raises(engine: DaskEngine, tmp_path: Path) -> None:
    np.save(tmp_path / "emb.npy", np.zeros((900, 7), np.float32))
    x = np.load(tmp_path / "emb.npy", mmap_mode="r")
    place = find_location(x)
    assert place is not None
    (tmp_path / "emb.npy").rename(tmp_path / "elsewhere.npy")
    with pytest.raises(InputError, match=r"emb\.npy is not there for every worker; a path must mean the same"):
        read_location(engine.cluster, place, [0, 900], "emb")


@pytest.mark.parametrize("name", ["dask", "cpu"])
def test_put_dask_array_on_any_engine(engine: DaskEngine, cells: Cells, name: str) -> None:
    """Its chunks stay on the workers; another engine reads it in blocks."""
    x = dask.array.from_array(cells.x.astype(np.float64), chunks=(700, 8))
    on: Any = engine if name == "dask" else get_engine(name)
    expected = silhouette_widths(get_engine("cpu"), cells.x, cells.label)
    assert np.asarray(silhouette_widths(on, on.put(x), cells.label)).tobytes() == expected.tobytes()
    with pytest.raises(InputError, match=r"^emb: 1 of 10 rows"):
        on.put(dask.array.where(dask.array.arange(10, chunks=4)[:, None] == 7, np.nan, 0.0), "emb")


def test_put_without_a_shared_folder_sends_arrays_by_dask(engine: DaskEngine, cells: Cells) -> None:
    engine.cluster.transfer.close()
    engine.cluster.transfer.folder = None
    expected = silhouette_widths(get_engine("cpu"), cells.x, cells.label)
    assert np.asarray(silhouette_widths(engine, engine.put(cells.x), cells.label)).tobytes() == expected.tobytes()

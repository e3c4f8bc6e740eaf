"""GPUs of Dask's workers, on the host emulation of the CUDA engine: no GPU is used, nor the real dask-cuda.

Workers are threads of this process, so that they find the engine that the test has put in the place of the real one.
"""

from __future__ import annotations

import shutil
import sys
import uuid
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cells import Cells, make_cells

pytest.importorskip("distributed", reason="Dask is not installed")

from collections.abc import Iterator

from distributed import LocalCluster
from emulated import EmulatedDevice, emulate_in_session, start
from hypothesis import given
from hypothesis import strategies as st

import gpubench as gb
from gpubench.core.errors import EngineUnavailable, InputError
from gpubench.engines import get_engine
from gpubench.engines.common import segments as segments_module
from gpubench.engines.common.kmeans import kmeans
from gpubench.engines.common.neighborhoods import (
    neighbor_chi_square,
    neighbor_entropy,
    neighbor_simpson,
    neighbor_value_distance,
)
from gpubench.engines.common.segments import Pass
from gpubench.engines.cuda import silhouette
from gpubench.engines.cuda.engine import CudaEngine
from gpubench.engines.cuda.workspace import CudaTuning
from gpubench.engines.dask import connect, gpu_engine, gpu_worker
from gpubench.engines.dask.gpu_engine import DaskGpuEngine, rows_per_task, share_rows
from gpubench.engines.dask.gpu_worker import check_alike
from gpubench.metrics.silhouette import silhouette_widths

K = 7
GPU = {"gpu": "GPU", "packages": "cupy-cuda13x 14.0"}

needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="the emulation needs a C++ compiler")


@pytest.fixture(scope="module")
def cells() -> Cells:
    return make_cells(130, 9, n_labels=4, n_batches=3, duplicates=0.2, seed=2)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> CudaEngine:
    """The engine of one emulated GPU, which is that of every worker as well."""
    monkeypatch.setattr(gpu_engine, "MIN_ROWS", 1)
    monkeypatch.setattr(gpu_engine, "MIN_PRODUCTS", 0)
    tuning = CudaTuning(max_tile_rows=32, rows_per_search=40)
    engine = start(EmulatedDevice(emulate_in_session(), free_bytes=1 << 30), tuning=tuning)
    monkeypatch.setattr(gpu_worker, "cuda_engine", lambda _: engine)
    monkeypatch.setattr(gpu_worker, "gpu_here", lambda: {**GPU, "place": uuid.uuid4().hex})
    return engine


@pytest.fixture
def engine(cuda: CudaEngine) -> Iterator[DaskGpuEngine]:
    assert cuda
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster:
        cluster.wait_for_workers(2)
        found = get_engine("dask", cluster=cluster)
        assert isinstance(found, DaskGpuEngine)
        yield found
        found.close()


@pytest.mark.slow
@needs_compiler
def test_all_operations_have_cuda_bits(cuda: CudaEngine, engine: DaskGpuEngine, cells: Cells) -> None:
    """Of every operation; rows in the middle of copies of cells included, which push a cell out of its own list."""

    def computed(of: Any) -> dict[str, bytes]:
        on = of.put(cells.x)
        knn = of.knn(on, K)
        between = of.knn_between(of.put(cells.x[:31]), on, K)
        graph = of.fuzzy_graph(knn)
        some = np.arange(0, len(cells.x), 3)
        head = type(knn)(knn.indices[:, :3], knn.distances[:, :3])
        answers = {
            "neighbours": knn.indices,
            "distances": knn.distances,
            "between": between.indices,
            "between distances": between.distances,
            "widths": silhouette_widths(of, on, cells.label),
            "within": silhouette_widths(of, on, cells.batch, cells.label),
            "sampled": silhouette_widths(of, on, cells.batch, cells.label, cells=some),
            "cosine": silhouette_widths(of, on, cells.label, metric="cosine"),
            "means": of.cluster_distances(on, np.zeros_like(cells.label), cells.label)[0],
            "entropy": of.map_neighbors(knn, neighbor_entropy, cells.batch, 3),
            "entropy of few": of.map_neighbors(head, neighbor_entropy, cells.batch, 3),
            "time": of.map_neighbors(knn, neighbor_value_distance, cells.time, np.arange(len(cells.x)) % K + 1),
            "time of all": of.map_neighbors(knn, neighbor_value_distance, cells.time),
            "simpson": of.map_neighbors(knn, neighbor_simpson, cells.batch, 3, 2.0),
            "chi": of.map_neighbors(knn, neighbor_chi_square, cells.batch, np.full(3, 1 / 3)),
            "weights": graph.weights,
            "leiden": of.leiden(graph),
            "kmeans": of.run(kmeans, on, 4),
            "group means": of.group_means(on, cells.label, 4),
        }
        return {name: np.asarray(of.to_host(answer)).tobytes() for name, answer in answers.items()}

    found, expected = computed(engine), computed(cuda)
    assert [name for name in expected if found[name] != expected[name]] == []
    assert engine.notes == cuda.notes


@needs_compiler
def test_silhouette_in_several_passes_has_cuda_bits(
    cuda: CudaEngine, engine: DaskGpuEngine, cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    clusters = np.arange(cells.n, dtype=np.int32) // 12
    expected = silhouette_widths(cuda, cuda.put(cells.x), clusters).tobytes()
    n_passes = []

    def passes(segments: Any, blocks: Any, _: int) -> Any:
        parts = list(segments_module.passes(segments, blocks, 1))
        n_passes.append(len(parts))
        return parts

    monkeypatch.setattr(silhouette, "passes", passes)
    assert np.asarray(silhouette_widths(engine, engine.put(cells.x), clusters)).tobytes() == expected
    assert n_passes[0] > 1


@given(n=st.integers(1, 60), n_shares=st.integers(1, 9), first=st.integers(0, 5))
def test_share_rows_divides_tiles_evenly(n: int, n_shares: int, first: int) -> None:
    part = Pass(first, first + n, 0, first + n)
    shares = [share_rows(part, share, n_shares) for share in range(n_shares)]
    assert sorted(i for share in shares for i in share) == list(range(first, first + n))
    n_tiles = [sum(part.group_last - i for i in share) for share in shares]
    assert max(n_tiles) - min(n_tiles) <= n  # one row of tiles


@needs_compiler
@pytest.mark.parametrize("kind", ["lr", "knn"])
def test_classifiers_have_cuda_bits(cuda: CudaEngine, engine: DaskGpuEngine, cells: Cells, kind: Any) -> None:
    def answered(of: Any) -> np.ndarray:
        x = of.put(cells.x)
        trained = of.classifier(kind).fit(x[:100], cells.label[:100], 4)
        return np.asarray(of.to_host(trained.predict_proba(x[100:])))

    np.testing.assert_array_equal(answered(engine), answered(cuda))


@pytest.mark.slow
@needs_compiler
def test_provenance_names_the_gpus(engine: DaskGpuEngine, cells: Cells) -> None:
    given: dict[str, Any] = {"label": cells.label.astype(str), "batch": cells.batch.astype(str)}
    result = gb.score(cells.x, tasks=["clustering", "embedding", "batch_integration"], engine=engine, **given)
    assert not result.failures
    recorded = result.provenance["engine"]
    assert recorded["chosen"] == "2 workers of 1 thread and one GPU each: cuda, which all have"
    assert recorded["device"] == "workers of a Dask cluster, GPU"
    expected = gb.score(cells.x, tasks=["embedding", "batch_integration"], engine="cpu", **given)
    values = {row.metric: row.value for row in result.results}
    for row in expected.results:
        assert values[row.metric] == pytest.approx(row.value, abs=1e-5)
    with pytest.raises(InputError, match="has no plan"):
        gb.plan(cells.x, tasks=["embedding"], engine=engine, **given)


@pytest.mark.slow
@needs_compiler
def test_cells_are_copied_to_a_gpu_once_until_released(
    cuda: CudaEngine, engine: DaskGpuEngine, cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[int] = []
    put = cuda.put
    monkeypatch.setattr(cuda, "put", lambda x, *args: copied.append(len(x)) or put(x, *args))
    x = engine.put(cells.x)
    for _ in range(2):
        silhouette_widths(engine, x, cells.label)
        engine.knn(x, 3)
    assert copied == [len(cells.x)]
    assert not cuda._checked, "the engine of the worker holds no array"
    engine.release(x)
    silhouette_widths(engine, engine.put(cells.x), cells.label)
    assert len(copied) == 2


@pytest.mark.slow
@needs_compiler
def test_put_cells_that_do_not_fit_a_worker_raises(engine: DaskGpuEngine, cells: Cells) -> None:
    engine.placement.worker_bytes = 2 * cells.x.nbytes
    with pytest.raises(
        InputError, match=r"^emb \(130 x 9\) does not fit the host memory of a worker .* hold all cells"
    ):
        engine.put(cells.x, "emb")


def test_rows_per_task_fill_a_gpu() -> None:
    assert rows_per_task(1_000_000, 1_000_000, 50, 8) == 31_250
    assert rows_per_task(10_000, 10_000, 50, 8) == gpu_engine.MIN_ROWS
    assert 1e8 / rows_per_task(10**8, 10**8, 50, 64) < 80_000


def test_workers_without_gpus_use_cpus() -> None:
    none = {"gpu": "", "why": "no driver"}
    assert check_alike({"tcp://a:1": none, "tcp://b:1": none}) == ""
    found = gpu_worker.gpu_here()
    assert found["gpu"] == ""
    assert found["why"].startswith("engine 'cuda' needs")


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"gpu": "", "why": "no driver"}, r"^1 of 2 workers have no GPU that works \(first tcp://b:1: no driver\)"),
        ({**GPU, "gpu": "Other", "place": "2"}, r"^workers have different GPUs \(GPU; Other\)"),
        ({**GPU, "packages": "", "place": "2"}, r"^workers have different packages"),
        ({**GPU, "place": "1"}, r"^several workers use the same GPU; start one worker for each"),
    ],
)
def test_check_alike_mixed_workers_raise(others: dict[str, str], message: str) -> None:
    with pytest.raises(EngineUnavailable, match=message) as error:
        check_alike({"tcp://a:1": {**GPU, "place": "1"}, "tcp://b:1": others})
    assert "\n" not in str(error.value)


class Started(Exception):
    """Carries the arguments of the cluster that would have been started."""


def _fake_dask_cuda(monkeypatch: pytest.MonkeyPatch, n_gpus: int) -> None:
    def begin(**arguments: Any) -> None:
        raise Started(arguments)

    monkeypatch.setattr(connect, "usable_gpus", lambda: n_gpus)
    monkeypatch.setattr(connect, "find_spec", lambda _: object())
    monkeypatch.setitem(sys.modules, "dask_cuda", SimpleNamespace(LocalCUDACluster=begin))


@pytest.mark.parametrize(("asked", "started"), [(2, 2), (1, 1), (None, 2)])
def test_started_workers_have_a_gpu_each(asked: int | None, started: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The arguments are those that dask-cuda documents; its cluster itself was not started here."""
    _fake_dask_cuda(monkeypatch, 2)
    with pytest.raises(Started) as called:
        connect.connect(asked, 10**9)
    assert called.value.args[0] == {
        "n_workers": started,
        "threads_per_worker": 1,
        "memory_limit": 10**9 // started,
        "host": "127.0.0.1",
        "dashboard_address": "127.0.0.1:0",
        "preload": ["gpubench.engines.dask.worker"],
    }


def test_start_without_enough_gpus_or_dask_cuda_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_dask_cuda(monkeypatch, 2)
    with pytest.raises(InputError, match=r"^workers=3: this machine has 2 GPUs, one for each worker"):
        connect.connect(3, None)
    monkeypatch.setattr(connect, "find_spec", lambda _: None)
    with pytest.raises(EngineUnavailable, match=r'pip install "gpubench-sc\[dask-cuda\]"'):
        connect.connect(2, None)


def test_what_is_wrong_on_one_worker_stays_in_the_record() -> None:
    engine, right = DaskGpuEngine.__new__(DaskGpuEngine), {"rank/kernel": "right", "lr/products": "right"}
    facts = {"a": ([], right | {"rank/kernel": "1 of 5 ranks differ"}), "b": ([], right)}
    calls = {"submit": lambda *_: None, "wait": lambda _: None, "run_on_all": lambda *_: facts}
    engine.notes, engine._verified = [], {}
    engine.cluster, engine._settings = SimpleNamespace(**calls), None  # type: ignore[assignment]
    engine._submit("leiden")
    assert engine.verified() == {"lr/products": "right", "rank/kernel": "1 of 5 ranks differ"}

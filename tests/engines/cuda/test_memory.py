"""One owner of the GPU's memory, in every thread the engine's device: with a stand-in for CuPy and fake libraries."""

from __future__ import annotations

import gc
import sys
import threading
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import strict_cupy
from cells import Cells, make_cells
from emulated import EmulatedDevice, StartOn, emulate_in_session, start

import gpubench as gb
from gpubench.core.errors import OutOfMemory
from gpubench.core.timeline import Timeline
from gpubench.engines.cuda.device import Device
from gpubench.profiling import child
from gpubench.running.interrupt import run_interruptible


@pytest.fixture(scope="module")
def cells() -> Cells:
    return make_cells(60, 4, n_labels=3, seed=4)


class Rmm:
    """A stand-in for RMM: resources of devices, at first cudaMalloc.

    Attributes
    ----------
    resources : number of a device -> what RMM allocates from there
    """

    class CudaMemoryResource: ...

    class PoolMemoryResource: ...

    class CudaAsyncViewMemoryResource:
        def __init__(self, pool: Any) -> None:
            assert isinstance(pool, SimpleNamespace), "RMM refuses a number"
            self.pool = pool.handle

    def __init__(self) -> None:
        self.resources: dict[int, Any] = {}

    def get_per_device_resource(self, number: int) -> Any:
        return self.resources.setdefault(number, self.CudaMemoryResource())

    def set_per_device_resource(self, number: int, resource: Any) -> None:
        self.resources[number] = resource

    def allocate(self, n_bytes: int) -> Any:
        """Allocate for CuPy, from the resource of the current device."""
        resource = self.get_per_device_resource(strict_cupy.thread.device)
        if isinstance(resource, self.CudaAsyncViewMemoryResource):
            return strict_cupy.malloc_async(n_bytes)
        gpu = strict_cupy.current_gpu()
        gpu.take(n_bytes)
        return strict_cupy._Memory(n_bytes, gpu.give)


def install(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    module.__dict__.update(content)
    monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def rmm(monkeypatch: pytest.MonkeyPatch) -> Rmm:
    """Install the stand-ins for RMM and the bindings of CUDA."""
    fake = Rmm()

    def rmm_cupy_allocator(n_bytes: int) -> Any:
        return fake.allocate(n_bytes)

    rmm_cupy_allocator.__module__ = "rmm.allocators.cupy"
    install(monkeypatch, "rmm", mr=fake)
    install(monkeypatch, "rmm.allocators")
    install(monkeypatch, "rmm.allocators.cupy", rmm_cupy_allocator=rmm_cupy_allocator)
    install(monkeypatch, "cuda")
    install(monkeypatch, "cuda.bindings")
    install(monkeypatch, "cuda.bindings.runtime", cudaMemPool_t=lambda handle: SimpleNamespace(handle=handle))
    return fake


def make_device(number: int = 0) -> Device:
    return Device(strict_cupy.make_cupy(), number)  # type: ignore[arg-type]


class TestOwner:
    def test_cupy_and_rmm_allocate_from_the_pool_of_the_driver(self, rmm: Rmm) -> None:
        device, gpu = make_device(1), strict_cupy.process.gpus[1]
        assert rmm.resources[1].pool == device.xp.cuda.runtime.deviceGetMemPool(1)
        device.current()
        kept = device.xp.zeros(5000, np.uint8)
        assert (gpu.used, gpu.other_bytes) == (kept.nbytes, 0)
        assert gpu.threshold > strict_cupy.TOTAL_BYTES, "the driver keeps what is freed"
        assert 0 not in rmm.resources

    def test_free_and_peak_are_those_of_the_pool(self) -> None:
        device = make_device()
        kept = device.xp.zeros(5000, np.uint8)
        device.xp.zeros(3000, np.uint8)
        gc.collect()
        assert device.free_bytes() == strict_cupy.TOTAL_BYTES - kept.nbytes
        assert device.xp.cuda.runtime.memGetInfo()[0] == strict_cupy.TOTAL_BYTES - 8000, "unused memory is kept"
        assert [device.peak_bytes(), device.peak_bytes()] == [8000, 5000]

    @pytest.mark.usefixtures("rmm")
    def test_import_that_changes_the_allocator_is_undone(
        self, start_on: StartOn, cells: Cells, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """As importing cuML does, through cuDF."""
        engine = start_on()
        (tmp_path / "cuml").mkdir()
        (tmp_path / "cuml" / "__init__.py").write_text(
            "import cupy\n"
            "from rmm.allocators.cupy import rmm_cupy_allocator\n"
            "cupy.cuda.set_allocator(rmm_cupy_allocator)\n"
        )
        (tmp_path / "cuml" / "ensemble.py").write_text(
            "import cupy\n"
            "class RandomForestClassifier:\n"
            "    def __init__(self, **given): pass\n"
            "    def fit(self, x, y): pass\n"
            "    def predict_proba(self, x): return cupy.zeros((len(x), 3))\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setitem(sys.modules, "cupy", engine.xp)
        for name in ("cuml", "cuml.ensemble"):  # what is imported now is forgotten after the test
            monkeypatch.setitem(sys.modules, name, None)
            del sys.modules[name]
        x = engine.put(cells.x)
        engine.classifier("rf").fit(x, cells.label, 3).predict_proba(x)
        assert "cuml" in sys.modules
        assert engine.xp.cuda.get_allocator() == engine.gpu.memory.allocate
        gpu, before = strict_cupy.current_gpu(), strict_cupy.current_gpu().used
        kept = engine.xp.zeros(1000, np.uint8)
        assert gpu.used - before == len(kept)

    @pytest.mark.usefixtures("rmm")
    def test_arrays_of_rmm_count_where_someone_else_imports_cudf(self) -> None:
        device = make_device()
        device.xp.cuda.set_allocator(sys.modules["rmm.allocators.cupy"].rmm_cupy_allocator)
        kept = device.xp.zeros(5000, np.uint8)
        assert device.free_bytes() == strict_cupy.TOTAL_BYTES - kept.nbytes
        assert device.peak_bytes() == 5000

    def test_pool_that_the_user_gave_rmm_stays_and_cupy_uses_it(self, rmm: Rmm) -> None:
        pool = rmm.PoolMemoryResource()
        rmm.set_per_device_resource(0, pool)
        device = make_device()
        assert rmm.resources[0] is pool
        assert device.xp.cuda.get_allocator().__module__ == "rmm.allocators.cupy"
        kept = device.xp.zeros(5000, np.uint8)
        assert device.free_bytes() == strict_cupy.TOTAL_BYTES - kept.nbytes

    def test_allocator_that_the_user_gave_cupy_stays(self, rmm: Rmm) -> None:
        def managed(n_bytes: int) -> Any:
            return strict_cupy.malloc_async(n_bytes)

        strict_cupy.set_allocator(managed)
        assert make_device().xp.cuda.get_allocator() is managed
        assert isinstance(rmm.get_per_device_resource(0), rmm.CudaMemoryResource)

    def test_second_engine_uses_the_same_pool(self, rmm: Rmm) -> None:
        first, second = make_device(), make_device()
        assert isinstance(rmm.resources[0], rmm.CudaAsyncViewMemoryResource)
        assert second.xp.cuda.get_allocator() == second.memory.allocate
        kept = first.xp.zeros(5000, np.uint8)
        assert first.free_bytes() == second.free_bytes() == strict_cupy.TOTAL_BYTES - kept.nbytes

    def test_device_without_pools_uses_that_of_cupy(self) -> None:
        strict_cupy.current_gpu().supports_pools = False
        device = make_device()
        kept = device.xp.zeros(5000, np.uint8)
        device.xp.zeros(3000, np.uint8)
        assert device.free_bytes() == strict_cupy.TOTAL_BYTES - kept.nbytes
        assert device.peak_bytes() == 8000
        with device.library():
            assert strict_cupy.current_gpu().other_bytes == kept.nbytes

    def test_rmm_that_cannot_be_imported_is_noted(
        self, start_on: StartOn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "rmm").mkdir()
        (tmp_path / "rmm" / "__init__.py").write_text("raise OSError('librmm.so')")
        monkeypatch.syspath_prepend(tmp_path)
        assert start_on().notes == [
            "rmm, which allocates for cuML and cuGraph, cannot be imported (OSError: librmm.so)"
        ]


class TestLibraries:
    def test_pool_is_emptied_and_work_is_done_before_a_library_is_called(self) -> None:
        device, gpu = make_device(), strict_cupy.current_gpu()
        kept = device.xp.zeros(5000, np.uint8)
        device.xp.zeros(3000, np.uint8)
        gc.collect()
        stream = device.xp.cuda.get_current_stream()
        before = stream.n_synchronized
        assert gpu.reserved == 8000
        with device.library():
            assert gpu.reserved == kept.nbytes
            assert stream.n_synchronized > before

    def test_memory_that_cupy_kept_before_the_engine_started_is_given_back(self) -> None:
        strict_cupy.make_cupy().zeros(3000, np.uint8)
        gc.collect()
        assert strict_cupy.current_gpu().other_bytes == 3000
        assert make_device().free_bytes() == strict_cupy.TOTAL_BYTES

    def test_memory_error_comes_after_unused_memory_was_collected(self) -> None:
        device, gpu = make_device(), strict_cupy.current_gpu()
        gpu.total_bytes = 10_000
        loop: list[Any] = [device.xp.zeros(8000, np.uint8)]
        loop.append(loop)
        del loop
        kept = device.xp.zeros(9000, np.uint8)
        assert gpu.used == kept.nbytes
        with pytest.raises(MemoryError, match="an array of 2,000 bytes does not fit the GPU"):
            device.xp.zeros(2000, np.uint8)

    def test_memory_error_of_a_run_says_what_to_do(self, start_on: StartOn, cells: Cells) -> None:
        engine = start_on()
        strict_cupy.current_gpu().total_bytes = 1000
        with pytest.raises(
            OutOfMemory, match=r"^out of memory \(an array of .* does not fit the GPU\); use fewer cells"
        ):
            gb.score(cells.x, label=cells.label.astype(str), tasks="embedding", engine=engine)


class TestThreads:
    """The engine is on the second device; threads start on the first one."""

    @pytest.fixture
    def engine(self) -> Any:
        with strict_cupy.Device(1):
            return start(EmulatedDevice(emulate_in_session(), number=1), timeline=Timeline())

    def test_run_works_on_the_device_of_the_engine(self, engine: Any, cells: Cells) -> None:
        given = {"label": cells.label.astype(str), "tasks": ["embedding", "clustering"], "n_neighbors": 9}
        result = gb.score(cells.x, engine=engine, **given)
        assert result.failures == []
        assert strict_cupy.process.gpus[0].used == strict_cupy.process.gpus[0].other_bytes == 0
        assert strict_cupy.process.gpus[1].high > 0
        assert strict_cupy.thread.device == 0, "the device of the caller stays"

    def test_array_of_that_device_is_scored_in_place(self, engine: Any, cells: Cells) -> None:
        with strict_cupy.Device(1):
            x = engine.xp.asarray(cells.x)
        result = gb.score({"X": x}, engine=engine, label=cells.label.astype(str), tasks="embedding")
        assert sum(span["put_bytes"] for span in result.timeline) == 0

    def test_metrics_of_any_thread_work_on_the_device_of_the_engine(self, engine: Any, cells: Cells) -> None:
        found: list[float] = []

        def compute() -> None:
            found.append(gb.metrics.silhouette_label(cells.x, cells.label, engine=engine))

        thread = threading.Thread(target=compute)
        thread.start()
        thread.join()
        assert found == [pytest.approx(gb.metrics.silhouette_label(cells.x, cells.label, engine="cpu"), abs=1e-5)]

    def test_run_uses_the_stream_of_its_caller(self, engine: Any) -> None:
        with strict_cupy.Device(1):
            stream = engine.xp.cuda.Stream(non_blocking=True).use()
        seen = run_interruptible(
            lambda: (strict_cupy.thread.device, engine.xp.cuda.get_current_stream()), engine.timeline
        )
        assert seen == (1, stream)

    def test_measuring_limits_uses_the_device_in_its_threads(
        self, engine: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in {"SECONDS": 0.01, "COPY_BYTES": 1 << 16, "DISTANCES": (64, 8), "EDGES": (64,)}.items():
            monkeypatch.setattr(child, name, value)
        assert child.measure_limits(engine, 1).bytes_s > 0

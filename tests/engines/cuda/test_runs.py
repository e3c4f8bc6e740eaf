"""The CUDA engine on the host emulation: start, put, missing or failing packages, and whole runs."""

from __future__ import annotations

import inspect
import json
import sys
import warnings
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import strict_cupy
from cells import Cells, make_cells
from emulated import StartOn
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array

import gpubench as gb
from gpubench.cli.main import main
from gpubench.core.errors import EngineUnavailable, InputError, OutOfMemory
from gpubench.core.timeline import Timeline
from gpubench.core.types import Graph
from gpubench.datasets import demo_path
from gpubench.engines import get_engine, planner
from gpubench.engines.cpu import forest as cpu_forest
from gpubench.engines.cpu.engine import CpuEngine
from gpubench.engines.cuda import device as cuda_device
from gpubench.engines.cuda import graphs
from gpubench.engines.cuda.device import Device
from gpubench.engines.cuda.engine import CudaEngine
from gpubench.engines.cuda.workspace import CudaTuning
from gpubench.profiling import child


@pytest.fixture(scope="module")
def cells() -> Cells:
    return make_cells(150, 6, n_labels=3, n_batches=2, duplicates=0.05, seed=4)


def fake_module(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    """Install a module with this content."""
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    module.__dict__.update(content)
    monkeypatch.setitem(sys.modules, name, module)


def broken_package(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, source: str) -> None:
    """Install a package whose import runs this source."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(source)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, name, raising=False)


def raising(status: int) -> Callable[[], None]:
    """Return a function of the CUDA runtime that fails with an error."""

    def fail() -> None:
        raise strict_cupy.CUDARuntimeError(status, "cudaError")

    return fail


class TestStart:
    """Messages of `get_engine` without a GPU, and with a missing piece."""

    @pytest.fixture
    def cupy(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
        """A machine with a driver and a CuPy with one device."""
        module = strict_cupy.make_cupy()
        monkeypatch.setattr(cuda_device, "cache_folder", lambda: tmp_path)
        monkeypatch.setattr(cuda_device, "driver_version", lambda: "12.4")
        monkeypatch.setattr(cuda_device, "find_spec", lambda name: name)
        monkeypatch.setitem(sys.modules, "cupy", module)
        return module

    @pytest.mark.usefixtures("cupy")
    def test_engine_starts_with_its_options(self) -> None:
        engine = get_engine("cuda", seed=5, precision="fast", memory_bytes=1 << 30)
        assert (engine.name, engine.seed, engine.policy.precision, engine.memory_bytes) == ("cuda", 5, "fast", 1 << 30)
        assert engine.device == "Stand-in, 4 GiB free"
        assert engine.chosen == ""

    @pytest.mark.usefixtures("cupy")
    def test_auto_chooses_the_gpu_and_reports_it(self) -> None:
        engine = get_engine()
        assert (engine.name, engine.chosen) == ("cuda", "auto: there is a GPU")

    @pytest.mark.usefixtures("cupy")
    def test_each_knn_method_can_be_chosen(self) -> None:
        for knn in ("auto", "exact", "ivf"):
            for name in ("auto", "cuda"):
                engine = get_engine(name, knn=knn)
                assert (engine.name, engine.policy.knn_method) == ("cuda", knn)

    def test_missing_driver_is_reported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cuda_device, "driver_version", lambda: None)
        self.check("this machine has no NVIDIA driver")

    @pytest.mark.parametrize(("driver", "extra"), [("12.4", "cuda12"), ("13.0", "cuda13")])
    def test_missing_cupy_is_reported_with_its_extra(
        self, monkeypatch: pytest.MonkeyPatch, driver: str, extra: str
    ) -> None:
        monkeypatch.setattr(cuda_device, "driver_version", lambda: driver)
        monkeypatch.setattr(cuda_device, "find_spec", lambda _: None)
        self.check(f'needs CuPy; install it with: pip install "gpubench-sc[{extra}]"')

    @pytest.mark.usefixtures("cupy")
    def test_broken_cupy_is_reported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "cupy", None)
        self.check(r'import of cupy halted.* install it again for CUDA 12.4 with: pip install "gpubench-sc\[cuda12\]"')

    def test_missing_nvrtc_is_reported(self, cupy: SimpleNamespace) -> None:
        def fail() -> None:
            raise RuntimeError("CuPy failed to load libnvrtc.so.12:\n cannot open shared object file")

        cupy.cuda.nvrtc.getVersion = fail
        self.check("libnvrtc.so.12: cannot open shared object file")

    @pytest.mark.parametrize(
        ("status", "message"),
        [
            (100, "needs a GPU, but the driver shows none; see CUDA_VISIBLE_DEVICES (CUDA_VISIBLE_DEVICES='7')"),
            (101, "there is none of that number; see CUDA_VISIBLE_DEVICES (CUDA_VISIBLE_DEVICES='7')"),
            (46, "another process has exclusive use of the GPU; end it, or choose another GPU"),
            (2, "other processes have taken the memory of the GPU"),
            (802, "the system is not ready for CUDA; start the service nvidia-fabricmanager"),
            (803, "the NVIDIA driver was updated while it was loaded; restart the machine"),
            (35, 'install it again for CUDA 12.4 with: pip install "gpubench-sc[cuda12]"'),
        ],
    )
    def test_device_that_cannot_be_used_is_reported_with_a_remedy(
        self, cupy: SimpleNamespace, status: int, message: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As CUDA does where no GPU is visible, where one is busy, and where the driver is older than the wheels."""
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")

        def fail() -> None:
            raise strict_cupy.CUDARuntimeError(status, "cudaError")

        cupy.cuda.runtime.getDeviceCount = fail
        self.check(message)

    @pytest.mark.usefixtures("cupy")
    def test_old_driver_is_reported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cuda_device, "driver_version", lambda: "11.8")
        self.check("needs a driver for CUDA 12 or newer, this one is for CUDA 11.8; update the NVIDIA driver")

    def test_hidden_gpus_are_reported(self, cupy: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        cupy.cuda.runtime.getDeviceCount = raising(100)
        self.check("the driver shows none; see CUDA_VISIBLE_DEVICES (CUDA_VISIBLE_DEVICES='')")

    def test_part_of_a_gpu_is_a_gpu(self, cupy: SimpleNamespace) -> None:
        """A slice that MIG made has a name and a memory of its own."""
        whole = cupy.cuda.runtime.getDeviceProperties(0)
        cupy.cuda.runtime.getDeviceProperties = lambda _: {**whole, "name": b"NVIDIA H200 MIG 1g.18gb"}
        strict_cupy.current_gpu().total_bytes = 1 << 30
        engine = get_engine("cuda")
        assert engine.device == "NVIDIA H200 MIG 1g.18gb, 1 GiB free"
        assert engine.memory_bytes < 1 << 30

    @pytest.mark.parametrize("command", [["score", str(demo_path()), "--engine", "cuda"], ["doctor", "--gpu"]])
    def test_command_prints_one_line_and_exits_with_2(
        self, cupy: SimpleNamespace, command: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        cupy.cuda.runtime.getDeviceCount = raising(46)
        assert main(command) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "another process has exclusive use of the GPU" in line

    def test_missing_memory_is_reported(self, cupy: SimpleNamespace) -> None:
        def fail() -> None:
            raise strict_cupy.CUDARuntimeError(2, "cudaErrorMemoryAllocation")

        cupy.cuda.runtime.memGetInfo = fail
        self.check("other processes have taken the memory of the GPU")

    def test_old_device_is_reported(self, cupy: SimpleNamespace) -> None:
        old = strict_cupy.make_cupy((7, 0)).cuda.runtime.getDeviceProperties(0)
        cupy.cuda.runtime.getDeviceProperties = lambda _: old
        self.check("needs compute capability 7.5, Stand-in has 7.0")

    def check(self, message: str) -> None:
        """A named engine raises a message of one line; "auto" takes the CPU and records why."""
        with pytest.raises(EngineUnavailable) as error:
            get_engine("cuda")
        assert "\n" not in str(error.value)
        assert error.match(message) if "\\" in message else message in str(error.value)
        chosen = get_engine()
        assert chosen.name == "cpu"
        assert chosen.chosen == f"auto: {error.value}"


class TestPut:
    def test_put_copies_blocks_through_pinned_memory(self, engine: CudaEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(planner, "READ_BLOCK_BYTES", 1000)
        x = np.random.default_rng(0).normal(size=(333, 7))
        with engine.timeline.stage("all") as stage:
            on_device = engine.put(x)
        assert_array_equal(engine.to_host(on_device), x.astype(np.float32))
        assert stage.put_bytes == 4 * x.size

    @pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int32])
    def test_array_on_the_gpu_is_not_copied(self, engine: CudaEngine, dtype: type) -> None:
        x = engine.xp.asarray(np.arange(12, dtype=dtype).reshape(3, 4))
        with engine.timeline.stage("all") as stage:
            on_device = engine.put(x)
        assert stage.put_bytes == 0
        assert on_device.dtype == np.float32
        assert dtype != np.float32 or on_device is x
        assert engine.put(on_device) is on_device

    def test_dlpack_array_of_this_gpu_is_adopted(self, engine: CudaEngine) -> None:
        ours = engine.xp.asarray(np.ones((2, 3), np.float32))
        engine.xp.from_dlpack = lambda x: x.array
        exporter = SimpleNamespace(__dlpack_device__=lambda: (2, 0), array=ours)
        assert engine.put(exporter) is ours

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    @pytest.mark.parametrize("on_device", [False, True])
    def test_rows_that_are_not_finite_are_named(self, engine: CudaEngine, value: float, on_device: bool) -> None:
        x = np.zeros((70, 3), np.float32)
        x[[5, 68]] = value
        with pytest.raises(InputError, match=r"^X_pca: 2 of 70 .*5.*68"):
            engine.put(engine.xp.asarray(x) if on_device else x, "X_pca")

    @pytest.mark.parametrize("on_device", [False, True])
    def test_values_beyond_float32_are_refused(self, engine: CudaEngine, on_device: bool) -> None:
        x = np.array([[1e39, 0.0], [0.0, 1.0]])
        with pytest.raises(InputError, match="float32"):
            engine.put(engine.xp.asarray(x) if on_device else x, "emb")

    @pytest.mark.parametrize("x", [np.zeros((2, 2), complex), np.zeros(3, np.float32), np.zeros((0, 3))])
    @pytest.mark.parametrize("on_device", [False, True])
    def test_input_that_is_no_matrix_is_refused(self, engine: CudaEngine, x: np.ndarray, on_device: bool) -> None:
        with pytest.raises(InputError, match=r"^emb "):
            engine.put(engine.xp.asarray(x) if on_device else x, "emb")

    def test_embedding_that_does_not_fit_stays_on_the_host_with_a_note(self, start_on: StartOn, cells: Cells) -> None:
        engine = start_on(free_bytes=3000)
        with engine.timeline.stage("all") as stage:
            on_device = engine.put(cells.x, "X_big")
        assert_array_equal(engine.to_host(on_device), cells.x)
        assert stage.put_bytes == cells.x.nbytes
        (note,) = engine.notes
        assert note.startswith("X_big does not fit the GPU's memory")

    def test_pinned_memory_has_the_size_of_the_embedding(self, start_on: StartOn) -> None:
        device = start_on().gpu
        array, host = device.mapped((1000, 3), np.float32)
        (span,) = device._mapped.items()
        assert span[1] - span[0] == array.nbytes == host.nbytes == 12_000
        assert device.on_device(array).data.ptr != array.data.ptr
        kept = device.xp.zeros((4, 2), np.float32)
        assert device.on_device(kept).data.ptr == kept.data.ptr
        del array, host
        assert not device._mapped, "the memory is freed with its arrays"

    def test_released_arrays_are_forgotten(self, engine: CudaEngine, cells: Cells) -> None:
        on_device = engine.put(cells.x)
        assert engine._checked
        engine.release(on_device)
        assert not engine._checked


def test_stages_become_profiler_ranges_with_peak_memory(start_on: StartOn, monkeypatch: pytest.MonkeyPatch) -> None:
    nvtx = pytest.importorskip("nvtx", reason="has wheels for Linux and Windows only")
    ranges: list[tuple[str, str]] = []
    for name in ("push_range", "pop_range"):
        bind = inspect.signature(getattr(nvtx, name)).bind

        def record(*args: str, bind: Any = bind, **kwargs: str) -> None:
            given = bind(*args, **kwargs).arguments
            ranges.append((given.get("message", ""), given["domain"]))

        monkeypatch.setattr(nvtx, name, record)
    timeline = Timeline()
    with timeline.stage("before"):
        engine = start_on(timeline=timeline)
    kept = engine.xp.zeros(3000, np.uint8)
    with timeline.stage("a"):
        with timeline.stage("b"):
            engine.xp.zeros(1000, np.uint8)
        with timeline.stage("c"):
            assert len(kept) == 3000
    a, b, end = ("a", "gpubench"), ("a/b", "gpubench"), ("", "gpubench")
    assert ranges == [a, b, end, ("a/c", "gpubench"), end, end]
    assert [span.peak_bytes for span in timeline.spans()[1:]] == [4000, 4000, 3000]


def test_machine_limits_are_measured_on_the_device(start_on: StartOn, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SECONDS": 0.01, "COPY_BYTES": 1 << 16, "DISTANCES": (64, 8), "EDGES": (64,)}.items():
        monkeypatch.setattr(child, name, value)
    measured = child.measure_limits(start_on(), 1)
    assert 0 < measured.blas_flop_s < 1e16
    assert 0 < measured.tiles_flop_s < measured.blas_flop_s, "kernels are emulated"
    assert 0 < measured.bytes_s < 1e15


def is_same_partition(codes: np.ndarray, others: np.ndarray) -> bool:
    """Whether the same cells are together, whatever the codes."""
    n_pairs = len(np.unique(np.stack([codes, others]), axis=1).T)
    return n_pairs == len(np.unique(codes)) == len(np.unique(others))


class TestLeiden:
    @pytest.fixture
    def graph(self, engine: CudaEngine, cells: Cells) -> Graph:
        return engine.fuzzy_graph(engine.knn(engine.put(cells.x), 9))

    def fake_cugraph(self, monkeypatch: pytest.MonkeyPatch, results: list[Any]) -> list[dict[str, Any]]:
        """Install a cuGraph whose Leiden returns these (vertices, clusters) or raises; return its calls."""
        calls: list[dict[str, Any]] = []

        def leiden(**given: Any) -> tuple[Any, Any, float]:
            calls.append(given)
            result = results[len(calls) - 1]
            if isinstance(result, Exception):
                raise result
            xp = strict_cupy.make_cupy()
            return *(xp.asarray(np.asarray(column)) for column in result), 0.5

        fake_module(
            monkeypatch,
            "pylibcugraph",
            leiden=leiden,
            ResourceHandle=object,
            GraphProperties=lambda **given: given,
            SGGraph=lambda *args, **given: (args, given),
        )
        return calls

    def test_leiden_without_cugraph_uses_igraph_with_a_note(self, engine: CudaEngine, graph: Graph) -> None:
        assert_array_equal(engine.leiden(graph), CpuEngine(threads=1).leiden(_to_host(engine, graph)))
        assert engine.notes == ["Leiden by igraph on the CPU, as pylibcugraph is not installed"]

    def test_cugraph_gets_the_graph_and_the_parameters(
        self, engine: CudaEngine, graph: Graph, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cells = np.arange(graph.n)
        calls = self.fake_cugraph(monkeypatch, [(cells, cells // 50)])
        engine.leiden(graph, 0.5, 4)
        (call,) = calls
        assert (call["resolution"], call["max_level"], call["random_state"]) == (0.5, graphs.MAX_LEVELS, engine.seed)
        assert "n_iterations" not in call  # no release takes it
        (_, properties, indptr, indices), given = call["graph"]
        assert properties == {"is_symmetric": True, "is_multigraph": False}
        assert (indptr.dtype, indices.dtype, given["weight_array"].dtype) == (np.int32, np.int32, np.float64)
        for array, expected in (
            (indptr, graph.indptr),
            (indices, graph.indices),
            (given["weight_array"], graph.weights),
        ):
            assert_array_equal(array.get(), expected.get())
        assert given["input_array_format"] == "CSR"
        assert engine.notes == ["Leiden by cuGraph ran until it converged, as it does not count n_iterations=4"]

    def test_codes_are_ordered_by_size_and_missing_cells_are_alone(
        self, engine: CudaEngine, graph: Graph, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rng = np.random.default_rng(0)
        vertices = rng.permutation(graph.n - 1)  # the last cell is missing
        clusters = rng.choice([7, 3, 11], graph.n - 1, p=[0.2, 0.5, 0.3])
        self.fake_cugraph(monkeypatch, [(vertices, clusters)])
        codes = engine.leiden(graph)
        assert codes.dtype == np.int32
        assert is_same_partition(codes[vertices], clusters)
        assert codes[-1] not in codes[:-1]
        sizes = np.bincount(codes)
        assert (sizes > 0).all()
        assert (np.diff(sizes) <= 0).all()

    def test_graph_whose_dtype_fits_is_not_copied(
        self, engine: CudaEngine, graph: Graph, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = self.fake_cugraph(monkeypatch, [(np.arange(graph.n), np.arange(graph.n) // 50)])
        engine.leiden(graph)
        (_, _, _, indices), _ = calls[0]["graph"]
        assert np.shares_memory(indices._host, graph.indices._host)

    @pytest.mark.parametrize(
        "error",
        [
            RuntimeError(
                "non-success value returned from cugraph_leiden: CUGRAPH_UNKNOWN_ERROR std::bad_alloc: out_of_memory"
            ),
            RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"),
            MemoryError("std::bad_alloc"),
        ],
    )
    def test_memory_error_of_cugraph_says_what_to_do(
        self, engine: CudaEngine, graph: Graph, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        self.fake_cugraph(monkeypatch, [error])
        with pytest.raises(OutOfMemory, match=r"^out of memory \(.*\); use fewer cells"):
            engine.leiden(graph)

    def test_other_errors_of_cugraph_are_raised(
        self, engine: CudaEngine, graph: Graph, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.fake_cugraph(monkeypatch, [RuntimeError("invalid input")])
        with pytest.raises(RuntimeError, match=r"^invalid input$"):
            engine.leiden(graph)

    def test_cugraph_that_cannot_be_imported_is_replaced_with_a_note(
        self, engine: CudaEngine, graph: Graph, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        broken_package(monkeypatch, tmp_path, "pylibcugraph", "raise OSError('libcugraph.so: cannot open')")
        assert_array_equal(engine.leiden(graph), CpuEngine(threads=1).leiden(_to_host(engine, graph)))
        assert engine.notes == [
            "Leiden by igraph on the CPU, as pylibcugraph cannot be imported (OSError: libcugraph.so: cannot open)"
        ]

    def test_absurd_clusterings_are_retried_then_replaced(
        self, engine: CudaEngine, graph: Graph, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cells = np.arange(graph.n)
        good, absurd = (cells, cells // 50), (cells, cells)
        calls = self.fake_cugraph(monkeypatch, [absurd, good, absurd, absurd, absurd])
        assert is_same_partition(engine.leiden(graph), good[1])
        assert [call["random_state"] for call in calls] == [42, 43]
        assert_array_equal(engine.leiden(graph), CpuEngine(threads=1).leiden(_to_host(engine, graph)))
        assert "as cuGraph put almost every cell into a cluster of its own 3 times" in engine.notes[1]


def _to_host(engine: CudaEngine, graph: Graph) -> Graph:
    return Graph(*(engine.to_host(a) for a in (graph.indptr, graph.indices, graph.weights)))


class TestClassifiers:
    @pytest.mark.parametrize("n_classes", [2, 3])
    @pytest.mark.parametrize("tile_values", [1 << 20, 100])
    def test_lr_equals_the_cpu(self, start_on: StartOn, cells: Cells, n_classes: int, tile_values: int) -> None:
        engine = start_on(tuning=CudaTuning(classifier_values=tile_values))
        codes = np.minimum(cells.label, n_classes - 1).astype(np.int32)
        ours = engine.classifier("lr").fit(engine.put(cells.x), codes, n_classes + 1)
        theirs = CpuEngine(threads=1).classifier("lr").fit(cells.x, codes, n_classes + 1)
        proba = engine.to_host(ours.predict_proba(engine.put(cells.x)))
        assert proba.dtype == np.float64
        assert (proba[:, n_classes] == 0).all()
        assert_allclose(proba, theirs.predict_proba(cells.x), atol=2e-3)

    def test_lr_of_cells_in_host_memory_multiplies_copies_of_them(self, start_on: StartOn, cells: Cells) -> None:
        """The device refuses products of host memory, which would be read over the bus several times."""
        engine = start_on(free_bytes=cells.x.nbytes)
        x = engine.put(cells.x)
        assert engine.notes, "it is in host memory"
        engine.classifier("lr", max_iter=2).fit(x, cells.label, 3)

    def test_lr_of_one_class_is_refused(self, engine: CudaEngine, cells: Cells) -> None:
        with pytest.raises(InputError, match="two classes"):
            engine.classifier("lr").fit(engine.put(cells.x), np.zeros(cells.n, np.int32), 2)

    def test_knn_equals_the_cpu(self, engine: CudaEngine, cells: Cells) -> None:
        ours = engine.classifier("knn").fit(engine.put(cells.x), cells.label, 3)
        theirs = CpuEngine(threads=1).classifier("knn").fit(cells.x, cells.label, 3)
        queries = cells.x[:40] + np.float32(0.2)
        proba = engine.to_host(ours.predict_proba(engine.put(queries)))
        assert_array_equal(proba, theirs.predict_proba(queries))

    def test_rf_without_cuml_equals_the_cpu_with_a_note(self, engine: CudaEngine, cells: Cells) -> None:
        ours = engine.classifier("rf", n_estimators=10).fit(engine.put(cells.x), cells.label, 3)
        theirs = CpuEngine().classifier("rf", n_estimators=10).fit(cells.x, cells.label, 3)
        proba = ours.predict_proba(engine.put(cells.x))
        assert_array_equal(engine.to_host(proba), theirs.predict_proba(cells.x))
        assert ours.note == "random forest of gpubench (256 bins) on the CPU, as cuML is not installed"

    def fake_cuml(self, monkeypatch: pytest.MonkeyPatch, answer: np.ndarray) -> list[Any]:
        """Install a cuML whose forest predicts `answer`; return the list of its parameters and training data."""
        calls: list[Any] = []

        class Forest:
            def __init__(self, **given: Any) -> None:
                self.n_bins = given["n_bins"]
                calls.append(given)

            def fit(self, x: Any, y: Any) -> None:
                if self.n_bins > len(x):
                    warnings.warn("The number of bins, `n_bins` is greater than the number of samples", stacklevel=1)
                calls.append((x, y))

            def predict_proba(self, x: Any) -> Any:
                assert isinstance(x, strict_cupy.ndarray)
                return strict_cupy.asarray(answer)

        fake_module(monkeypatch, "cuml")
        fake_module(monkeypatch, "cuml.ensemble", RandomForestClassifier=Forest)
        return calls

    def test_rf_passes_cells_and_parameters_to_cuml(
        self, engine: CudaEngine, cells: Cells, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        x, codes = engine.put(cells.x), np.where(cells.label > 0, 2, 0).astype(np.int32)
        answer = np.random.default_rng(0).random((cells.n, 2)).astype(np.float32)
        calls = self.fake_cuml(monkeypatch, answer)
        forest = engine.classifier("rf", n_estimators=7).fit(x, codes, 3)
        parameters, (fitted_x, fitted_y) = calls
        assert fitted_x is x
        assert fitted_y.dtype == np.int32
        assert_array_equal(fitted_y.get(), codes // 2)  # classes that occur, numbered 0, 1, ...
        assert parameters == {
            "n_estimators": 7,
            "max_depth": None,
            "n_bins": 128,
            "n_streams": 1,
            "random_state": engine.seed,
            "output_type": "cupy",
        }
        proba = engine.to_host(forest.predict_proba(x))
        assert proba.dtype == np.float64
        assert_array_equal(proba[:, [0, 2]], answer)
        assert not proba[:, 1].any()
        assert forest.note == "random forest of cuML (128 bins)"

    def test_rf_of_few_cells_has_as_many_bins_and_does_not_warn(
        self, engine: CudaEngine, cells: Cells, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.fake_cuml(monkeypatch, np.ones((40, 3), np.float32))
        forest = engine.classifier("rf").fit(engine.put(cells.x[:40]), cells.label[:40], 3)
        assert forest.note == "random forest of cuML (40 bins)"

    def test_rf_without_a_cuml_that_can_be_imported_equals_the_cpu_with_a_note(
        self, engine: CudaEngine, cells: Cells, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        broken_package(
            monkeypatch, tmp_path, "cuml", "raise AttributeError(\"module 'numpy' has no attribute 'row_stack'\")"
        )
        limit = cpu_forest.MAX_FOREST_CELLS[cpu_forest.OURS]
        assert engine.policy.max_training_cells("rf", 10**8) == limit
        forest = engine.classifier("rf", n_estimators=10).fit(engine.put(cells.x), cells.label, 3)
        assert forest.note == (
            "random forest of gpubench (256 bins) on the CPU, as cuML cannot be imported"
            " (AttributeError: module 'numpy' has no attribute 'row_stack')"
        )

    def test_rf_of_cuml_is_trained_on_as_many_cells_as_time_and_memory_allow(
        self, start_on: StartOn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.fake_cuml(monkeypatch, np.ones((1, 1)))
        exact = start_on(exact=True)
        for free_bytes, most in ((10**12, 1_000_000), (10**9, 29_629)):
            monkeypatch.setattr(planner, "free_memory_bytes", lambda free_bytes=free_bytes: free_bytes)
            policy = start_on().policy
            assert [policy.max_training_cells("rf", n) for n in (1000, 13_000_000)] == [1000, most]
            assert policy.max_training_cells("lr", 13_000_000) == 13_000_000
            assert exact.policy.max_training_cells("rf", 13_000_000) == 13_000_000


def columns(cells: Cells) -> dict[str, Any]:
    return {"label": cells.label.astype(str), "batch": cells.batch.astype(str), "time": cells.time}


TIME_TASK = "sequential_organization"
OPTIONS = {"n_neighbors": 20, "k": 5, "n_cluster_neighbors": 8, "n_folds": 2}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_run_puts_the_embedding_once_and_scores_as_the_cpu(start_on: StartOn, cells: Cells, precision: Any) -> None:
    engine = start_on(precision=precision, timeline=Timeline())
    result = gb.score(cells.x, engine=engine, **columns(cells), **OPTIONS)
    assert result.failures == []
    stages = {span["path"]: span["put_bytes"] for span in result.timeline}
    top = [put_bytes for path, put_bytes in stages.items() if "/" not in path]
    assert sum(top) == cells.x.nbytes
    expected = gb.score(cells.x, engine="cpu", threads=1, **columns(cells), **OPTIONS)
    assert len(result.results) == len(expected.results)
    for ours, theirs in zip(result.results, expected.results, strict=True):
        assert (ours.task, ours.metric) == (theirs.task, theirs.metric)
        assert ours.value == pytest.approx(theirs.value, abs=1e-5 if precision == "exact" else 2e-4)
    record = result.provenance["engine"]
    assert (record["name"], record["precision"]) == ("cuda", precision)
    assert record["notes"] == engine.notes == ["Leiden by igraph on the CPU, as pylibcugraph is not installed"]
    silhouettes = [row.params for row in result.results if row.metric == "silhouette_score"]
    assert silhouettes == [{} if precision == "exact" else {"precision": "fast"}] * 2
    forests = [row for row in result.results if row.params.get("classifier") == "rf"]
    assert all("as cuML is not installed" in row.note for row in forests)
    json.dumps(result.provenance)


def test_run_on_an_embedding_in_host_memory_scores_as_the_cpu(start_on: StartOn) -> None:
    wide = make_cells(150, 300, n_labels=3, n_batches=2, seed=4)
    engine = start_on(free_bytes=200_000, timeline=Timeline())  # the graph fits, the embedding does not
    given = {**columns(wide), **OPTIONS, "tasks": ["clustering", "embedding", "batch_integration", TIME_TASK]}
    result = gb.score({"X_wide": wide.x}, engine=engine, **given)
    assert result.failures == []
    assert engine.notes[0].startswith("X_wide does not fit the GPU's memory; it was read from host memory")
    assert sum(span["put_bytes"] for span in result.timeline if "/" not in span["path"]) == wide.x.nbytes
    expected = gb.score({"X_wide": wide.x}, engine="cpu", threads=1, **given)
    values = [[row.value for row in run.results] for run in (result, expected)]
    assert_allclose(*values, atol=1e-5)


def test_graph_that_does_not_fit_fails_only_its_tasks(start_on: StartOn, cells: Cells) -> None:
    engine = start_on(free_bytes=30_000)
    given = {**columns(cells), **OPTIONS, "n_neighbors": 100, "tasks": ["embedding", "batch_integration"]}
    few = {"tasks": "embedding", "label": cells.label.astype(str)}
    with pytest.raises(InputError, match=r"the graph of 99 neighbours of 150 cells takes .* use fewer neighbours"):
        gb.score(cells.x, engine=engine, **given)
    assert gb.score(cells.x, engine=start_on(free_bytes=30_000), **few).failures == []


@pytest.mark.slow
def test_prediction_across_species_scores_as_the_cpu(engine: CudaEngine, cells: Cells) -> None:
    given = {"label": cells.label.astype(str), "species": np.where(cells.batch > 0, "mouse", "human")}
    samples = (np.arange(cells.n) % 40).astype(str)
    for aggregation in ("mean", "median"):
        more = {"sample": samples, "aggregation": aggregation, "n_folds": 2, "tasks": "cross_species_label_prediction"}
        ours, theirs = (gb.score(cells.x, engine=e, **given, **more) for e in (engine, CpuEngine(threads=1)))
        assert ours.failures == []
        values = [[row.value for row in result.results] for result in (ours, theirs)]
        assert_allclose(*values, atol=1e-3, equal_nan=True)


def test_run_on_an_array_of_the_gpu_does_not_copy_it(engine: CudaEngine, cells: Cells) -> None:
    x = engine.xp.asarray(cells.x)
    given = {"label": cells.label.astype(str), "tasks": "embedding"}
    result = gb.score({"X_gpu": x}, engine=engine, **given)
    assert sum(span["put_bytes"] for span in result.timeline) == 0
    on_host = gb.score({"X_gpu": cells.x}, engine="cpu", **given)
    assert result.value("silhouette_score") == pytest.approx(on_host.value("silhouette_score"), abs=1e-6)
    assert result.provenance["dataset"] == on_host.provenance["dataset"]
    # the CPU engine reads it block by block
    assert gb.score({"X_gpu": x}, engine="cpu", **given).value("silhouette_score") == on_host.value("silhouette_score")


def test_anndata_with_arrays_of_the_gpu_is_scored_in_place(
    engine: CudaEngine, cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As rapids-singlecell leaves it; AnnData itself knows CuPy's arrays by their class."""
    anndata = pytest.importorskip("anndata")

    # without CuPy, AnnData has a class of its own in that place
    monkeypatch.setattr(anndata.compat.CupyArray, "__module__", "cupy")

    class OfCupy(strict_cupy.ndarray, anndata.compat.CupyArray): ...

    OfCupy.__module__ = "cupy"
    names = [f"cell {i}" for i in range(cells.n)]
    obs = pd.DataFrame({"label": cells.label.astype(str)}, index=names)
    data = anndata.AnnData(obs=obs, obsm={"X_gpu": OfCupy(cells.x.copy())})
    given = {"label": "label", "tasks": "embedding"}
    result = gb.score(data, ["X_gpu"], engine=engine, **given)
    assert sum(span["put_bytes"] for span in result.timeline) == 0
    on_host = gb.score(cells.x, engine="cpu", label=cells.label.astype(str), tasks="embedding")
    assert result.value("silhouette_score") == pytest.approx(on_host.value("silhouette_score"), abs=1e-6)


class CsrOfCupy:
    """A stand-in for a CSR matrix of CuPy."""

    def __init__(self, host: csr_array) -> None:
        self.host, self.shape, self.dtype = host, host.shape, host.dtype
        self.data = strict_cupy.ndarray(host.data)

    def tocsr(self) -> CsrOfCupy:
        return self

    def __getitem__(self, rows: slice) -> CsrOfCupy:
        return CsrOfCupy(self.host[rows])

    def toarray(self) -> strict_cupy.ndarray:
        return strict_cupy.ndarray(self.host.toarray())

    def get(self) -> csr_array:
        return self.host.copy()


CsrOfCupy.__module__ = "cupyx.scipy.sparse"


def test_sparse_matrix_of_the_gpu_becomes_dense_on_it(
    start_on: StartOn, cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.where(cells.x > 1, cells.x, 0)
    given = {"label": cells.label.astype(str), "tasks": "embedding"}
    on_host = gb.score(x, engine="cpu", **given)
    sparse = CsrOfCupy(csr_array(x))
    assert gb.score({"X": sparse}, engine="cpu", **given).value("silhouette_score") == on_host.value("silhouette_score")
    for free_bytes, n_put in ((1 << 30, 0), (8500, x.nbytes)):
        result = gb.score({"X": sparse}, engine=start_on(free_bytes=free_bytes, timeline=Timeline()), **given)
        assert sum(span["put_bytes"] for span in result.timeline if "/" not in span["path"]) == n_put
        assert result.value("silhouette_score") == pytest.approx(on_host.value("silhouette_score"), abs=1e-5)


def test_array_of_another_gpu_is_copied(engine: CudaEngine, cells: Cells) -> None:
    with strict_cupy.Device(1):
        x = engine.xp.asarray(cells.x)
    on_device = engine.put(x)
    assert on_device.device.id == 0
    assert_array_equal(engine.to_host(on_device), cells.x)


def test_metrics_accept_arrays_of_the_gpu(engine: CudaEngine, cells: Cells) -> None:
    x = engine.xp.asarray(cells.x)
    ours = gb.metrics.silhouette_batch(x, cells.label, cells.batch, engine=engine)
    assert ours == pytest.approx(gb.metrics.silhouette_batch(cells.x, cells.label, cells.batch, engine="cpu"), abs=1e-5)
    proba = engine.xp.asarray(np.tile([0.3, 0.7], (4, 1)))
    assert gb.metrics.accuracy([0, 1, 1, 1], proba.argmax(axis=1).get(), engine=engine) == 0.75


def test_device_reports_the_properties_that_cupy_gives() -> None:
    device = Device(strict_cupy.make_cupy((8, 6)))  # type: ignore[arg-type]
    assert (device.name, device.n_multiprocessors, device.has_tensor_cores) == ("Stand-in", 2, True)
    assert device.free_bytes() == strict_cupy.TOTAL_BYTES


@pytest.mark.parametrize("tensor_cores", [False, True])
def test_products_set_the_arithmetic_of_cupy_and_put_it_back(
    engine: CudaEngine, monkeypatch: pytest.MonkeyPatch, tensor_cores: bool
) -> None:
    """An accurate product must not be rounded to TF32, and what the user set for CuPy stays."""
    current = {"type": "the user's"}
    fake_module(monkeypatch, "cupy")
    fake_module(
        monkeypatch,
        "cupy._core",
        _routines_linalg=SimpleNamespace(
            COMPUTE_TYPE_TF32="tf32",
            COMPUTE_TYPE_FP32="fp32",
            get_compute_type=lambda _: current["type"],
            set_compute_type=lambda _, wanted: current.update(type=wanted),
        ),
    )
    seen = []
    monkeypatch.setattr(engine.xp, "dot", lambda *_: seen.append(current["type"]))
    Device.multiply(engine.gpu, None, None, None, tensor_cores=tensor_cores)
    assert (seen, current["type"]) == (["tf32" if tensor_cores else "fp32"], "the user's")
    monkeypatch.setattr(engine.xp, "dot", None)
    with pytest.raises(TypeError):
        Device.multiply(engine.gpu, None, None, None, tensor_cores=tensor_cores)
    assert current["type"] == "the user's"

"""What is wrong on this GPU is not used: with kernels and libraries that are made to be wrong. No GPU is used."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fake_libraries
import numpy as np
import pytest
import strict_cupy
from cells import Cells, make_cells
from emulated import EmulatedDevice, emulate_in_session, start
from engines.cuda.test_host import CASES
from engines.cuda.test_runs import fake_module, is_same_partition
from numpy.testing import assert_allclose, assert_array_equal

import gpubench as gb
from gpubench.core.errors import EngineUnavailable, GpubenchWarning
from gpubench.core.types import Graph
from gpubench.engines.common.neighborhoods import neighbor_chi_square
from gpubench.engines.cpu.engine import CpuEngine
from gpubench.engines.cuda import checks, verdicts
from gpubench.engines.cuda.arithmetic import FLOAT32, SPLIT, TF32, cascade
from gpubench.engines.cuda.checks import CHECKS, METHODS
from gpubench.engines.cuda.engine import CudaEngine
from gpubench.engines.cuda.signatures import KERNELS, NO_CANDIDATE
from gpubench.engines.cuda.verdicts import Verdict, Verdicts
from gpubench.engines.cuda.workspace import CudaTuning
from gpubench.running.provenance import provenance

AUTO = "auto: there is a GPU"


@pytest.fixture(scope="module")
def cells() -> Cells:
    return make_cells(130, 9, n_labels=4, duplicates=0.1, seed=2)


@pytest.fixture(autouse=True)
def records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start each test as a new process does."""
    monkeypatch.setattr(verdicts, "_records", {})


def _spoil_candidates(arrays: dict[str, np.ndarray]) -> None:
    arrays["candidates"][..., 0] = NO_CANDIDATE


def _spoil_neighbors(arrays: dict[str, np.ndarray]) -> None:
    arrays["indices"][0] = arrays["indices"][0, ::-1]


def _spoil_sums(arrays: dict[str, np.ndarray]) -> None:
    arrays["row_sums"] += arrays["row_sums"] // 8


def _spoil_rank_sums(arrays: dict[str, np.ndarray]) -> None:
    arrays["u"] += 0.5


def _add_to(name: str) -> Callable[[dict[str, np.ndarray]], None]:
    def spoil(arrays: dict[str, np.ndarray]) -> None:
        arrays[name].ravel()[len(arrays[name].ravel()) // 2] += 0.25

    return spoil


SPOILT: dict[str, tuple[str, Callable[[dict[str, np.ndarray]], None]]] = {
    "topk_update": ("knn", _spoil_candidates),
    "rerank": ("knn", _spoil_neighbors),
    "search_exactly": ("knn", _spoil_candidates),
    "silhouette_tile": ("silhouettes", _spoil_sums),
    "group_means": ("group_means", _add_to("means")),
    "rank": ("rank", _add_to("ranks")),
    "rank_sums": ("rank_sums", _spoil_rank_sums),
    "neighbor_entropy": ("neighbor_entropy", _add_to("entropy")),
    "neighbor_value_distance": ("neighbor_value_distance", _add_to("out")),
    "fuzzy_memberships": ("fuzzy_graph", _add_to("memberships")),
    "symmetrise": ("fuzzy_graph", _add_to("weights")),
}
"""For each kernel, the operation that it spoils, and a mistake in what it writes."""

CASE_OF = {
    "silhouettes": "cluster_distances",
    "neighbor_entropy": "map_neighbors",
    "neighbor_value_distance": "map_neighbors",
}
"""Name of the case of `test_host` for operations with another name."""


class Faulty(EmulatedDevice):
    """A device with a mistake.

    Attributes
    ----------
    wrong : name of a kernel; or "float32" or "tensor cores", for products
    """

    def __init__(self, wrong: str = "", folder: Path | None = None) -> None:
        super().__init__(emulate_in_session())
        self.wrong = wrong
        self.verdicts = Verdicts(self, folder)

    def launch(self, name: str, n_threads: int, *args: Any, rows: int | None = None) -> None:
        super().launch(name, n_threads, *args, rows=rows)
        if name == self.wrong:
            named = zip(KERNELS[name].parameters, args, strict=True)
            SPOILT[name][1]({p.name: value._host for p, value in named if p.is_array})

    def multiply(self, left: Any, right: Any, out: Any, *, tensor_cores: bool) -> None:
        super().multiply(left, right, out, tensor_cores=tensor_cores)
        if self.wrong in ("products", "tensor cores" if tensor_cores else "float32"):
            out._host[0, 1] += 0.5


def engine_on(device: EmulatedDevice, chosen: str = AUTO, only: tuple[str, ...] = (), **options: Any) -> CudaEngine:
    """Start the engine; only these operations are checked, all of them if none is named."""
    engine = start(device, tuning=CudaTuning(max_tile_rows=32, rows_per_search=40), **options)
    engine.chosen = chosen
    if only:
        device.verdicts.checks = {name: CHECKS[name] for name in only}
    return engine


class TestWrongKernels:
    def test_every_kernel_is_spoilt_in_turn(self) -> None:
        assert set(SPOILT) == set(KERNELS)

    @pytest.mark.parametrize("kernel", sorted(SPOILT))
    def test_result_is_right_without_it(self, kernel: str, cells: Cells) -> None:
        operation = SPOILT[kernel][0]
        engine = engine_on(Faulty(kernel), only=(operation,))
        with pytest.warns(GpubenchWarning, match=rf"^{operation} by \w+ is wrong on this GPU \(.*; see: gpubench doct"):
            CASES[CASE_OF.get(operation, operation)](engine, cells)
        assert engine.notes[0].endswith("and was not used")
        wrong = [reason for reason in engine.verified().values() if reason != "right"]
        assert len(wrong) == 1
        assert "differ" in wrong[0]

    @pytest.mark.parametrize("kernel", sorted(SPOILT))
    def test_named_engine_refuses_unless_it_has_another_way(self, kernel: str, cells: Cells) -> None:
        operation = SPOILT[kernel][0]
        engine = engine_on(Faulty(kernel), chosen="", only=(operation,))
        case = CASES[CASE_OF.get(operation, operation)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if len(METHODS[operation]) > 1 and operation.startswith("neighbor"):
                case(engine, cells)  # in array code
            else:
                with pytest.raises(EngineUnavailable, match=f"{operation} is wrong on this GPU.* use the engine 'cpu'"):
                    case(engine, cells)

    def test_run_warns_once_and_records_it(self, cells: Cells) -> None:
        engine = engine_on(Faulty("silhouette_tile"), only=("silhouettes",))
        given = {"label": cells.label.astype(str), "batch": cells.batch.astype(str), "tasks": "embedding"}
        with pytest.warns(GpubenchWarning) as found:
            result = gb.score({"X": cells.x, "Y": cells.x * 2}, engine=engine, **given)
        assert len(found) == 1
        theirs = gb.score({"X": cells.x, "Y": cells.x * 2}, engine="cpu", **given)
        assert_allclose([row.value for row in result.results], [row.value for row in theirs.results], atol=1e-5)
        record = result.provenance["engine"]
        assert "silhouettes ran on the CPU, as it is wrong on this GPU" in record["notes"]
        assert "mean distances a of 3 dimensions differ" in record["verified"]["silhouettes/exact"]
        assert provenance(CpuEngine(), options={})["engine"].get("verified") is None

    def test_wrong_copies_stop_the_engine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def copy(self: strict_cupy.ndarray, host: np.ndarray, stream: Any) -> None:
            self._host[...] = host
            self._host[0, 0] += 1

        monkeypatch.setattr(strict_cupy.ndarray, "set", copy)
        with (
            pytest.warns(GpubenchWarning, match="copies by pinned memory is wrong"),
            pytest.raises(EngineUnavailable, match="copies is wrong on this GPU"),
        ):
            engine_on(Faulty())


class TestWrongProducts:
    @pytest.mark.parametrize(
        ("wrong", "expected"),
        [("", [TF32, FLOAT32]), ("tensor cores", [FLOAT32]), ("float32", [TF32, SPLIT])],
    )
    def test_arithmetic_that_is_right_is_used(self, wrong: str, expected: list[Any]) -> None:
        engine = engine_on(Faulty(wrong), only=("products",))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            assert cascade(engine.gpu, 50, "fast") == expected
            assert cascade(engine.gpu, 50, "exact") == expected[-1:]
        names = {"": [], "tensor cores": ["split", "tf32"], "float32": ["float32"]}[wrong]
        assert [str(warning.message).split()[2] for warning in said] == names
        assert [note.split()[2] for note in engine.notes] == names

    def test_fastest_of_the_right_ones_is_used(self) -> None:
        assert cascade(engine_on(Faulty(), only=("products",)).gpu, 128, "exact") == [SPLIT]
        with pytest.warns(GpubenchWarning, match="products by split is wrong"):
            assert cascade(engine_on(Faulty("tensor cores"), only=("products",)).gpu, 128, "exact") == [FLOAT32]

    @pytest.mark.parametrize("operation", ["knn", "cluster_distances"])
    def test_without_a_right_product_the_cpu_takes_over(self, operation: str, cells: Cells) -> None:
        checked = ("products", "knn", "silhouettes", "cosine_silhouettes")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            engine = engine_on(Faulty("products"), only=checked)
            CASES[operation](engine, cells)
            with pytest.raises(EngineUnavailable, match="is wrong on this GPU"):
                CASES[operation](engine_on(Faulty("products"), chosen="", only=checked), cells)
        assert [name for name, reason in engine.verified().items() if "products" in name and reason == "right"] == []

    def test_wrong_logistic_regression_is_that_of_the_cpu(self, cells: Cells) -> None:
        engine = engine_on(Faulty("float32"), only=("lr",))
        with pytest.warns(GpubenchWarning, match="lr by products is wrong on this GPU"):
            ours = engine.classifier("lr").fit(engine.put(cells.x), cells.label, 4)
        theirs = CpuEngine(threads=1).classifier("lr").fit(cells.x, cells.label, 4)
        assert_array_equal(engine.to_host(ours.predict_proba(engine.put(cells.x))), theirs.predict_proba(cells.x))
        assert ours.note == theirs.note

    def test_wrong_rounded_silhouettes_are_computed_exactly(self, cells: Cells) -> None:
        engine = engine_on(Faulty(), precision="fast")
        engine.gpu.verdicts.checks = {"silhouettes": lambda _, method: "differ" if method == "fast" else ""}
        with pytest.warns(GpubenchWarning, match=r"silhouettes by fast is wrong on this GPU \(differ\)"):
            CASES["cluster_distances"](engine, cells)
        assert engine.verified().items() >= {"silhouettes/exact": "right", "silhouettes/fast": "differ"}.items()


class TestWrongLibraries:
    def test_wrong_clusters_of_cugraph_are_replaced(self, cells: Cells, monkeypatch: pytest.MonkeyPatch) -> None:
        def leiden(**given: Any) -> tuple[Any, Any, float]:
            n = len(given["graph"].indptr) - 1
            return strict_cupy.asarray(np.arange(n)), strict_cupy.asarray(np.arange(n) % 4), 0.0

        class Network:
            def __init__(self, *given: Any, **_: Any) -> None:
                self.indptr = given[2]

        given = {"ResourceHandle": object, "GraphProperties": lambda **_: None, "SGGraph": Network, "leiden": leiden}
        fake_module(monkeypatch, "pylibcugraph", **given)
        engine = engine_on(Faulty(), chosen="", only=("leiden",))
        graph = engine.fuzzy_graph(engine.knn(engine.put(cells.x), 9))
        with pytest.warns(
            GpubenchWarning, match=r"leiden by cugraph is wrong on this GPU \(1 of 1 modularities differ"
        ):
            codes = engine.leiden(graph)
        on_host = Graph(*(engine.to_host(a) for a in (graph.indptr, graph.indices, graph.weights)))
        assert is_same_partition(codes, CpuEngine(threads=1).leiden(on_host))
        assert "Leiden by igraph on the CPU, as cuGraph is wrong on this GPU" in engine.notes

    def test_wrong_forest_of_cuml_is_replaced(self, cells: Cells, monkeypatch: pytest.MonkeyPatch) -> None:
        class Forest:
            def __init__(self, **_: Any) -> None: ...

            def fit(self, x: Any, y: Any) -> None: ...

            def predict_proba(self, x: Any) -> Any:
                return strict_cupy.asarray(np.full((len(x), 4), 0.25, np.float32))

        fake_module(monkeypatch, "cuml")
        fake_module(monkeypatch, "cuml.ensemble", RandomForestClassifier=Forest)
        engine = engine_on(Faulty(), chosen="", only=("rf",))
        with pytest.warns(GpubenchWarning, match="rf by cuml is wrong on this GPU .*accuracies differ"):
            forest = engine.classifier("rf", n_estimators=10).fit(engine.put(cells.x), cells.label, 4)
        assert forest.note.endswith("on the CPU, as cuML is wrong on this GPU")

    def test_wrong_histogram_is_that_of_the_cpu(self, cells: Cells, monkeypatch: pytest.MonkeyPatch) -> None:
        """As CuPy before 14.2 counted millions of bins through CUB."""
        engine = engine_on(Faulty(), only=("neighbor_chi_square",))
        bincount = engine.xp.bincount

        def wrong(*args: Any, **given: Any) -> Any:
            found = bincount(*args, **given)
            return found + 1 if len(found) > 2_000_000 else found

        monkeypatch.setattr(engine.xp, "bincount", wrong)
        knn = engine.knn(engine.put(cells.x), 9)
        shares = np.full(4, 0.25)
        with pytest.warns(GpubenchWarning, match="neighbor_chi_square by array code is wrong"):
            found = engine.map_neighbors(knn, neighbor_chi_square, cells.label, shares)
        cpu = CpuEngine(threads=1)
        assert_allclose(found, cpu.map_neighbors(cpu.knn(cells.x, 9), neighbor_chi_square, cells.label, shares))

    def test_wrong_digest_is_computed_on_the_host(self, cells: Cells, monkeypatch: pytest.MonkeyPatch) -> None:
        engine = engine_on(Faulty(), only=("digest",))
        monkeypatch.setattr(checks.tables, "mixed_sums", lambda device, *_: [int(device.xp is np), 1])
        x = engine.put(cells.x)
        with pytest.warns(GpubenchWarning, match="digest by array code is wrong"):
            assert engine.digest(x) == CpuEngine(threads=1).digest(cells.x)


class TestRecord:
    """Verdicts are found once for each combination, and kept in a file."""

    @pytest.fixture
    def calls(self) -> list[str]:
        return []

    @pytest.fixture
    def make(self, tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Faulty]:
        """Make a device as a new process does; its checks call `reason`."""

        def new(reason: Callable[[], str] = str, folder: Path | None = tmp_path / "cache" / "verdicts") -> Faulty:
            monkeypatch.setattr(verdicts, "_records", {})
            device = Faulty(folder=folder)

            def check(_: Any, method: str) -> str:
                calls.append(method)
                return reason()

            device.verdicts.checks = {"rank": check}
            return device

        return new

    def test_later_processes_read_the_verdict(self, make: Callable[..., Faulty], calls: list[str]) -> None:
        for reason in (lambda: "1 of 5 ranks differ", str):
            with pytest.warns(GpubenchWarning, match=r"rank by kernel is wrong on this GPU \(1 of 5 ranks differ\)"):
                wrong = make(reason).verdicts.of("rank", "kernel")
            assert (wrong.is_right, wrong.reason) == (False, "1 of 5 ranks differ")
        assert make().verdicts.allows("rank", "other")
        assert calls == ["kernel", "other"]

    def test_operation_without_a_check_is_allowed(self, make: Callable[..., Faulty], calls: list[str]) -> None:
        assert make().verdicts.allows("no such operation", "kernel")
        assert calls == []

    @pytest.mark.parametrize("changed", ["name", "capability", "driver", "package", "engine", "variable"])
    def test_another_combination_is_checked_itself(
        self, make: Callable[..., Faulty], calls: list[str], changed: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make().verdicts.of("rank", "kernel")
        if changed == "package":
            monkeypatch.setattr(verdicts.machine, "package_versions", lambda: {"cuml-cu13": "26.10"})
        elif changed == "variable":
            monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
        elif changed == "engine":
            monkeypatch.setattr(verdicts, "digest_of_engine", lambda: "another")
        device = make()
        if changed == "driver":
            device.xp.cuda.runtime.runtimeGetVersion = lambda: 13000
        elif changed in ("name", "capability"):
            setattr(device, changed, "another")
        device.verdicts.of("rank", "kernel")
        assert calls == ["kernel"] * 2
        device = make()
        monkeypatch.undo()
        assert len(list(device.verdicts._folder.iterdir())) == 2  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        "text",
        [
            "{",
            "[]",
            '{"verdicts": {"rank/kernel": {"is_right": true, "reason": "1 of 5 differ"}}}',
            '{"verdicts": {"rank": {"is_right": true}}}',
            '{"verdicts": {"rank/kernel": {"right": true}}}',
            '{"times": {"products, d=50": {"float32": 0}}}',
            '{"times": {"products, d=50": {}}}',
            "\x00\x00",
        ],
    )
    def test_damaged_file_is_made_again(self, make: Callable[..., Faulty], calls: list[str], text: str) -> None:
        device = make()
        path = device.verdicts.path
        assert path is not None
        path.parent.mkdir(parents=True)
        path.write_text(text)
        assert device.verdicts.allows("rank", "kernel")
        assert json.loads(path.read_text())["verdicts"]["rank/kernel"]["is_right"] is True
        assert make().verdicts.allows("rank", "kernel")
        assert calls == ["kernel"]

    def test_folder_that_cannot_be_written_is_no_problem(
        self, make: Callable[..., Faulty], calls: list[str], tmp_path: Path
    ) -> None:
        (tmp_path / "cache").write_text("a file")
        device = make()
        assert [device.verdicts.allows("rank", "kernel") for _ in range(2)] == [True, True]
        assert calls == ["kernel"]

    def test_what_other_processes_found_stays(self, make: Callable[..., Faulty], calls: list[str]) -> None:
        first, second = make(), make()
        second.verdicts._load()
        first.verdicts.of("rank", "one")
        second.verdicts.of("rank", "two")
        third = make()
        for method in ("one", "two"):
            third.verdicts.of("rank", method)
        assert calls == ["one", "two"]

    def test_several_threads_wait_for_one_check(self, make: Callable[..., Faulty], calls: list[str]) -> None:
        device = make(lambda: time.sleep(0.05) or "1 of 5 ranks differ")
        with ThreadPoolExecutor(4) as pool, pytest.warns(GpubenchWarning):
            found = list(pool.map(device.verdicts.allows, ["rank"] * 4, ["kernel"] * 4))
        assert calls == ["kernel"]
        assert found == [False] * 4

    def test_lack_of_memory_is_no_verdict(self, make: Callable[..., Faulty], calls: list[str]) -> None:
        def fail() -> str:
            if len(calls) == 1:
                raise MemoryError("an array does not fit the GPU")
            return ""

        device = make(fail)
        with pytest.raises(MemoryError):
            device.verdicts.of("rank", "kernel")
        assert device.verdicts.allows("rank", "kernel")

    def test_error_of_a_check_is_its_reason_in_this_process_only(
        self, make: Callable[..., Faulty], calls: list[str]
    ) -> None:
        def fail() -> str:
            raise OSError("No space left\n on device")

        device = make(fail)
        with pytest.warns(GpubenchWarning):
            assert device.verdicts.of("rank", "kernel").reason == "OSError: No space left on device"
        assert not device.verdicts.allows("rank", "kernel")
        assert calls == ["kernel"]
        device.verdicts.checks = {"digest": lambda *_: ""}
        assert device.verdicts.allows("digest", "array code")
        assert make().verdicts.allows("rank", "kernel")
        assert calls == ["kernel"] * 2

    def test_gpu_that_stops_working_is_reported_and_the_method_avoided_later(
        self, make: Callable[..., Faulty], calls: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail() -> str:
            raise RuntimeError("cudaErrorIllegalAddress")

        device = make(fail)
        monkeypatch.setattr(device, "works", lambda: not calls)
        with pytest.raises(EngineUnavailable, match=r"stopped working .* rank by kernel \(RuntimeError: cudaErrorIlle"):
            device.verdicts.of("rank", "kernel")
        with pytest.warns(GpubenchWarning):
            assert not make().verdicts.allows("rank", "kernel")
        assert calls == ["kernel"]

    @pytest.mark.parametrize("is_kept", [True, False])
    def test_gpu_that_stopped_before_a_check_is_no_verdict(
        self, make: Callable[..., Faulty], calls: list[str], tmp_path: Path, *, is_kept: bool
    ) -> None:
        device = make(folder=tmp_path / "verdicts" if is_kept else None)
        device.works = lambda: False  # type: ignore[method-assign]
        with pytest.raises(EngineUnavailable, match="the GPU stopped working; start again"):
            device.verdicts.of("rank", "kernel")
        assert calls == []
        device.works = lambda: not calls  # type: ignore[method-assign]
        device.verdicts.checks = {"rank": lambda *_: calls.append("kernel") or "1 of 5 ranks differ"}  # type: ignore[func-returns-value]
        with pytest.raises(EngineUnavailable, match="stopped working during a check of rank by kernel"):
            device.verdicts.of("rank", "kernel")

    def test_warning_that_is_an_error_is_no_verdict(self, make: Callable[..., Faulty], calls: list[str]) -> None:
        def fail() -> str:
            raise GpubenchWarning("of another method")

        with pytest.raises(GpubenchWarning):
            make(fail).verdicts.of("rank", "kernel")
        assert make().verdicts.allows("rank", "kernel")
        assert calls == ["kernel"] * 2

    def test_forgotten_verdicts_are_found_again(self, make: Callable[..., Faulty], calls: list[str]) -> None:
        device = make()
        device.verdicts.of("rank", "kernel")
        device.verdicts.forget()
        device.verdicts.of("rank", "kernel")
        assert calls == ["kernel"] * 2

    def test_reading_takes_little_time(self, make: Callable[..., Faulty]) -> None:
        for operation, methods in METHODS.items():
            for method in methods:
                device = make()
                device.verdicts.checks = {operation: lambda *_: ""}
                device.verdicts.of(operation, method)
        seconds = []
        for _ in range(3):
            device = make()
            device.verdicts.checks = CHECKS
            for cached in (verdicts.digest_of_engine, verdicts.cuda_libraries):
                cached.cache_clear()
            begin = time.process_time()
            assert all(device.verdicts.allows(name, method) for name, methods in METHODS.items() for method in methods)
            seconds.append(time.process_time() - begin)
        assert device.launched == []
        assert min(seconds) < 0.05


def test_device_that_still_computes_works() -> None:
    device = Faulty()
    assert device.works()
    device.xp.arange = None
    with pytest.raises(TypeError):
        device.works()


def test_memory_error_of_a_check_is_raised(cells: Cells) -> None:
    engine = engine_on(Faulty(), only=("silhouettes",))
    x, gpu = engine.put(cells.x), strict_cupy.current_gpu()
    gpu.total_bytes = gpu.used
    with pytest.raises(MemoryError, match="does not fit the GPU"):
        engine.cluster_distances(x, cells.label)
    gpu.total_bytes = strict_cupy.TOTAL_BYTES
    engine.cluster_distances(x, cells.label)
    assert engine.verified()["silhouettes/exact"] == "right"


@pytest.mark.slow
def test_every_method_is_right_on_the_emulation(monkeypatch: pytest.MonkeyPatch) -> None:
    """All checks together also stay within their time: a launch takes a GPU some microseconds."""
    fake_libraries.install_faiss(monkeypatch)
    fake_libraries.install_cuvs(monkeypatch)
    fake_libraries.install_cuml(monkeypatch)
    device = Faulty()
    engine_on(device)
    assert device.verdicts.used == {("copies", "pinned memory"): device.verdicts.of("copies", "pinned memory")}
    for operation, methods in METHODS.items():
        for method in methods:
            if operation not in ("leiden", "rf"):
                assert device.verdicts.of(operation, method).reason == ""
    assert set(device.launched) == set(KERNELS)
    assert len(device.launched) + len(device.products) < 1000


def test_digest_covers_everything_that_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The array code that engines share, and the CPU engine with its C++."""
    engines = tmp_path / "engines"
    names = ("common/neighborhoods.py", "cpu/kernels.py", "cpu/native/distances.cpp", "cuda/verdicts.py")
    for name in names:
        (engines / name).parent.mkdir(parents=True, exist_ok=True)
        (engines / name).write_text("old")
    monkeypatch.setattr(verdicts, "__file__", str(engines / "cuda" / "verdicts.py"))
    digests = {verdicts.digest_of_engine.__wrapped__()}
    for name in names:
        (engines / name).write_text("new")
        digests.add(verdicts.digest_of_engine.__wrapped__())
    assert len(digests) == 1 + len(names)


def test_cpu_searches_exactly_in_place_of_an_engine_that_must() -> None:
    for options in ({"knn": "exact"}, {"exact": True}):
        policy = engine_on(Faulty(), only=("knn",), **options)._host("knn").policy
        assert (policy.knn_method, policy.exact) == (options.get("knn", "auto"), "exact" in options)


def test_checks_and_methods_name_the_same_operations() -> None:
    assert list(CHECKS) == list(METHODS)
    assert set(METHODS["knn"]) == set(checks.KNN)


@pytest.mark.parametrize(
    ("found", "expected", "reason"),
    [
        ([1.0, np.nan, np.inf], [1.0, np.nan, np.inf], ""),
        ([1.0, 2.0 + 1e-9], [1.0, 2.0], ""),
        ([1.0, 2.1], [1.0, 2.0], "1 of 2 values differ, by up to 0.1"),
        ([1.0, np.nan], [1.0, 2.0], "1 of 2 values differ, by up to inf"),
        ([1.0, 5.0], [1.0, np.nan], "1 of 2 values differ, by up to inf"),
        ([1.0, np.nan], [1.0, np.inf], "1 of 2 values differ, by up to inf"),
        ([np.inf, 1.0], [2.0, 1.0], "1 of 2 values differ, by up to inf"),
        ([1.0], [1.0, 2.0], "values have shape (1,), not (2,)"),
    ],
)
def test_difference_is_described(found: list[float], expected: list[float], reason: str) -> None:
    assert checks.differs(Faulty(), "values", np.array(found), np.array(expected), 1e-8).startswith(reason)
    assert bool(checks.differs(Faulty(), "values", np.array(found), np.array(expected), 1e-8)) == bool(reason)


def test_verdict_is_a_tuple_that_json_can_hold() -> None:
    assert json.loads(json.dumps(Verdict(is_right=True)._asdict())) == {"is_right": True, "reason": "", "seconds": 0.0}

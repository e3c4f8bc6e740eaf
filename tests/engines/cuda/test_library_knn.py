"""Neighbours by faiss-gpu and cuVS, with stand-ins for both, on the host emulation. No GPU is used."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import fake_libraries
import numpy as np
import pytest
import reference
import strict_cupy
from cells import Cells, make_cells
from emulated import StartOn
from numpy.testing import assert_array_equal, assert_array_max_ulp

from gpubench.core.errors import GpubenchWarning, InputError, OutOfMemory
from gpubench.core.types import Knn
from gpubench.engines import knn_methods
from gpubench.engines.common import knn_search
from gpubench.engines.cuda import checks, ivf, library_knn
from gpubench.engines.cuda.engine import CudaEngine
from gpubench.engines.cuda.tiles import CellScaling
from gpubench.engines.cuda.verdicts import Verdicts
from gpubench.engines.cuda.workspace import CudaTuning
from gpubench.engines.embedding import on_engine
from gpubench.metrics import entropy_per_cell

SMALL_BLOCKS = CudaTuning(max_tile_rows=32, n_probe=100)
"""Tiles of several blocks, and searches of all lists."""


@pytest.fixture
def tuning() -> CudaTuning:
    return SMALL_BLOCKS


@pytest.fixture(scope="module")
def cells() -> Cells:
    """Cells far from the origin, with copies and ties: differences that plain float32 products would lose."""
    drawn = make_cells(110, 5, n_labels=4, n_batches=2, duplicates=0.1, seed=8)
    drawn.x[60:90] = np.round(drawn.x[60:90])
    drawn.x[...] += np.float32(300)
    return drawn


@pytest.fixture(autouse=True)
def small_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure the recall on few cells, which are searched exactly under the emulation."""
    monkeypatch.setattr(knn_search, "RECALL_SAMPLE", 40)


@pytest.fixture
def faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_libraries.install_faiss(monkeypatch)


@pytest.fixture
def cuvs(monkeypatch: pytest.MonkeyPatch) -> fake_libraries.Cuvs:
    return fake_libraries.install_cuvs(monkeypatch)


def search(engine: CudaEngine, x: np.ndarray, k: int) -> Knn:
    found = engine.knn(engine.put(x), k)
    return replace(found, indices=engine.to_host(found.indices), distances=engine.to_host(found.distances))


def check_exact(found: Knn, x: np.ndarray, k: int) -> None:
    """Check that the neighbours are those of the oracle, ordered by distance in float64 and index."""
    indices, distances = reference.knn(x, k)
    assert_array_equal(found.indices, indices)
    assert_array_max_ulp(found.distances, distances.astype(np.float32), maxulp=1)
    assert (found.indices.dtype, found.distances.dtype) == (np.int32, np.float32)
    assert found.recall == 1


PARAMS = {
    ("faiss", True): {"index": "flat"},
    ("faiss", False): {"n_lists": 10, "n_probe": 10},
    ("cuvs", True): {"index": "brute_force"},
    ("cuvs", False): {"index": "nn_descent", "graph_degree": 18},
}


@pytest.mark.usefixtures("faiss", "cuvs")
@pytest.mark.parametrize(("method", "flat"), PARAMS)
def test_neighbors_are_those_of_the_oracle(start_on: StartOn, cells: Cells, method: str, flat: bool) -> None:
    """In blocks of cells, on a stream of the user, with temporary arrays in use."""
    engine = start_on(knn=method, tuning=replace(SMALL_BLOCKS, exact_knn_cells=1000 if flat else 10))
    engine.xp.cuda.Stream(non_blocking=True).use()
    found = search(engine, cells.x, 9)
    check_exact(found, cells.x, 9)
    assert (found.method, found.params, found.exact) == (method, PARAMS[method, flat], False)


@pytest.mark.usefixtures("faiss", "cuvs")
@pytest.mark.parametrize("method", ["faiss", "cuvs"])
@pytest.mark.parametrize(("n", "k"), [(2, 1), (40, 39)])
def test_few_cells(start_on: StartOn, cells: Cells, method: str, n: int, k: int) -> None:
    check_exact(search(start_on(knn=method), cells.x[:n], k), cells.x[:n], k)


@pytest.mark.usefixtures("faiss")
@pytest.mark.parametrize("flat", [True, False])
def test_cells_are_searched_in_blocks(
    start_on: StartOn, cells: Cells, flat: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library_knn, "MAX_QUERIES", 37)
    engine = start_on(knn="faiss", tuning=replace(SMALL_BLOCKS, exact_knn_cells=1000 if flat else 10))
    check_exact(search(engine, cells.x, 5), cells.x, 5)


@pytest.mark.usefixtures("faiss")
def test_cells_of_too_few_lists_are_searched_exactly(start_on: StartOn, cells: Cells) -> None:
    """Lists with fewer than k cells give -1; the other cells' recall is below 1, and is measured."""
    engine = start_on(knn="faiss", tuning=replace(SMALL_BLOCKS, exact_knn_cells=10, n_probe=1))
    found = search(engine, cells.x, 9)
    true = reference.knn(cells.x, 9)[0]
    assert found.recall is not None
    assert found.recall < 1
    assert (found.indices >= 0).all()
    hits = [len(set(row) & set(own)) / 9 for row, own in zip(true.tolist(), found.indices.tolist(), strict=True)]
    sample = knn_search.draw_sample(len(cells.x), engine.seed)
    assert found.recall == pytest.approx(np.mean([hits[i] for i in sample]))


def test_repeated_candidates_count_once(start_on: StartOn, cells: Cells, cuvs: fake_libraries.Cuvs) -> None:
    """NN-descent found the nearest cell again in place of others, for every third cell."""
    cuvs.n_lost = 12
    engine = start_on(knn="cuvs", tuning=replace(SMALL_BLOCKS, exact_knn_cells=10))
    found = search(engine, cells.x, 9)
    assert all(len(set(row)) == 9 for row in found.indices.tolist())
    check_exact(found, cells.x, 9)  # cells with fewer than k candidates were compared with all


@pytest.mark.usefixtures("faiss", "cuvs")
class TestMistakes:
    """What would go wrong silently on a GPU is refused by the stand-in, or by the engine."""

    @pytest.mark.parametrize("flat", [True, False])
    def test_stream_of_faiss(
        self, start_on: StartOn, cells: Cells, flat: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fake_libraries.StandardGpuResources, "setDefaultStream", lambda *_: None)
        engine = start_on(knn="faiss", tuning=replace(SMALL_BLOCKS, exact_knn_cells=1000 if flat else 10))
        with pytest.raises(AssertionError, match="another stream"):
            search(engine, cells.x, 5)

    def test_stream_of_cuvs(self, start_on: StartOn, cells: Cells, monkeypatch: pytest.MonkeyPatch) -> None:
        own = sys.modules["cuvs.common"]
        monkeypatch.setattr(own, "Resources", lambda stream: fake_libraries.Resources(stream + 1))
        with pytest.raises(AssertionError, match="another stream"):
            search(start_on(knn="cuvs"), cells.x, 5)

    @pytest.mark.parametrize("flat", [True, False])
    def test_results_of_cuvs_that_are_not_complete(
        self, start_on: StartOn, cells: Cells, flat: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They hold what was in the memory before; here that is made to be no cell."""
        monkeypatch.setattr(fake_libraries.Resources, "sync", lambda _: None)
        engine = start_on(knn="cuvs", tuning=replace(SMALL_BLOCKS, exact_knn_cells=1000 if flat else 10))
        searched: list[int] = []
        exactly = library_knn.exact_knn.KnnSearch.search_exactly
        monkeypatch.setattr(
            library_knn.exact_knn.KnnSearch,
            "search_exactly",
            lambda self, rows: (searched.append(len(rows)), exactly(self, rows))[1],
        )
        empty = engine.xp.empty
        monkeypatch.setattr(
            engine.xp,
            "empty",
            lambda shape, dtype: engine.xp.full(shape, -1) if dtype == np.int64 else empty(shape, dtype),
        )
        search(engine, cells.x, 5)
        assert searched[0] == len(cells.x)

    @pytest.mark.parametrize(
        "wrong",
        [
            lambda xp, x: xp.asarray(x.astype(np.float64)),
            lambda xp, x: xp.asarray(np.asfortranarray(x)),
            lambda xp, x: xp.asarray(x)[:, :3],
            lambda xp, x: xp.asarray(x)[::2],
        ],
        ids=["float64", "columns first", "gaps between rows", "every other row"],
    )
    @pytest.mark.parametrize("method", ["faiss", "cuvs"])
    def test_arrays_that_a_library_would_misread(
        self, start_on: StartOn, cells: Cells, method: str, wrong: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = start_on(knn=method)
        broken = wrong(engine.xp, cells.x)
        monkeypatch.setattr(library_knn.exact_knn.KnnSearch, "scaled", lambda *_: broken)
        with pytest.raises((TypeError, ValueError)):
            search(engine, cells.x, 5)

    def test_device_of_faiss(self, start_on: StartOn, cells: Cells, monkeypatch: pytest.MonkeyPatch) -> None:
        engine = start_on(knn="faiss")
        x = engine.put(cells.x)
        monkeypatch.setattr(fake_libraries.GpuDistanceParams, "__init__", lambda self: setattr(self, "device", 1))
        resources = fake_libraries.StandardGpuResources()
        with pytest.raises(AssertionError, match="another device"):
            fake_libraries.bfKnn(resources, fake_libraries.GpuDistanceParams())
        assert len(x) == len(cells.x)


class TestMemory:
    def test_scaled_cells_are_one_copy(self, start_on: StartOn) -> None:
        engine, gpu = start_on(), strict_cupy.current_gpu()
        x = engine.put(np.ones((5000, 64), np.float32))
        scaling = CellScaling.of(engine.workspace(), x)
        before = gpu.high = gpu.used
        scaling.rows(engine.xp, x)
        assert gpu.high - before < 1.1 * x.nbytes

    @pytest.mark.usefixtures("faiss")
    def test_graph_that_does_not_fit_is_refused(self, start_on: StartOn, cells: Cells) -> None:
        engine = start_on(knn="faiss", free_bytes=20_000)
        with pytest.raises(InputError, match=r"graph of 5 neighbours of 110 cells by faiss takes .* use knn='exact'"):
            search(engine, cells.x, 5)

    @pytest.mark.usefixtures("faiss")
    def test_temporary_memory_of_faiss_is_limited_and_given_back(self, start_on: StartOn, cells: Cells) -> None:
        engine, gpu = start_on(knn="faiss", free_bytes=1 << 24), strict_cupy.current_gpu()
        taken: list[int] = []
        take, before = gpu.take, gpu.other_bytes
        gpu.take = lambda n_bytes: (taken.append(n_bytes), take(n_bytes))[1]  # type: ignore[method-assign]
        search(engine, cells.x, 5)
        assert len(taken) == 1
        assert 0 < taken[0] <= 1 << 21
        assert gpu.other_bytes == before

    @pytest.mark.usefixtures("faiss")
    def test_faiss_without_memory_is_an_error_with_advice(self, start_on: StartOn, cells: Cells) -> None:
        engine = start_on(knn="faiss")
        x = engine.put(cells.x)
        strict_cupy.current_gpu().total_bytes = 1 << 26  # faiss wants an eighth of the 1 GiB that the engine counts on
        with pytest.raises(OutOfMemory, match=r"^out of memory .*; use fewer cells"):
            engine.knn(x, 5)

    @pytest.mark.usefixtures("faiss", "cuvs")
    @pytest.mark.parametrize("method", ["faiss", "cuvs"])
    def test_too_many_neighbors_are_refused(self, start_on: StartOn, method: str) -> None:
        engine = start_on(knn=method)
        x = engine.put(np.zeros((2000, 1), np.float32))
        with pytest.raises(InputError, match="the CUDA engine finds at most"):
            engine.knn(x, library_knn.exact_knn.MAX_K)
        assert library_knn.n_candidates(10**6, library_knn.exact_knn.MAX_K - 1) <= library_knn.MAX_CANDIDATES


class TestChoice:
    @pytest.mark.parametrize("method", ["faiss", "cuvs"])
    def test_library_that_is_not_installed_is_refused_with_the_remedy(
        self, start_on: StartOn, method: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, method, None)
        monkeypatch.setattr("gpubench.engines.cuda.memory.find_spec", lambda _: None)
        with pytest.raises(InputError, match=rf"^knn='{method}' needs .*, which is not installed; .* pip install"):
            start_on(knn=method)

    def test_faiss_of_the_cpu_is_not_enough(self, start_on: StartOn, monkeypatch: pytest.MonkeyPatch) -> None:
        fake_libraries.install_module(monkeypatch, "faiss")
        with pytest.raises(InputError, match=r"the faiss here has no GPU functions.*gpubench-sc\[cuda12\]"):
            start_on(knn="faiss")

    def test_two_packages_of_faiss_are_named(self, start_on: StartOn, monkeypatch: pytest.MonkeyPatch) -> None:
        versions = {"faiss-cpu": "1.15.1", "faiss-gpu": "1.15.1"}
        monkeypatch.setattr(knn_methods.machine, "package_version", versions.get)
        fake_libraries.install_module(monkeypatch, "faiss")
        wanted = "faiss-cpu and faiss-gpu are both installed and own the same module; uninstall all of them, then"
        with pytest.raises(InputError, match=wanted):
            start_on(knn="faiss")

    @pytest.mark.parametrize("method", ["leaves", "nn_descent"])
    def test_method_of_another_engine_is_refused(self, start_on: StartOn, method: str) -> None:
        wanted = f"knn='{method}' needs the engine 'cpu'; the engine 'cuda' has: exact, ivf, faiss, cuvs"
        with pytest.raises(InputError, match=wanted):
            start_on(knn=method)

    @pytest.mark.usefixtures("faiss", "cuvs")
    def test_auto_takes_the_first_method_that_is_right_and_installed(
        self, start_on: StartOn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wrong: set[str] = set()
        policy = replace(start_on(free_bytes=1 << 32).policy, is_right_knn=lambda name: name not in wrong)
        method = policy.knn_method_for
        assert [method(n, 5, 15) for n in (4_000_000, 4_000_001)] == ["exact", "ivf"]
        wrong.add("ivf")
        assert method(4_000_001, 5, 15) == "faiss"
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "faiss", None)
            patch.setattr("gpubench.engines.cuda.memory.find_spec", lambda name: name != "faiss")
            assert method(4_000_001, 5, 15) == "exact", "cuVS is not reproducible"
        wrong.add("faiss")
        assert method(4_000_001, 5, 15) == "exact"

    @pytest.mark.usefixtures("faiss")
    def test_auto_takes_what_fits(self, start_on: StartOn) -> None:
        n, d, k = 4_000_001, 5, 15
        needs = [needed_bytes(n, d, k) for needed_bytes in (ivf.needed_bytes, library_knn.needed_bytes)]
        assert needs[0] < 900_000_000 < needs[1]
        engine = start_on(free_bytes=900_000_000)
        assert engine.policy.knn_method_for(n, d, k) == "ivf"
        assert replace(engine.policy, is_right_knn=lambda name: name != "ivf").knn_method_for(n, d, k) == "exact"

    @pytest.mark.usefixtures("faiss", "cuvs")
    @pytest.mark.parametrize(("method", "flat"), PARAMS)
    def test_library_that_is_wrong_is_not_used(
        self, start_on: StartOn, cells: Cells, method: str, flat: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each of its searches is checked, and a wrong one makes way for the exact search, with a warning."""
        engine = start_on(knn=method)
        engine.gpu.verdicts = Verdicts(engine.gpu, None)
        engine.gpu.verdicts.checks = {"knn": checks.CHECKS["knn"]}
        index = library_knn.LIBRARIES[method, flat]
        propose = index.propose
        # cells that are not near, as a stream that does not wait would give
        monkeypatch.setattr(index, "propose", lambda self, rows: propose(self, rows) * 0 + self._xp.arange(18)[:16])
        with pytest.warns(GpubenchWarning, match=f"knn by {method} is wrong on this GPU .*recalls.* and was not used"):
            assert search(engine, cells.x, 5).exact


@pytest.mark.usefixtures("faiss")
def test_scores_name_the_method_and_its_recall(start_on: StartOn, cells: Cells) -> None:
    score = entropy_per_cell(on_engine(cells.x, start_on(knn="faiss")), cells.batch, n_neighbors=20)
    assert score.approximate
    assert (score.params["knn"], score.params["recall"]) == ("faiss", 1)
    assert score == pytest.approx(reference.entropy_per_cell(cells.x, cells.batch, 20), abs=1e-6)

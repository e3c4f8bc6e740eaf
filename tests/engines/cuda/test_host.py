"""Operations of the CUDA engine on the host emulation; no GPU is used.

Blocks have 32 cells, so that small inputs go through the loops over blocks, passes and candidates.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import strict_cupy
from cells import Cells, make_cells, uneven_codes
from emulated import StartOn
from engines import (
    test_fuzzy_graph,
    test_knn,
    test_mean_distances,
    test_neighborhoods,
    test_rank_sums,
    test_silhouette_widths,
)
from engines.test_contract import OPERATIONS
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from gpubench.core.errors import InputError
from gpubench.core.types import Graph
from gpubench.engines.common import columns
from gpubench.engines.common.kmeans import _Cells, _standardise, kmeans
from gpubench.engines.common.neighborhoods import neighbor_entropy, neighbor_value_distance
from gpubench.engines.common.rank_sums import group_cells
from gpubench.engines.common.segments import cut, isolate, marked_last, sort_cells
from gpubench.engines.cpu.engine import CpuEngine
from gpubench.engines.cuda import exact_knn, rank_sums, tables, tiles, verdicts
from gpubench.engines.cuda.arithmetic import FLOAT32, SPLIT, TF32, cascade
from gpubench.engines.cuda.device import Device
from gpubench.engines.cuda.engine import CudaEngine
from gpubench.engines.cuda.kernels import MAX_SHARED_BYTES
from gpubench.engines.cuda.signatures import KERNELS
from gpubench.engines.cuda.silhouette import SilhouetteTiles
from gpubench.engines.cuda.workspace import CudaTuning
from gpubench.metrics.silhouette import silhouette_widths


@pytest.fixture
def tuning() -> CudaTuning:
    return CudaTuning(max_tile_rows=32, rows_per_search=40)


@pytest.fixture(scope="module")
def cells() -> Cells:
    return make_cells(130, 9, n_labels=4, duplicates=0.1, seed=2)


PRECISIONS = ("exact", "fast")
DEVICES = {"tensor cores": (9, 0), "none": (7, 5)}


class TestNeighbors:
    @pytest.mark.slow
    @pytest.mark.parametrize("precision", PRECISIONS)
    @pytest.mark.parametrize("d", [1, 9, 130])
    def test_several_blocks_find_exact_neighbors(self, start_on: StartOn, precision: str, d: int) -> None:
        test_knn.check_knn(start_on(precision=precision), make_cells(97, d, seed=d).x, 9)

    def test_without_tensor_cores_products_are_float32(self, start_on: StartOn, cells: Cells) -> None:
        engine = start_on(precision="fast", capability=DEVICES["none"])
        test_knn.check_knn(engine, cells.x, 9)
        assert not any(on_tensor_cores for *_, on_tensor_cores in engine.gpu.products)

    def test_the_faster_arithmetic_is_used(self, start_on: StartOn) -> None:
        assert cascade(start_on().gpu, 128, "exact") == [SPLIT]
        assert cascade(start_on().gpu, 50, "exact") == [FLOAT32]
        assert cascade(start_on().gpu, 50, "fast") == [TF32, FLOAT32]
        assert cascade(start_on(capability=DEVICES["none"]).gpu, 128, "fast") == [FLOAT32]

    @pytest.mark.parametrize("m", [1, 33])
    def test_queries_find_exact_neighbors(self, engine: CudaEngine, cells: Cells, m: int) -> None:
        test_knn.check_between(engine, cells.x[:m] + np.float32(0.1), cells.x, 7)

    def test_cells_as_queries_find_themselves_first(self, engine: CudaEngine) -> None:
        x = engine.put(make_cells(70, 3, duplicates=0, seed=1).x)
        found = engine.knn_between(x, x, 2)
        assert_array_equal(engine.to_host(found.indices)[:, 0], np.arange(70))
        assert_array_equal(engine.to_host(found.distances)[:, 0], np.zeros(70))

    @pytest.mark.parametrize("k", [1, 95, 96])
    def test_any_number_of_neighbors_is_exact(self, engine: CudaEngine, k: int) -> None:
        test_knn.check_knn(engine, make_cells(97, 3, seed=k).x, k)

    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_uncertain_rows_are_compared_with_all_cells(self, start_on: StartOn, precision: str) -> None:
        engine = start_on(precision=precision)
        x = make_cells(70, 3, n_labels=2, seed=1).x[np.arange(100) % 35]  # copies, and copies at the k-th place
        test_knn.check_knn(engine, x, 5)
        x[7] *= 1e6
        test_knn.check_knn(engine, x, 5)
        assert "search_exactly" in engine.gpu.launched

    def test_rows_uncertain_after_tf32_are_searched_by_accurate_tiles(self, start_on: StartOn, cells: Cells) -> None:
        engine = start_on(precision="fast")
        x = cells.x.copy()
        x[:, 0] += 400 * cells.label
        test_knn.check_knn(engine, x, 9)
        on_tensor_cores = [tensor_cores for *_, tensor_cores in engine.gpu.products]
        assert on_tensor_cores == sorted(on_tensor_cores, reverse=True)
        assert set(on_tensor_cores) == {True, False}

    def test_rounding_to_tf32_keeps_eleven_bits(self, engine: CudaEngine, rng: Any) -> None:
        x = (rng.normal(size=(50, 4)) * 10.0 ** rng.integers(-20, 20, (50, 4))).astype(np.float32)
        rounded = engine.to_host(tiles.to_tf32(engine.xp.asarray(x)))
        assert (np.abs(rounded - x) <= 2.0**-11 * np.abs(x)).all()
        mantissa = np.frexp(rounded)[0] * 2**11
        assert_array_equal(mantissa, np.rint(mantissa))

    @pytest.mark.parametrize("arithmetic", [FLOAT32, TF32, SPLIT])
    @pytest.mark.parametrize("d", [1, 7, 150])
    def test_slack_bounds_the_error_of_a_tile(self, engine: CudaEngine, arithmetic: Any, d: int, rng: Any) -> None:
        x = rng.normal(size=(40, d)).astype(np.float32)
        operand = tiles.Operand.of(engine.gpu, engine.xp.asarray(x), arithmetic)
        products = engine.xp.empty((40, 40), np.float32)
        engine.gpu.product(operand.left(engine.gpu), operand.right, products, tensor_cores=True)
        squares = engine.to_host(operand.squares)
        tile = squares[:, None] + squares + engine.to_host(products)
        lengths = np.sqrt(squares)
        off = np.abs(tile - reference.distances(x, x) ** 2)
        assert (off <= arithmetic.slack(d) * (lengths[:, None] + lengths) ** 2).all()

    def test_too_many_neighbors_are_refused(self, engine: CudaEngine) -> None:
        x = engine.put(np.zeros((exact_knn.MAX_K + 2, 1), np.float32))
        with pytest.raises(InputError, match=r"k=1793: .* at most 1,792 .*use the engine 'cpu'"):
            engine.knn(x, exact_knn.MAX_K + 1)

    def test_graph_that_does_not_fit_is_refused(self, start_on: StartOn) -> None:
        engine = start_on(free_bytes=1 << 20)
        with pytest.raises(
            InputError, match=r"the graph of 200 neighbours of 1,000 cells takes .* use fewer neighbours"
        ):
            engine.knn(engine.put(np.zeros((1000, 2), np.float32)), 200)

    @pytest.mark.parametrize("recent", [False, True])
    def test_operands_are_cached_as_far_as_memory_allows(self, engine: CudaEngine, cells: Cells, recent: bool) -> None:
        spans = [slice(0, 32), slice(32, 64), slice(64, 96)]
        bytes_each = 4 * 32 * (12 + 2)
        workspace = engine.workspace(room_bytes=4 * 2 * bytes_each)
        scaling = tiles.CellScaling(engine.xp.zeros(9, np.float32), 1.0)
        x = engine.put(cells.x)
        operands = tiles.Operands(workspace, x, spans, [scaling] * 3, FLOAT32, recent=recent)
        first = [operands[b] for b in range(3)]
        assert [operands[b] is first[b] for b in (2, 1, 0)] == [True, True, False]
        kept = operands[0]
        assert (operands[0] is kept) == recent
        assert (operands[2] is first[2]) != recent, "1 and 0 were used after it"
        none = tiles.Operands(engine.workspace(room_bytes=0), x, spans, [scaling] * 3, FLOAT32, recent=recent)
        assert none[2] is not none[2]

    @pytest.mark.parametrize("arithmetic", [FLOAT32, TF32, SPLIT])
    def test_rows_of_operands_are_multiples_of_16_bytes(self, engine: CudaEngine, arithmetic: Any) -> None:
        x = engine.put(make_cells(40, 50, seed=1).x)
        scaling = tiles.CellScaling.of(engine.workspace(), x)
        operand = tiles.Operand.of(engine.gpu, scaling.rows(engine.xp, x), arithmetic)
        for side in (operand.right, operand.left(engine.gpu)):
            assert side.shape[1] == arithmetic.parts * 52
            assert side.strides[0] % 16 == 0


@pytest.mark.parametrize(("k", "n_rows", "together"), [(15, 1000, 4), (15, 3, 3), (700, 1000, 3), (1792, 1000, 1)])
def test_uncertain_rows_share_the_cells_that_a_block_reads(k: int, n_rows: int, together: int) -> None:
    size = 1 << (k + exact_knn.SEARCH_THREADS - 1).bit_length()
    assert exact_knn.rows_together(size, n_rows) == together
    given = {"size": size, "together": together}
    assert KERNELS["search_exactly"].shared_bytes(given) <= MAX_SHARED_BYTES


class TestArithmetic:
    """Which way of multiplying is the fastest is measured once, and kept."""

    @pytest.fixture
    def cached_on(self, start_on: StartOn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Device]:
        def make(seconds: Callable[[int, bool], float] = lambda width, _: width, name: str = "Stand-in") -> Device:
            monkeypatch.setattr(verdicts, "_records", {})  # as in a new process
            device = start_on().gpu
            device.name = name
            device.verdicts = verdicts.Verdicts(device, tmp_path / "cache" / "verdicts")
            device.calls = []

            def product_seconds(edge: int, width: int, *, tensor_cores: bool) -> float:
                device.calls.append(width)
                return float(seconds(width, tensor_cores))

            monkeypatch.setattr(device, "product_seconds", product_seconds)
            return device

        return make

    def test_times_are_measured_once_for_each_number_of_dimensions(self, cached_on: Callable[..., Any]) -> None:
        first = cached_on()
        assert [cascade(first, 50, "exact") for _ in range(3)] == [[FLOAT32]] * 3
        second = cached_on()
        assert cascade(second, 50, "fast") == [TF32, FLOAT32]
        assert (first.calls, second.calls) == ([52, 156], [])
        cascade(second, 64, "exact")
        assert second.calls == [64, 192]
        third = cached_on()
        assert [cascade(third, d, "exact") for d in (50, 64)] == [[FLOAT32]] * 2
        assert third.calls == []

    def test_other_devices_are_measured_themselves(self, cached_on: Callable[..., Any]) -> None:
        slow, fast = cached_on(), cached_on(lambda width, on: width / (8 if on else 1), name="Another")
        assert [cascade(device, 50, "exact") for device in (slow, fast)] == [[FLOAT32], [SPLIT]]

    def test_folder_that_cannot_be_written_is_no_problem(self, cached_on: Callable[..., Any], tmp_path: Path) -> None:
        (tmp_path / "cache").write_text("a file")
        device = cached_on()
        assert [cascade(device, 50, "exact") for _ in range(2)] == [[FLOAT32]] * 2
        assert len(device.calls) == 2

    def test_a_product_is_timed_on_the_device(self, engine: CudaEngine) -> None:
        assert 0 < Device.product_seconds(engine.gpu, 64, 8, tensor_cores=False) < 1


class TestSilhouettes:
    @pytest.mark.parametrize("metric", ["euclidean", "cosine"])
    @pytest.mark.parametrize("n", [1, 2, 33, 97])
    def test_any_number_of_cells_equals_the_oracle(self, engine: CudaEngine, n: int, metric: Any) -> None:
        cells = make_cells(n, 9, n_labels=min(n, 4), n_batches=min(n, 3), seed=n)
        test_silhouette_widths.check(engine, cells.x, cells.label, metric=metric)
        test_silhouette_widths.check(engine, cells.x, cells.batch, cells.label, metric)

    @pytest.mark.parametrize("metric", ["euclidean", "cosine"])
    @pytest.mark.parametrize("sizes", [[60, 30] + [1] * 20, [1] * 50, [100] + [2] * 10, [2] * 40, [1, 70]])
    def test_uneven_clusters_equal_the_oracle(
        self, engine: CudaEngine, sizes: list[int], metric: Any, rng: Any
    ) -> None:
        clusters = rng.permutation(np.repeat(np.arange(len(sizes), dtype=np.int32), sizes))
        x = (rng.normal(size=(len(clusters), 5)) + clusters[:, None] % 7).astype(np.float32)
        test_silhouette_widths.check(engine, x, clusters, metric=metric)

    @pytest.mark.parametrize("metric", ["euclidean", "cosine"])
    def test_groups_without_two_clusters_are_nan(self, engine: CudaEngine, metric: Any, rng: Any) -> None:
        groups = rng.permutation(np.repeat(np.arange(4, dtype=np.int32), [1, 2, 50, 40]))
        clusters = uneven_codes(len(groups), 4, rng)
        clusters[groups == 2] = 3
        x = rng.normal(size=(len(groups), 3)).astype(np.float32)
        widths = test_silhouette_widths.check(engine, x, clusters, groups, metric)
        assert np.isnan(widths[groups == 2]).all()

    @pytest.mark.parametrize("metric", ["euclidean", "cosine"])
    @pytest.mark.parametrize(("offset", "scale"), [(1e4, 1.0), (0.0, 1e-6), (0.0, 1e-30), (0.0, 1e30), (1e8, 1e4)])
    def test_any_offset_and_scale_equals_the_oracle(
        self, engine: CudaEngine, cells: Cells, offset: float, scale: float, metric: Any
    ) -> None:
        x = (cells.x.astype(np.float64) * scale + offset).astype(np.float32)
        if scale > 1e-20 or metric == "euclidean":  # plain float32 has no squares that small
            exact = reference.silhouette_widths(x, cells.label, metric=metric)
            assert_allclose(silhouette_widths(engine, engine.put(x), cells.label, metric=metric), exact, atol=2e-3)
        if 1e-10 < scale < 1e10:
            test_silhouette_widths.check(engine, x, cells.batch, cells.label, metric)

    @pytest.mark.parametrize("gap", [1e2, 1e6])
    def test_clusters_far_apart_equal_the_oracle(self, engine: CudaEngine, cells: Cells, gap: float) -> None:
        x = cells.x.astype(np.float64)
        x[:, 0] += gap * cells.label
        test_silhouette_widths.check(engine, x.astype(np.float32), cells.label)

    @pytest.mark.parametrize("rows", [32, 8192])
    def test_outlier_does_not_spoil_other_cells(self, start_on: StartOn, cells: Cells, rows: int) -> None:
        engine = start_on(tuning=CudaTuning(max_tile_rows=rows))
        x = cells.x.copy()
        x[7] *= 1e6
        exact = reference.silhouette_widths(x, cells.label)
        assert_allclose(silhouette_widths(engine, engine.put(x), cells.label), exact, atol=1e-4)

    def test_far_cells_cut_each_segment_once(self, start_on: StartOn, rng: Any) -> None:
        engine = start_on(tuning=CudaTuning(max_tile_rows=128))
        x, clusters = rng.normal(size=(600, 3)).astype(np.float32), np.repeat([0, 1, 2], 200).astype(np.int32)
        far = rng.random(600) < 0.1
        x[far] *= 1e4
        exact = reference.silhouette_widths(x, clusters)
        assert_allclose(silhouette_widths(engine, engine.put(x), clusters), exact, atol=1e-4)
        blocks = SilhouetteTiles(engine.workspace(), engine.put(x), sort_cells(clusters, None)).blocks
        assert len(blocks) == 3 * (2 + 1)  # 200 cells are two blocks, of which one is cut once

    def test_operand_of_a_column_is_made_once_for_several_rows(
        self, start_on: StartOn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = []
        make = tiles.Operand.of
        monkeypatch.setattr(tiles.Operand, "of", lambda *args: made.append(1) or make(*args))
        monkeypatch.setattr(tiles.Operands, "__init__", without_cache(tiles.Operands.__init__))
        cells = make_cells(320, 5, n_labels=2, seed=1)
        engine = start_on()
        test_silhouette_widths.check(engine, cells.x, np.zeros(320, np.int32) + (np.arange(320) > 159))
        n_blocks = 10
        first = 2 * n_blocks  # for radii
        rows = n_blocks
        columns = n_blocks + 2  # of the first eight rows, and of the last two
        assert len(made) == first + rows + columns

    def test_terms_between_two_panels_are_computed_once(
        self, start_on: StartOn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = []
        along = tiles.Operand.along
        monkeypatch.setattr(tiles.Operand, "along", lambda *args: calls.append(1) or along(*args))
        cells = make_cells(256, 5, n_labels=2, seed=1)
        engine = start_on()
        x, clusters = engine.put(cells.x), (np.arange(256) > 127).astype(np.int32)
        silhouette_widths(engine, x, clusters)
        blocks = SilhouetteTiles(engine.workspace(), x, sort_cells(clusters, None)).blocks
        panels = {block.panel for block in blocks}
        assert len(panels) > 1
        assert 0 < len(calls) <= 2 * len(blocks) * (len(panels) - 1), "not for every tile"

    def test_identical_cells_have_width_zero(self, engine: CudaEngine) -> None:
        x = np.full((70, 3), 0.1, np.float32)
        clusters = np.arange(70, dtype=np.int32) % 2
        assert_array_equal(silhouette_widths(engine, engine.put(x), clusters), np.zeros(70))

    def test_zero_vectors_have_cosine_distance_one(self, engine: CudaEngine, cells: Cells) -> None:
        x = cells.x.copy()
        x[::7] = 0
        test_silhouette_widths.check(engine, x, cells.label, metric="cosine")

    def test_number_of_passes_does_not_change_the_bits(
        self, start_on: StartOn, cells: Cells, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clusters = np.arange(cells.n, dtype=np.int32) // 12
        engine = start_on()
        whole = silhouette_widths(engine, engine.put(cells.x), clusters)
        n_launches = engine.gpu.launched.count("silhouette_tile")
        from gpubench.engines.cuda import silhouette

        cut_short = silhouette.passes
        n_passes = []

        def passes(segments: Any, blocks: Any, _: int) -> Any:
            parts = list(cut_short(segments, blocks, 1))
            n_passes.append(len(parts))
            return parts

        monkeypatch.setattr(silhouette, "passes", passes)
        again = start_on()
        assert silhouette_widths(again, again.put(cells.x), clusters).tobytes() == whole.tobytes()
        assert n_passes[0] > 1
        assert again.gpu.launched.count("silhouette_tile") == n_launches

    @pytest.mark.parametrize("d", [9, 140])
    def test_fast_precision_is_close_to_exact(self, start_on: StartOn, d: int) -> None:
        cells = make_cells(97, d, n_labels=4, seed=3)
        engine = start_on(precision="fast")
        widths = silhouette_widths(engine, engine.put(cells.x), cells.label)
        exact = reference.silhouette_widths(cells.x, cells.label)
        assert all(on_tensor_cores for *_, on_tensor_cores in engine.gpu.products)
        assert_allclose(widths, exact, atol=1e-3)
        assert widths.mean() == pytest.approx(exact.mean(), abs=1e-4)

    def test_split_product_is_as_accurate_as_float32(self, engine: CudaEngine) -> None:
        cells = make_cells(97, 140, n_labels=4, seed=3)
        test_silhouette_widths.check(engine, cells.x, cells.label)

    def test_sums_that_do_not_fit_are_refused(self, start_on: StartOn) -> None:
        n = 2000
        engine = start_on(free_bytes=1 << 22)
        clusters = np.concatenate([np.zeros(n, np.int32), np.arange(n, dtype=np.int32)])
        x = engine.put(np.zeros((2 * n, 1), np.float32))
        with pytest.raises(InputError, match=r"from one cluster to 2,000 clusters takes .* use fewer clusters"):
            silhouette_widths(engine, x, clusters)


def without_cache(make: Callable[..., None]) -> Callable[..., None]:
    """Return an `Operands.__init__` after which nothing is cached."""

    def init(self: Any, *args: Any, **given: Any) -> None:
        make(self, *args, **given)
        self._most = 0

    return init


def test_marked_cells_come_last_in_their_segment(rng: Any) -> None:
    segments = sort_cells(rng.integers(0, 6, 50).astype(np.int32), rng.integers(0, 2, 50).astype(np.int32))
    marked = rng.random(50) < 0.3
    moved = marked_last(segments, marked)
    assert sorted(moved) == list(range(50))
    for start, stop in zip(segments.starts, segments.starts[1:], strict=False):
        assert ((moved[start:stop] >= start) & (moved[start:stop] < stop)).all()
        assert (np.diff(marked[moved[start:stop]].astype(int)) >= 0).all()


def test_long_columns_are_reduced_in_groups_of_rows(start_on: StartOn) -> None:
    """A reduction along the rows runs on few blocks of the GPU, so none may be long."""
    engine = start_on(tuning=CudaTuning(max_tile_rows=1024))
    cells = make_cells(5000, 3, n_labels=3, seed=1)
    x = engine.put(cells.x)
    strict_cupy.process.longest_reduction = 0
    tiles.CellScaling.of(engine.workspace(), x)
    SilhouetteTiles(engine.workspace(), x, sort_cells(cells.label, None))
    kmeans(engine, x, 3)
    assert 0 < strict_cupy.process.longest_reduction <= 2048


@pytest.mark.parametrize("n", [1, 1023, 1024, 5000])
@pytest.mark.parametrize("name", ["max", "min", "sum"])
def test_reduction_in_groups_equals_that_at_once(engine: CudaEngine, n: int, name: str, rng: Any) -> None:
    x = rng.normal(size=(n, 5)).astype(np.float32)
    options = {"dtype": np.float64} if name == "sum" else {}
    found = columns.reduce_rows(engine.xp, engine.xp.asarray(x), name, **options)
    assert_allclose(engine.to_host(found), getattr(x, name)(axis=0, **options), rtol=1e-12)
    assert_array_equal(columns.reduce_rows(np, x, name, **options), getattr(x, name)(axis=0, **options))


def test_kmeans_makes_one_copy_of_the_cells(start_on: StartOn) -> None:
    engine = start_on(free_bytes=1 << 22, memory_bytes=None)
    x = engine.xp.asarray(make_cells(20_000, 50, n_labels=3, seed=1).x)
    gpu = strict_cupy.current_gpu()
    engine.gpu.peak_bytes()
    before = gpu.used
    _Cells(engine, _standardise(engine, x))
    more = engine.gpu.peak_bytes() - before
    assert x.nbytes < more < 1.5 * x.nbytes


def test_isolated_cells_get_their_own_blocks(rng: Any) -> None:
    clusters = np.sort(rng.integers(0, 6, 50)).astype(np.int32)
    segments = sort_cells(clusters, None)
    apart = rng.random(50) < 0.2
    blocks = isolate(segments, cut(segments, 20), apart)
    assert [block.start for block in blocks] == [0, *(block.stop for block in blocks[:-1])]
    assert blocks[-1].stop == 50
    for block in blocks:
        inside = slice(block.start, block.stop)
        assert len(set(apart[inside])) == 1
        assert sorted(set(clusters[inside])) == list(range(block.first, block.last))
        assert_array_equal(np.searchsorted(block.cuts, np.arange(block.stop - block.start), "right") - 1 + block.first,
                           clusters[inside])  # fmt: skip


class TestGraphs:
    @pytest.mark.parametrize("k", [1, 9])
    def test_fuzzy_graph_equals_the_oracle(self, engine: CudaEngine, cells: Cells, k: int) -> None:
        test_fuzzy_graph.check(engine, engine.knn(engine.put(cells.x), k))

    def test_fuzzy_graph_of_a_head_equals_that_of_fewer_neighbors(self, engine: CudaEngine, cells: Cells) -> None:
        knn = engine.knn(engine.put(cells.x), 15)
        head, alone = knn.head(6), engine.knn(engine.put(cells.x), 6)
        dense = [test_fuzzy_graph.dense(engine, engine.fuzzy_graph(graph)) for graph in (head, alone)]
        assert_array_equal(*dense)

    @pytest.mark.parametrize("n_codes", [1, 3, 100, 3000])
    def test_neighbor_entropy_of_a_head_equals_the_oracle(self, engine: CudaEngine, n_codes: int, rng: Any) -> None:
        knn = test_neighborhoods.random_knn(engine, 60, 20)
        codes = rng.integers(0, n_codes, 60).astype(np.int32)
        got = engine.map_neighbors(knn.head(12), neighbor_entropy, codes, n_codes)
        expected = reference.neighbor_entropy(engine.to_host(knn.indices)[:, :12], codes)
        assert_allclose(got, expected, rtol=1e-12, atol=1e-12)

    def test_neighbor_value_distance_equals_the_oracle(self, engine: CudaEngine, rng: Any) -> None:
        knn = test_neighborhoods.random_knn(engine, 60, 20)
        values, counts = rng.normal(size=60), rng.integers(1, 21, 60)
        indices = engine.to_host(knn.indices)
        for given in (None, counts):
            got = engine.map_neighbors(knn, neighbor_value_distance, values, given)
            assert_allclose(got, reference.neighbor_value_distance(indices, values, given), rtol=1e-12)


class TestTables:
    @pytest.mark.parametrize("room_bytes", [1 << 20, 1])
    def test_rank_in_any_memory_equals_the_oracle(self, engine: CudaEngine, room_bytes: int, rng: Any) -> None:
        table = rng.integers(0, 9, (5, 40)).astype(np.float32)
        ranks = tables.rank(engine.gpu, engine.xp.asarray(table), room_bytes)
        assert_array_equal(engine.to_host(ranks), [reference.average_ranks(row) for row in table])

    @pytest.mark.parametrize("room_bytes", [1 << 30, 96 * 500, 1])
    def test_rank_sums_in_any_memory_equal_the_oracle(self, engine: CudaEngine, room_bytes: int, rng: Any) -> None:
        values = np.maximum(rng.integers(-2, 3, (60, 23)), 0).astype(np.float32)
        groups = rng.integers(-1, 3, 60)
        cells = group_cells(groups, 3, 0, values.shape)
        for form in (values, sparse.csr_array(values), sparse.csc_array(values)):
            test_rank_sums.check(rank_sums.rank_sums(engine.gpu, form, cells, room_bytes), values, groups, 3, 0)

    def test_group_means_equal_the_oracle(self, engine: CudaEngine, rng: Any) -> None:
        x, codes = rng.normal(size=(70, 35)).astype(np.float32), rng.integers(0, 4, 70).astype(np.int32)
        means = engine.group_means(engine.put(x), codes, 6)
        assert_allclose(means, reference.group_means(x, codes, 6), rtol=1e-12, atol=1e-12)
        assert np.isnan(means[4:]).all()


class TestDigest:
    def test_digest_depends_on_every_value_and_its_place(self, start_on: StartOn, cells: Cells) -> None:
        x, digests = cells.x[:40], []
        swapped, sign, near = x.copy(), x.copy(), x.copy()
        swapped[[0, 39]] = swapped[[39, 0]]
        sign[3, 2] = -sign[3, 2]
        near[39, 8] = np.nextafter(near[39, 8], np.float32(np.inf))
        for values in (1 << 24, 100):
            engine = start_on(tuning=CudaTuning(float64_values=values))
            digests.append(
                [engine.digest(engine.put(y)) for y in (x, x.copy(), swapped, sign, near, x.reshape(20, 18))]
            )
        assert digests[0] == digests[1], "the size of blocks does not matter"
        assert digests[0][0] == digests[0][1]
        assert len(set(digests[0])) == 5
        assert all(len(digest) == 64 for digest in digests[0])

    def test_digest_leaves_the_cells_on_the_gpu(self, engine: CudaEngine, cells: Cells, monkeypatch: Any) -> None:
        x = engine.put(cells.x)
        monkeypatch.setattr(strict_cupy.ndarray, "get", None)
        monkeypatch.setattr(engine.xp, "asnumpy", None)
        assert engine.digest(x)


def test_second_run_gives_the_same_bits(start_on: StartOn, cells: Cells) -> None:
    def compute() -> list[bytes]:
        engine = start_on()
        x = engine.put(cells.x)
        knn = engine.knn(x, 9)
        graph = engine.fuzzy_graph(knn)
        widths = silhouette_widths(engine, x, cells.label), silhouette_widths(engine, x, cells.label, metric="cosine")
        return [engine.to_host(a).tobytes() for a in (knn.indices, knn.distances, graph.weights)] + [
            w.tobytes() for w in widths
        ]

    assert compute() == compute()


def test_graphs_equal_those_of_the_cpu_engine(engine: CudaEngine, cells: Cells) -> None:
    cpu = CpuEngine(threads=1)
    on_gpu, on_cpu = engine.put(cells.x), cpu.put(cells.x)
    knn, expected = engine.knn(on_gpu, 9), cpu.knn(on_cpu, 9)
    assert_array_equal(engine.to_host(knn.indices), expected.indices)
    assert_array_equal(engine.to_host(knn.distances), expected.distances)
    knn = replace(
        expected, indices=engine.xp.asarray(expected.indices), distances=engine.xp.asarray(expected.distances)
    )
    assert_allclose(
        test_fuzzy_graph.dense(engine, engine.fuzzy_graph(knn)),
        test_fuzzy_graph.dense(cpu, cpu.fuzzy_graph(expected)),
        atol=2e-5,
    )
    assert_array_equal(engine.leiden(engine.fuzzy_graph(knn)), cpu.leiden(cpu.fuzzy_graph(expected)))


def test_stand_in_is_as_strict_as_cupy(engine: CudaEngine) -> None:
    ours, theirs = engine.xp.ones(3), np.ones(3)
    for mixed in (lambda: ours + theirs, lambda: theirs + ours, lambda: engine.xp.maximum(ours, theirs)):
        with pytest.raises(TypeError):
            mixed()
    with pytest.raises(TypeError, match="Implicit conversion"):
        np.asarray(ours)
    with pytest.raises(ValueError, match="ambiguous"):
        bool(ours == 1)


def test_stand_in_has_only_names_of_cupy() -> None:
    cupy = pytest.importorskip("cupy")
    ours = strict_cupy.make_cupy()
    for module, theirs in (
        (ours, cupy),
        (ours.cuda, cupy.cuda),
        (ours.get_default_memory_pool(), cupy.cuda.MemoryPool),
    ):
        assert [name for name in vars(module) if not hasattr(theirs, name)] == []
    for name in (*strict_cupy.METHODS.split(), *strict_cupy.ATTRIBUTES.split(), "get", "set", "T", "data", "device"):
        assert hasattr(cupy.ndarray, name), name
    runtime, linalg = cupy.cuda.runtime, importlib.import_module("cupy._core._routines_linalg")
    for name in (name for name in dir(ours.cuda.runtime) if not name.startswith("_")):
        value = getattr(ours.cuda.runtime, name)
        assert getattr(runtime, name) == value if isinstance(value, int) else hasattr(runtime, name), name
    for theirs, needed in (
        (cupy.cuda.MemoryPool, "malloc free_bytes used_bytes total_bytes free_all_blocks"),
        (cupy.cuda.Stream, "use synchronize"),
        (cupy.cuda.Event, "record synchronize"),
        (cupy.cuda.Device, "use __enter__ __exit__"),
        (linalg, "get_compute_type set_compute_type COMPUTE_TYPE_FP32 COMPUTE_TYPE_TF32"),
    ):
        assert [name for name in needed.split() if not hasattr(theirs, name)] == []


def case_put(engine: CudaEngine, cells: Cells) -> None:
    on_device = engine.put(cells.x.astype(np.float64))
    assert on_device.dtype == np.float32
    assert_array_equal(on_device.get(), cells.x)


def case_release(engine: CudaEngine, cells: Cells) -> None:
    on_device = engine.put(cells.x)
    assert engine.put(on_device) is on_device
    engine.release(on_device)
    assert not any(known is on_device for known in engine._checked.values())


def case_to_host(engine: CudaEngine, cells: Cells) -> None:
    assert_array_equal(engine.to_host(engine.xp.asarray(cells.x)), cells.x)


def case_knn(engine: CudaEngine, cells: Cells) -> None:
    test_knn.check_knn(engine, cells.x, 5)
    copies = np.repeat(cells.x[:3], 34, axis=0)  # more than candidates, so that rows remain uncertain
    test_knn.check_knn(engine, copies, 5)


def case_knn_between(engine: CudaEngine, cells: Cells) -> None:
    test_knn.check_between(engine, cells.x[:33] + np.float32(0.1), cells.x, 7)


def case_cluster_distances(engine: CudaEngine, cells: Cells) -> None:
    test_silhouette_widths.check(engine, cells.x, cells.batch, cells.label)
    test_silhouette_widths.check(engine, cells.x, cells.label, metric="cosine")


def case_map_neighbors(engine: CudaEngine, cells: Cells) -> None:
    indices, _ = reference.knn(cells.x, 9)
    knn = engine.knn(engine.put(cells.x), 9)
    entropy = engine.map_neighbors(knn, neighbor_entropy, cells.batch, int(cells.batch.max()) + 1)
    assert_allclose(entropy, reference.neighbor_entropy(indices, cells.batch), rtol=1e-12, atol=1e-12)
    distance = engine.map_neighbors(knn, neighbor_value_distance, cells.time.astype(np.float64))
    assert_allclose(distance, reference.neighbor_value_distance(indices, cells.time), rtol=1e-12)


def case_fuzzy_graph(engine: CudaEngine, cells: Cells) -> None:
    test_fuzzy_graph.check(engine, engine.knn(engine.put(cells.x), 9))


def case_leiden(engine: CudaEngine, cells: Cells) -> None:
    graph = engine.fuzzy_graph(engine.knn(engine.put(cells.x), 9))
    on_host = Graph(*map(engine.to_host, (graph.indptr, graph.indices, graph.weights)))
    assert_array_equal(engine.leiden(graph), CpuEngine(threads=1).leiden(on_host))


def case_classifier(engine: CudaEngine, cells: Cells) -> None:
    for kind in ("lr", "knn", "rf"):
        ours = engine.classifier(kind).fit(engine.put(cells.x), cells.label, 4)
        theirs = CpuEngine(threads=1).classifier(kind).fit(cells.x, cells.label, 4)
        proba = engine.to_host(ours.predict_proba(engine.put(cells.x)))
        assert_allclose(proba, theirs.predict_proba(cells.x), atol=2e-3)


def case_group_means(engine: CudaEngine, cells: Cells) -> None:
    means = engine.group_means(engine.put(cells.x), cells.label, 5)
    assert_allclose(means, reference.group_means(cells.x, cells.label, 5), rtol=1e-12)


def case_rank(engine: CudaEngine, cells: Cells) -> None:
    values = np.round(cells.x[:40].T)
    ranks = engine.rank(engine.xp.asarray(np.ascontiguousarray(values)))
    assert_array_equal(engine.to_host(ranks), [reference.average_ranks(row) for row in values])


def case_rank_sums(engine: CudaEngine, cells: Cells) -> None:
    values = np.maximum(np.round(cells.x), 0)
    for form in (engine.put(values), sparse.csr_matrix(values)):
        test_rank_sums.check(engine.rank_sums(form, cells.label, 5, 1), values, cells.label, 5, 1)


def case_mean_distances(engine: CudaEngine, cells: Cells) -> None:
    values = np.maximum(np.round(cells.x), 0)
    for form in (np.asarray, sparse.csr_matrix):
        test_mean_distances.check(engine, values, cells.label, 5, form)


CASES: dict[str, Callable[[CudaEngine, Cells], None]] = {
    "put": case_put,
    "release": case_release,
    "to_host": case_to_host,
    "knn": case_knn,
    "knn_between": case_knn_between,
    "cluster_distances": case_cluster_distances,
    "map_neighbors": case_map_neighbors,
    "fuzzy_graph": case_fuzzy_graph,
    "leiden": case_leiden,
    "classifier": case_classifier,
    "group_means": case_group_means,
    "rank": case_rank,
    "rank_sums": case_rank_sums,
    "mean_distances": case_mean_distances,
}
"""Each operation of the contract, checked on the emulation against the oracle or the CPU engine."""


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
def test_every_operation_of_the_contract_equals_the_oracle(engine: CudaEngine, cells: Cells, operation: str) -> None:
    CASES[operation](engine, cells)


@pytest.mark.slow
def test_operations_launch_every_kernel(engine: CudaEngine, cells: Cells) -> None:
    for case in CASES.values():
        case(engine, cells)
    assert set(engine.gpu.launched) == set(KERNELS)


@pytest.mark.slow
def test_outlier_does_not_make_other_cells_uncertain(engine: CudaEngine, rng: np.random.Generator) -> None:
    """Rounding errors grow with the distance from the centre, but an outlier is nobody's neighbour."""
    x = rng.standard_normal((500, 8)).astype(np.float32)
    x[7] += 3000
    search = exact_knn.KnnSearch(engine.workspace(), on_device := engine.put(x), on_device, 6)
    assert len(search.search_tiles(None, FLOAT32)) <= 2
    knn = engine.knn(on_device, 6)
    assert_array_equal(engine.to_host(knn.indices), reference.knn(x, 6)[0])

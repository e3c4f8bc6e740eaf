"""The compiled tiles: every instruction set that this processor has gives what NumPy gives."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from gpubench.core.errors import InputError
from gpubench.engines.common.knn_search import Scaling, locality_order
from gpubench.engines.cpu import compiled as cpu_compiled
from gpubench.engines.cpu import kernels, top_k
from gpubench.engines.cpu.engine import CpuEngine
from gpubench.engines.cpu.tuning import CpuTuning
from gpubench.metrics.silhouette import silhouette_widths

pytestmark = pytest.mark.skipif(not cpu_compiled.available(), reason="gpubench was installed without a C++ compiler")

GIGABYTE = 1 << 30


def engine_with(
    tiles: str, threads: int = 2, memory_bytes: int = GIGABYTE, tuning: CpuTuning | None = None
) -> CpuEngine:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cpu_compiled.VARIABLE, tiles)
        return CpuEngine(threads=threads, memory_bytes=memory_bytes, tuning=tuning)


def sizes(*edges: int) -> list[int]:
    return [size for edge in edges for size in (edge - 1, edge, edge + 1)]


@pytest.fixture(params=cpu_compiled.available())
def tiles(request: pytest.FixtureRequest) -> str:
    """Each instruction set in turn."""
    name: str = request.param
    return name


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("aarch64-linux-gnu-g++"), reason="no compiler for Arm is installed")
def test_sources_compile_for_arm_without_warnings(tmp_path: Path) -> None:
    folder = Path(cpu_compiled.__file__).parent / "native"
    sources = [folder / name for name in cpu_compiled.SOURCES if name.endswith(".cpp")]
    flags = [*("-std=c++17", "-O3", "-fno-math-errno", "-fPIC", "-shared", "-Wall", "-Werror"), '-DDIGEST="digest"']
    library = tmp_path / "arm.so"
    subprocess.run(["aarch64-linux-gnu-g++", *flags, *sources, "-o", library], check=True)
    listing = subprocess.run(
        ["aarch64-linux-gnu-objdump", "-d", "--disassemble=topk_tiles", library],
        check=True,
        capture_output=True,
        text=True,
    )
    by_lane = re.findall(r"fmla\s+v\d+\.4s, v\d+\.4s, v\d+\.s\[[0-3]\]", listing.stdout)
    assert len(by_lane) >= 24  # 8 rows x 3 vectors, in registers


@pytest.mark.parametrize("n", [2, 3, *sizes(8, 48), 97])
@pytest.mark.parametrize("d", [1, 2, 7, 65])
def test_neighbours_of_few_cells(tiles: str, n: int, d: int, rng: np.random.Generator) -> None:
    x = rng.standard_normal((n, d)).astype(np.float32)
    for k in {1, n // 2, n - 1} - {0}:
        found = engine_with(tiles).knn(x, k)
        indices, distances = reference.knn(x, k)
        assert_array_equal(found.indices, indices)
        assert_allclose(found.distances, distances, rtol=1e-6)


@pytest.mark.parametrize("tiles", cpu_compiled.available())
@given(n=st.integers(2, 60), k=st.integers(1, 9), seed=st.integers(0, 100))
def test_symmetrised_graphs_equal_those_of_scipy(tiles: str, n: int, k: int, seed: int) -> None:
    """To the bit, weights of 0 and pieces of rows on several threads included."""
    rng, k = np.random.default_rng(seed), min(k, n - 1)
    indices = np.array([rng.permutation(np.delete(np.arange(n), i))[:k] for i in range(n)], np.int32)
    memberships = rng.choice([0.0, 1.0, 1e-300, 0.3], (n, k)) * rng.random((n, k))
    compiled = cpu_compiled.load(tiles)
    assert compiled is not None

    def over_rows(n_rows: int, work: Callable[[int, int], None]) -> None:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda start: work(start, min(start + 7, n_rows)), range(0, n_rows, 7)))

    ours = kernels.symmetrise(indices, memberships, compiled, over_rows)
    theirs = kernels.symmetrise(indices, memberships, None, over_rows)
    for name in ("indptr", "indices", "weights"):
        assert_array_equal(getattr(ours, name), getattr(theirs, name))
        assert getattr(ours, name).dtype == getattr(theirs, name).dtype


@pytest.mark.slow
@pytest.mark.parametrize("n", sizes(top_k.BLOCK, 2 * top_k.BLOCK))
def test_neighbours_across_blocks(tiles: str, n: int, rng: np.random.Generator) -> None:
    x = rng.standard_normal((n, 5)).astype(np.float32)
    x[::7] = x[rng.integers(0, n, len(x[::7]))]  # copies
    found = engine_with(tiles).knn(x, 9)
    assert_array_equal(found.indices, reference.knn(x, 9)[0])


@pytest.mark.slow
def test_a_search_in_several_passes(tiles: str, rng: np.random.Generator) -> None:
    x = rng.standard_normal((5 * top_k.BLOCK + 11, 4)).astype(np.float32)
    whole = engine_with(tiles).knn(x, 6)
    # two blocks of rows in a gigabyte, and a call for each pair of blocks
    tuning = CpuTuning(candidate_share=2e-3, products_per_call=1)
    parts = engine_with(tiles, tuning=tuning).knn(x, 6)
    between = engine_with(tiles, tuning=tuning).knn_between(x[:3000], x, 6)
    assert_array_equal(parts.indices, whole.indices)
    assert_array_equal(parts.distances, whole.distances)
    assert_array_equal(between.indices, reference.knn_between(x[:3000], x, 6)[0])


@pytest.mark.slow
@pytest.mark.parametrize("d", [top_k.WIDE - 1, top_k.WIDE])
def test_many_dimensions(tiles: str, d: int, rng: np.random.Generator) -> None:
    x = rng.standard_normal((2 * top_k.LEAF + 5, d)).astype(np.float32)
    assert_array_equal(engine_with(tiles).knn(x, 4).indices, reference.knn(x, 4)[0])


@given(seed=st.integers(0, 10_000), n=st.integers(2, 120), k=st.integers(1, 119), distinct=st.integers(1, 8))
def test_neighbours_among_many_copies(seed: int, n: int, k: int, distinct: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((distinct, 3)).astype(np.float32)[rng.integers(0, distinct, n)]
    found = engine_with(cpu_compiled.available()[0]).knn(x, min(k, n - 1))
    assert_array_equal(found.indices, reference.knn(x, min(k, n - 1))[0])


@pytest.mark.parametrize("n", [3, *sizes(8, 48, 768)])
@pytest.mark.parametrize("n_clusters", [2, 3, 11])
def test_silhouettes(tiles: str, n: int, n_clusters: int, rng: np.random.Generator) -> None:
    x = rng.standard_normal((n, 6)).astype(np.float32)
    clusters = rng.integers(0, n_clusters, n).astype(np.int32)
    clusters[:2] = 0, 1
    widths = silhouette_widths(engine_with(tiles), x, clusters)
    assert_allclose(widths, reference.silhouette_widths(x, clusters), atol=2e-6)


def test_silhouettes_far_from_the_origin(tiles: str, rng: np.random.Generator) -> None:
    """Two heaps that are far apart: inside each, products have lost the digits of the distances."""
    x = rng.standard_normal((900, 3)).astype(np.float32)
    x[450:] += 30_000
    clusters = (np.arange(900) % 3).astype(np.int32)
    expected = reference.silhouette_widths(x, clusters)
    assert_allclose(silhouette_widths(engine_with(tiles), x, clusters), expected, atol=1e-4)
    assert_allclose(silhouette_widths(engine_with("numpy"), x, clusters), expected, atol=1e-4)


def test_the_number_of_threads_does_not_matter(tiles: str, rng: np.random.Generator) -> None:
    x = rng.standard_normal((3000, 8)).astype(np.float32)
    clusters = rng.integers(0, 5, 3000).astype(np.int32)
    one, three = engine_with(tiles, threads=1), engine_with(tiles, threads=3)
    assert_array_equal(silhouette_widths(one, x, clusters), silhouette_widths(three, x, clusters))
    a, b = one.knn(x, 15), three.knn(x, 15)
    assert_array_equal(a.indices, b.indices)
    assert_array_equal(a.distances, b.distances)


@pytest.mark.parametrize("n", [1, 10, 31, 32, 33, 1000])
def test_locality_order_holds_every_cell_once(n: int, rng: np.random.Generator) -> None:
    x = rng.standard_normal((n, 3)).astype(np.float32)
    order = locality_order(x, Scaling(x, x), 32, seed=0)
    assert_array_equal(np.sort(order), np.arange(n))


def test_locality_order_puts_near_cells_together(rng: np.random.Generator) -> None:
    """Eight heaps of 32 cells: each is one leaf."""
    heap = np.arange(256) % 8
    x = (100 * rng.standard_normal((8, 3))[heap] + rng.standard_normal((256, 3))).astype(np.float32)
    leaves = heap[locality_order(x, Scaling(x, x), 32, seed=0)].reshape(8, 32)
    assert all(len(set(leaf.tolist())) == 1 for leaf in leaves)


def test_locality_order_of_identical_cells() -> None:
    x = np.ones((100, 2), np.float32)
    assert_array_equal(np.sort(locality_order(x, Scaling(x, x), 8, seed=0)), np.arange(100))


def test_arrays_of_the_wrong_type_are_refused(tiles: str) -> None:
    loaded = cpu_compiled.load(tiles)
    assert loaded is not None
    with pytest.raises(Exception, match="float32"):
        loaded.pack_columns(np.ones((2, 2)), 2, 2, np.empty(100, np.float32))
    with pytest.raises(Exception, match="C_CONTIGUOUS"):
        loaded.pack_columns(np.ones((2, 2), np.float32).T, 2, 2, np.empty(200, np.float32)[::2])


def test_the_environment_variable_chooses_the_tiles() -> None:
    assert engine_with("numpy").device == "CPU (2 threads, NumPy)"
    name = cpu_compiled.available()[-1]
    assert engine_with(name).device == f"CPU (2 threads, {name})"
    with pytest.raises(InputError, match=r"GPUBENCH_TILES='sse9' is not available; use one of: .*numpy"):
        engine_with("sse9")


def test_libraries_of_other_sources_are_refused(tmp_path: Path) -> None:
    code = (
        "from gpubench.engines.cpu import compiled\n"
        "compiled._digest_of_sources = lambda: 'of other sources'\n"
        "compiled.load()"
    )
    command = [sys.executable, "-c", code]
    # outside of the checkout, whose package may not be compiled
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "install gpubench again" in done.stderr

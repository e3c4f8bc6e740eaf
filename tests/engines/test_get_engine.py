"""get_engine: a named engine starts or raises, and follows its options."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import gpubench
from gpubench.core.errors import EngineUnavailable, InputError
from gpubench.core.timeline import Timeline
from gpubench.engines import ENGINES, get_engine
from gpubench.engines.base import Engine
from gpubench.engines.cuda import device
from gpubench.engines.embedding import on_engine


@pytest.mark.parametrize("name", ["gpu", "CPU", "", None])
def test_an_unknown_engine_is_refused_with_the_known_names(name: str | None) -> None:
    with pytest.raises(InputError, match=r"engine=.* is unknown; use one of: auto, cpu, cuda"):
        get_engine(name)


def test_a_named_engine_has_that_name(engine_name: str) -> None:
    assert get_engine(engine_name).name == engine_name


def test_auto_chooses_a_known_engine() -> None:
    assert get_engine("auto").name in ENGINES


def test_an_engine_keeps_its_seed_and_timeline(start_engine: Callable[..., Engine]) -> None:
    timeline = Timeline()
    engine = start_engine(seed=7, timeline=timeline, memory_bytes=1 << 30)
    assert engine.seed == 7
    assert engine.timeline is timeline
    assert engine.memory_bytes == 1 << 30
    assert engine.device


@pytest.mark.parametrize("option", [{"threads": 0}, {"threads": -2}, {"memory_bytes": 0}, {"memory_bytes": -1}])
def test_impossible_threads_and_memory_are_refused(start_engine: Callable[..., Engine], option: dict[str, int]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(option)).removesuffix('_bytes')}="):
        start_engine(**option)


@pytest.mark.parametrize("seed", [-1, 2**32, 2**40, 1.0, "1", None, np.int64(-5)])
def test_seeds_out_of_range_or_of_other_types_are_refused(engine_name: str, seed: object) -> None:
    for name in ("auto", engine_name):
        with pytest.raises(
            InputError,
            match=rf"^seed={re.escape(repr(seed))} is out of range; it must be an integer from 0 to 4294967295",
        ):
            get_engine(name, seed=seed)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [0, 2**32 - 1, np.int64(7), np.uint32(7)])
def test_smallest_and_largest_seed_are_accepted(seed: int) -> None:
    engine = get_engine("cpu", seed=seed)
    assert type(engine.seed) is int
    graph = engine.fuzzy_graph(engine.knn(engine.put(np.eye(6)), 3))
    assert len(engine.leiden(graph)) == 6


def test_auto_on_a_machine_without_a_driver_imports_little_of_the_cuda_engine() -> None:
    code = (
        "import sys\n"
        "from gpubench.engines import get_engine\n"
        "from gpubench.engines.cuda import device\n"
        "device.driver_version = lambda: None\n"
        "assert get_engine().name == 'cpu'\n"
        "print(*(name for name in sys.modules if 'cuda' in name or 'cupy' in name))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.removeprefix("gpubench.engines.") for name in done.stdout.split()}
    assert loaded == {"cuda", "cuda.device", "cuda.kernels", "cuda.memory", "cuda.signatures", "cuda.verdicts"}


# Content of a package called cupy that cannot work, and the message for the user.
BROKEN_CUPY = {
    "a library is missing": ("raise ImportError('libcublas.so.12: cannot open shared object file')", "libcublas.so.12"),
    "a library does not load": ("raise OSError('libcudart.so: invalid ELF header')", "invalid ELF header"),
    "another NumPy": ("raise AttributeError('module numpy has no attribute product')", "no attribute product"),
    "half removed": ("", "no attribute 'cuda'"),
    "an error of CUDA": ("raise RuntimeError('cudaErrorInsufficientDriver: driver is too old')", "driver is too old"),
    "no word": ("raise ImportError", "ImportError"),
}


@pytest.mark.parametrize(("text", "reason"), BROKEN_CUPY.values(), ids=BROKEN_CUPY)
def test_a_broken_cupy_does_not_affect_the_cpu_engine(
    text: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cupy").mkdir()
    (tmp_path / "cupy" / "__init__.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(device, "driver_version", lambda: "12.4")
    with pytest.raises(EngineUnavailable, match=reason) as error:
        get_engine("cuda")
    assert 'pip install "gpubench-sc[cuda12]"' in str(error.value)
    chosen = get_engine("auto")
    assert (chosen.name, chosen.chosen) == ("cpu", f"auto: {error.value}")
    assert gpubench.score([[0.0], [1.0], [9.0], [8.0]], label=list("aabb"), tasks="embedding").value("silhouette_score")


def test_a_driver_that_is_too_old_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "driver_version", lambda: "11.8")
    with pytest.raises(EngineUnavailable, match=r"driver for CUDA 12 or newer, this one is for CUDA 11\.8; update"):
        get_engine("cuda")


@pytest.mark.parametrize("library", [None, "libc.so.6"], ids=["missing", "no driver"])
def test_a_driver_library_without_its_functions_counts_as_no_driver(
    library: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = ctypes.CDLL
    monkeypatch.setattr(device.ctypes, "CDLL", lambda _: load(library or "no-such-library.so"))
    assert device.driver_version() is None


def test_an_embedding_stays_on_its_engine(engine: Engine, start_engine: Callable[..., Engine]) -> None:
    embedding = on_engine([[1.0, 2.0], [3.0, 4.0]], engine)
    assert on_engine(embedding) is embedding
    assert on_engine(embedding, engine) is embedding
    for other in (start_engine(), "cpu"):
        with pytest.raises(InputError, match="already on the engine"):
            on_engine(embedding, other)


def test_one_graph_serves_every_k(engine: Engine, rng: np.random.Generator) -> None:
    embedding = on_engine(rng.normal(size=(50, 3)), engine)
    embedding.plan_knn(20)
    small = embedding.knn(5)
    assert small.k == 5
    first, all_ = engine.to_host(small.indices), engine.to_host(embedding.knn(20).indices)
    np.testing.assert_array_equal(first, all_[:, :5])
    searches = [span for span in engine.timeline.spans() if span.path.endswith("knn")]
    embedding.knn(20)
    embedding.knn(1)
    assert [span for span in engine.timeline.spans() if span.path.endswith("knn")] == searches
    assert embedding.knn(30).k == 30


@pytest.mark.parametrize("k", [0, -1, 50, 51])
def test_more_neighbors_than_cells_are_refused(engine: Engine, rng: np.random.Generator, k: int) -> None:
    embedding = on_engine(rng.normal(size=(50, 3)), engine)
    with pytest.raises(InputError, match=rf"k={k} .* use 1 to 49"):
        embedding.knn(k)

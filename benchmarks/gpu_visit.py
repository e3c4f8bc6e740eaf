"""Learn as much as possible from a short visit to a GPU: what works, whether numbers are right, and how long it takes.

    pip install --no-index --find-links wheels "gpubench-sc[cuda12,test]"      # where the machine has no network
    python benchmarks/gpu_visit.py --minutes 10 --out visit

Stages run in the order of what a first visit must find out. Each writes its own JSON file at once, so that an end at
any time loses one stage; a later visit with the same folder, GPU, packages and code continues after the finished ones,
and takes failed ones again. Sizes for which there is no time are timed on a share of their tiles, which is stated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import anndata
import gpu as benchmark
import numpy as np

import gpubench as gb
from gpubench.cli import doctor, gpu_doctor
from gpubench.core.checkpoint import digest_of, digest_of_code
from gpubench.core.machine import package_versions
from gpubench.datasets import demo_path
from gpubench.engines import get_engine
from gpubench.engines.common.segments import sort_cells
from gpubench.engines.cuda.arithmetic import ACCURATE, fastest
from gpubench.engines.cuda.device import driver_version
from gpubench.engines.cuda.engine import CudaEngine
from gpubench.engines.cuda.silhouette import ROWS_TOGETHER
from gpubench.profiling import gpu_operations

TESTS = ("tests/kernels", "tests/engines")
REPEATED_LEIDENS = 10


@dataclass(frozen=True)
class Sizes:
    """What is timed.

    Attributes
    ----------
    methods : what is timed of each method of the engine
    widths : dimensions whose products are timed
    parity_cells : cells of the demo data that are scored here and on the CPU
    graph_cells : cells of the graph that Leiden clusters several times
    whole : (cells, dimensions) that are scored by every task
    shares : (cells, dimensions) of which a share of the tiles is timed
    k : neighbours
    seconds : for each share
    edge : rows and columns of the products that are timed
    """

    methods: gpu_operations.BenchSizes = field(default_factory=gpu_operations.BenchSizes)
    widths: tuple[int, ...] = (50, 64, 128, 256, 512, 1536)
    parity_cells: int = 1_000
    graph_cells: int = 200_000
    whole: tuple[tuple[int, int], ...] = ((1_000_000, 50), (1_000_000, 512))
    shares: tuple[tuple[int, int], ...] = ((4_000_000, 50), (13_000_000, 50), (13_000_000, 512))
    k: int = 200
    seconds: float = 20.0
    edge: int = 8192


@dataclass(frozen=True)
class Visit:
    """One visit.

    Attributes
    ----------
    out : folder of the JSON files
    tests : paths that pytest is given
    test_engine : engine that they are run on
    """

    engine: CudaEngine
    out: Path
    sizes: Sizes = Sizes()
    tests: tuple[str, ...] = TESTS
    test_engine: str = "cuda"

    def key(self) -> str:
        """Return a digest of what the results depend on."""
        return digest_of(
            self.engine.gpu.name, driver_version(), package_versions(), digest_of_code(), asdict(self.sizes)
        )


Stage = tuple[str, float, Callable[[Visit, float], Any]]
"""Name, minutes that it takes at most, and what it does, given the seconds that are left."""


def stages(sizes: Sizes) -> Iterator[Stage]:
    """Yield the stages in order."""
    yield "doctor", 0.5, lambda visit, _: examine(visit.engine, visit.sizes)
    yield "parity", 0.5, lambda visit, _: parity(visit.engine, visit.sizes)
    yield "products", 0.3, lambda visit, _: products(visit.engine, visit.sizes)
    yield "libraries", 1.0, lambda visit, _: libraries(visit.engine, visit.sizes)
    for n, d in sizes.whole:
        yield f"suite_{n}x{d}", 1.0, lambda visit, _, n=n, d=d: benchmark.suite(visit.engine, n, d)
    for n, d in sizes.shares:
        minutes = 2 * sizes.seconds / 60 + 0.3
        yield f"share_{n}x{d}", minutes, lambda visit, _, n=n, d=d: share(visit.engine, visit.sizes, n, d)
    yield "tests", 1.0, run_tests


def run(visit: Visit, minutes: float) -> dict[str, str]:
    """Run the stages for which there is time; return and write what became of each."""
    visit.out.mkdir(parents=True, exist_ok=True)
    end, key, became = time.monotonic() + 60 * minutes, visit.key(), {}
    for name, needed, work in stages(visit.sizes):
        path, left = visit.out / f"{name}.json", end - time.monotonic()
        if path.is_file() and is_finished(path, key):
            became[name] = "done before"
        elif left < 60 * needed:
            became[name] = f"no time: takes up to {needed:g} minutes, {left / 60:.1f} are left"
        else:
            became[name] = run_stage(visit, path, key, lambda left=left, work=work: work(visit, left))
        write(visit.out / "summary.json", {"key": key, "stages": became})
        print(f"{name}: {became[name]}", flush=True)
    return became


def is_finished(path: Path, key: str) -> bool:
    """Whether a file is that of a finished stage of the same GPU, packages and code."""
    try:
        record = json.loads(path.read_text())
    except ValueError:  # the visit ended while it was written
        return False
    return bool(record["key"] == key and record["status"] == "done")


def run_stage(visit: Visit, path: Path, key: str, work: Callable[[], Any]) -> str:
    """Run a stage and write its file; return its status."""
    begin = time.perf_counter()
    record: dict[str, Any] = {"key": key, "gpu": visit.engine.gpu.name, "driver": driver_version()}
    try:
        record |= {"status": "done", "result": work()}
    except Exception as error:  # noqa: BLE001 - whatever fails on a new machine is what the visit is for
        record |= {"status": "failed", "error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    write(path, record | {"seconds": time.perf_counter() - begin, "packages": package_versions()})
    return record["status"] if record["status"] == "done" else f"failed: {record['error']}"


def write(path: Path, content: Any) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(content, indent=1, default=str) + "\n")


def examine(engine: CudaEngine, sizes: Sizes) -> dict[str, Any]:
    """Return what works here, and the verdict, time and rate of every method, whatever was found before."""
    findings = [asdict(finding) for finding in doctor.examine()]
    return {"findings": findings, **gpu_doctor.examine_gpu(engine.gpu, sizes=sizes.methods).to_dict()}


def parity(engine: CudaEngine, sizes: Sizes) -> dict[str, Any]:
    """Score cells of the demo data here and on the CPU; return the largest differences of each score."""
    cells = anndata.read_h5ad(demo_path())
    cells = cells[np.random.default_rng(0).permutation(cells.n_obs)[: sizes.parity_cells]].copy()
    given = {"label": "cell_type", "batch": "batch", "n_folds": 2}
    tasks = ["clustering", "embedding", "batch_integration", "label_prediction"]
    ours, theirs = (gb.score(cells, ["X_pca"], tasks=tasks, engine=of, **given) for of in (engine, "cpu"))
    apart: dict[str, float] = {}
    for mine, expected in zip(ours.results, theirs.results, strict=True):
        difference = abs(float(mine.value or 0) - float(expected.value or 0))
        apart[f"{mine.task} {mine.metric}"] = max(difference, apart.get(f"{mine.task} {mine.metric}", 0.0))
    return {"differences": apart, "failures": ours.failures, "notes": engine.notes}


def products(engine: CudaEngine, sizes: Sizes) -> dict[str, Any]:
    """Time the products of tiles by each arithmetic."""
    seconds = {
        d: {
            name: engine.gpu.product_seconds(sizes.edge, way.parts * d, tensor_cores=way.tensor_cores)
            for name, way in ACCURATE.items()
            if engine.gpu.has_tensor_cores or not way.tensor_cores
        }
        for d in sizes.widths
    }
    chosen = {d: fastest(engine.gpu, d).parts for d in sizes.widths} if engine.gpu.has_tensor_cores else {}
    return {"edge": sizes.edge, "seconds": seconds, "parts_chosen": chosen}


def libraries(engine: CudaEngine, sizes: Sizes) -> dict[str, Any]:
    """Cluster one graph several times, and time silhouettes before and after cuML was imported."""
    x, codes = benchmark.cells_on_device(engine, sizes.graph_cells, 50)
    graph = engine.fuzzy_graph(engine.knn(x, 15))
    digests = {digest_of(engine.leiden(graph).tolist()) for _ in range(REPEATED_LEIDENS)}
    before = timed(engine, lambda: engine.cluster_distances(x, codes["label"]))
    forest = engine.classifier("rf").fit(x[:10_000], codes["label"][:10_000], benchmark.LABELS)
    forest.predict_proba(x[:10_000])
    after = timed(engine, lambda: engine.cluster_distances(x, codes["label"]))
    engine.release(x)
    return {
        "leiden_results": len(digests),
        "forest": forest.note,
        "silhouette_seconds": {"before the forest": before, "after it": after},
        "free_bytes": engine.gpu.free_bytes(),
        "notes": engine.notes,
    }


def timed(engine: CudaEngine, work: Callable[[], object]) -> list[float]:
    """Return the seconds of three calls."""
    seconds = []
    for _ in range(3):
        engine.gpu.synchronize()
        begin = time.perf_counter()
        work()
        engine.gpu.synchronize()
        seconds.append(time.perf_counter() - begin)
    return seconds


def share(engine: CudaEngine, sizes: Sizes, n: int, d: int) -> dict[str, Any]:
    """Time silhouettes and neighbours of a share of the tiles, for some seconds each."""
    x, codes = benchmark.cells_on_device(engine, n, d)
    found = {
        "silhouette": silhouette_share(engine, x, codes["label"], sizes.seconds),
        "knn": knn_share(engine, x, sizes.k, sizes.seconds),
        "peak_bytes": engine.gpu.peak_bytes(),
    }
    engine.release(x)
    return found


def silhouette_share(engine: CudaEngine, x: Any, codes: np.ndarray, seconds: float) -> dict[str, float]:
    """Add up rows of tiles, in an order at random, until the time is over."""
    begin = time.perf_counter()
    tiles = engine.silhouette_tiles(x, sort_cells(codes, None), engine.room_bytes())
    engine.gpu.synchronize()
    prepared, part, done = time.perf_counter() - begin, tiles.plan[0], []
    n_tiles = sum(part.group_last - i for part in tiles.plan for i in range(part.first, part.last))
    sums = tiles.empty_sums(engine.xp, part)
    starts = np.random.default_rng(0).permutation(np.arange(part.first, part.last, ROWS_TOGETHER)).tolist()
    begin = time.perf_counter()
    for first in starts:
        tiles.add_rows(range(first, min(first + ROWS_TOGETHER, part.last)), part.group_last, sums, done.append)
        engine.gpu.synchronize()
        if time.perf_counter() - begin > seconds:
            break
    took, timed_tiles = time.perf_counter() - begin, sum(done)
    return {
        "prepared_seconds": prepared,
        "seconds": took,
        "share": timed_tiles / n_tiles,
        "estimated_seconds": prepared + took * n_tiles / timed_tiles,
    }


def knn_share(engine: CudaEngine, x: Any, k: int, seconds: float) -> dict[str, float]:
    """Search some cells among all: a few first, then as many as the time allows."""
    n, m, took = len(x), min(len(x), engine.tuning.max_tile_rows), 0.0
    for _ in range(2):
        begin = time.perf_counter()
        engine.knn_between(x[:m], x, k)
        engine.gpu.synchronize()
        took, searched = time.perf_counter() - begin, m
        m = int(min(n, max(m, m * (seconds - took) / took)))
    return {"seconds": took, "share": searched / n, "estimated_seconds": took * n / searched}


def run_tests(visit: Visit, left: float) -> dict[str, Any]:
    """Run the tests on the GPU until the first one fails or the time is over."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--engine", visit.test_engine, *visit.tests]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=left, check=False)
    except subprocess.TimeoutExpired as error:
        return {"code": None, "output": str(error.stdout or "")[-4000:]}
    return {"code": done.returncode, "output": done.stdout[-4000:], "errors": done.stderr[-2000:]}


def main() -> None:
    """Visit the GPU that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=Path("visit"))
    given = parser.parse_args()
    engine = get_engine("cuda")
    assert isinstance(engine, CudaEngine)
    run(Visit(engine, given.out), given.minutes)


if __name__ == "__main__":
    main()

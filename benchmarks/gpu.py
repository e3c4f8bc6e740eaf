"""Time the CUDA engine on millions of cells, relative to the rate of matrix products on the same device.

Needs a CUDA device. For each number of cells and dimensions: exact silhouette widths, exact neighbours, and (with
`--suite`) every task on one embedding. The lower bound of the time of a stage is its floating point operations over the
measured rate: n^2 d for the symmetric tiles of silhouettes, 2 n^2 d for those of neighbours. Writes one JSON file.

    python benchmarks/gpu.py --cells 1000000 --dimensions 50 --dimensions 512 --precision exact --precision fast
    python benchmarks/gpu.py --cells 13000000 --dimensions 50 --suite
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

import gpubench as gb
from gpubench.engines import get_engine
from gpubench.engines.cuda.engine import CudaEngine
from gpubench.metrics.silhouette import silhouette_widths
from gpubench.running.provenance import provenance

LABELS, BATCHES, TIMES = 30, 8, 6
RATE_EDGE, RATE_REPEATS = 8192, 10
BLOCK_CELLS = 1 << 20


def main() -> None:
    """Run the measurements of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, action="append", required=True)
    parser.add_argument("--dimensions", type=int, action="append", required=True)
    parser.add_argument("--precision", choices=("exact", "fast"), action="append")
    parser.add_argument("--neighbors", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3, help="per stage; the first one also compiles the kernels")
    parser.add_argument("--suite", action="store_true", help="also score every task once")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gpu.json")
    given = parser.parse_args()
    rows = []
    record: dict[str, Any] = {}
    for precision in given.precision or ["exact"]:
        engine = get_engine("cuda", precision=precision)
        assert isinstance(engine, CudaEngine)
        rates = {name: matrix_rate(engine, tensor_cores=name == "tf32") for name in ("float32", "tf32")}
        for n in given.cells:
            for d in given.dimensions:
                row = {"n": n, "d": d, "precision": precision, "flop_per_s": rates}
                row |= measure(engine, n, d, given.neighbors, given.repeats)
                if given.suite:
                    row["suite"] = suite(engine, n, d)
                rows.append(row)
                print(json.dumps(row))
        record = provenance(engine, options=vars(given) | {"out": str(given.out)})
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps({"provenance": record, "rows": rows}, indent=1) + "\n")


def matrix_rate(engine: CudaEngine, *, tensor_cores: bool) -> float:
    """Measure the floating point operations per second of large square products of random numbers."""
    xp, gpu = engine.gpu.xp, engine.gpu
    left, right = (xp.random.standard_normal((RATE_EDGE, RATE_EDGE), dtype=np.float32) for _ in range(2))
    out = xp.empty((RATE_EDGE, RATE_EDGE), np.float32)
    gpu.product(left, right, out, tensor_cores=tensor_cores)
    gpu.synchronize()
    begin = time.perf_counter()
    for _ in range(RATE_REPEATS):
        gpu.product(left, right, out, tensor_cores=tensor_cores)
    gpu.synchronize()
    return 2 * RATE_EDGE**3 * RATE_REPEATS / (time.perf_counter() - begin)


def cells_on_device(engine: CudaEngine, n: int, d: int) -> tuple[Any, dict[str, np.ndarray]]:
    """Make cells with overlapping labels and shifted batches on the device, and their codes on the host."""
    xp = engine.gpu.xp
    rng = np.random.default_rng(0)
    codes = {
        name: rng.integers(0, size, n).astype(np.int32)
        for name, size in (("label", LABELS), ("batch", BATCHES), ("time", TIMES))
    }
    centres = xp.asarray(rng.normal(scale=1.5, size=(LABELS, d)).astype(np.float32))
    shifts = xp.asarray(rng.normal(scale=0.5, size=(BATCHES, d)).astype(np.float32))
    xp.random.seed(0)
    x = xp.empty((n, d), np.float32)
    for start in range(0, n, BLOCK_CELLS):
        stop = min(start + BLOCK_CELLS, n)
        x[start:stop] = xp.random.standard_normal((stop - start, d), dtype=np.float32)
        x[start:stop] += centres[codes["label"][start:stop]] + shifts[codes["batch"][start:stop]]
    return engine.put(x), codes


def measure(engine: CudaEngine, n: int, d: int, k: int, repeats: int) -> dict[str, Any]:
    """Measure the seconds of each repeat of each stage; `flop` gives its lower bound at the measured rates."""
    x, codes = cells_on_device(engine, n, d)
    stages = {
        "silhouette_label": (lambda: silhouette_widths(engine, x, codes["label"]), n**2 * d),
        "silhouette_batch": (lambda: silhouette_widths(engine, x, codes["batch"], codes["label"]), n**2 * d / LABELS),
        "knn": (lambda: engine.knn(x, k), 2 * n**2 * d),
    }
    measured: dict[str, Any] = {}
    for name, (run, flop) in stages.items():
        seconds = []
        for _ in range(repeats):
            engine.gpu.synchronize()
            begin = time.perf_counter()
            run()
            engine.gpu.synchronize()
            seconds.append(time.perf_counter() - begin)
        measured[name] = {"seconds": seconds, "flop": flop, "peak_bytes": engine.gpu.peak_bytes()}
    engine.release(x)
    return measured


def suite(engine: CudaEngine, n: int, d: int) -> dict[str, Any]:
    """Score every task on one embedding; return the seconds of each stage, notes and failures."""
    x, codes = cells_on_device(engine, n, d)
    begin = time.perf_counter()
    result = gb.score(x, label=codes["label"], batch=codes["batch"], time=codes["time"], engine=engine)
    engine.release(x)
    return {
        "seconds": time.perf_counter() - begin,
        "timeline": result.timeline,
        "results": [row.value for row in result.results],
        "failures": result.failures,
        "notes": engine.notes,
    }


if __name__ == "__main__":
    main()

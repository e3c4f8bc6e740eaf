"""Count how often the 95% intervals of estimated scores cover the value of all cells.

    python benchmarks/coverage.py --n 50000 --seeds 100

Each score is computed once from all cells and then estimated from as many samples as there are seeds. An estimate's
interval is its value plus and minus 1.96 standard errors. Writes results/coverage.json; the exit code is 1 where an
interval holds the value less often than 93 times in a hundred.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import measure
import numpy as np

from gpubench.engines.cpu.engine import CpuEngine
from gpubench.metrics import entropy_per_cell, silhouette_batch, silhouette_label
from gpubench.profiling.synthetic import make

LEAST = 0.93


def estimating_engine(**options: Any) -> CpuEngine:
    """Return a CPU engine that samples at any number of cells."""
    engine = CpuEngine(**options)
    engine.policy = replace(engine.policy, max_exact_pair_dims=0, max_exact_knn_cells=0, max_exact_knn_pair_dims=0)
    return engine


def main(arguments: Sequence[str] | None = None) -> int:
    """Estimate each score repeatedly; return 1 if intervals are too narrow."""
    given = _parse(arguments)
    cells = make(given.n, given.d)
    scores: dict[str, Callable[[CpuEngine], Any]] = {
        "silhouette_label": lambda engine: silhouette_label(cells.x, cells.label, engine=engine),
        "silhouette_batch": lambda engine: silhouette_batch(cells.x, cells.label, cells.batch, engine=engine),
        "entropy_per_cell": lambda engine: entropy_per_cell(cells.x, cells.batch, engine=engine),
    }
    rows = []
    for name, score in scores.items():
        begin = time.perf_counter()
        true = score(CpuEngine(exact=True))
        exact_s = time.perf_counter() - begin
        begin = time.perf_counter()
        estimates = [score(estimating_engine(seed=seed)) for seed in range(given.seeds)]
        errors = np.array([float(estimate) - float(true) for estimate in estimates])
        stderrs = np.array([estimate.stderr for estimate in estimates])
        rows.append(
            {
                "score": name,
                "value": float(true),
                "covered": float((np.abs(errors) <= 1.96 * stderrs).mean()),
                "mean_error": float(errors.mean()),
                "rms_error": float(np.sqrt((errors**2).mean())),
                "mean_stderr": float(stderrs.mean()),
                "mean_cells": float(np.mean([estimate.n for estimate in estimates])),
                "exact_s": exact_s,
                "estimate_s": (time.perf_counter() - begin) / given.seeds,
            }
        )
        print(json.dumps(rows[-1]), file=sys.stderr)
    report = {
        "n": given.n,
        "d": given.d,
        "seeds": given.seeds,
        "holds": all(row["covered"] >= LEAST for row in rows),
        "rows": rows,
        "versions": measure.versions(sys.executable, ("gpubench", "numpy")),
        "machine": measure.machine_facts(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "coverage.json").write_text(json.dumps(report, indent=2) + "\n")
    return 0 if report["holds"] else 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=50_000, help="cells")
    parser.add_argument("--d", type=int, default=50, help="dimensions")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--out", type=Path, default=measure.HERE / "results", help="folder of the JSON file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

"""Measure the silhouette of all cells and its estimate: time at 300,000 and 1,000,000 cells, and memory.

    python benchmarks/silhouette.py --n 300000 1000000 --repeats 3

Every run is `gpubench score` with the silhouette of the labels alone, in a fresh process, from a memory-mapped .npy
file, in turn; each size exactly (--exact), the largest also as it is estimated by default. Memory is what the process
holds beyond the file. Writes results/silhouette.json; the exit code is 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import measure

D = 50
SLOWER_AT_MOST, BYTES_AT_MOST, ESTIMATE_S_AT_MOST = 12.0, 3e9, 60.0
"""Goals at 1,000,000 cells: ratio to the seconds of 300,000; bytes beyond the input; seconds of the estimate."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; return 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs=2, default=[300_000, 1_000_000], help="cells")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", help="folder to reuse or store the cells in (default: a temporary folder)")
    parser.add_argument("--out", type=Path, default=measure.HERE / "results", help="folder of the JSON file")
    given = parser.parse_args(arguments)
    runs: dict[str, list[dict[str, Any]]] = {"exact_small": [], "exact": [], "estimate": []}
    with tempfile.TemporaryDirectory() as made:
        small, large = (_cells(n, Path(given.folder or made)) for n in given.n)
        for _ in range(given.repeats):
            runs["exact_small"].append(_score(small, "--exact"))
            runs["exact"].append(_score(large, "--exact"))
            runs["estimate"].append(_score(large))
            print({name: own[-1] for name, own in runs.items()}, file=sys.stderr)
    median = {name: statistics.median(run["silhouette_s"] for run in own) for name, own in runs.items()}
    peak = max(run["peak_bytes"] for run in runs["exact"])
    ratio = median["exact"] / median["exact_small"]
    report = {
        "n": given.n,
        "d": D,
        "median_s": median,
        "exact_over_exact_small": ratio,
        "peak_bytes": peak,
        "holds": ratio <= SLOWER_AT_MOST and peak <= BYTES_AT_MOST and median["estimate"] <= ESTIMATE_S_AT_MOST,
        "runs": runs,
        "versions": measure.versions(sys.executable, ("gpubench", "numpy")),
        "machine": measure.machine_facts(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "silhouette.json").write_text(json.dumps(report, indent=2) + "\n")
    return 0 if report["holds"] else 1


def _cells(n: int, folder: Path) -> Path:
    cells = folder / str(n)
    if not (cells / "obs.parquet").exists():
        make = [sys.executable, str(measure.HERE / "synthetic.py"), str(cells), "--n", str(n), "--d", str(D)]
        subprocess.run(make, check=True)
    return cells


def _score(cells: Path, *options: str) -> dict[str, Any]:
    """Return seconds of the whole process and of the silhouette, memory, and the score of one run."""
    with tempfile.TemporaryDirectory() as out:
        command = [str(Path(sys.executable).with_name("gpubench")), "score", str(cells / "x.npy")]
        command += ["--obs", str(cells / "obs.parquet"), "--label", "label", "--task", "embedding"]
        command += ["--engine", "cpu", "--out", out, "--quiet", *options]
        begin = time.perf_counter()
        peak = measure.watch(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        seconds = time.perf_counter() - begin
        results = json.loads(Path(out, "results.json").read_text())
    stages = [stage for stage in results["timeline"] if stage["path"].endswith("silhouette_score")]
    score = results["results"][0]
    return {
        "process_s": seconds,
        "silhouette_s": sum(stage["seconds"] for stage in stages),
        "peak_bytes": peak,
        **{name: score[name] for name in ("value", "stderr", "approximate")},
    }


if __name__ == "__main__":
    raise SystemExit(main())

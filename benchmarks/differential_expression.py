"""Compare differential expression of all perturbations with pdex and illico: processor time on one thread.

    python benchmarks/differential_expression.py --pdex-python pdex/bin/python --illico-python illico/bin/python
    python benchmarks/differential_expression.py --case logs --repeats 1 --out /tmp/try

pdex 0.3.0 and illico 0.6.0 (which also needs statsmodels) each need an environment of their own; one that is not named
is left out. Every run is a fresh process (`differential_expression_child.py`), all packages in turn; what counts is the
median of the calls after the first, in which the peers compile. Writes results/differential_expression.json, in which
`difference` is the largest difference of a p-value from ours.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import measure
import numpy as np

PACKAGES = ("gpubench-sc", "gpubench", "numpy", "scipy", "numba", "pdex", "illico", "anndata")
CALLS = 3


@dataclass(frozen=True)
class TestCase:
    """Expression to test.

    Attributes
    ----------
    id : its name
    n, n_genes, n_groups : cells, genes, perturbations; a third of the cells are controls
    share : of the values that are not zero
    kind : "counts", or "logs" of normalised counts
    at_least : peer -> how many times faster than it the tests alone mean to be; without peers a case shows how
        time grows
    """

    id: str
    n: int
    n_genes: int
    n_groups: int
    share: float
    kind: str
    at_least: dict[str, float]


GOALS = {"pdex": 40.0, "illico": 4.0}
CASES = (
    TestCase("logs", 12_000, 2_000, 40, 0.26, "logs", GOALS),
    TestCase("few_nonzero", 12_000, 2_000, 40, 0.026, "logs", {"pdex": 20.0, "illico": 4.0}),
    TestCase("counts", 12_000, 2_000, 40, 0.26, "counts", {"pdex": 25.0, "illico": 2.0}),
    TestCase("many_groups", 64_000, 2_000, 300, 0.10, "logs", GOALS),
    TestCase("growth_1", 25_000, 4_000, 100, 0.10, "logs", {}),
    TestCase("growth_2", 50_000, 4_000, 100, 0.10, "logs", {}),
    TestCase("growth_4", 100_000, 4_000, 100, 0.10, "logs", {}),
    TestCase("growth_8", 200_000, 4_000, 100, 0.10, "logs", {}),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the chosen cases; 1 if a goal is missed."""
    given = _parse(arguments)
    path = given.out / "differential_expression.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    order = [case.id for case in CASES]
    for case in CASES:
        if case.id in given.case:
            row = _measure(case, given)
            rows = [other for other in rows if other["case"]["id"] != case.id] + [row]
            rows.sort(key=lambda row: order.index(row["case"]["id"]))
            given.out.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"rows": rows}, indent=2) + "\n")
    missed = [row["case"]["id"] for row in rows if not row["holds"]]
    print(f"goals missed: {', '.join(missed) or 'none'}")
    return 1 if missed else 0


def _measure(case: TestCase, given: argparse.Namespace) -> dict[str, Any]:
    """Run all packages in turn on one matrix."""
    pythons = {"gpubench": sys.executable, "gpubench_tests": sys.executable}
    pythons |= {peer: python for peer in case.at_least if (python := getattr(given, f"{peer}_python"))}
    runs: dict[str, list[dict[str, Any]]] = {package: [] for package in pythons}
    with tempfile.TemporaryDirectory() as folder:
        sizes = (case.n, case.n_genes, case.n_groups, case.share, case.kind)
        made = _child(sys.executable, "make", folder, *sizes)
        for _ in range(given.repeats):
            for package, python in pythons.items():
                runs[package].append(_child(python, package, folder, CALLS))
                print(f"  {case.id}, {package}: {runs[package][-1]}", file=sys.stderr)
        p = {package: np.load(Path(folder, f"{package}.npy")) for package in pythons}
    seconds = {package: statistics.median(s for run in own for s in run["call_s"]) for package, own in runs.items()}
    peers = [package for package in case.at_least if package in pythons]
    ratios = {peer: seconds[peer] / seconds["gpubench_tests"] for peer in peers}
    return {
        "case": asdict(case),
        **made,
        "median_processor_s": seconds,
        "peer_over_tests": ratios,
        "peer_over_table": {peer: seconds[peer] / seconds["gpubench"] for peer in peers},
        "difference": {package: float(np.abs(own - p["gpubench"]).max()) for package, own in p.items()},
        "nanoseconds_per_nonzero": 1e9 * seconds["gpubench_tests"] / made["n_stored"],
        "holds": all(ratios[peer] >= case.at_least[peer] for peer in peers),
        "runs": runs,
        "versions": {package: measure.versions(python, PACKAGES) for package, python in pythons.items()},
        "machine": measure.machine_facts(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _child(python: str, *arguments: object) -> dict[str, Any]:
    command = [python, str(measure.HERE / "differential_expression_child.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ids = [case.id for case in CASES]
    parser.add_argument("--case", nargs="+", choices=ids, default=ids)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--pdex-python", help="interpreter with pdex 0.3.0")
    parser.add_argument("--illico-python", help="interpreter with illico 0.6.0")
    parser.add_argument("--out", type=Path, default=measure.HERE / "results", help="folder of the results")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

"""Compare gpubench with its peers and write one JSON file per case.

    python benchmarks/run.py --all --peer-python ~/envs/parity/bin/python
    python benchmarks/run.py --case silhouette_label --case knn --n 2000 --out /tmp/try

Every run is a fresh process. Ours and the peer's alternate, so that a slow minute of the machine hits both. Each case
is measured with numba's caches, which the peers use, cold (an empty folder each time: everything is compiled) and warm.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import measure
from cases import CASES, Case

from gpubench.core import machine

PACKAGES = (
    *("gpubench", "numpy", "scipy", "numba", "scikit-learn", "faiss-cpu", "igraph"),
    *("cz-benchmarks", "scib-metrics", "jax", "scanpy", "hnswlib", "pynndescent"),
)
FIGURES = ("process_s", "import_s", "first_call_s", "second_call_s", "peak_bytes")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the chosen cases; return 1 if a claim does not hold."""
    given = _parse(arguments)
    missed = []
    for case in CASES:
        if not given.all and case.id not in given.case:
            continue
        report = measure_case(_resized(case, given.n, given.d), given)
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / f"{case.id}.json").write_text(json.dumps(report, indent=2) + "\n")
        if not report["holds"]:
            missed.append(case.id)
    print(f"claims that do not hold: {', '.join(missed) or 'none'}")
    return 1 if missed else 0


def _resized(case: Case, n: int | None, d: int | None) -> Case:
    if case.cells is None or n is None:
        return case
    return replace(case, cells=replace(case.cells, n=n, d=d or case.cells.d))


def measure_case(case: Case, given: argparse.Namespace) -> dict[str, Any]:
    """Measure one case with cold and warm caches and return the report."""
    peer_python = case.peer_python(given.peer_python)
    if case.peer and not peer_python:
        raise SystemExit(f"case {case.id} needs --peer-python: see benchmarks/README.md")
    with tempfile.TemporaryDirectory() as folder:
        place = {"benchmarks": str(measure.HERE), "data": folder, "file": str(given.file), "out": f"{folder}/out"}
        if case.cells:
            _make_cells(case, folder)
        sides = {"ours": [case.own_python(peer_python), *_fill(case.ours, place)]}
        if case.peer and peer_python:
            sides["peer"] = [peer_python, *_fill(case.peer, place)]
        states = {state: _alternate(sides, state, given.repeats) for state in given.caches}
    report = {
        "case": case.id,
        "what": case.what,
        "figure": case.figure,
        "peer": case.peer_name,
        "cells": asdict(case.cells) if case.cells else None,
        "file": given.file.name if "{file}" in case.ours else None,
        "claim": {"speedup_at_least": case.at_least, "at_most": case.at_most},
        "holds": all(_holds(case, runs) for runs in states.values()),
        "states": {state: _summary(runs) for state, runs in states.items()},
        "versions": {"ours": measure.versions(case.own_python(peer_python), PACKAGES)},
        "machine": measure.machine_facts(),
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if case.peer and peer_python:
        report["versions"]["peer"] = measure.versions(peer_python, PACKAGES)
    return report


def _make_cells(case: Case, folder: str) -> None:
    """Write the cells in a separate process: memory of this one would count for its children."""
    cells = case.cells
    assert cells is not None
    options = {"n": cells.n, "d": cells.d, "labels": cells.labels, "batches": cells.batches}
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    subprocess.run([sys.executable, str(measure.HERE / "synthetic.py"), folder, *flags], check=True)


def _alternate(sides: dict[str, list[str]], state: str, repeats: int) -> dict[str, list[dict[str, Any]]]:
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    with ExitStack() as stack:
        if state == "warm":
            warm = {side: Path(stack.enter_context(tempfile.TemporaryDirectory())) for side in sides}
            for side, command in sides.items():
                measure.run(command, warm[side])
        for repeat in range(repeats):
            for side, command in sides.items():
                again = ["--again"] if state == "warm" and _is_child(command) else []
                cache = warm[side] if state == "warm" else Path(stack.enter_context(tempfile.TemporaryDirectory()))
                runs[side].append(measure.run([*command, *again], cache))
                print(f"  {state} {side} {repeat + 1}/{repeats}: {_brief(runs[side][-1])}", file=sys.stderr)
    return runs


def _is_child(command: list[str]) -> bool:
    return str(measure.HERE / "child.py") in command


def _brief(run: dict[str, Any]) -> str:
    seconds = [f"{name} {run[name]:.3f}" for name in FIGURES if name in run and name != "peak_bytes"]
    return ", ".join([*seconds, f"peak {run['peak_bytes'] / 1e6:.0f} MB"])


def _median(runs: list[dict[str, Any]], figure: str) -> float:
    return statistics.median(run[figure] for run in runs)


def _summary(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    medians = {
        side: {figure: _median(own, figure) for figure in FIGURES if figure in own[0]} for side, own in runs.items()
    }
    summary: dict[str, Any] = {"median": medians, "runs": runs}
    if "peer" in runs:
        both = [figure for figure in medians["ours"] if figure in medians["peer"]]
        summary["peer_over_ours"] = {figure: medians["peer"][figure] / medians["ours"][figure] for figure in both}
    return summary


def _holds(case: Case, runs: dict[str, list[dict[str, Any]]]) -> bool:
    ours = _median(runs["ours"], case.figure)
    if case.at_most is not None:
        return ours <= case.at_most
    assert case.at_least is not None
    return _median(runs["peer"], case.figure) >= case.at_least * ours


def _fill(command: Sequence[str], place: dict[str, str]) -> list[str]:
    return [part.format(**place) for part in command]


def _commit() -> str:
    return (
        machine.run_briefly("git", "-C", str(measure.HERE), "describe", "--always", "--dirty", "--abbrev=12")
        or "unknown"
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument(
        "--case", action="append", default=[], choices=[case.id for case in CASES], help="may be repeated"
    )
    chosen.add_argument("--all", action="store_true", help="every case")
    parser.add_argument("--n", type=int, help="number of cells (default: that of the case)")
    parser.add_argument("--d", type=int, help="dimensions, with --n")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--caches", nargs="+", choices=["cold", "warm"], default=["cold", "warm"])
    parser.add_argument(
        "--peer-python",
        default=os.environ.get("GPUBENCH_PEER_PYTHON"),
        help="interpreter of the environment with cz-benchmarks (default: $GPUBENCH_PEER_PYTHON)",
    )
    parser.add_argument(
        "--file",
        type=Path,
        default=measure.HERE.parents[1] / "shared" / "data" / "pbmc3k.h5ad",
        help="h5ad with obsm X_pca and obs cell_type, for score_file",
    )
    parser.add_argument("--out", type=Path, default=measure.HERE / "results", help="folder of the JSON files")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

"""Compare whole runs of the metrics of predicted perturbations with the command lines of cell-eval and cell-eval2.

    python benchmarks/perturbation.py --peer-python peers/bin/python
    python benchmarks/perturbation.py --peer-python peers/bin/python --case vcc2026 --repeats 1 --out /tmp/try

The environment of the peers has cell-eval 0.8.2 and cell-eval2 0.20.0. Every run is a fresh process, ours and the
peer's in turn, on two threads; each has run once before, so that compiled code is in the caches of Python and numba.
Writes results/perturbation.json: processor time, wall time and memory at the peak, with minimum, median and maximum.
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

PACKAGES = ("gpubench-sc", "gpubench", "numpy", "scipy", "numba", "anndata", "cell-eval", "cell-eval2", "pdex")
FIGURES = ("processor_s", "process_s", "peak_bytes")
COLUMN, CONTROL = "target_gene", "non-targeting"
SIZES = {"n": 12_000, "genes": 2_000, "perturbations": 40, "share": 0.26}


@dataclass(frozen=True)
class ScreenCase:
    """A profile to score.

    Attributes
    ----------
    id : its name
    profile, kind : profile of gpubench, and "logs" or "counts"
    peer : name and version of the package compared with
    at_least : how many times less processor time than it a run means to take
    """

    id: str
    profile: str
    kind: str
    peer: str
    at_least: float = 20.0


CASES = (
    ScreenCase("cell_eval", "cell_eval", "logs", "cell-eval 0.8.2"),
    ScreenCase("vcc2026", "vcc2026", "counts", "cell-eval2 0.20.0"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the chosen cases; 1 if a goal is missed."""
    given = _parse(arguments)
    path = given.out / "perturbation.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    order = [case.id for case in CASES]
    with tempfile.TemporaryDirectory() as folder:
        sizes = [text for name, value in SIZES.items() for text in (f"--{name}", str(value))]
        # in another process: memory of this one would count for its children
        subprocess.run([sys.executable, str(measure.HERE / "perturbation_data.py"), folder, *sizes], check=True)
        for case in CASES:
            if case.id in given.case:
                rows = [row for row in rows if row["case"]["id"] != case.id]
                rows.append(_measure(case, Path(folder), given))
                rows.sort(key=lambda row: order.index(row["case"]["id"]))
                given.out.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps({"rows": rows}, indent=2) + "\n")
    missed = [row["case"]["id"] for row in rows if not row["holds"]]
    print(f"goals missed: {', '.join(missed) or 'none'}")
    return 1 if missed else 0


def _measure(case: ScreenCase, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Run both in turn; the first run of each fills caches and does not count."""
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": []}
    for repeat in range(given.repeats + 1):
        for side, own in runs.items():
            with tempfile.TemporaryDirectory() as out:
                command = _command(side, case, folder, Path(out), given.peer_python)
                run = measure.run(command, folder / "numba")
            print(f"  {case.id}, {side} {repeat}/{given.repeats}: {run}", file=sys.stderr)
            if repeat:
                own.append(run)
    spread = {side: {name: _spread([run[name] for run in own]) for name in FIGURES} for side, own in runs.items()}
    ratios = {name: spread["peer"][name]["median"] / spread["ours"][name]["median"] for name in FIGURES}
    return {
        "case": asdict(case),
        "sizes": SIZES,
        "peer_over_ours": ratios,
        "spread": spread,
        "holds": ratios["processor_s"] >= case.at_least and ratios["peak_bytes"] >= 1,
        "runs": runs,
        "versions": {"ours": _versions(sys.executable), "peer": _versions(given.peer_python)},
        "machine": measure.machine_facts(),
        "note": given.note,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _command(side: str, case: ScreenCase, folder: Path, out: Path, peer_python: str) -> list[str]:
    real, predicted = (str(folder / f"{name}_{case.kind}.h5ad") for name in ("real", "predicted"))
    if side == "ours":
        task = ["--task", "perturbation_prediction", "--condition", COLUMN, "--control", CONTROL]
        task += ["--option", f"profile={case.profile}", "--threads", "2", "--out", str(out / "results")]
        empty = ["env", f"GPUBENCH_CACHE={out / 'cache'}"]  # nothing of an earlier run is reused
        return [*empty, sys.executable, "-m", "gpubench", "score", real, "--predictions", predicted, *task]
    files = ["-ap", predicted, "-ar", real, "-o", str(out), "--pert-col", COLUMN]
    tools = Path(peer_python).parent
    if case.peer.startswith("cell-eval2"):
        return [str(tools / "cell-eval2"), "run", *files, "--profile", case.profile]
    return [str(tools / "cell-eval"), "run", *files, "--num-threads", "2"]


def _spread(values: list[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def _versions(python: str) -> dict[str, Any]:
    return dict(measure.versions(python, PACKAGES))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ids = [case.id for case in CASES]
    parser.add_argument("--case", nargs="+", choices=ids, default=ids)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer-python", required=True, help="interpreter with cell-eval 0.8.2 and cell-eval2 0.20.0")
    parser.add_argument("--note", default="", help="what a reader should know about the machine at that time")
    parser.add_argument("--out", type=Path, default=measure.HERE / "results", help="folder of the results")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

"""Run the suite on growing numbers of cells: seconds and memory of every stage.

    python benchmarks/scale.py --n 10000 30000 100000 300000 1000000 3000000 13000000

Each size is a run of `gpubench score` in a fresh process, from a memory-mapped .npy file, with all tasks of one
embedding. Random forests, whose training cells are capped, are left out beyond --forests. Memory is that of the process
and of the processes that it starts, together, looked at ten times a second; pages of the input file that the system
keeps for everybody do not count; in the peaks of stages, which are those of the timeline, they do. Writes
results/scale.json, one row for each size (those of earlier runs stay), and results/scale.svg.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import measure

PACKAGES = ("gpubench", "numpy", "scipy", "scikit-learn", "igraph", "networkit")
TASKS = ("clustering", "embedding", "label_prediction", "batch_integration", "sequential_organization")

SHOWN = 9
"""Number of stages in the figure."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the given sizes."""
    given = _parse(arguments)
    path = given.out / "scale.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.exists() else []
    given.out.mkdir(parents=True, exist_ok=True)
    for n in given.n:
        row = _measure(n, given)
        rows = sorted([*(other for other in rows if other["n"] != n), row], key=lambda row: int(row["n"]))
        path.write_text(json.dumps({"rows": rows}, indent=2) + "\n")
        print(f"{n:,} cells: {row['seconds']:.0f} s, {row['peak_bytes'] / 1e9:.1f} GB", file=sys.stderr)
    draw(rows, given.out / "scale.svg")


def _measure(n: int, given: argparse.Namespace) -> dict[str, Any]:
    """Return one run with its result rows and stages."""
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        cells = Path(given.folder or folder, str(n))
        if not (cells / "obs.parquet").exists():
            make = [sys.executable, str(measure.HERE / "synthetic.py"), str(cells), "--n", str(n), "--d", str(given.d)]
            subprocess.run(make, check=True)
        out = Path(folder, "out")
        command = [str(Path(sys.executable).with_name("gpubench")), "score", str(cells / "x.npy")]
        command += ["--obs", str(cells / "obs.parquet"), "--label", "label", "--batch", "batch", "--time", "time"]
        command += [part for task in TASKS for part in ("--task", task)]
        command += ["--engine", "cpu", "--out", str(out), "--quiet"]
        if n > given.forests:
            command += ["--option", "classifiers=lr,knn"]
        if given.memory:
            command += ["--memory", given.memory]
        begin = time.perf_counter()
        peak = measure.watch(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        seconds = time.perf_counter() - begin
        result = json.loads((out / "results.json").read_text())
    return {
        "n": n,
        "d": given.d,
        "forests": n <= given.forests,
        "seconds": seconds,
        "peak_bytes": peak,
        "stages": _stages(result["timeline"]),
        "results": [
            {name: row[name] for name in ("task", "metric", "value", "stderr", "params", "approximate", "note")}
            for row in result["results"]
        ],
        "versions": measure.versions(sys.executable, PACKAGES),
        "machine": measure.machine_facts(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _stages(timeline: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the stages of the embedding, its tasks and the classifiers; nested stages are part of them."""
    stages = []
    for stage in timeline:
        path = stage["path"].split("/")[1:]
        depth = 3 if path[:1] == ["label_prediction"] else 2
        if path and len(path) < depth + 1 and (path[0] not in TASKS or len(path) > 1) and not _is_fold(path):
            stages.append({"stage": "/".join(path), "seconds": stage["seconds"], "peak_bytes": stage["peak_bytes"]})
    return stages


def _is_fold(path: list[str]) -> bool:
    return path[0] == "label_prediction" and len(path) > 2


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw seconds and memory of the run and its longest stages against cells, on logarithmic axes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), layout="constrained")
    panels = dict(zip(("seconds", "peak_bytes"), figure.subplots(1, 2), strict=True))
    stages = dict.fromkeys(stage["stage"] for row in rows for stage in row["stages"])
    longest = {name: max(seconds for _, seconds in _points(rows, name, "seconds")) for name in stages}
    shown = sorted(stages, key=longest.__getitem__, reverse=True)[:SHOWN]
    cells = [row["n"] for row in rows]
    for figure_of, axes in panels.items():
        for name, color in zip(shown, mpl.color_sequences["petroff10"], strict=False):
            points = _points(rows, name, figure_of)
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, lw=1.2, label=name, color=color)
        axes.plot(cells, [row[figure_of] for row in rows], color="black", marker="o", markersize=3, label="whole run")
        axes.set(xscale="log", yscale="log", xlabel="cells")
        axes.grid(visible=True, lw=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels["seconds"].set_ylabel("seconds")
    panels["peak_bytes"].set_ylabel("bytes at the peak")
    panels["peak_bytes"].plot(
        cells, [4 * row["n"] * row["d"] for row in rows], color="gray", ls="--", label="the cells"
    )
    handles, labels = panels["peak_bytes"].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.savefig(path)


def _points(rows: list[dict[str, Any]], name: str, figure_of: str) -> list[tuple[int, float]]:
    """Return (cells, figure) of the runs that have the stage; a repeated stage counts once."""
    combine = sum if figure_of == "seconds" else max
    points = []
    for row in rows:
        own = [stage[figure_of] for stage in row["stages"] if stage["stage"] == name]
        if own and None not in own:
            points.append((row["n"], combine(own)))
    return points


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = [10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 13_000_000]
    parser.add_argument("--n", type=int, nargs="+", default=sizes, help="cells")
    parser.add_argument("--d", type=int, default=50, help="dimensions")
    parser.add_argument("--forests", type=int, default=300_000, help="largest number of cells with random forests")
    parser.add_argument("--folder", help="folder to reuse or store the cells in (default: a temporary folder)")
    parser.add_argument("--memory", help="memory limit beyond the input, such as 18GB")
    parser.add_argument("--out", type=Path, default=measure.HERE / "results", help="folder of the results")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()

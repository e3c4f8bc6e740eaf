"""Compare neighbour graphs with faiss and pynndescent at the same recall.

    python benchmarks/neighbors.py --peer-python ~/envs/neighbors/bin/python
    python benchmarks/neighbors.py --graph million --intrinsic 20 --n 50000 --repeats 1 --out /tmp/try

Every search runs in a fresh process (`neighbors_child.py`), all methods in turn, and is measured on 1,000 cells
whose true neighbours are known. A peer that misses the wanted recall is tried with more work; what counts is the
fastest setting that reaches it. Writes results/neighbors.json and draws results/neighbors.svg.
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
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import measure

PACKAGES = ("gpubench", "numpy", "numba", "faiss-cpu", "pynndescent")


@dataclass(frozen=True)
class Graph:
    """A neighbour graph to build.

    Attributes
    ----------
    id : its name
    n, d, k : cells, dimensions, neighbours
    recall : share of the true neighbours that must be found
    at_least : peer, "_cold" with what it compiles first -> how many times faster than it we mean to be
    """

    id: str
    n: int
    d: int
    k: int
    recall: float
    at_least: dict[str, float]


GRAPHS = (
    Graph("million", 1_000_000, 50, 15, 0.95, {"pynndescent_warm": 1.5, "pynndescent_cold": 2.5}),
    Graph("many_neighbours", 100_000, 50, 200, 0.99, {"faiss_ivf": 1.5}),
    Graph("wide", 200_000, 512, 15, 0.95, {"faiss_ivf": 1.5, "pynndescent_warm": 1.5}),
)
INTRINSIC = (10, 20, 40)
METHODS = ("gpubench", "pynndescent_warm", "pynndescent_cold", "faiss_ivf")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the chosen graphs; 1 if a goal is missed."""
    given = _parse(arguments)
    path = given.out / "neighbors.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    for graph in GRAPHS:
        for intrinsic in given.intrinsic if graph.id in given.graph else ():
            measured = _measure(replace(graph, n=given.n or graph.n), intrinsic, given)
            same = (graph.id, intrinsic)
            rows = [row for row in rows if (row["graph"]["id"], row["intrinsic"]) != same] + [measured]
            given.out.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"rows": sorted(rows, key=_order)}, indent=2) + "\n")
    draw(rows, given.out / "neighbors.svg")
    missed = [f"{row['graph']['id']} {row['intrinsic']}" for row in rows if not row["holds"]]
    print(f"goals missed: {', '.join(missed) or 'none'}")
    return 1 if missed else 0


def _order(row: dict[str, Any]) -> tuple[int, int]:
    return [graph.id for graph in GRAPHS].index(row["graph"]["id"]), row["intrinsic"]


def _measure(graph: Graph, intrinsic: int, given: argparse.Namespace) -> dict[str, Any]:
    """Run all methods in turn on one set of cells."""
    with tempfile.TemporaryDirectory() as folder:
        _child(sys.executable, folder, "make", graph, folder, intrinsic)
        runs: dict[str, list[dict[str, Any]]] = {method: [] for method in ("gpubench", *map(_method, graph.at_least))}
        for _ in range(given.repeats):
            for method, own in runs.items():
                python = sys.executable if method == "gpubench" else given.peer_python
                with tempfile.TemporaryDirectory(dir=folder) as empty:
                    own.append(_child(python, empty, method, graph, folder, 0))
                print(f"  {graph.id}, intrinsic dimension {intrinsic}, {method}: {own[-1]}", file=sys.stderr)
    seconds = {
        name: statistics.median(run["cold_s" if name.endswith("cold") else "warm_s"] for run in runs[_method(name)])
        for name in ("gpubench", *graph.at_least)
    }
    ratios = {method: seconds[method] / seconds["gpubench"] for method in graph.at_least}
    found = all(run["recall"] >= graph.recall for run in runs["gpubench"])
    return {
        "graph": asdict(graph),
        "intrinsic": intrinsic,
        "median_s": seconds,
        "peer_over_ours": ratios,
        "holds": found and all(ratios[method] >= wanted for method, wanted in graph.at_least.items()),
        "runs": runs,
        "versions": {
            "ours": measure.versions(sys.executable, PACKAGES),
            "peer": measure.versions(given.peer_python, PACKAGES),
        },
        "machine": measure.machine_facts(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _method(name: str) -> str:
    """Return the method of a figure: "pynndescent_warm" and "pynndescent_cold" come from one run."""
    return name.removesuffix("_warm").removesuffix("_cold")


def _child(python: str, numba_cache: str, what: str, graph: Graph, folder: str, intrinsic: int) -> dict[str, Any]:
    command = [python, str(measure.HERE / "neighbors_child.py"), what, folder]
    command += [str(number) for number in (graph.n, graph.d, graph.k, graph.recall, intrinsic)]
    environment = {**os.environ, "NUMBA_CACHE_DIR": numba_cache}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw bars of seconds: a panel per graph, a group per intrinsic dimension, a bar per method."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    graphs = [graph for graph in GRAPHS if any(row["graph"]["id"] == graph.id for row in rows)]
    figure = Figure(figsize=(4 * len(graphs), 3.2), layout="constrained")
    for axes, graph in zip(figure.subplots(1, len(graphs), squeeze=False)[0], graphs, strict=True):
        own = [row for row in rows if row["graph"]["id"] == graph.id]
        methods = list(own[0]["median_s"])
        for i, method in enumerate(methods):
            places = [group + (i - (len(methods) - 1) / 2) * 0.8 / len(methods) for group in range(len(own))]
            bars = axes.bar(
                places,
                [row["median_s"][method] for row in own],
                0.75 / len(methods),
                label=method.replace("_", " "),
                color=mpl.color_sequences["petroff10"][METHODS.index(method)],
            )
            axes.bar_label(
                bars, [f"{min(run['recall'] for run in row['runs'][_method(method)]):.2f}" for row in own], size=7
            )
        axes.set_xticks(range(len(own)), [str(row["intrinsic"]) for row in own])
        axes.set_xlabel("intrinsic dimension")
        axes.set_title(f"{graph.n:,} × {graph.d}, k = {graph.k}", size=10)
        axes.spines[["top", "right"]].set_visible(False)
    shown = {label: bars for axes in figure.axes for bars, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(shown.values(), shown, loc="outside lower center", ncols=len(shown), frameon=False, fontsize=8)
    figure.axes[0].set_ylabel("seconds (above the bar: recall)")
    figure.savefig(path)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ids = [graph.id for graph in GRAPHS]
    parser.add_argument("--graph", nargs="+", choices=ids, default=ids)
    parser.add_argument("--intrinsic", nargs="+", type=int, default=INTRINSIC, help="intrinsic dimensions of the cells")
    parser.add_argument("--n", type=int, help="cells, instead of those of the graph")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter with faiss and pynndescent")
    parser.add_argument("--out", type=Path, default=measure.HERE / "results", help="folder of the results")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

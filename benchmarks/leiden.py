"""Compare Leiden of igraph, networkit and leidenalg on the same graphs: time, memory, quality.

    pip install networkit leidenalg
    python benchmarks/leiden.py --n 100000 1000000 --seeds 3

Each search runs in a fresh process, all packages in turn. Processor time tells most where the machine is not idle: all
but networkit_all use one core. Quality is the modularity at resolution 1, computed by one
formula for all, the ARI with the labels, and the mean ARI between the seeds. Writes results/leiden.json, one row for
each size and package (those of earlier runs stay).
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import measure
import numpy as np

PACKAGES = ("gpubench", "numpy", "igraph", "networkit", "leidenalg")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all packages at the given sizes."""
    given = _parse(arguments)
    if given.child:
        _child(*given.child)
        return
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "leiden.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    for n in given.n:
        with tempfile.TemporaryDirectory() as folder:
            _run(None, "make", folder, str(n), "0")
            for row in _rows(n, given, folder):
                others = [other for other in rows if (other["n"], other["method"]) != (n, row["method"])]
                rows = sorted([*others, row], key=lambda own: (own["n"], own["method"]))
                path.write_text(json.dumps({"rows": rows}, indent=2) + "\n")
                print(json.dumps(row), file=sys.stderr)


def _rows(n: int, given: argparse.Namespace, folder: str) -> Iterator[dict[str, Any]]:
    """Return time, memory and quality of each package, or that it exceeded the time limit."""
    for method in given.method:
        facts = {
            "n": n,
            "method": method,
            "versions": measure.versions(sys.executable, PACKAGES),
            "machine": measure.machine_facts(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        try:
            runs = [_run(given.limit, method, folder, str(n), str(seed)) for seed in range(given.seeds)]
        except subprocess.TimeoutExpired:
            yield {**facts, "not_ended_within_s": given.limit}
        else:
            yield {**facts, **_summary(method, runs, folder)}


def _run(limit_s: float | None, *child: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", *child]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=limit_s)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _summary(method: str, runs: list[dict[str, Any]], folder: str) -> dict[str, Any]:
    from gpubench.metrics import adjusted_rand_index

    codes = [np.load(f"{folder}/{method}{seed}.npy") for seed in range(len(runs))]
    label = np.load(f"{folder}/label.npy")
    between = [float(adjusted_rand_index(a, b)) for a, b in combinations(codes, 2)]
    return {
        "seconds": statistics.median(run["seconds"] for run in runs),
        "processor_s": statistics.median(run["processor_s"] for run in runs),
        "peak_bytes": max(run["peak_bytes"] for run in runs),
        "modularity": statistics.mean(run["modularity"] for run in runs),
        "communities": [run["communities"] for run in runs],
        "ari_label": statistics.mean(float(adjusted_rand_index(label, own)) for own in codes),
        "ari_between_seeds": statistics.mean(between) if between else None,
        "runs": runs,
    }


def _child(what: str, folder: str, n: str, seed: str) -> None:
    place = Path(folder)
    if what == "make":
        _make(place, int(n))
        print("{}")
        return
    from gpubench.core.types import Graph

    graph = Graph(*(np.load(place / f"{name}.npy", mmap_mode="r") for name in ("indptr", "indices", "weights")))
    begin, begin_processor = time.perf_counter(), time.process_time()
    codes = METHODS[what](graph, int(seed))
    seconds, processor_s = time.perf_counter() - begin, time.process_time() - begin_processor
    np.save(place / f"{what}{seed}.npy", codes)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    measured = {"seconds": seconds, "processor_s": processor_s, "peak_bytes": peak, "communities": int(codes.max()) + 1}
    print(json.dumps({**measured, "modularity": modularity(graph, codes)}))


def _make(place: Path, n: int) -> None:
    from synthetic import make

    import gpubench as gb

    cells = make(n, 50)
    engine = gb.get_engine("cpu")
    graph = engine.fuzzy_graph(engine.knn(engine.put(cells.x), 14))
    for name in ("indptr", "indices", "weights"):
        np.save(place / f"{name}.npy", getattr(graph, name))
    np.save(place / "label.npy", cells.label)


def modularity(graph: Any, codes: Any) -> float:
    """Return Q = sum_c (w_cc - w_c^2), with the shares w_cc of weight inside c and w_c of edge ends at c."""
    sources = np.repeat(codes, np.diff(graph.indptr))
    whole = graph.weights.sum()
    inside = np.bincount(sources[sources == codes[graph.indices]], graph.weights[sources == codes[graph.indices]])
    ends = np.bincount(sources, graph.weights)
    return float(inside.sum() / whole - ((ends / whole) ** 2).sum())


def igraph_both(graph: Any, seed: int) -> Any:
    """Run igraph as cz-benchmarks and scanpy do: every edge in both directions, two iterations."""
    import random

    import igraph

    sources = np.repeat(np.arange(graph.n), np.diff(graph.indptr))
    weights = graph.weights
    network = igraph.Graph(n=graph.n, edges=np.column_stack([sources, graph.indices]))
    random.seed(seed)
    found = network.community_leiden("modularity", weights=weights.tolist(), n_iterations=2)
    return np.asarray(found.membership)


def igraph_once(graph: Any, seed: int) -> Any:
    """Run igraph as gpubench does for many cells: every edge once, two iterations."""
    return _by_gpubench(graph, "igraph", seed)


def networkit_one(graph: Any, seed: int) -> Any:
    """Run networkit as gpubench does for very many cells: on one thread, two iterations."""
    return _by_gpubench(graph, "networkit", seed)


def _by_gpubench(graph: Any, package: str, seed: int) -> Any:
    from gpubench.engines.cpu import leiden
    from gpubench.engines.cpu.tuning import CpuTuning

    blocks = leiden.edge_blocks(graph, CpuTuning(max_bidirectional_cells=0))
    edges = leiden.Edges.empty(graph.n, len(graph.indices) // 2, package)
    return leiden.PACKAGES[package](edges.fill(blocks), 1.0, 2, seed)


def _edges_once(graph: Any) -> tuple[Any, Any, Any]:
    sources = np.repeat(np.arange(graph.n), np.diff(graph.indptr))
    once = sources < graph.indices
    return sources[once], graph.indices[once], graph.weights[once]


def leidenalg(graph: Any, seed: int) -> Any:
    """Run leidenalg, the implementation of the authors, two iterations."""
    import igraph
    import leidenalg as la

    sources, targets, weights = _edges_once(graph)
    network = igraph.Graph(n=graph.n, edges=np.column_stack([sources, targets]))
    kind = la.RBConfigurationVertexPartition
    found = la.find_partition(network, kind, weights=weights.tolist(), n_iterations=2, seed=seed)
    return np.asarray(found.membership)


def networkit(graph: Any, seed: int) -> Any:
    """Run networkit on all cores with its default of three iterations."""
    import networkit as nk

    sources, targets, weights = _edges_once(graph)
    nk.setSeed(seed, useThreadId=False)
    network = nk.graph.GraphFromCoo(
        (weights, (sources.astype(np.uint64), targets.astype(np.uint64))), n=graph.n, weighted=True, directed=False
    )
    algorithm = nk.community.ParallelLeiden(network, iterations=3, randomize=True, gamma=1)
    algorithm.run()
    return np.unique(np.asarray(algorithm.getPartition().getVector()), return_inverse=True)[1]


METHODS: dict[str, Callable[[Any, int], Any]] = {
    "igraph_both": igraph_both,
    "igraph_once": igraph_once,
    "leidenalg": leidenalg,
    "networkit_all": networkit,
    "networkit_one": networkit_one,
}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[100_000, 1_000_000], help="cells")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--method", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--out", type=Path, default=measure.HERE / "results", help="folder of the JSON file")
    parser.add_argument("--limit", type=float, help="time limit of a search in seconds")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()

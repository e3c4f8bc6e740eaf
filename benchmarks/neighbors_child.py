"""Run one neighbour search in a fresh process; the last line printed is JSON with its seconds and recall.

    python benchmarks/neighbors_child.py make|gpubench|faiss_ivf|pynndescent FOLDER N D K RECALL INTRINSIC

`make` writes the cells and the true neighbours of a sample of them to FOLDER; the others read them. warm_s is a search
with everything compiled, cold_s one that compiles first.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

SAMPLE = 1_000
Found = tuple[float, Any, str]
"""Seconds, (n, k) indices without the cell itself, the setting in words."""


def cells(n: int, d: int, intrinsic: int, seed: int = 0) -> Any:
    """Draw (n, d) float32 cells near a curved surface of few dimensions: clusters that overlap, 1% exact copies."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((30, intrinsic))
    bend = rng.standard_normal((intrinsic, d)) / np.sqrt(intrinsic)
    x = np.empty((n, d), np.float32)
    for start in range(0, n, 100_000):
        rows = slice(start, min(n, start + 100_000))
        size = rows.stop - start
        flat = (rng.standard_normal((size, intrinsic)) + centres[rng.integers(0, 30, size)]) @ bend
        x[rows] = flat + np.tanh(flat) + 0.02 * rng.standard_normal((size, d))
    copies = rng.choice(n, n // 100, replace=False)
    x[copies] = x[rng.integers(0, n, len(copies))]
    return x


def make(folder: Path, n: int, d: int, k: int, intrinsic: int) -> None:
    """Write x.npy, and for a sample of cells the distance to the k-th neighbour in float64."""
    x = cells(n, d, intrinsic)
    np.save(folder / "x.npy", x)
    sample = np.sort(np.random.default_rng(1).choice(n, min(n, SAMPLE), replace=False))
    nearest = np.full((len(sample), k + 1), np.inf)
    queries = x[sample].astype(np.float64)
    for start in range(0, n, 20_000):
        block = x[start : start + 20_000].astype(np.float64)
        squares = (queries**2).sum(axis=1)[:, None] - 2 * queries @ block.T + (block**2).sum(axis=1)
        both = np.concatenate([nearest, squares], axis=1)
        nearest = np.partition(both, k, axis=1)[:, : k + 1]
    np.savez(folder / "truth.npz", sample=sample, limit=nearest.max(axis=1))


def recall(x: Any, indices: Any, folder: Path) -> float:
    """Return the fraction of neighbours no farther than the true k-th; ties count as found."""
    truth = np.load(folder / "truth.npz")
    sample, limit = truth["sample"], truth["limit"]
    found = x[indices[sample]].astype(np.float64)
    squares = ((found - x[sample][:, None].astype(np.float64)) ** 2).sum(axis=2)
    others = indices[sample] != sample[:, None]
    return float(((squares <= limit[:, None] * (1 + 1e-6) + 1e-9) & others).mean())


def gpubench(x: Any, k: int, recall_wanted: float) -> Iterator[Found]:
    """Search as gpubench does: exactly, or with leaves for many cells."""
    import gpubench as gb

    begin = time.perf_counter()
    engine = gb.get_engine("cpu")
    knn = engine.knn(engine.put(x), k)
    yield time.perf_counter() - begin, knn.indices, f"{knn.method} {dict(knn.params)}"
    if recall_wanted > 0.95:
        begin = time.perf_counter()
        engine = gb.get_engine("cpu", knn="exact")
        yield time.perf_counter() - begin, engine.knn(engine.put(x), k).indices, "exact"


def faiss_ivf(x: Any, k: int, _: float) -> Iterator[Found]:
    """Search with faiss IVF, probing more and more lists; training and filling count each time."""
    import faiss

    n, d = x.shape
    n_lists = int(np.sqrt(n))
    begin = time.perf_counter()
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(d), d, n_lists)
    index.train(x)
    index.add(x)
    filled = time.perf_counter() - begin
    for n_probes in (8, 12, 16, 24, 32, 48, 64, 96, 128, 192):
        begin = time.perf_counter()
        index.nprobe = n_probes
        _, indices = index.search(x, k + 1)
        yield time.perf_counter() - begin + filled, _without_self(indices), f"{n_lists} lists, {n_probes} looked at"


def pynndescent(x: Any, k: int, _: float) -> Iterator[Found]:
    """Search with pynndescent's defaults, then with more neighbours than requested."""
    from pynndescent import NNDescent

    for n_neighbors in (k + 1, k + k // 3, 2 * k, 4 * k):
        begin = time.perf_counter()
        indices, _ = NNDescent(x, n_neighbors=n_neighbors, random_state=0).neighbor_graph
        yield time.perf_counter() - begin, _without_self(indices)[:, :k], f"n_neighbors={n_neighbors}"


def _without_self(indices: Any) -> Any:
    """Return each row without the cell itself, or without its last neighbour if the cell is not in it."""
    n, width = indices.shape
    itself = indices == np.arange(n)[:, None]
    itself[~itself.any(axis=1), -1] = True
    return indices[~itself].reshape(n, width - 1)


METHODS: dict[str, Callable[[Any, int, float], Iterator[Found]]] = {
    "gpubench": gpubench,
    "faiss_ivf": faiss_ivf,
    "pynndescent": pynndescent,
}


def main(what: str, folder: str, *numbers: str) -> None:
    """Make the cells, or search with one method until its recall suffices."""
    place, (n, d, k) = Path(folder), map(int, numbers[:3])
    wanted, intrinsic = float(numbers[3]), int(numbers[4])
    if what == "make":
        make(place, n, d, k, intrinsic)
        print("{}")
        return
    x = np.load(place / "x.npy")
    begin = time.perf_counter()
    if what == "pynndescent":  # imports and compiles
        next(pynndescent(x[:5_000], k, wanted))
    compiled = time.perf_counter() - begin
    best: dict[str, Any] = {}
    for seconds, indices, setting in METHODS[what](x, k, wanted):
        best = {
            "warm_s": seconds,
            "cold_s": seconds + compiled,
            "recall": recall(x, indices, place),
            "setting": setting,
        }
        if best["recall"] >= wanted:
            break
    print(json.dumps({**best, "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


if __name__ == "__main__":
    main(*sys.argv[1:])

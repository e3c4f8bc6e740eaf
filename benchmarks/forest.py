"""Compare the random forest of the CPU engine with those of scikit-learn and scikit-learn-intelex.

    python benchmarks/forest.py --data ../shared/data

Quality: accuracy, macro F1 and AUROC by five-fold cross-validation on the same folds for both packages, for several
seeds, on real cells and on generated ones with rare classes, 2 to 150 classes, 10 to 512 dimensions and tied values.
The mean over the seeds may be below scikit-learn's by 0.003, or by two standard errors of the difference where these
are more.

Time and memory: every run is a process of its own, in turn; seconds are processor time of training and prediction, and
bytes what these add to the process. "ours-avx2" has AVX-512 switched off, the peers have not. scikit-learn-intelex is
left out where it is not installed.

Writes results/forest.json and prints its tables; the exit code is 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import measure
import numpy as np
from numpy.typing import NDArray

N_TREES, N_FOLDS = 100, 5
MIN_CLASS_SIZE = 10
TOLERANCE, STANDARD_ERRORS = 0.003, 2.0
METRICS = ("accuracy", "f1", "auroc")

OURS, OURS_AVX2, SKLEARN, INTELEX = "ours", "ours-avx2", "scikit-learn", "scikit-learn-intelex"
INTELEX_BINS = 128
SPEEDUPS = {(OURS, INTELEX): 4.0, (OURS_AVX2, INTELEX): 2.5, (OURS, SKLEARN): 20.0}
"""Goals: how much faster than each peer."""
LARGE = ("16,000 x 50, 30 classes", "240,000 x 50, 30 classes, 20 trees, one fit")
MEMORY_SHARE = 0.25
"""Goal: memory, relative to scikit-learn-intelex's for the largest data."""

REAL = {
    "pbmc3k": ("pbmc3k.h5ad", "cell_type"),
    "worm embryo": ("worm_embryo.h5ad", "cell_type"),
    "cell lines": ("celllines_5batch.h5ad", "cell_type"),
    "pancreas": ("pancreas_human_mouse.h5ad", "cell_type"),
    "papalexi, 1,500 cells x 299 genes": ("papalexi_knockout.h5ad", "perturbation"),
}

Data = tuple[NDArray[np.float32], NDArray[np.int32]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; return 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the real cells (default: generated cells alone)")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=("quality", "time"))
    parser.add_argument("--out", type=Path, default=measure.HERE / "results", help="folder of the JSON file")
    parser.add_argument("--child", nargs=2, metavar=("PACKAGE", "FILE"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        print(json.dumps(run_child(*given.child, given.threads)))
        return 0
    file = given.out / "forest.json"
    given.out.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = json.loads(file.read_text()) if given.only and file.exists() else {}
    real = {name: read(given.data / path, label) for name, (path, label) in REAL.items()} if given.data else {}
    small = {name: data for name, data in real.items() if len(data[0]) < 3000}
    parts: dict[str, Iterator[dict[str, Any]]] = {
        "quality": (compare(*named, given.seeds, given.threads) for named in (*real.items(), *generated())),
        "time": measure_times(small, given.repeats, given.threads),
    }
    facts = {
        "versions": measure.versions(sys.executable, ("gpubench", "numpy", SKLEARN, INTELEX)),
        "machine": measure.machine_facts(),
    }
    rows = []
    for part, measured in parts.items():
        if given.only in (None, part):
            report[part] = []
            for row in measured:
                report[part].append(row)
                rows.append(row)
                report |= {**facts, "date": datetime.now(UTC).isoformat(timespec="seconds")}
                file.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if all(row["holds"] for row in rows) else 1


def read(path: Path, label: str) -> Data:
    """Read the cells of classes with at least ten cells: principal components, or logarithms of counts."""
    import anndata

    cells = anndata.read_h5ad(path)
    codes = cells.obs[label].astype("category").cat.codes.to_numpy()
    if "X_pca" in cells.obsm:
        x = np.asarray(cells.obsm["X_pca"])
    else:
        rows = np.sort(np.random.default_rng(0).permutation(cells.n_obs)[:1500])
        counts = cells.X[rows].toarray()
        x, codes = np.log1p(counts * (1e4 / np.maximum(counts.sum(axis=1, keepdims=True), 1))), codes[rows]
    keep = np.isin(codes, np.flatnonzero(np.bincount(codes) >= MIN_CLASS_SIZE))
    _, codes = np.unique(codes[keep], return_inverse=True)
    return np.ascontiguousarray(x[keep], np.float32), codes.astype(np.int32)


def generated() -> Iterator[tuple[str, Data]]:
    """Generate cells with what makes forests differ."""
    yield "2 classes", draw(2000, 20, 2, distance=0.5)
    yield "30 classes", draw(2000, 50, 30)
    yield "150 classes", draw(2000, 50, 150)
    yield "rare classes", draw(2000, 50, 20, rarer=0.75)
    yield "10 dimensions", draw(2000, 10, 12, distance=1.5)
    yield "512 dimensions", draw(1000, 512, 8, distance=0.4)
    x, codes = draw(2000, 30, 12)
    yield "tied values", (np.round(x * 0.7), codes)
    x, codes = draw(2000, 100, 12)
    yield "mostly zeros", (np.maximum(np.round(x - 1.0), 0), codes)


def draw(n: int, d: int, n_classes: int, *, distance: float = 0.8, rarer: float = 1.0) -> Data:
    """Draw cells of normal classes that overlap, in columns of falling variance, as principal components have."""
    rng = np.random.default_rng(0)
    shares = rarer ** np.arange(n_classes)
    codes = rng.choice(n_classes, n, p=shares / shares.sum()).astype(np.int32)
    x = rng.normal(scale=distance, size=(n_classes, d))[codes] + rng.normal(scale=1.5, size=(n, d))
    x /= np.sqrt(1 + np.arange(d) * 10 / d)
    keep = np.isin(codes, np.flatnonzero(np.bincount(codes) >= MIN_CLASS_SIZE))
    _, codes = np.unique(codes[keep], return_inverse=True)
    return x[keep].astype(np.float32), codes.astype(np.int32)


def make_forest(package: str, n_trees: int, seed: int, threads: int) -> Any:
    """Make an untrained forest with `fit` and `predict_proba`."""
    if package.startswith(OURS):
        from gpubench.engines.cpu.forest import RandomForest

        return RandomForest(seed, threads, n_estimators=n_trees)
    if package == SKLEARN:
        from sklearn.ensemble import RandomForestClassifier

        return RandomForestClassifier(n_trees, random_state=seed, n_jobs=threads)
    from sklearnex.ensemble import RandomForestClassifier as IntelexForest

    return IntelexForest(n_trees, random_state=seed, n_jobs=threads, max_bins=INTELEX_BINS)


def fit_predict(forest: Any, data: Data, train: NDArray[np.int64], test: NDArray[np.int64]) -> NDArray[np.float64]:
    """Train on some cells and predict others, whose classes are all among the former."""
    x, codes = data
    classes = (int(codes.max()) + 1,) if hasattr(forest, "note") else ()
    return forest.fit(x[train], codes[train], *classes).predict_proba(x[test])


def folds(data: Data, seed: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Cut the cells into stratified folds."""
    from sklearn.model_selection import StratifiedKFold

    yield from StratifiedKFold(N_FOLDS, shuffle=True, random_state=seed).split(*data)


def compare(name: str, data: Data, n_seeds: int, threads: int) -> dict[str, Any]:
    """Compare the quality of our forest and scikit-learn's on the same folds."""
    scores = {
        package: [cross_validate(package, data, seed, threads) for seed in range(n_seeds)]
        for package in (OURS, SKLEARN)
    }
    ours, theirs = (np.array(scores[package]) for package in (OURS, SKLEARN))
    difference = ours - theirs
    mean, error = difference.mean(axis=0), difference.std(axis=0, ddof=1) / np.sqrt(n_seeds)
    allowed = np.maximum(TOLERANCE, STANDARD_ERRORS * error)
    row = {
        "data": name,
        "n": len(data[0]),
        "d": data[0].shape[1],
        "classes": int(data[1].max()) + 1,
        "seeds": n_seeds,
        **{
            metric: {
                "ours": ours[:, i].mean(),
                "scikit-learn": theirs[:, i].mean(),
                "difference": mean[i],
                "standard_error": error[i],
            }
            for i, metric in enumerate(METRICS)
        },
        "holds": bool((mean >= -allowed).all()),
    }
    figures = "  ".join(
        f"{metric} {row[metric]['ours']:.4f} {mean[i]:+.4f} +- {error[i]:.4f}" for i, metric in enumerate(METRICS)
    )
    print(f"{name:<36} {figures}  {'holds' if row['holds'] else 'MISSED'}", flush=True)
    return row


def cross_validate(package: str, data: Data, seed: int, threads: int) -> list[float]:
    """Return the metrics, means over the folds."""
    from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

    per_fold = []
    for train, test in folds(data, seed):
        proba, truth = fit_predict(make_forest(package, N_TREES, seed, threads), data, train, test), data[1][test]
        predicted = proba.argmax(axis=1)
        auroc = roc_auc_score(truth, proba[:, 1] if proba.shape[1] == 2 else proba, multi_class="ovr")
        per_fold.append((accuracy_score(truth, predicted), f1_score(truth, predicted, average="macro"), auroc))
    return np.mean(per_fold, axis=0).tolist()


def measure_times(real: dict[str, Data], repeats: int, threads: int) -> Iterator[dict[str, Any]]:
    """Measure each package on each data, in turn."""
    packages = (OURS, OURS_AVX2, SKLEARN, *((INTELEX,) if find_spec("sklearnex") else ()))
    large: list[tuple[str, Callable[[], Data]]] = [
        (LARGE[0], lambda: draw(16_000, 50, 30)),
        (LARGE[1], lambda: draw(240_000, 50, 30)),
    ]
    for name, make in [*((name, lambda data=data: data) for name, data in real.items()), *large]:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "data.npz")
            x, codes = make()
            np.savez(file, x=x, codes=codes, single=name == LARGE[1])
            # scikit-learn takes minutes for the largest
            measured = [package for package in packages if name != LARGE[1] or package != SKLEARN]
            runs: dict[str, list[dict[str, float]]] = {package: [] for package in measured}
            for _ in range(repeats):
                for package, own in runs.items():
                    own.append(start_child(package, file, threads))
        yield summarise(name, len(x), runs)


def start_child(package: str, file: Path, threads: int) -> dict[str, float]:
    """Run one package in a process of its own."""
    environment = {**os.environ, **({"GPUBENCH_TILES": "avx2"} if package == OURS_AVX2 else {})}
    command = [sys.executable, __file__, "--threads", str(threads), "--child", package, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def run_child(package: str, file: str, threads: int) -> dict[str, float]:
    """Train and predict, five folds or once, and return processor time, wall time and memory."""
    import resource

    stored = np.load(file)
    data = stored["x"], stored["codes"]
    make_forest(package, 1, 0, threads)  # imports
    splits = [(np.arange(len(data[0])), np.arange(10_000))] if stored["single"] else list(folds(data, 0))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin, begin_cpu = time.perf_counter(), time.process_time()
    for train, test in splits:
        fit_predict(make_forest(package, 20 if stored["single"] else N_TREES, 0, threads), data, train, test)
    return {
        "cpu_s": time.process_time() - begin_cpu,
        "wall_s": time.perf_counter() - begin,
        "bytes": 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before),
    }


def summarise(name: str, n: int, runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Return medians, ratios to our time, and whether the goals hold."""
    cpu = {package: [run["cpu_s"] for run in own] for package, own in runs.items()}
    median = {package: statistics.median(seconds) for package, seconds in cpu.items()}
    pairs = {(ours, theirs): goal for (ours, theirs), goal in SPEEDUPS.items() if theirs in median}
    ratios = {f"{theirs} / {ours}": median[theirs] / median[ours] for ours, theirs in pairs}
    used = {package: max(run["bytes"] for run in own) for package, own in runs.items()}
    goals = {
        f"{theirs} / {ours}": goal for (ours, theirs), goal in pairs.items() if (theirs == INTELEX) == (name in LARGE)
    }
    holds = all(ratios[pair] >= goal for pair, goal in goals.items())
    if name == LARGE[1] and INTELEX in used:
        holds &= used[OURS] <= MEMORY_SHARE * used[INTELEX]
    row = {"data": name, "n": n, "median_cpu_s": median, "cpu_s": cpu, "ratios": ratios, "bytes": used, "holds": holds}
    row["wall_s"] = {package: statistics.median(run["wall_s"] for run in own) for package, own in runs.items()}
    times = "  ".join(f"{package} {seconds:.3g} s, {used[package] / 1e6:.0f} MB" for package, seconds in median.items())
    faster = "  ".join(f"{pair}: {ratio:.1f}" for pair, ratio in ratios.items())
    print(f"{name}: {times}\n    {faster}  {'holds' if holds else 'MISSED'}", flush=True)
    return row


if __name__ == "__main__":
    raise SystemExit(main())

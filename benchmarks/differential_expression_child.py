"""Test all perturbations in a fresh process; the last line printed is JSON with seconds of processor time.

    python benchmarks/differential_expression_child.py make FOLDER CELLS GENES GROUPS SHARE counts|logs
    python benchmarks/differential_expression_child.py gpubench|gpubench_tests|pdex|illico FOLDER CALLS

`make` writes expression and groups to FOLDER; the others read them, call once, then CALLS times, on one thread, and
write the p-values. Whatever a package compiles is compiled in the first call.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

CONTROL = "control"


def make(folder: Path, n: int, n_genes: int, n_groups: int, share: float, kind: str) -> None:
    """Write counts of cells of uneven depth, or their logs; a third of the cells are controls."""
    rng = np.random.default_rng(0)
    groups = np.append(np.repeat(np.arange(n_groups), 2 * n // 3 // n_groups), np.full(n, n_groups))[:n]
    rng.shuffle(groups)
    means = rng.gamma(0.35, 1, n_genes)
    scale = scale_of(means, share)
    effects = np.where(rng.random((n_groups + 1, n_genes)) < 0.05, rng.lognormal(0, 0.7, (n_groups + 1, n_genes)), 1)
    effects[n_groups] = 1
    blocks = []
    for start in range(0, n, 2000):
        own = groups[start : start + 2000]
        rates = scale * means * effects[own] * rng.lognormal(0, 0.3, len(own))[:, None]
        blocks.append(sparse.csr_matrix(rng.poisson(rates * rng.gamma(2, 0.5, rates.shape)).astype(np.float32)))
    x = sparse.vstack(blocks, format="csr")
    if kind == "logs":
        totals = np.asarray(x.sum(axis=1)).ravel()
        depths = (np.median(totals) / np.maximum(totals, 1)).astype(np.float32)
        x.data = np.log1p(x.data * np.repeat(depths, np.diff(x.indptr)))
    sparse.save_npz(folder / "x.npz", x, compressed=False)
    np.save(folder / "groups.npy", np.where(groups == n_groups, CONTROL, np.char.add("g", groups.astype(str))))
    _print({"n_stored": int(x.nnz)})


def scale_of(means: Any, share: float) -> float:
    """Return the factor of the means at which this share of the values is not 0, by bisection."""
    low, high = 1e-4, 1e4
    for _ in range(60):
        middle = np.sqrt(low * high)
        # Poisson of a gamma of shape 2
        expressed = 1 - np.mean((1 + middle * means / 2) ** -2)
        low, high = (middle, high) if expressed < share else (low, middle)
    return float(low)


def gpubench(x: Any, groups: Any) -> Callable[[], Any]:
    """Return the call of `differential_expression`, and p-values by group and gene."""
    import gpubench as gb

    engine = gb.get_engine("cpu", threads=1)

    def call() -> Any:
        table = gb.metrics.differential_expression(x, groups, CONTROL, engine=engine)
        return table["p_value"].to_numpy()

    return call


def gpubench_tests(x: Any, groups: Any) -> Callable[[], Any]:
    """Return the call of the tests alone: no means, fold changes and table."""
    import gpubench as gb

    engine = gb.get_engine("cpu", threads=1)
    names, codes = np.unique(groups, return_inverse=True)
    control = int(np.searchsorted(names, CONTROL))

    def call() -> Any:
        counted = engine.rank_sums(x, codes, len(names), control)
        p = gb.metrics.mann_whitney_p(counted.u, counted.ties, counted.n_cells, counted.n_cells[control])
        gb.metrics.benjamini_hochberg(p)
        return np.delete(p, control, axis=0).ravel()

    return call


def pdex(x: Any, groups: Any) -> Callable[[], Any]:
    """Return the call of pdex."""
    from pdex import pdex as test

    data = _anndata(x, groups)

    def call() -> Any:
        table = test(data, "group", threads=1, is_log1p=True, reference=CONTROL)
        return table.sort(["target", "feature"])["p_value"].to_numpy()

    return call


def illico(x: Any, groups: Any) -> Callable[[], Any]:
    """Return the call of illico."""
    from illico import asymptotic_wilcoxon

    data = _anndata(x, groups)

    def call() -> Any:
        table = asymptotic_wilcoxon(data, is_log1p=True, group_keys="group", reference=CONTROL, n_threads=1)
        return table["p_value"].sort_index().drop(CONTROL, level=0, errors="ignore").to_numpy()

    return call


def _anndata(x: Any, groups: Any) -> Any:
    import anndata as ad
    import pandas as pd

    names = [f"{i:06}" for i in range(x.shape[1])]
    obs = pd.DataFrame({"group": groups}, index=[str(i) for i in range(len(groups))])
    return ad.AnnData(x, obs=obs, var=pd.DataFrame(index=names))


def _print(figures: dict[str, Any]) -> None:
    print(json.dumps(figures))


def main() -> None:
    """Run what the arguments say."""
    what, folder = sys.argv[1], Path(sys.argv[2])
    if what == "make":
        n, n_genes, n_groups = map(int, sys.argv[3:6])
        make(folder, n, n_genes, n_groups, float(sys.argv[6]), sys.argv[7])
        return
    x, groups = sparse.load_npz(folder / "x.npz"), np.load(folder / "groups.npy")
    seconds = []
    begin = time.process_time()
    call = {"gpubench": gpubench, "gpubench_tests": gpubench_tests, "pdex": pdex, "illico": illico}[what](x, groups)
    read_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    for _ in range(1 + int(sys.argv[3])):
        p = call()
        seconds.append(time.process_time() - begin)
        begin = time.process_time()
    np.save(folder / f"{what}.npy", p)
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    _print({"first_call_s": seconds[0], "call_s": seconds[1:], "peak_bytes": peak_bytes, "read_bytes": read_bytes})


if __name__ == "__main__":
    main()

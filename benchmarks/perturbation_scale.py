"""Score predictions of perturbations from files of growing size: CPU seconds and peak memory against stored values.

    python benchmarks/perturbation_scale.py --n 45000 90000 180000 360000 --memory 8GB

Each size is a run of `gpubench score` in a fresh process on two generated h5ad files (counts, CSR, float32), real and
predicted, with 18,533 genes, 300 perturbations, a tenth of the cells controls, and 2.5% of the values not zero. Seconds
are those of the processor, of all threads together, so that other work on the machine matters little; peak memory is
that of the process. Each pair is scored twice: the second run starts from what the first kept of the real data.
Writes results/perturbation_scale.json, one row for each size (those of earlier runs stay). Files
are written to a temporary folder, about 2.7 GB for the largest of the sizes above, and removed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import measure
import numpy as np

PACKAGES = ("gpubench-sc", "numpy", "scipy", "h5py")
COLUMN, CONTROL = "target_gene", "non-targeting"
CONTROL_SHARE = 0.1
BLOCK_ROWS = 5000


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the given sizes."""
    given = _parse(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "perturbation_scale.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.exists() else []
    for n in given.n:
        row = _measure(n, given)
        rows = sorted([*(other for other in rows if other["n"] != n), row], key=lambda row: int(row["n"]))
        path.write_text(json.dumps({"rows": rows}, indent=2) + "\n")
        print(f"{n:,} cells: {row['cpu_s']:.0f} s of CPU, {row['peak_bytes'] / 1e9:.2f} GB", file=sys.stderr)


def _measure(n: int, given: argparse.Namespace) -> dict[str, Any]:
    """Write the files of one size, score them, and return the figures."""
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        files = [Path(folder, f"{name}.h5ad") for name in ("real", "predicted")]
        n_stored = [
            write_screen(file, n, given.genes, given.perturbations, given.share, seed)
            for seed, file in enumerate(files)
        ]
        runs = [_score(files, Path(folder), given) for _ in range(2)]
    first, again = runs
    return {
        "n": n,
        "genes": given.genes,
        "perturbations": given.perturbations,
        "stored_values": sum(n_stored),
        "profile": given.profile,
        "memory": given.memory,
        **{name: first[name] for name in ("cpu_s", "wall_s", "peak_bytes")},
        "cpu_s_per_million_values": first["cpu_s"] / sum(n_stored) * 1e6,
        "again_cpu_s": again["cpu_s"],
        "kept_bytes": first["kept_bytes"],
        "results": first["results"],
        "same_results_again": first["results"] == again["results"],
        "versions": measure.versions(sys.executable, PACKAGES),
        "machine": measure.machine_facts(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "note": "CPU seconds of all threads on a machine that others used at the same time; wall_s says little",
    }


def _score(files: Sequence[Path], folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Score in a fresh process; results that gpubench keeps stay in the folder for the next call."""
    out, cache = folder / "out", folder / "cache"
    command = [sys.executable, "-m", "gpubench", "score", str(files[0]), "--predictions", str(files[1])]
    command += ["--task", "perturbation_prediction", "--condition", COLUMN, "--control", CONTROL, "--engine", "cpu"]
    command += ["--option", f"profile={given.profile}", "--out", str(out), "--quiet", "--force"]
    command += ["--memory", given.memory] if given.memory else []
    begin = time.perf_counter()
    process = subprocess.Popen(command, env={**os.environ, "TMPDIR": str(folder), "GPUBENCH_CACHE": str(cache)})
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(command)} failed")
    result = json.loads((out / "results.json").read_text())
    return {
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "wall_s": time.perf_counter() - begin,
        "peak_bytes": usage.ru_maxrss * 1024,
        "kept_bytes": sum(file.stat().st_size for file in (cache / "results").glob("*.npz")),
        "results": [{name: row[name] for name in ("metric", "value")} for row in result["results"]],
    }


def write_screen(path: Path, n: int, n_genes: int, n_perturbations: int, share: float, seed: int) -> int:
    """Write counts of n cells in random order, block by block; return the number of values that are not zero.

    Genes are drawn for every molecule of a cell. Both files have the same cells per perturbation and effects on 2% of
    the genes; those of seed 1 are the real ones with noise.
    """
    import h5py

    truth, random = np.random.default_rng(0), np.random.default_rng(100 + seed)
    base = truth.gamma(0.5, 1, n_genes)
    changed = truth.random((n_perturbations, n_genes)) < 0.02
    logs = np.where(changed, truth.normal(0, 1, changed.shape), 0)
    logs += seed * np.where(random.random(changed.shape) < 0.02, random.normal(0, 0.7, changed.shape), 0)
    rates = np.vstack([base * np.exp(logs), base])
    ends = np.cumsum(rates / rates.sum(axis=1, keepdims=True), axis=1)
    ends[:, -1] = 1.0
    starts = (ends + np.arange(n_perturbations + 1)[:, None]).ravel()  # of all groups, one after the other
    n_control = int(CONTROL_SHARE * n)
    codes = np.append(np.arange(n - n_control) % n_perturbations, np.full(n_control, n_perturbations))
    codes = truth.permutation(codes)
    molecules = share * n_genes * 1.046  # some fall on the same gene
    lengths = []
    with h5py.File(path, "w") as file:
        data = file.create_dataset("X/data", (0,), np.float32, maxshape=(None,), chunks=(1 << 20,))
        indices = file.create_dataset("X/indices", (0,), np.int32, maxshape=(None,), chunks=(1 << 20,))
        for first in range(0, n, BLOCK_ROWS):
            own = codes[first : first + BLOCK_ROWS]
            totals = random.poisson(molecules * random.lognormal(0, 0.3, len(own)) / np.exp(0.045)).clip(1)
            rows = np.repeat(np.arange(len(own)), totals)
            drawn = np.searchsorted(starts, random.random(len(rows)) + own[rows], side="right") % n_genes
            places, counts = np.unique(rows * n_genes + drawn, return_counts=True)
            lengths.append(np.bincount(places // n_genes, minlength=len(own)))
            for dataset, values in ((data, counts), (indices, places % n_genes)):
                dataset.resize((len(dataset) + len(values),))
                dataset[-len(values) :] = values
        n_stored = len(data)
        file["X/indptr"] = np.append(0, np.cumsum(np.concatenate(lengths)))
        file["X"].attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": (n, n_genes)})
        _write_table(file.create_group("obs"), [f"c{i}" for i in range(n)])
        _write_table(file.create_group("var"), [f"G{i:05}" for i in range(n_genes)])
        _write_labels(file["obs"], codes, [*(f"P{i:03}" for i in range(n_perturbations)), CONTROL])
    return n_stored


def _write_table(group: Any, names: list[str]) -> None:
    group["_index"] = np.array(names, "S")
    group.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.2.0", "_index": "_index"})
    group.attrs["column-order"] = np.array([], "S1")


def _write_labels(obs: Any, codes: Any, names: list[str]) -> None:
    obs[f"{COLUMN}/codes"] = codes.astype(np.int16)
    obs[f"{COLUMN}/categories"] = np.array(names, "S")
    obs[COLUMN].attrs.update({"encoding-type": "categorical", "encoding-version": "0.2.0", "ordered": False})
    obs.attrs["column-order"] = np.array([COLUMN], "S")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--n", type=int, nargs="+", default=[45_000, 90_000, 180_000, 360_000], help="cells of each file"
    )
    parser.add_argument("--genes", type=int, default=18_533)
    parser.add_argument("--perturbations", type=int, default=300)
    parser.add_argument("--share", type=float, default=0.025, help="share of values that are not zero")
    parser.add_argument("--profile", default="minimal", help="metrics to compute")
    parser.add_argument("--memory", help="limit for gpubench, such as 8GB")
    parser.add_argument("--folder", type=Path, help="folder for the files; default: that of temporary files")
    parser.add_argument("--out", type=Path, default=measure.HERE / "results")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()

"""Write real and predicted cells of a screen of perturbations, as counts and as logs, to compare speed on.

    python benchmarks/perturbation_data.py FOLDER --n 12000 --genes 2000 --perturbations 40 --share 0.26

Writes real_counts.h5ad, predicted_counts.h5ad, real_logs.h5ad and predicted_logs.h5ad: CSR float32, a third of the
cells are controls, each perturbation is named after a gene, which it turns down. The prediction has cells of its own
and effects that resemble the real ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from differential_expression_child import scale_of
from scipy.sparse import csr_matrix, vstack

COLUMN, CONTROL = "target_gene", "non-targeting"
BLOCK_ROWS = 2000


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the four files."""
    given = _parse(arguments)
    rng = np.random.default_rng(0)
    genes = np.array([f"G{i:05}" for i in range(given.genes)])
    targets = np.sort(rng.choice(given.genes, given.perturbations, replace=False))
    base = np.maximum(rng.gamma(0.35, 1, given.genes), 1e-3)
    base *= scale_of(base, given.share)
    changed = rng.random((given.perturbations, given.genes)) < 0.08
    effects = np.where(changed, rng.normal(0, 0.7, changed.shape), 0)
    noise = np.where(rng.random(changed.shape) < 0.08, rng.normal(0, 0.5, changed.shape), 0)
    for name, logs in {"real": effects, "predicted": 0.6 * effects + noise}.items():
        fold = np.vstack([np.exp(logs), np.ones(given.genes)])
        fold[np.arange(given.perturbations), targets] = 0.3
        codes = _codes(given.n, given.perturbations, rng)
        x = _counts(base * fold, codes, rng)
        labels = np.append(genes[targets], CONTROL)[codes]
        for kind, values in {"counts": x, "logs": _logs(x)}.items():
            obs = pd.DataFrame({COLUMN: pd.Categorical(labels)}, index=[f"c{i}" for i in range(given.n)])
            cells = ad.AnnData(X=values, obs=obs, var=pd.DataFrame(index=genes))
            cells.write_h5ad(given.folder / f"{name}_{kind}.h5ad")


def _codes(n: int, n_perturbations: int, rng: np.random.Generator) -> Any:
    """Draw the group of each cell; a third is of the control, which is the last group."""
    codes = np.append(np.repeat(np.arange(n_perturbations), 2 * n // 3 // n_perturbations), np.full(n, n_perturbations))
    return rng.permutation(codes[:n])


def _counts(rates: Any, codes: Any, rng: np.random.Generator) -> Any:
    """Draw overdispersed counts of cells of uneven depth."""
    blocks = []
    for start in range(0, len(codes), BLOCK_ROWS):
        own = rates[codes[start : start + BLOCK_ROWS]]
        own = own * rng.lognormal(0, 0.3, (len(own), 1)) * rng.gamma(2, 0.5, own.shape)
        blocks.append(csr_matrix(rng.poisson(own).astype(np.float32)))
    return vstack(blocks, format="csr")


def _logs(x: Any) -> Any:
    """Scale each cell to the median total and take log1p."""
    totals = np.asarray(x.sum(axis=1)).ravel()
    depths = (np.median(totals) / np.maximum(totals, 1)).astype(np.float32)
    return csr_matrix((np.log1p(x.data * np.repeat(depths, np.diff(x.indptr))), x.indices, x.indptr), x.shape)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--n", type=int, default=12_000, help="cells of each file")
    parser.add_argument("--genes", type=int, default=2_000)
    parser.add_argument("--perturbations", type=int, default=40)
    parser.add_argument("--share", type=float, default=0.26, help="share of values that are not zero")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()

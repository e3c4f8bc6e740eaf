"""A small perturbation screen, real and predicted, as AnnData."""

from __future__ import annotations

from typing import Any

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

GENES = [f"G{i:02d}" for i in range(80)]
CONTROL = "non-targeting"
PERTURBATIONS = ["G03", "G11", "G19", "G27", "G35", "drug"]
COLUMN = "target_gene"


def make_screen(seed: int, *, effects: float = 1.0, n: int = 40, n_control: int = 90) -> anndata.AnnData:
    """Counts of cells under six perturbations and of control cells; other seeds are other cells of one experiment."""
    truth, random = np.random.default_rng(7), np.random.default_rng(seed)
    base = truth.normal(1.2, 0.8, len(GENES))
    own = {p: truth.normal(0, 0.8, len(GENES)) * (truth.random(len(GENES)) < 0.4) for p in PERTURBATIONS}
    blocks, labels = [], []
    for name, effect in {CONTROL: np.zeros(len(GENES)), **own}.items():
        m = n_control if name == CONTROL else n
        depth = random.lognormal(0, 0.3, (m, 1))
        blocks.append(random.poisson(np.exp(base + effects * effect) * depth * random.gamma(4, 0.25, (m, len(GENES)))))
        labels += [name] * m
    order = random.permutation(len(labels))
    x = np.concatenate(blocks)[order].astype(np.float32)
    return to_anndata(x, np.array(labels)[order], f"s{seed}")


def to_anndata(x: Any, labels: Any, prefix: str = "c") -> anndata.AnnData:
    """An AnnData of these cells, sparse."""
    obs = pd.DataFrame({COLUMN: labels}, index=[f"{prefix}_{i}" for i in range(len(labels))])
    return anndata.AnnData(csr_matrix(x), obs, pd.DataFrame(index=GENES))


def log_normalised(counts: anndata.AnnData, total: float = 1e3) -> anndata.AnnData:
    """The same cells as log1p of counts per 1,000."""
    out = counts.copy()
    x = counts.X.toarray()
    out.X = csr_matrix(np.log1p(total * x / np.maximum(x.sum(axis=1, keepdims=True), 1)).astype(np.float32))
    return out


def predict(real: anndata.AnnData, seed: int = 1, **given: Any) -> anndata.AnnData:
    """A good prediction: other cells of the same experiment, with the real control cells."""
    other = make_screen(seed, **given)
    cells = other[(other.obs[COLUMN] != CONTROL).to_numpy()]
    control = real[(real.obs[COLUMN] == CONTROL).to_numpy()]
    return anndata.concat([cells, control])


def with_x(adata: anndata.AnnData, x: NDArray[Any] | csr_matrix) -> anndata.AnnData:
    """A copy with other values."""
    out = adata.copy()
    out.X = csr_matrix(x)
    return out

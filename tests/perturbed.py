"""A small perturbation screen, for the tests of its preparation, reading and scoring."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

CONTROL = "non-targeting"
N_GENES = 60


def make_screen(n_control: int = 80, n_treated: int = 50, seed: int = 0) -> ad.AnnData:
    """Counts of three knock-downs and their controls, cells in random order.

    KD_A changes the first 24 genes, KD_B the next 14, KD_C, a third of the cells, none.
    """
    rng = np.random.default_rng(seed)
    conditions = [CONTROL] * n_control + ["KD_A"] * n_treated + ["KD_B"] * n_treated + ["KD_C"] * (n_treated // 3)
    conditions = rng.permutation(conditions)
    rates = np.full((len(conditions), N_GENES), 4.0)
    rates[conditions == "KD_A", :24] *= rng.choice([0.1, 0.2, 5, 8], 24)
    rates[conditions == "KD_B", 24:38] *= rng.choice([0.1, 0.2, 5, 8], 14)
    counts = rng.poisson(rates * rng.uniform(0.7, 1.3, (len(conditions), 1))).astype(np.float32)
    return ad.AnnData(
        csr_matrix(counts),
        obs=pd.DataFrame(
            {"knock_down": pd.Categorical(conditions)}, index=[f"cell{i}" for i in range(len(conditions))]
        ),
        var=pd.DataFrame(index=[f"gene{i}" for i in range(N_GENES)]),
    )


def predict(screen: ad.AnnData, seed: int = 1) -> ad.AnnData:
    """A model that predicts the counts, a few of them wrong, for every cell and gene."""
    rng = np.random.default_rng(seed)
    predicted = screen.X.toarray() + rng.gamma(0.5, 4.0, screen.shape)
    return ad.AnnData(predicted.astype(np.float32), obs=screen.obs[[]], var=screen.var[[]])


def write(adata: ad.AnnData, path: Path) -> Path:
    adata.write_h5ad(path)
    return path

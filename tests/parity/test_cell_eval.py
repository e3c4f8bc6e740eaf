"""Predictions of perturbations: cell-eval and cell-eval2 side by side with gpubench."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from parity import peer_perturbation as peer
from perturbation_cases import assert_means, largest_difference
from scipy.sparse import csr_matrix

import gpubench as gb
from gpubench.metrics.perturbation import (
    CHALLENGE_2026,
    PROFILES,
    ExpressionTable,
    PerturbationScores,
    PerturbedCells,
    RealSide,
    ceiling,
    dispersed_mean_baseline,
    evaluate,
    mean_baseline,
    perturbed_cells,
    prepare,
    score_from_baseline,
)

SUITE = "parity-perturbation"
CONTROL = "non-targeting"
REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "perturbation" / "reference"


@dataclass(frozen=True)
class Screen:
    """Real and predicted cells, and the column of their perturbations."""

    real: anndata.AnnData
    predicted: anndata.AnnData
    column: str = "target"

    def sides(self) -> list[PerturbedCells]:
        return [
            perturbed_cells(side.X, side.obs[self.column].to_numpy(str), list(side.var_names))
            for side in (self.real, self.predicted)
        ]

    def prepare(self) -> RealSide:
        """Our real side, with the seed that scanpy takes for neighbours and communities."""
        return prepare(self.sides()[0], control=CONTROL, engine=gb.get_engine("cpu", seed=0))


def reference(real: str, predicted: str, column: str) -> Screen:
    if not REFERENCE.is_dir():
        pytest.skip(f"reference data not found: no folder {REFERENCE}")
    sides = (anndata.read_h5ad(REFERENCE / f"{name}.h5ad") for name in (real, predicted))
    return Screen(*sides, column)


def papalexi(folder: Path) -> Screen:
    """Replicate 1 of a knock-out screen, and replicate 2 as its prediction; every third cell, to be quick."""
    cells = anndata.read_h5ad(folder / "papalexi_knockout.h5ad")
    replicate = cells.obs["bio_rep"].to_numpy(str)
    sides = (cells[np.flatnonzero(replicate == name)[::3]].copy() for name in ("rep_1", "rep_2"))
    return Screen(*sides, "perturbation")


def generated(
    n_genes: int, n_perturbations: int, n_cells: int, *, log: bool, sparse: bool, seed: int, dtype: Any = np.float32
) -> Screen:
    """Perturbations named by genes and of different strengths, with uneven numbers of cells, in mixed order.

    The first has no effect in the real data, the second none in the prediction; the last has few cells.
    """
    random = np.random.default_rng(seed)
    genes = [f"G{i:04d}" for i in range(n_genes)]
    names = genes[1 : 1 + n_perturbations]
    base = random.normal(0.2, 1.0, n_genes)
    effects = random.normal(0, 1, (n_perturbations, n_genes)) * (random.random((n_perturbations, n_genes)) < 0.2)
    guesses = 0.7 * effects + random.normal(0, 0.3, effects.shape) * (random.random(effects.shape) < 0.3)
    effects[0] = guesses[1] = 0
    sides = []
    for shifts, share in ((effects, 1.0), (guesses, 1.3)):
        labels = [CONTROL] * (3 * n_cells)
        for i, name in enumerate(names):
            labels += [name] * (5 if i == n_perturbations - 1 else int(share * n_cells) + i % 5)
        column = random.permutation(np.array(labels))
        every = {CONTROL: np.zeros(n_genes), **dict(zip(names, shifts, strict=True))}
        means = np.exp(base + np.stack([every[name] for name in column])) * random.lognormal(0, 0.4, (len(column), 1))
        x = random.poisson(means * random.gamma(2.0, 0.5, means.shape)).astype(dtype)
        x = np.log1p(1e4 * x / np.maximum(x.sum(axis=1, keepdims=True), 1)).astype(dtype) if log else x
        obs = pd.DataFrame({"target": column}, index=[f"cell {i}" for i in range(len(column))])
        sides.append(anndata.AnnData(csr_matrix(x) if sparse else x, obs=obs, var=pd.DataFrame(index=pd.Index(genes))))
    return Screen(*sides)


GENERATED = {
    "many perturbations, sparse counts": {
        "n_genes": 90, "n_perturbations": 25, "n_cells": 30, "log": False, "sparse": True, "seed": 1,
    },
    "many genes, dense counts": {
        "n_genes": 700, "n_perturbations": 12, "n_cells": 40, "log": False, "sparse": False, "seed": 2,
    },
    "few perturbations, dense log values": {
        "n_genes": 150, "n_perturbations": 4, "n_cells": 70, "log": True, "sparse": False, "seed": 3,
        "dtype": np.float64,
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=["reference", "reference counts", "papalexi", *GENERATED])
def screen(request: pytest.FixtureRequest) -> Screen:
    makers: dict[str, Callable[[], Screen]] = {
        "reference": lambda: reference("real", "pred", "target_gene"),
        "reference counts": lambda: reference("v2_real", "v2_pred", "target"),
        "papalexi": lambda: papalexi(request.getfixturevalue("shared_data")),
    }
    return makers.get(request.param, lambda: generated(**GENERATED[request.param]))()


EXACT = ("overlap", "precision", "discrimination", "de_nsig", "de_direction", "de_sig")
"""What the names of cell-eval's metrics of ranks, counts and sets begin with."""


def only(scores: PerturbationScores, names: list[str]) -> PerturbationScores:
    return PerturbationScores(scores.perturbations, {name: scores.values[name] for name in names})


NEEDS_MANY = {"clustering_agreement"}
"""What cell-eval logs and leaves out where there are few perturbations."""


def comparable(ids: list[str], *tables: ExpressionTable) -> list[str]:
    """Leave out overlaps of the first genes if some tie: cell-eval's sort is not stable, and their order its own."""
    for table in tables:
        for p in range(len(table.perturbations)):
            sizes = np.abs(table.log2_fold_change[p, table.p_adjusted[p] < np.float32(0.05)])
            if len(np.unique(sizes)) < len(sizes):
                return [name for name in ids if not name.startswith(("overlap", "precision"))]
    return ids


@pytest.mark.slow
def test_cell_eval_agrees(screen: Screen, tmp_path: Path) -> None:
    theirs = peer.cell_eval(screen.real, screen.predicted, screen.column, CONTROL, tmp_path)
    real, (_, predicted) = screen.prepare(), screen.sides()
    ours = evaluate(real, predicted, profile="cell_eval")
    given = [name for name in ours.values if name in theirs.means]
    assert set(PROFILES["cell_eval"]) - set(given) <= NEEDS_MANY
    tables = real.cell_eval_table, prepare(predicted, control=CONTROL, engine="cpu").cell_eval_table
    ids = comparable(given, *tables)
    assert largest_difference(theirs.values, only(ours, [m for m in ids if m.startswith(EXACT)])) < 1e-12
    assert largest_difference(theirs.values, only(ours, ids)) < 1e-6
    assert_means(theirs.means, ours.means(strict=True), 1e-6)
    ceilings, _ = ceiling(real, ids, strict=True)
    assert_means(theirs.more["ceiling"], ceilings, 1e-6)

    # all E-distances of the baseline are the same, and so their correlation is that of rounding errors
    mean = mean_baseline(real)
    compared = comparable(ids, prepare(mean, control=CONTROL, engine="cpu").cell_eval_table)
    compared = [name for name in compared if name != "pearson_edistance"]
    baseline = evaluate(real, mean, metrics=compared).means(strict=True)
    assert_means(theirs.more["baseline"], baseline, 1e-6)
    score = score_from_baseline(ours.means(strict=True), baseline)
    assert_means({m: v for m, v in theirs.more["score"].items() if m in compared}, score.scores, 1e-5)


@pytest.mark.slow
def test_cell_eval2_agrees(screen: Screen) -> None:
    real, (_, predicted) = screen.prepare(), screen.sides()
    counts = real.has_counts
    theirs = peer.cell_eval2(screen.real, screen.predicted, screen.column, CONTROL, counts=counts)
    ours = evaluate(real, predicted, profile="full")
    cells = [name for name in PROFILES["full"] if name.startswith("cell_")]
    others = [name for name in PROFILES["full"] if name not in cells]
    # log values are averaged as float32 there
    allowed = 1e-9 if counts else 1e-6
    assert largest_difference(theirs.values, only(ours, others)) < allowed
    assert not counts or largest_difference(theirs.values, only(ours, cells)) < 1e-6
    assert_means({m: v for m, v in theirs.means.items() if m not in cells}, ours.means(), allowed)
    assert_means({m: v for m, v in theirs.means.items() if m in cells}, ours.means(), 1e-6)

    if counts:  # of which their baseline is made
        baseline = evaluate(real, dispersed_mean_baseline(real), metrics=CHALLENGE_2026).means()
        assert_means(theirs.more["baseline"], baseline, 1e-8)  # its counts are rounded to float32
        score = score_from_baseline({m: ours.mean(m) for m in CHALLENGE_2026}, baseline)
        want = peer.challenge_score(theirs.tables, score.scores)
        assert_means(want, {**score.scores, "avg_score": score.average}, 1e-7)
        for name in score.left_out:
            with pytest.raises(ValueError, match="degenerate baseline"):
                peer.challenge_score(theirs.tables, [*score.scores, name])

"""Deliberate differences: what cz-benchmarks does, and what gpubench does instead.

Each test is a row of the table of differences in docs/accuracy.md.
"""

from __future__ import annotations

import math
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from cells import Cells, make_cells
from parity import peer

from gpubench.core.errors import InputError
from gpubench.metrics import silhouette_batch, silhouette_label, spearman_correlation
from gpubench.running.score import score


@pytest.fixture(scope="module")
def cells() -> Cells:
    return make_cells(300, 8, n_labels=3, n_batches=3, duplicates=0, seed=4)


def test_unused_categories_do_not_count(cells: Cells) -> None:
    batch = pd.Categorical(cells.batch.astype(str), categories=["0", "absent", "1", "2"])
    used = batch.remove_unused_categories()
    theirs, theirs_of_used = (peer.silhouette_batch(cells.x, cells.label, column) for column in (batch, used))
    assert theirs == 1
    assert theirs_of_used < 0.95
    assert silhouette_batch(cells.x, cells.label, batch) == pytest.approx(theirs_of_used, abs=1e-5)


def test_missing_labels_are_refused(cells: Cells) -> None:
    label = np.where(cells.label == 2, np.nan, cells.label).astype(object)
    assert math.isfinite(peer.silhouette_label(cells.x, pd.Series(label).astype(str).to_numpy()))
    with pytest.raises(InputError, match="rows have no value"):
        silhouette_label(cells.x, label)


def test_constant_predictions_have_no_correlation() -> None:
    true, constant = np.arange(6.0), np.ones(6)
    assert peer.spearman(true, constant) == 0
    ours = spearman_correlation(true, constant)
    assert math.isnan(ours)
    assert ours.note


def test_labels_that_one_species_lacks_are_left_out(two_species_file: Path, tmp_path: Path) -> None:
    adata = anndata.read_h5ad(two_species_file)
    lacking = adata[~((adata.obs["species"] == "mouse") & (adata.obs["label"] == "type 2")).to_numpy()].copy()
    with pytest.raises(ValueError, match="classes"):
        peer.cross_species_label_prediction(lacking, "label", "species")
    lacking.write_h5ad(tmp_path / "lacking.h5ad")
    result = score(
        tmp_path / "lacking.h5ad",
        ["X_pca"],
        label="label",
        species="species",
        aggregation="none",
        tasks=["cross_species_label_prediction"],
    )
    row = next(row for row in result.results if row.metric == "auroc" and row.params["train_species"] == "human")
    assert 0.5 < row.value <= 1
    assert "type 2" in row.note

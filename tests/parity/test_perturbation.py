"""Predicted responses to perturbations."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import perturbed
import pytest
from parity import peer

from gpubench.data import prepare_perturbation
from gpubench.running.score import score

TOLERANCE = 1e-6


@pytest.fixture(scope="session")
def screen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three synthetic knock-downs, prepared."""
    path = tmp_path_factory.mktemp("perturbation") / "screen.h5ad"
    prepare_perturbation(perturbed.make_screen(), path, condition="knock_down", control=perturbed.CONTROL)
    return path


@pytest.fixture(scope="session")
def papalexi(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real knock-outs, prepared."""
    path = tmp_path_factory.mktemp("perturbation") / "papalexi.h5ad"
    source = shared_data / "papalexi_knockout.h5ad"
    prepare_perturbation(source, path, condition="perturbation", control="non-targeting")
    return path


@pytest.mark.parametrize("effect", ["ratio", "difference"])
@pytest.mark.parametrize("name", ["screen", "papalexi"])
def test_spearman_of_each_condition(name: str, effect: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Predictions of most cells and genes, in an order of their own."""
    dataset: Path = request.getfixturevalue(name)
    predictions = _noisy_predictions(dataset)
    path = perturbed.write(predictions, tmp_path / "predictions.h5ad")
    theirs = peer.perturbation(dataset, predictions, condition="condition", control="non-targeting", effect=effect)
    result = score(dataset, predictions=path, tasks=["perturbation_expression_prediction"], effect=effect)
    assert theirs
    for metric, condition in theirs:
        expected = pytest.approx(theirs[metric, condition], abs=TOLERANCE)
        assert result.value(metric, condition=condition) == expected, condition


def _noisy_predictions(dataset: Path) -> anndata.AnnData:
    rng = np.random.default_rng(0)
    truth = anndata.read_h5ad(dataset)
    cells = rng.permutation(truth.n_obs)[: round(0.9 * truth.n_obs)]
    genes = rng.permutation(truth.n_vars)[: round(0.9 * truth.n_vars)]
    counts = truth.X[cells][:, genes].toarray()
    noisy = (counts + rng.gamma(0.5, 1.0, counts.shape)).astype(np.float32)
    return anndata.AnnData(noisy, obs=truth.obs.iloc[cells][[]], var=truth.var.iloc[genes][[]])

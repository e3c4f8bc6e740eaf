"""Tasks that score several species in one embedding."""

from __future__ import annotations

from pathlib import Path

import anndata
import pytest
from parity import peer
from parity.conftest import assert_same_mean

from gpubench.results.result import Result
from gpubench.running.score import score

TOLERANCE = {"entropy_per_cell": 1e-3, "batch_silhouette": 1e-5}
SEEDS = tuple(range(42, 47))  # forests on a few hundred cells: one draw says little


@pytest.fixture(scope="session", params=["synthetic", "pancreas"])
def species_file(request: pytest.FixtureRequest) -> tuple[Path, str]:
    """A file with a column of species, and its column of labels."""
    if request.param == "synthetic":
        return request.getfixturevalue("two_species_file"), "label"
    return request.getfixturevalue("shared_data") / "pancreas_human_mouse.h5ad", "cell_type"


def test_integration(species_file: tuple[Path, str]) -> None:
    path, label = species_file
    theirs = peer.cross_species_integration(anndata.read_h5ad(path), label, "species")
    result = score(path, ["X_pca"], label=label, species="species", tasks=["cross_species_integration"])
    for (metric,), value in theirs.items():
        assert result.value(metric) == pytest.approx(value, abs=TOLERANCE[metric]), metric


def test_label_prediction(species_file: tuple[Path, str]) -> None:
    """Every ordered pair of species and each one by itself, cell by cell."""
    path, label = species_file
    cells = anndata.read_h5ad(path)
    theirs = [peer.cross_species_label_prediction(cells, label, "species", seed=seed) for seed in SEEDS]
    assert_same_means([_predict(path, label, seed=seed, aggregation="none") for seed in SEEDS], theirs)


@pytest.mark.parametrize("aggregation", ["mean", "median"])
def test_label_prediction_of_merged_samples(two_species_file: Path, aggregation: str) -> None:
    cells = anndata.read_h5ad(two_species_file)
    theirs = [
        peer.cross_species_label_prediction(cells, "label", "species", "sample", seed=seed, aggregation=aggregation)
        for seed in SEEDS
    ]
    ours = [_predict(two_species_file, "label", seed=seed, sample="sample", aggregation=aggregation) for seed in SEEDS]
    assert_same_means(ours, theirs)


def test_label_prediction_with_donors_held_out(two_species_file: Path) -> None:
    cells = anndata.read_h5ad(two_species_file)
    theirs = [peer.cross_species_label_prediction(cells, "label", "species", "donor", seed=seed) for seed in SEEDS]
    ours = [_predict(two_species_file, "label", seed=seed, sample="donor", aggregation="none") for seed in SEEDS]
    assert_same_means(ours, theirs)


def _predict(path: Path, label: str, **options: object) -> Result:
    tasks = ["cross_species_label_prediction"]
    return score(path, ["X_pca"], label=label, species="species", tasks=tasks, **options)


def assert_same_means(ours: list[Result], theirs: list[peer.Numbers]) -> None:
    """The means over the seeds agree for every metric, pair of species and classifier."""
    for metric, train, test, classifier in theirs[0]:
        params = {"train_species": train, "test_species": test, "classifier": classifier}
        expected = [numbers[metric, train, test, classifier] for numbers in theirs]
        found = [result.value(metric, **params) for result in ours]
        assert_same_mean(found, expected, classifier)

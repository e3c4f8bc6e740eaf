"""Predictions of perturbations that need no model."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from gpubench.core.errors import InputError
from gpubench.data.perturbation.simple_predictions import simple_predictions, split_screen
from gpubench.datasets import knockouts_path

RESPONSES = {"ctrl": [1, 1, 1], "A": [3, 1, 1], "B": [3, 1.1, 1], "C": [1, 0.2, 2]}


def screen(seed: int, n: int = 400) -> anndata.AnnData:
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(list(RESPONSES), n))
    means = 5 * np.array([RESPONSES[name] for name in labels])
    obs = pd.DataFrame({"target": labels}, index=[f"c{i}" for i in range(len(labels))])
    return anndata.AnnData(random.poisson(means).astype(np.float32), obs)


def means(cells: anndata.AnnData, name: str) -> np.ndarray:
    x = cells.X.toarray() if hasattr(cells.X, "toarray") else cells.X
    return x[(cells.obs["target"] == name).to_numpy()].mean(axis=0) / 5


def test_each_prediction_is_what_its_name_says() -> None:
    training, cells = screen(0), screen(1)
    made = simple_predictions(training, cells, condition="target", control="ctrl")
    for name, predicted in made.items():
        x = predicted.X.toarray() if hasattr(predicted.X, "toarray") else predicted.X
        assert (x == np.round(x)).all()
        assert (x >= 0).all()
        source = training if name == "shuffled" else cells
        assert_allclose(means(predicted, "ctrl"), means(source, "ctrl"))
        assert predicted.obs["target"].value_counts().to_dict() == source.obs["target"].value_counts().to_dict()
    for name in "ABC":
        assert_allclose(means(made["linear"], name), RESPONSES[name], atol=0.15)
    assert_allclose(means(made["neighbour"], "A"), RESPONSES["B"], atol=0.15)
    assert_allclose(means(made["neighbour"], "B"), RESPONSES["A"], atol=0.15)
    # geometric means of the ratios of the other two
    assert_allclose(means(made["mean"], "C"), np.sqrt([9, 1.1, 1]), atol=0.15)
    assert_allclose(means(made["shuffled"], "A"), np.mean([RESPONSES[name] for name in "ABC"], axis=0), atol=0.3)


def test_the_same_seed_gives_the_same_cells() -> None:
    first, second = (simple_predictions(screen(0), screen(1), condition="target", control="ctrl") for _ in range(2))
    assert (first["linear"].X != second["linear"].X).nnz == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"condition": "targets", "control": "ctrl"}, "did you mean 'target'"),
        ({"condition": "target", "control": "none"}, "control='none'"),
    ],
)
def test_what_is_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        simple_predictions(screen(0, 5), screen(1, 5), **options)


def test_other_perturbations_are_refused() -> None:
    cells = screen(1, 5)
    with pytest.raises(InputError, match="not those of the training data"):
        simple_predictions(screen(0, 5), cells[cells.obs["target"] != "A"], condition="target", control="ctrl")


def test_a_screen_is_split_by_its_replicate() -> None:
    first, second = split_screen(knockouts_path(), "replicate")
    assert first.n_obs + second.n_obs == 2105
    assert first.X.dtype == np.float32
    assert set(first.obs["replicate"]) == {"1"}

"""What both label prediction tasks are tested with: inputs, and the pipelines of scikit-learn that define them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, make_scorer, precision_score, recall_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from gpubench.core.scores import MetricResult
from gpubench.data import encode_labels
from gpubench.engines.base import Engine
from gpubench.engines.embedding import on_engine
from gpubench.tasks._cross_validation import ClassifierSettings
from gpubench.tasks._task import Options, TaskInput

FIVE = ("accuracy", "f1", "precision", "recall", "auroc")


def task_input(
    engine: Engine,
    x: np.ndarray,
    *,
    scorers: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
    **columns: Any,
) -> TaskInput:
    """Cells with their columns: label, species, sample."""
    labels = {name: encode_labels(values, name) for name, values in columns.items() if values is not None}
    embedding = on_engine(np.ascontiguousarray(x, np.float32), engine)
    return TaskInput(engine, Options(**(options or {})), "X", embedding, scorers=scorers or {}, **labels)


def read(path: Path, *columns: str) -> tuple[np.ndarray, ...]:
    """X_pca of a file and some of its categorical columns as text."""
    with h5py.File(path) as file:
        found = [file["obsm/X_pca"][:]]
        for name in columns:
            categories = file[f"obs/{name}/categories"].asstr()[:]
            found.append(categories[file[f"obs/{name}/codes"][:]])
    return tuple(found)


def table(rows: Iterable[MetricResult], *params: str) -> dict[tuple[str, ...], dict[str, MetricResult]]:
    """Rows by the values of these parameters and by metric (without "mean_fold_")."""
    found: dict[tuple[str, ...], dict[str, MetricResult]] = {}
    for row in rows:
        key = tuple(str(row.params[name]) for name in params)
        found.setdefault(key, {})[row.metric.removeprefix("mean_fold_")] = row
    return found


N_TREES = 10
"""Trees of a forest where the test is not about forests."""


def few_trees(settings: ClassifierSettings) -> ClassifierSettings:
    """The same task with small forests."""
    return replace(settings, params={**settings.params, "rf": {"n_estimators": N_TREES}})


def pipelines(*, centre: bool, max_iter: int, seed: int) -> dict[str, Pipeline]:
    """The classifiers as scikit-learn has them, with small forests."""
    return {
        "lr": make_pipeline(StandardScaler(with_mean=centre), LogisticRegression(max_iter=max_iter)),
        "knn": make_pipeline(StandardScaler(with_mean=centre), KNeighborsClassifier()),
        "rf": make_pipeline(RandomForestClassifier(N_TREES, random_state=seed)),
    }


FOREST_SEEDS = 10
FOREST_SPREAD = 4.5
"""How far the score of a forest may be from the mean of scikit-learn's, in standard deviations over seeds."""


def assert_like_forests(value: float, peers: Sequence[float]) -> None:
    """Check that a score could be that of one more seed of the forests with the scores `peers`."""
    spread = float(np.std(peers, ddof=1)) * np.sqrt(1 + 1 / len(peers))
    assert value == pytest.approx(np.mean(peers), abs=FOREST_SPREAD * spread + 2e-3)


def tolerances(classifier: str, forest_deviations: Sequence[float]) -> list[float]:
    """How far the five metrics may be from those of cz-benchmarks, whose forest is one draw as ours is.

    forest_deviations: standard deviations over seeds of the metrics of scikit-learn's forests on the same cells.
    """
    share = {"lr": 0.0, "knn": 0.0, "rf": 1.0}.get(classifier, 1 / 3)  # the mean of the three by default
    return [share * FOREST_SPREAD * np.sqrt(2) * deviation + 2e-3 for deviation in forest_deviations]


def peer_scorers(n_classes: int) -> dict[str, Any]:
    """The five metrics as scikit-learn's scorers."""
    average = {"average": "binary" if n_classes == 2 else "macro", "zero_division": 0}
    return {
        "accuracy": make_scorer(accuracy_score),
        "f1": make_scorer(f1_score, **average),
        "precision": make_scorer(precision_score, **average),
        "recall": make_scorer(recall_score, **average),
        "auroc": make_scorer(roc_auc_score, average="macro", multi_class="ovr", response_method="predict_proba"),
    }

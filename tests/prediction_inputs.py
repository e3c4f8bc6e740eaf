"""What both label prediction tasks are tested with: inputs, and the pipelines of scikit-learn that define them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
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

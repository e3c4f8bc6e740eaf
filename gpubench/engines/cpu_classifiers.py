"""The classifiers of the CPU engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpubench.engines.base import Classifier, ClassifierKind
from gpubench.engines.cpu_forest import MOST_CELLS, RandomForest, forest_package
from gpubench.engines.cpu_logistic import LogisticRegression
from gpubench.engines.votes import NearestNeighbors

if TYPE_CHECKING:
    from gpubench.engines.cpu import CpuEngine

MOST_LR_CELLS = 1_000_000
"""Cells that logistic regression is trained on unless the engine is to be exact. It takes about 10 s for 50 dimensions
and 30 classes on two cores, and of more cells its few weights learn nothing that can be seen in the scores."""


def make_classifier(engine: CpuEngine, kind: ClassifierKind, **params: Any) -> Classifier:
    """Make an untrained classifier; see `Engine.classifier`."""
    if kind == "lr":
        return LogisticRegression(engine.n_threads, timeline=engine.timeline, **params)
    if kind == "knn":
        return NearestNeighbors(engine, **params)
    if kind == "rf":
        return RandomForest(engine.seed, engine.n_threads, **params)
    raise ValueError(f"there is no classifier {kind!r}; there are 'lr', 'knn' and 'rf'")


def most_training_cells(kind: ClassifierKind, n: int) -> int:
    """How many of n cells a classifier is trained on, where that is to take minutes at most."""
    if kind == "lr":
        return min(n, MOST_LR_CELLS)
    return min(n, MOST_CELLS[forest_package(n)]) if kind == "rf" else n

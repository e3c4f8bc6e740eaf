"""Workloads of gpubench: each function imports what it needs and returns the call to time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Call = Callable[[Mapping[str, Any]], float]


def silhouette_label() -> Call:
    """Silhouette of the labels."""
    import gpubench as gb

    metrics = gb.metrics
    return lambda cells: metrics.silhouette_label(cells["x"], cells["label"])


def silhouette_batch() -> Call:
    """Silhouette of the batches within the labels."""
    import gpubench as gb

    metrics = gb.metrics
    return lambda cells: metrics.silhouette_batch(cells["x"], cells["label"], cells["batch"])


def entropy_per_cell() -> Call:
    """Entropy of the batches among 200 neighbours."""
    import gpubench as gb

    metrics = gb.metrics
    return lambda cells: metrics.entropy_per_cell(cells["x"], cells["batch"])


def sequential_alignment() -> Call:
    """Order of the time points among 10 neighbours."""
    import gpubench as gb

    metrics = gb.metrics
    return lambda cells: metrics.sequential_alignment(cells["x"], cells["time"])


def clustering() -> Call:
    """Leiden clusters of the neighbour graph, and their ARI with the labels."""
    import gpubench as gb

    score = gb.score
    return lambda cells: score(cells["x"], label=cells["label"], tasks="clustering").value("adjusted_rand_index")


SUITE = ("clustering", "embedding", "batch_integration", "sequential_organization", "label_prediction")
"""The tasks of one embedding."""


def suite() -> Call:
    """All tasks of one embedding; the value is the mean of the scores."""
    return _suite(SUITE)


def suite_without_prediction() -> Call:
    """The same without label prediction."""
    return _suite(SUITE[:-1])


def _suite(tasks: tuple[str, ...]) -> Call:
    import numpy as np

    import gpubench as gb

    score = gb.score

    def call(cells: Mapping[str, Any]) -> float:
        columns = {name: cells[name] for name in ("label", "batch", "time")}
        result = score(cells["x"], **columns, tasks=tasks)
        return float(np.mean([row.value for row in result.results]))

    return call


def knn() -> Call:
    """The 15 nearest neighbours of every cell; the value is their mean distance."""
    import gpubench as gb

    engine = gb.get_engine("cpu", knn="exact")
    return lambda cells: float(engine.knn(engine.put(cells["x"]), 15).distances.mean(dtype="float64"))


def import_package() -> Call:
    """Import the package and call nothing."""
    import gpubench

    return lambda _: float(bool(gpubench.__version__))

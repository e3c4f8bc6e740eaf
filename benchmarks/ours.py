"""What gpubench computes in the benchmarks: a function imports what it needs and returns the call to be timed."""

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


def knn() -> Call:
    """The 15 nearest neighbours of every cell; the value is their mean distance."""
    import gpubench as gb

    engine = gb.get_engine("cpu", knn="exact")
    return lambda cells: float(engine.knn(engine.put(cells["x"]), 15).distances.mean(dtype="float64"))


def import_package() -> Call:
    """Nothing but the import."""
    import gpubench

    return lambda _: float(bool(gpubench.__version__))

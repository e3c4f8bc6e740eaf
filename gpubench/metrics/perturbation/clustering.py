"""Agreement of clusters of real profiles of perturbations with clusters of predicted ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from gpubench.metrics._metric import contingency
from gpubench.metrics.clustering import adjusted_rand_index, normalized_mutual_info
from gpubench.metrics.perturbation._statistics import adjusted_mutual_information
from gpubench.metrics.perturbation._values import FEW_PERTURBATIONS, Values, overall_value

if TYPE_CHECKING:
    from gpubench.core.types import F64, I32
    from gpubench.engines.base import Engine

MIN_PERTURBATIONS = 4
"""Smallest number of perturbations that are clustered."""

REAL_RESOLUTION = 1.0
PREDICTED_RESOLUTIONS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0)


@dataclass(frozen=True)
class CentroidPair:
    """Real and predicted profiles of P perturbations, as points to cluster.

    Attributes
    ----------
    real, predicted : (P, G) float64
    engine : engine that finds neighbours and communities, with its seed
    """

    real: F64
    predicted: F64
    engine: Engine


def clustering_agreement(
    pair: CentroidPair,
    *,
    metric: Literal["ami", "nmi", "ari"] = "ami",
    n_neighbors: int = 15,
    real_resolution: float = REAL_RESOLUTION,
    predicted_resolutions: Sequence[float] = PREDICTED_RESOLUTIONS,
) -> Values:
    """Compute the largest agreement of Leiden clusters of the real profiles with those of the predicted ones.

    Real profiles are clustered at one resolution, predicted ones at several, of which the best counts.

    Parameters
    ----------
    pair : real and predicted profiles
    metric : measure of agreement: adjusted ("ami") or normalised mutual information ("nmi"), or (1 + adjusted Rand
        index) / 2 ("ari")
    n_neighbors : number of neighbours of each perturbation in the graph, itself included; reduced to P - 1 if larger
    real_resolution, predicted_resolutions : resolution of Leiden for the real profiles, and those for the predicted
        ones

    Returns
    -------
    Values
        One value in [0, 1]; undefined for fewer than 4 perturbations.

    References
    ----------
    Traag, Waltman & van Eck (2019), doi:10.1038/s41598-019-41695-z.

    Examples
    --------
    >>> import numpy as np
    >>> import gpubench as gb
    >>> points = np.array([[0.0], [1.0], [2.0], [50.0], [51.0], [52.0]])
    >>> clustering_agreement(CentroidPair(points, points, gb.get_engine("cpu")), n_neighbors=3).whole
    1.0
    """
    n = len(pair.real)
    if n < MIN_PERTURBATIONS:
        return overall_value(n, FEW_PERTURBATIONS)
    neighbors = min(n_neighbors, n - 1)
    (real,) = _clusters(pair.engine, pair.real, neighbors, (real_resolution,))
    best = 0.0
    for predicted in _clusters(pair.engine, pair.predicted, neighbors, predicted_resolutions):
        best = max(best, _agreement(real, predicted, metric))
    return overall_value(n, best)


def _clusters(engine: Engine, profiles: F64, n_neighbors: int, resolutions: Sequence[float]) -> list[I32]:
    graph = engine.fuzzy_graph(engine.knn(engine.put(profiles, "profiles"), n_neighbors - 1))
    return [engine.leiden(graph, resolution) for resolution in resolutions]


def _agreement(real: I32, predicted: I32, metric: str) -> float:
    if metric == "nmi":
        return float(normalized_mutual_info(real, predicted))
    if metric == "ari":
        return (1 + float(adjusted_rand_index(real, predicted))) / 2
    counts = contingency(real, predicted, int(real.max()) + 1, int(predicted.max()) + 1)
    counts = counts[counts.any(axis=1)][:, counts.any(axis=0)]
    return adjusted_mutual_information(np.asarray(counts))

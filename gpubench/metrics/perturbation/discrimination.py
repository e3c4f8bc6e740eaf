"""Discrimination scores: is the predicted effect nearest to the real effect of its own perturbation?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from gpubench.metrics.perturbation._values import Values, each_value

if TYPE_CHECKING:
    from gpubench.core.types import F64, I64
    from gpubench.metrics.perturbation.effects import EffectPair

TIE = 1e-12
"""Distances with a smaller relative difference are equal: rounding of matrix products depends on the position."""

Distance = Literal["l1", "l2", "cosine"]


def discrimination(
    pair: EffectPair,
    *,
    distance: Distance = "l1",
    exclude_target_gene: bool = True,
    exclusion_scope: Literal["panel", "row"] = "row",
    rank_denominator: Literal["n", "n-1"] = "n",
    tie_policy: Literal["midrank", "position"] = "midrank",
) -> Values:
    r"""Rank the real effect of each perturbation among all real effects, by distance to its predicted effect.

    .. math:: 1 - r_p / n, \quad
        r_p = |\{q : d(\hat\delta_p, \delta_q) < d(\hat\delta_p, \delta_p)\}| + \tfrac12 |\{q \ne p : \text{equal}\}|

    Parameters
    ----------
    pair : real and predicted profiles
    distance : "l1" for Manhattan, "l2" for Euclidean, "cosine" for 1 - cosine similarity (1 if a vector is 0)
    exclude_target_gene : leave the genes that perturbations target out of the effects
    exclusion_scope : genes left out: "row" for the target of the perturbation that is ranked, "panel" for the targets
        of all perturbations
    rank_denominator : divisor of the rank: the number of perturbations n, or n - 1
    tie_policy : how equal distances count in the rank: one half each ("midrank"), or fully for perturbations that are
        listed earlier and not at all for others ("position")

    Returns
    -------
    Values
        In [0, 1]; 1 if the real effect of the same perturbation is nearest.

    Examples
    --------
    >>> import numpy as np
    >>> from gpubench.metrics.perturbation.effects import EffectPair
    >>> effects = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> pair = EffectPair(("A", "B"), effects, effects[::-1], np.zeros(2), np.zeros(2), np.array([-1, -1]))
    >>> discrimination(pair, rank_denominator="n-1").values
    array([0., 0.])
    """
    n = pair.n
    if n == 1:
        return each_value([1.0])
    real, predicted, own = pair.real_effects, pair.predicted_effects, pair.own
    if not exclude_target_gene:
        own = np.full(n, -1)
    elif exclusion_scope == "panel":
        kept = np.setdiff1d(np.arange(real.shape[1]), pair.panel)
        real, predicted, own = np.take(real, kept, axis=1), np.take(predicted, kept, axis=1), np.full(n, -1)
    distances = _distances(predicted, real, own, distance)
    at_own = np.diagonal(distances)[:, None]
    equal = np.abs(distances - at_own) <= TIE * np.maximum(1.0, np.abs(at_own))
    before = np.tri(n, k=-1, dtype=bool) if tie_policy == "position" else np.full((n, n), 0.5)
    np.fill_diagonal(before, 0)
    rank = ((distances < at_own) & ~equal).sum(axis=1) + (equal * before).sum(axis=1)
    return each_value((1 - rank / (n - 1 if rank_denominator == "n-1" else n)).tolist())


def _distances(predicted: F64, real: F64, own: I64, distance: Distance) -> F64:
    """Distances of each predicted effect to all real ones, without the column `own` of the predicted one; (P, P)."""
    from scipy.spatial.distance import cdist

    mine = np.flatnonzero(own >= 0)
    left_out = np.zeros((len(predicted), len(real), 2))  # coordinates of both sides that do not count
    left_out[mine, :, 0] = predicted[mine, own[mine]][:, None]
    left_out[mine, :, 1] = real[:, own[mine]].T
    a, b = left_out[..., 0], left_out[..., 1]
    if distance == "l1":
        return np.maximum(cdist(predicted, real, "cityblock") - np.abs(a - b), 0)
    if distance == "l2":
        return np.sqrt(np.maximum(cdist(predicted, real, "sqeuclidean") - (a - b) ** 2, 0))
    products = predicted @ real.T - a * b
    lengths = np.sqrt(np.maximum((predicted**2).sum(axis=1)[:, None] - a**2, 0))
    lengths = lengths * np.sqrt(np.maximum((real**2).sum(axis=1)[None, :] - b**2, 0))
    cosine = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    distances: F64 = np.clip(1 - cosine, 0, 2)
    return distances

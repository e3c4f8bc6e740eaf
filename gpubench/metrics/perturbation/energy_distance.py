"""E-distance of each perturbation to the control over all pairs of cells, without holding their distances."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from gpubench.metrics.perturbation._statistics import pearson
from gpubench.metrics.perturbation._values import CONSTANT, FEW_PERTURBATIONS, Reason, Values, overall_value
from gpubench.metrics.perturbation.cells import PerturbedCells

if TYPE_CHECKING:
    from gpubench.core.types import F64, I64
    from gpubench.engines.base import Engine

SAME = 1e-9
"""Relative difference below which E-distances are equal up to rounding."""

CellDistance = Literal["euclidean", "cosine"]


@dataclass(frozen=True)
class EnergyPair:
    """E-distances of P perturbations to the control, in the real data and in the prediction.

    Attributes
    ----------
    real, predicted : (P,) float64
    """

    real: F64
    predicted: F64


def energy_correlation(pair: EnergyPair) -> Values:
    """Compute Pearson's correlation over perturbations of real and predicted E-distances.

    Parameters
    ----------
    pair : real and predicted E-distances

    Returns
    -------
    Values
        One value in [-1, 1]; undefined for fewer than two perturbations, or if the real or the predicted E-distances
        are constant up to rounding.

    Examples
    --------
    >>> import numpy as np
    >>> round(energy_correlation(EnergyPair(np.array([1.0, 2.0, 4.0]), np.array([0.0, 1.0, 3.0]))).whole, 6)
    1.0
    """
    n = len(pair.real)

    def correlate(rows: I64) -> float:
        return pearson(pair.real[rows], pair.predicted[rows])

    answer: float | Reason
    if n < 2:
        answer = FEW_PERTURBATIONS
    elif any(np.ptp(side) <= SAME * np.abs(side).max() for side in (pair.real, pair.predicted)):
        answer = CONSTANT
    else:
        answer = correlate(np.arange(n))
    return overall_value(n, answer, correlate)


def energy_distances(
    parts: PerturbedCells | Iterable[PerturbedCells],
    control: str,
    engine: Engine,
    *,
    distance: CellDistance = "euclidean",
) -> dict[str, float]:
    r"""Compute the E-distance of every perturbation to the control.

    .. math:: E = 2 \overline{d(x, c)} - \overline{d(x, x')} - \overline{d(c, c')}

    with means over all pairs of cells x of the perturbation and c of the control, including pairs of a cell with
    itself.

    Parameters
    ----------
    parts : cells, whose values are used as they are; or several parts, each with all cells of some perturbations and
        all control cells
    control : label of the control
    engine : engine that computes tiles of distances, in float32 after centring
    distance : "euclidean", or "cosine" for 1 - cosine similarity

    Returns
    -------
    dict
        Perturbation -> E-distance, relative error about 1e-7.

    References
    ----------
    Székely & Rizzo (2013), doi:10.1016/j.jspi.2013.03.018.

    Examples
    --------
    >>> import gpubench as gb
    >>> from gpubench.metrics.perturbation import perturbed_cells
    >>> cells = perturbed_cells([[0.0], [2.0], [5.0], [5.0]], ["control", "control", "A", "A"], ["G"])
    >>> energy_distances(cells, "control", gb.get_engine("cpu"))
    {'A': 7.0}
    """
    energies: dict[str, float] = {}
    own_control = None
    for cells in [parts] if isinstance(parts, PerturbedCells) else parts:
        names = [name for name in cells.names if name != control]
        if distance == "cosine":
            energies |= _cosine_energies(cells, control, names)
            continue
        codes, n_groups, reference = cells.labels.codes, len(cells.names), cells.code(control)
        between = engine.mean_distances(cells.x, codes, n_groups, reference)
        if own_control is not None:  # every part has all control cells
            codes = np.where(codes == reference, -1, codes)
        within = engine.mean_distances(cells.x, codes, n_groups)
        own_control = within[reference] if own_control is None else own_control
        for name in names:
            code = cells.code(name)
            energies[name] = float(2 * between[code] - within[code] - own_control)
    return energies


def _cosine_energies(cells: PerturbedCells, control: str, names: list[str]) -> dict[str, float]:
    """E-distances of 1 - cosine: squared distances of the mean directions; a cell of zeros has no direction."""
    mean, empty = {}, {}
    for name in cells.names:
        total, zeros, n = np.zeros(len(cells.genes)), 0, 0
        for block in cells.blocks(cells.rows_of(name)):
            length = np.sqrt((block * block).sum(axis=1))
            total += (block / np.where(length > 0, length, 1)[:, None]).sum(axis=0)
            zeros, n = zeros + int((length == 0).sum()), n + len(block)
        mean[name], empty[name] = total / n, zeros / n**2
    # A cell of zeros is at distance 1 from every other cell and at 0 from itself
    return {name: float(((mean[name] - mean[control]) ** 2).sum() + empty[name] + empty[control]) for name in names}

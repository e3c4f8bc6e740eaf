"""Predictions that need no model: the control, the mean of all perturbations, the mean with the control's spread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.metrics.perturbation.cells import dense
from gpubench.metrics.perturbation.streaming import Cells, derived

if TYPE_CHECKING:
    from gpubench.core.types import F64, I64
    from gpubench.metrics.perturbation.sides import RealSide


def control_baseline(real: RealSide, *, seed: int = 0) -> Cells:
    """Predict that no perturbation has an effect: control cells drawn with replacement.

    Parameters
    ----------
    real : the real data
    seed : random seed of the draws

    Returns
    -------
    Cells
        As many cells of each perturbation as in the real data, and the real control cells.
        In memory if the real data are.

    Examples
    --------
    >>> from gpubench.metrics.perturbation import perturbed_cells, prepare
    >>> cells = perturbed_cells([[1, 0], [0, 2], [3, 1]], ["control", "KLF1", "control"], ["A", "B"])
    >>> control_baseline(prepare(cells, control="control", engine="cpu")).n_cells
    array([1, 2])
    """
    control, draws = real.control_cells.x, _drawn_controls(real, seed)
    sizes = dict(zip(real.cells.names, real.cells.n_cells.tolist(), strict=True))
    return derived(
        real.cells,
        sizes,
        lambda name: control if name == real.control else control[draws[name]],
        counts=real.cells.has_counts,
    )


def mean_profile(real: RealSide, *, as_delta: bool = False) -> F64:
    """Compute the profile of cell-eval's baseline: the mean over perturbations and control of their mean log values.

    Parameters
    ----------
    real : the real data
    as_delta : return the mean over perturbations of the effects, profile minus control, instead

    Returns
    -------
    (G,) float64

    Examples
    --------
    >>> from gpubench.metrics.perturbation import perturbed_cells, prepare
    >>> cells = perturbed_cells([[1.5, 0], [0.5, 2], [2.5, 1]], ["control", "KLF1", "control"], ["A", "B"])
    >>> mean_profile(prepare(cells, control="control", engine="cpu"))
    array([1.25, 1.25])
    """
    profiles = real.profiles()
    if as_delta:
        profiles = profiles - profiles[real.cells.code(real.control)]
        profiles = np.delete(profiles, real.cells.code(real.control), axis=0)
    mean: F64 = profiles.mean(axis=0)
    return mean


def mean_baseline(real: RealSide, *, n_cells: Mapping[str, int] | None = None) -> Cells:
    """Predict the mean profile for every perturbation, in cells that are all the same, as cell-eval's baseline does.

    Parameters
    ----------
    real : the real data
    n_cells : perturbation -> number of predicted cells; by default as many as in the real data

    Returns
    -------
    Cells
        Log values: every cell of a perturbation is `mean_profile`; the control cells are the real ones.
        In memory if the real data are.

    Examples
    --------
    >>> from gpubench.metrics.perturbation import perturbed_cells, prepare
    >>> cells = perturbed_cells([[1.5, 0], [0.5, 2], [2.5, 1]], ["control", "KLF1", "control"], ["A", "B"])
    >>> mean_baseline(prepare(cells, control="control", engine="cpu")).x
    array([[1.25, 1.25],
           [1.5 , 0.  ],
           [2.5 , 1.  ]])
    """
    control = real.to_log(real.control_cells).x
    profile = mean_profile(real).astype(control.dtype)
    given = dict(zip(real.cells.names, real.cells.n_cells.tolist(), strict=True))
    sizes = given | dict(n_cells or {}) | {real.control: given[real.control]}

    def values_of(name: str) -> Any:
        return dense(control, control.dtype) if name == real.control else np.tile(profile, (sizes[name], 1))

    return derived(real.cells, sizes, values_of, counts=False)


def dispersed_mean_baseline(real: RealSide, *, seed: int = 0) -> Cells:
    """Predict the mean of all perturbations with the spread of control cells, as cell-eval2's baseline does.

    Control cells are drawn with replacement, and each gene is multiplied by its mean over perturbations divided by its
    mean over control cells. Perturbations have equal weights; a perturbation does not count in the mean of the gene
    that it targets.

    Parameters
    ----------
    real : the real data, which must be counts
    seed : random seed of the draws

    Returns
    -------
    Cells
        Counts, which may be fractional; as many cells of each perturbation as in the real data, and the real control
        cells. In memory if the real data are.

    Examples
    --------
    >>> from gpubench.metrics.perturbation import perturbed_cells, prepare
    >>> cells = perturbed_cells([[2, 1], [4, 3], [2, 1]], ["control", "KLF1", "control"], ["A", "B"])
    >>> dispersed_mean_baseline(prepare(cells, control="control", engine="cpu")).x
    array([[4., 3.],
           [2., 1.],
           [2., 1.]], dtype=float32)
    """
    means = real.raw_means
    control, others = means[real.cells.code(real.control)], means[real.rows(real.perturbations)]
    weights = np.ones_like(others)
    own = real.own_columns()
    weights[np.flatnonzero(own >= 0), own[own >= 0]] = 0
    counted = weights.sum(axis=0)
    wanted = np.where(counted > 0, (weights * others).sum(axis=0) / np.maximum(counted, 1), control)
    ratio = np.divide(wanted, control, out=np.zeros_like(control), where=control > 0)
    cells, draws = real.control_cells.x, _drawn_controls(real, seed)
    sizes = dict(zip(real.cells.names, real.cells.n_cells.tolist(), strict=True))

    def values_of(name: str) -> Any:
        return cells.astype(np.float32) if name == real.control else _times(cells[draws[name]], ratio)

    return derived(real.cells, sizes, values_of, counts=True)


def _times(x: Any, by_gene: F64) -> Any:
    """Multiply each gene (column) by a number; float32."""
    if isinstance(x, np.ndarray):
        return (x * by_gene).astype(np.float32)
    from scipy.sparse import csr_array

    return csr_array(((x.data * by_gene[x.indices]).astype(np.float32), x.indices, x.indptr), shape=x.shape)


def _drawn_controls(real: RealSide, seed: int) -> dict[str, I64]:
    """Draw the numbers of control cells with replacement, as many for each perturbation as it has real cells."""
    n_control, random = real.control_cells.n, np.random.default_rng(seed)
    n_cells = dict(zip(real.cells.names, real.cells.n_cells.tolist(), strict=True))
    return {name: random.integers(0, n_control, n_cells[name]) for name in real.perturbations}

"""How time and memory grow with the size of the data: powers, fitted by least squares to logarithms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.profiling.profile import Run

SHORTEST_S = 0.05
"""Shorter stages are the overhead of calls and what else the machine does: such times say little about growth."""

LEAST_SPAN = 3.0
"""Largest size over smallest: over less, a tenth more or less of a time moves an exponent by more than a tenth."""

SMALLEST_BYTES = 1 << 26
"""The same of memory: less is within what allocators round and threads keep for themselves."""


@dataclass(frozen=True, slots=True)
class Exponent:
    """p in y = c n^p, with its standard error; None where the points are as few as the parameters."""

    value: float
    stderr: float | None


@dataclass(frozen=True, slots=True)
class Growth:
    """Exponents of one stage; None where its sizes do not tell.

    Attributes
    ----------
    seconds_by_cells, seconds_by_dims : of the time
    memory_by_cells, memory_by_dims : of the peak memory beyond what the process held before the cells were made
    """

    seconds_by_cells: Exponent | None
    seconds_by_dims: Exponent | None
    memory_by_cells: Exponent | None
    memory_by_dims: Exponent | None


def fit_growth(runs: Sequence[Run], path: str) -> Growth:
    """Fit the growth of the stage of a path over all runs that have it, as far as these are long or large enough."""
    found = [(run, stage) for run in runs if (stage := run.stage(path)) is not None]
    times = [(run.cells, run.dims, stage.seconds) for run, stage in found]
    beyond = [(run.cells, run.dims, (stage.peak_bytes or 0) - run.base_bytes) for run, stage in found]
    return Growth(*_told(times, SHORTEST_S), *_told(beyond, SMALLEST_BYTES))


def _told(points: Sequence[tuple[int, int, float]], least: float) -> tuple[Exponent | None, Exponent | None]:
    """Exponents of what is at least so large, for sizes that span enough to tell."""
    told = [point for point in points if point[2] >= least]
    by_cells, by_dims = (
        exponent if exponent is not None and max(size) >= LEAST_SPAN * min(size) else None
        for exponent, size in zip(fit_powers(told), list(zip(*told, strict=True))[:2] or ((), ()), strict=True)
    )
    return by_cells, by_dims


def fit_powers(points: Sequence[tuple[int, int, float]]) -> tuple[Exponent | None, Exponent | None]:
    """Exponents p and q of y = c n^p d^q by ordinary least squares of log y on log n and log d.

    Standard errors are those of the linear model, sqrt(s^2 (X^T X)^-1) with s^2 the residual sum of squares over the
    degrees of freedom.

    Parameters
    ----------
    points : (n, d, y), all above 0

    Returns
    -------
    p and q; None for a size that does not vary, and both where n and d vary together only.
    """
    if not points:
        return None, None
    logs = np.log(np.array(points, np.float64))
    varies = np.ptp(logs[:, :2], axis=0) > 0
    sizes = logs[:, :2][:, varies] - logs[:, :2][:, varies].mean(axis=0)
    n_parameters = 1 + sizes.shape[1]
    if np.linalg.matrix_rank(sizes) < sizes.shape[1]:
        return None, None
    fitted = iter(_least_squares(sizes, logs[:, 2], len(points) - n_parameters))
    by_cells, by_dims = (next(fitted) if there else None for there in varies)
    return by_cells, by_dims


def _least_squares(centred: NDArray[np.float64], y: NDArray[np.float64], freedom: int) -> list[Exponent]:
    """Slopes of y on columns of mean 0."""
    slopes = np.linalg.lstsq(centred, y - y.mean())[0]
    if freedom < 1:
        return [Exponent(float(slope), None) for slope in slopes]
    residuals = y - y.mean() - centred @ slopes
    variance = float(residuals @ residuals) / freedom
    errors = np.sqrt(variance * np.diag(np.linalg.inv(centred.T @ centred)))
    return [Exponent(float(slope), float(error)) for slope, error in zip(slopes, errors, strict=True)]

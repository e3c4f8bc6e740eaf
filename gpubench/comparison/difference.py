"""How far a number is from that of the first file, and whether that is more than noise."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from gpubench.core import scores
from gpubench.results.intervals import half_width_of_difference

if TYPE_CHECKING:
    from gpubench.comparison import Drawn
    from gpubench.core.scores import MetricResult

ROUNDING = 1e-6
"""Relative and absolute; processors and engines that add in another order differ by less."""

NO_STANDARD_ERROR = "there is no standard error"


@dataclass(frozen=True, slots=True)
class Difference:
    """How a row differs from that of the first file.

    Attributes
    ----------
    value : its value minus the first one; NaN where either is undefined
    interval : 95% interval of that; None where there is none
    method : how the interval was found: "bootstrap" or "jackknife", from draws of cells, or donors left out, that both
        scores share (see `gpubench.comparison`); or "standard errors", value ± t √(s₁² + s₂²) with the standard errors
        s of both numbers and Student's t by Welch's degrees of freedom, for the scatter of five folds is itself
        uncertain. That is rather too wide than too narrow where scores of the same cells go up and down together
    reason : why there is no interval
    equal : whether they differ by rounding at most
    better : whether it is better than the first; None where they are equal or undefined, or neither end is better
    """

    value: float
    interval: tuple[float, float] | None
    method: Literal["bootstrap", "jackknife", "standard errors"] | None
    reason: str
    equal: bool
    better: bool | None

    @property
    def beyond_noise(self) -> bool | None:
        """Whether 0 is outside the interval; None where there is none."""
        return None if self.interval is None else not self.interval[0] <= 0 <= self.interval[1]

    def is_worse(self, tolerance: float) -> bool:
        """Whether it is worse by more than `tolerance`, and not within noise."""
        return self.better is False and abs(self.value) > tolerance and self.beyond_noise is not False

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {**scores.plain(asdict(self)), "beyond_noise": self.beyond_noise}


def equal(a: float, b: float) -> bool:
    """Whether two values differ by rounding at most."""
    return math.isclose(a, b, rel_tol=ROUNDING, abs_tol=ROUNDING)


def difference(
    first: MetricResult, other: MetricResult, drawn: Drawn | None, *, higher_is_better: bool | None
) -> Difference:
    """Compare two rows.

    Parameters
    ----------
    drawn : what the draws say; None where nothing was drawn. Where it has no interval, standard errors are used,
        unless donors were drawn
    """
    value = other.value - first.value
    same = equal(first.value, other.value)
    decided = higher_is_better is not None and not same and not math.isnan(value)
    better = (value > 0) == higher_is_better if decided else None
    if drawn is not None and drawn.interval is not None:
        return Difference(value, drawn.interval, drawn.method, "", same, better)
    of_donors = drawn is not None and drawn.of_donors
    if not (of_donors or first.stderr is None or other.stderr is None or math.isnan(value)):
        half = half_width_of_difference((first.stderr, first.stderr_df), (other.stderr, other.stderr_df))
        return Difference(value, (value - half, value + half), "standard errors", "", same, better)
    reason = NO_STANDARD_ERROR if drawn is None else drawn.reason
    return Difference(value, None, None, reason, same, better)

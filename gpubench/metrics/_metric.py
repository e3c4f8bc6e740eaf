"""What is known of a metric besides its code, kept beside its code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, Protocol, cast

from gpubench.types import MeanOver, Score

P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One published number.

    Attributes
    ----------
    id : the field's id, as in cz-benchmarks
    title : for tables and reports
    bounds : smallest and largest possible value
    higher_is_better : None where neither end is better
    description : one sentence for reports
    mean_over : how the value follows from `Score.cells`: their mean, or the mean over labels of the means of each
        label's cells
    """

    id: str
    title: str
    bounds: tuple[float, float]
    higher_is_better: bool | None
    description: str
    mean_over: MeanOver = "cells"


class Metric(Protocol[P]):
    """A metric: a plain function that carries its `spec`."""

    spec: MetricSpec
    __name__: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Score:
        """Compute the value."""


def metric(
    id: str,  # noqa: A002 - the field's word
    title: str,
    *,
    bounds: tuple[float, float],
    higher_is_better: bool | None = True,
    mean_over: MeanOver = "cells",
) -> Callable[[Callable[P, Score]], Metric[P]]:
    """Attach a `MetricSpec` to a function; its description is the first line of the docstring."""

    def attach(function: Callable[P, Score]) -> Metric[P]:
        published = cast("Metric[P]", function)
        description = (function.__doc__ or "").strip().splitlines()[0]
        published.spec = MetricSpec(id, title, bounds, higher_is_better, description, mean_over)
        return published

    return attach

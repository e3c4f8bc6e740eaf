"""What is known of a metric besides its code, kept beside its code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from gpubench.types import Score

F = TypeVar("F", bound=Callable[..., Score])


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
    """

    id: str
    title: str
    bounds: tuple[float, float]
    higher_is_better: bool | None
    description: str


class Metric(Protocol):
    """A metric: a plain function that carries its `spec`."""

    spec: MetricSpec
    __name__: str

    def __call__(self, *args: Any, **kwargs: Any) -> Score:
        """Compute the value."""


def metric(
    id: str,  # noqa: A002 - the field's word
    title: str,
    *,
    bounds: tuple[float, float],
    higher_is_better: bool | None = True,
) -> Callable[[F], F]:
    """Attach a `MetricSpec` to a function; its description is the first line of the docstring."""

    def attach(function: F) -> F:
        description = (function.__doc__ or "").strip().splitlines()[0]
        function.spec = MetricSpec(id, title, bounds, higher_is_better, description)  # type: ignore[attr-defined]
        return function

    return attach

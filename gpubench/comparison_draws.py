"""Intervals of a comparison: which rows are drawn together, of cells, or by leaving donors out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gpubench.bootstrap import Drawn, Resampler, draw_differences
from gpubench.bootstrap.donors import find_donors
from gpubench.errors import InputError
from gpubench.seeds import check_seed

if TYPE_CHECKING:
    from gpubench.result import Result
    from gpubench.types import MetricResult

FEWEST_RESAMPLES = 100
"""Fewer do not tell where the ends of a 95% interval are."""


def check_draws(n_resamples: int, seed: int, donor: str | None, obs: Any) -> None:
    """Refuse what cannot be drawn, before anything is read.

    Raises
    ------
    InputError
        A number of resamples or a seed that cannot be used, or flags that contradict each other.
    """
    check_seed(seed)
    if n_resamples != 0 and n_resamples < FEWEST_RESAMPLES:
        raise InputError(f"resamples={n_resamples} cannot be used; give at least {FEWEST_RESAMPLES}, or 0 for none")
    if donor is not None and n_resamples == 0:
        raise InputError(f"donor={donor!r} asks for intervals, and resamples=0 for none; leave one of them out")
    if obs is not None and donor is None:
        raise InputError("obs is where the donors are looked up; name their column with donor, or leave it out")


def draw(
    results: Sequence[Result],
    together: Sequence[Sequence[MetricResult | None]],
    *,
    donor: str | None,
    obs: Any,
    n_resamples: int,
    seed: int,
) -> tuple[list[dict[int, Drawn]], str]:
    """Draw the differences of all rows from those of the first result.

    Parameters
    ----------
    together : for each number its row in every result, or None

    Returns
    -------
    For each number what was drawn, by the place of the result; what the intervals are of.
    """
    drawn: list[dict[int, Drawn]] = [{} for _ in together]
    if n_resamples == 0:
        return drawn, ""
    donors = None if donor is None else find_donors(results, donor, obs)
    resampler = Resampler(
        results[0].cells.n_cells,
        n_resamples=n_resamples,
        seed=seed,
        donors=None if donors is None else donors.codes,
    )
    for place in range(1, len(results)):
        pairs = {
            i: (first, other)
            for i, rows in enumerate(together)
            if _defined(first := rows[0]) and _defined(other := rows[place]) and first is not None and other is not None
        }
        found = draw_differences(results[0].cells, results[place].cells, list(pairs.values()), resampler)
        for i, one in zip(pairs, found, strict=True):
            drawn[i][place] = replace(one, of_donors=donors is not None)
    if not any(one.interval for of_row in drawn for one in of_row.values()):
        return drawn, ""
    if donors is not None:
        return drawn, f"leaving out each of the {donors.n_classes:,} donors of {donor!r} in turn"
    return drawn, f"{n_resamples:,} draws of cells, seed {seed}"


def _defined(row: MetricResult | None) -> bool:
    return row is not None and not math.isnan(row.value)

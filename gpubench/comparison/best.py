"""Which embeddings are best beyond noise: the one rule of `score`, `compare` and the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpubench.comparison.comparison import difference, equal
from gpubench.comparison.paired_intervals import PairedInterval, paired_intervals
from gpubench.comparison.resampling import N_RESAMPLES, SEED, Resampler
from gpubench.metrics.published import published_spec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpubench.core.scores import CellScores, MetricResult

Row = Sequence["MetricResult | None"]


def mark_best(
    rows: Sequence[Row],
    cells: Sequence[CellScores],
    *,
    resampler: Resampler | None,
    known: Mapping[tuple[int, int, int], PairedInterval] | None = None,
) -> list[frozenset[int]]:
    """Return for each row the columns with the best value, if it is better than the next best beyond noise.

    Beyond noise means that the 95% interval of the difference, as in `gpubench.compare`, does not contain 0. Several
    columns are returned if their values are equal. The set of columns is empty if there is no such interval, or if
    neither larger nor smaller values of the metric are better.

    Parameters
    ----------
    rows : scores of one metric in each column, of which there are `len(cells)`; None where a column lacks it
    cells : values of the cells behind the scores of each column
    resampler : resampler of cells or of donors; if None, intervals follow from standard errors only
    known : (row, first column, other column) -> interval that was computed before
    """
    leaders = [_leaders(row) for row in rows]
    known = known or {}
    pairs: dict[tuple[int, int], list[int]] = {}
    for i, found in enumerate(leaders):
        if found and (i, *found[1:]) not in known:
            pairs.setdefault(found[1:], []).append(i)
    intervals = dict(known)
    for (first, other), numbers in pairs.items() if resampler else ():
        scores = [(rows[i][first], rows[i][other]) for i in numbers]
        computed = paired_intervals(cells[first], cells[other], scores, resampler)  # type: ignore[arg-type]
        intervals |= {(i, first, other): one for i, one in zip(numbers, computed, strict=True)}
    return [
        found[0] if found and _beyond_noise(row, found[1], found[2], intervals.get((i, *found[1:]))) else frozenset()
        for i, (row, found) in enumerate(zip(rows, leaders, strict=True))
    ]


def default_resampler(n_cells: int) -> Resampler:
    """Return the resampler of cells that `compare` uses by default."""
    return Resampler(n_cells, n_resamples=N_RESAMPLES, seed=SEED)


def _leaders(row: Row) -> tuple[frozenset[int], int, int] | None:
    """Return the columns with the best value, the first of them, and the column with the next best value, or None."""
    defined = {i: cell.value for i, cell in enumerate(row) if cell is not None and not math.isnan(cell.value)}
    metric = next((cell.metric for cell in row if cell is not None), "")
    spec = published_spec(metric)
    higher_is_better = spec.higher_is_better if spec else None
    if higher_is_better is None or len(defined) < 2:
        return None
    order = sorted(defined, key=lambda i: -defined[i] if higher_is_better else defined[i])
    best = frozenset(i for i in defined if equal(defined[i], defined[order[0]]))
    others = [i for i in order if i not in best]
    return (best, order[0], others[0]) if others else None


def _beyond_noise(row: Row, first: int, other: int, interval: PairedInterval | None) -> bool:
    a, b = row[first], row[other]
    if a is None or b is None:
        return False
    return difference(a, b, interval, higher_is_better=True).beyond_noise is True

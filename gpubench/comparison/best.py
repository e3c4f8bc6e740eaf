"""Which embeddings are best beyond noise: the one rule of `score`, `compare` and the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpubench.comparison.comparison import difference, equal
from gpubench.comparison.paired_intervals import PairedInterval, paired_intervals, paired_over_perturbations
from gpubench.comparison.resampling import N_RESAMPLES, SEED, Resampler
from gpubench.metrics.published import published_spec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpubench.core.scores import CellScores, MetricResult, PerturbationTable

FEW_RESAMPLES = 128
"""Number of resamples that decide most marks."""

UNCLEAR = 0.7, 1.4
"""Distances of an interval's middle from 0, in half widths, between which all resamples are drawn.

The half width of an interval of 128 draws has a standard error of 9%; a mark changes at a distance of 1."""

Row = Sequence["MetricResult | None"]


def mark_best(
    rows: Sequence[Row],
    cells: Sequence[CellScores],
    *,
    resampler: Resampler | None,
    known: Mapping[tuple[int, int, int], PairedInterval] | None = None,
    tables: Sequence[PerturbationTable] = (),
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
    tables : values of the perturbations behind the scores of each column
    """
    leaders = [_leaders(row) for row in rows]
    known = known or {}
    pairs: dict[tuple[int, int], list[int]] = {}
    for i, found in enumerate(leaders):
        if found and (i, *found[1:]) not in known:
            pairs.setdefault(found[1:], []).append(i)
    intervals = dict(known)
    for (first, other), numbers in pairs.items() if resampler else ():
        scores = {i: (rows[i][first], rows[i][other]) for i in numbers}
        over = (tables[first], tables[other]) if tables else None
        computed = _intervals((cells[first], cells[other]), over, scores, resampler)  # type: ignore[arg-type]
        intervals |= {(i, first, other): one for i, one in computed.items()}
    return [
        found[0] if found and _beyond_noise(row, found[1], found[2], intervals.get((i, *found[1:]))) else frozenset()
        for i, (row, found) in enumerate(zip(rows, leaders, strict=True))
    ]


def _intervals(
    cells: tuple[CellScores, CellScores],
    tables: tuple[PerturbationTable, PerturbationTable] | None,
    scores: Mapping[int, tuple[MetricResult, MetricResult]],
    resampler: Resampler,
) -> dict[int, PairedInterval]:
    """Compute the interval of each difference, by few resamples first, and by all where these leave it unclear."""
    found: dict[int, PairedInterval] = {}
    if tables is not None and resampler.donors is None:
        n, seed = resampler.n_resamples, resampler.seed
        over = {i: paired_over_perturbations(tables, pair, n_resamples=n, seed=seed) for i, pair in scores.items()}
        found = {i: one for i, one in over.items() if one is not None}
    left = {i: pair for i, pair in scores.items() if i not in found}
    for n_resamples in (FEW_RESAMPLES, resampler.n_resamples):
        if not left or (resampler.donors is not None and n_resamples == FEW_RESAMPLES):
            continue
        few = Resampler(
            resampler.n_cells,
            n_resamples=min(n_resamples, resampler.n_resamples),
            seed=resampler.seed,
            donors=resampler.donors,
        )
        found |= zip(left, paired_intervals(*cells, list(left.values()), few), strict=True)
        left = {i: pair for i, pair in left.items() if _is_unclear(found[i])}
    return found


def _is_unclear(found: PairedInterval) -> bool:
    """Whether more resamples might move an interval onto 0 or off it, or define one that is undefined in some."""
    if found.interval is None:
        return "undefined" in found.reason
    low, high = found.interval
    return UNCLEAR[0] * (high - low) < abs(low + high) < UNCLEAR[1] * (high - low)


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

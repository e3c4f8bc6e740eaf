"""How far the difference of two scores of the same cells moves when cells are drawn anew, or donors are left out.

Both scores are computed from the same draws, so that what moves both of them is not noise. Clusters,
classifiers and neighbours are those of the runs: what is drawn is which cells are scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from gpubench.comparison.resampled_scores import mean_over_cells, mean_over_labels
from gpubench.comparison.resampling import Resampler, jackknife_interval, percentile_interval
from gpubench.comparison.score_parts import Counts, Values, parts_of
from gpubench.core.scores import pairing_problem

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.comparison.resampled_scores import Codes, Floats
    from gpubench.core.scores import CellScores, MetricResult

ONE_DONOR = "all cells that count are of one donor"
NOT_ITS_CELLS = "the values of its cells do not make it up"

ROUNDING = 1e-4
"""Relative and absolute; what the cells make up may differ from the row by that: they are kept as float32."""

MIN_DEFINED = 0.95
"""Share of the draws in which a number must be defined."""

MAX_CODES = 1 << 40


@dataclass(frozen=True, slots=True)
class Drawn:
    """What drawing says of one number.

    Attributes
    ----------
    interval : 95% interval of it; None where the cells do not tell
    method : "bootstrap", the percentiles of draws; "jackknife" over donors, and where clusters agree with labels
    reason : why there is none
    of_donors : whether donors were drawn, in whose place standard errors over cells or folds cannot stand
    """

    interval: tuple[float, float] | None
    method: Literal["bootstrap", "jackknife"] | None = None
    reason: str = ""
    of_donors: bool = False


def draw_differences(
    first: CellScores, other: CellScores, pairs: Sequence[tuple[MetricResult, MetricResult]], resampler: Resampler
) -> list[Drawn]:
    """Draw the differences of rows, the other less the first; one for each pair.

    Parameters
    ----------
    first, other : what both runs keep of each cell
    pairs : a row of the first and one of the other
    resampler : of that many cells
    """
    apart = pairing_problem(first, other)
    if apart:
        return [Drawn(None, reason=apart)] * len(pairs)
    reasons: dict[int, str] = {}
    values: dict[int, list[Values]] = {}
    counts: dict[int, list[Counts]] = {}
    for i, rows in enumerate(pairs):
        parts = [parts_of(row, cells) for row, cells in zip(rows, (first, other), strict=True)]
        if len(of_values := [part for part in parts if isinstance(part, Values)]) == len(parts):
            values[i] = of_values
        elif len(of_counts := [part for part in parts if isinstance(part, Counts)]) == len(parts):
            counts[i] = of_counts
        else:
            reasons[i] = next((part for part in parts if isinstance(part, str)), NOT_ITS_CELLS)
    label = first.groups.get("label")
    codes = np.zeros(first.n_cells, np.int32) if label is None else label.codes
    drawn = {**_of_values(values, codes, resampler), **_of_all_counts(counts, resampler)}
    return [_interval(rows, drawn[i]) if i in drawn else Drawn(None, reason=reasons[i]) for i, rows in enumerate(pairs)]


@dataclass(frozen=True, slots=True)
class _Replicates:
    """What both scores are by the cells as they are, and their difference in each draw.

    Attributes
    ----------
    points : of the first and the other
    drawn : the other less the first; of a jackknife without each group
    method : how an interval follows from them
    shares : of the scores that each donor makes up, where donors are left out
    """

    points: tuple[float, ...]
    drawn: Floats
    method: Literal["bootstrap", "jackknife"]
    shares: Floats | None = None


def _of_values(
    together: Mapping[int, Sequence[Values]], label: NDArray[np.int32], resampler: Resampler
) -> dict[int, _Replicates]:
    """Means, by their number; all under the same weights."""
    if not together:
        return {}
    table = _Table(resampler.n_cells)
    places = {i: [table.add(part.of_cells) for part in parts] for i, parts in together.items()}
    by_label = any(part.over_labels for parts in together.values() for part in parts)
    strata = label if by_label else np.zeros_like(label)
    drawn: dict[int, list[Floats]] = {i: [] for i in together}
    for sums in resampler.sums(table.stacked(), strata, int(strata.max()) + 1):
        for i, parts in together.items():
            scores = [
                (mean_over_labels if part.over_labels else mean_over_cells)(sums[:, place.value], sums[:, place.weight])
                + place.centre
                for part, place in zip(parts, places[i], strict=True)
            ]
            drawn[i].append(scores[1] - scores[0])
    points = {i: tuple(_point(part, label) for part in parts) for i, parts in together.items()}
    if resampler.donors is None:
        return {i: _Replicates(points[i], np.concatenate(drawn[i]), "bootstrap") for i in together}
    found = {}
    for i, parts in together.items():
        shares = np.mean([_shares(part, label, resampler.donors) for part in parts], axis=0)
        counts = shares > 0  # a donor none of whose cells count is no donor
        found[i] = _Replicates(points[i], np.concatenate(drawn[i])[counts], "jackknife", shares[counts])
    return found


@dataclass(frozen=True, slots=True)
class _Place:
    """Columns of a table that hold values less their centre, and the ones of the cells that have a value."""

    value: int
    weight: int
    centre: float


class _Table:
    """Columns that are summed together: ones, then values around their mean, so that float32 sums keep their digits."""

    def __init__(self, n_cells: int) -> None:
        self._columns = [np.ones(n_cells, np.float32)]

    def add(self, values: NDArray[np.float32]) -> _Place:
        """Add the column of a score, and one of ones where it has a value, unless that is everywhere."""
        defined = ~np.isnan(values)
        centre = float(values[defined].mean(dtype=np.float64)) if defined.any() else 0.0
        weight = 0
        if not defined.all():
            weight = len(self._columns)
            self._columns.append(defined.astype(np.float32))
        self._columns.append(np.where(defined, values - np.float32(centre), 0).astype(np.float32))
        return _Place(len(self._columns) - 1, weight, float(np.float32(centre)))

    def stacked(self) -> NDArray[np.float32]:
        """(n, columns) C-contiguous."""
        return np.stack(self._columns, axis=1)


def _point(part: Values, label: NDArray[np.int32]) -> float:
    """The score that the values make up."""
    defined = ~np.isnan(part.of_cells)
    codes = label[defined] if part.over_labels else np.zeros(int(defined.sum()), np.int32)
    values = part.of_cells[defined].astype(np.float64)
    sums: Floats = np.bincount(codes, values).astype(np.float64)[:, None]
    counts: Floats = np.bincount(codes).astype(np.float64)[:, None]
    return float(mean_over_labels(sums, counts)[0])


def _shares(part: Values, label: NDArray[np.int32], donors: NDArray[np.int32]) -> Floats:
    """What each donor's values weigh in the score; they sum to 1 where there is a value."""
    defined = np.flatnonzero(~np.isnan(part.of_cells))
    strata = label[defined] if part.over_labels else np.zeros(len(defined), np.int32)
    sizes = np.bincount(strata)
    weights = 1 / (sizes[strata] * float(np.count_nonzero(sizes)))
    return np.bincount(donors[defined], weights, int(donors.max()) + 1).astype(np.float64)


def _of_all_counts(together: Mapping[int, Sequence[Counts]], resampler: Resampler) -> dict[int, _Replicates]:
    """Scores of tables, by their number; those of the same table together."""
    of_table: dict[tuple[tuple[str, ...], ...], dict[int, Sequence[Counts]]] = {}
    for i, parts in together.items():
        of_table.setdefault(tuple(part.key for part in parts), {})[i] = parts
    return {i: found for group in of_table.values() for i, found in _of_counts(group, resampler).items()}


def _of_counts(together: Mapping[int, Sequence[Counts]], resampler: Resampler) -> dict[int, _Replicates]:
    some = next(iter(together.values()))
    codes, firsts = _categories([column for part in some for column in part.columns])
    if not len(firsts):
        return {i: _Replicates((np.nan,) * len(some), np.empty(0), "bootstrap") for i in together}
    of_categories = [[column[firsts].astype(np.int64) for column in part.columns] for part in some]
    statistics = {
        i: [part.statistic(columns) for part, columns in zip(parts, of_categories, strict=True)]
        for i, parts in together.items()
    }
    counts = np.bincount(codes[codes >= 0], minlength=len(firsts)).astype(np.float64)[:, None]
    drawn: dict[int, list[Floats]] = {i: [] for i in together}
    leave_out = some[0].smooth or resampler.donors is not None
    shares = None
    if resampler.donors is not None:
        sizes = np.bincount(resampler.donors[codes >= 0])
        shares = sizes[sizes > 0] / sizes.sum()
    for weights in (resampler.tables_without if leave_out else resampler.tables)(codes, len(firsts)):
        for i, (first, other) in statistics.items():
            drawn[i].append(other(weights) - first(weights))
    return {
        i: _Replicates(
            tuple(float(score(counts)[0]) for score in scores),
            np.concatenate(drawn[i]),
            "jackknife" if leave_out else "bootstrap",
            shares,
        )
        for i, scores in statistics.items()
    }


def _categories(columns: Sequence[NDArray[np.int32]]) -> tuple[Codes, NDArray[np.intp]]:
    """Number the combinations of codes that occur; (n,) codes, -1 for cells without one, and a cell of each."""
    counted = np.flatnonzero(np.all([column >= 0 for column in columns], axis=0))
    joint = np.zeros(len(counted), np.int64)
    for column in columns:
        n_codes = int(column.max(initial=0)) + 1
        if len(joint) and (int(joint.max()) + 1) * n_codes > MAX_CODES:
            joint = np.unique(joint, return_inverse=True)[1]
        joint = joint * n_codes + column[counted]
    _, firsts, dense = np.unique(joint, return_index=True, return_inverse=True)
    codes = np.full(len(columns[0]), -1, np.int64)
    codes[counted] = dense
    return codes, counted[firsts]


def _interval(rows: Sequence[MetricResult], replicates: _Replicates) -> Drawn:
    """The interval, once it is sure that cells and rows belong together."""
    for row, point in zip(rows, replicates.points, strict=True):
        if not np.isclose(row.value, point, rtol=ROUNDING, atol=ROUNDING):
            return Drawn(None, reason=NOT_ITS_CELLS)
    drawn = replicates.drawn
    first, other = replicates.points
    defined = drawn[np.isfinite(drawn)]
    if replicates.method == "bootstrap":
        if len(defined) < MIN_DEFINED * len(drawn):
            return Drawn(None, reason=f"it is undefined in {1 - len(defined) / len(drawn):.0%} of the draws")
        return Drawn(percentile_interval(other - first, defined), "bootstrap")
    if len(drawn) < 2:
        return Drawn(None, reason=ONE_DONOR)
    if len(defined) < len(drawn):
        return Drawn(None, reason=f"it is undefined without {len(drawn) - len(defined)} of the {len(drawn)} donors")
    return Drawn(jackknife_interval(other - first, drawn, replicates.shares), "jackknife")

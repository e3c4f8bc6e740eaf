"""How far the difference of two scores of the same cells moves when cells, or donors, are drawn anew.

Both scores are computed from the same draws, so that what moves both of them is not noise. Clusters, classifiers and
neighbours are those of the runs: what is drawn is which cells are scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpubench.bootstrap.parts import Counts, Values, parts_of
from gpubench.bootstrap.resampling import Resampler, percentile_interval
from gpubench.bootstrap.statistics import mean_over_cells, mean_over_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.bootstrap.statistics import Codes, Floats
    from gpubench.cells import CellScores
    from gpubench.types import MetricResult

NO_CELLS = "not both files have a cells.parquet"
OTHER_CELLS = "the files are not of the same cells"
NOT_ITS_CELLS = "the values of its cells do not make it up"

ROUNDING = 1e-4
"""Relative and absolute; what the cells make up may differ from the row by that: they are kept as float32."""

LEAST_DEFINED = 0.95
"""Share of the draws in which a difference must be defined."""

MOST_CODES = 1 << 40


@dataclass(frozen=True, slots=True)
class Drawn:
    """What drawing says of one difference.

    Attributes
    ----------
    interval : 95% percentile interval of the difference; None where the cells do not tell
    reason : why there is none
    of_donors : whether donors were drawn, in whose place standard errors over cells or folds cannot stand
    """

    interval: tuple[float, float] | None
    reason: str = ""
    of_donors: bool = False


def same_cells(first: CellScores, other: CellScores) -> str:
    """Say why two files cannot be paired cell by cell; empty where they can."""
    if not first.columns or not other.columns:
        return NO_CELLS
    if first.n_cells != other.n_cells:
        return OTHER_CELLS
    for role in first.groups.keys() & other.groups.keys():
        a, b = first.groups[role], other.groups[role]
        if a.names != b.names or not np.array_equal(a.codes, b.codes):
            return OTHER_CELLS
    return ""


def bootstrap_differences(
    first: CellScores, other: CellScores, pairs: Sequence[tuple[MetricResult, MetricResult]], resampler: Resampler
) -> list[Drawn]:
    """Draw the differences of rows, the other less the first.

    Parameters
    ----------
    first, other : what both runs keep of each cell
    pairs : a row of the first and one of the other
    resampler : of that many cells

    Returns
    -------
    One for each pair.
    """
    reason = same_cells(first, other)
    if reason:
        return [Drawn(None, reason)] * len(pairs)
    reasons: dict[int, str] = {}
    values: dict[int, tuple[Values, Values]] = {}
    counts: dict[int, tuple[Counts, Counts]] = {}
    for i, rows in enumerate(pairs):
        one, two = parts_of(rows[0], first), parts_of(rows[1], other)
        if isinstance(one, Values) and isinstance(two, Values):
            values[i] = one, two
        elif isinstance(one, Counts) and isinstance(two, Counts):
            counts[i] = one, two
        else:
            reasons[i] = next((part for part in (one, two) if isinstance(part, str)), NOT_ITS_CELLS)
    label = first.groups.get("label")
    codes = np.zeros(first.n_cells, np.int32) if label is None else label.codes
    drawn = {**_of_values(values, codes, resampler), **_of_all_counts(counts, resampler)}
    return [_interval(rows, drawn[i]) if i in drawn else Drawn(None, reasons[i]) for i, rows in enumerate(pairs)]


@dataclass(frozen=True, slots=True)
class _Replicates:
    """What both scores are by the cells as they are, and their difference in each resample."""

    points: tuple[float, float]
    differences: Floats


def _of_values(
    pairs: Mapping[int, tuple[Values, Values]], label: NDArray[np.int32], resampler: Resampler
) -> dict[int, _Replicates]:
    """Means, by the number of the pair; all pairs under the same weights."""
    if not pairs:
        return {}
    table = _Table(resampler.n_cells)
    places = {i: (table.add(one.of_cells), table.add(two.of_cells)) for i, (one, two) in pairs.items()}
    by_label = any(part.over_labels for pair in pairs.values() for part in pair)
    strata = label if by_label else np.zeros_like(label)
    replicates: dict[int, list[Floats]] = {i: [] for i in pairs}
    for sums in resampler.sums(table.stacked(), strata, int(strata.max()) + 1):
        for i, pair in pairs.items():
            one, two = (
                (mean_over_labels if part.over_labels else mean_over_cells)(sums[:, place.value], sums[:, place.weight])
                + place.centre
                for part, place in zip(pair, places[i], strict=True)
            )
            replicates[i].append(two - one)
    return {
        i: _Replicates((_point(pairs[i][0], label), _point(pairs[i][1], label)), np.concatenate(differences))
        for i, differences in replicates.items()
    }


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


def _of_all_counts(pairs: Mapping[int, tuple[Counts, Counts]], resampler: Resampler) -> dict[int, _Replicates]:
    """Scores of tables, by the number of the pair; those of the same table together."""
    of_table: dict[tuple[tuple[str, ...], tuple[str, ...]], dict[int, tuple[Counts, Counts]]] = {}
    for i, pair in pairs.items():
        of_table.setdefault((pair[0].key, pair[1].key), {})[i] = pair
    return {i: found for group in of_table.values() for i, found in _of_counts(group, resampler).items()}


def _of_counts(pairs: Mapping[int, tuple[Counts, Counts]], resampler: Resampler) -> dict[int, _Replicates]:
    some = next(iter(pairs.values()))
    codes, firsts = _categories([column for part in some for column in part.columns])
    if not len(firsts):
        return {i: _Replicates((np.nan, np.nan), np.empty(0)) for i in pairs}
    of_categories = [[column[firsts].astype(np.int64) for column in part.columns] for part in some]
    statistics = {
        i: [part.statistic(columns) for part, columns in zip(pair, of_categories, strict=True)]
        for i, pair in pairs.items()
    }
    counts = np.bincount(codes[codes >= 0], minlength=len(firsts)).astype(np.float64)[:, None]
    differences: dict[int, list[Floats]] = {i: [] for i in pairs}
    for weights in resampler.tables(codes, len(firsts)):
        for i, (one, two) in statistics.items():
            differences[i].append(two(weights) - one(weights))
    return {
        i: _Replicates((float(one(counts)[0]), float(two(counts)[0])), np.concatenate(differences[i]))
        for i, (one, two) in statistics.items()
    }


def _categories(columns: Sequence[NDArray[np.int32]]) -> tuple[Codes, NDArray[np.intp]]:
    """Number the combinations of codes that occur; (n,) codes, -1 for cells without one, and a cell of each."""
    counted = np.flatnonzero(np.all([column >= 0 for column in columns], axis=0))
    joint = np.zeros(len(counted), np.int64)
    for column in columns:
        n_codes = int(column.max(initial=0)) + 1
        if len(joint) and (int(joint.max()) + 1) * n_codes > MOST_CODES:
            joint = np.unique(joint, return_inverse=True)[1]
        joint = joint * n_codes + column[counted]
    _, firsts, dense = np.unique(joint, return_index=True, return_inverse=True)
    codes = np.full(len(columns[0]), -1, np.int64)
    codes[counted] = dense
    return codes, counted[firsts]


def _interval(rows: tuple[MetricResult, MetricResult], replicates: _Replicates) -> Drawn:
    """The interval, once it is sure that cells and rows belong together."""
    for row, point in zip(rows, replicates.points, strict=True):
        if not np.isclose(row.value, point, rtol=ROUNDING, atol=ROUNDING):
            return Drawn(None, NOT_ITS_CELLS)
    differences = replicates.differences
    defined = differences[np.isfinite(differences)]
    if len(defined) < LEAST_DEFINED * len(differences):
        return Drawn(None, f"it is undefined in {1 - len(defined) / len(differences):.0%} of the draws")
    return Drawn(percentile_interval(defined))

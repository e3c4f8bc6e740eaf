"""Intervals of the differences of two results, with cells resampled, or donors left out, in the same way for both.

Variation that both scores share is therefore not counted as noise. Clusters, classifiers and neighbours are those of
the runs; only the set of scored cells varies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from gpubench.comparison.resampling import Resampler, jackknife_interval, percentile_interval
from gpubench.comparison.score_parts import CountScore, MeanScore, mean_over_cells, mean_over_labels, score_parts
from gpubench.core.scores import pairing_problem
from gpubench.tasks.perturbation_prediction import ID as PERTURBATION_PREDICTION

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.comparison.score_parts import Codes, Floats
    from gpubench.core.scores import CellScores, MetricResult, PerturbationTable

ONE_DONOR = "all cells that count are of one donor"
NOT_ITS_CELLS = "the values of its cells do not make it up"

ROUNDING = 1e-4
"""Relative and absolute difference allowed between a row and the score of its cells, which are stored as float32."""

MIN_DEFINED = 0.95
"""Share of the resamples in which a difference must be defined."""

MAX_CODES = 1 << 40

Method: TypeAlias = Literal["bootstrap", "jackknife"]


@dataclass(frozen=True, slots=True)
class PairedInterval:
    """95% interval of the difference of two scores."""

    interval: tuple[float, float] | None  # 95% interval; None where the cells do not determine it
    # "bootstrap" for percentiles of resamples; "jackknife" over donors, and where clusters agree with labels
    method: Method | None = None
    reason: str = ""  # why there is no interval
    # whether donors were left out; standard errors over cells or folds cannot replace such an interval
    by_donor: bool = False


def paired_intervals(
    first: CellScores, other: CellScores, pairs: Sequence[tuple[MetricResult, MetricResult]], resampler: Resampler
) -> list[PairedInterval]:
    """Compute the interval of the difference of each pair of rows, row of the other run minus row of the first run."""
    by_donor = resampler.donors is not None
    problem = pairing_problem(first, other)
    if problem:
        return [PairedInterval(None, reason=problem, by_donor=by_donor)] * len(pairs)
    reasons: dict[int, str] = {}
    means: dict[int, list[MeanScore]] = {}
    counts: dict[int, list[CountScore]] = {}
    for i, rows in enumerate(pairs):
        parts = [score_parts(row, cells) for row, cells in zip(rows, (first, other), strict=True)]
        if len(mean_scores := [part for part in parts if isinstance(part, MeanScore)]) == 2:
            means[i] = mean_scores
        elif len(count_scores := [part for part in parts if isinstance(part, CountScore)]) == 2:
            counts[i] = count_scores
        else:
            reasons[i] = next((part for part in parts if isinstance(part, str)), NOT_ITS_CELLS)
    label = first.groups.get("label")
    codes = np.zeros(first.n_cells, np.int32) if label is None else label.codes
    replicates = {**_replicate_means(means, codes, resampler), **_replicate_counts(counts, resampler)}
    return [
        PairedInterval(*(_interval(rows, replicates[i]) if i in replicates else (None, None, reasons[i])), by_donor)
        for i, rows in enumerate(pairs)
    ]


def paired_over_perturbations(
    tables: tuple[PerturbationTable, PerturbationTable],
    rows: tuple[MetricResult, MetricResult],
    *,
    n_resamples: int,
    seed: int,
) -> PairedInterval | None:
    """Compute the interval of the difference of two means over perturbations, drawn with replacement for both at once.

    Perturbations without a value in both are left out. Returns None for rows of other tasks.
    """
    values = [
        table.values_of(row.embedding, row.metric, str(row.params.get("context", "")))
        for table, row in zip(tables, rows, strict=True)
    ]
    if rows[0].task != PERTURBATION_PREDICTION:
        return None
    if not all(values):
        return PairedInterval(None, reason="it is no mean over perturbations")
    if values[0].keys() != values[1].keys():
        return PairedInterval(None, reason="the files are not of the same perturbations")
    differences = np.array([values[1][name] - values[0][name] for name in values[0]])
    differences = differences[~np.isnan(differences)]
    if len(differences) < 2 or np.ptp(differences) == 0:
        return PairedInterval(None, reason="it is one value for all perturbations")
    drawn = np.random.default_rng(seed).integers(0, len(differences), (n_resamples, len(differences)))
    ends = percentile_interval(float(differences.mean()), differences[drawn].mean(axis=1))
    return PairedInterval(ends, "bootstrap")


@dataclass(frozen=True, slots=True)
class _Replicates:
    """Scores of both runs, and their difference in each resample."""

    scores: tuple[float, ...]  # of the first and the other run, over all cells
    differences: Floats  # other minus first in each resample; of a jackknife without each group
    method: Method  # how an interval is computed from them
    shares: Floats | None = None  # of the score that each donor makes up, where donors are left out


def _interval(
    rows: Sequence[MetricResult], replicates: _Replicates
) -> tuple[tuple[float, float] | None, Method | None, str]:
    """Return interval, method and reason; there is no interval if the cells do not reproduce the rows' values."""
    for row, score in zip(rows, replicates.scores, strict=True):
        if not np.isclose(row.value, score, rtol=ROUNDING, atol=ROUNDING):
            return None, None, NOT_ITS_CELLS
    value = replicates.scores[1] - replicates.scores[0]
    differences = replicates.differences
    defined = differences[np.isfinite(differences)]
    n, n_undefined = len(differences), len(differences) - len(defined)
    if replicates.method == "bootstrap":
        if len(defined) < MIN_DEFINED * n:
            return None, None, f"it is undefined in {n_undefined / n:.0%} of the draws"
        return percentile_interval(value, defined), "bootstrap", ""
    if n < 2:
        return None, None, ONE_DONOR
    if n_undefined:
        return None, None, f"it is undefined without {n_undefined} of the {n} donors"
    return jackknife_interval(value, differences, replicates.shares), "jackknife", ""


def _replicate_means(
    pairs: Mapping[int, Sequence[MeanScore]], label: NDArray[np.int32], resampler: Resampler
) -> dict[int, _Replicates]:
    """Compute replicates of scores that are means of values of cells, all with the same weights of cells."""
    if not pairs:
        return {}
    table = _ColumnTable(resampler.n_cells)
    columns = {i: [table.add(part) for part in parts] for i, parts in pairs.items()}
    by_label = any(part.over_labels for parts in pairs.values() for part in parts)
    strata = label if by_label else np.zeros_like(label)
    differences: dict[int, list[Floats]] = {i: [] for i in pairs}
    for sums in resampler.sums(np.stack(table.columns, axis=1), strata, int(strata.max()) + 1):
        for i, (first, other) in columns.items():
            differences[i].append(other(sums) - first(sums))
    replicates = {}
    for i, parts in pairs.items():
        scores = tuple(_score(part, label) for part in parts)
        drawn = np.concatenate(differences[i])
        if resampler.donors is None:
            replicates[i] = _Replicates(scores, drawn, "bootstrap")
        else:
            shares = np.mean([_donor_shares(part, label, resampler.donors) for part in parts], axis=0)
            counts = shares > 0  # a donor without cells that count does not count
            replicates[i] = _Replicates(scores, drawn[counts], "jackknife", shares[counts])
    return replicates


class _ColumnTable:
    """Columns to sum over cells: ones, then values minus their mean, so that float32 sums keep their digits."""

    def __init__(self, n_cells: int) -> None:
        self.columns = [np.ones(n_cells, np.float32)]

    def add(self, part: MeanScore) -> Callable[[Floats], Floats]:
        """Add the values of a score; return a function that computes its (r,) values from (strata, columns, r) sums."""
        defined = ~np.isnan(part.values)
        centre = np.float32(part.values[defined].mean(dtype=np.float64) if defined.any() else 0.0)
        weight = 0
        if not defined.all():
            weight = len(self.columns)
            self.columns.append(defined.astype(np.float32))
        value = len(self.columns)
        self.columns.append(np.where(defined, part.values - centre, 0).astype(np.float32))
        mean = mean_over_labels if part.over_labels else mean_over_cells
        return lambda sums: mean(sums[:, value], sums[:, weight]) + float(centre)


def _score(part: MeanScore, label: NDArray[np.int32]) -> float:
    """Compute a score from all cells, without resampling."""
    defined = ~np.isnan(part.values)
    codes = label[defined] if part.over_labels else np.zeros(int(defined.sum()), np.int32)
    values = part.values[defined].astype(np.float64)
    sums: Floats = np.bincount(codes, values).astype(np.float64)[:, None]
    counts: Floats = np.bincount(codes).astype(np.float64)[:, None]
    return float(mean_over_labels(sums, counts)[0])


def _donor_shares(part: MeanScore, label: NDArray[np.int32], donors: NDArray[np.int32]) -> Floats:
    """Compute the total weight of each donor's values in the score; the weights sum to 1 if there is any value."""
    defined = np.flatnonzero(~np.isnan(part.values))
    strata = label[defined] if part.over_labels else np.zeros(len(defined), np.int32)
    sizes = np.bincount(strata)
    weights = 1 / (sizes[strata] * float(np.count_nonzero(sizes)))
    return np.bincount(donors[defined], weights, int(donors.max()) + 1).astype(np.float64)


def _replicate_counts(pairs: Mapping[int, Sequence[CountScore]], resampler: Resampler) -> dict[int, _Replicates]:
    """Compute replicates of scores that depend on counts only; pairs with the same columns share one table."""
    groups: dict[tuple[tuple[str, ...], ...], dict[int, Sequence[CountScore]]] = {}
    for i, parts in pairs.items():
        groups.setdefault(tuple(part.key for part in parts), {})[i] = parts
    return {i: found for group in groups.values() for i, found in _replicate_table(group, resampler).items()}


def _replicate_table(pairs: Mapping[int, Sequence[CountScore]], resampler: Resampler) -> dict[int, _Replicates]:
    """Compute replicates of the scores that follow from one table of counts."""
    some = next(iter(pairs.values()))
    codes, firsts = _categories([column for part in some for column in part.columns])
    if not len(firsts):
        return {i: _Replicates((np.nan,) * len(some), np.empty(0), "bootstrap") for i in pairs}
    columns = [[column[firsts].astype(np.int64) for column in part.columns] for part in some]
    statistics = {
        i: [part.statistic(own) for part, own in zip(parts, columns, strict=True)] for i, parts in pairs.items()
    }
    leave_out = some[0].smooth or resampler.donors is not None
    differences: dict[int, list[Floats]] = {i: [] for i in pairs}
    for weights in (resampler.tables_without if leave_out else resampler.tables)(codes, len(firsts)):
        for i, (first, other) in statistics.items():
            differences[i].append(other(weights) - first(weights))
    shares = None
    if resampler.donors is not None:
        sizes = np.bincount(resampler.donors[codes >= 0])
        shares = sizes[sizes > 0] / sizes.sum()
    counts = np.bincount(codes[codes >= 0], minlength=len(firsts)).astype(np.float64)[:, None]
    return {
        i: _Replicates(
            tuple(float(score(counts)[0]) for score in scores),
            np.concatenate(differences[i]),
            "jackknife" if leave_out else "bootstrap",
            shares,
        )
        for i, scores in statistics.items()
    }


def _categories(columns: Sequence[NDArray[np.int32]]) -> tuple[Codes, NDArray[np.intp]]:
    """Return the number of each cell's combination of codes (-1 if a code is missing), and a cell of each one."""
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

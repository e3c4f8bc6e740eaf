"""Compared results: values and differences row by row, what is worse, and the table of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from gpubench.comparison.paired_intervals import PairedInterval
from gpubench.core import scores
from gpubench.core.errors import InputError
from gpubench.core.scores import MetricResult
from gpubench.metrics import METRICS
from gpubench.results.statistics import half_width, half_width_of_difference
from gpubench.results.table import Lines, TextTable, format_value, printable, telling_params, to_text

SCHEMA = 1
"""Version of the layout of `Comparison.to_dict`."""

LEGEND = (
    "* best value. ± is half of a 95% interval by Student's t, of a difference from the standard errors of both.",
    "A difference is beyond noise where its interval does not contain 0; without an interval this is not known.",
)


ROUNDING = 1e-6
"""Relative and absolute difference that counts as equal; adding in another order changes less."""

NO_STANDARD_ERROR = "there is no standard error"


@dataclass(frozen=True, slots=True)
class Difference:
    """Difference of a row from that of the first file.

    Attributes
    ----------
    value : its value minus the first one; NaN where either is undefined
    interval : its 95% interval; None where there is none
    method : "bootstrap" or "jackknife", with cells resampled or donors left out in the same way for both scores (see
        `gpubench.comparison.paired_intervals`); or "standard errors", value ± t √(s₁² + s₂²) with the standard errors
        s of both and Student's t with Welch's degrees of freedom, because the scatter of five folds is itself
        uncertain. It is too wide rather than too narrow where scores of the same cells vary together
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
    first: MetricResult, other: MetricResult, paired: PairedInterval | None, *, higher_is_better: bool | None
) -> Difference:
    """Compare two rows.

    Without an interval by resampling (`paired`) standard errors are used, unless donors were left out.
    """
    value = other.value - first.value
    same = equal(first.value, other.value)
    decided = higher_is_better is not None and not same and not math.isnan(value)
    better = (value > 0) == higher_is_better if decided else None
    if paired is not None and paired.interval is not None:
        return Difference(value, paired.interval, paired.method, "", same, better)
    by_donor = paired is not None and paired.by_donor
    if not (by_donor or first.stderr is None or other.stderr is None or math.isnan(value)):
        half = half_width_of_difference((first.stderr, first.stderr_df), (other.stderr, other.stderr_df))
        return Difference(value, (value - half, value + half), "standard errors", "", same, better)
    reason = NO_STANDARD_ERROR if paired is None else paired.reason
    return Difference(value, None, None, reason, same, better)


@dataclass(frozen=True, slots=True)
class ComparedRow:
    """One score in every file.

    Attributes
    ----------
    embedding : its name, or the names in the order of the files where each file has one of its own
    task, metric, params : those on which the rows agree, with the requested parameters only
    higher_is_better : None where neither end is better, or it is not known, as for a scorer of the user's
    results : a row of each file, or None
    intervals : file number -> interval of the difference from the first, where cells or donors were resampled
    differences : of each file from the first; None for the first and where either row is missing
    """

    embedding: str
    task: str
    metric: str
    params: Mapping[str, Any]
    higher_is_better: bool | None
    results: tuple[MetricResult | None, ...]
    intervals: Mapping[int, PairedInterval] = field(default_factory=dict, repr=False)
    differences: tuple[Difference | None, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Compute the differences from the first row."""
        first, *others = self.results
        differences = [
            None
            if first is None or other is None
            else difference(first, other, self.intervals.get(i), higher_is_better=self.higher_is_better)
            for i, other in enumerate(others, 1)
        ]
        object.__setattr__(self, "differences", (None, *differences))

    def best(self) -> frozenset[int]:
        """Return the files with the best value; none where all are equal, or neither end is better."""
        defined = {i: row.value for i, row in enumerate(self.results) if row and not math.isnan(row.value)}
        if self.higher_is_better is None or len(defined) < 2:
            return frozenset()
        best = max(defined.values()) if self.higher_is_better else min(defined.values())
        files = frozenset(i for i, value in defined.items() if equal(value, best))
        return frozenset() if len(files) == len(defined) else files

    def __str__(self) -> str:
        name = ", ".join([self.metric, *(f"{key}={value}" for key, value in self.params.items())])
        return f"{name} ({self.embedding}, {self.task})"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Compared results, as `compare` returns them; prints as a table.

    Attributes
    ----------
    names : of the files in the given order; for one file those of its embeddings
    rows : each score once, in the order in which it first appears
    warnings : reasons why the files may not be comparable
    draws : what resampled intervals are based on; empty where there are none
    """

    names: tuple[str, ...]
    rows: tuple[ComparedRow, ...]
    warnings: tuple[str, ...]
    draws: str = ""

    def worse(self, tolerance: float = 0.0) -> list[str]:
        """Return a line for each row that is worse than in the first file.

        A row is worse if it is worse by more than `tolerance`, and beyond noise: 0 is outside the interval of the
        difference. Without an interval the tolerance alone decides. A row that is defined in the first file and
        undefined or missing in another is worse as well.

        Raises
        ------
        InputError
            If the tolerance is below 0 or not finite.
        """
        if not 0 <= tolerance < math.inf:
            raise InputError(f"tolerance={tolerance} cannot be used; give a number of at least 0", argument="tolerance")
        lines = []
        for row in self.rows:
            first, *others = row.results
            if first is None or math.isnan(first.value):
                continue
            for name, result, found in zip(self.names[1:], others, row.differences[1:], strict=True):
                if result is None or math.isnan(result.value):
                    lines.append(f"{name}: {row} is {'missing' if result is None else 'undefined'}")
                elif found and found.is_worse(tolerance):
                    lines.append(f"{name}: {row} is worse by {abs(found.value):.4g}")
        return lines

    def below(self, least: Mapping[str, float]) -> list[str]:
        """Return a line for each value of the files after the first that is below its bound.

        Parameters
        ----------
        least : metric -> lower bound of every row of the metric; undefined rows fail, and so does a file without the
            metric

        Raises
        ------
        InputError
            If a metric does not exist.
        """
        from gpubench.core.errors import close_matches

        known = dict.fromkeys([*(row.metric for row in self.rows), *METRICS])
        lines = []
        for metric, bound in least.items():
            if metric not in known:
                raise InputError(f"metric {metric!r} is unknown{close_matches(metric, known)}; use one that exists")
            chosen = [row for row in self.rows if row.metric == metric]
            for i, name in enumerate(self.names[1:], 1):
                found = [(row, result) for row in chosen if (result := row.results[i]) is not None]
                if not found:
                    lines.append(f"{name}: {metric} is missing")
                for row, result in found:
                    if math.isnan(result.value):
                        lines.append(f"{name}: {row} is undefined")
                    elif result.value < bound:
                        lines.append(f"{name}: {row} is {result.value:.4g}, below {bound:g}")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values; undefined and missing values are None."""
        return {
            "schema": SCHEMA,
            "files": list(self.names),
            "warnings": list(self.warnings),
            "draws": self.draws,
            "rows": [
                {
                    "embedding": row.embedding,
                    "task": row.task,
                    "metric": row.metric,
                    "params": scores.plain(row.params),
                    "higher_is_better": row.higher_is_better,
                    "best": sorted(row.best()),
                    "results": [None if result is None else scores.to_dict(result) for result in row.results],
                    "differences": [None if found is None else found.to_dict() for found in row.differences],
                }
                for row in self.rows
            ],
        }

    def blocks(self) -> Iterator[TextTable | Lines]:
        """Lay the comparison out: the files, a table for each embedding and task, the legend, warnings."""
        yield Lines([f"[{i}] {printable(name)}" for i, name in enumerate(self.names, 1)])
        groups: dict[str, list[ComparedRow]] = {}
        for row in self.rows:
            groups.setdefault(printable(f"{row.embedding}: {row.task}"), []).append(row)
        for title, rows in groups.items():
            yield _table(title, rows, len(self.names))
        yield Lines([*LEGEND, *_interval_legend(self)], style="dim")
        yield Lines([f"Warning: {printable(line)}" for line in self.warnings], style="bold yellow")

    def __str__(self) -> str:
        return to_text(self.blocks())

    __repr__ = __str__


def _interval_legend(comparison: Comparison) -> list[str]:
    methods = {found.method for row in comparison.rows for found in row.differences if found is not None}
    by_donor = any(one.by_donor for row in comparison.rows for one in row.intervals.values())
    what = comparison.draws if by_donor else "for the agreement of clusters with labels"
    texts = {
        "bootstrap": f"[low, high]: 95% interval of the difference by a paired bootstrap, {comparison.draws}.",
        "jackknife": f"(low, high): 95% interval by a paired jackknife, {what}.",
    }
    return [printable(text) for method, text in texts.items() if method in methods]


def _table(title: str, rows: list[ComparedRow], n_files: int) -> TextTable:
    names = [(f"[{i}] - [1]", "") for i in range(2, n_files + 1)]
    header = ("metric", *(f"[{i}]" for i in range(1, n_files + 1)), *(cell for pair in names for cell in pair))
    cells: list[tuple[str, ...]] = []
    styles: dict[tuple[int, int], str] = {}
    for row in rows:
        best = row.best()
        values = [_value(result) + (" *" if i in best else "") for i, result in enumerate(row.results)]
        differences = [
            cell for i in range(1, n_files) for cell in _difference(row.results[0], row.results[i], row.differences[i])
        ]
        styles |= {(len(cells), i + 1): "bold green" for i in best}
        cells.append((_name(row, rows), *values, *differences))
    return TextTable(title, header, tuple(cells), styles=styles)


def _name(row: ComparedRow, rows: list[ComparedRow]) -> str:
    alike = [next(filter(None, other.results)) for other in rows if other.metric == row.metric]
    params = [f"{key}={row.params[key]}" for key in telling_params(alike) if key in row.params]
    return printable(" ".join([row.metric, *params]))


def _value(row: MetricResult | None) -> str:
    if row is None:
        return "-"
    half = "" if row.stderr is None or math.isnan(row.value) else f" ± {half_width(row.stderr, row.stderr_df):.2g}"
    return f"{'~' if row.approximate else ''}{format_value(row.value)}{half}"


def _difference(first: MetricResult | None, other: MetricResult | None, found: Difference | None) -> tuple[str, str]:
    """Return the difference with its interval, and the verdict."""
    if found is None:
        return "", "in neither" if first is other else "only in [1]" if other is None else "not in [1]"
    if math.isnan(found.value):
        return "", "undefined"
    return f"{found.value:+z.4f}{_interval(found)}", _verdict(found)


def _interval(difference: Difference) -> str:
    if difference.interval is None:
        return ""
    low, high = difference.interval
    if difference.method == "standard errors":
        return f" ± {(high - low) / 2:.2g}"
    return f" [{low:+z.4f}, {high:+z.4f}]" if difference.method == "bootstrap" else f" ({low:+z.4f}, {high:+z.4f})"


def _verdict(difference: Difference) -> str:
    if difference.equal:
        return "equal"
    if difference.beyond_noise is False:
        return "within noise"
    word = {True: "better", False: "worse", None: "differs; neither end is known to be better"}[difference.better]
    return f"{word}, beyond noise" if difference.beyond_noise else f"{word}; no interval: {difference.reason}"

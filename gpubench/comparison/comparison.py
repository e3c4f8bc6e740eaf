"""Compared results: values and differences of each row, the rows that are worse, and the printed table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import takewhile
from pathlib import PurePath
from typing import Any, Literal

from gpubench.comparison.paired_intervals import PairedInterval
from gpubench.core import scores
from gpubench.core.errors import InputError
from gpubench.core.scores import MetricResult, names_mean
from gpubench.metrics import METRICS
from gpubench.results import notebook
from gpubench.results.score_table import SummaryRow, side_by_side
from gpubench.results.statistics import half_width_of_difference
from gpubench.results.table import Lines, TextTable, format_value, mean_text, printable, telling_params, to_text

_WIDTH = 100

SCHEMA = 1
"""Version of the layout of `Comparison.to_dict`."""

LEGEND = (
    "+ better, - worse than {first}, beyond noise: the 95% interval of the difference excludes 0. = equal, or within"
    " noise. ? without an interval this cannot be judged."
)
NOTEBOOK_LEGEND = (
    "Below each score: its difference from {first}, and the 95% interval. Better and worse are beyond noise: the"
    " interval excludes 0."
)
BEST = "* best, and beyond noise better than the next best."

MAX_DETAILED = 3
"""Largest number of files whose differences are listed one by one by default."""

ROUNDING = 1e-6
"""Relative and absolute difference up to which values are equal; a different order of summation changes less."""

NO_STANDARD_ERROR = "there is no standard error"


@dataclass(frozen=True, slots=True)
class Difference:
    """Difference between a row and the matching row of the first file.

    Attributes
    ----------
    value : value of the row minus that of the first file; NaN if either is undefined
    interval : 95% interval of the difference, or None
    method : "bootstrap" or "jackknife", with cells resampled or donors left out in the same way for both scores (see
        `gpubench.comparison.paired_intervals`); or "standard errors", value ± t √(s₁² + s₂²) with the standard errors
        s of both and Student's t with Welch's degrees of freedom, because the standard error of five folds is itself
        uncertain. This interval is too wide rather than too narrow if scores of the same cells are correlated
    reason : reason why there is no interval, or empty
    equal : whether the two values differ by rounding at most
    better : whether the row is better than that of the first file; None if they are equal or undefined, or if neither
        larger nor smaller values are better
    """

    value: float
    interval: tuple[float, float] | None
    method: Literal["bootstrap", "jackknife", "standard errors"] | None
    reason: str
    equal: bool
    better: bool | None

    @property
    def beyond_noise(self) -> bool | None:
        """Whether 0 is outside the interval; None if there is no interval."""
        return None if self.interval is None else not self.interval[0] <= 0 <= self.interval[1]

    def is_worse(self, tolerance: float) -> bool:
        """Return whether the row is worse by more than `tolerance`, and not within noise."""
        return self.better is False and abs(self.value) > tolerance and self.beyond_noise is not False

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {**scores.plain(asdict(self)), "beyond_noise": self.beyond_noise}


def equal(a: float, b: float) -> bool:
    """Return whether two values differ by rounding at most."""
    return math.isclose(a, b, rel_tol=ROUNDING, abs_tol=ROUNDING)


def difference(
    first: MetricResult, other: MetricResult, paired: PairedInterval | None, *, higher_is_better: bool | None
) -> Difference:
    """Return the difference of a row from that of the first file.

    The interval is that of `paired`, by resampling. If there is none, it is computed from the standard errors of both
    rows, unless donors were left out.
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
    """One score in all compared files.

    Attributes
    ----------
    embedding : name of the embedding, or its names in the order of the files if they differ
    task, metric, params : task, metric and requested parameters of the rows
    higher_is_better : whether larger values are better; None if neither end is, or if that is not known, as for a
        user's scorer
    results : row of each file, or None if the file lacks it
    intervals : number of the file -> interval of its difference from the first file, by resampling
    best : numbers of the files with the best value; empty if it is not better than the next best beyond noise
    differences : difference of each file from the first; None for the first file and if either row is missing
    """

    embedding: str
    task: str
    metric: str
    params: Mapping[str, Any]
    higher_is_better: bool | None
    results: tuple[MetricResult | None, ...]
    intervals: Mapping[int, PairedInterval] = field(default_factory=dict, repr=False)
    best: frozenset[int] = frozenset()
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

    def stands_for_its_metric(self, rows: Sequence[ComparedRow]) -> bool:
        """Return whether the row is a mean, or `rows` hold no mean of its embedding, task and metric."""
        own = [row for row in rows if (row.embedding, row.task, row.metric) == (self.embedding, self.task, self.metric)]
        return _is_mean(self) or not any(map(_is_mean, own))

    def __str__(self) -> str:
        name = ", ".join([self.metric, *(f"{key}={value}" for key, value in self.params.items())])
        return f"{name} ({self.embedding}, {self.task})"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Compared results, as `compare` returns them; prints as a table.

    Attributes
    ----------
    names : names of the files in the given order; for a single file, those of its embeddings
    rows : each score once, in the order in which it first appears
    warnings : reasons why the files may not be comparable
    draws : description of the draws behind resampled intervals; empty if there are none
    """

    names: tuple[str, ...]
    rows: tuple[ComparedRow, ...]
    warnings: tuple[str, ...]
    draws: str = ""

    def worse(self, tolerance: float = 0.0) -> list[str]:
        """Return a line for each row that is worse than in the first file.

        A row counts as worse if its value is worse by more than `tolerance`, and 0 is outside the interval of the
        difference. If there is no interval, only the tolerance decides. A row that is defined in the first file and
        undefined or missing in another counts as worse, too.

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
        """Return a line of text for each value that is below its lower bound.

        The first file, which the others are compared with, is not checked. In the others, values that are undefined
        (NaN) and files without the metric get a line as well.

        Parameters
        ----------
        least : lower bound of each metric to check, by the metric's name

        Raises
        ------
        InputError
            If a name is no metric of gpubench or of the files.
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
                    "best": sorted(row.best),
                    "results": [None if result is None else scores.to_dict(result) for result in row.results],
                    "differences": [None if found is None else found.to_dict() for found in row.differences],
                }
                for row in self.rows
            ],
        }

    def scores(self) -> list[MetricResult]:
        """Return all scores, with the name of the embedding replaced by that of the file."""
        return [
            replace(result, embedding=name)
            for row in self.rows
            for name, result in zip(self.names, row.results, strict=True)
            if result is not None
        ]

    def blocks(self, width: int | None = None, *, details: bool | None = None) -> Iterator[TextTable | Lines]:
        """Yield the blocks of the printed comparison: warnings, all values side by side, then the differences.

        `width` is the number of characters in a line. If `details`, the differences of all rows and files are listed
        with their intervals; if None, only those of rows without a mean in their place, and only for few files.
        """
        yield Lines([f"Warning: {printable(line)}" for line in self.warnings], style="bold yellow")
        names = _short_names(self.names)
        if names != list(self.names):
            yield Lines(
                [f"{name}: {printable(full)}" for name, full in zip(names, self.names, strict=True)], wrap=False
            )
        rows = [row for row in self.rows if details or row.stands_for_its_metric(self.rows)]
        hidden = len(self.rows) - len(rows)
        lines = [LEGEND.format(first=names[0])]
        lines += [BEST] if any(row.best for row in rows) else []
        lines += [f"{hidden:,} more rows, such as those of each classifier: add -v"] if hidden else []
        texts = [_texts(row) for row in rows]
        yield from side_by_side(names, [_summary_row(row, self.rows) for row in rows], texts, width=width, lines=lines)
        if details or (details is None and len(names) <= MAX_DETAILED):
            for i, name in enumerate(names[1:], 1):
                yield _details(f"{name} - {names[0]}", rows, i, self.rows)
            yield Lines(_interval_legend(self), style="dim")

    def __str__(self) -> str:
        return to_text(self.blocks(_WIDTH), _WIDTH)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = [row for row in self.rows if row.stands_for_its_metric(self.rows)]
        names = _short_names(self.names)
        cells = [
            [_notebook_cell(result, found) for result, found in zip(row.results, row.differences, strict=True)]
            for row in rows
        ]
        long = [f"{short}: {printable(full)}" for short, full in zip(names, self.names, strict=True) if short != full]
        return notebook.block_html(
            notebook.lines_html([f"Warning: {line}" for line in self.warnings]),
            notebook.table_html(names, [_summary_row(row, self.rows) for row in rows], cells),
            notebook.lines_html([NOTEBOOK_LEGEND.format(first=names[0]), *_interval_legend(self), *long]),
        )


def _is_mean(row: ComparedRow) -> bool:
    return any(names_mean(value) for value in row.params.values())


def _short_names(names: Sequence[str]) -> list[str]:
    """Shorten the names of files to the parts of the paths that differ."""
    paths = [PurePath(name).parts for name in names]
    if len({path[-1] for path in paths}) == 1 and len(names) > 1:
        paths = [path[:-1] for path in paths]
    common = list(takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False)))
    short = ["/".join(path[len(common) :]) or str(name) for path, name in zip(paths, names, strict=True)]
    return short if len(set(short)) == len(names) else [f"[{i}]" for i in range(1, len(names) + 1)]


def _summary_row(row: ComparedRow, rows: Sequence[ComparedRow]) -> SummaryRow:
    alike = [other for other in rows if (other.task, other.metric) == (row.task, row.metric)]
    telling = telling_params([next(filter(None, other.results)) for other in alike])
    values = [str(row.params[key]) for key in telling if key in row.params]
    is_headline = row.stands_for_its_metric(rows) and all(map(names_mean, values))
    means = [mean_text(value) for value in values if value.startswith("MEAN(")]
    by_embedding = len({other.embedding for other in rows}) > 1
    return SummaryRow(
        printable(f"{row.embedding}: {row.task}" if by_embedding else row.task),
        printable(row.metric),
        "" if is_headline else printable(", ".join(values)),
        row.results,
        means[0] if means and is_headline else "",
    )


def _notebook_cell(result: MetricResult | None, found: Difference | None) -> notebook.NotebookCell:
    """Return the cell of a score, with its difference from the first file, the interval and the verdict below."""
    if found is None or math.isnan(found.value):
        return notebook.score_cell(result)
    tones: dict[str, Literal["good", "bad"]] = {"+": "good", "-": "bad"}
    parts = f"{found.value:+z.4f}", _interval(found), _verdict(found)
    return notebook.score_cell(result, " ".join(filter(None, parts)), tones.get(_sign(found), ""))


def _texts(row: ComparedRow) -> list[str]:
    """Return value, sign of the difference, and the mark of the best."""
    return [
        f"{_value(result)} {_sign(found) if i else ' '}{'*' if i in row.best else ' '}"
        for i, (result, found) in enumerate(zip(row.results, row.differences, strict=True))
    ]


def _sign(found: Difference | None) -> str:
    if found is None or math.isnan(found.value):
        return " "
    if found.equal or found.beyond_noise is False:
        return "="
    if found.beyond_noise is None or found.better is None:
        return "?"
    return "+" if found.better else "-"


def _details(title: str, rows: Sequence[ComparedRow], i: int, all_rows: Sequence[ComparedRow]) -> TextTable:
    """Make the table of the differences of one file from the first."""
    cells = []
    reasons: list[str] = []
    for row in rows:
        found = row.differences[i]
        value, interval, verdict = _difference(row.results[0], row.results[i], found)
        if found is not None and not math.isnan(found.value) and found.interval is None and not found.equal:
            if found.reason not in reasons:
                reasons.append(found.reason)
            verdict += f" [{reasons.index(found.reason) + 1}]"
        named = _summary_row(row, all_rows)
        prefix = f"{printable(row.embedding)}: " if ":" in named.task else ""
        cells.append((prefix + named.name, value, interval, verdict))
    header = ("metric", "difference", "95% interval", "")
    notes = tuple(f"  [{j}] no interval: {printable(reason)}" for j, reason in enumerate(reasons, 1))
    return TextTable(title, header, tuple(cells), numbers=frozenset(header[1:3]), notes=notes)


def _interval_legend(comparison: Comparison) -> list[str]:
    methods = {found.method for row in comparison.rows for found in row.differences if found is not None}
    by_donor = any(one.by_donor for row in comparison.rows for one in row.intervals.values())
    what = comparison.draws if by_donor else "for the agreement of clusters with labels"
    texts = {
        "standard errors": "±: half of a 95% interval by Student's t, from the standard errors of both.",
        "bootstrap": f"[low, high]: 95% interval of the difference by a paired bootstrap, {comparison.draws}.",
        "jackknife": f"(low, high): 95% interval by a paired jackknife, {what}.",
    }
    return [printable(text) for method, text in texts.items() if method in methods]


def _value(row: MetricResult | None) -> str:
    return (
        "-"
        if row is None
        else f"{'~' if row.approximate and not math.isnan(row.value) else ''}{format_value(row.value)}"
    )


def _difference(
    first: MetricResult | None, other: MetricResult | None, found: Difference | None
) -> tuple[str, str, str]:
    """Return the difference, its interval, and the verdict."""
    if found is None:
        missing = "in neither" if first is other else "missing" if other is None else "not in the first"
        return "", "", missing
    if math.isnan(found.value):
        return "", "", "undefined"
    return f"{found.value:+z.4f}", _interval(found), _verdict(found)


def _interval(difference: Difference) -> str:
    if difference.interval is None:
        return ""
    low, high = difference.interval
    if difference.method == "standard errors":
        return f"± {(high - low) / 2:.2g}"
    return f"[{low:+z.4f}, {high:+z.4f}]" if difference.method == "bootstrap" else f"({low:+z.4f}, {high:+z.4f})"


def _verdict(difference: Difference) -> str:
    if difference.equal:
        return "equal"
    if difference.beyond_noise is False:
        return "within noise"
    return {True: "better", False: "worse", None: "differs"}[difference.better]

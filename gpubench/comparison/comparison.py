"""A comparison as a table for people: with lines and colour on a terminal, as plain text in a pipe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO, TypeAlias

from gpubench.comparison import Drawn
from gpubench.comparison.difference import Difference, difference, equal
from gpubench.core import scores
from gpubench.core.errors import InputError
from gpubench.core.scores import MetricResult
from gpubench.core.terminal import Terminal
from gpubench.metrics import METRICS
from gpubench.results.intervals import half_width
from gpubench.results.rows import telling_params
from gpubench.results.table import format_value, printable

SCHEMA = 1
"""Version of the layout of `Comparison.to_dict`."""


Key: TypeAlias = tuple[str, str, str, str, int]


@dataclass(frozen=True, slots=True)
class ComparedRow:
    """One number in every file.

    Attributes
    ----------
    embedding : its name, or the names in the order of the files where each file has one of its own
    task, metric, params : what the rows agree in; of the parameters those that were asked for
    higher_is_better : None where neither end is better, or it is not known, as of a scorer of the user's
    results : a row of each file, or None
    drawn : what draws say of each file's difference from the first; None where nothing was drawn
    differences : of each file from the first; None for the first and where either row is missing
    """

    embedding: str
    task: str
    metric: str
    params: Mapping[str, Any]
    higher_is_better: bool | None
    results: tuple[MetricResult | None, ...]
    drawn: Mapping[int, Drawn] = field(default_factory=dict, repr=False)
    differences: tuple[Difference | None, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Take the differences from the first row."""
        first = self.results[0]
        apart = [
            None
            if first is None or other is None
            else difference(first, other, self.drawn.get(i), higher_is_better=self.higher_is_better)
            for i, other in enumerate(self.results)
        ]
        object.__setattr__(self, "differences", (None, *apart[1:]))

    def best(self) -> frozenset[int]:
        """Places of the best value; none where all are equal, fewer than two are defined, or neither end is better."""
        defined = {i: row.value for i, row in enumerate(self.results) if row and not math.isnan(row.value)}
        if self.higher_is_better is None or len(defined) < 2:
            return frozenset()
        best = max(defined.values()) if self.higher_is_better else min(defined.values())
        places = frozenset(i for i, value in defined.items() if equal(value, best))
        return frozenset() if len(places) == len(defined) else places

    def __str__(self) -> str:
        told = ", ".join([self.metric, *(f"{key}={value}" for key, value in self.params.items())])
        return f"{told} ({self.embedding}, {self.task})"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Results side by side; made by `compare`.

    Attributes
    ----------
    names : of the files, in the order given; of one file those of its embeddings
    rows : each number once, in the order in which it first appears
    warnings : why the files may not be comparable
    draws : what intervals by draws, or by leaving donors out, are of; empty where there is none
    """

    names: tuple[str, ...]
    rows: tuple[ComparedRow, ...]
    warnings: tuple[str, ...]
    draws: str = ""

    def worse(self, tolerance: float = 0.0) -> list[str]:
        """Say in a line each what is worse than in the first file.

        A row counts that is worse by more than `tolerance` and not within noise: 0 is outside the interval of the
        difference. Where it has no interval, the tolerance alone decides. A row counts as well that is defined in the
        first file but undefined or missing in another.

        Raises
        ------
        InputError
            A tolerance below 0 or not finite.
        """
        if not 0 <= tolerance < math.inf:
            raise InputError(f"tolerance={tolerance} cannot be used; give a number of at least 0", argument="tolerance")
        lines = []
        for row in self.rows:
            first = row.results[0]
            if first is None or math.isnan(first.value):
                continue
            for name, result, apart in list(zip(self.names, row.results, row.differences, strict=True))[1:]:
                if result is None or math.isnan(result.value):
                    lines.append(f"{name}: {row} is {'missing' if result is None else 'undefined'}")
                elif apart and apart.is_worse(tolerance):
                    lines.append(f"{name}: {row} is worse by {abs(apart.value):.4g}")
        return lines

    def below(self, least: Mapping[str, float]) -> list[str]:
        """Say in a line each which values of the files after the first are below what they must be.

        Parameters
        ----------
        least : metric -> least value; every row of the metric must reach it, undefined ones fail, and so does a file
            without the metric

        Raises
        ------
        InputError
            A metric that does not exist.
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
        """Return everything as JSON values; what is undefined or missing is None."""
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
                    "differences": [None if apart is None else apart.to_dict() for apart in row.differences],
                }
                for row in self.rows
            ],
        }

    def __str__(self) -> str:
        from gpubench.comparison.comparison import to_text

        return to_text(self)

    __repr__ = __str__


LEGEND = (
    "* best value. ± is half of a 95% interval by Student's t, of a difference from the standard errors of both.",
    "A difference is beyond noise where its interval does not hold 0; where there is no interval, nothing tells.",
)


def to_text(comparison: Comparison) -> str:
    """Lay a comparison out as plain text: the files, a table for each embedding and task, warnings."""
    blocks = ["\n".join(_files(comparison))]
    for title, lines in _sections(comparison):
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        rows = ("  ".join(cell.ljust(size) for cell, size in zip(line, widths, strict=True)) for line in lines)
        blocks.append("\n".join([title, *(f"  {row}".rstrip() for row in rows)]))
    blocks += ["\n".join(_legend(comparison)), *filter(None, ["\n".join(_warnings(comparison))])]
    return "\n\n".join(blocks)


def show(comparison: Comparison, stream: TextIO) -> None:
    """Write a comparison to a terminal or a pipe."""
    if not stream.isatty():
        stream.write(f"{to_text(comparison)}\n")
        return
    terminal = Terminal(stream)
    terminal.lines(_files(comparison))
    for title, (header, *rows) in _sections(comparison):
        styled = [(row, ["bold green" if cell.endswith("*") else "" for cell in row]) for row in rows]
        terminal.table(title, header, styled, numbers=False)
    terminal.lines(_legend(comparison), "dim")
    terminal.lines(_warnings(comparison), "bold yellow")


def _files(comparison: Comparison) -> list[str]:
    return [f"[{i}] {printable(name)}" for i, name in enumerate(comparison.names, 1)]


def _legend(comparison: Comparison) -> list[str]:
    used = {apart.method for row in comparison.rows for apart in row.differences if apart is not None}
    of_donors = any(one.of_donors for row in comparison.rows for one in row.drawn.values())
    what = comparison.draws if of_donors else "for the agreement of clusters with labels"
    told = {
        "bootstrap": f"[low, high]: 95% interval of the difference by a paired bootstrap, {comparison.draws}.",
        "jackknife": f"(low, high): 95% interval by a paired jackknife, {what}.",
    }
    return [*LEGEND, *(printable(line) for method, line in told.items() if method in used)]


def _warnings(comparison: Comparison) -> list[str]:
    return [f"Warning: {printable(line)}" for line in comparison.warnings]


def _sections(comparison: Comparison) -> list[tuple[str, list[tuple[str, ...]]]]:
    """Title and lines of each table, the header first."""
    groups: dict[str, list[ComparedRow]] = {}
    for row in comparison.rows:
        groups.setdefault(printable(f"{row.embedding}: {row.task}"), []).append(row)
    return [(title, _lines(rows, len(comparison.names))) for title, rows in groups.items()]


def _lines(rows: list[ComparedRow], n_files: int) -> list[tuple[str, ...]]:
    compared = [(f"[{i}] - [1]", "") for i in range(2, n_files + 1)]
    header = ("metric", *(f"[{i}]" for i in range(1, n_files + 1)), *(cell for pair in compared for cell in pair))
    lines = [header]
    for row in rows:
        best = row.best()
        values = [_value(result) + (" *" if i in best else "") for i, result in enumerate(row.results)]
        apart = [
            cell for i in range(1, n_files) for cell in _difference(row.results[0], row.results[i], row.differences[i])
        ]
        lines.append((_name(row, rows), *values, *apart))
    return lines


def _name(row: ComparedRow, rows: list[ComparedRow]) -> str:
    alike = [next(filter(None, other.results)) for other in rows if other.metric == row.metric]
    told = [f"{key}={row.params[key]}" for key in telling_params(alike) if key in row.params]
    return printable(" ".join([row.metric, *told]))


def _value(row: MetricResult | None) -> str:
    if row is None:
        return "-"
    spread = "" if row.stderr is None or math.isnan(row.value) else f" ± {half_width(row.stderr, row.stderr_df):.2g}"
    return f"{'~' if row.approximate else ''}{format_value(row.value)}{spread}"


def _difference(
    first: MetricResult | None, other: MetricResult | None, difference: Difference | None
) -> tuple[str, str]:
    """The difference with its interval, and what it means."""
    if difference is None:
        return "", "in neither" if first is other else "only in [1]" if other is None else "not in [1]"
    if math.isnan(difference.value):
        return "", "undefined"
    return f"{difference.value:+z.4f}{_interval(difference)}", _verdict(difference)


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

"""Scores of one metric as rows with the embeddings side by side."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gpubench.metrics import METRICS
from gpubench.results.table import format_value, printable, telling_params

if TYPE_CHECKING:
    from gpubench.core.scores import MetricResult

_Key = tuple[tuple[tuple[str, str], ...], int]
"""Distinguishing parameters with their values, and the number of earlier rows with the same."""


@dataclass(frozen=True, slots=True)
class ScoreCell:
    """One score.

    Attributes
    ----------
    value, stderr : as in `MetricResult`
    text : the formatted value
    approximate : whether an approximate method was used
    note : what was left out and why; may be empty
    bar : start and length of a bar from zero, as shares of the metric's range; None for an infinite range
    best : whether no other embedding has a better value, and some have a worse one
    """

    value: float
    stderr: float | None
    text: str
    approximate: bool
    note: str
    bar: tuple[float, float] | None
    best: bool = False


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One metric with one set of parameters, on every embedding.

    Attributes
    ----------
    metric, title : id and title of the metric
    params : name and value of the parameters that distinguish it from other rows of the metric
    cells : one for each embedding, None where it was not scored
    n : cells used, as a range where embeddings differ
    headline : whether it represents its metric in a summary
    """

    metric: str
    title: str
    params: tuple[tuple[str, str], ...]
    cells: tuple[ScoreCell | None, ...]
    n: str
    headline: bool

    @property
    def defined(self) -> bool:
        """Whether any embedding has a defined score."""
        return any(cell is not None and not math.isnan(cell.value) for cell in self.cells)

    @property
    def notes(self) -> list[str]:
        """Distinct notes of its scores."""
        return list(dict.fromkeys(cell.note for cell in self.cells if cell is not None and cell.note))

    @property
    def setting(self) -> str:
        """Values of the parameters."""
        return ", ".join(value for _, value in self.params)


def score_rows(metric: str, columns: Sequence[Sequence[MetricResult]]) -> list[ScoreRow]:
    """Put the rows of one metric of one task side by side.

    Parameters
    ----------
    columns : its rows on each embedding; rows with the same distinguishing parameters are put side by side
    """
    telling = tuple(dict.fromkeys(name for rows in columns for name in _telling(rows)))
    keyed = [dict(_keyed(rows, telling)) for rows in columns]
    keys = dict.fromkeys(key for column in keyed for key in column)
    spec = METRICS[metric].spec if metric in METRICS else None
    lined_up = []
    for key in keys:
        found = [column.get(key) for column in keyed]
        cells = [None if row is None else _cell(row) for row in found]
        params = tuple((printable(name), printable(value)) for name, value in key[0])
        higher_is_better = spec.higher_is_better if spec else None
        counts = [row.n for row in found if row is not None]
        low, high = min(counts), max(counts)
        lined_up.append(
            ScoreRow(
                metric=printable(metric),
                title=spec.title if spec else printable(metric),
                params=params,
                cells=_with_best(cells, higher_is_better=higher_is_better),
                n=f"{low:,}" if low == high else f"{low:,}–{high:,}",
                headline=len(keys) == 1 or any(row.aggregate for row in found if row is not None),
            )
        )
    return lined_up


def _telling(rows: Sequence[MetricResult]) -> list[str]:
    """Return the parameters that distinguish rows, without numbers that follow from others."""
    names = list(telling_params(rows))
    for name in telling_params(rows):
        rest = [other for other in names if other != name]
        is_number = all(isinstance(row.params.get(name), int | float | None) for row in rows)
        if is_number and rest and len({tuple(repr(row.params.get(key)) for key in rest) for row in rows}) == len(rows):
            names = rest
    return names


def _keyed(rows: Sequence[MetricResult], telling: Sequence[str]) -> Iterator[tuple[_Key, MetricResult]]:
    """Yield each row with its key."""
    seen: Counter[tuple[tuple[str, str], ...]] = Counter()
    for row in rows:
        params = tuple((name, str(row.params[name])) for name in telling if name in row.params)
        yield (params, seen[params]), row
        seen[params] += 1


def _cell(row: MetricResult) -> ScoreCell:
    return ScoreCell(
        value=row.value,
        stderr=row.stderr,
        text=format_value(row.value),
        approximate=row.approximate and not math.isnan(row.value),
        note=printable(row.note),
        bar=_bar(row.metric, row.value),
    )


def _bar(metric: str, value: float) -> tuple[float, float] | None:
    """Return the bar from zero to the value within the bounds of the metric."""
    low, high = METRICS[metric].spec.bounds if metric in METRICS else (0.0, math.inf)
    if math.isnan(value) or math.isinf(high - low):
        return None
    zero, end = ((min(max(x, low), high) - low) / (high - low) for x in (0.0, value))
    return min(zero, end), abs(end - zero)


def _with_best(cells: Sequence[ScoreCell | None], *, higher_is_better: bool | None) -> tuple[ScoreCell | None, ...]:
    """Mark the best values, and those that are formatted the same, unless all are."""
    defined = [cell for cell in cells if cell is not None and not math.isnan(cell.value)]
    if higher_is_better is None or len({cell.text for cell in defined}) < 2:
        return tuple(cells)
    choose = max if higher_is_better else min
    best = choose(defined, key=lambda cell: cell.value).text
    return tuple(replace(cell, best=cell.text == best) if cell is not None else None for cell in cells)

"""Rows of a result as columns of a table and as CSV."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

from gpubench.core.scores import MetricResult, plain

FIELDS = tuple(field.name for field in fields(MetricResult) if field.name != "params")
"""Columns of every table of results; a column for each parameter follows."""


def to_columns(results: Sequence[MetricResult]) -> dict[str, list[Any]]:
    """Convert rows to columns: those of `FIELDS`, then one for each parameter of any row.

    A parameter with the name of a field gets the prefix "param_". Lists and mappings become JSON; a parameter that is
    text in one row and a number in another becomes text in all.
    """
    columns: dict[str, list[Any]] = {name: [_scalar(getattr(row, name)) for row in results] for name in FIELDS}
    for name in param_keys(results):
        column = f"param_{name}" if name in FIELDS else name
        columns[column] = _one_type([_scalar(plain(row.params.get(name))) for row in results])
    return columns


def to_csv(results: Sequence[MetricResult]) -> str:
    """Format the columns of rows as CSV in full precision; NaN and missing values are empty."""
    columns = to_columns(results)
    lines = [columns, *zip(*columns.values(), strict=True)]
    return "".join(",".join(map(_csv_cell, line)) + "\n" for line in lines)


def _csv_cell(value: Any) -> str:
    """Quote as RFC 4180 requires; csv.writer with plain line ends leaves a carriage return unquoted."""
    value = plain(value)
    text = "" if value is None else str(value)
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\r\n') else text


def _scalar(value: Any) -> Any:
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return value.tolist() if hasattr(value, "tolist") else value


def _one_type(values: list[Any]) -> list[Any]:
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1:
        return values
    if kinds == {int, float}:
        return [None if value is None else float(value) for value in values]
    return [None if value is None else str(value) for value in values]


def param_keys(results: Iterable[MetricResult]) -> tuple[str, ...]:
    """Return the names of all parameters of some rows, in the order in which they first appear."""
    return tuple(dict.fromkeys(key for row in results for key in row.params))


def telling_params(results: Sequence[MetricResult]) -> tuple[str, ...]:
    """Return the names of the parameters that distinguish rows of one metric.

    These are those whose values differ; if rows differ only in which parameters they have, also these.
    """
    keys = param_keys(results)
    differing = tuple(key for key in keys if len({repr(row.params[key]) for row in results if key in row.params}) > 1)
    if len({tuple(repr(row.params.get(key)) for key in differing) for row in results}) == len(results):
        return differing
    return tuple(key for key in keys if len({repr(row.params.get(key)) for row in results}) > 1)

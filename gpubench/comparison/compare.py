"""Results side by side: which rows belong together, how far they are apart, and whether that is more than noise."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpubench.comparison import N_RESAMPLES, SEED, Drawn, Resampler, draw_differences
from gpubench.comparison.comparison import ComparedRow, Comparison, Key
from gpubench.comparison.donors import find_donors
from gpubench.core import scores
from gpubench.core.errors import InputError
from gpubench.core.scores import MetricResult
from gpubench.core.types import check_seed
from gpubench.metrics import METRICS
from gpubench.results.result import Result

# What of the provenance must agree for numbers to be comparable, and how it is called in a warning.
_SHARED = {
    "fingerprint of the cells' columns (label, batch ...)": ("dataset", "columns"),
    "number of cells": ("dataset", "n_cells"),
    "seed": ("seed",),
    "gpubench version": ("gpubench",),
}
_NOT_OPTIONS = frozenset({"tasks", "embeddings"})


def comparability_warnings(names: Sequence[str], results: Sequence[Result]) -> list[str]:
    """Say what of the provenance differs from the first file, and which runs did not end; a line each."""
    first = results[0].provenance
    lines = []
    for name, result in zip(names, results, strict=True):
        if result.interrupted:
            lines.append(f"{name} was interrupted; rows are missing")
        for what, path in _SHARED.items():
            here, there = _at(result.provenance, path), _at(first, path)
            if here != there:
                lines.append(f"{what} differs: {there} in {names[0]}, {here} in {name}")
        here, there = _options(result.provenance), _options(first)
        lines += [
            f"{option} differs: {there.get(option)} in {names[0]}, {here.get(option)} in {name}"
            for option in sorted(here.keys() | there.keys())
            if here.get(option) != there.get(option)
        ]
    return lines


def _at(provenance: Any, path: Sequence[str]) -> Any:
    for name in path:
        provenance = provenance.get(name) if isinstance(provenance, Mapping) else None
    return provenance


def _options(provenance: Any) -> dict[str, Any]:
    return {name: value for name, value in (_at(provenance, ["options"]) or {}).items() if name not in _NOT_OPTIONS}


MIN_RESAMPLES = 100
"""Fewer do not tell where the ends of a 95% interval are."""


def check_draws(n_resamples: int, seed: int, donor: str | None, obs: Any) -> None:
    """Refuse what cannot be drawn, before anything is read.

    Raises
    ------
    InputError
        A number of resamples or a seed that cannot be used, or flags that contradict each other.
    """
    check_seed(seed)
    if n_resamples != 0 and n_resamples < MIN_RESAMPLES:
        raise InputError(
            f"resamples={n_resamples} cannot be used; give at least {MIN_RESAMPLES}, or 0 for none",
            argument="resamples",
        )
    if donor is not None and n_resamples == 0:
        raise InputError(
            f"donor={donor!r} asks for intervals, but `resamples` is 0; leave out one of them", argument="donor"
        )
    if obs is not None and donor is None:
        raise InputError(
            "obs is the table of the donors; name their column with `donor`, or leave out `obs`", argument="obs"
        )


def draw(
    results: Sequence[Result],
    together: Sequence[Sequence[MetricResult | None]],
    *,
    donor: str | None,
    obs: Any,
    n_resamples: int,
    seed: int,
) -> tuple[list[dict[int, Drawn]], str]:
    """Draw the differences of all rows from those of the first result.

    Parameters
    ----------
    together : for each number its row in every result, or None

    Returns
    -------
    For each number what was drawn, by the place of the result; what the intervals are of.
    """
    drawn: list[dict[int, Drawn]] = [{} for _ in together]
    if n_resamples == 0:
        return drawn, ""
    donors = None if donor is None else find_donors(results, donor, obs)
    resampler = Resampler(
        results[0].cells.n_cells,
        n_resamples=n_resamples,
        seed=seed,
        donors=None if donors is None else donors.codes,
    )
    for place in range(1, len(results)):
        pairs = {
            i: (first, other)
            for i, rows in enumerate(together)
            if _defined(first := rows[0]) and _defined(other := rows[place]) and first is not None and other is not None
        }
        found = draw_differences(results[0].cells, results[place].cells, list(pairs.values()), resampler)
        for i, one in zip(pairs, found, strict=True):
            drawn[i][place] = replace(one, of_donors=donors is not None)
    if not any(one.interval for of_row in drawn for one in of_row.values()):
        return drawn, ""
    if donors is not None:
        return drawn, f"leaving out each of the {donors.n_classes:,} donors of {donor!r} in turn"
    return drawn, f"{n_resamples:,} draws of cells, seed {seed}"


def _defined(row: MetricResult | None) -> bool:
    return row is not None and not math.isnan(row.value)


# Parameters that a run finds rather than is given: rows that differ in them answer the same question.
_FOUND = frozenset({"knn", "recall", "precision", "n_clusters", "n_genes", "resolution"})


def compare(
    files: str | os.PathLike[str] | Result | Sequence[str | os.PathLike[str] | Result],
    *,
    donor: str | None = None,
    obs: Any = None,
    resamples: int = N_RESAMPLES,
    seed: int = SEED,
) -> Comparison:
    """Put two or more results, or the embeddings of one, side by side; differences are from the first.

    Rows belong together where embedding, task, metric and the parameters that were asked for agree. Where each file has
    one embedding, the embeddings are compared with each other, whatever their names.

    Differences of scores that are made of values of cells get a 95% interval by a paired bootstrap: the same cells are
    drawn for both, or the same donors left out of both. Clusters, classifiers and neighbours stay those of the runs.

    Parameters
    ----------
    files : results.json files, folders that hold one, or `Result` objects; the values of the cells are read from the
        cells.parquet beside them. A single one stands for its embeddings
    donor : a column of the results, such as "batch", or of `obs`. Each donor is left out in turn instead of cells being
        drawn, which says how scores move with other donors; other numbers get no interval
    obs : the table of the cells, where the results lack the column: path of a Parquet, CSV or h5ad file, or DataFrame
    resamples : how often cells are drawn; 0: not at all, standard errors alone give intervals
    seed : of the draws

    Raises
    ------
    InputError
        One result with one embedding, a file that is no result, no such column, or a number that cannot be used.

    Examples
    --------
    >>> gb.compare(["results/pca", "results/scvi"])  # doctest: +SKIP
    """
    given = [files] if isinstance(files, str | os.PathLike | Result) else list(files)
    if not given:
        raise InputError("compare: there is nothing to compare; give results.json files, or folders that hold one")
    check_draws(resamples, seed, donor, obs)
    results = [file if isinstance(file, Result) else _read(Path(file)) for file in given]
    names = [f"result {i}" if isinstance(file, Result) else str(file) for i, file in enumerate(given, 1)]
    if len(results) == 1:
        names, results = _by_embedding(names[0], results[0])
    embeddings = [list(dict.fromkeys(row.embedding for row in result.results)) for result in results]
    one_each = all(len(held) == 1 for held in embeddings)
    tables = [_by_key(result.results, named=not one_each) for result in results]
    keys = list(dict.fromkeys(key for table in tables for key in table))
    together = [[table.get(key) for table in tables] for key in keys]
    drawn, draws = draw(results, together, donor=donor, obs=obs, n_resamples=resamples, seed=seed)
    return Comparison(
        names=tuple(names),
        rows=tuple(_compared(of_row, of_draws) for of_row, of_draws in zip(together, drawn, strict=True)),
        warnings=tuple(comparability_warnings(names, results)),
        draws=draws,
    )


def _by_embedding(name: str, result: Result) -> tuple[list[str], list[Result]]:
    """The embeddings of one result as results that stand side by side."""
    rows_of: dict[str, list[MetricResult]] = {}
    for row in result.results:
        rows_of.setdefault(row.embedding, []).append(row)
    if len(rows_of) < 2:
        has = f"one embedding, {next(iter(rows_of))!r}" if rows_of else "no numbers"
        raise InputError(f"compare: {name} has {has}; give another result to compare it with")
    return list(rows_of), [replace(result, results=own) for own in rows_of.values()]


def _read(path: Path) -> Result:
    if path.is_dir() and not (path / "results.json").exists():
        raise InputError(
            f"{str(path)!r} is a folder without results.json; pass a result file or a folder that holds one"
        )
    return Result.from_json(path / "results.json" if path.is_dir() else path)


def _asked(row: MetricResult) -> dict[str, Any]:
    return {key: value for key, value in row.params.items() if key not in _FOUND}


def _by_key(results: Iterable[MetricResult], *, named: bool) -> dict[Key, MetricResult]:
    """Rows by what they must agree in; those of one file that agree in all of it are numbered."""
    table: dict[Key, MetricResult] = {}
    for row in results:
        params = json.dumps(scores.plain(_asked(row)), sort_keys=True)
        count = 0
        while (key := (row.embedding if named else "", row.task, row.metric, params, count)) in table:
            count += 1
        table[key] = row
    return table


def _compared(results: Sequence[MetricResult | None], drawn: Mapping[int, Drawn]) -> ComparedRow:
    found = [row for row in results if row is not None]
    metric = found[0].metric
    return ComparedRow(
        embedding=", ".join(dict.fromkeys(row.embedding for row in found)),
        task=found[0].task,
        metric=metric,
        params=_asked(found[0]),
        higher_is_better=METRICS[metric].spec.higher_is_better if metric in METRICS else None,
        results=tuple(results),
        drawn=drawn,
    )

"""Compare results: match their rows, and compute differences and whether these are beyond noise."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpubench.comparison.best import mark_best
from gpubench.comparison.comparison import ComparedRow, Comparison
from gpubench.comparison.paired_intervals import PairedInterval, paired_intervals, paired_over_perturbations
from gpubench.comparison.resampling import N_RESAMPLES, SEED, Resampler
from gpubench.core import scores
from gpubench.core.errors import GpubenchWarning, InputError, close_matches, give_warnings
from gpubench.core.scores import MetricResult, pairing_problem
from gpubench.core.types import check_seed
from gpubench.data import read_labels
from gpubench.data.alignment import NamedRows, align
from gpubench.metrics.published import published_spec
from gpubench.results.result import Result
from gpubench.results.runs import columns_of, comparable_groups, read_results, source_of

if TYPE_CHECKING:
    from gpubench.core.scores import CellScores
    from gpubench.core.types import Labels

MIN_RESAMPLES = 100
"""Smallest number of resamples that determines the ends of a 95% interval."""

# Parameters that a run finds and is not given: rows that differ in them answer the same question.
_FOUND = frozenset({"knn", "recall", "precision", "backend", "n_clusters", "n_genes", "resolution", "interval"})

_NOT_OPTIONS = frozenset({"tasks", "embeddings", "predictions", "baseline", "scorers"})


def compare(
    files: str | os.PathLike[str] | Result | Sequence[str | os.PathLike[str] | Result],
    *,
    donor: str | None = None,
    obs: Any = None,
    resamples: int = N_RESAMPLES,
    seed: int = SEED,
    strict: bool = False,
) -> Comparison:
    """Compare two or more results, or the embeddings of one result, with the first of them.

    Rows of different files are matched by embedding, task, metric and requested parameters. If each file has one
    embedding, the embeddings are compared with each other, whatever their names.

    The difference of scores that can be recomputed from values of cells gets a 95% interval by a paired bootstrap: the
    same cells are drawn for both scores, or the same donors left out. Clusters, classifiers and neighbours are not
    recomputed.

    Parameters
    ----------
    files : results.json files, folders that contain one, or `Result` objects. The values of the cells are read from
        cells.parquet in the same folder. The embeddings of a single one are compared
    donor : column of the results, such as "batch", or of `obs`. Each donor is left out in turn instead of cells being
        drawn, which estimates how scores vary between donors; other scores get no interval
    obs : table of the cells with the donor column, if the results lack it: path of a Parquet, CSV or h5ad file, or
        DataFrame
    resamples : number of bootstrap draws of cells; if 0, intervals follow from standard errors only
    seed : random seed of the draws
    strict : whether to raise `InputError` where a warning would say that results are not comparable

    Returns
    -------
    Comparison
        Differences of all rows; prints as a table.

    Raises
    ------
    InputError
        If there is only one embedding, a file is not a result, the column does not exist, or a number cannot be used.

    Examples
    --------
    >>> import numpy as np
    >>> import gpubench as gb
    >>> rng = np.random.default_rng(0)
    >>> label = np.repeat(["a", "b"], 100)
    >>> near = rng.normal(size=(200, 5)).astype("float32")
    >>> far = near + 3 * (label == "b")[:, None].astype("float32")
    >>> result = gb.score({"near": near, "far": far}, label=label, tasks=["embedding"], engine="cpu")
    >>> (row,) = gb.compare(result).rows
    >>> row.metric, row.differences[1].method, row.differences[1].better
    ('silhouette_score', 'bootstrap', True)
    """
    given = [files] if isinstance(files, str | os.PathLike | Result) else list(files)
    if not given:
        raise InputError("compare: there is nothing to compare; give results.json files, or folders that hold one")
    check_draws(resamples, seed, donor, obs)
    read = [
        (f"result {i}", file) if isinstance(file, Result) else (str(file), _read(Path(file)))
        for i, file in enumerate(given, 1)
    ]
    names, results = [name for name, _ in read], [result for _, result in read]
    if len(results) == 1:
        names, results = _split_by_embedding(names[0], results[0])
    return _compare(names, results, donor=donor, obs=obs, resamples=resamples, seed=seed, strict=strict)


def is_run_folder(place: str | os.PathLike[str]) -> bool:
    """Return whether a path is a folder without a results.json of its own, such as one of several results."""
    path = Path(place)
    return path.is_dir() and not (path / "results.json").exists()


def compare_runs(
    folder: str | os.PathLike[str],
    *,
    donor: str | None = None,
    obs: Any = None,
    resamples: int = N_RESAMPLES,
    seed: int = SEED,
    strict: bool = False,
) -> dict[str, Comparison]:
    """Compare the embeddings of all runs in a folder with each other, separately for each dataset.

    Parameters
    ----------
    folder : folder that `gpubench score run.yaml --out` has written
    donor, obs, resamples, seed, strict : as in `compare`

    Returns
    -------
    dict
        Dataset -> `Comparison` of its embeddings; datasets with one embedding are left out.

    Raises
    ------
    InputError
        There is no result, no dataset has two embeddings, or an argument that `compare` refuses.

    Examples
    --------
    >>> compare_runs("grid/out")  # doctest: +SKIP
    """
    check_draws(resamples, seed, donor, obs)
    compared: dict[str, Comparison] = {}
    for group in comparable_groups(read_results(Path(folder))):
        columns = columns_of(group)
        if len(columns) > 1:
            names = [name for name, _, _ in columns]
            results = [result[embedding] for _, result, embedding in columns]
            source = source_of(group)
            name = source if source not in compared else f"{source} ({', '.join(group)})"
            compared[name] = _compare(
                names, results, donor=donor, obs=obs, resamples=resamples, seed=seed, strict=strict
            )
    if not compared:
        raise InputError(f"{str(folder)!r}: no two embeddings were scored on the same data with the same options")
    return compared


def _compare(
    names: Sequence[str],
    results: Sequence[Result],
    *,
    donor: str | None,
    obs: Any,
    resamples: int,
    seed: int,
    strict: bool,
) -> Comparison:
    warnings = comparability_warnings(names, results)
    if strict and warnings:
        raise InputError(f"{warnings[0]} (an error because of `strict`)")
    embeddings = [{row.embedding for row in result.results} for result in results]
    by_name = any(len(found) != 1 for found in embeddings)
    tables = [_by_key(result.results, by_name=by_name) for result in results]
    keys = list(dict.fromkeys(key for table in tables for key in table))
    matched = [[table.get(key) for table in tables] for key in keys]
    results, notes = _in_one_order(names, results)
    donors = None if donor is None else find_donors(results, donor, obs, notes, strict=strict)
    resampler = _resampler(results, donors, resamples=resamples, seed=seed)
    intervals = _intervals(results, matched, resampler)
    draws = _draws_text(results, intervals, donor, donors, resampler)
    known = {(number, 0, i): one for number, own in enumerate(intervals) for i, one in own.items()}
    cells, over = [result.cells for result in results], [result.perturbations for result in results]
    best = mark_best(matched, cells, resampler=resampler, known=known, tables=over)
    return Comparison(
        names=tuple(names),
        rows=tuple(_compared_row(*one) for one in zip(matched, intervals, best, strict=True)),
        warnings=(*warnings, *notes),
        draws=draws,
    )


def check_draws(resamples: int, seed: int, donor: str | None, obs: Any) -> None:
    """Raise InputError for options of the draws that cannot be used or contradict each other."""
    check_seed(seed)
    if resamples != 0 and resamples < MIN_RESAMPLES:
        raise InputError(
            f"resamples={resamples} cannot be used; give at least {MIN_RESAMPLES}, or 0 for none", argument="resamples"
        )
    if donor is not None and resamples == 0:
        raise InputError(
            f"donor={donor!r} asks for intervals, but `resamples` is 0; leave out one of them", argument="donor"
        )
    if obs is not None and donor is None:
        raise InputError(
            "obs is the table of the donors; name their column with `donor`, or leave out `obs`", argument="obs"
        )


def _read(path: Path) -> Result:
    if is_run_folder(path):
        if any(path.rglob("results.json")):
            raise InputError(f"{str(path)!r} holds several results; compare it alone with `compare_runs`")
        raise InputError(
            f"{str(path)!r} is a folder without results.json; pass a result file or a folder that holds one"
        )
    return Result.from_json(path / "results.json" if path.is_dir() else path)


def _split_by_embedding(name: str, result: Result) -> tuple[list[str], list[Result]]:
    """Split a result into one result for each embedding."""
    rows: dict[str, list[MetricResult]] = {}
    for row in result.results:
        rows.setdefault(row.embedding, []).append(row)
    if len(rows) < 2:
        has = f"one embedding, {next(iter(rows))!r}" if rows else "no numbers"
        raise InputError(f"compare: {name} has {has}; give another result to compare it with")
    return list(rows), [replace(result, results=own) for own in rows.values()]


def _requested(row: MetricResult) -> dict[str, Any]:
    return {key: value for key, value in row.params.items() if key not in _FOUND}


def _by_key(results: Iterable[MetricResult], *, by_name: bool) -> dict[tuple[Any, ...], MetricResult]:
    """Map the key by which rows of different files are matched to the row; equal keys within a file are numbered."""
    table: dict[tuple[Any, ...], MetricResult] = {}
    for row in results:
        params = json.dumps(scores.plain(_requested(row)), sort_keys=True)
        count = 0
        while (key := (row.embedding if by_name else "", row.task, row.metric, params, count)) in table:
            count += 1
        table[key] = row
    return table


def _compared_row(
    results: Sequence[MetricResult | None], intervals: Mapping[int, PairedInterval], best: frozenset[int]
) -> ComparedRow:
    found = [row for row in results if row is not None]
    metric = found[0].metric
    spec = published_spec(metric)
    return ComparedRow(
        embedding=", ".join(dict.fromkeys(row.embedding for row in found)),
        task=found[0].task,
        metric=metric,
        params=_requested(found[0]),
        higher_is_better=spec.higher_is_better if spec else None,
        results=tuple(results),
        intervals=intervals,
        best=best,
    )


def _resampler(results: Sequence[Result], donors: Labels | None, *, resamples: int, seed: int) -> Resampler | None:
    """Return the resampler of cells or donors; None if there are no draws."""
    if resamples == 0:
        return None
    codes = None if donors is None else donors.codes
    return Resampler(results[0].cells.n_cells, n_resamples=resamples, seed=seed, donors=codes)


def _intervals(
    results: Sequence[Result], matched: Sequence[Sequence[MetricResult | None]], resampler: Resampler | None
) -> list[dict[int, PairedInterval]]:
    """Compute for each row the intervals of its differences, by number of the result."""
    intervals: list[dict[int, PairedInterval]] = [{} for _ in matched]
    if resampler is None:
        return intervals
    for i in range(1, len(results)):
        pairs = {
            number: (rows[0], rows[i])
            for number, rows in enumerate(matched)
            if not any(row is None or math.isnan(row.value) for row in (rows[0], rows[i]))
        }
        found = paired_intervals(results[0].cells, results[i].cells, list(pairs.values()), resampler)  # type: ignore[arg-type]
        for number, interval in zip(pairs, found, strict=True):
            intervals[number][i] = interval
        if resampler.donors is None:
            tables = results[0].perturbations, results[i].perturbations
            n, seed = resampler.n_resamples, resampler.seed
            for number, rows in pairs.items():
                over = paired_over_perturbations(tables, rows, n_resamples=n, seed=seed)  # type: ignore[arg-type]
                intervals[number] |= {} if over is None else {i: over}
    return intervals


def _draws_text(
    results: Sequence[Result],
    intervals: Sequence[Mapping[int, PairedInterval]],
    donor: str | None,
    donors: Labels | None,
    resampler: Resampler | None,
) -> str:
    """Describe the draws behind the intervals; empty if there are no intervals."""
    if not any(one.interval for own in intervals for one in own.values()):
        return ""
    if donors is not None:
        return f"leaving out each of the {donors.n_classes:,} donors of {donor!r} in turn"
    drawn = "cells" if results[0].cells.columns or not len(results[0].perturbations) else "perturbations"
    return "" if resampler is None else f"{resampler.n_resamples:,} draws of {drawn}, seed {resampler.seed}"


def _in_one_order(names: Sequence[str], results: Sequence[Result]) -> tuple[list[Result], list[str]]:
    """Reorder cells with names to the order of the first result; return the results, and notes."""
    first = results[0].cells
    notes: list[str] = []
    ordered = [results[0]]
    for name, result in zip(names[1:], results[1:], strict=True):
        cells = result.cells
        if first.names is not None and cells.names is not None and set(first.names) == set(cells.names):
            aligned = align([_named_rows(names[0], first), _named_rows(name, cells)])
            notes += aligned.notes
            if aligned.orders[1] is not None:
                cells = cells.taken(aligned.orders[1])
        ordered.append(replace(result, cells=cells))
    return ordered, notes


def _named_rows(where: str, cells: CellScores) -> NamedRows:
    return NamedRows(where, cells.n_cells, lambda: cells.names)


def find_donors(
    results: Iterable[Result], column: str, obs: Any, notes: list[str] | None = None, *, strict: bool = False
) -> Labels:
    """Find the donor of each cell in the table `obs`, or in the columns of the results.

    In results, `column` is found by its role ("batch") or by the name that it had in the data. A line on how the rows
    of `obs` were matched with the cells is appended to `notes`. If `strict`, two donors are refused.
    """
    with_cells = [result for result in results if result.cells.columns]
    if not with_cells:
        raise InputError(
            f"donor={column!r} needs results with a cells.parquet next to them; score again with --out",
            argument="donor",
        )
    if obs is not None:
        cells = with_cells[0].cells
        donors = read_labels(obs, column, "donor", cells.n_cells, cells.names, notes)
    else:
        known: dict[str, Labels] = {}
        for result in with_cells:
            if pairing_problem(with_cells[0].cells, result.cells):  # its column is of other cells
                continue
            options = result.provenance.get("options", {})
            for role, labels in result.cells.groups.items():
                known.setdefault(str(options.get(role, role)), labels)
                known.setdefault(role, labels)
        if column not in known:
            raise InputError(
                f"donor={column!r} is not among the columns of the results{close_matches(column, known)}; "
                "give `obs`, the table of the cells that has it",
                argument="donor",
            )
        donors = known[column]
    if donors.n_classes < 2:
        raise InputError(f"donor={column!r} has one value, and an interval needs two donors at least", argument="donor")
    if donors.n_classes == 2:
        text = f"donor={column!r} has two donors, too few to know how scores vary between donors; intervals mean little"
        give_warnings([GpubenchWarning(text, argument="donor")], strict=strict)
    return donors


def comparability_warnings(names: Sequence[str], results: Sequence[Result]) -> list[str]:
    """Return a line for each difference in provenance from the first file, and for each interrupted run."""
    expected = _comparable(results[0].provenance)
    lines = []
    for name, result in zip(names, results, strict=True):
        if result.interrupted:
            lines.append(f"{name} was interrupted; rows are missing")
        found = _comparable(result.provenance)
        lines += [
            f"{what} differs: {expected.get(what)} in {names[0]}, {found.get(what)} in {name}"
            for what in dict.fromkeys([*expected, *found])
            if expected.get(what) != found.get(what)
        ]
    return lines


def _comparable(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the properties that must agree for scores to be comparable, by their names in warnings."""
    dataset = provenance.get("dataset") or {}
    options = provenance.get("options") or {}
    return {
        "fingerprint of the cells' columns (label, batch ...)": dataset.get("columns"),
        "number of cells": dataset.get("n_cells"),
        "seed": provenance.get("seed"),
        "gpubench version": provenance.get("gpubench"),
        **{name: options[name] for name in sorted(options.keys() - _NOT_OPTIONS)},
    }

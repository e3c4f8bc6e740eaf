"""Results side by side: which rows belong together, how far they are apart, and whether that is more than noise."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from gpubench import rows
from gpubench.bootstrap import N_RESAMPLES, SEED, Drawn
from gpubench.comparability import comparability_warnings
from gpubench.comparison_draws import check_draws, draw
from gpubench.difference import Difference, difference, equal
from gpubench.errors import InputError
from gpubench.metrics import METRICS
from gpubench.result import Result
from gpubench.types import MetricResult

SCHEMA = 1
"""Version of the layout of `Comparison.to_dict`."""

# Parameters that a run finds rather than is given: rows that differ in them answer the same question.
_FOUND = frozenset({"knn", "recall", "precision", "n_clusters", "n_genes", "resolution"})

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
            raise InputError(f"tolerance={tolerance} cannot be used; give a number of at least 0")
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
        from gpubench.data import close_matches

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
                    "params": rows.plain(row.params),
                    "higher_is_better": row.higher_is_better,
                    "best": sorted(row.best()),
                    "results": [None if result is None else rows.to_dict(result) for result in row.results],
                    "differences": [None if apart is None else apart.to_dict() for apart in row.differences],
                }
                for row in self.rows
            ],
        }

    def __str__(self) -> str:
        from gpubench.comparison_table import to_text

        return to_text(self)

    __repr__ = __str__


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
        params = json.dumps(rows.plain(_asked(row)), sort_keys=True)
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

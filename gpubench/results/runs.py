"""Several results: find and read their files, group comparable ones, and rank embeddings over several datasets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpubench.core.errors import InputError
from gpubench.results.result import Result
from gpubench.results.score_table import MAX_NAME, mean_ranks
from gpubench.results.table import Lines, TextTable, printable, shortened

if TYPE_CHECKING:
    from gpubench.core.scores import MetricResult

NAME = "results.json"

MAX_SOURCE = 16
"""Largest number of characters of the name of a dataset in a table."""


def result_files(place: Path) -> dict[str, Path]:
    """Find the result files of a place: the file itself, or those in a folder.

    Those in a folder are its `*.json`, or, if there are none, each `results.json` in a folder below.

    Returns
    -------
    Distinct name -> path of each file

    Raises
    ------
    InputError
        The folder has no result file.
    """
    if not place.is_dir():
        return {place.stem: place}
    files = sorted(place.glob("*.json")) or sorted(place.rglob(NAME))
    if not files:
        raise InputError(f"{str(place)!r} holds no result; give a results.json, or a folder that --out named")
    return {_name(file, place): file for file in files}


def read_results(place: Path) -> dict[str, Result]:
    """Read all result files of a place, by the names that `result_files` gives them."""
    return {name: Result.from_json(file) for name, file in result_files(place).items()}


def _name(file: Path, folder: Path) -> str:
    within = file.relative_to(folder)
    return within.parent.as_posix() if within.name == NAME and len(within.parts) > 1 else within.stem


_NOT_SCORING = frozenset({"tasks", "embeddings", "pre_integrated", "predictions", "baseline", "scorers"})
"""Options that may differ between comparable runs."""


def comparable_groups(runs: Mapping[str, Result]) -> list[dict[str, Result]]:
    """Group runs on the same cells with the same options, in the order in which they first appear."""
    groups: dict[str, dict[str, Result]] = {}
    for name, result in runs.items():
        groups.setdefault(_group_key(result, name), {})[name] = result
    return list(groups.values())


def _group_key(result: Result, name: str) -> str:
    """Return a key that is equal for runs on the same cells and columns with the same options, whatever their files."""
    dataset, options = dataset_of(result), result.provenance.get("options", {})
    cells = dataset.get("columns") or dataset.get("source") or dataset.get("fingerprint") or name
    scoring = {key: value for key, value in options.items() if key not in _NOT_SCORING}
    return json.dumps([cells, dataset.get("n_cells"), scoring], sort_keys=True, default=str)


def dataset_of(result: Result) -> dict[str, Any]:
    """Return the description of the data in the provenance of a result."""
    dataset: dict[str, Any] = result.provenance.get("dataset", {})
    return dataset


def source_of(runs: Mapping[str, Result]) -> str:
    """Return the name of the data of comparable runs, as the users gave it."""
    return ", ".join(dict.fromkeys(str(dataset_of(result).get("source") or "arrays") for result in runs.values()))


def columns_of(runs: Mapping[str, Result]) -> list[tuple[str, Result, str]]:
    """Return (displayed name, result, embedding) of each embedding of several runs.

    The displayed name includes the run if several runs have an embedding of the same name.
    """
    found = [
        (run, result, name)
        for run, result in runs.items()
        for name in dict.fromkeys(row.embedding for row in result.results)
    ]
    names = [name for _, _, name in found]
    return [(name if names.count(name) == 1 else f"{name} ({run})", result, name) for run, result, name in found]


def named_rows(runs: Mapping[str, Result]) -> list[MetricResult]:
    """Return the rows of all runs, with embeddings renamed to the displayed names of `columns_of`."""
    return [
        replace(row, embedding=name)
        for name, result, embedding in columns_of(runs)
        for row in result.results
        if row.embedding == embedding
    ]


def ranks_by_dataset(datasets: Mapping[str, Iterable[MetricResult]]) -> dict[str, list[float | None]]:
    """Return embedding -> its mean rank on each dataset (None if not scored), the best over all datasets first."""
    ranks = [mean_ranks(results) for results in datasets.values()]
    names = dict.fromkeys(name for own in ranks for name in own)
    rows = {name: [own.get(name) for own in ranks] for name in names}
    return dict(sorted(rows.items(), key=lambda item: mean_of(item[1])))


def mean_of(ranks: Sequence[float | None]) -> float:
    """Return the mean of the ranks that are not None."""
    known = [rank for rank in ranks if rank is not None]
    return sum(known) / len(known)


def rank_blocks(datasets: Mapping[str, Iterable[MetricResult]], width: int | None) -> list[TextTable | Lines]:
    """Return tables of the mean rank of each embedding on each dataset, at most `width` characters wide if given."""
    ranks = ranks_by_dataset(datasets)
    names = shortened(list(map(printable, ranks)), MAX_NAME)
    means = [f"{mean_of(own):.1f}" for own in ranks.values()]
    sources = shortened(list(map(printable, datasets)), MAX_SOURCE)
    room = max(1, ((width or 1 << 20) - max(map(len, names), default=0) - 2 - 6) // (max(map(len, sources)) + 2))
    tables: list[TextTable | Lines] = []
    for start in range(0, len(sources), room):
        own = sources[start : start + room]
        rows = tuple(
            (name, mean, *("-" if rank is None else f"{rank:.1f}" for rank in row[start : start + room]))
            for name, mean, row in zip(names, means, ranks.values(), strict=True)
        )
        tables.append(TextTable("", ("", "mean", *own), rows, numbers=frozenset(("mean", *own))))
    legend = "Mean rank over the metrics on each dataset, 1 is best; ranks do not say whether differences exceed noise."
    return [*tables, Lines([legend])]

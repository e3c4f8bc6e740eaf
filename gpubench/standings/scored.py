"""Collect the scores of models on datasets, from results of gpubench and from tables of other packages."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpubench.core.errors import InputError, quoted, some_rows
from gpubench.core.scores import MetricResult
from gpubench.metrics.published import is_aggregate, published_spec
from gpubench.results.result import Result
from gpubench.results.runs import comparable_groups, read_results, source_of
from gpubench.results.score_table import summarize
from gpubench.results.statistics import standard_error

TABLES = (".csv", ".tsv")
"""Suffixes of tables of other packages."""

SCIB_METRICS = {
    "isolated labels": "isolated_labels",
    "kmeans nmi": "nmi_ari_cluster_labels_kmeans_nmi",
    "kmeans ari": "nmi_ari_cluster_labels_kmeans_ari",
    "leiden nmi": "nmi_ari_cluster_labels_leiden_nmi",
    "leiden ari": "nmi_ari_cluster_labels_leiden_ari",
    "silhouette label": "silhouette_score",
    "clisi": "clisi_knn",
    "bras": "bras",
    "ilisi": "ilisi_knn",
    "kbet": "kbet_per_label",
    "graph connectivity": "graph_connectivity",
    "pcr comparison": "pcr_comparison",
    "batch correction": "batch_correction",
    "bio conservation": "bio_conservation",
    "total": "total",
}
"""Column in the tables of scib-metrics' Benchmarker, in lower case -> id of the metric."""

_MODEL, _METRIC = ("model", "embedding", "method"), ("metric", "metric_type")
_SCIB_KIND = "Metric Type"


@dataclass(frozen=True)
class ScoredMetric:
    """Scores of several models in one metric of a task on one dataset.

    Attributes
    ----------
    dataset, task, metric : names of them
    setting : parameters that distinguish it from other rows of the metric; often empty
    values : model -> score, NaN if it is undefined
    errors : model -> standard error of the score, if it is known
    """

    dataset: str
    task: str
    metric: str
    setting: str
    values: Mapping[str, float]
    errors: Mapping[str, float]

    @property
    def higher_is_better(self) -> bool | None:
        """Whether higher scores are better; None if neither is, or if gpubench does not know the metric."""
        spec = published_spec(self.metric)
        return spec.higher_is_better if spec else None

    @property
    def is_aggregate(self) -> bool:
        """Whether it is a mean of other metrics of the task, which rank the models already."""
        return is_aggregate(self.metric)


def collect(places: Sequence[str | os.PathLike[str] | Result]) -> list[ScoredMetric]:
    """Collect the scores of results, and of tables of other packages.

    Parameters
    ----------
    places : results, result files, folders of them, and CSV or TSV tables

    Raises
    ------
    InputError
        A file is neither a result nor a table of scores, or a model was scored twice in a metric on a dataset.
    """
    results: dict[str, Result] = {}
    tables: list[Path] = []
    for i, place in enumerate(places, 1):
        if isinstance(place, Result):
            results[f"result {i}"] = place
        elif Path(place).suffix.lower() in TABLES:
            tables.append(Path(place))
        else:
            several = len(places) > 1
            results |= {f"{place}/{name}" if several else name: one for name, one in read_results(Path(place)).items()}
    sources = [(str(path), read_table(path, _name_of(path, tables))) for path in tables]
    names: set[str] = set()
    for group in comparable_groups(results):
        source = source_of(group)
        name = source if source not in names else f"{source} ({', '.join(group)})"
        names.add(name)
        sources += [(run, list(_from_result(name, result))) for run, result in group.items()]
    return _merged(sources)


def _name_of(path: Path, tables: Sequence[Path]) -> str:
    """Return the name of the dataset of a table: that of the file, with its folder if another file has the same."""
    is_unique = sum(other.stem == path.stem for other in tables) == 1
    return path.stem if is_unique else path.with_suffix("").as_posix()


def _merged(sources: Sequence[tuple[str, Sequence[ScoredMetric]]]) -> list[ScoredMetric]:
    """Bring the models of several sources together that were scored in the same metric on the same dataset.

    Raises
    ------
    InputError
        A model has two scores in the same metric on the same dataset.
    """
    merged: dict[tuple[str, str, str, str, int], ScoredMetric] = {}
    first_source: dict[tuple[tuple[str, str, str, str, int], str], str] = {}
    for source, scored in sources:
        seen: Counter[tuple[str, str, str, str]] = Counter()
        for one in scored:
            what = (one.dataset, one.task, one.metric, one.setting)
            key = (*what, seen[what])
            seen[what] += 1
            before = merged.get(key)
            for model in one.values:
                if before is not None and model in before.values:
                    raise InputError(
                        f"leaderboard: model {model!r} was scored twice in {one.metric!r} on {one.dataset!r}, in"
                        f" {first_source[key, model]!r} and {source!r}; give one of them"
                    )
                first_source[key, model] = source
            values, errors = (before.values, before.errors) if before is not None else ({}, {})
            merged[key] = replace(one, values={**values, **one.values}, errors={**errors, **one.errors})
    return list(merged.values())


def _from_result(dataset: str, result: Result) -> Iterator[ScoredMetric]:
    """Yield the scores of a result, each metric by the row that is a mean if there is one."""
    for line in summarize(result.results).rows:
        found = {cell.embedding: cell for cell in line.cells if cell is not None}
        errors = {name: _error(cell, result) for name, cell in found.items()}
        yield ScoredMetric(
            dataset,
            line.task,
            line.metric,
            line.setting,
            {name: cell.value for name, cell in found.items()},
            {name: error for name, error in errors.items() if error is not None},
        )


def _error(row: MetricResult, result: Result) -> float | None:
    """Return the standard error of a score: its own, or that from the scatter of its values of cells."""
    if row.stderr is not None or math.isnan(row.value):
        return row.stderr
    columns = result.cells.select(embedding=row.embedding, task=row.task, metric=row.metric)
    return standard_error(columns[0], result.cells.groups.get("label")) if len(columns) == 1 else None


def read_table(path: Path, dataset: str) -> list[ScoredMetric]:
    """Read a table of scores that another package, or `Result.to_csv`, has written.

    Two forms are read: a row for each score, with the columns model (or embedding), dataset (optional), task
    (optional), metric (or metric_type) and value; and the table of scib-metrics' `Benchmarker.get_results`, whose rows
    are embeddings.

    Parameters
    ----------
    path : CSV or TSV file
    dataset : name of the dataset, if the table has no column with it

    Raises
    ------
    InputError
        The file cannot be read, has neither form, or lacks names or numbers.
    """
    import pandas as pd

    try:
        frame = pd.read_csv(path, sep="\t" if path.suffix.lower() == ".tsv" else ",")
    except (OSError, ValueError) as error:
        fault = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{str(path)!r} cannot be read as a table of scores ({fault}); check the file") from error
    columns = {str(name).strip().lower().replace(" ", "_"): name for name in frame.columns}
    model = next((columns[name] for name in _MODEL if name in columns), None)
    metric = next((columns[name] for name in _METRIC if name in columns), None)
    if model is not None and metric is not None and "value" in columns:
        return list(_from_rows(frame, str(path), dataset, columns, model, metric))
    ids = {name: SCIB_METRICS.get(str(name).strip().lower()) for name in frame.columns}
    known = {name: metric_id for name, metric_id in ids.items() if metric_id}
    if known:
        return list(_from_scib(frame, str(path), dataset, known))
    raise InputError(
        f"{str(path)!r} has the columns {quoted(list(map(str, frame.columns)))}; give the columns model, metric and"
        " value, one score in each row, or the table that scib-metrics' Benchmarker returns"
    )


def _numbers(frame: Any, column: Any, where: str) -> Any:
    """Return a column as float64; empty fields are NaN, as undefined scores are."""
    import pandas as pd

    numbers = pd.to_numeric(frame[column], errors="coerce").astype(float)
    wrong = frame[column][(numbers.isna() & frame[column].notna()) | np.isinf(numbers)]
    if len(wrong):
        raise InputError(
            f"{where}: column {str(column)!r} has {len(wrong):,} values that are no finite numbers"
            f" ({quoted(list(map(str, wrong)))}); leave them empty if they are undefined"
        )
    return numbers


def _from_rows(
    frame: Any, where: str, dataset: str, columns: Mapping[str, str], model: str, metric: str
) -> Iterator[ScoredMetric]:
    described = ("stderr", "stderr_df", "n", "seconds", "approximate", "note", "seed", "random_seed")
    named = [columns[name] for name in ("dataset", "task", "run") if name in columns]
    for column in (model, metric, *named):
        if len(rows := np.flatnonzero(frame[column].isna())):
            raise InputError(f"{where}: {some_rows(rows, len(frame), f'have no {column}')}; name it, or leave them out")
    taken = {model, metric, columns["value"], *named}
    extra = [name for key, name in columns.items() if name not in taken and key not in described]
    settings = frame[extra].apply(lambda row: ", ".join(str(value) for value in row.dropna()), axis=1) if extra else ""
    keys = {
        "dataset": frame[columns["dataset"]] if "dataset" in columns else frame.get("run", dataset),
        "task": frame[columns["task"]] if "task" in columns else "scores",
        "metric": frame[metric],
        "setting": settings,
    }
    numbers = {"value": _numbers(frame, columns["value"], where)}
    if "stderr" in columns:
        numbers["stderr"] = _numbers(frame, columns["stderr"], where)
    rows = frame.assign(**{f"_{name}": values for name, values in (keys | numbers).items()})
    for key, own in rows.groupby([f"_{name}" for name in keys], sort=False):
        names = own[model].astype(str)
        if names.duplicated().any():
            twice = quoted(list(names[names.duplicated()].unique()))
            raise InputError(f"{where}: {twice} has several values of {key[2]!r} in one dataset; keep one of them")
        errors = own["_stderr"].dropna() if "stderr" in numbers else own["_value"][:0]
        own_dataset, task, name, setting = map(str, key)
        yield ScoredMetric(
            own_dataset,
            task,
            name,
            setting,
            dict(zip(names, own["_value"], strict=True)),
            {names[row]: float(error) for row, error in errors.items()},
        )


def _from_scib(frame: Any, where: str, dataset: str, metrics: Mapping[str, str]) -> Iterator[ScoredMetric]:
    first = frame.columns[0]
    if first in metrics:
        raise InputError(
            f"{where}: the names of the embeddings are missing, the first column is {first!r}; save the table with its"
            " index, as DataFrame.to_csv does by default"
        )
    rows = frame[frame[first].astype(str) != _SCIB_KIND]
    for column, metric in metrics.items():
        values = dict(zip(rows[first].astype(str), _numbers(rows, column, where), strict=True))
        yield ScoredMetric(dataset, "scib", metric, "", values, {})


def models_of(scored: Iterable[ScoredMetric]) -> list[str]:
    """Return the names of all models, in the order in which they first appear."""
    return list(dict.fromkeys(name for one in scored for name in one.values))

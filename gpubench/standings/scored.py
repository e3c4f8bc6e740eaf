"""Collect the scores of models on datasets, from results of gpubench and from tables of other packages."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpubench.core.errors import InputError, quoted
from gpubench.core.scores import MetricResult
from gpubench.metrics.published import published_spec
from gpubench.results.result import Result
from gpubench.results.runs import columns_of, comparable_groups, named_rows, read_results, source_of
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


def collect(places: Sequence[str | os.PathLike[str] | Result]) -> list[ScoredMetric]:
    """Collect the scores of results, and of tables of other packages.

    Parameters
    ----------
    places : results, result files, folders of them, and CSV or TSV tables

    Raises
    ------
    InputError
        A file is neither a result nor a table of scores.
    """
    results: dict[str, Result] = {}
    scored: list[ScoredMetric] = []
    for i, place in enumerate(places, 1):
        if isinstance(place, Result):
            results[f"result {i}"] = place
        elif Path(place).suffix.lower() in TABLES:
            scored += read_table(Path(place))
        else:
            several = len(places) > 1
            results |= {f"{place}/{name}" if several else name: one for name, one in read_results(Path(place)).items()}
    names: set[str] = set()
    for group in comparable_groups(results):
        source = source_of(group)
        name = source if source not in names else f"{source} ({', '.join(group)})"
        names.add(name)
        scored += _from_results(name, group)
    return scored


def _from_results(dataset: str, runs: Mapping[str, Result]) -> Iterator[ScoredMetric]:
    """Yield the scores of comparable runs, each metric by the row that is a mean if there is one."""
    rows = named_rows(runs)
    errors = {
        (name, row.task, row.metric, str(row.params)): error
        for name, result, embedding in columns_of(runs)
        for row in result.results
        if row.embedding == embedding and (error := _error(row, result)) is not None
    }
    for line in summarize(rows).rows:
        found = {cell.embedding: cell for cell in line.cells if cell is not None}
        keys = {name: (name, cell.task, cell.metric, str(cell.params)) for name, cell in found.items()}
        yield ScoredMetric(
            dataset,
            line.task,
            line.metric,
            line.setting,
            {name: cell.value for name, cell in found.items()},
            {name: errors[key] for name, key in keys.items() if key in errors},
        )


def _error(row: MetricResult, result: Result) -> float | None:
    """Return the standard error of a score: its own, or that from the scatter of its values of cells."""
    if row.stderr is not None or math.isnan(row.value):
        return row.stderr
    columns = result.cells.select(embedding=row.embedding, task=row.task, metric=row.metric)
    return standard_error(columns[0], result.cells.groups.get("label")) if len(columns) == 1 else None


def read_table(path: Path) -> list[ScoredMetric]:
    """Read a table of scores that another package, or `Result.to_csv`, has written.

    Two forms are read: a row for each score, with the columns model (or embedding), dataset (optional), task
    (optional), metric (or metric_type) and value; and the table of scib-metrics' `Benchmarker.get_results`, whose rows
    are embeddings. Without a column dataset, the name of the file names the dataset.

    Raises
    ------
    InputError
        The file cannot be read, or has neither form; the message names the columns.
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
        return list(_from_rows(frame, path.stem, columns, model, metric))
    ids = {name: SCIB_METRICS.get(str(name).strip().lower()) for name in frame.columns}
    known = {name: metric_id for name, metric_id in ids.items() if metric_id}
    if known:
        return list(_from_scib(frame, path.stem, known))
    raise InputError(
        f"{str(path)!r} has the columns {quoted(list(map(str, frame.columns)))}; give the columns model, metric and"
        " value, one score in each row, or the table that scib-metrics' Benchmarker returns"
    )


def _numbers(frame: Any, column: Any, where: str) -> Any:
    """Return a column as float64; empty fields are NaN, as undefined scores are."""
    import pandas as pd

    numbers = pd.to_numeric(frame[column], errors="coerce").astype(float)
    wrong = frame[column][numbers.isna() & frame[column].notna()]
    if len(wrong):
        raise InputError(
            f"{where}: column {str(column)!r} has {len(wrong):,} values that are no numbers"
            f" ({quoted(list(map(str, wrong)))}); leave them empty if they are undefined"
        )
    return numbers


def _from_rows(frame: Any, stem: str, columns: Mapping[str, str], model: str, metric: str) -> Iterator[ScoredMetric]:
    taken = {model, metric, *(columns[name] for name in ("value", "dataset", "task", "run") if name in columns)}
    described = ("stderr", "stderr_df", "n", "seconds", "approximate", "note", "seed", "random_seed")
    extra = [name for key, name in columns.items() if name not in taken and key not in described]
    settings = frame[extra].apply(lambda row: ", ".join(str(value) for value in row.dropna()), axis=1) if extra else ""
    keys = {
        "dataset": frame[columns["dataset"]] if "dataset" in columns else frame.get("run", stem),
        "task": frame[columns["task"]] if "task" in columns else "scores",
        "metric": frame[metric],
        "setting": settings,
    }
    rows = frame.assign(**{f"_{name}": values for name, values in keys.items()})
    for key, own in rows.groupby([f"_{name}" for name in keys], sort=False):
        names = own[model].astype(str)
        if names.duplicated().any():
            twice = quoted(list(names[names.duplicated()].unique()))
            raise InputError(f"{stem}: {twice} has several values of {key[2]!r} in one dataset; keep one of them")
        errors = own.get("stderr", ())
        dataset, task, name, setting = map(str, key)
        yield ScoredMetric(
            dataset,
            task,
            name,
            setting,
            dict(zip(names, _numbers(own, columns["value"], stem), strict=True)),
            {name: float(error) for name, error in zip(names, errors, strict=False) if not math.isnan(error)},
        )


def _from_scib(frame: Any, dataset: str, metrics: Mapping[str, str]) -> Iterator[ScoredMetric]:
    first = frame.columns[0]
    rows = frame[frame[first].astype(str) != _SCIB_KIND]
    for column, metric in metrics.items():
        values = dict(zip(rows[first].astype(str), _numbers(rows, column, dataset), strict=True))
        yield ScoredMetric(dataset, "scib", metric, "", values, {})


def models_of(scored: Iterable[ScoredMetric]) -> list[str]:
    """Return the names of all models, in the order in which they first appear."""
    return list(dict.fromkeys(name for one in scored for name in one.values))

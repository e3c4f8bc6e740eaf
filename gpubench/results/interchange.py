"""Results as objects of cz-benchmarks and scib-metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gpubench.core.errors import InputError
from gpubench.core.scores import MEAN, MetricResult

if TYPE_CHECKING:
    import pandas as pd

CZ_PARAMS = ("classifier", "train_species", "test_species", "condition")
"""Parameters of a metric result of cz-benchmarks."""


def to_czbenchmarks(results: Sequence[MetricResult], embedding: str | None = None) -> list[Any]:
    """See `Result.to_czbenchmarks`."""
    try:
        from czbenchmarks.metrics.types import MetricResult as CzResult
        from czbenchmarks.metrics.types import MetricType
    except ImportError as error:
        raise InputError(f"to_czbenchmarks needs czbenchmarks ({error}); install cz-benchmarks") from error
    names = list(dict.fromkeys(row.embedding for row in results))
    if embedding is None and len(names) > 1:
        raise InputError(f"to_czbenchmarks: the result has the embeddings {', '.join(names)}; choose one by embedding=")
    if embedding is not None and embedding not in names:
        raise InputError(f"to_czbenchmarks: the result has no embedding {embedding!r}; it has {', '.join(names)}")
    known = {kind.value for kind in MetricType}
    rows = [
        row
        for row in results
        if embedding in (None, row.embedding) and row.metric in known and row.params.get("condition") != MEAN
    ]
    return [
        CzResult(
            metric_type=MetricType(row.metric),
            value=row.value,
            params={name: row.params[name] for name in CZ_PARAMS if name in row.params},
        )
        for row in _means_first(rows)
    ]


def _means_first(rows: Sequence[MetricResult]) -> list[MetricResult]:
    """Sort as cz-benchmarks does: for each test set the means over classifiers, then the classifiers."""
    tasks = list(dict.fromkeys(row.task for row in rows))

    def position(row: MetricResult) -> tuple[int, str, str, bool]:
        params = row.params
        species = str(params.get("train_species", "")), str(params.get("test_species", ""))
        return tasks.index(row.task), *species, not row.aggregate

    return sorted(rows, key=position)


def to_scib_table(results: Sequence[MetricResult]) -> pd.DataFrame:
    """See `Result.to_scib_table`."""
    import pandas as pd

    from gpubench.metrics import METRICS
    from gpubench.metrics._metric import AGGREGATE
    from gpubench.tasks import TASKS

    rows = [row for row in results if row.task == "scib"]
    if not rows:
        raise InputError("to_scib_table: the result has no scores of the task 'scib'; score with tasks=['scib']")
    values: dict[str, dict[str, float]] = {}
    for row in rows:
        values.setdefault(row.embedding, {})[row.metric] = row.value
    declared = {metric: METRICS[metric].spec.scib for metric in TASKS["scib"].metrics}
    columns = [(metric, *column) for metric, column in declared.items() if column]
    columns.sort(key=lambda column: column[1] if column[2] == AGGREGATE else "")  # aggregates last, by name
    table = pd.DataFrame(
        {name: [own.get(metric) for own in values.values()] for metric, name, _ in columns},
        index=pd.Index(list(values), name="Embedding"),
        dtype=object,
    )
    table.loc["Metric Type"] = [kind for _, _, kind in columns]
    return table

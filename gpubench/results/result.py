"""Result of a run: scores, per-cell and per-perturbation values, and the files that they are written to."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from gpubench.core import scores
from gpubench.core.errors import InputError
from gpubench.core.files import write_atomically
from gpubench.core.scores import MEAN, CellScores, MetricResult, PerturbationTable
from gpubench.core.timeline import chrome_trace
from gpubench.results import notebook, table
from gpubench.results.cells_file import NAME as CELLS_NAME
from gpubench.results.cells_file import read_cells, write_cells
from gpubench.results.perturbations_file import NAME as PERTURBATIONS_NAME
from gpubench.results.perturbations_file import read_perturbations, write_perturbations
from gpubench.results.score_table import score_blocks, summarize

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

SCHEMA = 1
"""Version of the layout of `results.json`."""

_FLOATS = ("value", "stderr", "stderr_df", "seconds")
"""Numeric columns in which values may be missing."""

_CZ_PARAMS = ("classifier", "train_species", "test_species", "condition")
"""Parameters of a metric result of cz-benchmarks."""

_WIDTH = 100
_ROWS_SHOWN = 50


@dataclass(frozen=True)
class Result:
    """Scores of a run, as returned by `gpubench.score`; printing it shows tables of the scores.

    The methods that take a path write the file atomically, and raise InputError if it cannot be written.

    Attributes
    ----------
    results : rows, one for each score, in the order in which they were computed
    provenance : versions, machine, engine, seed, options and data (see `gpubench.running.provenance`)
    timeline : stages with their duration in seconds, bytes copied to the device, and peak memory
    skipped : tasks that were left out, each {"task", "reason"}
    failures : tasks that failed, each {"task", "embedding", "error"}; scores computed before the failure are in
        `results`
    interrupted : whether the run was stopped before its end
    cells : per-cell values from which the scores were computed; empty for a result that was read without them
    perturbations : values of the metrics for each perturbation; empty for a result that was read without them

    Examples
    --------
    >>> import numpy as np
    >>> import gpubench as gb
    >>> label = np.repeat(["a", "b"], 50)
    >>> cells = np.random.default_rng(0).normal(size=(100, 5)) + 5 * (label == "b")[:, None]
    >>> result = gb.score({"X": cells.astype("float32")}, label=label, tasks=["embedding"], engine="cpu")
    >>> print(result)  # doctest: +ELLIPSIS
    gpubench result: 1 score of 1 embedding
    <BLANKLINE>
                             X
    embedding
      silhouette_score  0...
    >>> len(result), result["X"].value("silhouette_score") > 0.8
    (1, True)
    """

    results: list[MetricResult]
    provenance: dict[str, Any]
    timeline: list[dict[str, Any]]
    skipped: list[dict[str, str]]
    failures: list[dict[str, str]]
    interrupted: bool = False
    cells: CellScores = field(default_factory=CellScores, compare=False)
    perturbations: PerturbationTable = field(default_factory=PerturbationTable, compare=False)

    def __post_init__(self) -> None:
        """Replace infinite scores by NaN with a note."""
        object.__setattr__(self, "results", [scores.finite_or_undefined(row) for row in self.results])

    def value(self, metric: str, **filters: Any) -> float:
        """Return the value of one row, selected by its metric and, if that has several rows, by further fields.

        Parameters
        ----------
        metric : name of the metric
        filters : values that the row must have: embedding="X_pca", task="scib", or parameters such as classifier="lr"

        Raises
        ------
        InputError
            If no row matches, or more than one.

        Examples
        --------
        >>> result.value("silhouette_score", embedding="X") > 0.8
        True
        """
        wanted = {"metric": metric, **filters}
        found = [row for row in self.results if all(_get(row, key) == wish for key, wish in wanted.items())]
        if len(found) == 1:
            return found[0].value
        call = f"value({', '.join([repr(metric), *(f'{key}={wish!r}' for key, wish in filters.items())])})"
        if not found:
            known = ", ".join(dict.fromkeys(row.metric for row in self.results)) or "none"
            raise InputError(f"{call}: no such row in this result; its metrics are: {known}")
        fields_apart = [key for key in ("embedding", "task") if len({_get(row, key) for row in found}) > 1]
        apart = ", ".join([*fields_apart, *table.telling_params(found)])
        raise InputError(f"{call}: {len(found)} rows match; tell them apart by {apart}")

    def plot(
        self,
        kind: Literal["table", "scores", "breakdown", "view", "perturbations"] = "scores",
        *,
        embedding: str | None = None,
        task: str | None = None,
        metric: str | None = None,
        by: str = "label",
    ) -> Figure:
        """Draw a figure for a paper and return it; notebooks show the figure, and its `savefig` writes PDF, SVG or PNG.

        Parameters
        ----------
        kind : "table" draws a row for each embedding, the best first, and a coloured column for each metric; "scores" a
            bar with 95% interval for each metric and embedding; "breakdown" the quantiles of the per-cell values of one
            metric in each group of cells; "view" the cells in two dimensions; "perturbations" the value of one metric
            for each perturbation, with lines for the baselines and the replicate
        embedding, task, metric : names of the embedding, task and metric to draw. If None, all are drawn if the figure
            can show several, else the only one
        by : column by which cells are grouped in a breakdown and coloured in a view: "label", "batch", "species",
            "time", or, in a view, "cluster"

        Raises
        ------
        InputError
            If nothing matches the names, or several match and the figure can show only one.

        Examples
        --------
        >>> result.plot("table").savefig("scores.pdf")
        >>> result.plot("breakdown", metric="silhouette_score", by="label").savefig("silhouette.pdf")
        """
        if kind == "table":
            from gpubench.results.table_figure import table_figure

            chosen = {"embedding": embedding, "task": task, "metric": metric}
            wanted = {key: wish for key, wish in chosen.items() if wish is not None}
            rows = [row for row in self.results if all(_get(row, key) == wish for key, wish in wanted.items())]
            return table_figure(rows)
        from gpubench.results.figures import perturbations_figure, plot

        if kind == "perturbations":
            return perturbations_figure(self.results, self.perturbations, metric)
        return plot(self.results, self.cells, kind, embedding=embedding, task=task, metric=metric, by=by)

    def to_frame(self) -> pd.DataFrame:
        """Return the rows as a pandas DataFrame: the fields of `MetricResult`, then one column for each parameter.

        The column of a parameter that has the name of a field gets the prefix `param_`. Rows without the parameter have
        a missing value.
        """
        import pandas as pd

        frame = pd.DataFrame(table.to_columns(self.results))
        return frame.astype({**dict.fromkeys(_FLOATS, float), "n": int, "approximate": bool})

    def to_czbenchmarks(self, embedding: str | None = None) -> list[Any]:
        """Convert the rows to `czbenchmarks.metrics.types.MetricResult`, in the order of cz-benchmarks.

        Rows that cz-benchmarks does not have are left out: those of users' scorers and of scib-metrics, and means over
        conditions.

        Parameters
        ----------
        embedding : name of the embedding; if None, the only one

        Raises
        ------
        InputError
            If czbenchmarks is not installed, the embedding is unknown, or it is None and there are several.
        """
        try:
            from czbenchmarks.metrics.types import MetricResult as CzResult
            from czbenchmarks.metrics.types import MetricType
        except ImportError as error:
            raise InputError(f"to_czbenchmarks needs czbenchmarks ({error}); install cz-benchmarks") from error
        names = list(dict.fromkeys(row.embedding for row in self.results))
        if embedding is None and len(names) > 1:
            raise InputError(
                f"to_czbenchmarks: the result has the embeddings {', '.join(names)}; choose one by embedding="
            )
        if embedding is not None and embedding not in names:
            raise InputError(f"to_czbenchmarks: the result has no embedding {embedding!r}; it has {', '.join(names)}")
        known = {kind.value for kind in MetricType}
        rows = [
            row
            for row in self.results
            if embedding in (None, row.embedding) and row.metric in known and row.params.get("condition") != MEAN
        ]
        return [
            CzResult(
                metric_type=MetricType(row.metric),
                value=row.value,
                params={name: row.params[name] for name in _CZ_PARAMS if name in row.params},
            )
            for row in _means_first(rows)
        ]

    def to_scib_table(self) -> pd.DataFrame:
        """Return the scores of the task `scib` in the layout of `scib_metrics.benchmark.Benchmarker.get_results`.

        The table has a row for each embedding and a last row "Metric Type". Its columns are the metrics, then the
        aggregates "Batch correction", "Bio conservation" and "Total".

        Raises
        ------
        InputError
            If the task `scib` was not run.
        """
        import pandas as pd

        from gpubench.metrics import METRICS
        from gpubench.metrics._metric import AGGREGATE
        from gpubench.tasks import TASKS

        rows = [row for row in self.results if row.task == "scib"]
        if not rows:
            raise InputError("to_scib_table: the result has no scores of the task 'scib'; score with tasks=['scib']")
        values: dict[str, dict[str, float]] = {}
        for row in rows:
            values.setdefault(row.embedding, {})[row.metric] = row.value
        declared = {metric: METRICS[metric].spec.scib for metric in TASKS["scib"].metrics}
        columns = [(metric, *column) for metric, column in declared.items() if column]
        columns.sort(key=lambda column: column[1] if column[2] == AGGREGATE else "")  # aggregates last, by name
        frame = pd.DataFrame(
            {name: [own.get(metric) for own in values.values()] for metric, name, _ in columns},
            index=pd.Index(list(values), name="Embedding"),
            dtype=object,
        )
        frame.loc["Metric Type"] = [kind for _, _, kind in columns]
        return frame

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write everything but `cells` and `perturbations` to a JSON file, with null for undefined values (NaN)."""
        content = {
            "schema": SCHEMA,
            "provenance": scores.plain(self.provenance),
            "results": [scores.to_dict(row) for row in self.results],
            "timeline": scores.plain(self.timeline),
            "skipped": scores.plain(self.skipped),
            "failures": scores.plain(self.failures),
            "interrupted": self.interrupted,
        }
        _write_json(content, path)

    def cells_to_parquet(self, path: str | os.PathLike[str]) -> None:
        """Write `cells` to a Parquet file with a row for each cell.

        `from_json` also reads this file if its name is cells.parquet and it is in the folder of the JSON file.
        """
        write_cells(self.cells, self.results, path)

    def perturbations_to_parquet(self, path: str | os.PathLike[str]) -> None:
        """Write `perturbations` to a Parquet file with a row for each prediction, perturbation and metric.

        `from_json` also reads this file if its name is perturbations.parquet and it is in the folder of the JSON file.
        """
        write_perturbations(self.perturbations, self.results, path)

    @classmethod
    def from_json(cls, path: str | os.PathLike[str], *, cells: bool = True) -> Result:
        """Read a result from a file written by `to_json`.

        Parameters
        ----------
        path : path of the JSON file
        cells : also read cells.parquet and perturbations.parquet from its folder, if they belong to these results

        Raises
        ------
        InputError
            If the file cannot be read, or is not a result of gpubench in a layout that this version can read.

        Examples
        --------
        >>> result.to_json("results.json")
        >>> gb.Result.from_json("results.json").results == result.results
        True
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{str(path)!r} cannot be read: {error.strerror}; check the name") from error
        except ValueError as error:
            raise InputError(f"{str(path)!r} is not a JSON file ({error}); pass a results.json") from error
        schema = content.get("schema") if isinstance(content, dict) else None
        if schema != SCHEMA:
            has = "is not a result of gpubench" if schema is None else f"has schema {schema!r}"
            raise InputError(f"{str(path)!r} {has}; this version of gpubench reads results.json of schema {SCHEMA}")
        try:
            names = [field.name for field in fields(cls) if field.name not in ("results", "cells", "perturbations")]
            rest = {name: content[name] for name in names}
            result = cls(results=[scores.from_dict(row) for row in content["results"]], **rest)
        except (KeyError, TypeError) as error:
            why = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise InputError(
                f"{str(path)!r} is not a whole result: {why}; pass a results.json, or score again"
            ) from error
        if not cells:
            return result
        found = read_cells(Path(path).with_name(CELLS_NAME), result.results)
        table = read_perturbations(Path(path).with_name(PERTURBATIONS_NAME), result.results)
        return replace(result, cells=found or result.cells, perturbations=table or result.perturbations)

    def to_trace(self, path: str | os.PathLike[str]) -> None:
        """Write the timeline as a trace for https://ui.perfetto.dev or chrome://tracing."""
        _write_json(chrome_trace(scores.plain(self.timeline)), path)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the rows of `to_frame` to a CSV file in full precision; NaN and missing values are empty."""
        _write_text(table.to_csv(self.results), path)

    def to_parquet(self, path: str | os.PathLike[str]) -> None:
        """Write the rows of `to_frame` to a Parquet file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        types = {
            **dict.fromkeys(("embedding", "task", "metric", "note"), pa.string()),
            **dict.fromkeys(_FLOATS, pa.float64()),
            "n": pa.int64(),
            "approximate": pa.bool_(),
        }
        columns = table.to_columns(self.results)
        content = pa.table({name: pa.array(cells, types.get(name)) for name, cells in columns.items()})
        write_atomically(path, lambda file: pq.write_table(content, file))

    @property
    def df(self) -> pd.DataFrame:
        """The table of `to_frame`: one row for each score."""
        return self.to_frame()

    @overload
    def __getitem__(self, key: str) -> Result: ...

    @overload
    def __getitem__(self, key: tuple[str, str]) -> float: ...

    def __getitem__(self, key: str | tuple[str, str]) -> Result | float:
        """Return the result of one embedding, or the value of one metric of it.

        `result["X_pca"]` has the scores and failures of an embedding, with the values of its cells.
        `result["X_pca", "silhouette_score"]` is a number, as `value` returns it: if several rows have the metric, and
        one of them is the mean of the others, it is the mean.
        """
        if isinstance(key, tuple):
            rows = [row for row in self[key[0]].results if row.metric == key[1]]
            means = [row for row in rows if row.aggregate]
            return means[0].value if len(means) == 1 else self.value(key[1], embedding=key[0])
        embedding = key
        names = list(dict.fromkeys(row.embedding for row in self.results))
        if embedding not in names:
            raise KeyError(f"there is no embedding {embedding!r}; there are: {', '.join(map(repr, names)) or 'none'}")
        own = [column for column in self.cells.columns if column.embedding == embedding]
        return replace(
            self,
            results=[row for row in self.results if row.embedding == embedding],
            failures=[failure for failure in self.failures if failure["embedding"] == embedding],
            cells=replace(self.cells, columns=own),
        )

    def __len__(self) -> int:
        """Return the number of scores."""
        return len(self.results)

    def __bool__(self) -> bool:
        """Return True: a result without scores is a result, with reasons."""
        return True

    def __iter__(self) -> Iterator[MetricResult]:
        """Iterate over the scores."""
        return iter(self.results)

    def __str__(self) -> str:
        summary = summarize(self.results)
        blocks = score_blocks(summary, width=_WIDTH, limit=_ROWS_SHOWN)
        blocks += table.result_blocks([], self.skipped, self.failures)
        blocks += [table.Lines(self.note_lines())] if self.notes else []
        return "\n\n".join(filter(None, [self._summary(), table.to_text(blocks, _WIDTH)]))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        summary = summarize(self.results)
        rest = table.result_blocks([], self.skipped, self.failures)
        others = f"{_count(summary.n_others, 'more row')}, such as those of each classifier"
        return notebook.block_html(
            notebook.lines_html([], self._summary()),
            notebook.summary_html(summary, limit=_ROWS_SHOWN),
            *(notebook.lines_html(block.lines, block.heading) for block in rest if isinstance(block, table.Lines)),
            notebook.lines_html(self.note_lines()),
            notebook.folded_html(others, notebook.summary_html(summarize(self.results, all_rows=True)))
            if summary.n_others
            else "",
        )

    @property
    def notes(self) -> list[str]:
        """Sentences on how the rows of the inputs were matched and which cells were left out."""
        return list(self.provenance.get("notes", ()))

    def note_lines(self) -> list[str]:
        """Return the notes as lines to print, each beginning with "Note:"."""
        return [table.printable(f"Note: {note}") for note in self.notes]

    def _summary(self) -> str:
        embeddings = len({row.embedding for row in self.results})
        scores_, embeddings_ = _count(len(self), "score"), _count(embeddings, "embedding")
        return f"gpubench result: {scores_} of {embeddings_}{', interrupted' if self.interrupted else ''}"


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _get(row: MetricResult, key: str) -> Any:
    return getattr(row, key) if key in table.FIELDS else row.params.get(key)


def _means_first(rows: Sequence[MetricResult]) -> list[MetricResult]:
    """Sort rows as cz-benchmarks does: by task and species, with means over classifiers before single classifiers."""
    tasks = list(dict.fromkeys(row.task for row in rows))

    def position(row: MetricResult) -> tuple[int, str, str, bool]:
        params = row.params
        species = str(params.get("train_species", "")), str(params.get("test_species", ""))
        return tasks.index(row.task), *species, not row.aggregate

    return sorted(rows, key=position)


def _write_json(content: Any, path: str | os.PathLike[str]) -> None:
    _write_text(json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n", path)


def _write_text(text: str, path: str | os.PathLike[str]) -> None:
    """Write text as UTF-8, atomically; lone surrogates, as in damaged file names, are escaped."""
    write_atomically(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))

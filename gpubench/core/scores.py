"""Scores, rows of results, and the per-cell values from which scores are averaged."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

import numpy as np

from gpubench.core.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.core.types import Labels


def plain(value: Any) -> Any:
    """Convert a value to JSON types: NumPy scalars and arrays to numbers and lists, NaN to None.

    Raises TypeError if a type cannot be converted.
    """
    if hasattr(value, "tolist"):  # a scalar or an array
        value = value.tolist()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no place in a result: {value!r}")


def to_dict(row: MetricResult) -> dict[str, Any]:
    """Convert a result row to a JSON object."""
    return {name: plain(value) for name, value in asdict(row).items()}


def from_dict(row: Mapping[str, Any]) -> MetricResult:
    """Convert a JSON object to a result row; a value of null becomes NaN."""
    return MetricResult(**{**row, "value": math.nan if row["value"] is None else row["value"]})


def score_to_dict(score: Score) -> dict[str, Any]:
    """Convert a score to a JSON object."""
    fields_of_score = ("n", "stderr", "stderr_df", "note", "params", "approximate")
    return {"value": plain(float(score)), **{name: plain(getattr(score, name)) for name in fields_of_score}}


def score_from_dict(score: Mapping[str, Any]) -> Score:
    """Convert a JSON object to a score; a value of null becomes NaN."""
    rest = {name: value for name, value in score.items() if name != "value"}
    return Score(math.nan if score["value"] is None else score["value"], **rest)


def finite_or_undefined(row: MetricResult) -> MetricResult:
    """Return the row, with an infinite value, as a user's scorer may return, replaced by NaN and a note."""
    if not math.isinf(row.value):
        return row
    reason = f"undefined: the value was {row.value}"
    return replace(row, value=math.nan, note=f"{row.note}; {reason}" if row.note else reason)


def pairing_problem(first: CellScores, other: CellScores) -> str:
    """Return why two results cannot be paired cell by cell; an empty string if they can."""
    if not first.columns or not other.columns:
        return "not both results have values of cells"
    differ = first.n_cells != other.n_cells or any(
        first.groups[role].names != other.groups[role].names
        or not np.array_equal(first.groups[role].codes, other.groups[role].codes)
        for role in first.groups.keys() & other.groups.keys()
    )
    if not differ and first.names is not None and other.names is not None:
        differ = not np.array_equal(first.names, other.names)
    return "the results are not of the same cells" if differ else ""


MEAN = "MEAN"
"""Parameter value that marks a row as the mean over all values of this parameter.

A mean over classifiers also lists them: "MEAN(knn,lr,rf)".
"""

MeanOver: TypeAlias = Literal["cells", "labels"]
"""How a score follows from the values of cells: their mean, or the mean over labels of the mean within each label."""


class Score(float):
    """A metric's value: a float that also says how it was obtained.

    Attributes
    ----------
    n : number of cells used
    stderr : standard error of the value if it is an estimate, else None
    stderr_df : degrees of freedom of `stderr` if it is estimated from few values, such as those of five folds
    note : omissions, or the reason why the value is undefined (NaN)
    params : parameters with which the value was computed
    approximate : whether an approximate method was used
    cells : (n,) float32 on the host, values of the cells if the score is a mean over cells (see
        `MetricSpec.mean_over`), NaN for cells that were left out or not sampled; else None
    """

    n: int
    stderr: float | None
    stderr_df: int | None
    note: str
    params: dict[str, Any]
    approximate: bool
    cells: NDArray[np.float32] | None

    def __new__(
        cls,
        value: float,
        *,
        n: int = 0,
        stderr: float | None = None,
        stderr_df: int | None = None,
        note: str = "",
        params: Mapping[str, Any] | None = None,
        approximate: bool = False,
        cells: NDArray[np.float32] | None = None,
    ) -> Self:
        """Make a score of `value`."""
        self = super().__new__(cls, value)
        self.n = n
        self.stderr = stderr
        self.stderr_df = stderr_df
        self.note = note
        self.params = dict(params or {})
        self.approximate = approximate
        self.cells = cells
        return self


@dataclass(frozen=True, slots=True)
class MetricResult:
    """One published number: a row of `results.json`.

    Attributes
    ----------
    embedding, task, metric : names of the embedding, the task and the metric
    value : score; NaN if the metric is undefined, for the reason in `note`
    stderr : standard error of the value if it is an estimate, else None
    stderr_df : degrees of freedom of `stderr` if it is estimated from few values, such as those of five folds
    params : parameters that distinguish this row from others of the same metric (classifier, condition, species ...)
    n : number of cells used
    seconds : time spent on this score alone, without work shared by several scores, such as the neighbour search
    approximate : whether an approximate method was used
    note : omissions and their reasons; empty if there are none
    """

    embedding: str
    task: str
    metric: str
    value: float
    stderr: float | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    n: int = 0
    seconds: float = 0.0
    approximate: bool = False
    note: str = ""
    stderr_df: int | None = None

    @property
    def aggregate(self) -> bool:
        """Whether the value is a mean over other rows: over classifiers, or over conditions."""
        return any(names_mean(value) for value in self.params.values())


def names_mean(value: Any) -> bool:
    """Whether a parameter value marks a row as the mean of other rows: "MEAN", or "MEAN(knn,lr,rf)"."""
    return str(value) == MEAN or str(value).startswith(f"{MEAN}(")


CLUSTER = "cluster"
"""Name of the column of clusters."""

PREDICTED = "predicted_label"
"""Name of the column of predicted labels."""

FOLD = "fold"
"""Name of the column of folds in which cells were tested."""


@dataclass(frozen=True, slots=True)
class CellColumn:
    """A column with one value per cell: the number that a score averages, or a class such as a cluster.

    Attributes
    ----------
    embedding, task : embedding and task of the result row that the column belongs to
    metric : metric of that row; `CLUSTER`, `PREDICTED` or `FOLD` if the values are classes
    values : (n,) float32, NaN for cells that were left out or not sampled; for classes int32 codes, -1 for no class
    params : parameters that distinguish columns of one metric: "classifier", and across species "train_species"
    names : names of the classes, in the order of the codes; None if the values are numbers
    mean_over : how the score follows from the values, see `gpubench.metrics._metric.MetricSpec`. If the score was
        computed on a sample, it differs from the plain mean, because cells are sampled more densely where values vary
    """

    embedding: str
    task: str
    metric: str
    values: NDArray[np.float32] | NDArray[np.int32]
    params: Mapping[str, str] = field(default_factory=dict)
    names: tuple[str, ...] | None = None
    mean_over: MeanOver = "cells"


@dataclass(frozen=True, slots=True)
class CellView:
    """Two-dimensional coordinates of cells, for drawing."""

    title: str  # description of the two dimensions
    rows: NDArray[np.int64]  # (m,) indices of the drawn cells, ascending; a random sample if there are many cells
    xy: NDArray[np.float32]  # (m, 2) float32, coordinates of these cells


MAX_NAMES = 2_000_000
"""Largest number of cells for which names are stored; reading more would take longer than computing many scores."""


@dataclass(slots=True)
class CellScores:
    """Per-cell values of a run: groups, scores, coordinates for drawing, and names.

    Attributes
    ----------
    n_cells : number of cells n
    groups : "label", "batch", "species", "sample" or "time" -> group of each cell, for the columns that were given
    times : (n,) float64, time of each cell; None if no time was given
    columns : columns of values, in the order in which they were computed
    views : embedding -> its coordinates for drawing; the only key is "" if the input has coordinates for all embeddings
    names : (n,) names of the cells as text; None if the inputs have none, or there are more than `MAX_NAMES` cells
    """

    n_cells: int = 0
    groups: dict[str, Labels] = field(default_factory=dict)
    times: NDArray[np.float64] | None = None
    columns: list[CellColumn] = field(default_factory=list)
    views: dict[str, CellView] = field(default_factory=dict)
    names: NDArray[np.object_] | None = None

    def taken(self, order: NDArray[np.intp]) -> CellScores:
        """Return a copy with the cells in the given order, a permutation of all cells."""
        place = np.argsort(order)
        views = {}
        for name, view in self.views.items():
            rows = np.argsort(place[view.rows])
            views[name] = CellView(view.title, place[view.rows][rows], view.xy[rows])
        return CellScores(
            self.n_cells,
            {role: replace(labels, codes=labels.codes[order]) for role, labels in self.groups.items()},
            None if self.times is None else self.times[order],
            [replace(column, values=column.values[order]) for column in self.columns],
            views,
            None if self.names is None else self.names[order],
        )

    def select(self, **wanted: Any) -> list[CellColumn]:
        """Return the columns that match all of these: embedding, task, metric, parameters such as classifier="lr"."""
        return [column for column in self.columns if all(_get(column, key) == wish for key, wish in wanted.items())]

    def find(self, metric: str, **wanted: Any) -> CellColumn:
        """Return the column of a metric; further arguments, as in `select`, choose among several columns.

        Raises
        ------
        InputError
            No column matches, or more than one.

        Examples
        --------
        >>> result.cells.find("silhouette_score", embedding="X_pca", task="embedding").values  # doctest: +SKIP
        """
        found = self.select(metric=metric, **wanted)
        if len(found) != 1:
            asked = ", ".join([repr(metric), *(f"{key}={wish!r}" for key, wish in wanted.items())])
            known = ", ".join(dict.fromkeys(column.metric for column in self.columns)) or "none"
            what = "tell them apart by embedding, task or parameters" if found else f"there are: {known}"
            raise InputError(f"find({asked}): {len(found)} columns of cells match; {what}")
        return found[0]


def _get(column: CellColumn, key: str) -> Any:
    return getattr(column, key) if key in ("embedding", "task", "metric") else column.params.get(key)


@dataclass(frozen=True, slots=True)
class EffectExample:
    """Real and predicted effect of one perturbation, as an example for a figure.

    Attributes
    ----------
    prediction, context, perturbation : what the effect is of
    rank : "best", "median" or "worst" of all perturbations by the correlation
    correlation : Pearson's correlation over all genes of the real and the predicted effect
    genes : names of the genes with the largest effects
    real, predicted : their effects, the mean log expression minus that of the control
    """

    prediction: str
    context: str
    perturbation: str
    rank: str
    correlation: float
    genes: tuple[str, ...]
    real: tuple[float, ...]
    predicted: tuple[float, ...]


@dataclass(slots=True)
class PerturbationTable:
    """Table of the value of each metric for each perturbation; the lists are its columns.

    Attributes
    ----------
    prediction, context, perturbation, metric : names that identify the row; the context is "" if there is only one
    value : value of the metric; NaN if it is undefined
    reason : reason why the value is undefined; "" if it is defined
    examples : effects of a few perturbations of each prediction; they are no column
    """

    prediction: list[str] = field(default_factory=list)
    context: list[str] = field(default_factory=list)
    perturbation: list[str] = field(default_factory=list)
    metric: list[str] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    reason: list[str] = field(default_factory=list)
    examples: list[EffectExample] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.value)

    def add(self, prediction: str, context: str, rows: Iterable[tuple[str, str, float, str]]) -> None:
        """Append rows (perturbation, metric, value, reason) for one prediction in one context."""
        for perturbation, metric, value, reason in rows:
            self.prediction.append(prediction)
            self.context.append(context)
            self.perturbation.append(perturbation)
            self.metric.append(metric)
            self.value.append(value)
            self.reason.append(reason)

    def values_of(self, prediction: str, metric: str, context: str = "") -> dict[str, float]:
        """Return perturbation -> value, for one metric of one prediction in one context."""
        rows = zip(self.prediction, self.metric, self.context, self.perturbation, self.value, strict=True)
        wanted = prediction, metric, context
        return {perturbation: value for *what, perturbation, value in rows if tuple(what) == wanted}

"""Scores, result rows, and the values of cells that scores are made of."""

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
    """Convert a value to JSON types: NumPy scalars and arrays to Python's, NaN to None; TypeError for any others."""
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
    """Make the JSON object of a row."""
    return {name: plain(value) for name, value in asdict(row).items()}


def from_dict(row: Mapping[str, Any]) -> MetricResult:
    """Make the row of a JSON object; its value is NaN where the object has null."""
    return MetricResult(**{**row, "value": math.nan if row["value"] is None else row["value"]})


def score_to_dict(score: Score) -> dict[str, Any]:
    """Make the JSON object of a score."""
    fields_of_score = ("n", "stderr", "stderr_df", "note", "params", "approximate")
    return {"value": plain(float(score)), **{name: plain(getattr(score, name)) for name in fields_of_score}}


def score_from_dict(score: Mapping[str, Any]) -> Score:
    """Make the score of a JSON object; its value is NaN where the object has null."""
    rest = {name: value for name, value in score.items() if name != "value"}
    return Score(math.nan if score["value"] is None else score["value"], **rest)


def finite_or_undefined(row: MetricResult) -> MetricResult:
    """Return the row; an infinite value, as a user's scorer may return, becomes NaN with a note."""
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
"""Value of a parameter in rows with a mean over the other values; a mean over classifiers lists them."""

MeanOver: TypeAlias = Literal["cells", "labels"]
"""Whether a score is the mean of its cells, or of the labels, each with the mean of its cells."""


class Score(float):
    """A metric's value: a float that also says how it was obtained.

    Attributes
    ----------
    n : cells that the value is made of
    stderr : standard error where the value is an estimate, else None
    stderr_df : its degrees of freedom, where it is the scatter of few values, such as those of five folds
    note : what was left out, or why the value is undefined (NaN)
    params : parameters that decided the number
    approximate : whether an approximate method was used
    cells : (n,) float32 on the host, what the value is the mean of where it is a mean over cells (see
        `MetricSpec.mean_over`), NaN for cells that were left out or not drawn; else None
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
    embedding, task, metric : ids
    value : NaN where the metric is undefined; then `note` says why
    stderr : standard error of the value where it is an estimate
    stderr_df : its degrees of freedom, where it is the scatter of few values, such as those of five folds
    params : parameters that tell this row from others of the same metric (classifier, condition, species ...)
    n : cells used
    seconds : time that this number took beyond what it shares with others
    approximate : whether an approximate method was used
    note : what was left out and why
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
    """Return whether a parameter value marks a row as the mean of other rows: `MEAN`, or `MEAN(knn,lr,rf)`."""
    return str(value) == MEAN or str(value).startswith(f"{MEAN}(")


CLUSTER = "cluster"
"""Name of the column of clusters."""

PREDICTED = "predicted_label"
"""Name of the column of predicted labels."""

FOLD = "fold"
"""Name of the column of folds in which cells were tested."""


@dataclass(frozen=True, slots=True)
class CellColumn:
    """One value for each cell: a value that a score averages, or a class.

    Attributes
    ----------
    embedding, task : of the row that it belongs to
    metric : of that row; `CLUSTER`, `PREDICTED` or `FOLD` where the values are classes
    values : (n,) float32, NaN for cells that do not count or were not drawn; of classes int32 codes, -1 for none
    params : what tells columns of one metric apart: "classifier", and between species "train_species"
    names : of the classes, in the order of the codes; None where the values are numbers
    mean_over : how the score follows from the values, see `gpubench.metrics._metric.MetricSpec`. Cells of a sampled
        score are drawn more densely where values scatter, so that their plain mean is not it
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
    """Cells in two dimensions, for drawing."""

    title: str  # what the dimensions are
    rows: NDArray[np.int64]  # (m,) the cells that are drawn, ascending; of many a random sample
    xy: NDArray[np.float32]  # (m, 2) float32, where they are


MAX_NAMES = 2_000_000
"""Cells whose names a run stores at most: more would take longer to read than many a score to compute."""


@dataclass(slots=True)
class CellScores:
    """The values of each cell that a run stores.

    Attributes
    ----------
    n_cells : n
    groups : "label", "batch", "species", "sample", "time" -> the cells' groups, of those that were given
    times : (n,) float64, or None where no time was given
    columns : in the order in which they were computed
    views : embedding -> how it looks; with the one key "" where all are drawn on coordinates that came with the cells
    names : (n,) names of the cells as text; None where the inputs have none, or there are more than `MAX_NAMES` cells
    """

    n_cells: int = 0
    groups: dict[str, Labels] = field(default_factory=dict)
    times: NDArray[np.float64] | None = None
    columns: list[CellColumn] = field(default_factory=list)
    views: dict[str, CellView] = field(default_factory=dict)
    names: NDArray[np.object_] | None = None

    def taken(self, order: NDArray[np.intp]) -> CellScores:
        """Return the values of all cells in another order."""
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
        """Return the columns of this embedding, task, metric, or of these parameters, such as classifier="lr"."""
        return [column for column in self.columns if all(_get(column, key) == wish for key, wish in wanted.items())]

    def find(self, metric: str, **wanted: Any) -> CellColumn:
        """Return the one column of a metric.

        Raises
        ------
        InputError
            There is none, or more than one.

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


@dataclass(slots=True)
class PerturbationTable:
    """The value of each metric for each perturbation; one item of each list is one value.

    Attributes
    ----------
    prediction, context, perturbation, metric : what it is the value of; the context is "" where there is one
    value : NaN where the metric is undefined
    reason : why it is undefined; "" where it is not
    """

    prediction: list[str] = field(default_factory=list)
    context: list[str] = field(default_factory=list)
    perturbation: list[str] = field(default_factory=list)
    metric: list[str] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    reason: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.value)

    def add(self, prediction: str, context: str, rows: Iterable[tuple[str, str, float, str]]) -> None:
        """Append (perturbation, metric, value, reason) of a prediction in a context."""
        for perturbation, metric, value, reason in rows:
            self.prediction.append(prediction)
            self.context.append(context)
            self.perturbation.append(perturbation)
            self.metric.append(metric)
            self.value.append(value)
            self.reason.append(reason)

    def values_of(self, prediction: str, metric: str, context: str = "") -> dict[str, float]:
        """Return perturbation -> value of one metric of a prediction."""
        rows = zip(self.prediction, self.metric, self.context, self.perturbation, self.value, strict=True)
        wanted = prediction, metric, context
        return {perturbation: value for *what, perturbation, value in rows if tuple(what) == wanted}

"""The declaration of a metric, which is attached to its function; and checks of columns."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, cast

import numpy as np

from gpubench.core.errors import GpubenchWarning, InputError, give_warnings
from gpubench.core.types import Labels
from gpubench.data._formats.row_names import names_reader
from gpubench.data.alignment import NamedRows, align

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.core.scores import MeanOver, Score
    from gpubench.engines.costs import Cost


def per_cell_values(values: NDArray[Any], rows: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """Return values of cells as the float32 array that `Score.cells` takes.

    If the (n,) mask `rows` is given, `values` are those of the marked cells, and the other cells get NaN.
    """
    if rows is None or rows.all():
        return values.astype(np.float32)
    cells = np.full(len(rows), np.nan, np.float32)
    cells[rows] = values
    return cells


def check_several(labels: Labels) -> None:
    """Raise InputError if a column has a single value, so that there are no groups to compare."""
    if labels.n_classes < 2:
        raise InputError(
            f"{labels.key} has one value ({labels.names[0]!r}) in all {len(labels):,} rows; at least two are needed"
        )


def check_groups(labels: Labels) -> None:
    """Raise InputError if a column has a single value, or a different value in each row."""
    check_several(labels)
    if labels.n_classes == len(labels):
        raise InputError(
            f"{labels.key} has a different value in each of its {len(labels):,} rows; give a column that groups cells"
        )


def contingency(rows: NDArray[np.int32], columns: NDArray[np.int32], n_rows: int, n_columns: int) -> NDArray[np.int64]:
    """Count the cells with each pair of a row code and a column code; returns (n_rows, n_columns) int64."""
    pairs = rows.astype(np.int64) * n_columns + columns
    return np.bincount(pairs, minlength=n_rows * n_columns).reshape(n_rows, n_columns)


P = ParamSpec("P")


BIO, BATCH, AGGREGATE = "Bio conservation", "Batch correction", "Aggregate score"
"""Types of metrics in the table of scib-metrics' Benchmarker."""


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """The declaration of a metric.

    Tasks, the plan of a run, tables and tests are derived from it.

    Attributes
    ----------
    id : identifier; that of cz-benchmarks if it has the metric
    title : name in tables and reports
    bounds : smallest and largest possible value
    higher_is_better : whether larger values are better; None if neither end is better
    description : one sentence for reports
    mean_over : how the value follows from `Score.cells`: "cells" for their mean, "labels" for the mean over labels of
        the mean of each label's cells
    needs : columns that the function takes after the embedding, in this order: "label", "batch", "time"; empty for
        metrics that do not score an embedding by its columns
    options : names of the task options that are passed to the function as keyword arguments
    neighbors : function of the task options that returns how many neighbours of each cell, the cell itself not
        included, the metric takes from the shared k-NN graph; None if it takes none
    sampled : whether the metric does not use the shared graph when the engine estimates means over neighbourhoods from
        a sample of cells
    cost : function of the cost model, sizes, neighbours and columns that returns the cost in addition to the shared
        graph, for plans; None if it is not known
    scib : name and type of the metric's column in the table of scib-metrics' Benchmarker; None if that has no such
        column
    """

    id: str
    title: str
    bounds: tuple[float, float] = (0, 1)
    higher_is_better: bool | None = True
    description: str = ""
    mean_over: MeanOver = "cells"
    needs: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    neighbors: Callable[[Any], int] | None = None
    sampled: bool = False
    cost: Callable[..., Cost] | None = None
    scib: tuple[str, str] | None = None


class Metric(Protocol[P]):
    """The function of a metric; its attribute `spec` has the metric's id, title, inputs, bounds and direction."""

    spec: MetricSpec
    __name__: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Score:
        """Compute the score."""


def metric(
    id: str,  # noqa: A002 - the field's word
    title: str,
    *,
    by_name: bool = True,
    **declared: Any,
) -> Callable[[Callable[P, Score]], Metric[P]]:
    """Return a decorator that attaches a `MetricSpec` to the function of a metric.

    `declared` are further attributes of the spec. Its description is the first line of the function's docstring,
    without "Compute the". If `neighbors` is declared and `cost` is not, the cost is that of looking up one value for
    each neighbour. If `by_name`, the rows of pandas arguments are matched by their index.
    """
    if "neighbors" in declared:
        declared.setdefault("cost", lambda model, sizes, k, *_: model.look_up(sizes.n, k))

    def attach(function: Callable[P, Score]) -> Metric[P]:
        published = cast("Metric[P]", _matching_rows(function) if by_name else function)
        description = (function.__doc__ or "").strip().splitlines()[0].removeprefix("Compute ").removeprefix("the ")
        description = description[:1].upper() + description[1:]
        published.spec = MetricSpec(id, title, description=description, **declared)
        return published

    return attach


def _matching_rows(function: Callable[P, Score]) -> Callable[P, Score]:
    """Wrap a metric so that the rows of its pandas arguments are reordered by index, to the order of the first one."""

    @wraps(function)
    def matched(*args: P.args, **kwargs: P.kwargs) -> Score:
        given: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
        indexed = {key: value for key, value in given if type(value).__name__ in _INDEXED}
        first = next(iter(indexed.values()), None)
        if len(indexed) > 1:
            _warn_of_exchanged(inspect.signature(function).bind(*args, **kwargs).arguments)
        if first is None or all(value.index.equals(first.index) for value in indexed.values()):
            return function(*args, **kwargs)
        names = inspect.signature(function).parameters
        inputs = [
            NamedRows(str(list(names)[key] if isinstance(key, int) else key), len(value), names_reader(value))
            for key, value in indexed.items()
        ]
        orders = dict(zip(indexed, align(inputs, unit="rows").orders, strict=True))
        taken: Any = {key: indexed[key].iloc[order] for key, order in orders.items() if order is not None}
        positional: Any = [taken.get(i, value) for i, value in enumerate(args)]
        return function(*positional, **{**kwargs, **{key: taken[key] for key in taken if isinstance(key, str)}})

    return matched


def _warn_of_exchanged(arguments: Mapping[str, Any]) -> None:
    """Warn if the names of two Series say that labels were given for batches, and batches for labels."""
    names = [str(getattr(arguments.get(of, arguments.get(f"{of}es")), "name", "")) for of in ("labels", "batch")]
    if look_exchanged(*names):
        given = f"labels={names[0]!r} and batch={names[1]!r} look exchanged"
        give_warnings([GpubenchWarning(f"{given}; labels are what should stay apart, batches what should mix")])


def look_exchanged(label: str, batch: str) -> bool:
    """Whether the names of the columns of labels and of batches say that one is the other.

    Examples
    --------
    >>> look_exchanged("donor", "cell_type"), look_exchanged("cell_type", "donor")
    (True, False)
    """
    return bool(_LIKE_BATCH.search(label) and _LIKE_LABEL.search(batch))


_LIKE_BATCH = re.compile(r"(?i)batch|donor|sample|patient|individual|subject|library|plate|assay|lane|replicate|study")
_LIKE_LABEL = re.compile(r"(?i)cell.?type|cell.?class|label|annotation|cluster|leiden|louvain|ontology|lineage")

_INDEXED = ("Series", "DataFrame")

"""Accuracy, F1, precision, recall and AUROC of predicted labels: for one test set, and as means over folds.

The metrics are made from the one list `MEASURES`, under each id that cz-benchmarks gives them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.data import encode_labels
from gpubench.data.host import to_host
from gpubench.data.messages import quoted
from gpubench.engines import get_engine
from gpubench.errors import InputError
from gpubench.metrics._metric import Metric, metric
from gpubench.metrics._outcome import MEASURES, Measure, Outcome, mean_over_folds
from gpubench.types import Score

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.base import Engine

_DOCSTRING = """{summary}

    Parameters
    ----------
    {parameters}
    engine : where to compute; None: the best that works here

    Returns
    -------
    Score
        In [0, 1], or NaN with a note where it is undefined.

    Raises
    ------
    InputError
        Missing labels, lengths that differ, or no cells.
    """
_LABELS = "y_true, y_pred : (m,) labels of any kind"
_PROBA = """y_true : (m,) labels of any kind
    y_proba : (m, L) probability of each label, in sorted order; or (m,) of the second of two
    classes : the labels of the columns, where `y_true` lacks some; None: the sorted labels of `y_true`"""


def _of_one_test_set(measure: Measure, metric_id: str) -> Metric[...]:
    """Publish a measure as a metric of true labels and predictions."""

    def from_labels(y_true: Any, y_pred: Any, *, engine: Engine | str | None = None) -> Score:
        return measure.of(_outcome_of_labels(y_true, y_pred, _start(engine)))

    def from_proba(
        y_true: Any, y_proba: Any, *, classes: Iterable[Any] | None = None, engine: Engine | str | None = None
    ) -> Score:
        return measure.of(_outcome_of_proba(y_true, y_proba, classes, _start(engine)))

    function, parameters = (from_proba, _PROBA) if measure.from_proba else (from_labels, _LABELS)
    return _publish(function, metric_id, measure.title, str(measure.of.__doc__).rstrip(), parameters)


def _over_folds(of_one: Metric[...]) -> Metric[...]:
    """Publish the mean of a metric over the folds of a cross-validation."""

    def mean_fold(folds: Iterable[tuple[Any, Any]], *, engine: Engine | str | None = None) -> Score:
        on = _start(engine)
        return mean_over_folds([of_one(y_true, predicted, engine=on) for y_true, predicted in folds])

    name = of_one.spec.id
    return _publish(
        mean_fold,
        f"mean_fold_{name}",
        f"{of_one.spec.title}, mean over folds",
        f"{of_one.spec.title} on cells that were left out of training: the mean over the folds of a cross-validation.",
        f"folds : for each fold its two arguments of `{name}`",
    )


def _publish(function: Callable[..., Score], metric_id: str, title: str, summary: str, parameters: str) -> Metric[...]:
    function.__name__ = function.__qualname__ = metric_id
    function.__doc__ = _DOCSTRING.format(summary=summary, parameters=parameters)
    return metric(metric_id, title, bounds=(0, 1))(function)


def _start(engine: Engine | str | None) -> Engine:
    return get_engine(engine or "auto") if engine is None or isinstance(engine, str) else engine


def _outcome_of_labels(y_true: Any, y_pred: Any, engine: Engine) -> Outcome:
    true = encode_labels(y_true, "y_true")
    predicted = encode_labels(y_pred, "y_pred", len(true))
    names = sorted({*true.names, *predicted.names})
    codes = _recode(true.codes, true.names, names)
    return Outcome(engine, codes, _recode(predicted.codes, predicted.names, names), names)


def _outcome_of_proba(y_true: Any, y_proba: Any, classes: Iterable[Any] | None, engine: Engine) -> Outcome:
    true = encode_labels(y_true, "y_true")
    names = list(true.names) if classes is None else [str(name) for name in classes]
    unknown = [name for name in true.names if name not in names]
    if unknown:
        raise InputError(f"y_true holds {quoted(unknown)}, which classes does not name; add a column for each label")
    given = y_proba if isinstance(y_proba, engine.xp.ndarray) else to_host(y_proba, "y_proba")
    if given.dtype.kind not in "fiub":
        raise InputError(f"y_proba has dtype {given.dtype}; give real numbers")
    proba = engine.xp.asarray(given, dtype=np.float64)
    if proba.ndim == 1:
        proba = engine.xp.stack([1 - proba, proba], axis=1)
    if proba.shape != (len(true), len(names)):
        raise InputError(
            f"y_proba has the shape {tuple(proba.shape)}, but there are {len(true)} cells and {len(names)} labels; "
            "give one row a cell and one column a label, and name the columns with classes where y_true lacks some"
        )
    if not bool(engine.xp.isfinite(proba).all()):
        raise InputError("y_proba holds NaN or infinite values; give a probability for every cell and label")
    predicted = engine.to_host(proba.argmax(axis=1)).astype(np.int32)
    return Outcome(engine, _recode(true.codes, true.names, names), predicted, names, proba)


def _recode(codes: NDArray[np.int32], names: Sequence[str], among: Sequence[str]) -> NDArray[np.int32]:
    """Turn codes of `names` into codes of `among`, which holds them all."""
    place = {name: code for code, name in enumerate(among)}
    return np.array([place[name] for name in names], np.int32)[codes]


OF_ONE_TEST_SET = tuple(_of_one_test_set(measure, measure.id) for measure in MEASURES)
OF_LABELS = tuple(_of_one_test_set(m, f"{m.id}_calculation") for m in MEASURES if not m.from_proba)
OVER_FOLDS = tuple(_over_folds(of_one) for of_one in OF_ONE_TEST_SET)

accuracy, f1, precision, recall, auroc = OF_ONE_TEST_SET
accuracy_calculation, f1_calculation, precision_calculation, recall_calculation = OF_LABELS
mean_fold_accuracy, mean_fold_f1, mean_fold_precision, mean_fold_recall, mean_fold_auroc = OVER_FOLDS

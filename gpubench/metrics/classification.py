"""Accuracy, F1, precision, recall and AUROC of predicted labels: of one test set, and as means over folds.

All metrics are generated from the list `MEASURES`, one for each id that cz-benchmarks has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from gpubench.core.errors import InputError, quoted
from gpubench.core.scores import Score
from gpubench.core.types import Array
from gpubench.data import encode_labels
from gpubench.data.matrices import to_host
from gpubench.engines.embedding import start_engine
from gpubench.engines.planner import RANKED_VALUES
from gpubench.metrics._metric import Metric, contingency, metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.base import Engine


class Outcome:
    """Confusion matrix of the true and predicted classes of m test cells, with L classes."""

    def __init__(
        self,
        engine: Engine,
        codes: NDArray[np.int32],
        predicted: NDArray[np.int32],
        names: Sequence[str],
        proba: Array | None = None,
        scored: Sequence[int] | None = None,
    ) -> None:
        """Count the cells of each pair of true and predicted class.

        `scored` lists the classes to average over; if None, averages are as in scikit-learn.
        """
        self.engine = engine
        self.codes = codes  # (m,) true classes, on the host
        self.names = names
        self.proba = proba  # (m, L) float64 on the engine, or None where only labels are known
        self.n = len(codes)
        self.confusion = contingency(codes, predicted, len(names), len(names))  # by true and predicted class
        self.true_positives = self.confusion.diagonal()
        self.n_true = cast("NDArray[np.int64]", self.confusion.sum(axis=1))
        self.n_predicted = cast("NDArray[np.int64]", self.confusion.sum(axis=0))
        self.scored = list(range(len(names))) if scored is None else list(scored)
        self.binary = len(names) == len(self.scored) == 2  # the second class is the positive one
        # classes that F1, precision and recall average over
        if self.binary:
            self.averaged = [1]
        elif scored is None:
            self.averaged = np.flatnonzero(self.n_true + self.n_predicted).tolist()
        else:
            self.averaged = self.scored


def _accuracy(outcome: Outcome) -> Score:
    """Compute the share of the cells whose label is predicted correctly."""
    return Score(outcome.true_positives.sum() / outcome.n, n=outcome.n)


def _f1(outcome: Outcome) -> Score:
    """Compute the harmonic mean of precision and recall, averaged over labels.

    F1 = 2 TP / (2 TP + FP + FN). With two labels, the value of the second one, which is the positive class; with more,
    the unweighted mean over all labels that are true or predicted for a cell. 0 / 0 counts as 0.
    """
    return _average(outcome, 2 * outcome.true_positives, outcome.n_true + outcome.n_predicted)


def _precision(outcome: Outcome) -> Score:
    """Compute the share of correct predictions among the cells predicted to have a label, averaged over labels.

    Precision = TP / (TP + FP). With two labels, the value of the second one, which is the positive class; with more,
    the unweighted mean over all labels that are true or predicted for a cell. 0 / 0 counts as 0.
    """
    return _average(outcome, outcome.true_positives, outcome.n_predicted)


def _recall(outcome: Outcome) -> Score:
    """Compute the share of correct predictions among the cells that have a label, averaged over labels.

    Recall = TP / (TP + FN). With two labels, the value of the second one, which is the positive class; with more, the
    unweighted mean over all labels that are true or predicted for a cell. 0 / 0 counts as 0.
    """
    return _average(outcome, outcome.true_positives, outcome.n_true)


def _average(outcome: Outcome, part: NDArray[np.int64], whole: NDArray[np.int64]) -> Score:
    """Average part / whole over the classes that count; 0 / 0 counts as 0."""
    ratios = part[outcome.averaged] / np.maximum(whole[outcome.averaged], 1)
    return Score(ratios.mean(), n=outcome.n)


def _auroc(outcome: Outcome) -> Score:
    """Compute the area under the ROC curve of each label against all others, averaged over labels.

    The area is the probability that a cell with the label gets a higher probability of it than a cell without. With two
    labels, the value of the second one; with more, the unweighted mean. NaN if a label has no test cells.
    """
    missing = [outcome.names[c] for c in outcome.scored if outcome.n_true[c] == 0]
    if missing:
        return Score(np.nan, n=outcome.n, note=f"AUROC is undefined: no test cells of {quoted(missing)}")
    if len(outcome.scored) < 2:
        return Score(np.nan, n=outcome.n, note="AUROC is undefined: the test cells have one label")
    classes = [1] if outcome.binary else outcome.scored
    step = max(1, RANKED_VALUES // outcome.n)
    sums = np.concatenate([_rank_sums(outcome, classes[i : i + step]) for i in range(0, len(classes), step)])
    own = outcome.n_true[classes].astype(np.float64)
    # Mann-Whitney: of the pairs of an own and another cell, those in which the own cell ranks higher; ties count half.
    wins = sums - own * (own + 1) / 2
    return Score((wins / (own * (outcome.n - own))).mean(), n=outcome.n)


def _rank_sums(outcome: Outcome, classes: Sequence[int]) -> NDArray[np.float64]:
    """Rank all cells by the probability of each class, and sum the ranks of the cells of that class; (classes,)."""
    xp, codes = outcome.engine.xp, outcome.engine.xp.asarray(outcome.codes)
    ranks = outcome.engine.rank(xp.ascontiguousarray(outcome.proba.T[classes]))  # type: ignore[union-attr]
    sums = [xp.where(codes == c, row, 0).sum() for c, row in zip(classes, ranks, strict=True)]
    return np.asarray(outcome.engine.to_host(xp.stack(sums)), np.float64)


@dataclass(frozen=True, slots=True)
class Measure:
    """Declaration of accuracy, F1, precision, recall or AUROC."""

    id: str
    title: str
    compute: Callable[[Outcome], Score]  # its docstring is the start of the metrics' docstrings
    example: str  # arguments of the example: true labels, predictions
    value: float  # the score of the example
    from_proba: bool = False  # whether it needs probabilities instead of labels


_EXAMPLE = '["B", "B", "T", "T"], ["B", "T", "T", "T"]'
MEASURES = (
    Measure("accuracy", "Accuracy", _accuracy, _EXAMPLE, 0.75),
    Measure("f1", "F1", _f1, _EXAMPLE, 0.8),
    Measure("precision", "Precision", _precision, _EXAMPLE, 0.667),
    Measure("recall", "Recall", _recall, _EXAMPLE, 1.0),
    Measure("auroc", "AUROC", _auroc, '["B", "B", "T", "T"], [0.2, 0.6, 0.5, 0.9]', 0.75, from_proba=True),
)


def mean_over_folds(scores: Sequence[Score]) -> Score:
    """Average the scores of folds, with the standard error of the mean; undefined scores are left out.

    cz-benchmarks leaves them out too. The folds share training cells, so the standard error is somewhat too small.
    """
    notes = Counter(score.note for score in scores if score.note)
    note = "; ".join(
        note if times == len(scores) else f"{note} ({times} of {len(scores)} folds)" for note, times in notes.items()
    )
    return _mean(scores, np.array(scores, np.float64), note)


def mean_over_classifiers(scores: Sequence[Sequence[Score]]) -> Score:
    """Average scores of several classifiers on the same test sets; the standard error is over the test sets.

    `scores` has one row for each classifier and one column for each test set. Undefined scores are left out; if a
    classifier has no defined score, the mean is undefined.
    """
    values = np.array(scores, np.float64)
    every = [score for row in scores for score in row]
    note = "; ".join(dict.fromkeys(score.note for score in every if np.isnan(score)))
    if np.isnan(values).all(axis=1).any():
        return Score(np.nan, n=sum(score.n for score in scores[0]), note=note)
    mean = _mean(scores[0], np.array([_mean_of_defined(column) for column in values.T]), note)
    return Score(
        _mean_of_defined(values),
        n=mean.n,
        stderr=mean.stderr,
        stderr_df=mean.stderr_df,
        note=note,
        approximate=any(score.approximate for score in every),
    )


def _mean(scores: Sequence[Score], values: NDArray[np.float64], note: str) -> Score:
    """Return the mean of the defined values, with a standard error if there are several of them."""
    defined = values[~np.isnan(values)]
    several = defined.size > 1
    return Score(
        _mean_of_defined(values),
        n=sum(score.n for score in scores),
        stderr=float(defined.std(ddof=1) / np.sqrt(defined.size)) if several else None,
        stderr_df=defined.size - 1 if several else None,
        note=note,
        params={name: value for score in scores for name, value in score.params.items()},
        approximate=any(score.approximate for score in scores),
    )


def _mean_of_defined(values: NDArray[np.float64]) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else np.nan


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

    References
    ----------
    Fawcett (2006), doi:10.1016/j.patrec.2005.10.010.

    Examples
    --------
    >>> import gpubench as gb
    >>> round(gb.metrics.{name}({example}, engine="cpu"), 3)
    {value}
    """
_LABELS = "y_true, y_pred : (m,) labels of any kind"
_PROBA = """y_true : (m,) labels of any kind
    y_proba : (m, L) probability of each label, in sorted order; or (m,) of the second of two
    classes : the labels of the columns, where `y_true` lacks some; None: the sorted labels of `y_true`"""


def _for_test_set(measure: Measure, name: str) -> Metric[...]:
    """Return the metric that computes a measure from true labels and predictions."""

    def from_labels(y_true: Any, y_pred: Any, *, engine: Engine | str | None = None) -> Score:
        return measure.compute(_outcome_of_labels(y_true, y_pred, start_engine(engine)))

    def from_proba(
        y_true: Any, y_proba: Any, *, classes: Iterable[Any] | None = None, engine: Engine | str | None = None
    ) -> Score:
        return measure.compute(_outcome_of_proba(y_true, y_proba, classes, start_engine(engine)))

    function, parameters = (from_proba, _PROBA) if measure.from_proba else (from_labels, _LABELS)
    summary = str(measure.compute.__doc__).rstrip()
    return _publish(function, name, measure.title, summary, parameters, measure.example, measure.value)


def _over_folds(single: Metric[...], measure: Measure) -> Metric[...]:
    """Return the metric that averages `single` over the folds of a cross-validation."""

    def mean_fold(folds: Iterable[tuple[Any, Any]], *, engine: Engine | str | None = None) -> Score:
        on = start_engine(engine)
        return mean_over_folds([single(y_true, predicted, engine=on) for y_true, predicted in folds])

    what = measure.title if measure.title.isupper() else measure.title.lower()
    return _publish(
        mean_fold,
        f"mean_fold_{measure.id}",
        f"{measure.title}, mean over folds",
        f"Compute the {what} on cells that were left out of training: the mean over the folds of a cross-validation.",
        f"folds : for each fold its two arguments of `{measure.id}`",
        f"[({measure.example}), ({measure.example})]",
        measure.value,
    )


def _publish(
    function: Callable[..., Score], name: str, title: str, summary: str, parameters: str, example: str, value: float
) -> Metric[...]:
    function.__name__ = function.__qualname__ = name
    function.__doc__ = _DOCSTRING.format(
        summary=summary, parameters=parameters, name=name, example=example, value=value
    )
    return metric(name, title)(function)


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


accuracy, f1, precision, recall, auroc = (_for_test_set(measure, measure.id) for measure in MEASURES)
accuracy_calculation, f1_calculation, precision_calculation, recall_calculation = (
    _for_test_set(measure, f"{measure.id}_calculation") for measure in MEASURES if not measure.from_proba
)
mean_fold_accuracy, mean_fold_f1, mean_fold_precision, mean_fold_recall, mean_fold_auroc = (
    _over_folds(single, measure)
    for single, measure in zip((accuracy, f1, precision, recall, auroc), MEASURES, strict=True)
)

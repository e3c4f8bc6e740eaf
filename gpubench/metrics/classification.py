"""Accuracy, F1, precision, recall and AUROC of predicted labels: for one test set, and as means over folds.

The metrics are made from the one list `MEASURES`, under each id that cz-benchmarks gives them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict, cast

import numpy as np

from gpubench.core.errors import InputError, quoted
from gpubench.core.scores import Score
from gpubench.core.types import Array
from gpubench.data import encode_labels
from gpubench.data.matrices import to_host
from gpubench.engines import get_engine
from gpubench.engines.planner import RANKED_VALUES
from gpubench.metrics._metric import Metric, contingency, metric

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from gpubench.engines.base import Engine


class Outcome:
    """What a classifier said of its test cells.

    Attributes
    ----------
    engine : where `proba` is
    codes : (m,) int32 true classes, on the host
    names : the L classes
    proba : (m, L) float64 probabilities, or None where only labels are known
    confusion : (L, L) int64 cells of each true and predicted class
    scored : classes that the test set is meant to hold
    averaged : classes that F1, precision and recall average over
    """

    def __init__(
        self,
        engine: Engine,
        codes: NDArray[np.int32],
        predicted: NDArray[np.int32],
        names: Sequence[str],
        proba: Array | None = None,
        scored: Sequence[int] | None = None,
    ) -> None:
        """Count; `scored` limits averages to some classes (None: all, and averages are as in scikit-learn)."""
        self.engine = engine
        self.codes = codes
        self.names = names
        self.proba = proba
        self.confusion = contingency(codes, predicted, len(names), len(names))
        self.scored = list(range(len(names))) if scored is None else list(scored)
        if self.binary:
            self.averaged = [1]
        elif scored is None:
            self.averaged = np.flatnonzero(self.n_true + self.n_predicted).tolist()
        else:
            self.averaged = self.scored

    @property
    def binary(self) -> bool:
        """Whether there are two classes, of which the second is the positive one."""
        return len(self.names) == len(self.scored) == 2

    @property
    def n(self) -> int:
        """The number of test cells."""
        return len(self.codes)

    @property
    def true_positives(self) -> NDArray[np.int64]:
        """(L,) cells of each class that were predicted right."""
        return self.confusion.diagonal()

    @property
    def n_true(self) -> NDArray[np.int64]:
        """(L,) cells of each class."""
        return cast("NDArray[np.int64]", self.confusion.sum(axis=1))

    @property
    def n_predicted(self) -> NDArray[np.int64]:
        """(L,) cells predicted to be of each class."""
        return cast("NDArray[np.int64]", self.confusion.sum(axis=0))


def _accuracy(outcome: Outcome) -> Score:
    """Share of the cells whose label was predicted."""
    return Score(outcome.true_positives.sum() / outcome.n, n=outcome.n)


def _f1(outcome: Outcome) -> Score:
    """Harmonic mean of precision and recall, averaged over labels.

    F1 = 2 TP / (2 TP + FP + FN): of two labels that of the second, the positive one; else the plain mean over the
    labels that occur among true or predicted ones. 0 / 0 counts as 0.
    """
    return _average(outcome, 2 * outcome.true_positives, outcome.n_true + outcome.n_predicted)


def _precision(outcome: Outcome) -> Score:
    """Share of the cells predicted to have a label that have it, averaged over labels.

    Precision = TP / (TP + FP): of two labels that of the second, the positive one; else the plain mean over the
    labels that occur among true or predicted ones. 0 / 0 counts as 0.
    """
    return _average(outcome, outcome.true_positives, outcome.n_predicted)


def _recall(outcome: Outcome) -> Score:
    """Share of the cells of a label that were predicted to have it, averaged over labels.

    Recall = TP / (TP + FN): of two labels that of the second, the positive one; else the plain mean over the
    labels that occur among true or predicted ones. 0 / 0 counts as 0.
    """
    return _average(outcome, outcome.true_positives, outcome.n_true)


def _average(outcome: Outcome, part: NDArray[np.int64], whole: NDArray[np.int64]) -> Score:
    """Mean ratio over the averaged classes; 0 / 0 counts as 0."""
    ratios = part[outcome.averaged] / np.maximum(whole[outcome.averaged], 1)
    return Score(ratios.mean(), n=outcome.n)


def _auroc(outcome: Outcome) -> Score:
    """Chance that a cell of a label gets a higher probability of it than a cell of another, averaged over labels.

    Area under the ROC curve of one label against the rest: of two labels that of the second, else the plain mean over
    the labels. NaN where a label has no test cells.
    """
    missing = [outcome.names[c] for c in outcome.scored if outcome.n_true[c] == 0]
    if missing:
        return Score(np.nan, n=outcome.n, note=f"AUROC is undefined: no test cells of {quoted(missing)}")
    if len(outcome.scored) < 2:
        return Score(np.nan, n=outcome.n, note="AUROC is undefined: the test cells have one label")
    classes = [1] if outcome.binary else list(outcome.scored)
    step = max(1, RANKED_VALUES // outcome.n)
    pieces = [_rank_sums(outcome, classes[first : first + step]) for first in range(0, len(classes), step)]
    rank_sum = np.concatenate(pieces)
    own = outcome.n_true[classes].astype(np.float64)
    # Mann-Whitney: of the pairs of an own and another cell, those in which the own cell ranks higher; ties count half.
    wins = rank_sum - own * (own + 1) / 2
    return Score((wins / (own * (outcome.n - own))).mean(), n=outcome.n)


def _rank_sums(outcome: Outcome, classes: Sequence[int]) -> NDArray[np.float64]:
    """Sum of the ranks of the own cells of some classes; (classes,)."""
    xp, codes = outcome.engine.xp, outcome.engine.xp.asarray(outcome.codes)
    ranks = outcome.engine.rank(xp.ascontiguousarray(outcome.proba.T[classes]))  # type: ignore[union-attr]
    sums = [xp.where(codes == c, of_class, 0).sum() for c, of_class in zip(classes, ranks, strict=True)]
    return np.asarray(outcome.engine.to_host(xp.stack(sums)), np.float64)


@dataclass(frozen=True, slots=True)
class Measure:
    """One of the five numbers.

    Attributes
    ----------
    id, title : as in `MetricSpec`
    of : counts it from an outcome; its docstring is the description
    from_proba : whether it needs probabilities, not labels
    """

    id: str
    title: str
    of: Callable[[Outcome], Score]
    from_proba: bool = False


MEASURES = (
    Measure("accuracy", "Accuracy", _accuracy),
    Measure("f1", "F1", _f1),
    Measure("precision", "Precision", _precision),
    Measure("recall", "Recall", _recall),
    Measure("auroc", "AUROC", _auroc, from_proba=True),
)


def mean_over_folds(scores: Sequence[Score]) -> Score:
    """Mean of the folds' scores, with its standard error; folds in which the score is undefined are left out.

    cz-benchmarks leaves them out too. The folds share training cells, so the standard error is somewhat too small.
    """
    notes = Counter(score.note for score in scores if score.note)
    note = "; ".join(
        note if times == len(scores) else f"{note} ({times} of {len(scores)} folds)" for note, times in notes.items()
    )
    n = sum(score.n for score in scores)
    values = np.array(scores, np.float64)
    params = {name: value for score in scores for name, value in score.params.items()}
    approximate = any(score.approximate for score in scores)
    mean, scatter = _mean_of_defined(values), _standard_error(values)
    return Score(mean, n=n, **scatter, note=note, params=params, approximate=approximate)


def mean_over_classifiers(scores: Sequence[Sequence[Score]]) -> Score:
    """Mean over classifiers and their test sets, (classifiers, test sets); the standard error is over test sets.

    Undefined scores are left out, but where a classifier has no other the mean is undefined.
    """
    values = np.array(scores, np.float64)
    notes = dict.fromkeys(score.note for of_sets in scores for score in of_sets if np.isnan(score))
    n = sum(score.n for score in scores[0])
    if np.isnan(values).all(axis=1).any():
        return Score(np.nan, n=n, note="; ".join(notes))
    means = np.array([_mean_of_defined(of_set) for of_set in values.T])
    approximate = any(score.approximate for of_sets in scores for score in of_sets)
    mean, scatter = _mean_of_defined(values), _standard_error(means)
    return Score(mean, n=n, **scatter, note="; ".join(notes), approximate=approximate)


def _mean_of_defined(values: NDArray[np.float64]) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else np.nan


class _Scatter(TypedDict, total=False):
    stderr: float
    stderr_df: int


def _standard_error(values: NDArray[np.float64]) -> _Scatter:
    """The standard error of the mean with its degrees of freedom; nothing of a single value."""
    defined = values[~np.isnan(values)]
    if defined.size < 2:
        return {}
    return {"stderr": float(defined.std(ddof=1) / np.sqrt(defined.size)), "stderr_df": defined.size - 1}


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

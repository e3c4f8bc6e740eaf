"""What both label prediction tasks share: classifiers trained on some cells and scored on others, and their rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from gpubench.checkpoint import Codec, Part
from gpubench.data.messages import quoted
from gpubench.engines.base import Classifier, ClassifierKind
from gpubench.errors import InputError
from gpubench.metrics._outcome import MEASURES, Outcome, mean_over_classifiers, mean_over_folds
from gpubench.rows import score_from_dict, score_to_dict
from gpubench.tasks._folds import Fold
from gpubench.tasks._predicted import Answers, keep_answers, keep_folds
from gpubench.tasks._scaling import Scaling
from gpubench.tasks._task import TaskInput, to_row
from gpubench.types import Array, Labels, MetricResult, Score

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.base import Engine
    from gpubench.tasks._scorers import Scorer

KINDS: tuple[ClassifierKind, ...] = ("lr", "knn", "rf")
UNSCALED: tuple[ClassifierKind, ...] = ("rf",)
IDS = tuple(measure.id for measure in MEASURES)
MEAN_FOLD = "mean_fold_"

Scores = dict[str, Score]
"""Metric id -> score, of one classifier on one test set."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a task fixes for its classifiers.

    Attributes
    ----------
    task : its id
    centre : whether the means of the training cells are subtracted before they are divided by the standard deviations
    mean_name : what the mean over the classifiers is called in the results
    params : parameters that differ from the defaults, by classifier
    """

    task: str
    centre: bool
    mean_name: str
    params: Mapping[ClassifierKind, Mapping[str, Any]] = field(default_factory=dict)


class Trained:
    """A classifier and the scaling of its input.

    Attributes
    ----------
    engine : where it is
    names : of all classes
    present : codes of the classes that it was trained on
    note : see `Classifier`
    """

    def __init__(
        self, engine: Engine, classifier: Classifier, x: Array, labels: Labels, scaling: Scaling | None
    ) -> None:
        """Train on the cells `x`, which are overwritten."""
        self.engine = engine
        self.names = labels.names
        self.present = np.unique(labels.codes)
        self._scaling = scaling
        self._classifier = classifier.fit(scaling.apply(x) if scaling else x, labels.codes, labels.n_classes)
        self.note = self._classifier.note

    def predict_proba(self, x: Any) -> Array:
        """(m, L) float64 probabilities for unscaled cells."""
        return self._classifier.predict_proba(self._scaled(x))

    @property
    def has_decision_function(self) -> bool:
        """Whether the classifier has logits."""
        return hasattr(self._classifier, "decision_function")

    def decision_function(self, x: Any) -> Array:
        """(m, L) logits for unscaled cells."""
        return cast("Any", self._classifier).decision_function(self._scaled(x))

    def _scaled(self, x: Any) -> Array:
        xp = self.engine.xp
        if self._scaling is None:
            return xp.ascontiguousarray(x, dtype=np.float32)
        return self._scaling.apply(xp.array(x, dtype=np.float32, order="C"))


@dataclass(frozen=True, slots=True)
class TestSet:
    """Cells to test on.

    Attributes
    ----------
    x : (m, d) float32
    codes : (m,) their classes
    scored : classes that the test set is meant to hold; None: all
    cells : (m,) the rows of the embedding that they are; None where samples of merged cells are tested
    undefined : why nothing can be scored, or empty
    """

    x: Array
    codes: NDArray[np.int32]
    scored: Sequence[int] | None = None
    undefined: str = ""
    cells: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class Tested:
    """The scores on a test set, and the answers that they count, where its cells are cells of the embedding."""

    scores: Scores
    answers: Answers | None = None


def _pack(tested: list[Tested]) -> Part:
    arrays: dict[str, NDArray[Any]] = {}
    for i, answers in enumerate(test.answers for test in tested):
        if answers is not None:
            arrays |= {f"cells_{i}": answers.cells, f"codes_{i}": answers.codes}
    value = [
        {
            "scores": {name: score_to_dict(score) for name, score in test.scores.items()},
            "names": None if test.answers is None else test.answers.names,
        }
        for test in tested
    ]
    return Part(value, arrays)


def _unpack(part: Part) -> list[Tested]:
    tested = []
    for i, test in enumerate(part.value):
        scores = {name: score_from_dict(score) for name, score in test["scores"].items()}
        answers = None
        if test["names"] is not None:
            answers = Answers(part.arrays[f"cells_{i}"], part.arrays[f"codes_{i}"], test["names"])
        tested.append(Tested(scores, answers))
    return tested


TESTED: Codec[list[Tested]] = Codec(_pack, _unpack)


class Contest:
    """The classifiers of a task against the metrics and the user's scorers.

    Attributes
    ----------
    ids : of the metrics, then the names of the scorers
    """

    def __init__(self, given: TaskInput, recipe: Recipe) -> None:
        self._given = given
        self._engine = given.engine
        self._recipe = recipe
        # what a user's own scorer computes cannot be told from outside
        self._parts = given.parts.nowhere() if given.scorers else given.parts
        self._scorers: dict[str, Scorer] = {}
        if given.scorers:
            from gpubench.tasks._scorers import make_scorers

            self._scorers = make_scorers(given.scorers, IDS)
        self.ids = (*IDS, *self._scorers)

    def scaling(self, x: Array) -> Scaling:
        """The scaling of classifiers that are trained on `x`."""
        return Scaling(self._engine, x, centre=self._recipe.centre)

    def train_and_score(
        self,
        name: str,
        kind: ClassifierKind,
        take: Callable[[], tuple[Array, Labels, Scaling, Sequence[TestSet]]],
        *facts: Any,
    ) -> list[Tested]:
        """Train once and score on each test set, or take the scores over from an earlier run.

        Parameters
        ----------
        name : of the stage
        take : makes the cells to train on, which are overwritten, their labels and scaling, and the test sets
        facts : with the name and kind what tells this training from the others of the task
        """
        facts = (self._recipe.task, kind, *facts)
        return self._parts.part(name, lambda: self._train_and_score(kind, *take()), TESTED, *facts)

    def _train_and_score(
        self, kind: ClassifierKind, x: Array, labels: Labels, scaling: Scaling, tests: Sequence[TestSet]
    ) -> list[Tested]:
        if all(test.undefined for test in tests):
            return [Tested(self._undefined(test, test.undefined)) for test in tests]
        classifier = self._engine.classifier(kind, **self._recipe.params.get(kind, {}))
        try:
            trained = Trained(self._engine, classifier, x, labels, None if kind in UNSCALED else scaling)
        except InputError as error:
            reason = f"{kind} cannot be trained: {error}"
            return [Tested(self._undefined(test, test.undefined or reason)) for test in tests]
        return [self._score(trained, test) for test in tests]

    def _score(self, trained: Trained, test: TestSet) -> Tested:
        if test.undefined:
            return Tested(self._undefined(test, test.undefined))
        proba = trained.predict_proba(test.x)
        predicted = self._engine.to_host(proba.argmax(axis=1)).astype(np.int32)
        outcome = Outcome(self._engine, test.codes, predicted, trained.names, proba, test.scored)
        scores = {measure.id: measure.of(outcome) for measure in MEASURES}
        unseen = [trained.names[c] for c in outcome.scored if c not in trained.present]
        if unseen:
            note = f"AUROC is undefined: no training cells of {quoted(unseen)}"
            scores["auroc"] = Score(np.nan, n=outcome.n, note=note)
        scores |= self._users_scores(trained, test, proba)
        answers = None if test.cells is None else Answers(test.cells, predicted, trained.names)
        return Tested({name: _noting(score, trained.note) for name, score in scores.items()}, answers)

    def _users_scores(self, trained: Trained, test: TestSet, proba: Array) -> Scores:
        if not self._scorers:
            return {}
        from gpubench.tasks._scorers import FittedClassifier, apply_scorer

        cells = self._engine.to_host(test.x)
        estimator = FittedClassifier(trained)
        estimator.remember(cells, self._engine.to_host(proba))
        return {name: apply_scorer(scorer, estimator, cells, test.codes) for name, scorer in self._scorers.items()}

    def _undefined(self, test: TestSet, reason: str) -> Scores:
        return {name: Score(np.nan, n=len(test.codes), note=reason) for name in self.ids}

    def cross_validate(
        self,
        x: Array,
        rows: NDArray[np.int64],
        labels: Labels,
        folds: Sequence[Fold],
        params: Mapping[str, Any],
        note: str,
        *,
        cells: NDArray[np.int64] | None,
    ) -> Iterator[MetricResult]:
        """Yield the means over folds of each classifier as it is ready, then their mean.

        Parameters
        ----------
        x : (n, d) cells
        rows : (m,) those that take part
        labels : (m,) theirs
        folds : of the m cells
        params, note : put into every row
        cells : (m,) the rows of the embedding that they are, whose answers are kept; None where samples are scored
        """
        if cells is not None:
            keep_folds(self._given, self._recipe.task, params, cells, folds)
        scaling = cache(lambda i: self.scaling(x[rows[folds[i].train]]))

        def take(i: int) -> tuple[Array, Labels, Scaling, Sequence[TestSet]]:
            train, test = folds[i]
            training = replace(labels, codes=labels.codes[train])
            test_set = TestSet(x[rows[test]], labels.codes[test], cells=None if cells is None else cells[test])
            return x[rows[train]], training, scaling(i), [test_set]

        by_classifier: list[list[Scores]] = []
        for kind in KINDS:
            begin = time.perf_counter()
            of_folds: list[Tested] = []
            with self._engine.timeline.stage(kind):
                for i in range(len(folds)):
                    of_folds += self.train_and_score(f"fold {i + 1}", kind, partial(take, i), params)
                    self._engine.timeline.advance(len(of_folds), len(folds))
            self.keep_answers(kind, params, of_folds)
            by_classifier.append([tested.scores for tested in of_folds])
            means = {name: mean_over_folds([scores[name] for scores in by_classifier[-1]]) for name in self.ids}
            yield from self.to_rows(means, {**params, "classifier": kind}, note, MEAN_FOLD, time.perf_counter() - begin)
        yield from self.mean_rows(by_classifier, params, note, MEAN_FOLD)

    def keep_answers(self, kind: ClassifierKind, params: Mapping[str, Any], tested: Sequence[Tested]) -> None:
        """Keep what a classifier said of cells, in one column for all that it, so trained, was tested on."""
        answers = [test.answers for test in tested if test.answers is not None]
        keep_answers(self._given, self._recipe.task, {**params, "classifier": kind}, answers)

    def undefined_rows(self, n: int, reason: str, params: Mapping[str, Any], prefix: str) -> Iterator[MetricResult]:
        """Yield the rows of all classifiers and of their mean, where nothing could be scored."""
        scores = {name: Score(np.nan, n=n, note=reason) for name in self.ids}
        for classifier in (*KINDS, self._recipe.mean_name):
            yield from self.to_rows(scores, {**params, "classifier": classifier}, "", prefix)

    def mean_rows(
        self, by_classifier: Sequence[Sequence[Scores]], params: Mapping[str, Any], note: str, prefix: str = ""
    ) -> Iterator[MetricResult]:
        """Yield the means over classifiers and their test sets."""
        means = {
            name: mean_over_classifiers([[scores[name] for scores in of_sets] for of_sets in by_classifier])
            for name in self.ids
        }
        yield from self.to_rows(means, {**params, "classifier": self._recipe.mean_name}, note, prefix)

    def to_rows(
        self, scores: Scores, params: Mapping[str, Any], note: str, prefix: str = "", seconds: float = 0.0
    ) -> Iterator[MetricResult]:
        """Yield a row for each score; the seconds are shared out among them, since one training serves all."""
        make = partial(to_row, self._given.name, self._recipe.task, seconds=seconds / len(scores), params=params)
        for name, score in scores.items():
            yield make(prefix + name, _noting(score, note))


def joined(*notes: str) -> str:
    """Notes as one, without those that are empty or said before."""
    return "; ".join(dict.fromkeys(note for note in notes if note))


def _noting(score: Score, note: str) -> Score:
    """Return the score with one more note."""
    return Score(score, n=score.n, stderr=score.stderr, note=joined(score.note, note), params=score.params)

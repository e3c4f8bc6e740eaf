"""What both label prediction tasks share: classifiers trained on some cells and scored on others, and their rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.checkpoint import CheckpointEntry, CheckpointScope, Codec
from gpubench.core.errors import InputError, quoted
from gpubench.core.scores import MEAN, MetricResult, Score
from gpubench.core.types import Array, Labels
from gpubench.engines.common.knn_classifier import N_VOTES, Voters, graph_neighbors, nearest_in_other_folds
from gpubench.metrics.classification import MEASURES, Outcome, mean_over_classifiers, mean_over_folds
from gpubench.tasks._classifiers import (
    FOLD_SCORES,
    ColumnScaling,
    FoldScores,
    GraphVotes,
    Predictions,
    Predictor,
    ScaledClassifier,
    Scores,
    TestSet,
    TrainingCells,
    record_folds,
    record_predictions,
)
from gpubench.tasks._folds import Folds
from gpubench.tasks._task import TaskInput, to_row

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.base import ClassifierKind, Engine
    from gpubench.tasks._scorers import Scorer


@dataclass(frozen=True)
class FoldGraph:
    """The nearest cells in other folds, where the engine would not compare so many cells with all.

    They are searched for once, not for each fold, so they are scaled once as well: by the standard deviations of all
    cells, which differ from those of a fold's training cells in the third digit or later.

    Attributes
    ----------
    x : (n, d) cells
    rows : (m,) those that take part
    labels, folds : of the m cells
    centre : as in `ColumnScaling`
    scope : caches the graph in a checkpoint
    """

    engine: Engine
    x: Array
    rows: NDArray[np.int64]
    labels: Labels
    folds: Folds
    centre: bool
    scope: CheckpointScope

    @property
    def serves(self) -> bool:
        """Whether the engine would search so many cells approximately, and each has enough cells in other folds."""
        m, k = len(self.rows), graph_neighbors(len(self.folds))
        enough = m - np.bincount(self.folds.codes).max() >= N_VOTES and m > k
        return bool(enough and self.engine.policy.knn_method_for(m, self.x.shape[1], k) != "exact")

    def voted(self, i: int, tested: Array, cells: TrainingCells) -> GraphVotes:
        """The classifier of fold i, tested on the unscaled cells `tested`; the first that is asked for searches.

        Raises
        ------
        InputError
            The graph does not fit the memory.
        """
        voters, labels = self._voters, self.labels
        proba = voters.vote_shares(self.engine, self.folds[i].test, labels.codes, labels.n_classes)
        return GraphVotes(cells, tested, proba, {"knn": voters.method, "recall": voters.recall})

    @cached_property
    def _voters(self) -> Voters:
        return self.scope.cached("graph", self._search, _codec(self.engine))

    def _search(self) -> Voters:
        cells = self.x[self.rows]
        scaled = ColumnScaling(self.engine, cells, centre=self.centre).apply(cells)
        return nearest_in_other_folds(self.engine, scaled, self.folds.codes)


def _codec(engine: Engine) -> Codec[Voters]:
    def pack(voters: Voters) -> CheckpointEntry:
        nearest = engine.to_host(voters.nearest)
        return CheckpointEntry({"method": voters.method, "recall": voters.recall}, {"nearest": nearest})

    def unpack(entry: CheckpointEntry) -> Voters:
        return Voters(engine.xp.asarray(entry.arrays["nearest"]), **entry.value)

    return Codec(pack, unpack)


Training = tuple["Callable[[], Predictor]", "Sequence[TestSet]"]
"""Returns a trained classifier, or raises why there is none; and the cells that it is tested on."""


class FoldTrainings:
    """What is trained on all folds but one, and tested on that one.

    An engine with several workers trains the next folds at the same time.
    """

    def __init__(
        self,
        evaluation: ClassifierEvaluation,
        engine: Engine,
        cells: tuple[Array, NDArray[np.int64], Labels, NDArray[np.int64] | None],
        folds: Folds,
        graph: FoldGraph | None,
    ) -> None:
        """Train nothing yet.

        Parameters
        ----------
        cells : all cells (n, d), the m that take part, their labels, and which rows of the embedding they are
        graph : has the votes of all folds; None: each fold is searched
        """
        self._evaluation, self._engine, self._folds, self._graph = evaluation, engine, folds, graph
        self._x, self._rows, self._labels, self._cells = cells
        self._training: list[TrainingCells] = [
            evaluation.cells_to_train(self._x, self._labels, self._rows, lambda i=i: folds[i].train)
            for i in range(len(folds))
        ]

    def tested(self, kind: ClassifierKind, params: Mapping[str, Any]) -> list[FoldScores]:
        """The scores of a classifier on each fold, or what an earlier run has kept of them."""
        n_folds, evaluation = len(self._folds), self._evaluation
        names = [f"fold {i + 1}" for i in range(n_folds)]
        new = [i for i, name in enumerate(names) if not evaluation.keeps(name, kind, params)]
        trainings = zip(new, self._engine.map(partial(self._train, kind, i) for i in new), strict=True)

        def take(i: int) -> Training:
            # a checkpoint that turns out to be damaged is not among the new ones
            return next(training for j, training in trainings if j == i) if i in new else self._train(kind, i)

        tested: list[FoldScores] = []
        with self._engine.timeline.stage(kind):
            for i, name in enumerate(names):
                tested += evaluation.train_and_score(name, kind, partial(take, i), params)
                self._engine.timeline.advance(len(tested), n_folds)
        return tested

    def _train(self, kind: ClassifierKind, i: int) -> Training:
        """Train, and predict the test cells; on a cluster both only begin."""
        test = self._test_set(i)
        if kind == "knn" and self._graph is not None:
            return partial(self._graph.voted, i, test.x, self._training[i]), [test]
        train = partial(self._evaluation.train, kind, self._training[i])
        try:
            trained = train()
            trained.ask(test.x)
        except InputError:  # raised again when the fold has its turn, which then reports it
            return train, [test]
        return lambda: trained, [test]

    def _test_set(self, i: int) -> TestSet:
        test = self._folds[i].test
        cells = None if self._cells is None else self._cells[test]
        return TestSet(self._x[self._rows[test]], self._labels.codes[test], cells=cells)


UNSCALED: tuple[ClassifierKind, ...] = ("rf",)
IDS = tuple(measure.id for measure in MEASURES)
MEAN_FOLD = "mean_fold_"


@dataclass(frozen=True, slots=True)
class ClassifierSettings:
    """What a task fixes for its classifiers.

    Attributes
    ----------
    task : its id
    centre : whether the means of the training cells are subtracted before they are divided by the standard deviations
    mean_of : the classifiers in the order in which the name of their mean has them
    params : parameters that differ from the defaults, by classifier
    """

    task: str
    centre: bool
    mean_of: tuple[ClassifierKind, ...]
    params: Mapping[ClassifierKind, Mapping[str, Any]] = field(default_factory=dict)


class ClassifierEvaluation:
    """The classifiers of a task against the metrics and the user's scorers.

    Attributes
    ----------
    ids : of the metrics, then the names of the scorers
    kinds : the classifiers that were chosen
    mean_name : what the mean over them is called in the results
    """

    def __init__(self, given: TaskInput, settings: ClassifierSettings) -> None:
        self._given = given
        self._engine = given.engine
        self._settings = settings
        # what a user's own scorer computes cannot be told from outside
        self._scope = given.checkpoint_scope.disabled() if given.scorers else given.checkpoint_scope
        self._scorers: dict[str, Scorer] = {}
        if given.scorers:
            from gpubench.tasks._scorers import make_scorers

            self._scorers = make_scorers(given.scorers, IDS)
        self.ids = (*IDS, *self._scorers)
        self.kinds = given.options.classifiers
        self.mean_name = f"{MEAN}({','.join(kind for kind in settings.mean_of if kind in self.kinds)})"

    def cells_to_train(self, x: Array, labels: Labels, *which: Any) -> TrainingCells:
        """The cells that the task's classifiers are trained on; see `TrainingCells`."""
        return TrainingCells(self._engine, x, labels, *which, centre=self._settings.centre)

    def train(self, kind: ClassifierKind, cells: TrainingCells) -> ScaledClassifier:
        """Train as the task does."""
        return ScaledClassifier(
            self._engine, kind, cells, self._settings.params.get(kind, {}), scaled=kind not in UNSCALED
        )

    def train_and_score(
        self,
        name: str,
        kind: ClassifierKind,
        take: Callable[[], tuple[Callable[[], Predictor], Sequence[TestSet]]],
        *facts: Any,
    ) -> list[FoldScores]:
        """Train once and score on each test set, or take the scores over from an earlier run.

        Parameters
        ----------
        name : of the stage
        take : makes what trains, and the test sets
        facts : with the name and kind what tells this training from the others of the task
        """
        facts = (self._settings.task, kind, *facts)
        return self._scope.cached(name, lambda: self._train_and_score(kind, *take()), FOLD_SCORES, *facts)

    def keeps(self, name: str, kind: ClassifierKind, *facts: Any) -> bool:
        """Whether `train_and_score` will take the scores over."""
        return self._scope.has(name, self._settings.task, kind, *facts)

    def _train_and_score(
        self, kind: ClassifierKind, train: Callable[[], Predictor], tests: Sequence[TestSet]
    ) -> list[FoldScores]:
        if all(test.undefined for test in tests):
            return [FoldScores(self._undefined(test, test.undefined)) for test in tests]
        try:
            trained = train()
            note = trained.note  # where training has only begun, it fails here
        except InputError as error:
            reason = f"{kind} cannot be trained: {error}"
            return [FoldScores(self._undefined(test, test.undefined or reason)) for test in tests]
        return [self._score(trained, test, note) for test in tests]

    def _score(self, trained: Predictor, test: TestSet, note: str) -> FoldScores:
        if test.undefined:
            return FoldScores(self._undefined(test, test.undefined))
        proba = trained.predict_proba(test.x)
        predicted = self._engine.to_host(proba.argmax(axis=1)).astype(np.int32)
        outcome = Outcome(self._engine, test.codes, predicted, trained.names, proba, test.scored)
        scores = {measure.id: measure.compute(outcome) for measure in MEASURES}
        unseen = [trained.names[c] for c in outcome.scored if c not in trained.present]
        if unseen:
            why = f"AUROC is undefined: no training cells of {quoted(unseen)}"
            scores["auroc"] = Score(np.nan, n=outcome.n, note=why)
        scores |= self._users_scores(trained, test, proba)
        predictions = None if test.cells is None else Predictions(test.cells, predicted, trained.names)
        for score in scores.values():
            score.params.update(trained.search)
            score.approximate = bool(trained.search)
        return FoldScores({name: _noting(score, note) for name, score in scores.items()}, predictions)

    def _users_scores(self, trained: Predictor, test: TestSet, proba: Array) -> Scores:
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
        folds: Folds,
        params: Mapping[str, Any],
        note: str,
        *,
        cells: NDArray[np.int64] | None,
        free: bool = False,
    ) -> Iterator[MetricResult]:
        """Yield the means over folds of each classifier as it is ready, then their mean.

        Parameters
        ----------
        x : (n, d) cells
        rows : (m,) those that take part
        labels : (m,) theirs
        folds : of the m cells
        params, note : put into every row
        cells : (m,) their rows in the embedding, for which predictions are recorded; None where samples are scored
        free : whether cells are in folds by chance, so that of very many one graph serves all folds
        """
        if cells is not None:
            record_folds(self._given, self._settings.task, params, cells, folds)
        scope = self._given.checkpoint_scope.keyed(self._settings.task, params)
        graph = FoldGraph(self._engine, x, rows, labels, folds, self._settings.centre, scope)
        one_graph = graph if free and graph.serves else None
        trainings = FoldTrainings(self, self._engine, (x, rows, labels, cells), folds, one_graph)
        by_classifier: list[list[Scores]] = []
        for kind in self.kinds:
            begin = time.perf_counter()
            of_folds = trainings.tested(kind, params)
            self.record_predictions(kind, params, of_folds)
            by_classifier.append([tested.scores for tested in of_folds])
            means = {name: mean_over_folds([scores[name] for scores in by_classifier[-1]]) for name in self.ids}
            yield from self.to_rows(means, {**params, "classifier": kind}, note, MEAN_FOLD, time.perf_counter() - begin)
        yield from self.mean_rows(by_classifier, params, note, MEAN_FOLD)

    def record_predictions(self, kind: ClassifierKind, params: Mapping[str, Any], tested: Sequence[FoldScores]) -> None:
        """Keep what a classifier said of cells, in one column for all that it, so trained, was tested on."""
        predictions = [test.predictions for test in tested if test.predictions is not None]
        record_predictions(self._given, self._settings.task, {**params, "classifier": kind}, predictions)

    def undefined_rows(self, n: int, reason: str, params: Mapping[str, Any], prefix: str) -> Iterator[MetricResult]:
        """Yield the rows of all classifiers and of their mean, where nothing could be scored."""
        scores = {name: Score(np.nan, n=n, note=reason) for name in self.ids}
        for classifier in (*self.kinds, self.mean_name):
            yield from self.to_rows(scores, {**params, "classifier": classifier}, "", prefix)

    def mean_rows(
        self, by_classifier: Sequence[Sequence[Scores]], params: Mapping[str, Any], note: str, prefix: str = ""
    ) -> Iterator[MetricResult]:
        """Yield the means over classifiers and their test sets."""
        means = {
            name: mean_over_classifiers([[scores[name] for scores in of_sets] for of_sets in by_classifier])
            for name in self.ids
        }
        yield from self.to_rows(means, {**params, "classifier": self.mean_name}, note, prefix)

    def to_rows(
        self, scores: Scores, params: Mapping[str, Any], note: str, prefix: str = "", seconds: float = 0.0
    ) -> Iterator[MetricResult]:
        """Yield a row for each score; the seconds are shared out among them, since one training serves all."""
        make = partial(to_row, self._given.name, self._settings.task, seconds=seconds / len(scores), params=params)
        for name, score in scores.items():
            yield make(prefix + name, _noting(score, note))


def joined(*notes: str) -> str:
    """Notes as one, without those that are empty or said before."""
    return "; ".join(dict.fromkeys(note for note in notes if note))


def _noting(score: Score, note: str) -> Score:
    """Return the score with one more note."""
    return Score(
        score,
        n=score.n,
        stderr=score.stderr,
        stderr_df=score.stderr_df,
        note=joined(score.note, note),
        params=score.params,
        approximate=score.approximate,
    )

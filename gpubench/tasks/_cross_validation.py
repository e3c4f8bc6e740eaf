"""Training and scoring of classifiers, shared by both label prediction tasks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.checkpoint import CheckpointEntry, CheckpointScope, Codec
from gpubench.core.errors import InputError, quoted
from gpubench.core.scores import FOLD, MEAN, PREDICTED, CellColumn, MetricResult, Score
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
)
from gpubench.tasks._task import TaskInput, require, to_row

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.base import ClassifierKind, Engine
    from gpubench.tasks._scorers import Scorer

UNSCALED: tuple[ClassifierKind, ...] = ("rf",)
IDS = tuple(measure.id for measure in MEASURES)
MEAN_FOLD = "mean_fold_"

Training = tuple["Callable[[], Predictor]", "Sequence[TestSet]"]
"""Function that returns a trained classifier, or raises InputError if training fails; and its test sets."""


@dataclass(frozen=True, slots=True)
class FoldedCells:
    """Cells assigned to the folds of a cross-validation."""

    x: Array  # (n, d) cells
    rows: NDArray[np.int64]  # (m,) those that take part
    labels: Labels  # of the m cells
    folds: NDArray[np.int32]  # (m,) in which fold each is tested
    cells: NDArray[np.int64] | None  # (m,) rows of the embedding, to record predictions; None where samples are scored

    @property
    def n_folds(self) -> int:
        """The number of folds, each of which has cells."""
        return int(self.folds.max()) + 1


@dataclass(frozen=True)
class FoldGraph:
    """Nearest cells in other folds, from one search for all folds; used for many cells instead of exact searches.

    All folds share one scaling as well, by the standard deviations of all cells. These differ from those of a fold's
    training cells in the third digit or later.
    """

    engine: Engine
    folded: FoldedCells
    centre: bool  # as in `ColumnScaling`
    scope: CheckpointScope  # caches the graph in a checkpoint

    @property
    def serves(self) -> bool:
        """Whether the engine would search so many cells approximately, and all have enough cells in other folds."""
        m, k = len(self.folded.rows), graph_neighbors(self.folded.n_folds)
        enough = m - np.bincount(self.folded.folds).max() >= N_VOTES and m > k
        return bool(enough and self.engine.policy.knn_method_for(m, self.folded.x.shape[1], k) != "exact")

    def votes(self, i: int, tested: Array, cells: TrainingCells) -> GraphVotes:
        """Return the k-nearest-neighbours classifier of fold i, trained on `cells`.

        It predicts the labels of the fold's test cells `tested`, whose coordinates must not be scaled. The first call
        searches the neighbours of all folds; later calls reuse them.
        """
        voters, labels = self._voters, self.folded.labels
        rows = np.flatnonzero(self.folded.folds == i)
        proba = voters.vote_shares(self.engine, rows, labels.codes, labels.n_classes)
        return GraphVotes(cells, tested, proba, {"knn": voters.method, "recall": voters.recall})

    @cached_property
    def _voters(self) -> Voters:
        engine = self.engine

        def search() -> Voters:
            cells = self.folded.x[self.folded.rows]
            scaled = ColumnScaling(engine, cells, centre=self.centre).apply(cells)
            return nearest_in_other_folds(engine, scaled, self.folded.folds)

        def pack(voters: Voters) -> CheckpointEntry:
            nearest = engine.to_host(voters.nearest)
            return CheckpointEntry({"method": voters.method, "recall": voters.recall}, {"nearest": nearest})

        def unpack(entry: CheckpointEntry) -> Voters:
            return Voters(engine.xp.asarray(entry.arrays["nearest"]), **entry.value)

        return self.scope.cached("graph", search, Codec(pack, unpack))


@dataclass(frozen=True, slots=True)
class ClassifierSettings:
    """Settings of the classifiers of one task."""

    task: str  # id of the task
    centre: bool  # whether the means of the training cells are subtracted, see `ColumnScaling`
    mean_of: tuple[ClassifierKind, ...]  # order of the classifiers in the name of their mean
    params: Mapping[ClassifierKind, Mapping[str, Any]] = field(default_factory=dict)  # without the defaults


class ClassifierEvaluation:
    """Trains the classifiers of a task, and scores them by the metrics and the user's scorers."""

    def __init__(self, given: TaskInput, settings: ClassifierSettings) -> None:
        self._given, self._engine, self._settings = given, given.engine, settings
        # a checkpoint cannot know whether a user's own scorer has changed
        self._scope = given.checkpoint_scope.disabled() if given.scorers else given.checkpoint_scope
        self._scorers: dict[str, Scorer] = {}
        if given.scorers:
            from gpubench.tasks._scorers import make_scorers

            self._scorers = make_scorers(given.scorers, IDS)
        self._ids = (*IDS, *self._scorers)
        self.kinds = given.options.classifiers
        backend = given.options.backend
        self._named_backend = {} if backend == "gpubench" else {"backend": backend}
        self._mean_name = f"{MEAN}({','.join(kind for kind in settings.mean_of if kind in self.kinds)})"

    def cells_to_train(self, x: Array, labels: Labels, *which: Any) -> TrainingCells:
        """Return `TrainingCells` with the scaling of this task; `which` are its arguments `rows` and `which`."""
        return TrainingCells(self._engine, x, labels, *which, centre=self._settings.centre)

    def train(self, kind: ClassifierKind, cells: TrainingCells) -> ScaledClassifier:
        """Train a classifier with the settings of the task."""
        params = self._settings.params.get(kind, {})
        scaled, backend = kind not in UNSCALED, self._given.options.backend
        return ScaledClassifier(self._engine, kind, cells, params, scaled=scaled, backend=backend)

    def train_and_score(
        self, name: str, kind: ClassifierKind, prepare: Callable[[], Training], *facts: Any
    ) -> list[FoldScores]:
        """Train a classifier once and score it on each test set, or return the scores of the checkpoint.

        `name` (of the stage), `kind` and `facts` together identify this training in the checkpoint.
        """
        facts = (self._settings.task, kind, *facts)
        return self._scope.cached(name, lambda: self._train_and_score(kind, *prepare()), FOLD_SCORES, *facts)

    def _train_and_score(
        self, kind: ClassifierKind, train: Callable[[], Predictor], tests: Sequence[TestSet]
    ) -> list[FoldScores]:
        if all(test.undefined for test in tests):
            return [self._undefined(test, test.undefined) for test in tests]
        try:
            trained = train()
            note = trained.note  # where training has only begun, it fails here
        except InputError as error:
            return [self._undefined(test, test.undefined or f"{kind} cannot be trained: {error}") for test in tests]
        return [self._score(trained, test, note) for test in tests]

    def _undefined(self, test: TestSet, reason: str) -> FoldScores:
        return FoldScores({name: Score(np.nan, n=len(test.codes), note=reason) for name in self._ids})

    def _score(self, trained: Predictor, test: TestSet, note: str) -> FoldScores:
        if test.undefined:
            return self._undefined(test, test.undefined)
        proba = trained.predict_proba(test.x)
        predicted = self._engine.to_host(proba.argmax(axis=1)).astype(np.int32)
        outcome = Outcome(self._engine, test.codes, predicted, trained.names, proba, test.scored)
        scores = {measure.id: measure.compute(outcome) for measure in MEASURES}
        unseen = [trained.names[c] for c in outcome.scored if c not in trained.present]
        if unseen:
            why = f"AUROC is undefined: no training cells of {quoted(unseen)}"
            scores["auroc"] = Score(np.nan, n=outcome.n, note=why)
        if self._scorers:
            from gpubench.tasks._scorers import apply_scorers

            cells, votes = self._engine.to_host(test.x), self._engine.to_host(proba)
            scores |= apply_scorers(self._scorers, trained, cells, votes, test.codes)
        for score in scores.values():
            score.params.update(trained.search)
            score.approximate = bool(trained.search)
            score.note = joined(score.note, note)
        return FoldScores(scores, None if test.cells is None else Predictions(test.cells, predicted, trained.names))

    def cross_validate(
        self, folded: FoldedCells, params: Mapping[str, Any], note: str, *, random_folds: bool = False
    ) -> Iterator[MetricResult]:
        """Yield the mean scores over folds of each classifier, as it is ready, then the means over classifiers.

        `random_folds` states that cells were assigned to folds at random, so that, for very many cells, one k-NN graph
        may serve all folds.
        """
        if folded.cells is not None:
            codes = self._new_column(FOLD, params, tuple(str(i + 1) for i in range(folded.n_folds)))
            codes[folded.cells] = folded.folds
        scope = self._given.checkpoint_scope.keyed(self._settings.task, params)
        graph = FoldGraph(self._engine, folded, self._settings.centre, scope)
        training = [
            self.cells_to_train(folded.x, folded.labels, folded.rows, lambda i=i: np.flatnonzero(folded.folds != i))
            for i in range(folded.n_folds)
        ]
        by_classifier: list[list[Scores]] = []
        for kind in self.kinds:
            begin = time.perf_counter()
            votes = graph if kind == "knn" and random_folds and not self._named_backend and graph.serves else None
            prepare = [partial(self._prepare, kind, folded, cells, i, votes) for i, cells in enumerate(training)]
            tested = self._score_folds(kind, prepare, params)
            self.record_predictions(kind, params, tested)
            by_classifier.append([test.scores for test in tested])
            means = {name: mean_over_folds([scores[name] for scores in by_classifier[-1]]) for name in self._ids}
            yield from self.to_rows(means, {**params, "classifier": kind}, note, MEAN_FOLD, time.perf_counter() - begin)
        yield from self.mean_rows(by_classifier, params, note, MEAN_FOLD)

    def _score_folds(
        self, kind: ClassifierKind, prepare: Sequence[Callable[[], Training]], params: Mapping[str, Any]
    ) -> list[FoldScores]:
        """Score a classifier on each fold; an engine with several workers trains the next folds at the same time."""
        names = [f"fold {i + 1}" for i in range(len(prepare))]
        new = [i for i, name in enumerate(names) if not self._scope.has(name, self._settings.task, kind, params)]
        trainings = zip(new, self._engine.map(prepare[i] for i in new), strict=True)

        def take(i: int) -> Training:
            # a checkpoint that turns out to be damaged is not among the new ones
            return next(training for j, training in trainings if j == i) if i in new else prepare[i]()

        tested: list[FoldScores] = []
        with self._engine.timeline.stage(kind):
            for i, name in enumerate(names):
                tested += self.train_and_score(name, kind, partial(take, i), params)
                self._engine.timeline.advance(len(tested), len(names))
        return tested

    def _prepare(
        self, kind: ClassifierKind, folded: FoldedCells, cells: TrainingCells, i: int, votes: FoldGraph | None
    ) -> Training:
        """Train a classifier and predict the test cells of fold i; on a cluster, both are only started."""
        rows = np.flatnonzero(folded.folds == i)
        tested_cells = None if folded.cells is None else folded.cells[rows]
        test = TestSet(folded.x[folded.rows[rows]], folded.labels.codes[rows], cells=tested_cells)
        if votes is not None:
            return partial(votes.votes, i, test.x, cells), [test]
        try:
            trained = self.train(kind, cells)
            trained.ask(test.x)
        except InputError:  # raised again when the fold has its turn, which then reports it
            return partial(self.train, kind, cells), [test]
        return lambda: trained, [test]

    def record_predictions(self, kind: ClassifierKind, params: Mapping[str, Any], tested: Sequence[FoldScores]) -> None:
        """Store the predictions of a classifier in one column of the cells; existing predictions are kept.

        Codes of classes are those of the task's labels.
        """
        predictions = [test.predictions for test in tested if test.predictions is not None]
        if not predictions:
            return
        given, names = self._given, require(self._given.label).names
        params = _without_test_species({**params, "classifier": kind})
        columns = given.cells.select(embedding=given.name, task=self._settings.task, metric=PREDICTED, **params)
        codes = columns[0].values if columns else self._new_column(PREDICTED, params, names)
        code_of = {name: code for code, name in enumerate(names)}
        for part in predictions:
            codes[part.cells] = np.array([code_of[name] for name in part.names], np.int32)[part.codes]

    def _new_column(self, metric: str, params: Mapping[str, Any], names: tuple[str, ...]) -> NDArray[np.int32]:
        """Add a column of classes for all cells, filled with -1 (no class), and return it."""
        given, codes = self._given, np.full(require(self._given.embedding).n, -1, np.int32)
        column = CellColumn(given.name, self._settings.task, metric, codes, _without_test_species(params), names)
        given.cells.columns.append(column)
        return codes

    def undefined_rows(self, n: int, reason: str, params: Mapping[str, Any], prefix: str) -> Iterator[MetricResult]:
        """Yield undefined rows for all classifiers and their mean, with the reason why nothing could be scored."""
        scores = {name: Score(np.nan, n=n, note=reason) for name in self._ids}
        for classifier in (*self.kinds, self._mean_name):
            yield from self.to_rows(scores, {**params, "classifier": classifier}, "", prefix)

    def mean_rows(
        self, by_classifier: Sequence[Sequence[Scores]], params: Mapping[str, Any], note: str, prefix: str = ""
    ) -> Iterator[MetricResult]:
        """Yield a row for each metric: the mean over classifiers and test sets."""
        means = {
            name: mean_over_classifiers([[scores[name] for scores in tested] for tested in by_classifier])
            for name in self._ids
        }
        yield from self.to_rows(means, {**params, "classifier": self._mean_name}, note, prefix)

    def to_rows(
        self, scores: Scores, params: Mapping[str, Any], note: str, prefix: str = "", seconds: float = 0.0
    ) -> Iterator[MetricResult]:
        """Yield a row for each score; the seconds of the training are divided equally among them."""
        named = {**params, **self._named_backend}
        make = partial(to_row, self._given.name, self._settings.task, seconds=seconds / len(scores), params=named)
        for name, score in scores.items():
            yield replace(make(prefix + name, score), note=joined(score.note, note))


def _without_test_species(params: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in params.items() if name != "test_species"}


def joined(*notes: str) -> str:
    """Join notes, without those that are empty or repeated."""
    return "; ".join(dict.fromkeys(note for note in notes if note))

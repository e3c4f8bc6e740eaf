"""The trainings of a cross-validation: one for each classifier and fold, some begun before it is their turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from gpubench.errors import InputError
from gpubench.tasks._training import Tested, TestSet, Trained

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gpubench.engines.base import ClassifierKind, Engine
    from gpubench.tasks._fold_graph import FoldGraph
    from gpubench.tasks._folds import Folds
    from gpubench.tasks._prediction import Contest
    from gpubench.tasks._training import Predictor, TrainingCells
    from gpubench.types import Array, Labels

Begun = tuple[Trained, TestSet]
"""A classifier that is being trained, and the cells that it was asked about."""


class FoldTrainings:
    """What is trained on all folds but one, and tested on that one.

    An engine that has several trainings at the same time is given those of the next folds early.
    """

    def __init__(
        self,
        contest: Contest,
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
        self._contest, self._engine, self._folds, self._graph = contest, engine, folds, graph
        self._x, self._rows, self._labels, self._cells = cells
        self._training: list[TrainingCells] = [
            contest.cells_to_train(self._x, self._labels, self._rows, lambda i=i: folds[i].train)
            for i in range(len(folds))
        ]

    def tested(self, kind: ClassifierKind, params: Mapping[str, Any]) -> list[Tested]:
        """The scores of a classifier on each fold, or what an earlier run has kept of them."""
        n_folds, contest = len(self._folds), self._contest
        names = [f"fold {i + 1}" for i in range(n_folds)]
        voted = kind == "knn" and self._graph is not None
        early = self._engine.trainings > 1 and not voted
        ahead = _Ahead(
            partial(self._begin, kind),
            [i for i, name in enumerate(names) if early and not contest.keeps(name, kind, params)],
            self._engine.trainings,
        )
        tested: list[Tested] = []
        with self._engine.timeline.stage(kind):
            for i, name in enumerate(names):
                ahead.fill()
                tested += contest.train_and_score(name, kind, partial(self._take, kind, i, ahead), params)
                self._engine.timeline.advance(len(tested), n_folds)
        return tested

    def _begin(self, kind: ClassifierKind, i: int) -> Begun | None:
        """Begin to train, and to test; None where that fails: it is done again in its turn, and told then."""
        try:
            with self._engine.beside(i):
                trained, test = self._contest.train(kind, self._training[i]), self._test_set(i)
                trained.ask(test.x)
        except InputError:
            return None
        return trained, test

    def _take(self, kind: ClassifierKind, i: int, ahead: _Ahead) -> tuple[Callable[[], Predictor], Sequence[TestSet]]:
        begun = ahead.take(i)
        if begun is not None:
            return lambda: begun[0], [begun[1]]
        test = self._test_set(i)
        if kind == "knn" and self._graph is not None:
            return partial(self._graph.voted, i, test.x, self._training[i]), [test]
        return partial(self._contest.train, kind, self._training[i]), [test]

    def _test_set(self, i: int) -> TestSet:
        test = self._folds[i].test
        cells = None if self._cells is None else self._cells[test]
        return TestSet(self._x[self._rows[test]], self._labels.codes[test], cells=cells)


class _Ahead:
    """What is under way of trainings that are asked for in order."""

    def __init__(self, begin: Callable[[int], Begun | None], wanted: Sequence[int], most: int) -> None:
        """Begin nothing yet.

        Parameters
        ----------
        begin : begins training i
        wanted : those that will be asked for, ascending
        most : under way at a time
        """
        self._begin, self._wanted, self._most = begin, deque(wanted), most
        self._begun: dict[int, Begun | None] = {}

    def fill(self) -> None:
        """Begin as many as there is room for."""
        while self._wanted and len(self._begun) < self._most:
            i = self._wanted.popleft()
            self._begun[i] = self._begin(i)

    def take(self, i: int) -> Begun | None:
        """Training i, which is not under way any more; None: it has not begun."""
        return self._begun.pop(i, None)

"""Classifiers on scaled cells, the cells that they are trained on, and records of their predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from gpubench.core.checkpoint import CheckpointEntry, Codec
from gpubench.core.scores import FOLD, PREDICTED, CellColumn, Score, score_from_dict, score_to_dict
from gpubench.core.types import Array, Labels
from gpubench.engines.planner import SCALED_VALUES
from gpubench.tasks._folds import Folds, draw_in_shares
from gpubench.tasks._task import TaskInput, require

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.base import ClassifierKind, Engine


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a classifier said of some cells.

    Attributes
    ----------
    cells : (m,) rows of the embedding
    codes : (m,) the classes that they were given
    names : of the classes
    """

    cells: NDArray[np.int64]
    codes: NDArray[np.int32]
    names: Sequence[str]


def record_folds(
    given: TaskInput, task: str, params: Mapping[str, str], cells: NDArray[np.int64], folds: Folds
) -> None:
    """Store in which fold each of the cells (m,), rows of the embedding, is tested."""
    codes = np.full(require(given.embedding).n, -1, np.int32)
    codes[cells] = folds.codes
    names = tuple(str(i + 1) for i in range(len(folds)))
    given.cells.columns.append(CellColumn(given.name, task, FOLD, codes, _of_training(params), names))


def record_predictions(
    given: TaskInput, task: str, params: Mapping[str, str], predictions: Sequence[Predictions]
) -> None:
    """Write predictions into the column of cells with these parameters; the first ones create it.

    Classes are numbered as in the labels of the task.
    """
    if not predictions:
        return
    label, params = require(given.label), _of_training(params)
    columns = given.cells.select(embedding=given.name, task=task, metric=PREDICTED, **params)
    if columns:
        codes = columns[0].values
    else:
        codes = np.full(require(given.embedding).n, -1, np.int32)
        given.cells.columns.append(CellColumn(given.name, task, PREDICTED, codes, params, label.names))
    code_of = {name: code for code, name in enumerate(label.names)}
    for part in predictions:
        codes[part.cells] = np.array([code_of[name] for name in part.names], np.int32)[part.codes]


def _of_training(params: Mapping[str, str]) -> dict[str, str]:
    """Parameters that tell columns apart: one holds every cell that a classifier, so trained, was tested on."""
    return {name: value for name, value in params.items() if name != "test_species"}


class ColumnScaling:
    """Standard deviations of the columns of some cells, and their means where they are to be subtracted.

    A column that is constant up to rounding is not divided.
    """

    def __init__(self, engine: Engine, x: Array, *, centre: bool) -> None:
        xp = engine.xp
        n, d = x.shape
        step = max(1, SCALED_VALUES // d)
        blocks = [slice(start, start + step) for start in range(0, n, step)]
        mean = sum(x[rows].sum(axis=0, dtype=np.float64) for rows in blocks) / n
        variance = sum(((x[rows] - mean) ** 2).sum(axis=0) for rows in blocks) / n
        # What n float64 additions may leave of a variance of 0.
        eps = np.finfo(np.float64).eps
        constant = variance <= n * eps * variance + (n * mean * eps) ** 2
        self._mean = mean if centre else None
        self._scale = xp.where(constant, 1.0, xp.sqrt(variance))

    def apply(self, x: Array) -> Array:
        """Scale (m, d) float32 cells in place, and return them."""
        if self._mean is not None:
            x -= self._mean
        x /= self._scale
        return x


Scores = dict[str, Score]
"""Metric id -> score, of one classifier on one test set."""


class Predictor(Protocol):
    """A trained classifier with its scaling.

    Attributes
    ----------
    engine : where it is
    names : of all classes
    present : codes of the classes that it was trained on
    note : see `Classifier`, which fails here at the latest where it cannot be trained; and how many cells it was
        trained on where those are not all
    search : how neighbours were searched where not exactly: parameters of the scores, see `search_params`
    has_decision_function : whether it has logits
    """

    engine: Engine
    names: tuple[str, ...]
    present: NDArray[np.int32]
    search: Mapping[str, Any]

    @property
    def note(self) -> str: ...

    @property
    def has_decision_function(self) -> bool: ...

    def predict_proba(self, x: Any) -> Array:
        """(m, L) float64 probabilities for unscaled cells."""

    def decision_function(self, x: Any) -> Array:
        """(m, L) logits for unscaled cells."""


class TrainingCells:
    """Cells to train on, which stay as they are.

    Attributes
    ----------
    engine : where they are
    labels : of the cells from which they are chosen
    """

    def __init__(
        self,
        engine: Engine,
        x: Array,
        labels: Labels,
        rows: NDArray[np.int64] | None = None,
        which: Callable[[], NDArray[np.int64]] | None = None,
        *,
        centre: bool | None,
    ) -> None:
        """Name the cells.

        Parameters
        ----------
        x : (n, d)
        labels : (m,) of cells of x
        rows : (m,) which cells these are; None: all
        which : lists those of the m to train on, ascending, when it is needed; None: all
        centre : as in `ColumnScaling`; None: nothing is scaled
        """
        self.engine, self.labels = engine, labels
        self._x, self._rows, self._which, self._centre = x, rows, which, centre
        self._scaling: ColumnScaling | None = None  # of all of them, once a classifier has asked for it

    def chosen(self) -> NDArray[np.int64]:
        """Positions of the cells to train on, among those with labels."""
        return np.arange(len(self.labels)) if self._which is None else self._which()

    def ready(self, chosen: NDArray[np.int64], most: int, *, scaled: bool) -> tuple[Array, NDArray[np.int32], Any]:
        """Copy the chosen cells for a classifier, or `most` of them in the shares of the classes; scale the copy.

        Returns
        -------
        The cells, their codes, and their scaling or None.
        """
        fewer = len(chosen) > most
        if fewer:
            chosen = chosen[draw_in_shares(self.labels.codes[chosen], most, self.engine.seed)]
        cells = self._x[chosen if self._rows is None else self._rows[chosen]]
        scaling = None
        if scaled and self._centre is not None:
            # a part of what is trained, so of the same cells
            scaling = ColumnScaling(self.engine, cells, centre=self._centre) if fewer else self._scaling_of_all(cells)
            scaling.apply(cells)
        return cells, self.labels.codes[chosen], scaling

    def _scaling_of_all(self, cells: Array) -> ColumnScaling:
        if self._scaling is None:
            self._scaling = ColumnScaling(self.engine, cells, centre=bool(self._centre))
        return self._scaling


class ScaledClassifier:
    """A classifier and the scaling of its input; see `Predictor`."""

    search: Mapping[str, Any] = MappingProxyType({})

    def __init__(
        self, engine: Engine, kind: ClassifierKind, cells: TrainingCells, params: Mapping[str, Any], *, scaled: bool
    ) -> None:
        """Train with the parameters of `Engine.classifier`, on scaled cells or as they are."""
        self.engine = engine
        self.names = cells.labels.names
        chosen = cells.chosen()
        n = len(chosen)
        x, codes, self._scaling = cells.ready(chosen, engine.policy.max_training_cells(kind, n), scaled=scaled)
        self.present = np.unique(codes)
        self._classifier = engine.classifier(kind, **params).fit(x, codes, cells.labels.n_classes)
        self._drawn = f"trained on {len(codes):,} of {n:,} cells; exact=True trains on all" if len(codes) < n else ""
        self._asked: tuple[Any, Array] | None = None

    @property
    def note(self) -> str:
        """See `Predictor`."""
        return ", ".join(filter(None, (self._classifier.note, self._drawn)))

    def ask(self, x: Any) -> None:
        """Begin to answer for unscaled cells, which `predict_proba` is to be asked about."""
        self._asked = x, self.predict_proba(x)

    @property
    def has_decision_function(self) -> bool:
        """Whether the classifier has logits."""
        return hasattr(self._classifier, "decision_function")

    def predict_proba(self, x: Any) -> Array:
        """(m, L) float64 probabilities for unscaled cells."""
        if self._asked is not None and self._asked[0] is x:
            return self._asked[1]
        return self._classifier.predict_proba(self._scaled(x))

    def decision_function(self, x: Any) -> Array:
        """(m, L) logits for unscaled cells."""
        return cast("Any", self._classifier).decision_function(self._scaled(x))

    def _scaled(self, x: Any) -> Array:
        xp = self.engine.xp
        if self._scaling is None:
            return xp.ascontiguousarray(x, dtype=np.float32)
        return self._scaling.apply(xp.array(x, dtype=np.float32, order="C"))


class GraphVotes:
    """The votes for the cells of one fold, which are known; see `Predictor`."""

    has_decision_function = False

    def __init__(self, cells: TrainingCells, tested: Array, proba: Array, search: Mapping[str, Any]) -> None:
        """Know the probabilities of the unscaled cells `tested`, who were voted for by some training cells."""
        self.engine, self.names, self.search = cells.engine, cells.labels.names, search
        found = f"{search['knn']}, recall {search['recall']:.3f}"
        self.note = f"neighbours from one graph of all cells, scaled together ({found}); exact=True searches each fold"
        self.present = np.unique(cells.labels.codes[cells.chosen()])
        self._tested, self._proba = tested, proba

    def predict_proba(self, x: Any) -> Array:
        """(m, L) float64 probabilities of the tested cells (ValueError for any others)."""
        if x is not self._tested:
            raise ValueError("only the votes for the tested cells are known")
        return self._proba

    def decision_function(self, x: Any) -> Array:  # noqa: ARG002 - of no cells
        """Refuse: votes have no logits (ValueError), see `has_decision_function`."""
        raise ValueError("votes have no logits")


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
class FoldScores:
    """The scores on a test set, and the predictions behind them where its cells are cells of the embedding."""

    scores: Scores
    predictions: Predictions | None = None


def _pack(tested: list[FoldScores]) -> CheckpointEntry:
    arrays: dict[str, NDArray[Any]] = {}
    for i, predictions in enumerate(test.predictions for test in tested):
        if predictions is not None:
            arrays |= {f"cells_{i}": predictions.cells, f"codes_{i}": predictions.codes}
    value = [
        {
            "scores": {name: score_to_dict(score) for name, score in test.scores.items()},
            "names": None if test.predictions is None else test.predictions.names,
        }
        for test in tested
    ]
    return CheckpointEntry(value, arrays)


def _unpack(entry: CheckpointEntry) -> list[FoldScores]:
    tested = []
    for i, test in enumerate(entry.value):
        scores = {name: score_from_dict(score) for name, score in test["scores"].items()}
        predictions = None
        if test["names"] is not None:
            predictions = Predictions(entry.arrays[f"cells_{i}"], entry.arrays[f"codes_{i}"], test["names"])
        tested.append(FoldScores(scores, predictions))
    return tested


FOLD_SCORES: Codec[list[FoldScores]] = Codec(_pack, _unpack)

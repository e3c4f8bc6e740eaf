"""Classifiers on scaled cells, the cells that they are trained on, and records of their predictions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from gpubench.core.checkpoint import CheckpointEntry, Codec
from gpubench.core.scores import Score, score_from_dict, score_to_dict
from gpubench.core.types import Array, Labels
from gpubench.engines.planner import SCALED_VALUES
from gpubench.tasks._folds import draw_in_shares

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.base import Backend, ClassifierKind, Engine


@dataclass(frozen=True, slots=True)
class Predictions:
    """Classes that a classifier predicted for some cells."""

    cells: NDArray[np.int64]  # (m,) rows of the embedding
    codes: NDArray[np.int32]  # (m,) their predicted classes
    names: Sequence[str]  # of the classes


class ColumnScaling:
    """Scaling of columns by the standard deviations of the given cells, after subtracting means if `centre`.

    Columns that are constant up to rounding are not divided.
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


class Predictor(ABC):
    """A trained classifier that predicts unscaled cells."""

    engine: Engine
    names: tuple[str, ...]  # of all classes
    present: NDArray[np.int32]  # codes of the classes that it was trained on
    search: Mapping[str, Any] = MappingProxyType({})  # method and recall of the search if not exact, for the scores
    has_decision_function = False  # whether it has logits

    @property
    @abstractmethod
    def note(self) -> str:
        """Note for readers of the scores; raises InputError if training failed, see `Classifier.note`."""

    @abstractmethod
    def predict_proba(self, x: Any) -> Array:
        """Return (m, L) float64 class probabilities of m unscaled cells."""

    def decision_function(self, x: Any) -> Array:
        """Return (m, L) logits of m unscaled cells; raises ValueError if `has_decision_function` is False."""
        raise ValueError(f"this classifier has no logits of the {len(x):,} cells")


@dataclass
class TrainingCells:
    """Cells to train classifiers on, which are copied before they are scaled."""

    engine: Engine
    x: Array  # (n, d)
    labels: Labels  # of m cells of x
    rows: NDArray[np.int64] | None = None  # (m,) rows of the labelled cells in x; if None, all
    which: Callable[[], NDArray[np.int64]] | None = None  # returns which of the m to train on; if None, all
    centre: bool | None = field(kw_only=True)  # as in `ColumnScaling`; if None, nothing is scaled
    _scaling: ColumnScaling | None = None  # of all of them, shared by the classifiers

    def chosen(self) -> NDArray[np.int64]:
        """Return the positions of the cells to train on, among the m cells with labels."""
        return np.arange(len(self.labels)) if self.which is None else self.which()

    def copy(
        self, chosen: NDArray[np.int64], most: int, *, scaled: bool
    ) -> tuple[Array, NDArray[np.int32], ColumnScaling | None]:
        """Copy the chosen cells, or a stratified sample of `most` of them, and scale the copy.

        Returns the cells, the codes of their classes, and the scaling, which is None if they are not scaled.
        """
        fewer = len(chosen) > most
        if fewer:
            chosen = chosen[draw_in_shares(self.labels.codes[chosen], most, self.engine.seed)]
        cells = self.x[chosen if self.rows is None else self.rows[chosen]]
        scaling = None
        if scaled and self.centre is not None:
            scaling = (None if fewer else self._scaling) or ColumnScaling(self.engine, cells, centre=self.centre)
            if not fewer:
                self._scaling = scaling
            scaling.apply(cells)
        return cells, self.labels.codes[chosen], scaling


class ScaledClassifier(Predictor):
    """A classifier of the engine, with the scaling of its input."""

    def __init__(
        self,
        engine: Engine,
        kind: ClassifierKind,
        cells: TrainingCells,
        params: Mapping[str, Any],
        *,
        scaled: bool,
        backend: Backend = "gpubench",
    ) -> None:
        """Train a classifier, on scaled cells if `scaled`; `params` are those of `Engine.classifier`."""
        self.engine, self.names = engine, cells.labels.names
        chosen = cells.chosen()
        n = len(chosen)
        x, codes, self._scaling = cells.copy(chosen, engine.policy.max_training_cells(kind, n), scaled=scaled)
        self.present = np.unique(codes)
        make = engine.classifier if backend == "gpubench" else partial(engine.library_classifier, backend=backend)
        self._classifier = make(kind, **params).fit(x, codes, cells.labels.n_classes)
        self.has_decision_function = hasattr(self._classifier, "decision_function")
        self._drawn = f"trained on {len(codes):,} of {n:,} cells; exact=True trains on all" if len(codes) < n else ""
        self._asked: tuple[Any, Array] | None = None

    @property
    def note(self) -> str:
        """See `Predictor`."""
        return ", ".join(filter(None, (self._classifier.note, self._drawn)))

    def ask(self, x: Any) -> None:
        """Start to predict the unscaled cells `x`; a later `predict_proba(x)` returns the result."""
        self._asked = x, self._classifier.predict_proba(self._scaled(x))

    def predict_proba(self, x: Any) -> Array:
        """See `Predictor`."""
        is_asked = self._asked is not None and self._asked[0] is x
        proba = self._asked[1] if is_asked else self._classifier.predict_proba(self._scaled(x))  # type: ignore[index]
        return self.engine.xp.asarray(proba)  # fetches the answer of a worker

    def decision_function(self, x: Any) -> Array:
        """See `Predictor`."""
        return self.engine.xp.asarray(cast("Any", self._classifier).decision_function(self._scaled(x)))

    def _scaled(self, x: Any) -> Array:
        is_on_device = hasattr(x, "dtype") and not isinstance(x, np.ndarray)  # also where those are several
        cells = x if is_on_device else self.engine.xp.asarray(x)
        if self._scaling is None:
            return cells.astype(np.float32, order="C", copy=False)
        return self._scaling.apply(cells.astype(np.float32, order="C", copy=True))


class GraphVotes(Predictor):
    """k-NN classifier of one fold, whose votes come from one graph of all cells."""

    note = ""

    def __init__(self, cells: TrainingCells, tested: Array, proba: Array, search: Mapping[str, Any]) -> None:
        """Store the class probabilities `proba` of the unscaled test cells `tested`, the shares of votes."""
        self.engine, self.names, self.search = cells.engine, cells.labels.names, search
        method = f"{search['knn']}, recall {search['recall']:.3f}"
        self.note = f"neighbours from one graph of all cells, scaled together ({method}); exact=True searches each fold"
        self.present = np.unique(cells.labels.codes[cells.chosen()])
        self._tested, self._proba = tested, proba

    def predict_proba(self, x: Any) -> Array:
        """Return (m, L) float64 class probabilities of the test cells; raises ValueError for any others."""
        if x is not self._tested:
            raise ValueError("only the votes for the tested cells are known")
        return self._proba


@dataclass(frozen=True, slots=True)
class TestSet:
    """Cells to test a classifier on."""

    x: Array  # (m, d) float32
    codes: NDArray[np.int32]  # (m,) their classes
    scored: Sequence[int] | None = None  # classes to average over; if None, all
    undefined: str = ""  # why nothing can be scored, or empty
    cells: NDArray[np.int64] | None = None  # (m,) rows of the embedding; None where samples of merged cells are tested


@dataclass(frozen=True, slots=True)
class FoldScores:
    """Scores on a test set, and the predictions if the test cells are cells of the embedding."""

    scores: Scores
    predictions: Predictions | None = None


def _pack(tested: list[FoldScores]) -> CheckpointEntry:
    value: list[dict[str, Any]] = []
    arrays: dict[str, NDArray[Any]] = {}
    for i, test in enumerate(tested):
        scores = {name: score_to_dict(score) for name, score in test.scores.items()}
        value.append({"scores": scores, "names": None})
        if test.predictions is not None:
            value[-1]["names"] = test.predictions.names
            arrays |= {f"cells_{i}": test.predictions.cells, f"codes_{i}": test.predictions.codes}
    return CheckpointEntry(value, arrays)


def _unpack(entry: CheckpointEntry) -> list[FoldScores]:
    tested = []
    for i, test in enumerate(entry.value):
        scores = {name: score_from_dict(score) for name, score in test["scores"].items()}
        arrays, names = entry.arrays, test["names"]
        predictions = None if names is None else Predictions(arrays[f"cells_{i}"], arrays[f"codes_{i}"], names)
        tested.append(FoldScores(scores, predictions))
    return tested


FOLD_SCORES: Codec[list[FoldScores]] = Codec(_pack, _unpack)

"""The user's own scorers: functions of labels, scikit-learn scorers, or names of scikit-learn scorers.

Scorers get labels as integer codes, in the order of their names, as in cz-benchmarks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import accuracy_score, get_scorer, get_scorer_names, make_scorer
from sklearn.utils.metaestimators import available_if

from gpubench.core.errors import InputError, close_matches
from gpubench.core.scores import Score

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.tasks._classifiers import Predictor

Scorer = Callable[["FittedClassifier", "NDArray[np.float32]", "NDArray[np.int32]"], float]
_SKLEARN_SCORER = type(make_scorer(accuracy_score))


class FittedClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Wrapper of a trained classifier, as an estimator for scikit-learn scorers."""

    def __init__(self, trained: Predictor, cells: NDArray[np.float32], proba: NDArray[np.float64]) -> None:
        """Store the probabilities of the test cells, which all scorers ask for."""
        self.trained = trained
        self.classes_ = trained.present  # codes that the classifier was trained on
        self._asked = cells, proba

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return (m, len(classes_)) class probabilities."""
        if self._asked[0] is not X:
            self._asked = X, self.trained.engine.to_host(self.trained.predict_proba(X))
        return self._asked[1][:, self.classes_]

    def predict(self, X: Any) -> NDArray[np.int32]:
        """Return (m,) codes of the predicted classes."""
        return np.asarray(self.classes_[self.predict_proba(X).argmax(axis=1)])

    @available_if(lambda self: self.trained.has_decision_function)  # type: ignore[untyped-decorator]
    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Return (m, len(classes_)) logits; with two classes, (m,) logits of the second one."""
        logits = self.trained.engine.to_host(self.trained.decision_function(X))[:, self.classes_]
        return np.asarray(logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits)


def parse_scorers(names: Sequence[str]) -> dict[str, Any] | None:
    """Look up scikit-learn scorers by name; returns None if `names` is empty, raises InputError for an unknown name."""
    return {
        name: _look_up(name, f"scorers={name!r} is not a scorer of scikit-learn", "; use one that is") for name in names
    } or None


def make_scorers(scorers: Mapping[str, Any], taken: tuple[str, ...]) -> dict[str, Scorer]:
    """Convert functions of (y_true, y_pred), scorers and names of scorers to scikit-learn scorers.

    Raises InputError for a name that is in `taken`.
    """
    for name in scorers:
        if name in taken:
            raise InputError(
                f"scorers: {name!r} is a metric of this task already; choose another name", argument="scorers"
            )
    return {name: _make_scorer(name, scorer) for name, scorer in scorers.items()}


def _make_scorer(name: str, scorer: Any) -> Scorer:
    if isinstance(scorer, str):
        scorer = _look_up(scorer, f"scorers: scikit-learn has no {scorer!r}")
    if not callable(scorer):
        raise InputError(
            f"scorers: {name!r} is a {type(scorer).__name__}; give a function of (y_true, y_pred), a scorer",
            argument="scorers",
        )
    if isinstance(scorer, _SKLEARN_SCORER):
        return cast("Scorer", scorer)
    return lambda estimator, X, y: scorer(y, estimator.predict(X))


def _look_up(name: str, fault: str, remedy: str = "") -> Any:
    known = get_scorer_names()
    if name not in known:
        raise InputError(f"{fault}{close_matches(name, known)}{remedy}", argument="scorers")
    return get_scorer(name)


def apply_scorers(
    scorers: Mapping[str, Scorer],
    trained: Predictor,
    cells: NDArray[np.float32],
    proba: NDArray[np.float64],
    codes: NDArray[np.int32],
) -> dict[str, Score]:
    """Apply each scorer to the test cells (m, d); if a scorer fails, its score is NaN with the reason as note."""
    estimator = FittedClassifier(trained, cells, proba)
    scores = {}
    for name, scorer in scorers.items():
        try:
            value = float(scorer(estimator, cells, codes))
        # Someone else's code, which may raise anything: it must not cost the user the numbers that are not its own.
        except Exception as error:  # noqa: BLE001
            value, note = np.nan, f"the scorer failed: {type(error).__name__}: {error}"
        else:
            note = "the scorer returned NaN" if np.isnan(value) else ""
        scores[name] = Score(value, n=len(codes), note=note)
    return scores

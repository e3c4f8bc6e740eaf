"""The user's own scorers: plain functions of labels, scikit-learn's scorers, or their names.

Labels are handed over as integer codes, in the order of their names, as cz-benchmarks does.
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


def parse_scorers(names: Sequence[str]) -> dict[str, Any] | None:
    """Look scikit-learn scorers up by name; None where no name is given.

    Raises
    ------
    InputError
        No such scorer (with close matches).
    """
    if not names:
        return None
    from sklearn.metrics import get_scorer, get_scorer_names

    known = get_scorer_names()
    for name in names:
        if name not in known:
            raise InputError(
                f"scorers: {name!r} is not a scorer of scikit-learn{close_matches(name, known)}; use one that is",
                argument="scorers",
            )
    return {name: get_scorer(name) for name in names}


Scorer = Callable[["FittedClassifier", "NDArray[np.float32]", "NDArray[np.int32]"], float]
_MADE_BY_SKLEARN = type(make_scorer(accuracy_score))


class FittedClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A trained classifier and its scaling, as an estimator that scikit-learn's scorers can ask.

    Attributes
    ----------
    classes_ : codes that the classifier was trained on
    """

    def __init__(self, trained: Predictor) -> None:
        self.trained = trained
        self.classes_ = trained.present
        self._asked: tuple[Any, NDArray[np.float64]] | None = None

    def remember(self, X: NDArray[np.float32], proba: NDArray[np.float64]) -> None:
        """Know the answer for these very cells: all scorers ask about the same."""
        self._asked = X, proba

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """(m, L) probabilities of `classes_`."""
        if self._asked is None or self._asked[0] is not X:
            self.remember(X, self.trained.engine.to_host(self.trained.predict_proba(X)))
        assert self._asked is not None
        return self._asked[1][:, self.classes_]

    def predict(self, X: Any) -> NDArray[np.int32]:
        """(m,) codes."""
        return np.asarray(self.classes_[self.predict_proba(X).argmax(axis=1)])

    @available_if(lambda self: self.trained.has_decision_function)  # type: ignore[untyped-decorator]
    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """(m, L) logits of `classes_`; of two classes (m,), in favour of the second."""
        logits = self.trained.engine.to_host(self.trained.decision_function(X))[:, self.classes_]
        return np.asarray(logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits)


def make_scorers(scorers: Mapping[str, Any], taken: tuple[str, ...]) -> dict[str, Scorer]:
    """Bring the user's scorers to scikit-learn's form.

    Parameters
    ----------
    scorers : name -> function of (y_true, y_pred), scikit-learn scorer, or name of one
    taken : names that are metrics already

    Raises
    ------
    InputError
        A name that is taken, a name that scikit-learn does not know, or something that cannot be called.
    """
    for name in scorers:
        if name in taken:
            raise InputError(
                f"scorers: {name!r} is a metric of this task already; choose another name", argument="scorers"
            )
    return {name: _make_scorer(name, scorer) for name, scorer in scorers.items()}


def _make_scorer(name: str, scorer: Any) -> Scorer:
    if isinstance(scorer, str):
        if scorer not in get_scorer_names():
            raise InputError(
                f"scorers: scikit-learn has no {scorer!r}{close_matches(scorer, get_scorer_names())}",
                argument="scorers",
            )
        scorer = get_scorer(scorer)
    if not callable(scorer):
        raise InputError(
            f"scorers: {name!r} is a {type(scorer).__name__}; give a function of (y_true, y_pred), a scorer",
            argument="scorers",
        )
    if isinstance(scorer, _MADE_BY_SKLEARN):
        return cast("Scorer", scorer)
    return lambda estimator, X, y: scorer(y, estimator.predict(X))


def apply_scorer(
    scorer: Scorer, estimator: FittedClassifier, x: NDArray[np.float32], codes: NDArray[np.int32]
) -> Score:
    """Score the test cells; NaN with the reason where the user's function fails."""
    try:
        value = float(scorer(estimator, x, codes))
    # Someone else's code, which may raise anything: it must not cost the user the numbers that are not its own.
    except Exception as error:  # noqa: BLE001
        return Score(np.nan, n=len(codes), note=f"the scorer failed: {type(error).__name__}: {error}")
    return Score(value, n=len(codes), note="the scorer returned NaN" if np.isnan(value) else "")

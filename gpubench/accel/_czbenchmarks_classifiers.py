"""czbenchmarks' classifiers: a scikit-learn pipeline whose scaling and training run on gpubench.

It replaces the name `Pipeline` in two modules of czbenchmarks; its folds, scorers and errors are unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_array

from gpubench.accel._inputs import matrix_reason
from gpubench.accel.calls import Start, dispatcher
from gpubench.core.types import Labels
from gpubench.engines.base import ClassifierKind
from gpubench.tasks._classifiers import ScaledClassifier, TrainingCells

_KINDS: dict[type, tuple[ClassifierKind, tuple[str, ...]]] = {
    LogisticRegression: ("lr", ("max_iter", "C")),
    KNeighborsClassifier: ("knn", ("n_neighbors",)),
    RandomForestClassifier: ("rf", ("n_estimators",)),
}
"""Classifier -> its name on the engine, and the parameters that both have."""


@dataclass(frozen=True, slots=True)
class _TrainingRequest:
    """Training that a pipeline requests from the engine.

    Attributes
    ----------
    kind, params, seed : of the classifier
    centre : whether scaling subtracts the mean; None for no scaling
    """

    kind: ClassifierKind
    params: dict[str, Any]
    seed: int
    centre: bool | None


class AcceleratedPipeline(Pipeline):  # type: ignore[misc]
    """A pipeline trained by gpubench where it is an optional scaling and one of three classifiers."""

    _trained: ScaledClassifier | None = None

    def fit(self, X: Any, y: Any = None, **params: Any) -> AcceleratedPipeline:
        """Train on (n, d) cells X with n classes y; see `sklearn.pipeline.Pipeline.fit`."""
        self._trained = None
        request, reason = _read_steps(self.steps)
        name = f"czbenchmarks classifier {request.kind if request else type(self.steps[-1][1]).__name__}"
        trained, ours = dispatcher.run(
            name,
            lambda: reason or matrix_reason(X) or ("parameters of fit" if params else None),
            lambda start: _train(start, request, X, y),
            lambda: super(AcceleratedPipeline, self).fit(X, y, **params),
        )
        if ours:
            self._name = name
            self._trained, self._classes = trained
            self._predicted: tuple[Any, Any] | None = None
        return self

    @property
    def classes_(self) -> Any:
        """The classes that it was trained on."""
        return super().classes_ if self._trained is None else self._classes

    def predict_proba(self, X: Any, **params: Any) -> Any:
        """Return (m, L) probabilities of `classes_`."""
        if self._trained is None:
            return super().predict_proba(X, **params)
        # every scorer predicts the same cells
        if self._predicted is None or self._predicted[0] is not X:
            with dispatcher.add_time(self._name):
                engine = self._trained.engine
                self._predicted = X, engine.to_host(self._trained.predict_proba(engine.xp.asarray(check_array(X))))
        return self._predicted[1]

    def predict(self, X: Any, **params: Any) -> Any:
        """Return (m,) classes."""
        if self._trained is None:
            return super().predict(X, **params)
        return self._classes[self.predict_proba(X).argmax(axis=1)]


def _read_steps(steps: list[tuple[str, Any]]) -> tuple[_TrainingRequest | None, str | None]:
    """Return the training to do, or why the engine cannot do it."""
    *before, (_, classifier) = steps
    kind, known = _KINDS.get(type(classifier), (None, ()))
    if kind is None:
        return None, f"the classifier {type(classifier).__name__}; gpubench has {', '.join(c.__name__ for c in _KINDS)}"
    params = classifier.get_params()
    other = _differing(params, type(classifier)().get_params(), (*known, "random_state", "n_jobs"))
    if other:
        return None, f"{kind} with {other}"
    seed = params.get("random_state")
    if kind == "rf" and not isinstance(seed, int):
        return None, f"a random forest with random_state={seed!r}; gpubench needs a number"
    if len(before) > 1 or any(type(step) is not StandardScaler for _, step in before):
        return None, f"the steps {', '.join(name for name, _ in before)} before the classifier"
    scaler = before[0][1].get_params() if before else None
    if scaler and (other := _differing(scaler, StandardScaler().get_params(), ("with_mean", "copy"))):
        return None, f"scaling with {other}"
    seed = seed if isinstance(seed, int) else 42  # the others draw nothing
    return _TrainingRequest(
        kind, {name: params[name] for name in known}, seed, bool(scaler["with_mean"]) if scaler else None
    ), None


def _differing(params: dict[str, Any], defaults: dict[str, Any], known: tuple[str, ...]) -> str:
    return ", ".join(
        f"{name}={value!r}" for name, value in params.items() if name not in known and value != defaults[name]
    )


def _train(start: Start, request: _TrainingRequest | None, X: Any, y: Any) -> tuple[ScaledClassifier, Any]:
    assert request is not None
    engine = start(seed=request.seed)
    classes, codes = np.unique(np.asarray(y), return_inverse=True)
    x = engine.put(np.asarray(X, np.float32, order="C"))
    labels = Labels(codes.astype(np.int32), tuple(map(str, classes)), "y")
    cells = TrainingCells(engine, x, labels, centre=request.centre)
    return ScaledClassifier(engine, request.kind, cells, request.params, scaled=request.centre is not None), classes

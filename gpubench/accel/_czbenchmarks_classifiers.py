"""A scikit-learn pipeline that scales and trains czbenchmarks' classifiers on gpubench.

The class takes the place of `Pipeline` in two modules of czbenchmarks, whose folds, scorers and errors stay the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_array

from gpubench.accel.calls import NotCovered, Start, check_matrix, dispatcher
from gpubench.core.types import Labels
from gpubench.engines.base import ClassifierKind
from gpubench.tasks._classifiers import ScaledClassifier, TrainingCells

_KINDS: dict[type, tuple[ClassifierKind, tuple[str, ...]]] = {
    LogisticRegression: ("lr", ("max_iter", "C")),
    KNeighborsClassifier: ("knn", ("n_neighbors",)),
    RandomForestClassifier: ("rf", ("n_estimators",)),
}
"""Class of scikit-learn -> name of the classifier on the engine, and the parameters that both have."""


class AcceleratedPipeline(Pipeline):  # type: ignore[misc]
    """scikit-learn pipeline that gpubench trains, if its steps are optional scaling and a classifier gpubench has.

    The classifiers are logistic regression, k nearest neighbours and random forest. scikit-learn trains a pipeline with
    any other step.
    """

    _trained: ScaledClassifier | None = None

    def fit(self, X: Any, y: Any = None, **params: Any) -> AcceleratedPipeline:
        """Train on the (n, d) embedding X of n cells and their (n,) classes y; see `sklearn.pipeline.Pipeline.fit`."""
        self._trained = None
        classifier = type(self.steps[-1][1])
        name = f"czbenchmarks classifier {_KINDS[classifier][0] if classifier in _KINDS else classifier.__name__}"
        trained, ours = dispatcher.run(
            name,
            lambda start: _train(start, self.steps, X, y, params),
            lambda: super(AcceleratedPipeline, self).fit(X, y, **params),
        )
        if ours:
            self._name = name
            self._trained, self._classes = trained
            self._predicted: tuple[Any, Any] | None = None
        return self

    @property
    def classes_(self) -> Any:
        """(L,) sorted distinct classes of the training cells."""
        return super().classes_ if self._trained is None else self._classes

    def predict_proba(self, X: Any, **params: Any) -> Any:
        """Return the (m, L) probabilities of the classes, in the order of `classes_`, for m cells."""
        if self._trained is None:
            return super().predict_proba(X, **params)
        # every scorer predicts the same cells
        if self._predicted is None or self._predicted[0] is not X:
            with dispatcher.add_time(self._name):
                engine = self._trained.engine
                self._predicted = X, engine.to_host(self._trained.predict_proba(engine.xp.asarray(check_array(X))))
        return self._predicted[1]

    def predict(self, X: Any, **params: Any) -> Any:
        """Return the (m,) most probable classes of m cells."""
        if self._trained is None:
            return super().predict(X, **params)
        return self._classes[self.predict_proba(X).argmax(axis=1)]


def _train(
    start: Start, steps: list[tuple[str, Any]], X: Any, y: Any, fit_params: dict[str, Any]
) -> tuple[ScaledClassifier, Any]:
    """Return the trained classifier and its sorted classes; raise `NotCovered` if the engine cannot do the steps."""
    *before, (_, classifier) = steps
    if type(classifier) not in _KINDS:
        known_names = ", ".join(kind.__name__ for kind in _KINDS)
        raise NotCovered(f"the classifier {type(classifier).__name__}; gpubench has {known_names}")
    kind, known = _KINDS[type(classifier)]
    params = _check_params(classifier, (*known, "random_state", "n_jobs"), kind)
    seed = params.get("random_state")
    if kind == "rf" and not isinstance(seed, int):
        raise NotCovered(f"a random forest with random_state={seed!r}; gpubench needs a number")
    if len(before) > 1 or any(type(step) is not StandardScaler for _, step in before):
        raise NotCovered(f"the steps {', '.join(name for name, _ in before)} before the classifier")
    scaling = _check_params(before[0][1], ("with_mean", "copy"), "scaling") if before else None
    check_matrix(X)
    if fit_params:
        raise NotCovered("parameters of fit")
    engine = start(seed=seed if isinstance(seed, int) else 42)  # the others draw nothing
    classes, codes = np.unique(np.asarray(y), return_inverse=True)
    x = engine.put(np.asarray(X, np.float32, order="C"))
    labels = Labels(codes.astype(np.int32), tuple(map(str, classes)), "y")
    cells = TrainingCells(engine, x, labels, centre=None if scaling is None else bool(scaling["with_mean"]))
    chosen = {name: params[name] for name in known}
    return ScaledClassifier(engine, kind, cells, chosen, scaled=scaling is not None), classes


def _check_params(step: Any, known: tuple[str, ...], what: str) -> dict[str, Any]:
    """Return the parameters of a step; raise `NotCovered` if one that is not in `known` differs from its default."""
    params, defaults = step.get_params(), type(step)().get_params()
    other = [f"{name}={value!r}" for name, value in params.items() if name not in known and value != defaults[name]]
    if other:
        raise NotCovered(f"{what} with {', '.join(other)}")
    return dict(params)

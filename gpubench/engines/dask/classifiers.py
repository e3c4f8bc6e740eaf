"""Classifiers on a cluster: each is trained by one worker, and asked by the one that has it; several at a time."""

from __future__ import annotations

from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.timeline import Timeline
from gpubench.engines.base import Engine
from gpubench.engines.cpu.engine import CpuEngine
from gpubench.engines.cuda.device import Device
from gpubench.engines.dask import gpu_worker
from gpubench.engines.dask.array import ClusterArray

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from gpubench.engines.dask.cluster import Cluster
    from gpubench.engines.dask.worker import Recipe


class ClusterClassifier:
    """A classifier on a worker; see `Classifier`."""

    def __init__(self, cluster: Cluster, recipe: Recipe, kind: str, params: Mapping[str, Any]) -> None:
        self._cluster = cluster
        self._making = recipe, kind, dict(params)
        self._fitted: Any = None
        self._note: str | None = None

    def fit(self, x: Any, codes: NDArray[np.int32], n_classes: int) -> ClusterClassifier:
        """Begin to train; see `Classifier.fit`."""
        self._fitted = self._cluster.submit("fit", fitted, *self._making, x, codes, n_classes)
        self._note = None
        return self

    @property
    def note(self) -> str:
        """See `Classifier`."""
        if self._fitted is None:
            return ""
        if self._note is None:
            self._cluster.wait([self._fitted])
            self._note = str(self._cluster.fetch(self._cluster.submit("note", getattr, self._fitted, "note")))
        return self._note

    def predict_proba(self, x: Any) -> Any:
        """Begin to answer; see `Classifier.predict_proba`."""
        return self._asked("predict_proba", x)

    def _asked(self, method: str, x: Any) -> ClusterArray:
        return ClusterArray(self._cluster, self._cluster.submit(method, ask, self._fitted, method, x))


class LinearClusterClassifier(ClusterClassifier):
    """One that has logits."""

    def decision_function(self, x: Any) -> Any:
        """(m, n_classes) logits."""
        return self._asked("decision_function", x)


class Fitted:
    """A trained classifier, which can move to another worker: what it learnt goes, and its engine is made there."""

    def __init__(self, recipe: Recipe, kind: Any, params: dict[str, Any]) -> None:
        self._making = recipe, kind, params
        self.engine: Any = recipe.start() if recipe.engine == "cpu" else gpu_worker.engine_of(recipe)
        self.classifier: Any = self.engine.classifier(kind, **params)

    @property
    def note(self) -> str:
        """See `Classifier`."""
        return str(self.classifier.note)

    def __getstate__(self) -> Any:
        of_the_worker = (ModuleType, Timeline, Engine, Device)
        learnt = {name: value for name, value in vars(self.classifier).items() if not isinstance(value, of_the_worker)}
        return self._making, learnt

    def __setstate__(self, state: Any) -> None:
        making, learnt = state
        Fitted.__init__(self, *making)
        vars(self.classifier).update(learnt)


def fitted(
    recipe: Recipe, kind: Any, params: dict[str, Any], x: NDArray[np.float32], codes: NDArray[np.int32], n_classes: int
) -> Fitted:
    """Train a classifier."""
    trained = Fitted(recipe, kind, params)
    with _using(trained, x) as cells:
        trained.classifier.fit(cells, np.asarray(codes), n_classes)
    return trained


def ask(trained: Fitted, method: str, x: NDArray[np.float32]) -> Any:
    """Ask a classifier about cells."""
    with _using(trained, x) as cells:
        answer = getattr(trained.classifier, method)(cells)
        return answer if isinstance(answer, np.ndarray) else trained.engine.to_host(answer)


@contextmanager
def _using(trained: Fitted, x: Any) -> Iterator[Any]:
    """Cells where the classifier's engine has them."""
    cells = np.ascontiguousarray(x) if isinstance(x, np.ndarray) else x
    if isinstance(trained.engine, CpuEngine):
        yield cells
    else:
        with gpu_worker.one_at_a_time:
            yield gpu_worker.on_device(trained.engine, cells)
